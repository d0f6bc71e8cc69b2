//! `writ op KIND`: an order file from the last report.

use std::path::Path;

use authz::{Order, Policy};
use protocol::{Nonce, Sha256};

use super::cosign::signature_paths;
use super::{Context, history, now, planned, random, write_new};
use crate::args::{OpArgs, OpCommand, OpOptions};
use crate::cosigning::Needed;
use crate::error::{Answer, Failure};
use crate::prepare::{Circumstances, Wish, prepare};
use crate::render;
use crate::text::{age, utc};

pub(super) async fn run(ctx: &Context, command: OpCommand) -> Result<Answer, Failure> {
    let (OpArgs { host, vmid }, options, wish) = split(command);
    let OpOptions { output, force, reason, ticket, valid, min_signers, plan } = options;
    // Before asking anybody: the file must be free.
    if output.exists() && !force {
        return Err(Failure::Exists(output));
    }
    let session = ctx.current_session().await?;
    let believed = session.believed(&host).await?;
    let detail = session.detail(&believed).await?;
    let report = detail.report.ok_or_else(|| Failure::NoReport(believed.name().clone()))?;
    let now = now();
    let with = Circumstances { nonce: Nonce::from_bytes(random()?), now, valid_s: valid, reason, ticket };
    let mut order = prepare(&believed, &session.policy, &report, vmid, &wish, with)?;
    order.after = history::after(ctx, &session, &believed)?;
    order.min_signers = min_signers;
    let signers = enough(&order, &session.policy)?;
    let made = planned::obtain(&session, &believed, &mut order, plan).await?;
    let bytes = order.encode();
    write_new(&output, &bytes, force)?;
    forget_signature(ctx, &output)?;
    planned::keep(ctx, &output, made.as_ref(), force)?;
    let plan = made.map(|made| format!("\n{}", made.text)).unwrap_or_default();
    let file = output.display();
    let namespace = order.kind().namespace();
    let more = match signers - 1 {
        0 => String::new(),
        more => format!("have {more} more operator(s) sign it:\n  writ cosign {file}\n"),
    };
    Ok(Answer::ok(format!(
        "{}{plan}\nFacts from the report of {} ({}), as reported through the hub, not signed; the host reads them again.\n\
         Written to {file}. Sign it in either way:\n  \
         writ sign {file}\n  \
         ssh-keygen -Y sign -f KEY -n {namespace} {file}\n\
         {more}then send it:\n  \
         writ submit {file}\n",
        render::order(&order, &Sha256::of(&bytes)),
        utc(report.collected_at),
        age(report.collected_at, now),
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

fn split(command: OpCommand) -> (OpArgs, OpOptions, Wish) {
    match command {
        OpCommand::SnapshotRollback { at, snapshot, start, options } => {
            (at, options, Wish::Rollback { snapshot, start })
        }
        OpCommand::SnapshotDelete { at, snapshot, options } => (at, options, Wish::SnapshotDelete(snapshot)),
        OpCommand::SnapshotCreate { at, snapshot, options } => (at, options, Wish::SnapshotCreate(snapshot)),
        OpCommand::GuestStart { at, options } => (at, options, Wish::Start),
        OpCommand::GuestTag { at, tags, options } => (at, options, Wish::Tag(tags)),
    }
}
