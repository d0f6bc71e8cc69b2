//! Snapshots, backups, disks: where data can be lost.

use authz::order::{
    BackupDeleteParams, BackupMode, BackupOwner, BackupParams, BackupProtectParams, BackupPruneParams,
    Compression, DestroyParams, DetachParams, GrowParams, MoveParams, NoParams, Preconditions,
    RestoreOverParams, RollbackParams, SnapshotParams, VolumeDeleteParams, VolumeOwner,
};

use super::super::order::{or_none as text_or_none, size};
use protocol::RunState;

use super::{Rows, also, effect, either, started};

pub(super) fn snapshot_create(SnapshotParams { snapshot }: &SnapshotParams, rows: &mut Rows) {
    effect(rows, format!("take snapshot '{snapshot}' without memory"));
}

fn snapshot_name(pre: &Preconditions) -> &str {
    pre.snapshot.as_ref().map_or("?", |snapshot| snapshot.name.as_str())
}

pub(super) fn rollback(RollbackParams { start }: &RollbackParams, pre: &Preconditions, rows: &mut Rows) {
    effect(
        rows,
        format!(
            "roll back to snapshot '{}': everything since is LOST, a running guest is stopped hard; {}",
            snapshot_name(pre),
            started(*start)
        ),
    );
    also(
        rows,
        "its configuration becomes the snapshot's (processors, memory, network, name); disks added since become unused",
    );
    also(rows, "what is mounted into it from the host is not rolled back");
}

pub(super) fn snapshot_delete(NoParams {}: &NoParams, pre: &Preconditions, rows: &mut Rows) {
    effect(rows, format!("delete snapshot '{}' for good", snapshot_name(pre)));
    also(rows, "nobody can roll back to it any more; the guest itself stays as it is");
}

pub(super) fn backup_create(params: &BackupParams, rows: &mut Rows) {
    let BackupParams { storage, mode, compress, protected, notes } = params;
    effect(
        rows,
        format!(
            "back the guest up to storage {storage}, {}",
            match mode {
                BackupMode::Snapshot => "while it runs (mode snapshot)",
                BackupMode::Stop => "while it is stopped (mode stop)",
            }
        ),
    );
    let compress = match compress {
        Compression::None => "none",
        Compression::Zstd => "zstd",
        Compression::Gzip => "gzip",
        Compression::Lzo => "lzo",
    };
    rows.push(("compression", compress.into()));
    rows.push((
        "protected",
        either(
            *protected,
            "yes: it is neither deleted nor pruned until somebody lifts that",
            "no: retention may delete it",
        ),
    ));
    rows.push(("notes", text_or_none(notes)));
    also(rows, "no older backup is deleted by this (remove=0); the backup uses space");
    if *mode == BackupMode::Snapshot {
        also(rows, "a container whose volumes cannot make snapshots is suspended meanwhile");
    }
}

fn owner(BackupOwner { vmid, kind }: &BackupOwner) -> String {
    format!("{kind} {vmid}")
}

pub(super) fn backup_delete(
    BackupDeleteParams { owner: whose, remove }: &BackupDeleteParams,
    rows: &mut Rows,
) {
    effect(rows, format!("delete {} backup(s) of {} for good", remove.len(), owner(whose)));
    rows.extend(remove.iter().map(|volid| ("goes", volid.to_string())));
    also(rows, "another guest may have that number by now: what counts is the list");
}

pub(super) fn backup_protect(params: &BackupProtectParams, rows: &mut Rows) {
    let BackupProtectParams { owner: whose, volume, protected } = params;
    effect(
        rows,
        either(
            *protected,
            "PROTECT a backup: it is neither deleted nor pruned until somebody lifts that",
            "lift a backup's protection: retention, or anybody who may prune, can DELETE it from then on",
        ),
    );
    rows.push(("backup", volume.to_string()));
    rows.push(("owner", owner(whose)));
    if *protected {
        also(rows, "it uses its space until then");
    }
}

pub(super) fn backup_prune(params: &BackupPruneParams, rows: &mut Rows) {
    let BackupPruneParams { owner: whose, storage, remove, keep } = params;
    effect(
        rows,
        format!(
            "delete {} of the {} backups of {} on storage {storage} for good",
            remove.len(),
            remove.len() + keep.len(),
            owner(whose)
        ),
    );
    rows.extend(remove.iter().map(|volid| ("goes", volid.to_string())));
    rows.extend(keep.iter().map(|volid| ("stays", volid.to_string())));
    also(rows, "if there is any other backup by then, nothing is deleted");
}

