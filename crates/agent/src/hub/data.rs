//! The data connection of a tunnel: a connection of its own, so that bulk in it never delays the live
//! channel. Without a proxy it is TLS over TCP and nothing in between, because every byte of a session
//! passes here; through a proxy reqwest makes it, as it makes the live channel.

use std::net::SocketAddr;
use std::time::Duration;

use httparse::{EMPTY_HEADER, Status};
use protocol::TunnelId;
use protocol::tunnel::{AGENT_DATA_PATH, UPGRADE};
use reqwest::{StatusCode, Url, header};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::hub::http::{HubClient, HubError};

/// For each of the hub's addresses.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// Longest refusal that is read.
const MAX_REFUSAL: usize = 64 * 1024;

/// A data connection after `101`.
pub enum DataStream {
    /// Straight to the hub.
    Direct {
        /// The connection.
        stream: Box<TlsStream<TcpStream>>,
        /// What came together with the answer's head.
        early: Vec<u8>,
    },
    /// Through a proxy.
    Proxied(reqwest::Upgraded),
}

/// Opens the data connection of `tunnel`.
pub async fn dial(hub: &HubClient, tunnel: TunnelId) -> Result<DataStream, HubError> {
    let url = Url::parse(&format!("{}{AGENT_DATA_PATH}/{tunnel}", hub.url))
        .map_err(|error| hub.unreachable(&error.to_string()))?;
    let dialing = async { if hub.proxied { proxied(hub, url).await } else { direct(hub, &url).await } };
    timeout(HubClient::timeout(), dialing).await.unwrap_or_else(|_| Err(hub.late()))
}

async fn proxied(hub: &HubClient, url: Url) -> Result<DataStream, HubError> {
    let response = hub
        .http
        .get(url)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, UPGRADE)
        .send()
        .await
        .map_err(|error| hub.explain(&error))?;
    let status = response.status();
    let upgrade = response.headers().get(header::UPGRADE).map(header::HeaderValue::as_bytes);
    if !switches(hub, status, upgrade)? {
        let body = hub.limited_body(response).await?;
        return Err(hub.refused(status.as_u16(), &body));
    }
    Ok(DataStream::Proxied(response.upgrade().await.map_err(|error| hub.explain(&error))?))
}

/// Whether the answer is the one that was hoped for, or a refusal that says why in its body.
fn switches(hub: &HubClient, status: StatusCode, upgrade: Option<&[u8]>) -> Result<bool, HubError> {
    if status.is_client_error() || status.is_server_error() {
        return Ok(false);
    }
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(hub.odd(format!("status {} instead of a tunnel", status.as_u16())));
    }
    if !upgrade.is_some_and(|name| name.eq_ignore_ascii_case(UPGRADE.as_bytes())) {
        return Err(hub.odd("an upgrade to another protocol than a tunnel's".to_owned()));
    }
    Ok(true)
}

async fn direct(hub: &HubClient, url: &Url) -> Result<DataStream, HubError> {
    let (Some(host), Some(port), "https") = (url.host_str(), url.port_or_known_default(), url.scheme())
    else {
        return Err(hub.unreachable("its address does not begin with https://"));
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| hub.unreachable(&error.to_string()))?;
    let tcp = connect(hub, lookup_host((bare, port)).await.map_err(|error| hub.explain(&error))?).await?;
    // A key that is typed must not wait for another one.
    tcp.set_nodelay(true).map_err(|error| hub.explain(&error))?;
    let connector = TlsConnector::from(hub.tls.clone());
    let mut stream = connector.connect(name, tcp).await.map_err(|error| hub.explain(&error))?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}{port}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n",
        url.path()
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| hub.explain(&error))?;
    stream.flush().await.map_err(|error| hub.explain(&error))?;
    answer(hub, stream).await
}

