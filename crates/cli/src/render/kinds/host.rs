//! The host: storages, USB disks, plans, scripts, sessions, and the host's own key, log and programs.

use authz::order::{
    ApproveParams, Arch, Backing, Checkpoint, ContentType, Filesystem, JobParams, MountParams,
    ReanchorParams, RebindParams, SessionParams, StorageAddParams, StorageRemoveParams, TemplateParams,
    UnmountParams, UpdateParams,
};

use super::super::order::{seconds, size};
use super::{Rows, also, effect, either};

pub(super) fn template_download(params: &TemplateParams, rows: &mut Rows) {
    let TemplateParams { storage, template, sha256 } = params;
    effect(
        rows,
        format!("download the container template {template} from Proxmox's index to storage {storage}"),
    );
    rows.push(("content", format!("SHA-256 {sha256}; anything else does not count")));
}

fn backing(backing: &Backing, rows: &mut Rows) {
    let text = match backing {
        Backing::Dir { path, uuid } => format!("the directory {path} on filesystem {uuid}"),
        Backing::ZfsPool { pool, guid } => format!("the ZFS pool {pool}, GUID {guid}"),
        Backing::LvmThin { vg, uuid, pool } => {
            format!("the thin pool {pool} of volume group {vg}, UUID {uuid}")
        }
    };
    rows.push(("behind it", text));
}

pub(super) fn storage_add(params: &StorageAddParams, rows: &mut Rows) {
    let StorageAddParams { storage, backing: what, content } = params;
    effect(rows, format!("add storage {storage} to Proxmox's configuration"));
    backing(what, rows);
    let names: Vec<&str> = content
        .iter()
        .map(|content| match content {
            ContentType::Images => "images",
            ContentType::Rootdir => "rootdir",
            ContentType::Iso => "iso",
            ContentType::Vztmpl => "vztmpl",
            ContentType::Backup => "backup",
            ContentType::Import => "import",
        })
        .collect();
    rows.push(("content", names.join(", ")));
    also(rows, "whoever may use storages on this host may use it; nothing on it is formatted");
}

pub(super) fn storage_remove(params: &StorageRemoveParams, rows: &mut Rows) {
    let StorageRemoveParams { storage, backing: what } = params;
    effect(rows, format!("remove storage {storage} from Proxmox's configuration"));
    backing(what, rows);
    also(
        rows,
        "its data stays where it is, but guests with disks on it cannot start, and its backups are no longer listed",
    );
}

pub(super) fn mount(params: &MountParams, rows: &mut Rows) {
    let MountParams { uuid, filesystem, name, read_only, persist } = params;
    let filesystem = match filesystem {
        Filesystem::Ext4 => "ext4",
        Filesystem::Xfs => "xfs",
        Filesystem::Btrfs => "btrfs",
        Filesystem::Vfat => "vfat",
        Filesystem::Exfat => "exfat",
        Filesystem::Ntfs3 => "ntfs3",
    };
    effect(rows, format!("mount the {filesystem} filesystem {uuid} of a USB disk at /mnt/writ/{name}"));
    rows.push(("access", either(*read_only, "reading only", "reading and writing")));
    also(
        rows,
        either(*persist, "it is mounted again after a reboot", "it is not mounted again after a reboot"),
    );
    also(rows, "programs on it cannot be run (nosuid, nodev, noexec)");
}

pub(super) fn unmount(UnmountParams { uuid, name, forget }: &UnmountParams, rows: &mut Rows) {
    effect(rows, format!("unmount the filesystem {uuid} from /mnt/writ/{name}"));
    also(
        rows,
        either(
            *forget,
            "it is not mounted again after a reboot",
            "it is mounted again after a reboot, if it was to be",
        ),
    );
    also(rows, "storages and guests that use it lose it");
}

pub(super) fn plan_approve(ApproveParams { steps, count }: &ApproveParams, rows: &mut Rows) {
    effect(rows, format!("approve a plan: its {count} step(s), exactly these and in this order"));
    rows.push(("steps", format!("SHA-256 {steps}")));
    also(rows, "this text does not show the steps: read them with `writ plan` before you sign");
}

pub(super) fn job(params: &JobParams, rows: &mut Rows) {
    let JobParams { script, script_len, interpreter, args, user, env, timeout_s, max_output, result_key } =
        params;
    effect(rows, format!("run a script as {user}, once"));
    rows.push(("script", format!("{script_len} bytes, SHA-256 {script}, read by {interpreter}")));
    rows.extend(args.iter().map(|arg| ("argument", format!("{:?}", arg.as_str()))));
    rows.extend(env.iter().map(|var| ("environment", format!("{}={:?}", var.name, var.value.as_str()))));
    let (time, kept) = (seconds((*timeout_s).into()), size((*max_output).into()));
    rows.push(("limits", format!("killed after {time}; {kept} of output kept")));
    rows.push(("result to", format!("key {}", result_key.fingerprint())));
    also(rows, "this text does not show the script: whatever it does, it does with that account's rights");
}

pub(super) fn session(params: &SessionParams, rows: &mut Rows) {
    let SessionParams { key, user, mode, forwards, idle_s, max_s } = params;
    effect(rows, format!("open an SSH session as {user}: {mode}"));
    rows.extend(forwards.iter().map(|target| ("forward to", target.to_string())));
    let (idle, max) = (seconds((*idle_s).into()), seconds((*max_s).into()));
    rows.push(("limits", format!("ends after {idle} idle, and after {max} in any case")));
    rows.push(("client key", key.fingerprint().to_string()));
}

fn checkpoint(Checkpoint { size, head }: &Checkpoint) -> String {
    format!("{size} entries, the last one {head}")
}

pub(super) fn rebind(params: &RebindParams, rows: &mut Rows) {
    let RebindParams { boot_id, host_key, generation, log } = params;
    effect(rows, format!("let the machine with boot id {boot_id} go on as this host, with a new host key"));
    rows.push(("new key", format!("{}, generation {generation}", host_key.fingerprint())));
    rows.push(("log", format!("goes on after {}", checkpoint(log))));
    also(rows, "every other machine with this host's identity is nobody from then on");
    also(rows, "orders for the old key are dead: prepare them again");
}

pub(super) fn reanchor(ReanchorParams { last, log, journal }: &ReanchorParams, rows: &mut Rows) {
    effect(rows, "let a host with a damaged store begin a new one");
    rows.push((
        "audit log",
        either(*log, "begun anew: its history before cannot be proved any more", "kept"),
    ));
    rows.push((
        "journal",
        either(*journal, "begun anew: which orders were used before is FORGOTTEN", "kept"),
    ));
    let known = last.as_ref().map_or("nothing".to_owned(), checkpoint);
    rows.push(("known", format!("of the old log: {known}")));
    also(rows, "no order signed before this one counts on the host afterwards");
}

pub(super) fn update(UpdateParams { version, arch, sha256, size: bytes }: &UpdateParams, rows: &mut Rows) {
    let arch = match arch {
        Arch::Amd64 => "amd64",
        Arch::Arm64 => "arm64",
    };
    effect(rows, format!("update Writ on the host to version {version} ({arch})"));
    rows.push(("package", format!("{}, SHA-256 {sha256}", size(*bytes))));
    also(rows, "the new program decides from then on what this host accepts; sessions and scripts end");
}
