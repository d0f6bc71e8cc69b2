//! Kinds about disks, backups, storages and new guests: one row each, as in [`crate::kinds`].

use std::path::Path;

use authz::order::{
    Amount, Backing, BackupDeleteParams, BackupMode, BackupOwner, BackupParams, BackupProtectParams,
    BackupPruneParams, Compression, ContentType, CreateParams, DestroyParams, DetachParams, GrowParams,
    MoveParams, NetParams, Params, ResizeParams, RestoreOverParams, StorageAddParams, StorageRemoveParams,
    TemplateParams, TemplateSource, VolumeDeleteParams, VolumeOwner,
};
use protocol::refs::VolumeId;
use protocol::{GuestKind, Sha256};
use pve_sim::world::{Kind, Now, SavedGuest, Storage, Volume, World};
use serde_json::json;

use crate::kinds::{Row, Seen, Twin, base, protected};
use crate::rig::vmid;

const GIB: u64 = 1 << 30;
/// When the backups of the demo world were taken: 2025-10-02.
const TAKEN: i64 = 1_759_363_200;
const TEMPLATE: &[u8] = b"a container template";
const APPLIANCE: &str = "alpine-3.22-default_20250617_amd64.tar.xz";
const UUID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";

/// What the warden reads of the host itself: a template's file, and a filesystem that a storage can be on.
pub(crate) fn host_files(root: &Path) {
    let put = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    put("var/lib/vz/template/cache/debian-12.tar.zst", TEMPLATE);
    // What Proxmox downloads; the simulator lists it and writes nothing.
    put(&format!("var/lib/vz/template/cache/{APPLIANCE}"), TEMPLATE);
    put("sys/block/sda/dev", b"8:0\n");
    put("run/udev/data/b8:0", format!("E:ID_FS_UUID={UUID}\n").as_bytes());
    put("proc/self/mountinfo", b"22 1 8:0 / /mnt/usb rw - ext4 /dev/sda rw\n");
}

fn set(world: &mut World, vmid: u32, key: &str, value: &str) {
    world.guests.get_mut(&vmid).unwrap().config.insert(key.into(), json!(value));
}

/// The acting token gets what the usual role has not.
fn allowed(world: &mut World) {
    for who in ["writ@pve", "writ@pve!act"] {
        world.access.grant("/", who, "Administrator");
    }
}

/// Three backups of each guest of the rows, and a retention that would keep one.
fn backups(world: &mut World, _: Now) {
    let local = world.storages.get_mut("local").unwrap();
    local.options.insert("prune-backups".into(), "keep-last=1".into());
    for vmid in [100, 101, 200, 201] {
        let guest = &world.guests[&vmid];
        let (word, format) = match guest.kind {
            Kind::Qemu => ("qemu", "vma.zst"),
            Kind::Lxc => ("lxc", "tar.zst"),
        };
        let mut config = guest.config.clone();
        config.remove("parent");
        let saved = Some(SavedGuest { kind: guest.kind, config });
        for day in 0..3 {
            let volid = format!("local:backup/vzdump-{word}-{vmid}-2025_10_0{}-00_00_00.{format}", day + 2);
            let (content, format) = ("backup".to_owned(), format.to_owned());
            let (size, ctime, saved) = (GIB, TAKEN + 86_400 * day, saved.clone());
            let volume =
                Volume { content, format, size, ctime, vmid: Some(vmid), saved, ..Volume::default() };
            world.stock.volumes.insert(volid, volume);
        }
    }
}

fn first_protected(world: &mut World, now: Now) {
    backups(world, now);
    for volume in world.stock.volumes.values_mut().filter(|volume| volume.ctime == TAKEN) {
        volume.protected = true;
    }
}

/// Other backups under the names of all but the last one.
fn another_backup(world: &mut World) {
    let old = |volume: &&mut Volume| volume.content == "backup" && volume.ctime < TAKEN + 2 * 86_400;
    for volume in world.stock.volumes.values_mut().filter(old) {
        (volume.size, volume.ctime) = (volume.size + 1, volume.ctime + 1);
    }
}

