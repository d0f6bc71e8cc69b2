//! An unsigned step, from request to receipt. A refusal is signed outside the log, so that a hub that
//! asks for the impossible all day cannot fill the disk; what passed the checks is in the log before
//! Proxmox is called.

use std::sync::Arc;

use crate::safe;
use authz::{Event, Outcome, RefusalCode};
use protocol::Signed;
use protocol::local::WardenAnswer;
use protocol::plan::{Effect, Step};

use crate::bounds::{self, Limits};
use crate::check::Refused;
use crate::exec;
use crate::now;
use crate::ops::{self, Program};
use crate::queue::Claim;
use crate::space;
use crate::warden::{Shut, Warden, chain, refused};
use crate::world::observe;

/// Checks and carries out.
pub async fn step(warden: Arc<Warden>, step: Step, generation: u64) -> WardenAnswer {
    let event = |outcome| Event::Step {
        generation,
        kind: step.kind().to_owned(),
        vmid: step.vmid(),
        what: safe(&step.to_string()),
        outcome,
    };
    let outcome = match accept(&warden, &step, generation).await {
        Ok((_claim, program)) => exec::run(&warden, &program, None).await,
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

async fn accept(warden: &Arc<Warden>, step: &Step, generation: u64) -> Result<(Claim, Program), Denied> {
    let policy =
        warden.with_ledger(|_, ledger| ledger.policies().current().bounds().clone()).map_err(Denied::Shut)?;
    let limits = Limits::new(&policy, &warden.config.bounds);
    if step.guest().is_some_and(|guest| guest.identity.is_empty()) {
        return Err((RefusalCode::GuestIdentity, "the step does not say which guest is meant".into()).into());
    }
    let busy = |_| (RefusalCode::Busy, "another change of the same guest or storage is under way".to_owned());
    let claim = warden.queue.try_claim(ops::resources_of_step(step), None).map_err(busy)?;
    let proxmox = |error: proxmox_client::ApiError| (RefusalCode::Proxmox, error.to_string());
    let seen = match bounds::subject(step) {
        Some((kind, vmid)) => Some(observe(&warden.client, kind, vmid).await.map_err(proxmox)?),
        None => None,
    };
    if let (Some(_), Some(seen)) = (step.guest(), &seen) {
        warden.still_the_adopted(seen)?;
    }
    if let (Some(vmid), Some(seen)) = (step.vmid(), &seen) {
        ops::not_put_aside(vmid, seen)?;
    }
    let effect = bounds::admit(step, &limits, seen.as_ref())?;
    let room = bounds::room(step, seen.as_ref())?;
    if room.is_some() || matches!(step, Step::SnapshotCreate { .. }) {
        let storages = warden.client.storage_list().await.map_err(proxmox)?;
        let pools = warden.client.lvmthin().await.ok();
        let most = limits.pool_used_percent();
        match (&room, &seen) {
            (Some(room), _) => {
                space::room(room.storage.as_str(), room.bytes, &storages, pools.as_deref(), most)?;
            }
            (None, Some(seen)) => space::check(&seen.identity, &storages, pools.as_deref(), most)?,
            (None, None) => {}
        }
    }
    let mut guests_on_host = 0;
    if effect.field.changes_guest() {
        for kind in [proxmox_client::GuestKind::Qemu, proxmox_client::GuestKind::Lxc] {
            guests_on_host += warden.client.guests(kind).await.map_err(proxmox)?.len() as u64;
        }
    }
    let program = ops::program_of_step(step, &effect, seen.as_ref())?;
    crate::orders::proxmox::may(warden, &program).await?;
    begin(warden, step, generation, effect, guests_on_host)?;
    Ok((claim, program))
}

/// Counts the step against the rates and writes down that it begins, in one go: many steps at once
/// cannot slip under a rate together.
fn begin(
    warden: &Warden,
    step: &Step,
    generation: u64,
    effect: Effect,
    guests_on_host: u64,
) -> Result<(), Denied> {
    let started = Event::StepStarted {
        generation,
        kind: step.kind().to_owned(),
        vmid: step.vmid(),
        what: safe(&step.to_string()),
        effect: Some(effect),
    };
    let begun = warden.with_ledger(|_, ledger| {
        let limits = Limits::new(ledger.policies().current().bounds(), &warden.config.bounds);
        let (history, at) = ledger.history();
        bounds::rates(step.vmid(), &effect, &limits, history, guests_on_host, at)?;
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
