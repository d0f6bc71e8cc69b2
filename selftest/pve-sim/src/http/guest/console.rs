//! Consoles, and the addresses of a container. Nothing of this was recorded: fields and types are
//! those of the published schema.

use data_encoding::BASE64;
use serde_json::json;

use super::{At, VMID};
use crate::http::node::NODE;
use crate::http::params::{Field, Ty};
use crate::http::{Call, Reply};
use crate::world::{Job, Kind, Refusal, Release};

/// The first port a console listens on.
const FIRST_PORT: usize = 5900;

/// A ticket, a port, and the task that serves the console.
fn proxy(call: &mut Call<'_>, at: At<'_>, vmid: u32) -> serde_json::Value {
    let consoles =
        call.world.tasks.all.iter().filter(|t| t.ended.is_none() && t.upid.kind == "vncproxy").count();
    let upid = call.world.begin(call.now, &call.who, at.kind, vmid, Job::Console);
    // Signed by nobody: nothing listens on the port either.
    let signature = BASE64.encode(call.world.fresh_uuid().as_bytes());
    json!({
        "user": call.who.to_string(), "upid": upid, "port": FIRST_PORT + consoles,
        "ticket": format!("PVEVNC:{:08X}::{signature}", call.now.unix),
    })
}

pub(crate) fn vnc(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let mut fields = vec![NODE, VMID, Field("websocket", Ty::Bool, true)];
    match at.kind {
        Kind::Qemu => fields.push(Field("generate-password", Ty::Bool, true)),
        Kind::Lxc => fields.extend([Field("height", Ty::Int(16), true), Field("width", Ty::Int(16), true)]),
    }
    let vmid = at.check(call, &["VM.Console"], &fields)?;
    call.world.guest(at.kind, vmid)?;
    let mut view = proxy(call, at, vmid);
    let leaf = call.world.certificates.iter().rev().find_map(|c| c.get("pem").cloned());
    view["cert"] = leaf.unwrap_or_else(|| json!(""));
    if call.params.flag("generate-password") {
        view["password"] = json!(call.world.fresh_uuid()[..8].to_owned());
    }
    Ok(view.into())
}

pub(crate) fn terminal(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    const SERIAL: &[&str] = &["serial0", "serial1", "serial2", "serial3"];
    let mut fields = vec![NODE, VMID];
    if at.kind == Kind::Qemu {
        fields.push(Field("serial", Ty::Enum(SERIAL), true));
    }
    let vmid = at.check(call, &["VM.Console"], &fields)?;
    let guest = call.world.guest(at.kind, vmid)?;
    if at.kind == Kind::Qemu {
        let asked = call.params.get("serial");
        let found = SERIAL.iter().find(|key| guest.config.contains_key(**key));
        if asked.map_or(found.is_none(), |key| !guest.config.contains_key(key)) {
            return Err(Refusal::internal("unable to find a serial interface"));
        }
    }
    Ok(proxy(call, at, vmid).into())
}

pub(crate) fn interfaces(call: &Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let vmid = at.check(call, &["VM.Audit"], &[NODE, VMID])?;
    let details = call.world.release == Release::V9;
    Ok(call.world.guest(at.kind, vmid)?.container_interfaces(details).into())
}