const FIRST: &str = "volume local:backup/vzdump-";

/// Disks that can be detached.
fn second_disks(world: &mut World, _: Now) {
    set(world, 101, "scsi1", "local-lvm:vm-101-disk-7,size=1G");
    set(world, 100, "sata0", "local-lvm:vm-100-disk-7,size=1G");
    set(world, 201, "mp0", "tank:subvol-201-disk-7,mp=/data,size=1G");
}

fn unused_disks(world: &mut World, _: Now) {
    set(world, 102, "unused0", "tank:vm-102-disk-7,size=1G");
    set(world, 201, "unused0", "tank:subvol-201-disk-7,size=1G");
}

/// A volume of a guest that is gone.
fn orphans(world: &mut World, _: Now) {
    allowed(world);
    for (volid, format) in [(QEMU_ORPHAN, "raw"), (LXC_ORPHAN, "raw")] {
        let (content, format) = ("images".to_owned(), format.to_owned());
        let volume = Volume { content, format, size: GIB, vmid: Some(400), ..Volume::default() };
        world.stock.volumes.insert(volid.into(), volume);
    }
}

const QEMU_ORPHAN: &str = "tank:vm-400-disk-0";
const LXC_ORPHAN: &str = "local-lvm:vm-400-disk-1";

/// Somebody makes a guest with that number.
fn copy(world: &mut World, of: u32, to: u32) {
    let mut guest = world.guests[&of].clone();
    guest.config.remove("template");
    guest.config.insert("description".into(), json!("somebody else's"));
    world.guests.insert(to, guest);
}

fn template(world: &mut World, _: Now) {
    for vmid in [102, 201] {
        world.guests.get_mut(&vmid).unwrap().config.insert("template".into(), json!(1));
    }
    let (content, format) = ("vztmpl".to_owned(), "tzst".to_owned());
    let volume = Volume { content, format, size: TEMPLATE.len() as u64, ..Volume::default() };
    world.stock.volumes.insert("local:vztmpl/debian-12.tar.zst".into(), volume);
}

fn may_add(world: &mut World, _: Now) {
    allowed(world);
}

fn usb(world: &mut World, _: Now) {
    allowed(world);
    let options = [("path".to_owned(), json!("/mnt/usb"))].into();
    let storage = Storage { content: "backup,iso".into(), total: GIB, options, ..Storage::default() };
    world.storages.insert("usb1".into(), storage);
}

/// Another storage under that name.
fn another_storage(world: &mut World) {
    let options = [("path".to_owned(), json!("/mnt/other"))].into();
    let storage = Storage { content: "backup".into(), total: 2 * GIB, options, ..Storage::default() };
    world.storages.insert("usb1".into(), storage);
}

/// Another file under the name of the one that is to be downloaded.
fn another_template(world: &mut World) {
    let volume = Volume { content: "vztmpl".into(), format: "txz".into(), size: 1, ..Volume::default() };
    world.stock.volumes.insert(format!("local:vztmpl/{APPLIANCE}"), volume);
}

fn slot(seen: &Seen) -> &'static str {
    if seen.kind == GuestKind::Qemu { "scsi0" } else { "rootfs" }
}

fn volume(seen: &Seen, slot: &str) -> VolumeId {
    seen.slots[slot].parse().unwrap()
}

fn moved(seen: &Seen, delete_source: bool) -> Params {
    let (disk, volume) = (slot(seen).parse().unwrap(), volume(seen, slot(seen)));
    let storage = if volume.as_str().starts_with("tank:") { "local-lvm" } else { "tank" };
    Params::DiskMove(MoveParams { disk, volume, storage: storage.parse().unwrap(), delete_source })
}

fn detached(seen: &Seen) -> Params {
    let disk = ["scsi1", "sata0", "mp0"].into_iter().find(|slot| seen.slots.contains_key(*slot)).unwrap();
    Params::DiskDetach(DetachParams { disk: disk.parse().unwrap(), volume: volume(seen, disk) })
}