/// What a host does for this kind; the plan it was signed with names the new guest's number.
pub(super) fn restore_over(params: &RestoreOverParams, pre: &Preconditions, rows: &mut Rows) {
    let RestoreOverParams { archive, storage, unique, start } = params;
    effect(
        rows,
        format!(
            "make a NEW guest from a backup on storage {storage}, then {} the old one aside; the new one is {}",
            either(pre.state == Some(RunState::Stopped), "put", "STOP HARD and put"),
            started(*start)
        ),
    );
    rows.push(("archive", archive.to_string()));
    rows.push((
        "becomes",
        either(
            *unique,
            "a guest with MAC addresses and a UUID of its own",
            "a guest with the MAC addresses of the backup, and a UUID of its own",
        ),
    ));
    also(
        rows,
        "the new guest gets another number, and keeps it; it lacks everything since the backup, and all snapshots",
    );
    also(
        rows,
        "the old guest is not touched before the new one was compared with the backup's configuration",
    );
    also(
        rows,
        "the old guest stays, stopped, without its network, protected and tagged writ-replaced, until it is destroyed by an order of its own",
    );
    also(rows, "backup jobs, access rights, pool, replication and high availability still mean the old one");
}

pub(super) fn destroy(params: &DestroyParams, pre: &Preconditions, rows: &mut Rows) {
    let DestroyParams { purge, destroy_unreferenced } = params;
    effect(
        rows,
        format!(
            "DESTROY the guest for good, with {} volume(s) and {} snapshot(s)",
            pre.volumes.as_ref().map_or(0, Vec::len),
            pre.snapshots.as_ref().map_or(0, Vec::len)
        ),
    );
    if pre.state == Some(RunState::Running) {
        also(rows, "it RUNS: it is stopped hard first, as if its plug were pulled");
    }
    rows.extend(pre.volumes.iter().flatten().map(|volume| ("goes", volume.volid.to_string())));
    also(rows, "its access rights, its place in a pool and its firewall rules go too; backups stay");
    also(
        rows,
        either(
            *purge,
            "it is purged from backup jobs, replication and high availability",
            "backup jobs keep its number, which the next guest of that number inherits",
        ),
    );
    also(
        rows,
        either(
            *destroy_unreferenced,
            "EVERY other volume with its number goes too, on all storages, whosever it was",
            "other volumes with its number stay",
        ),
    );
    if pre.protection == Some(true) {
        also(rows, "its protection is switched off first");
    }
}

pub(super) fn grow(GrowParams { disk, volume, size: bytes }: &GrowParams, rows: &mut Rows) {
    effect(rows, format!("make disk {disk} ({volume}) larger, to {}", size(*bytes)));
    also(rows, "it cannot be made smaller again; the guest has to grow its filesystem itself");
}

pub(super) fn disk_move(MoveParams { disk, volume, storage, delete_source }: &MoveParams, rows: &mut Rows) {
    effect(rows, format!("move disk {disk} ({volume}) to storage {storage}"));
    also(
        rows,
        either(
            *delete_source,
            "the old volume is deleted afterwards",
            "the old volume stays as an unused disk and keeps its space",
        ),
    );
    also(rows, "a disk with snapshots cannot be moved by every storage");
}

pub(super) fn detach(DetachParams { disk, volume }: &DetachParams, rows: &mut Rows) {
    effect(rows, format!("take disk {disk} ({volume}) away from the guest"));
    also(rows, "it stays as an unused disk; a cloud-init drive is DELETED instead");
    also(rows, "a running guest can lose what it had not written there");
}

pub(super) fn volume_delete(VolumeDeleteParams { volume, owner }: &VolumeDeleteParams, rows: &mut Rows) {
    effect(rows, format!("delete volume {volume} for good, with all that is on it"));
    match owner {
        VolumeOwner::Guest {} => rows.push(("owner", "an unused disk of the guest".into())),
        VolumeOwner::Gone { vmid, kind } => {
            rows.push((
                "owner",
                format!("{kind} {vmid}, which is gone: refused if there is such a guest again"),
            ));
        }
    }
}
