//! `writ op KIND`: one subcommand per kind of order that is prepared by hand, named as the kind.

mod backup;
mod create;
mod disk;
mod guest;
mod host;
mod values;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::text::SafeText;
use protocol::{HostName, SnapshotName, Tag, Vmid};

use crate::prepare::{DiskWish, GuestWish, SnapshotWish, Wish};
use crate::text::parse_duration;

use backup::{CreateBackup, DeleteBackups, ProtectBackup, PruneBackups};
use create::CreateGuest;
use disk::{DeleteVolume, DetachDisk, GrowDisk, MoveDisk};
use guest::{Adopt, ChangeConfig, Destroy, Reboot, Resize, RestoreOver, Shutdown, Suspend};
use host::{AddStorage, DownloadTemplate, MountUsb, RemoveStorage, UnmountUsb};
pub(super) use values::guest_kind;

/// About which guest.
#[derive(Debug, Args)]
struct OpArgs {
    /// The host's name
    host: HostName,
    /// The guest's number
    vmid: Vmid,
}

/// How an order is prepared.
#[derive(Debug, Args)]
pub struct OpOptions {
    /// Where to write the order
    #[arg(short, long, default_value = "order.json", value_name = "FILE", help_heading = "The order")]
    pub output: PathBuf,
    /// Replace an existing file
    #[arg(long, help_heading = "The order")]
    pub force: bool,
    /// Only print what would be ordered: no file is written
    #[arg(long, conflicts_with_all = ["output", "force", "plan"], help_heading = "The order")]
    pub preview: bool,
    /// Why, for the people who read the order and the log
    #[arg(long, default_value = "", help_heading = "The order")]
    pub reason: SafeText,
    /// A ticket
    #[arg(long, help_heading = "The order")]
    pub ticket: Option<SafeText>,
    /// How long the order can be used, from now
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION", help_heading = "The order")]
    pub valid: u64,
    /// How many operators must sign, where that is more than the policy wants
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=8), value_name = "N", help_heading = "The order")]
    pub min_signers: u32,
    /// Bind the order to a plan that the host computes, also where the policy lets it do without: the plan says what will be done, and can be used for 15 minutes
    #[arg(long, help_heading = "The order")]
    pub plan: bool,
}

