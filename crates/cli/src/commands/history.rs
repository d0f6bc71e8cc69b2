//! Asking the hub for checkpoints and proofs, judging them, and keeping what was believed.

use authz::order::LogAnchor;
use authz::{Checkpoint, Receipt};
use protocol::Note;
use protocol::text::printable;

use super::{Context, Session, now};
use crate::error::Failure;
use crate::history::{
    Anchor, HistoryError, Kept, Next, Proof, believe, believe_kept, check_continues, check_included, compare,
    not_continued, not_included, origin,
};
use crate::hub::HubError;
use crate::resolve::Believed;

/// Commands on this machine that compare at the same time; after so many something else is wrong.
const TRIES: usize = 10;

/// What the hub can show about a receipt.
pub(super) enum Shown {
    /// It is in the log, and the log continues what this machine knew.
    Proof(Proof),
    /// The host's checkpoint does not cover it yet, in words.
    NotYet(String),
}

/// The newest checkpoint of the host's log at the hub, by the host's word; none when the hub has none.
pub(super) async fn newest(
    session: &Session,
    host: &Believed,
) -> Result<Option<(Note, Checkpoint)>, Failure> {
    match session.hub.checkpoint(host.id()).await {
        Ok(answer) => {
            let checkpoint = believe(&answer.checkpoint, host)?;
            Ok(Some((answer.checkpoint, checkpoint)))
        }
        Err(HubError::Refused { code, .. }) if code == "no_checkpoint" => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What this machine keeps of the host's log, believed. A new key generation starts with nothing.
pub(super) fn kept(
    ctx: &Context,
    session: &Session,
    host: &Believed,
) -> Result<Option<(Kept, Checkpoint)>, Failure> {
    let origin = origin(host);
    let Some(kept) = session.home.kept_checkpoint(&origin)? else {
        match session.home.kept_generation(host.id())? {
            Some(kept) if kept > origin.generation => {
                let (host, shown) = (host.name().clone(), origin.generation);
                return Err(HistoryError::OlderKey { host, kept, shown }.into());
            }
            Some(kept) => ctx.note(&format!(
                "note: host '{}' has a new key (generation {} after {kept}): its log starts anew, and nothing ties it to the old one",
                host.name(),
                origin.generation
            )),
            None => {}
        }
        return Ok(None);
    };
    let checkpoint = believe_kept(&kept, host)?;
    Ok(Some((kept, checkpoint)))
}

/// Holds a checkpoint against the kept one as far as that goes without asking anybody: no shorter log,
/// and no other one of the same length.
pub(super) fn no_step_back(
    ctx: &Context,
    session: &Session,
    host: &Believed,
    checkpoint: &Checkpoint,
) -> Result<(), Failure> {
    let kept = kept(ctx, session, host)?;
    compare(host.name(), kept.as_ref().map(|(_, kept)| kept), checkpoint)?;
    Ok(())
}

/// Takes a checkpoint as the newest one, if it continues the one that is kept.
pub(super) async fn advance(
    ctx: &Context,
    session: &Session,
    host: &Believed,
    note: &Note,
    checkpoint: &Checkpoint,
    anchor: Option<Anchor>,
) -> Result<(), Failure> {
    for _ in 0..TRIES {
        let before = kept(ctx, session, host)?;
        let old = before.as_ref().map(|(_, old)| old);
        let next = compare(host.name(), old, checkpoint)?;
        if let (Next::Continues, Some(old)) = (next, old) {
            let proof = session.hub.consistency(host.id(), old.size, checkpoint.size).await;
            let proof = proof
                .map_err(|error| unproven(error, |why| not_continued(host.name(), old, checkpoint, why)))?;
            check_continues(host.name(), old, checkpoint, &proof)?;
        }
        let before = before.map(|(kept, _)| kept);
        let known = before.as_ref().and_then(|kept| kept.anchor);
        let anchor = anchor.into_iter().chain(known).max_by_key(|anchor| anchor.size);
        if next == Next::Same && known == anchor {
            return Ok(());
        }
        let new = Kept { v: 1, note: note.clone(), anchor, seen_at: now() };
        if session.home.keep_checkpoint(&origin(host), before.as_ref(), &new)? {
            if next == Next::First {
                ctx.note(&format!(
                    "note: this machine sees the log of host '{}' for the first time ({} entries, root {}) and has nothing to compare it with; `writ audit compare` holds it against another operator's",
                    host.name(),
                    checkpoint.size,
                    checkpoint.root
                ));
            }
            return Ok(());
        }
    }
    Err(Failure::other(format!(
        "other commands keep changing what this machine knows of host '{}': try again",
        host.name()
    )))
}

/// Proves that a believed receipt is in the host's log. Outside the log only refusals stand; they are
/// signed, and nothing more.
pub(super) async fn prove(
    ctx: &Context,
    session: &Session,
    host: &Believed,
    receipt: &Receipt,
) -> Result<Option<Shown>, Failure> {
    let Some(entry) = receipt.entry.map(|entry| entry.seq) else {
        let success = receipt.order_outcome().is_some_and(|(_, outcome)| outcome.is_success());
        let unlogged = HistoryError::Unlogged { host: host.name().clone() };
        return if success { Err(unlogged.into()) } else { Ok(None) };
    };
    let Some((note, checkpoint)) = newest(session, host).await? else {
        return Ok(Some(Shown::NotYet("the hub has no checkpoint of the host's log".to_owned())));
    };
    if entry >= checkpoint.size {
        // A checkpoint that is too old is worth no waiting.
        advance(ctx, session, host, &note, &checkpoint, None).await?;
        let size = checkpoint.size;
        return Ok(Some(Shown::NotYet(format!(
            "the hub's checkpoint covers {size} entries, this is entry {entry}"
        ))));
    }
    let proof = session.hub.inclusion(host.id(), entry, checkpoint.size).await;
    let proof =
        proof.map_err(|error| unproven(error, |why| not_included(host.name(), entry, &checkpoint, why)))?;
    let anchor = check_included(host.name(), receipt, entry, &checkpoint, &proof)?;
    advance(ctx, session, host, &note, &checkpoint, Some(anchor)).await?;
    Ok(Some(Shown::Proof(Proof { entry, size: checkpoint.size, root: checkpoint.root })))
}

/// A hub that answers but gives no proof shows nothing.
pub(super) fn unproven(error: HubError, make: impl FnOnce(String) -> HistoryError) -> Failure {
    match error {
        HubError::Refused { message, .. } => {
            make(format!("the hub gives no proof: {}", printable(&message))).into()
        }
        other => other.into(),
    }
}

/// The entry that an order prepared now names as what must have happened before: the newest one that
/// this machine verified, so that a host which was rolled back behind it refuses (2.9 anchor C).
pub(super) fn after(ctx: &Context, session: &Session, host: &Believed) -> Result<Option<LogAnchor>, Failure> {
    let anchor = kept(ctx, session, host)?.and_then(|(kept, _)| kept.anchor);
    Ok(anchor.map(|Anchor { size, head }| LogAnchor { size, head, strict: false }))
}
