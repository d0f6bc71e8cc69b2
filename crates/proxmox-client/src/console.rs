//! Consoles of guests: the ticket, and where a websocket is opened with it. Nothing here connects.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::catalog::{Both, Call, Calls, Data, Verb, flag, json};
use crate::client::Client;
use crate::value::ids::{GuestKind, Vmid};
use crate::value::lenient;
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

static VNC: Both<ConsoleTicket> = Both {
    qemu: Call::new("qemu vncproxy", Verb::Post, "/nodes/{node}/qemu/{vmid}/vncproxy", ticket)
        .params(&[flag("websocket"), flag("generate-password")])
        .beyond(&["VM.Console"]),
    lxc: Call::new("lxc vncproxy", Verb::Post, "/nodes/{node}/lxc/{vmid}/vncproxy", ticket)
        .params(&[flag("websocket")])
        .beyond(&["VM.Console"]),
};
static TERMINAL: Both<ConsoleTicket> = Both {
    qemu: Call::new("qemu termproxy", Verb::Post, "/nodes/{node}/qemu/{vmid}/termproxy", ticket)
        .beyond(&["VM.Console"]),
    lxc: Call::new("lxc termproxy", Verb::Post, "/nodes/{node}/lxc/{vmid}/termproxy", ticket)
        .beyond(&["VM.Console"]),
};

static PROXIES: Calls = &[&VNC.qemu, &VNC.lxc, &TERMINAL.qemu, &TERMINAL.lxc];
/// The calls of this part.
pub(crate) static CALLS: &[Calls] = &[PROXIES];

/// What opens one console, once, within ten seconds. `{:?}` hides what is secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ConsoleTicket {
    /// Secret: who has it has the console.
    pub ticket: String,
    /// On the node, 5900 to 5999.
    pub port: u16,
    /// The task that waits for the connection, and ends with it.
    pub upid: Upid,
    /// Whose console it is: the token. A terminal wants `user:ticket` and a newline first.
    pub user: String,
    /// Secret: the password for the VNC protocol itself, where one was made.
    pub password: Option<String>,
    /// The certificate behind a plain VNC connection, PEM.
    pub cert: Option<String>,
}

impl fmt::Debug for ConsoleTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleTicket")
            .field("port", &self.port)
            .field("upid", &self.upid)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct RawTicket {
    ticket: String,
    port: Value,
    upid: String,
    #[serde(default, deserialize_with = "lenient::text")]
    user: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    password: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    cert: Option<String>,
}

fn ticket(data: Data) -> Result<ConsoleTicket, String> {
    // Its own text would quote the answer, which holds the ticket.
    let raw: RawTicket = json(data).map_err(|_| "not a console ticket".to_owned())?;
    let port = lenient::as_u64(&raw.port).and_then(|port| u16::try_from(port).ok());
    let port = port.filter(|port| (5900..=5999).contains(port)).ok_or("a port outside 5900 to 5999")?;
    let upid = raw.upid.parse().map_err(|error: crate::UpidError| error.to_string())?;
    Ok(ConsoleTicket {
        ticket: raw.ticket,
        port,
        upid,
        user: raw.user.unwrap_or_default(),
        password: raw.password,
        cert: raw.cert,
    })
}

/// Where a console's websocket is, and what must be sent with the request for it. `{:?}` hides
/// both, since both hold secrets.
///
/// The connection must be pinned as every other one. The protocol is RFC 6455, version 13, with the
/// subprotocol `binary`; the server takes no fragments and no extensions (`pve/facts.md` 3.15).
#[derive(Clone)]
pub struct ConsoleSocket {
    url: String,
    authorization: String,
}

impl ConsoleSocket {
    /// `wss://…`; holds the ticket.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Name and value of the header that the token proves itself with. No cookie must go with it: a
    /// cookie would win over the token.
    #[must_use]
    pub fn header(&self) -> (&'static str, &str) {
        ("Authorization", &self.authorization)
    }
}

impl fmt::Debug for ConsoleSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleSocket").finish_non_exhaustive()
    }
}

impl Client {
    /// A ticket for a guest's screen, by VNC in a websocket. Tokens can use one since Proxmox VE 9
    /// (access-control 9.0.4).
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn vnc_ticket(&self, kind: GuestKind, vmid: Vmid) -> Result<ConsoleTicket, ApiError> {
        let request = VNC.of(kind).at(&self.guest(vmid).await?.parts()).flag("websocket", true);
        let request = match kind {
            GuestKind::Qemu => request.flag("generate-password", true),
            GuestKind::Lxc => request,
        };
        self.send(request).await
    }

    /// A ticket for a guest's text console: a container's terminal, a machine's serial port.
    ///
    /// # Errors
    /// [`ApiError`]; a machine without a serial port fails in the task.
    pub async fn terminal_ticket(&self, kind: GuestKind, vmid: Vmid) -> Result<ConsoleTicket, ApiError> {
        self.send(TERMINAL.of(kind).at(&self.guest(vmid).await?.parts())).await
    }

    /// Where the websocket for a ticket is. Sends nothing.
    #[must_use]
    pub fn console_socket(&self, kind: GuestKind, vmid: Vmid, ticket: &ConsoleTicket) -> ConsoleSocket {
        let path = format!("/nodes/{}/{kind}/{vmid}/vncwebsocket", ticket.upid.node());
        let mut url = self.transport.endpoint().api(&path);
        url.query_pairs_mut()
            .append_pair("port", &ticket.port.to_string())
            .append_pair("vncticket", &ticket.ticket);
        let url = url.as_str().replacen("https://", "wss://", 1);
        let authorization = self.transport.authorization().to_str().unwrap_or_default().to_owned();
        ConsoleSocket { url, authorization }
    }
}