/// What kinds without words of their own need.
#[derive(Debug, Args)]
pub struct Plain {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// A snapshot of a guest.
#[derive(Debug, Args)]
pub struct OneSnapshot {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// The snapshot's name
    #[arg(value_name = "SNAPSHOT")]
    snapshot: SnapshotName,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `snapshot.rollback`
#[derive(Debug, Args)]
pub struct Rollback {
    /// Which
    #[command(flatten)]
    one: OneSnapshot,
    /// Start the guest afterwards
    #[arg(long)]
    start: bool,
}

/// `guest.tag`
#[derive(Debug, Args)]
pub struct SetTags {
    /// Where
    #[command(flatten)]
    at: OpArgs,
    /// All tags it shall have
    #[arg(value_name = "TAG")]
    tags: Vec<Tag>,
    /// How
    #[command(flatten)]
    options: OpOptions,
}

/// `writ op KIND`
#[derive(Debug, Subcommand)]
pub enum OpCommand {
    /// Start a guest
    #[command(name = "guest.start")]
    GuestStart(Plain),
    /// Let a paused guest go on, or start one from its memory on disk
    #[command(name = "guest.resume")]
    GuestResume(Plain),
    /// Ask a guest to shut down
    #[command(name = "guest.shutdown")]
    GuestShutdown(Shutdown),
    /// Switch a guest off as if its plug were pulled: what it had not written is lost
    #[command(name = "guest.stop")]
    GuestStop(Plain),
    /// Ask a guest to shut down, and start it again
    #[command(name = "guest.reboot")]
    GuestReboot(Reboot),
    /// Pause a virtual machine, or write its memory to disk and stop it
    #[command(name = "guest.suspend")]
    GuestSuspend(Suspend),
    /// Give a guest exactly these tags; none removes all
    #[command(name = "guest.tag")]
    GuestTag(SetTags),
    /// Change options of a guest's configuration
    #[command(
        name = "guest.config",
        after_help = "Options and values as Proxmox spells them. What only root may set, secrets, and what a guest runs\n\
        at its start are refused by name; processors and memory are changed by guest.resize, tags by\n\
        guest.tag, disks by disk.move, disk.detach and guest.grow.\n\n\
        Example:\n  writ op guest.config web1 101 --set onboot=1 --set startup=order=2 --unset searchdomain"
    )]
    GuestConfig(ChangeConfig),
    /// Change a guest's processors and memory
    #[command(
        name = "guest.resize",
        after_help = "Example:\n  writ op guest.resize web1 101 --cores 4 --memory 4G"
    )]
    GuestResize(Resize),
    /// Make a disk of a guest larger; it cannot be made smaller again
    #[command(
        name = "guest.grow",
        after_help = "Examples:\n  writ op guest.grow web1 101 scsi0 +10G\n  writ op guest.grow web1 200 rootfs 20G"
    )]
    GuestGrow(GrowDisk),
    /// Make a new guest from a container template, a template guest or a backup
    #[command(
        name = "guest.create",
        after_help = "Examples:\n  \
        writ op guest.create web1 301 --from local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst \\\n    \
        --sha256 HEX --name files --storage local-zfs --disk 8G --cores 2 --memory 1G --bridge vmbr0\n  \
        writ op guest.create web1 302 --clone 9000 --name kiosk --storage local-lvm --cores 2 --memory 4G\n  \
        writ op guest.create web1 303 --backup local:backup/vzdump-qemu-101-2026_11_22-02_00_05.vma.zst \\\n    \
        --name db-restored --storage local-lvm --cores 4 --memory 8G"
    )]
    GuestCreate(Box<CreateGuest>),
    /// Let a new guest made from a backup take a guest's place; the old one is kept, stopped and put aside
    #[command(
        name = "guest.restore_over",
        visible_alias = "guest.restore-over",
        after_help = "Nothing is overwritten: the backup becomes a guest with a new number, is compared, and only then the old guest\n\
        is stopped (it must be stopped already, or --stop), loses its network and its start at boot, and gets the tag\n\
        writ-replaced. It stays until a guest.destroy. There must be another backup of it: nothing is restored from the\n\
        only copy. To look into a backup first, restore it beside: guest.create --backup.\n\n\
        Example:\n  writ op guest.restore_over web1 101 --storage local-lvm \\\n    \
        --archive local:backup/vzdump-qemu-101-2026_11_22-02_00_05.vma.zst"
    )]
    GuestRestoreOver(RestoreOver),
    /// Destroy a guest for good, with its disks and snapshots; backups stay
    #[command(name = "guest.destroy", after_help = "The guest must be stopped, or --stop does that.")]
    GuestDestroy(Destroy),
    /// Let Writ manage a guest from now on
    #[command(name = "guest.adopt")]
    GuestAdopt(Adopt),
    /// Let Writ no longer manage a guest, which stays as it is
    #[command(name = "guest.release")]
    GuestRelease(Plain),
    /// Take a snapshot, without memory
    #[command(name = "snapshot.create")]
    SnapshotCreate(OneSnapshot),
    /// Roll a guest back to a snapshot: everything since is lost, a running guest is stopped hard
    #[command(name = "snapshot.rollback")]
    SnapshotRollback(Rollback),
    /// Delete a snapshot for good
    #[command(name = "snapshot.delete")]
    SnapshotDelete(OneSnapshot),
    /// Back a guest up now; no older backup is deleted by it
    #[command(
        name = "backup.create",
        after_help = "Example:\n  writ op backup.create web1 101 --storage local --protected --notes 'before the move'"
    )]
    BackupCreate(CreateBackup),
    /// Delete backups for good, each by its name
    #[command(
        name = "backup.delete",
        after_help = "Example:\n  writ op backup.delete web1 101 local:backup/vzdump-qemu-101-2026_11_22-02_00_05.vma.zst"
    )]
    BackupDelete(DeleteBackups),
    /// Delete all backups of a guest on a storage but those that are kept
    #[command(
        name = "backup.prune",
        after_help = "The order names each backup that goes and each that stays, and at least one stays. --preview prints\n\
        them and writes no file.\n\n\
        Examples:\n  writ op backup.prune web1 101 --storage local --keep-last 7 --preview\n  \
        writ op backup.prune web1 101 --storage local --keep local:backup/vzdump-qemu-101-2026_11_22-02_00_05.vma.zst"
    )]
    BackupPrune(PruneBackups),
    /// Protect a backup from being deleted and pruned, or lift that
    #[command(name = "backup.protect")]
    BackupProtect(ProtectBackup),
    /// Move a disk to another storage
    #[command(
        name = "disk.move",
        after_help = "Example:\n  writ op disk.move web1 101 scsi0 --to local-zfs --delete-source"
    )]
    DiskMove(MoveDisk),
    /// Take a disk away from a guest; it stays as an unused one
    #[command(name = "disk.detach", after_help = "Example:\n  writ op disk.detach web1 101 scsi1")]
    DiskDetach(DetachDisk),
    /// Delete a volume for good: an unused disk of a guest, or what a guest left behind
    #[command(
        name = "volume.delete",
        after_help = "Examples:\n  writ op volume.delete web1 101 unused0\n  \
        writ op volume.delete web1 105 local-lvm:vm-105-disk-1 --gone qemu"
    )]
    VolumeDelete(DeleteVolume),
    /// Download a container template from Proxmox's index
    #[command(name = "template.download")]
    TemplateDownload(DownloadTemplate),
    /// Add a storage to Proxmox's configuration; what backs it is named by its identity
    #[command(
        name = "storage.add",
        after_help = "Examples:\n  \
        writ op storage.add web1 usb-backup --dir /mnt/writ/backup --uuid 6f7a2c1e-0b5d-4c3a-9e8f-333333333333 --content backup,iso\n  \
        writ op storage.add web1 tank --zfs tank --guid 12345678901234567890 --content images,rootdir\n  \
        writ op storage.add web1 thin --lvmthin pve/data --vg-uuid Zr5zT9-1a2b-3c4d-5e6f-7g8h-9i0j-AbCdEf --content images,rootdir"
    )]
    StorageAdd(AddStorage),
    /// Remove a storage from Proxmox's configuration; the data stays where it is
    #[command(name = "storage.remove")]
    StorageRemove(RemoveStorage),
    /// Mount a filesystem of a USB disk under /mnt/writ/NAME
    #[command(
        name = "usb.mount",
        after_help = "Example:\n  writ op usb.mount web1 6f7a2c1e-0b5d-4c3a-9e8f-333333333333 backup --filesystem ext4 --persist"
    )]
    UsbMount(MountUsb),
    /// Unmount a filesystem of a USB disk
    #[command(name = "usb.unmount")]
    UsbUnmount(UnmountUsb),
}

