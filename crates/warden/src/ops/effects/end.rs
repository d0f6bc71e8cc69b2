//! What goes: guests, backups, volumes, storages.

use authz::order::{Backing, DestroyParams, Order, Params, VolumeOwner};
use protocol::refs::{HaState, VolumeRef};

use super::{Effects, Subject};

/// True when the order is about this.
pub(super) fn tell(effects: &mut Effects, order: &Order, subject: &Subject<'_>) -> bool {
    match &order.params {
        Params::GuestDestroy(params) => destroy(effects, order, params, subject),
        Params::BackupDelete(params) => {
            for backup in &params.remove {
                effects.say(format!("backup {backup} is deleted, and nothing brings it back"));
            }
            effects.say(
                "a backup that is protected is not deleted, and those after it in the list are not either",
            );
        }
        Params::BackupPrune(params) => {
            for backup in &params.remove {
                effects.say(format!("backup {backup} is deleted, and nothing brings it back"));
            }
            for backup in &params.keep {
                effects.say(format!("backup {backup} stays"));
            }
            effects.say("each is deleted by a call of its own; Proxmox's retention is not asked");
        }
        Params::VolumeDelete(params) => {
            let size = order.pre.volumes.iter().flatten().find(|v| v.volid == params.volume).map(sized);
            let size = size.unwrap_or_else(|| params.volume.to_string());
            effects.say(format!("volume {size} is deleted with its data, and nothing brings it back"));
            match &params.owner {
                VolumeOwner::Guest {} => effects.say(format!("it is an unused disk of {}", subject.called)),
                VolumeOwner::Gone { vmid, .. } => effects.say(format!(
                    "by its name it was guest {vmid}'s, which does not exist on this cluster as far as the token can see"
                )),
            }
        }
        Params::StorageAdd(params) => {
            effects.say(format!(
                "storage {} is added to Proxmox's configuration, for all nodes",
                params.storage
            ));
            if let Backing::Dir { path, .. } = &params.backing {
                effects.say(format!(
                    "Proxmox uses {path} only while something is mounted there, and makes folders in it"
                ));
            }
        }
        Params::StorageRemove(params) => {
            effects.say(format!("storage {} leaves Proxmox's configuration, on all nodes", params.storage));
            effects.say("its data stays where it is; guests with disks there do not start any more, and backup jobs that write there fail");
        }
        _ => return false,
    }
    true
}

fn sized(volume: &VolumeRef) -> String {
    format!("{} ({} bytes, {})", volume.volid, volume.size, volume.format)
}

fn destroy(effects: &mut Effects, order: &Order, params: &DestroyParams, subject: &Subject<'_>) {
    let (pre, called, number) = (&order.pre, &subject.called, subject.number());
    if subject.runs {
        effects.say(format!("{called} runs: it is stopped hard first, as if its plug were pulled"));
        effects.say("where changes wait for its next start, the stop makes them: then it is not the guest of this order any more, and stays, stopped");
    }
    effects.say(format!("{called} is destroyed, and nothing but a backup brings it back"));
    for volume in pre.volumes.iter().flatten() {
        effects.say(format!("volume {} is deleted with its data", sized(volume)));
    }
    let snapshots: Vec<_> =
        pre.snapshots.iter().flatten().map(|snapshot| snapshot.name.to_string()).collect();
    if !snapshots.is_empty() {
        effects.say(format!("its snapshots are lost: {}", snapshots.join(", ")));
    }
    effects.say("right before, Proxmox compares its configuration with the one of this order, inside its own lock; a moment between that and the end remains");
    if pre.protection == Some(true) {
        effects.say("its protection is taken away for that, and put back if it is not destroyed");
    }
    effects.say(format!("its firewall rules, its pool membership and all rights on /vms/{number} go with it; a token that had its rights there alone has none on the next guest {number}"));
    effects.say("its backups stay");
    match params.purge {
        true => effects.say(format!("backup jobs, replication and high availability forget {number}; a backup job of it alone is deleted")),
        false => effects.say(format!("backup jobs that name {number} stay, and back up the next guest with that number")),
    }
    if pre.ha.is_some_and(|ha| ha != HaState::Unmanaged) {
        effects.say("high availability manages it now, and may act against this");
    }
    if params.destroy_unreferenced {
        effects.say(format!("EVERY other volume with number {number} on every storage is deleted too, also those of guests that had it before: they are not listed here"));
    }
}