/// The first address that answers. One that does not is given up before the hub loses its patience.
async fn connect(
    hub: &HubClient,
    addresses: impl Iterator<Item = SocketAddr>,
) -> Result<TcpStream, HubError> {
    let mut last = hub.unreachable("its name has no address");
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = hub.explain(&error),
            Err(_) => last = hub.unreachable(&format!("no connection within {} s", CONNECT.as_secs())),
        }
    }
    Err(last)
}

/// What an answer's head says.
struct Head {
    length: usize,
    status: StatusCode,
    upgrade: Option<Vec<u8>>,
    body: Option<usize>,
}

/// Reads the head of an answer; none when more bytes are needed.
fn head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(|error| format!("no HTTP: {error}"))? {
        Status::Complete(length) => length,
        Status::Partial if bytes.len() > MAX_HEAD => {
            return Err(format!("a head of more than {MAX_HEAD} bytes"));
        }
        Status::Partial => return Ok(None),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("no status")?;
    let find = |name: &str| {
        response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    };
    let body = find("content-length").and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    Ok(Some(Head { length, status, upgrade: find("upgrade").map(<[u8]>::to_vec), body }))
}

async fn answer(hub: &HubClient, mut stream: TlsStream<TcpStream>) -> Result<DataStream, HubError> {
    let mut bytes = Vec::with_capacity(1024);
    let head = loop {
        if let Some(head) = head(&bytes).map_err(|what| hub.odd(what))? {
            break head;
        }
        if stream.read_buf(&mut bytes).await.map_err(|error| hub.explain(&error))? == 0 {
            return Err(hub.odd("the end of data in the middle of an answer".to_owned()));
        }
    };
    let mut rest = bytes.split_off(head.length);
    if switches(hub, head.status, head.upgrade.as_deref())? {
        return Ok(DataStream::Direct { stream: Box::new(stream), early: rest });
    }
    let length = head.body.unwrap_or(MAX_REFUSAL).min(MAX_REFUSAL);
    while rest.len() < length {
        // Whatever came of it is what there is to tell.
        if !matches!(stream.read_buf(&mut rest).await, Ok(1..)) {
            break;
        }
    }
    rest.truncate(length);
    Err(hub.refused(head.status.as_u16(), &rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_their_bytes_come() {
        let whole =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nUPGRADE: writ-tunnel/1\r\n\r\n";
        for end in 0..whole.len() {
            assert!(head(&whole[..end]).unwrap().is_none(), "{end}");
        }
        let with_data = [&whole[..], b"\0\0\0\x01x"].concat();
        let found = head(&with_data).unwrap().unwrap();
        assert_eq!((found.length, found.status.as_u16()), (whole.len(), 101));
        assert_eq!(found.upgrade.as_deref(), Some(UPGRADE.as_bytes()));
        let refusal = b"HTTP/1.1 404 X\r\nContent-Length: 12\r\n\r\n";
        let found = head(refusal).unwrap().unwrap();
        assert_eq!((found.status.as_u16(), found.body, found.upgrade), (404, Some(12), None));
    }

    #[test]
    fn hostile_heads_are_errors_or_end() {
        for bad in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"HTTP/1.1 1 X\r\n\r\n",
            b"HTTP/1.1 101 \0\r\n\r\n",
            b"HTTP/1.1 101 X\r\nbad header\r\n\r\n",
            b"\xff\xff\xff\xff",
        ] {
            assert!(head(bad).is_err(), "{bad:?}");
        }
        let many = format!("HTTP/1.1 101 X\r\n{}\r\n", "a: b\r\n".repeat(33));
        assert!(head(many.as_bytes()).is_err());
        let endless = format!("HTTP/1.1 101 X\r\na: {}", "b".repeat(MAX_HEAD));
        assert!(head(endless.as_bytes()).is_err());
        let odd = b"HTTP/1.1 500 X\r\nContent-Length: -1\r\n\r\n";
        assert_eq!(head(odd).unwrap().unwrap().body, None);
    }
}