/// What a command line asks for.
#[derive(Debug)]
pub struct Asked {
    /// On which host.
    pub host: HostName,
    /// How the order is prepared.
    pub options: OpOptions,
    /// What.
    pub wish: Wish,
}

impl Asked {
    fn new(host: HostName, options: OpOptions, wish: Wish) -> Self {
        Self { host, options, wish }
    }

    fn guest(OpArgs { host, vmid }: OpArgs, options: OpOptions, wish: GuestWish) -> Self {
        Self::new(host, options, Wish::Guest(vmid, wish))
    }

    fn disk(OpArgs { host, vmid }: OpArgs, options: OpOptions, wish: DiskWish) -> Self {
        Self::new(host, options, Wish::Disk(vmid, wish))
    }

    fn plain(Plain { at, options }: Plain, wish: GuestWish) -> Self {
        Self::guest(at, options, wish)
    }

    fn snapshot(one: OneSnapshot, wish: impl FnOnce(SnapshotName) -> SnapshotWish) -> Self {
        let OneSnapshot { at: OpArgs { host, vmid }, snapshot, options } = one;
        Self::new(host, options, Wish::Snapshot(vmid, wish(snapshot)))
    }
}

impl OpCommand {
    /// What it asks for.
    pub fn ask(self) -> Asked {
        match self {
            Self::GuestStart(plain) => Asked::plain(plain, GuestWish::Start),
            Self::GuestResume(plain) => Asked::plain(plain, GuestWish::Resume),
            Self::GuestStop(plain) => Asked::plain(plain, GuestWish::Stop),
            Self::GuestRelease(plain) => Asked::plain(plain, GuestWish::Release),
            Self::GuestTag(SetTags { at, tags, options }) => Asked::guest(at, options, GuestWish::Tag(tags)),
            Self::GuestShutdown(args) => args.ask(),
            Self::GuestReboot(args) => args.ask(),
            Self::GuestSuspend(args) => args.ask(),
            Self::GuestConfig(args) => args.ask(),
            Self::GuestResize(args) => args.ask(),
            Self::GuestGrow(args) => args.ask(),
            Self::GuestCreate(args) => args.ask(),
            Self::GuestRestoreOver(args) => args.ask(),
            Self::GuestDestroy(args) => args.ask(),
            Self::GuestAdopt(args) => args.ask(),
            Self::SnapshotCreate(one) => Asked::snapshot(one, SnapshotWish::Create),
            Self::SnapshotDelete(one) => Asked::snapshot(one, SnapshotWish::Delete),
            Self::SnapshotRollback(Rollback { one, start }) => {
                Asked::snapshot(one, |snapshot| SnapshotWish::Rollback { snapshot, start })
            }
            Self::BackupCreate(args) => args.ask(),
            Self::BackupDelete(args) => args.ask(),
            Self::BackupPrune(args) => args.ask(),
            Self::BackupProtect(args) => args.ask(),
            Self::DiskMove(args) => args.ask(),
            Self::DiskDetach(args) => args.ask(),
            Self::VolumeDelete(args) => args.ask(),
            Self::TemplateDownload(args) => args.ask(),
            Self::StorageAdd(args) => args.ask(),
            Self::StorageRemove(args) => args.ask(),
            Self::UsbMount(args) => args.ask(),
            Self::UsbUnmount(args) => args.ask(),
        }
    }
}
