//! `writ op KIND`: an order file from the last report.

use std::path::Path;

use protocol::{Nonce, Sha256};

use super::sign::signature_path;
use super::{Context, now, random, write_new};
use crate::args::{OpArgs, OpCommand, OpOptions};
use crate::error::{Answer, Failure};
use crate::prepare::{Circumstances, Wish, prepare};
use crate::render;
use crate::text::{age, utc};

pub(super) async fn run(ctx: &Context, command: OpCommand) -> Result<Answer, Failure> {
    let (OpArgs { host, vmid }, options, wish) = split(command);
    let OpOptions { output, force, reason, ticket, valid } = options;
    // Before asking anybody: the file must be free.
    if output.exists() && !force {
        return Err(Failure::Exists(output));
    }
    let session = ctx.session()?;
    let believed = session.believed(&host).await?;
    let detail = session.detail(&believed).await?;
    let report = detail.report.ok_or_else(|| Failure::NoReport(believed.name().clone()))?;
    let now = now();
    let with = Circumstances { nonce: Nonce::from_bytes(random()?), now, valid_s: valid, reason, ticket };
    let order = prepare(&believed, &session.policy, &report, vmid, &wish, with)?;
    let bytes = order.encode();
    write_new(&output, &bytes, force)?;
    forget_signature(ctx, &output)?;
    let file = output.display();
    let namespace = order.kind().namespace();
    Ok(Answer::ok(format!(
        "{}\nFacts from the report of {} ({}), as reported through the hub, not signed; the host reads them again.\n\
         Written to {file}. Sign it in either way:\n  \
         writ sign {file}\n  \
         ssh-keygen -Y sign -f KEY -n {namespace} {file}\n\
         then send it:\n  \
         writ submit {file}\n",
        render::order(&order, &Sha256::of(&bytes)),
        utc(report.collected_at),
        age(report.collected_at, now),
    )))
}

/// A signature beside the file is over the order that was just replaced: it would only be refused.
fn forget_signature(ctx: &Context, order: &Path) -> Result<(), Failure> {
    let stale = signature_path(order);
    match std::fs::remove_file(&stale) {
        Ok(()) => {
            ctx.note(&format!("removed {}: it signed the order that was replaced", stale.display()));
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::other(format!(
            "cannot remove {}, which signs an order that is gone ({error}): remove it before you sign",
            stale.display()
        ))),
    }
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
