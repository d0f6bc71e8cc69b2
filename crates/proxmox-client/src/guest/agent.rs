//! What a guest says of itself: the QEMU guest agent, and a container's interfaces.
//!
//! The agent speaks for the guest, so nothing it says can be trusted more than the guest is.

use serde::Deserialize;
use serde_json::Value;

use crate::catalog::{Call, Calls, Data, Kind, Verb, json, param, rows};
use crate::client::Client;
use crate::value::ids::Vmid;
use crate::value::lenient;
use crate::wire::error::ApiError;

/// VM.Monitor on Proxmox VE 8, the others on 9.
const ASK: &[&str] = &["VM.Monitor", "VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"];
const COMMAND: &[&str] = &["VM.Monitor", "VM.GuestAgent.Unrestricted"];

static PING: Call<()> =
    Call::new("qemu agent ping", Verb::Post, "/nodes/{node}/qemu/{vmid}/agent/ping", crate::catalog::nothing)
        .beyond(ASK);
static EXEC: Call<u64> =
    Call::new("qemu agent exec", Verb::Post, "/nodes/{node}/qemu/{vmid}/agent/exec", pid)
        .params(&[param("command", Kind::Text(65_536)), param("input-data", Kind::Secret(0, 65_536))])
        .beyond(COMMAND);
static EXEC_STATUS: Call<ExecStatus> =
    Call::get("qemu agent exec-status", "/nodes/{node}/qemu/{vmid}/agent/exec-status", json)
        .long()
        .params(&[param("pid", Kind::Int(0, 4_294_967_295))])
        .beyond(COMMAND);
static NETWORK: Call<Vec<GuestInterface>> = Call::get(
    "qemu agent network",
    "/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces",
    agent_interfaces,
)
.beyond(ASK);
static SYSTEM: Call<GuestSystem> =
    Call::get("qemu agent osinfo", "/nodes/{node}/qemu/{vmid}/agent/get-osinfo", |data| {
        serde_json::from_value(result(data)?).map_err(|error| error.to_string())
    })
    .beyond(ASK);
static INTERFACES: Call<Vec<GuestInterface>> =
    Call::get("lxc interfaces", "/nodes/{node}/lxc/{vmid}/interfaces", container_interfaces)
        .needs(&["VM.Audit"]);

pub(super) static CALLS: Calls = &[&PING, &EXEC, &EXEC_STATUS, &NETWORK, &SYSTEM, &INTERFACES];

/// The agent's answers come inside a `result`.
fn result(data: Data) -> Result<Value, String> {
    match data.value {
        Value::Object(mut fields) => fields.remove("result").ok_or_else(|| "no `result`".to_owned()),
        _ => Err("not an object".to_owned()),
    }
}

fn pid(data: Data) -> Result<u64, String> {
    data.value.get("pid").and_then(lenient::as_u64).ok_or_else(|| "no `pid`".to_owned())
}

/// What became of a command inside a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ExecStatus {
    /// Whether it has ended; unknown if the guest does not say.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub exited: Option<bool>,
    /// Its exit code, if it ended by itself.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub exitcode: Option<u64>,
    /// The signal that ended it.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub signal: Option<u64>,
    /// What it wrote to its standard output.
    #[serde(default, rename = "out-data", deserialize_with = "lenient::text")]
    pub out: Option<String>,
    /// What it wrote to its standard error.
    #[serde(default, rename = "err-data", deserialize_with = "lenient::text")]
    pub err: Option<String>,
    /// Whether the output is cut.
    #[serde(default, rename = "out-truncated", deserialize_with = "lenient::flag")]
    pub out_truncated: Option<bool>,
    /// Whether the error output is cut.
    #[serde(default, rename = "err-truncated", deserialize_with = "lenient::flag")]
    pub err_truncated: Option<bool>,
}

/// A network interface inside a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestInterface {
    /// `eth0`, `lo`, …
    pub name: String,
    /// As the guest writes it.
    pub mac: Option<String>,
    /// Without the prefix.
    pub addresses: Vec<GuestAddress>,
}

/// An address of a [`GuestInterface`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestAddress {
    /// As the guest writes it.
    pub address: String,
    /// Bits of the network.
    pub prefix: Option<u64>,
}

