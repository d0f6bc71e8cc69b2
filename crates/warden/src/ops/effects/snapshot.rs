//! Snapshots.

use authz::order::{Order, Params};
use authz::world::GuestNow;
use protocol::report::Known;

use super::{Effects, Subject};

/// True when the order is about this.
pub(super) fn tell(effects: &mut Effects, order: &Order, subject: &Subject<'_>) -> bool {
    let called = &subject.called;
    match &order.params {
        Params::SnapshotCreate(params) => {
            effects.say(format!("snapshot {} of {called} is taken, without memory", params.snapshot));
            if subject.runs {
                effects.say("the guest stands still for a moment while its disks are snapshotted");
            }
        }
        Params::SnapshotRollback(params) => {
            if let Some(snapshot) = &order.pre.snapshot {
                effects.say(format!(
                    "everything that changed in {called} since snapshot {} is lost: its disks, and its configuration too",
                    snapshot.name
                ));
                newer_snapshots(effects, snapshot.name.as_str(), subject.guest);
            }
            if subject.runs {
                effects.say("the running guest is stopped hard first, as if its plug were pulled");
            }
            effects.say(match params.start {
                true => "the guest is started afterwards",
                false => "the guest stays stopped afterwards",
            });
            effects.say(
                "disks that were added since the snapshot stay, as unused disks; bind mounts are not touched",
            );
            effects.managed(order);
        }
        Params::SnapshotDelete(_) => {
            if let Some(snapshot) = &order.pre.snapshot {
                effects.say(format!(
                    "snapshot {} of {called} is deleted and cannot be brought back",
                    snapshot.name
                ));
            }
            effects.say("the guest itself stays as it is");
        }
        _ => return false,
    }
    true
}

fn newer_snapshots(effects: &mut Effects, name: &str, guest: Option<&GuestNow>) {
    let Some(Known::Known(snapshots)) = guest.map(|guest| &guest.snapshots) else { return };
    let at = snapshots.iter().find(|snapshot| snapshot.name == name).and_then(|snapshot| snapshot.time);
    let newer: Vec<&str> =
        snapshots.iter().filter(|s| at.is_some() && s.time > at).map(|s| s.name.as_str()).collect();
    if !newer.is_empty() {
        effects.say(format!(
            "newer snapshots ({}) stay in the list; on ZFS Proxmox refuses instead, and nothing happens",
            newer.join(", ")
        ));
    }
}
