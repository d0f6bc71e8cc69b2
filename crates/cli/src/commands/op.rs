//! `writ op KIND`: an order file from what the host tells of its world.

use std::path::Path;

use authz::{Order, Policy};
use protocol::report::{HostReport, Known};
use protocol::{GuestKind, Nonce, Sha256, Vmid};

use super::cosign::signature_paths;
use super::look::{self, Told};
use super::{Context, history, now, random, write_new};
use crate::args::{Asked, OpCommand, OpOptions};
use crate::cosigning::Needed;
use crate::error::{Answer, Failure};
use crate::prepare::{Circumstances, PrepareError, needs_plan, prepare};
use crate::render;

pub(super) async fn run(ctx: &Context, command: OpCommand) -> Result<Answer, Failure> {
    let Asked { host, options, wish } = command.ask();
    let OpOptions { output, force, preview, reason, ticket, valid, min_signers } = options;
    // Before asking anybody: the file must be free.
    if output.exists() && !force && !preview {
        return Err(Failure::Exists(output));
    }
    let session = ctx.current_session().await?;
    let believed = session.believed(&host).await?;
    let report = session.detail(&believed).await?.report;
    let wish = match wish.of_unknown_kind() {
        Some(vmid) => wish.of_kind(report.as_ref().and_then(|report| kind_of(report, vmid))),
        None => wish,
    };
    let Told { world, source } = look::facts(ctx, &session, &believed, &wish, report.as_ref()).await?;
    let with =
        Circumstances { nonce: Nonce::from_bytes(random()?), now: now(), valid_s: valid, reason, ticket };
    let mut order = prepare(&believed, &session.policy, &world, &wish, with)?;
    order.after = history::after(ctx, &session, &believed)?;
    order.min_signers = min_signers;
    // What can be asked for is shown in any case; what the host would refuse is not written.
    if needs_plan(&session.policy, order.kind()) && !preview {
        return Err(PrepareError::NeedsPlan(order.kind()).into());
    }
    let signers = enough(&order, &session.policy)?;
    let bytes = order.encode();
    let shown = format!("{}\n{source}\n", render::order(&order, &Sha256::of(&bytes)));
    if preview {
        return Ok(Answer::ok(format!("{shown}Nothing was written.\n")));
    }
    write_new(&output, &bytes, force)?;
    forget_signature(ctx, &output)?;
    let file = output.display();
    let namespace = order.kind().namespace();
    let more = match signers - 1 {
        0 => String::new(),
        more => format!("have {more} more operator(s) sign it:\n  writ cosign {file}\n"),
    };
    Ok(Answer::ok(format!(
        "{shown}Written to {file}. Sign it in either way:\n  \
         writ sign {file}\n  \
         ssh-keygen -Y sign -f KEY -n {namespace} {file}\n\
         {more}then send it:\n  \
         writ submit {file}\n",
    )))
}

/// What a guest is, as last reported.
fn kind_of(report: &HostReport, vmid: Vmid) -> Option<GuestKind> {
    let Known::Known(guests) = &report.guests else { return None };
    guests.iter().find(|guest| guest.vmid == vmid).map(|guest| guest.kind)
}

/// How many must sign. What nobody could ever gather is said before anybody signs.
fn enough(order: &Order, policy: &Policy) -> Result<u32, Failure> {
    let Some(Needed { signers, role }) = Needed::of(order, policy) else { return Ok(1) };
    let members =
        policy.document().roles.iter().find(|found| found.name == role).map(|role| role.members.len());
    match members {
        Some(members) if members < signers as usize => Err(Failure::other(format!(
            "--min-signers {signers} can never be reached: role {role}, whose signatures count for {}, has {members} member(s)",
            order.kind()
        ))),
        _ => Ok(signers.max(1)),
    }
}

/// Signatures beside the file are over the order that was just replaced: they would only be refused.
fn forget_signature(ctx: &Context, order: &Path) -> Result<(), Failure> {
    for stale in signature_paths(order) {
        match std::fs::remove_file(&stale) {
            Ok(()) => {
                ctx.note(&format!("removed {}: it signed the order that was replaced", stale.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::other(format!(
                    "cannot remove {}, which signs an order that is gone ({error}): remove it before you sign",
                    stale.display()
                )));
            }
        }
    }
    Ok(())
}
