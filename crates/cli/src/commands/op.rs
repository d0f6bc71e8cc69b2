//! `writ op KIND`: an order file from what the host tells of its world.

use std::path::Path;

use authz::{Order, Policy};
use protocol::{Nonce, Sha256};

use super::cosign::signature_paths;
use super::look::{self, Told};
use super::{Context, history, now, planned, random, write_new};
use crate::args::{Asked, OpCommand, OpOptions};
use crate::cosigning::Needed;
use crate::error::{Answer, Failure};
use crate::planned::is_wanted;
use crate::prepare::{Circumstances, PrepareError, prepare};
use crate::render;

pub(super) async fn run(ctx: &Context, command: OpCommand) -> Result<Answer, Failure> {
    let Asked { host, options, wish } = command.ask();
    let OpOptions { output, force, preview, reason, ticket, valid, min_signers, plan } = options;
    // Before asking anybody: the file must be free.
    if output.exists() && !force && !preview {
        return Err(Failure::Exists(output));
    }
    let session = ctx.current_session().await?;
    let believed = session.believed(&host).await?;
    let report = session.detail(&believed).await?.report;
    let wish = match wish.of_unknown_kind() {
        Some(vmid) => {
            let kind = report.as_ref().and_then(|report| look::kind_of(report, vmid));
            wish.of_kind(Some(kind.ok_or(PrepareError::WhoseBackups(vmid))?))
        }
        None => wish,
    };
    let Told { world, source } = look::facts(ctx, &session, &believed, &wish, report.as_ref()).await?;
    let with =
        Circumstances { nonce: Nonce::from_bytes(random()?), now: now(), valid_s: valid, reason, ticket };
    let mut order = prepare(&believed, &session.policy, &world, &wish, with)?;
    order.after = history::after(ctx, &session, &believed)?;
    order.min_signers = min_signers;
    let signers = enough(&order, &session.policy)?;
    let shown = |order: &Order, plan: &str| {
        let op = Sha256::of(&order.encode());
        format!("{}{plan}\n{source}\n", render::order(order, &op))
    };
    if preview {
        // A plan takes a place in the host's memory, so none is asked for.
        let plan = is_wanted(order.kind(), &session.policy);
        let plan = if plan { "Written, it would be bound to a plan that the host computes. " } else { "" };
        return Ok(Answer::ok(format!("{}{plan}Nothing was written.\n", shown(&order, ""))));
    }
    let made = planned::obtain(&session, &believed, &mut order, plan).await?;
    write_new(&output, &order.encode(), force)?;
    forget_signature(ctx, &output)?;
    planned::keep(ctx, &output, made.as_ref(), force)?;
    let plan = made.map(|made| format!("\n{}", made.text)).unwrap_or_default();
    let shown = shown(&order, &plan);
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
