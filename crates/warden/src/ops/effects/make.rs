//! New guests, backups and what they are made from.

use authz::order::{BackupMode, CreateParams, Order, Params, TemplateSource};
use protocol::refs::HaState;
use protocol::{GuestKind, RunState};

use super::{Effects, Subject};
use crate::ops::call::Call;

/// True when the order is about this.
pub(super) fn tell(effects: &mut Effects, order: &Order, subject: &Subject<'_>) -> bool {
    let called = &subject.called;
    match &order.params {
        Params::GuestCreate(params) => create(effects, params),
        Params::GuestRestoreOver(params) => {
            let size =
                order.pre.backups.iter().flatten().find(|b| b.volid == params.archive).map_or(0, |b| b.size);
            restore_over(effects, order, subject, size);
        }
        Params::BackupCreate(params) => {
            effects.say(format!("a backup of {called} is made on storage {}", params.storage));
            effects.say("no older backup is removed, whatever retention the storage has (remove=0); where it keeps only so many, Proxmox refuses one more that is not protected");
            if params.protected {
                effects.say("the backup is protected: nobody deletes or prunes it before that is taken back");
            }
            match (params.mode, subject.kind) {
                (BackupMode::Stop, _) => effects.say("the guest is stopped, and stays so"),
                (BackupMode::Snapshot, Some(GuestKind::Lxc)) if subject.runs => effects.say("the container keeps running; where one of its volumes cannot be snapshotted Proxmox suspends it meanwhile, and the receipt tells"),
                (BackupMode::Snapshot, _) => effects.say("the guest keeps running if it runs"),
            }
            effects.say("disks with backup=0, a container's mount points without backup=1 and bind mounts are not in it");
            effects.say("the node makes one backup at a time: where another takes longer than a minute, this one fails");
        }
        Params::BackupProtect(params) => effects.say(match params.protected {
            true => format!("backup {} is protected: it is neither deleted nor pruned", params.volume),
            false => {
                format!("backup {} is protected no longer: the next pruning may delete it", params.volume)
            }
        }),
        Params::TemplateDownload(params) => {
            effects.say(format!(
                "the node downloads template {} to storage {}",
                params.template, params.storage
            ));
            effects.say("Proxmox compares it with the SHA-512 of its own signed index; the warden then reads the file and compares its SHA-256 with the order's");
            effects.say(
                "where the warden's user cannot read the file, the outcome is unknown, and the file stays",
            );
        }
        _ => return false,
    }
    true
}

fn create(effects: &mut Effects, params: &CreateParams) {
    let CreateParams { vmid, kind, name, storage, .. } = params;
    let called = format!("{kind} {vmid} ({name})");
    match &params.template {
        TemplateSource::Archive { volume, .. } => {
            effects.say(format!("{called} is made from {volume}, on storage {storage}"));
            effects.say("the warden reads that file and compares its SHA-256 right before; whoever may write to that storage could still change it in the moment between");
        }
        TemplateSource::Guest { vmid: template, .. } => {
            effects.say(format!(
                "{called} is made as a full clone of template {template}, on storage {storage}"
            ));
            effects.say("what the order does not name is as in the template, its features too; network devices that the order does not name are deleted");
        }
        TemplateSource::Backup { volume, .. } => {
            effects.say(format!("{called} is made from backup {volume}, on storage {storage}"));
            effects.say("it gets MAC addresses and a UUID of its own, and its network devices have no link until somebody changes that");
            effects.say(
                "replication, high availability, rights and pool of the backup's guest do not come with it",
            );
        }
        TemplateSource::Golden { .. } => {}
    }
    if *kind == GuestKind::Lxc {
        effects.say(match params.unprivileged {
            true => "it is unprivileged",
            false => "it is PRIVILEGED: its root is the host's root",
        });
        if params.net.is_some() {
            effects.say("its network device asks for an address by DHCP");
        }
    }
    effects.say("it is protected from being destroyed");
    effects.say("before it is begun the storage must be active and have the room that is known to be needed; how much a clone or a backup really takes is not known");
    effects.say(match (params.start, params.onboot) {
        (true, true) => "it is started, and whenever the host starts",
        (true, false) => "it is started, and not when the host starts",
        (false, true) => "it is not started now, but whenever the host starts",
        (false, false) => "it is not started",
    });
    effects.say("where a later call fails, what was made stays, protected");
}

/// The words of the order say "over"; what happens is another thing, and better.
fn restore_over(effects: &mut Effects, order: &Order, subject: &Subject<'_>, size: u64) {
    let Params::GuestRestoreOver(params) = &order.params else { return };
    let called = &subject.called;
    let new = subject.program.actions.iter().find_map(|action| match &action.call {
        Call::Restore(restore) => Some(restore.guest),
        _ => None,
    });
    let Some(new) = new else { return };
    effects.say(format!(
        "nothing is overwritten: backup {} ({size} bytes packed) becomes a NEW guest {new} on storage {}",
        params.archive, params.storage
    ));
    effects.say(format!("the new guest keeps the number {}: Proxmox cannot give it the old one", new.vmid));
    effects.say("it is compared with the configuration in the backup before anything else is touched; that its data is sound is not proved by that");
    effects.say(format!("then {called} is put aside: its network devices lose their link, it does not start with the host any more, and it gets the tag writ-replaced"));
    if order.pre.state == Some(RunState::Running) {
        effects.say("it is stopped hard then, as if its plug were pulled: what it wrote since the backup is only in it");
    }
    effects.say(format!("{called} stays, stopped and protected, with its disks and snapshots, until an order of its own destroys it: both need their room until then"));
    effects.say(match params.unique {
        true => "the new guest has MAC addresses of its own: an address that DHCP ties to the old one does not come with it",
        false => "the new guest gets the MAC addresses of the backup; its system UUID is a new one all the same",
    });
    effects.say(match params.start {
        true => "the new guest is started",
        false => "the new guest is not started",
    });
    effects.say(format!(
        "whatever names guest {} by its number goes on meaning the old one: backup jobs, rights, pool, firewall, replication; none of that covers {}",
        subject.number(),
        new.vmid
    ));
    if order.pre.ha.is_some_and(|ha| ha != HaState::Unmanaged) {
        effects.say("high availability goes on managing the old guest, and does not know the new one");
    }
    effects.say("where a later call fails, the old guest gets its options back, and is not started again; the new one stays as it is then");
}