fn resized(seen: &Seen) -> Params {
    let amount = |key: &str, new| {
        let old = seen.config.get(key).map(|old| old.parse().unwrap());
        Some(Amount { old, new })
    };
    let lxc = seen.kind == GuestKind::Lxc;
    Params::GuestResize(ResizeParams {
        cores: amount("cores", 3),
        sockets: if lxc { None } else { amount("sockets", 2) },
        memory_mib: amount("memory", 777),
        swap_mib: if lxc { amount("swap", 64) } else { None },
    })
}

fn taken(_: &Seen) -> Params {
    Params::BackupCreate(BackupParams {
        storage: "local".parse().unwrap(),
        mode: BackupMode::Snapshot,
        compress: Compression::Zstd,
        protected: true,
        notes: "before the upgrade".parse().unwrap(),
    })
}

fn owner(seen: &Seen) -> BackupOwner {
    BackupOwner { vmid: seen.vmid, kind: seen.kind }
}

fn volids(seen: &Seen, which: std::ops::Range<usize>) -> Vec<VolumeId> {
    seen.backups[which].iter().map(|backup| backup.volid.clone()).collect()
}

fn protect(seen: &Seen, protected: bool) -> Params {
    let volume = seen.backups[0].volid.clone();
    Params::BackupProtect(BackupProtectParams { owner: owner(seen), volume, protected })
}

fn orphan(volume: &str, kind: GuestKind) -> Params {
    let owner = VolumeOwner::Gone { vmid: vmid(400), kind };
    Params::VolumeDelete(VolumeDeleteParams { volume: volume.parse().unwrap(), owner })
}

/// A new guest 300, started in the end.
fn made(kind: GuestKind, template: TemplateSource) -> Params {
    let net = NetParams { bridge: "vmbr0".parse().unwrap(), vlan: Some(7), firewall: true };
    Params::GuestCreate(CreateParams {
        vmid: vmid(300),
        kind,
        name: "fresh".parse().unwrap(),
        disk: matches!(template, TemplateSource::Archive { .. }).then_some(4 * GIB),
        net: (!matches!(template, TemplateSource::Backup { .. })).then_some(net),
        template,
        storage: "tank".parse().unwrap(),
        cores: 2,
        memory_mib: 512,
        unprivileged: true,
        onboot: true,
        start: true,
        pool: None,
        tags: vec!["web".parse().unwrap()],
    })
}

fn restored(seen: &Seen, unique: bool) -> Params {
    Params::GuestRestoreOver(RestoreOverParams {
        archive: seen.backups[0].volid.clone(),
        storage: "tank".parse().unwrap(),
        unique,
        start: true,
    })
}

fn backing() -> Backing {
    Backing::Dir { path: "/mnt/usb".parse().unwrap(), uuid: UUID.parse().unwrap() }
}

/// All of them.
pub(crate) fn rows() -> Vec<Row> {
    [disk_rows(), backup_rows(), guest_rows(), storage_rows()].into_iter().flatten().collect()
}