fn interface(value: &Value) -> Option<GuestInterface> {
    let name = value.get("name").and_then(lenient::as_text)?;
    let mac = value.get("hardware-address").or_else(|| value.get("hwaddr")).and_then(lenient::as_text);
    let listed = value.get("ip-addresses").and_then(Value::as_array).into_iter().flatten();
    let mut addresses: Vec<GuestAddress> = listed
        .filter_map(|entry| {
            let address = entry.get("ip-address").and_then(lenient::as_text)?;
            Some(GuestAddress { address, prefix: entry.get("prefix").and_then(lenient::as_u64) })
        })
        .collect();
    // Proxmox VE 8 tells of a container's first addresses only, as `10.0.0.2/24`.
    if addresses.is_empty() {
        let short = ["inet", "inet6"].into_iter().filter_map(|key| lenient::as_text(value.get(key)?));
        addresses = short
            .map(|text| match text.split_once('/') {
                Some((address, bits)) => {
                    GuestAddress { address: address.to_owned(), prefix: bits.parse().ok() }
                }
                None => GuestAddress { address: text, prefix: None },
            })
            .collect();
    }
    Some(GuestInterface { name, mac, addresses })
}

fn agent_interfaces(data: Data) -> Result<Vec<GuestInterface>, String> {
    let list = result(data)?;
    let list = list.as_array().ok_or("`result` is no list")?;
    Ok(list.iter().filter_map(interface).collect())
}

fn container_interfaces(data: Data) -> Result<Vec<GuestInterface>, String> {
    let list: Vec<Value> = rows(data)?;
    Ok(list.iter().filter_map(interface).collect())
}

/// The operating system inside a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct GuestSystem {
    /// `debian`, `mswindows`, …
    #[serde(default, deserialize_with = "lenient::text")]
    pub id: Option<String>,
    /// For people.
    #[serde(default, deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// Name and version, for people.
    #[serde(default, rename = "pretty-name", deserialize_with = "lenient::text")]
    pub pretty_name: Option<String>,
    /// `13 (trixie)`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub version: Option<String>,
    /// `13`.
    #[serde(default, rename = "version-id", deserialize_with = "lenient::text")]
    pub version_id: Option<String>,
    /// As `uname -r`.
    #[serde(default, rename = "kernel-release", deserialize_with = "lenient::text")]
    pub kernel_release: Option<String>,
    /// As `uname -m`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub machine: Option<String>,
}

impl Client {
    /// Whether the agent inside a machine answers.
    ///
    /// # Errors
    /// [`ApiError`]; none configured, none running and a stopped machine are all refusals.
    pub async fn agent_ping(&self, vmid: Vmid) -> Result<(), ApiError> {
        self.send(PING.at(&self.guest(vmid).await?.parts())).await
    }

    /// Runs a program inside a machine, without a shell, and returns its process id.
    ///
    /// # Errors
    /// [`ApiError`]; an empty command and more than 65,536 characters of input are refused here.
    pub async fn agent_exec(
        &self,
        vmid: Vmid,
        command: &[&str],
        input: Option<&str>,
    ) -> Result<u64, ApiError> {
        let request = EXEC.at(&self.guest(vmid).await?.parts());
        let request = request
            .refuse_if(command.first().is_none_or(|program| program.is_empty()), "give a program to run")
            // Not recorded: that one word alone is taken for a list of one.
            .each("command", command)
            .opt("input-data", input);
        self.send(request).await
    }

    /// What became of a program that [`Client::agent_exec`] started. The guest tells the end once
    /// and forgets it.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn agent_exec_status(&self, vmid: Vmid, pid: u64) -> Result<ExecStatus, ApiError> {
        self.send(EXEC_STATUS.at(&self.guest(vmid).await?.parts()).set("pid", pid)).await
    }

    /// The network interfaces inside a machine, as its agent tells.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn agent_network(&self, vmid: Vmid) -> Result<Vec<GuestInterface>, ApiError> {
        self.send(NETWORK.at(&self.guest(vmid).await?.parts())).await
    }

    /// The operating system inside a machine, as its agent tells.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn agent_system(&self, vmid: Vmid) -> Result<GuestSystem, ApiError> {
        self.send(SYSTEM.at(&self.guest(vmid).await?.parts())).await
    }

    /// The network interfaces of a running container. A stopped one has none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn container_interfaces(&self, vmid: Vmid) -> Result<Vec<GuestInterface>, ApiError> {
        self.send(INTERFACES.at(&self.guest(vmid).await?.parts())).await
    }
}
