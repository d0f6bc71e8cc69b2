//! Disks.

use authz::order::{Order, Params};
use protocol::GuestKind;
use protocol::report::Known;

use super::{Effects, Subject};

/// True when the order is about this.
pub(super) fn tell(effects: &mut Effects, order: &Order, subject: &Subject<'_>) -> bool {
    let called = &subject.called;
    match &order.params {
        Params::GuestGrow(params) => {
            let from = order.pre.volumes.iter().flatten().find(|stated| stated.volid == params.volume);
            let from = from.map_or_else(|| "what it has".to_owned(), |from| from.size.to_string());
            effects.say(format!(
                "disk {} ({}) of {called} grows from {from} to {} bytes, or a little more where its storage rounds up",
                params.disk, params.volume, params.size
            ));
            effects.say("it cannot be made smaller again");
            effects.say(match subject.kind {
                Some(GuestKind::Lxc) => "the file system in it grows with it",
                _ => {
                    "partitions and file systems in it stay as they are: growing them is the guest's business"
                }
            });
        }
        Params::DiskMove(params) => {
            effects.say(format!(
                "disk {} ({}) of {called} is copied to storage {} and used from there, under a new name",
                params.disk, params.volume, params.storage
            ));
            effects.say(match params.delete_source {
                true => "the old volume is deleted afterwards; Proxmox refuses when a snapshot holds it",
                false => "the old volume stays and takes its space, as an unused disk",
            });
            snapshots(effects, subject);
            replicated(effects, subject);
        }
        Params::DiskDetach(params) => {
            effects.say(format!(
                "disk {} ({}) leaves {called} and stays, as an unused disk, with its data",
                params.disk, params.volume
            ));
            if params.volume.as_str().contains("cloudinit") {
                effects.say("a cloud-init drive does not stay: Proxmox deletes it");
            }
            if subject.runs {
                effects.say("the guest runs: the disk is pulled while it may be in use, or goes at the guest's next start only; the receipt says which");
            }
            boots_from(effects, params.disk.as_str(), subject);
            if let Some(true) = order.pre.protection {
                effects.say("protection is on, and Proxmox refuses this: it has to be switched off first");
            }
            snapshots(effects, subject);
            replicated(effects, subject);
        }
        _ => return false,
    }
    true
}

fn snapshots(effects: &mut Effects, subject: &Subject<'_>) {
    if let Some(Known::Known(snapshots)) = subject.guest.map(|guest| &guest.snapshots)
        && !snapshots.is_empty()
    {
        effects.say(format!(
            "the guest has {} snapshot(s): rolling back goes back to the volume that the snapshot names",
            snapshots.len()
        ));
    }
}

fn replicated(effects: &mut Effects, subject: &Subject<'_>) {
    if let Some(Known::Known(jobs)) = subject.guest.map(|guest| &guest.replication)
        && !jobs.is_empty()
    {
        effects.say("the guest is replicated: a disk where replication cannot follow makes its jobs fail");
    }
}

fn boots_from(effects: &mut Effects, disk: &str, subject: &Subject<'_>) {
    let Some(Known::Known(config)) = subject.guest.map(|guest| &guest.config) else { return };
    let order = ["boot", "bootdisk"].iter().filter_map(|key| config.get(*key));
    if order.flat_map(|value| value.split(['=', ';', ','])).any(|part| part == disk) {
        effects.say(format!("the guest boots from {disk}"));
    }
}