fn disk_rows() -> Vec<Row> {
    use GuestKind::{Lxc, Qemu};
    let grow = |seen: &Seen| {
        let (disk, volume) = (slot(seen).parse().unwrap(), volume(seen, slot(seen)));
        Params::GuestGrow(GrowParams { disk, volume, size: 40 * GIB })
    };
    let keep = |seen: &Seen| moved(seen, false);
    let delete = |seen: &Seen| moved(seen, true);
    let unused = |seen: &Seen| {
        let (volume, owner) = (volume(seen, "unused0"), VolumeOwner::Guest {});
        Params::VolumeDelete(VolumeDeleteParams { volume, owner })
    };
    let set = |row: Row| Row { compare_and_set: true, ..row };
    let detach = |row: Row| Row { set_up: second_disks, compare_and_set: true, ..row };
    let free = |row: Row| Row { set_up: unused_disks, compare_and_set: true, ..row };
    let gone = |row: Row| {
        let put = |world: &mut World| copy(world, 102, 400);
        Row { set_up: orphans, twin: Twin::Other { lines: "guest 400 ", put }, ..row }
    };
    vec![
        set(base(grow, "guest.grow lxc", Lxc, 201)),
        set(base(resized, "guest.resize qemu", Qemu, 101)),
        set(base(resized, "guest.resize lxc", Lxc, 201)),
        set(base(keep, "disk.move qemu", Qemu, 102)),
        set(base(delete, "disk.move and delete qemu", Qemu, 102)),
        set(base(delete, "disk.move and delete running qemu", Qemu, 100)),
        set(base(keep, "disk.move lxc", Lxc, 201)),
        set(base(delete, "disk.move and delete lxc", Lxc, 201)),
        detach(base(detached, "disk.detach qemu", Qemu, 101)),
        detach(base(detached, "disk.detach running qemu", Qemu, 100)),
        detach(base(detached, "disk.detach lxc", Lxc, 201)),
        free(base(unused, "volume.delete unused qemu", Qemu, 102)),
        free(base(unused, "volume.delete unused lxc", Lxc, 201)),
        gone(base(|_| orphan(QEMU_ORPHAN, GuestKind::Qemu), "volume.delete orphan qemu", Qemu, 102)),
        gone(base(|_| orphan(LXC_ORPHAN, GuestKind::Lxc), "volume.delete orphan lxc", Lxc, 201)),
    ]
}

fn backup_rows() -> Vec<Row> {
    use GuestKind::{Lxc, Qemu};
    let two = |seen: &Seen| {
        Params::BackupDelete(BackupDeleteParams { owner: owner(seen), remove: volids(seen, 0..2) })
    };
    let prune = |seen: &Seen| {
        let storage = "local".parse().unwrap();
        let (remove, keep) = (volids(seen, 0..2), volids(seen, 2..3));
        Params::BackupPrune(BackupPruneParams { owner: owner(seen), storage, remove, keep })
    };
    let on = |seen: &Seen| protect(seen, true);
    let off = |seen: &Seen| protect(seen, false);
    let of = |row: Row| {
        let twin = Twin::Other { lines: FIRST, put: another_backup };
        Row { set_up: backups, twin, ..row }
    };
    let guest = |row: Row| Row { set_up: backups, ..row };
    let both = |row: Row| Row { calls: 2, ..of(row) };
    vec![
        guest(base(taken, "backup.create running qemu", Qemu, 100)),
        guest(base(taken, "backup.create qemu", Qemu, 101)),
        guest(base(taken, "backup.create lxc", Lxc, 201)),
        both(base(two, "backup.delete qemu", Qemu, 101)),
        both(base(two, "backup.delete lxc", Lxc, 201)),
        both(base(prune, "backup.prune qemu", Qemu, 101)),
        both(base(prune, "backup.prune lxc", Lxc, 201)),
        of(base(on, "backup.protect qemu", Qemu, 101)),
        Row { set_up: first_protected, ..of(base(off, "backup.protect no longer lxc", Lxc, 201)) },
    ]
}

