//! `…/agent/…` of virtual machines.

use serde_json::{Value, json};

use super::{At, VMID};
use crate::http::node::NODE;
use crate::http::params::{Field, Ty};
use crate::http::{Call, Reply};
use crate::world::{Agent, Refusal, Release};

/// The checks of a command, and the agent; `run` says whether commands are run with it.
fn agent<'a>(
    call: &'a mut Call<'_>,
    at: At<'_>,
    run: bool,
    fields: &[Field],
) -> Result<(&'a mut Agent, String), Refusal> {
    let wanted: &[&str] = match (call.world.release, run) {
        (Release::V8, _) => &["VM.Monitor"],
        (Release::V9, false) => &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"],
        (Release::V9, true) => &["VM.GuestAgent.Unrestricted"],
    };
    call.require(&at.path(), wanted)?;
    let mut all = vec![NODE, VMID];
    all.extend(fields.iter().map(|f| Field(f.0, f.1, f.2)));
    super::resolve(call, at.node)?;
    let errors = call.params.errors(&all, |name| run && name == "command");
    if !errors.is_empty() {
        return Err(Refusal::parameters(errors));
    }
    let vmid = at.id()?;
    let guest = call.world.guest_mut(at.kind, vmid)?;
    let mac = guest.mac();
    Ok((guest.require_agent(vmid).map_err(Refusal::internal)?, mac))
}

fn result(value: Value) -> Result<Reply, Refusal> {
    Ok(json!({"result": value}).into())
}

pub(crate) fn ping(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    agent(call, at, false, &[])?;
    result(json!({}))
}

pub(crate) fn osinfo(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let (agent, _) = agent(call, at, false, &[])?;
    result(agent.osinfo())
}

pub(crate) fn interfaces(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let (agent, mac) = agent(call, at, false, &[])?;
    result(agent.interfaces(&mac))
}

pub(crate) fn exec(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let command: Vec<String> = call.params.all("command").to_vec();
    let (agent, _) = agent(call, at, true, &[Field("input-data", Ty::Text(65_536), true)])?;
    if command.is_empty() {
        return Err(Refusal::parameter("command", "property is missing and it is not optional"));
    }
    Ok(json!({"pid": agent.run(&command)}).into())
}

pub(crate) fn exec_status(call: &mut Call<'_>, at: At<'_>) -> Result<Reply, Refusal> {
    let pid = call.params.number("pid").and_then(|n| u32::try_from(n).ok());
    let (agent, _) = agent(call, at, true, &[Field("pid", Ty::Int(i64::MIN), false)])?;
    let pid = pid.unwrap_or_default();
    let told = agent.finished(pid);
    told.map(Reply::from).ok_or_else(|| {
        // Not recorded; the second half is QEMU's.
        Refusal::internal(format!("Agent error: PID {pid} does not exist"))
    })
}
