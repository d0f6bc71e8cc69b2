//! An unsigned step, from request to receipt. A refusal is signed outside the log, so that a hub that
//! asks for the impossible all day cannot fill the disk; what passed the checks is in the log before
//! Proxmox is called.

use std::sync::Arc;

use crate::safe;
use authz::{Event, Outcome, RefusalCode};
use protocol::Signed;
use protocol::local::WardenAnswer;
use protocol::plan::Step;

use crate::check::{self, Refused};
use crate::exec;
use crate::now;
use crate::ops::{self, Resource};
use crate::queue::Claim;
use crate::space;
use crate::warden::{Shut, Warden, chain, refused};
use crate::world::observe;

/// Checks and carries out.
pub async fn step(warden: Arc<Warden>, step: Step, generation: u64) -> WardenAnswer {
    let event = |outcome| Event::Step {
        generation,
        kind: step.kind().to_owned(),
        vmid: step.guest().vmid,
        what: safe(&step.to_string()),
        outcome,
    };
    let outcome = match accept(&warden, &step, generation).await {
        Ok(_claim) => exec::run(&warden, &ops::program_of_step(&step), None).await,
        Err(Denied::Shut(shut)) => return shut.answer(),
        Err(Denied::Disk(why)) => return refused("disk", format!("{why}; nothing was done")),
        Err(Denied::Refused((code, why))) => {
            tracing::info!(%code, why, step = %step, "step refused");
            let outcome = Outcome::Refused { code, why: safe(&why) };
            return answer(warden.with_ledger(|_, ledger| Ok(ledger.sign(event(outcome), now()))), &warden);
        }
    };
    tracing::info!(step = %step, %outcome, "step ended");
    match warden.with_ledger(|_, ledger| ledger.append(event(outcome.clone()), now())) {
        Ok(Ok(receipt)) => WardenAnswer::Receipt(receipt),
        Ok(Err(error)) => {
            warden.fail(&error);
            WardenAnswer::Unknown {
                why: format!("{outcome}; but that could not be written down: {}", chain(&error)),
            }
        }
        Err(Shut::Closed(_, why)) => {
            WardenAnswer::Unknown { why: format!("{outcome}; but that could not be written down: {why}") }
        }
        Err(shut @ Shut::NotEnrolled) => shut.answer(),
    }
}

fn answer(signed: Result<Result<Signed, crate::ledger::LedgerError>, Shut>, warden: &Warden) -> WardenAnswer {
    match signed {
        Ok(Ok(receipt)) => WardenAnswer::Receipt(receipt),
        Ok(Err(error)) => {
            warden.fail(&error);
            refused("disk", chain(&error))
        }
        Err(shut) => shut.answer(),
    }
}

enum Denied {
    Refused(Refused),
    Shut(Shut),
    /// It could not be written down that the step begins, so it does not.
    Disk(String),
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

async fn accept(warden: &Arc<Warden>, step: &Step, generation: u64) -> Result<Claim, Denied> {
    let guest = step.guest();
    let bounds =
        warden.with_ledger(|_, ledger| ledger.policies().current().bounds().clone()).map_err(Denied::Shut)?;
    if guest.identity.is_empty() {
        return Err((RefusalCode::GuestIdentity, "the step does not say which guest is meant".into()).into());
    }
    let claim = warden
        .queue
        .try_claim([Resource::Guest(guest.vmid)].into(), None)
        .map_err(|_| (RefusalCode::Busy, format!("another change of guest {} is under way", guest.vmid)))?;
    let proxmox = |error: proxmox_client::ApiError| (RefusalCode::Proxmox, error.to_string());
    let seen = observe(&warden.client, guest.kind, guest.vmid).await.map_err(proxmox)?;
    check::step(step, &bounds, &seen)?;
    if matches!(step, Step::SnapshotCreate { .. }) {
        let storages = warden.client.storage_list().await.map_err(proxmox)?;
        let pools = warden.client.lvmthin().await.ok();
        space::check(&seen.identity, &storages, pools.as_deref(), bounds.max_pool_used_percent)?;
    }
    crate::orders::proxmox::may(warden, &ops::program_of_step(step)).await?;
    begin(warden, step, generation)?;
    Ok(claim)
}

/// Counts the step against the hourly rate and writes down that it begins, in one go: many steps at once
/// cannot slip under the rate together.
fn begin(warden: &Warden, step: &Step, generation: u64) -> Result<(), Denied> {
    let started = Event::StepStarted {
        generation,
        kind: step.kind().to_owned(),
        vmid: step.guest().vmid,
        what: safe(&step.to_string()),
    };
    let begun = warden.with_ledger(|_, ledger| {
        check::rate(ledger.policies().current().bounds(), ledger.step_times(), now())?;
        Ok::<_, Refused>(ledger.append(started, now()))
    });
    match begun.map_err(Denied::Shut)?? {
        Ok(_) => Ok(()),
        Err(error) => {
            warden.fail(&error);
            Err(Denied::Disk(chain(&error)))
        }
    }
}