fn guest_rows() -> Vec<Row> {
    use GuestKind::{Lxc, Qemu};
    let archive = |_: &Seen| {
        let volume = "local:vztmpl/debian-12.tar.zst".parse().unwrap();
        made(GuestKind::Lxc, TemplateSource::Archive { volume, sha256: Sha256::of(TEMPLATE) })
    };
    let clone = |seen: &Seen| {
        let digest = seen.digest.parse().unwrap();
        made(seen.kind, TemplateSource::Guest { vmid: seen.vmid, digest })
    };
    let backup = |seen: &Seen| {
        let first = &seen.backups[0];
        let (volume, size, ctime) = (first.volid.clone(), first.size, first.ctime);
        made(seen.kind, TemplateSource::Backup { volume, size, ctime })
    };
    let destroy =
        |_: &Seen| Params::GuestDestroy(DestroyParams { purge: false, destroy_unreferenced: false });
    let over = |seen: &Seen| restored(seen, false);
    let beside = |seen: &Seen| restored(seen, true);
    let new = |calls, row: Row| {
        let put = match row.guest {
            Qemu => |world: &mut World| copy(world, 101, 300),
            Lxc => |world: &mut World| copy(world, 201, 300),
        };
        Row { set_up: template, calls, twin: Twin::Other { lines: "guest 300 ", put }, ..row }
    };
    let from_backup = |row: Row| Row { set_up: backups, ..new(3, row) };
    let over_it = |calls, row: Row| Row { set_up: backups, calls, compare_and_set: true, ..row };
    // All that these read, and all that they write but one stop, the rows of running guests have as well.
    let stopped = |row: Row| Row { reads: false, ..over_it(5, row) };
    let running = |row: Row| Row { set_up: running, calls: 3, compare_and_set: true, ..row };
    vec![
        new(2, base(archive, "guest.create from a file lxc", Lxc, 201)),
        new(3, base(clone, "guest.create as a clone qemu", Qemu, 102)),
        new(3, base(clone, "guest.create as a clone lxc", Lxc, 201)),
        from_backup(base(backup, "guest.create from a backup qemu", Qemu, 101)),
        from_backup(base(backup, "guest.create from a backup lxc", Lxc, 201)),
        over_it(6, base(over, "guest.restore_over running qemu", Qemu, 100)),
        stopped(base(beside, "guest.restore_over qemu", Qemu, 101)),
        over_it(6, base(beside, "guest.restore_over running lxc", Lxc, 200)),
        stopped(base(over, "guest.restore_over lxc", Lxc, 201)),
        running(base(destroy, "guest.destroy running qemu", Qemu, 100)),
        running(base(destroy, "guest.destroy running lxc", Lxc, 200)),
    ]
}

/// Those that make a guest in the place of another one, with a twin of the new one: somebody takes its number
/// as soon as it is made. Under the number of the plan there is nobody before.
pub(crate) fn taken_numbers() -> Vec<Row> {
    let over = guest_rows().into_iter().filter(|row| row.name.starts_with("guest.restore_over"));
    let twin = |row: Row| {
        let (lines, put): (_, fn(&mut World)) = match row.guest {
            GuestKind::Qemu => ("guest 103 ", |world| copy(world, 102, 103)),
            GuestKind::Lxc => ("guest 202 ", |world| copy(world, 201, 202)),
        };
        Row { twin: Twin::Made { lines, put }, ..row }
    };
    over.map(twin).collect()
}

fn running(world: &mut World, now: Now) {
    protected(world, now);
    for vmid in [100, 200] {
        world.guests.get_mut(&vmid).unwrap().config.insert("protection".into(), json!(1));
    }
}

fn storage_rows() -> Vec<Row> {
    let add = |_: &Seen| {
        let content = vec![ContentType::Backup, ContentType::Iso];
        let (storage, backing) = ("usb1".parse().unwrap(), backing());
        Params::StorageAdd(StorageAddParams { storage, backing, content })
    };
    let remove = |_: &Seen| {
        let (storage, backing) = ("usb1".parse().unwrap(), backing());
        Params::StorageRemove(StorageRemoveParams { storage, backing })
    };
    let download = |_: &Seen| {
        let (storage, template) = ("local".parse().unwrap(), APPLIANCE.parse().unwrap());
        Params::TemplateDownload(TemplateParams { storage, template, sha256: Sha256::of(TEMPLATE) })
    };
    let of = |row: Row| Row { twin: Twin::Other { lines: "storage usb1", put: another_storage }, ..row };
    let file =
        |row: Row| Row { twin: Twin::Other { lines: "volume local:vztmpl/", put: another_template }, ..row };
    vec![
        file(base(download, "template.download", GuestKind::Lxc, 201)),
        of(Row { set_up: may_add, ..base(add, "storage.add", GuestKind::Qemu, 101) }),
        of(Row { set_up: usb, ..base(remove, "storage.remove", GuestKind::Qemu, 101) }),
    ]
}
