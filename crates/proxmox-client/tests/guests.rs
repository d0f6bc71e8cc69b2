//! Calls about guests: the bytes they become, and what is refused before any are sent.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy exempts only the #[test] functions")]

mod common;

use std::time::Duration;

use common::{React, Server};
use proxmox_client::{
    ApiError, Backup, BackupMode, Client, CloneGuest, Compression, ConfigChange, CreateLxc, CreateQemu,
    Delivery, Destroy, DestroyFirst, DiskFormat, ErrorClass, Feature, GrowBy, GuestKind, MoveVolume,
    NewSnapshot, PropertyString, Restore, Retention, Shutdown, SnapshotName, Started, StorageName, Vmid,
    Volid,
};

/// The task that was asked for.
const TASK: &str = "task";
const DIGEST: &str = "2e2c4ff634a3e39e882bf183884efab3c46738c7";
const ARCHIVE: &str = "local:backup/vzdump-qemu-100-2026_11_22-03_21_27.vma.zst";
const CT_ARCHIVE: &str = "local:backup/vzdump-lxc-202-2026_11_22-03_16_25.tar.zst";

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

fn storage(text: &str) -> StorageName {
    text.parse().unwrap()
}

fn volid(text: &str) -> Volid {
    text.parse().unwrap()
}

async fn answering(data: &'static str) -> (Server, Client) {
    Server::pinned(move |seen, _| if data == TASK { React::task(seen) } else { React::ok(data) }).await
}

/// Method, path below the API's root, and body of what came last.
fn last(server: &Server) -> (String, String, String) {
    let seen = server.last();
    let path = seen.target.strip_prefix("/api2/json/nodes/pve1/").unwrap_or(&seen.target).to_owned();
    (seen.method, path, seen.body)
}

#[track_caller]
fn was(server: &Server, method: &str, path: &str, body: &str) {
    assert_eq!(last(server), (method.to_owned(), path.to_owned(), body.to_owned()));
}

#[track_caller]
fn refused<T: std::fmt::Debug>(server: &Server, result: Result<T, ApiError>, says: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.class(), error.delivery()), (ErrorClass::Parameter, Delivery::NotSent), "{error}");
    assert!(error.to_string().contains(says), "{error}");
    assert_eq!(server.count(), 0, "it was sent");
}

const BOTH: [GuestKind; 2] = [GuestKind::Qemu, GuestKind::Lxc];

#[tokio::test]
async fn power_of_both_kinds() {
    let (server, client) = answering(TASK).await;
    for kind in BOTH {
        let guest = vmid(100);
        client.stop(kind, guest).await.unwrap();
        was(&server, "POST", &format!("{kind}/100/status/stop"), "");
        client.shutdown(kind, guest, Shutdown::new()).await.unwrap();
        was(&server, "POST", &format!("{kind}/100/status/shutdown"), "forceStop=0");
        let how = Shutdown::new().timeout(Duration::from_secs(90)).then_force_stop();
        client.shutdown(kind, guest, how).await.unwrap();
        was(&server, "POST", &format!("{kind}/100/status/shutdown"), "timeout=90&forceStop=1");
        client.reboot(kind, guest, Some(Duration::from_secs(5))).await.unwrap();
        was(&server, "POST", &format!("{kind}/100/status/reboot"), "timeout=5");
        client.resume(kind, guest).await.unwrap();
        was(&server, "POST", &format!("{kind}/100/status/resume"), "");
    }
    client.suspend(GuestKind::Qemu, vmid(100)).await.unwrap();
    was(&server, "POST", "qemu/100/status/suspend", "todisk=0");
    client.suspend(GuestKind::Lxc, vmid(100)).await.unwrap();
    was(&server, "POST", "lxc/100/status/suspend", "");
    client.reset(vmid(100)).await.unwrap();
    was(&server, "POST", "qemu/100/status/reset", "");

    let (server, client) = answering(TASK).await;
    let month = Shutdown::new().timeout(Duration::from_secs(30 * 86_400));
    refused(&server, client.shutdown(GuestKind::Qemu, vmid(100), month).await, "timeout");
}

#[tokio::test]
async fn a_config_is_changed_only_against_its_digest() {
    let (server, client) = answering("null").await;
    let net = PropertyString::parse("virtio=BC:24:11:00:00:01,bridge=vmbr0").with("link_down", 1).unwrap();
    let change = ConfigChange::new(DIGEST)
        .set("net0", &net)
        .set("onboot", 1)
        .delete("protection")
        .delete("scsi1")
        .revert("memory");
    client.change_config_now(GuestKind::Qemu, vmid(100), &change).await.unwrap();
    let body = format!(
        "net0=virtio%3DBC%3A24%3A11%3A00%3A00%3A01%2Cbridge%3Dvmbr0%2Clink_down%3D1&onboot=1&delete=protection%2Cscsi1&revert=memory&digest={DIGEST}"
    );
    was(&server, "PUT", "qemu/100/config", &body);
    assert_eq!(client.change_config(GuestKind::Qemu, vmid(100), &change).await.unwrap(), Started::AtOnce);
    was(&server, "POST", "qemu/100/config", &body);
    let change = ConfigChange::new(DIGEST).set("features", "nesting=1").set("mp0", "btr:1,mp=/data");
    assert_eq!(client.change_config(GuestKind::Lxc, vmid(200), &change).await.unwrap(), Started::AtOnce);
    let body = format!("features=nesting%3D1&mp0=btr%3A1%2Cmp%3D%2Fdata&digest={DIGEST}");
    was(&server, "PUT", "lxc/200/config", &body);

    let (_server, client) = answering(TASK).await;
    let change = ConfigChange::new(DIGEST).set("cores", 2);
    let started = client.change_config(GuestKind::Qemu, vmid(100), &change).await.unwrap();
    assert!(matches!(started, Started::Task(_)));
}

#[tokio::test]
async fn bad_changes_are_not_sent() {
    let (server, client) = answering("null").await;
    let change = || ConfigChange::new(DIGEST);
    for (kind, change, says) in [
        (GuestKind::Qemu, ConfigChange::new("").set("onboot", 1), "digest"),
        (GuestKind::Qemu, ConfigChange::new("0").set("onboot", 1), "digest"),
        (GuestKind::Qemu, ConfigChange::new("zz").set("onboot", 1), "digest"),
        (GuestKind::Qemu, change(), "no change"),
        (GuestKind::Qemu, change().set("args", "-S"), "`args` is kept for root@pam"),
        (GuestKind::Qemu, change().delete("lock"), "`lock` is kept for root@pam"),
        (GuestKind::Lxc, change().delete("lock"), "`lock` is kept for root@pam"),
        (GuestKind::Qemu, change().set("hookscript", "local:snippets/a.pl"), "`hookscript` is kept"),
        (GuestKind::Lxc, change().set("features", "keyctl=1"), "but `nesting`"),
        (GuestKind::Lxc, change().set("mp0", "/mnt/usb,mp=/usb"), "path of the host"),
        (GuestKind::Qemu, change().set("skiplock", 1), "skiplock"),
        (GuestKind::Qemu, change().set("digest", "x"), "digest"),
        (GuestKind::Qemu, change().set("force", 1), "force"),
        (GuestKind::Qemu, change().set("cores", 0), "cores"),
        (GuestKind::Qemu, change().set("cores", 2).delete("cores"), "changed twice"),
        (GuestKind::Qemu, change().set("scsi31", "local-lvm:1"), "scsi0 to scsi30"),
        (GuestKind::Qemu, change().set("hostname", "a"), "no parameter `hostname`"),
        (GuestKind::Lxc, change().set("name", "a"), "no parameter `name`"),
        (GuestKind::Qemu, change().set("name", "a_b"), "host name"),
        (GuestKind::Qemu, change().set("onboot", "yes"), "0 or 1"),
        (GuestKind::Qemu, change().set("net0", "a\nb"), "one line"),
        (GuestKind::Qemu, change().set("description", "x".repeat(8193)), "8192"),
        (GuestKind::Qemu, change().set("bios", "coreboot"), "seabios"),
        (GuestKind::Lxc, change().set("memory", 15), "memory"),
        (GuestKind::Lxc, change().set("tags", "a b"), "tags"),
        (GuestKind::Qemu, change().delete("a,b&c=d"), "names"),
    ] {
        refused(&server, client.change_config_now(kind, vmid(100), &change).await, says);
        refused(&server, client.change_config(kind, vmid(100), &change).await, says);
    }
    let secret = change().set("cipassword", "hunter2\0");
    let error = client.change_config_now(GuestKind::Qemu, vmid(100), &secret).await.unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn guests_are_made_with_everything_said() {
    let (server, client) = answering(TASK).await;
    let new = CreateQemu::new(vmid(105)).name("web").memory(2048).cores(2).option("scsi0", "local-lvm:8");
    client.create_qemu(&new).await.unwrap();
    was(
        &server,
        "POST",
        "qemu",
        "vmid=105&start=0&onboot=0&name=web&memory=2048&cores=2&scsi0=local-lvm%3A8",
    );
    client.create_qemu(&CreateQemu::new(vmid(105)).ssh_public_keys("ssh-ed25519 AA+A= me\n")).await.unwrap();
    // Encoded twice: the value is itself percent-encoded text.
    was(
        &server,
        "POST",
        "qemu",
        "vmid=105&start=0&onboot=0&sshkeys=ssh-ed25519%2520AA%252BA%253D%2520me%250A",
    );
    let template = volid("local:vztmpl/busybox-tiny_1.0_amd64.tar.gz");
    let new = CreateLxc::new(vmid(200), template, &storage("btr"), 1)
        .hostname("ct200")
        .memory(128)
        .swap(0)
        .pool("lab")
        .password("hunter22")
        .ssh_public_keys("ssh-ed25519 AAAA= me\n");
    assert!(!format!("{new:?}").contains("hunter22"));
    client.create_lxc(&new).await.unwrap();
    was(
        &server,
        "POST",
        "lxc",
        "vmid=200&start=0&onboot=0&pool=lab&hostname=ct200&memory=128&swap=0&ostemplate=local%3Avztmpl%2Fbusybox-tiny_1.0_amd64.tar.gz&rootfs=btr%3A1&unprivileged=1&password=hunter22&ssh-public-keys=ssh-ed25519+AAAA%3D+me%0A",
    );
    client.create_lxc(&new.clone().privileged().start().start_on_boot()).await.unwrap();
    let body = last(&server).2;
    assert!(body.contains("start=1&onboot=1") && body.contains("unprivileged=0"), "{body}");

    let (server, client) = answering(TASK).await;
    for (new, says) in [
        (CreateQemu::new(vmid(105)).name("a b"), "host name"),
        (CreateQemu::new(vmid(105)).cores(0), "cores"),
        (CreateQemu::new(vmid(105)).option("args", "-S"), "kept for root"),
        (CreateQemu::new(vmid(105)).option("archive", ARCHIVE), "method made for it"),
        (CreateQemu::new(vmid(105)).option("force", 1), "method made for it"),
        (CreateQemu::new(vmid(105)).option("start", 1), "method made for it"),
        (CreateQemu::new(vmid(105)).option("scsi0", "/dev/sda"), "path of the host"),
        (CreateQemu::new(vmid(105)).option("nosuch", 1), "no parameter"),
        (CreateQemu::new(vmid(105)).name("a").name("b"), "given twice"),
        (CreateQemu::new(vmid(105)).pool("../x"), "pool"),
        (CreateQemu::new(vmid(105)).ssh_public_keys("a").ssh_public_keys("b"), "given twice"),
    ] {
        refused(&server, client.create_qemu(&new).await, says);
    }
    let lxc = || CreateLxc::new(vmid(200), volid("local:vztmpl/a.tar.gz"), &storage("btr"), 1);
    for (new, says) in [
        (lxc().memory(8), "memory"),
        (lxc().hostname("_"), "host name"),
        (lxc().password("abcd"), "5 to 1024"),
        (lxc().option("dev0", "/dev/kvm"), "kept for root"),
        (lxc().option("rootfs", "btr:2"), "given twice"),
        (CreateLxc::new(vmid(200), volid(CT_ARCHIVE), &storage("btr"), 1), "restore"),
    ] {
        refused(&server, client.create_lxc(&new).await, says);
    }
}

#[tokio::test]
async fn a_restore_destroys_only_by_the_callers_word() {
    let (server, client) = answering(TASK).await;
    let new = Restore::new(vmid(103), volid(ARCHIVE), storage("local")).unique().option("onboot", 0);
    client.restore(GuestKind::Qemu, &new).await.unwrap();
    let body = "vmid=103&storage=local&start=0&unique=1&archive=local%3Abackup%2Fvzdump-qemu-100-2026_11_22-03_21_27.vma.zst&onboot=0";
    was(&server, "POST", "qemu", body);
    let over = Restore::new(vmid(202), volid(CT_ARCHIVE), storage("btr"))
        .over(DestroyFirst::the_guest(vmid(202)))
        .unprivileged(true);
    client.restore(GuestKind::Lxc, &over).await.unwrap();
    let body = "vmid=202&storage=btr&start=0&unique=0&force=1&ostemplate=local%3Abackup%2Fvzdump-lxc-202-2026_11_22-03_16_25.tar.zst&restore=1&unprivileged=1";
    was(&server, "POST", "lxc", body);
    let pbs = volid("pbs1:backup/vm/100/2026-01-31T01:00:05Z");
    client.restore(GuestKind::Qemu, &Restore::new(vmid(103), pbs, storage("local")).live()).await.unwrap();
    let body = "vmid=103&storage=local&start=0&unique=0&archive=pbs1%3Abackup%2Fvm%2F100%2F2026-01-31T01%3A00%3A05Z&live-restore=1";
    was(&server, "POST", "qemu", body);

    let (server, client) = answering(TASK).await;
    let vm = || Restore::new(vmid(103), volid(ARCHIVE), storage("local"));
    let ct = || Restore::new(vmid(203), volid(CT_ARCHIVE), storage("local"));
    for (kind, restore, says) in [
        (GuestKind::Qemu, vm().over(DestroyFirst::the_guest(vmid(104))), "not the one"),
        (GuestKind::Qemu, vm().option("force", 1), "method made for it"),
        (GuestKind::Qemu, vm().option("scsi0", "local:1"), "volumes come out of the backup"),
        (GuestKind::Qemu, vm().unprivileged(true), "neither privileged"),
        (GuestKind::Qemu, ct(), "other kind"),
        (GuestKind::Lxc, vm(), "other kind"),
        (GuestKind::Lxc, ct().option("features", "nesting=1"), "features"),
        (GuestKind::Lxc, ct().option("rootfs", "local:1"), "volumes come out"),
        (GuestKind::Lxc, ct().live(), "virtual machine"),
        (
            GuestKind::Lxc,
            Restore::new(vmid(203), volid("local:vztmpl/a.tar.gz"), storage("local")),
            "not a backup",
        ),
    ] {
        refused(&server, client.restore(kind, &restore).await, says);
    }
}

#[tokio::test]
async fn clones_templates_and_ends() {
    let (server, client) = answering(TASK).await;
    let clone = CloneGuest::full(vmid(104))
        .name("klon")
        .of_snapshot(name("before"))
        .storage(storage("local"))
        .format(DiskFormat::Qcow2)
        .target("pve1".parse().unwrap());
    client.clone_guest(GuestKind::Qemu, vmid(103), &clone).await.unwrap();
    was(
        &server,
        "POST",
        "qemu/103/clone",
        "newid=104&full=1&name=klon&snapname=before&storage=local&target=pve1&format=qcow2",
    );
    client.clone_guest(GuestKind::Lxc, vmid(200), &CloneGuest::linked(vmid(204)).name("k")).await.unwrap();
    was(&server, "POST", "lxc/200/clone", "newid=204&full=0&hostname=k");
    client
        .destroy_guest(GuestKind::Qemu, vmid(104), Destroy { purge: true, unreferenced_disks: false })
        .await
        .unwrap();
    was(&server, "DELETE", "qemu/104?purge=1&destroy-unreferenced-disks=0", "");
    client.make_template(GuestKind::Qemu, vmid(104)).await.unwrap();
    was(&server, "POST", "qemu/104/template", "");
    let (_server, other) = answering("null").await;
    assert_eq!(other.make_template(GuestKind::Lxc, vmid(104)).await.unwrap(), Started::AtOnce);

    let (server, client) = answering(TASK).await;
    for (kind, clone, says) in [
        (GuestKind::Qemu, CloneGuest::full(vmid(103)), "number of its own"),
        (GuestKind::Qemu, CloneGuest::linked(vmid(104)).storage(storage("local")), "linked clone"),
        (GuestKind::Qemu, CloneGuest::full(vmid(104)).name("-"), "host name"),
        (GuestKind::Lxc, CloneGuest::full(vmid(104)).format(DiskFormat::Raw), "no format"),
        (GuestKind::Qemu, CloneGuest::full(vmid(104)).description(&"x".repeat(9000)), "8192"),
    ] {
        refused(&server, client.clone_guest(kind, vmid(103), &clone).await, says);
    }
}

#[tokio::test]
async fn volumes_grow_and_move() {
    let (server, client) = answering(TASK).await;
    client.grow_volume(GuestKind::Qemu, vmid(101), "scsi0", GrowBy::mib(1), None).await.unwrap();
    was(&server, "PUT", "qemu/101/resize", "disk=scsi0&size=%2B1M");
    client.grow_volume(GuestKind::Lxc, vmid(200), "mp0", GrowBy::gib(8), Some(DIGEST)).await.unwrap();
    was(&server, "PUT", "lxc/200/resize", &format!("disk=mp0&size=%2B8G&digest={DIGEST}"));
    let to = MoveVolume::to_storage("scsi0", storage("btr")).format(DiskFormat::Raw).digest(DIGEST);
    client.move_volume(GuestKind::Qemu, vmid(101), &to).await.unwrap();
    let body = format!("disk=scsi0&digest={DIGEST}&storage=btr&delete=0&format=raw");
    was(&server, "POST", "qemu/101/move_disk", &body);
    let to = MoveVolume::to_storage("rootfs", storage("btr")).then_delete_original();
    client.move_volume(GuestKind::Lxc, vmid(200), &to).await.unwrap();
    was(&server, "POST", "lxc/200/move_volume", "volume=rootfs&storage=btr&delete=1");
    let to = MoveVolume::to_guest("unused0", vmid(201), Some("mp1")).target_digest(DIGEST);
    client.move_volume(GuestKind::Lxc, vmid(200), &to).await.unwrap();
    let body = format!("volume=unused0&target-vmid=201&target-volume=mp1&target-digest={DIGEST}");
    was(&server, "POST", "lxc/200/move_volume", &body);

    let (server, client) = answering(TASK).await;
    for (kind, volume, by) in [
        (GuestKind::Qemu, "scsi0", GrowBy::mib(0)),
        (GuestKind::Qemu, "scsi31", GrowBy::gib(1)),
        (GuestKind::Qemu, "unused0", GrowBy::gib(1)),
        (GuestKind::Qemu, "rootfs", GrowBy::gib(1)),
        (GuestKind::Lxc, "scsi0", GrowBy::gib(1)),
        (GuestKind::Lxc, "mp256", GrowBy::gib(1)),
    ] {
        refused(&server, client.grow_volume(kind, vmid(101), volume, by, None).await, "");
    }
    for (kind, to, says) in [
        (GuestKind::Qemu, MoveVolume::to_guest("scsi0", vmid(101), None), "already"),
        (
            GuestKind::Qemu,
            MoveVolume::to_guest("scsi0", vmid(102), None).then_delete_original(),
            "handed over",
        ),
        (
            GuestKind::Lxc,
            MoveVolume::to_storage("rootfs", storage("btr")).format(DiskFormat::Raw),
            "no format",
        ),
        (GuestKind::Lxc, MoveVolume::to_storage("rootfs", storage("btr")).digest("0"), "digest"),
        (GuestKind::Qemu, MoveVolume::to_storage("../x", storage("btr")), "disk"),
    ] {
        refused(&server, client.move_volume(kind, vmid(101), &to).await, says);
    }
}

#[tokio::test]
async fn snapshots_with_memory_their_configs_and_features() {
    let (server, client) = answering(TASK).await;
    let how = NewSnapshot::new().description("vor dem Update\n").with_memory();
    client.snapshot_create_with(GuestKind::Qemu, vmid(100), &name("live1"), &how).await.unwrap();
    was(&server, "POST", "qemu/100/snapshot", "snapname=live1&description=vor+dem+Update%0A&vmstate=1");
    client.snapshot_describe(GuestKind::Lxc, vmid(200), &name("before"), "").await.unwrap();
    was(&server, "PUT", "lxc/200/snapshot/before/config", "description=");

    let (_server, client) = answering(
        r#"{"arch":"amd64","memory":128,"snaptime":1795317289,"description":"vor dem Update\n","rootfs":"btr:200/vm-200-disk-0.raw,size=1G"}"#,
    )
    .await;
    let config = client.snapshot_config(GuestKind::Lxc, vmid(200), &name("before")).await.unwrap();
    assert_eq!((config.snaptime, config.get("memory")), (Some(1_795_317_289), Some("128")));

    let (server, client) = answering(r#"{"hasFeature":1,"nodes":["pve1"]}"#).await;
    let answer =
        client.feature(GuestKind::Qemu, vmid(100), Feature::Copy, Some(&name("before"))).await.unwrap();
    assert!(answer.has && answer.nodes == ["pve1"]);
    was(&server, "GET", "qemu/100/feature?feature=copy&snapname=before", "");

    let (server, client) = answering(TASK).await;
    let how = NewSnapshot::new().with_memory();
    refused(
        &server,
        client.snapshot_create_with(GuestKind::Lxc, vmid(200), &name("a1"), &how).await,
        "its memory",
    );
}

#[tokio::test]
async fn configs_in_their_several_states() {
    let (server, client) =
        answering(r#"{"digest":"2e2c4ff634a3e39e882bf183884efab3c46738c7","memory":"64"}"#).await;
    client.guest_config_current(GuestKind::Qemu, vmid(100)).await.unwrap();
    was(&server, "GET", "qemu/100/config?current=1", "");
    client.guest_config_of_snapshot(GuestKind::Lxc, vmid(100), &name("before")).await.unwrap();
    was(&server, "GET", "lxc/100/config?snapshot=before", "");

    let (server, client) = answering(
        r#"[{"key":"memory","value":128,"pending":"256"},{"key":"net1","value":"a","delete":1},{"key":"arch","value":"amd64"},{"key":"x","delete":"0"}]"#,
    )
    .await;
    let pending = client.guest_pending(GuestKind::Lxc, vmid(200)).await.unwrap();
    was(&server, "GET", "lxc/200/pending", "");
    let changed: Vec<&str> =
        pending.iter().filter(|option| option.is_pending()).map(|option| option.key.as_str()).collect();
    assert_eq!(changed, ["memory", "net1"]);
    assert_eq!(pending[0].value.as_deref(), Some("128"));

    let (server, client) = answering("[]").await;
    client.guests_full(GuestKind::Qemu).await.unwrap();
    was(&server, "GET", "qemu?full=1", "");
    client.guests_full(GuestKind::Lxc).await.unwrap();
    was(&server, "GET", "lxc", "");
}

#[tokio::test]
async fn a_backup_removes_nothing_unless_asked() {
    let (server, client) = answering(TASK).await;
    let backup = Backup::new(vmid(200), storage("local"))
        .notes("{{guestname}} auf {{node}}\nzweite")
        .protected()
        .wait_for_others(Duration::from_secs(60));
    assert!(matches!(client.backup(&backup).await.unwrap(), Started::Task(_)));
    was(
        &server,
        "POST",
        "vzdump",
        "vmid=200&storage=local&mode=snapshot&compress=zstd&protected=1&notes-template=%7B%7Bguestname%7D%7D+auf+%7B%7Bnode%7D%7D%5Cnzweite&lockwait=1&remove=0",
    );
    let backup = Backup::new(vmid(200), storage("local"))
        .mode(BackupMode::Stop)
        .compress(Compression::None)
        .then_prune(Retention::new().last(3).daily(7));
    client.backup(&backup).await.unwrap();
    was(
        &server,
        "POST",
        "vzdump",
        "vmid=200&storage=local&mode=stop&compress=0&remove=1&prune-backups=keep-last%3D3%2Ckeep-daily%3D7",
    );
    let (_server, client) = answering("\"OK\"").await;
    assert_eq!(client.backup(&backup).await.unwrap(), Started::AtOnce);

    let (server, client) = answering(TASK).await;
    let backup = || Backup::new(vmid(200), storage("local"));
    for (backup, says) in [
        (backup().notes(&"x".repeat(1025)), "1024"),
        (backup().notes("a\u{1b}b"), "control characters"),
        (backup().then_prune(Retention::new()), "keeps nothing"),
        (backup().then_prune(Retention::keep_all().last(1)), "not both"),
        (backup().wait_for_others(Duration::from_secs(86_400 * 30)), "lockwait"),
    ] {
        refused(&server, client.backup(&backup).await, says);
    }
}

#[tokio::test]
async fn what_guests_say_of_themselves() {
    let (server, client) = answering(r#"{"pid":4711}"#).await;
    assert_eq!(client.agent_exec(vmid(100), &["cat", "-", "a=b;c&d"], Some("hi\n")).await.unwrap(), 4711);
    was(
        &server,
        "POST",
        "qemu/100/agent/exec",
        "command=cat&command=-&command=a%3Db%3Bc%26d&input-data=hi%0A",
    );
    let (server, client) = answering(r#"{"exited":1,"exitcode":0,"out-data":"hi\n"}"#).await;
    let status = client.agent_exec_status(vmid(100), 4711).await.unwrap();
    was(&server, "GET", "qemu/100/agent/exec-status?pid=4711", "");
    assert_eq!((status.exited, status.exitcode, status.out.as_deref()), (Some(true), Some(0), Some("hi\n")));

    let (server, client) = answering(
        r#"{"result":[{"name":"eth0","hardware-address":"bc:24:11:00:00:01","ip-addresses":[{"ip-address":"10.0.0.2","ip-address-type":"ipv4","prefix":"24"}]},{"name":"lo"},{}]}"#,
    )
    .await;
    let interfaces = client.agent_network(vmid(100)).await.unwrap();
    was(&server, "GET", "qemu/100/agent/network-get-interfaces", "");
    assert_eq!(interfaces.len(), 2);
    let first = &interfaces[0];
    assert_eq!((first.addresses[0].address.as_str(), first.addresses[0].prefix), ("10.0.0.2", Some(24)));

    let (_server, client) = answering(
        r#"[{"name":"eth0","hwaddr":"bc:24:11:00:00:02","inet":"10.0.0.3/24","inet6":"fe80::1/64"}]"#,
    )
    .await;
    let interfaces = client.container_interfaces(vmid(200)).await.unwrap();
    let addresses: Vec<&str> = interfaces[0].addresses.iter().map(|entry| entry.address.as_str()).collect();
    assert_eq!(addresses, ["10.0.0.3", "fe80::1"]);

    let (_server, client) = answering(
        r#"{"result":{"id":"debian","pretty-name":"Debian GNU/Linux 13 (trixie)","version-id":13}}"#,
    )
    .await;
    assert_eq!(client.agent_system(vmid(100)).await.unwrap().version_id.as_deref(), Some("13"));
    let (server, client) = answering(r#"{"result":{}}"#).await;
    client.agent_ping(vmid(100)).await.unwrap();
    was(&server, "POST", "qemu/100/agent/ping", "");

    let (server, client) = answering("{}").await;
    refused(&server, client.agent_exec(vmid(100), &[], None).await, "program");
    refused(&server, client.agent_exec(vmid(100), &["a", "b\0"], None).await, "NUL");
    let error = client.agent_exec(vmid(100), &["a"], Some(&"s3cret".repeat(20_000))).await.unwrap_err();
    assert!(!error.to_string().contains("s3cret"), "{error}");
    assert_eq!(server.count(), 0);
    for hostile in [r#"{"result":{}}"#, r#"{"result":null}"#, "null", "[]", "7"] {
        let (_server, client) = answering(hostile).await;
        assert!(client.agent_network(vmid(100)).await.is_err(), "{hostile}");
    }
}

#[tokio::test]
async fn a_console_is_a_ticket_and_an_address() {
    let ticket = r#"{"ticket":"PVEVNC:6B02+/=","port":"5900","upid":"UPID:pve2:000003A4:000359AB:6B025FB3:vncproxy:100:tester@pve!full:","user":"tester@pve!full","password":"pw4711","cert":"-----BEGIN"}"#;
    let (server, client) = answering(ticket).await;
    let screen = client.vnc_ticket(GuestKind::Qemu, vmid(100)).await.unwrap();
    was(&server, "POST", "qemu/100/vncproxy", "websocket=1&generate-password=1");
    client.vnc_ticket(GuestKind::Lxc, vmid(200)).await.unwrap();
    was(&server, "POST", "lxc/200/vncproxy", "websocket=1");
    client.terminal_ticket(GuestKind::Lxc, vmid(200)).await.unwrap();
    was(&server, "POST", "lxc/200/termproxy", "");
    let shown = format!("{screen:?}");
    assert!(!shown.contains("PVEVNC") && !shown.contains("pw4711"), "{shown}");

    let sent = server.count();
    let socket = client.console_socket(GuestKind::Qemu, vmid(100), &screen);
    assert_eq!(
        socket.url(),
        format!(
            "wss://127.0.0.1:{}/api2/json/nodes/pve2/qemu/100/vncwebsocket?port=5900&vncticket=PVEVNC%3A6B02%2B%2F%3D",
            server.address.port()
        )
    );
    assert_eq!(socket.header(), ("Authorization", format!("PVEAPIToken={}", common::TOKEN).as_str()));
    let shown = format!("{socket:?}");
    assert!(!shown.contains("PVEVNC") && !shown.contains("00000000-0000-4000"), "{shown}");
    assert_eq!(server.count(), sent);

    for hostile in [
        r#"{"ticket":"SECRET","port":22,"upid":"UPID:pve1:000003A4:000359AB:6B025FB3:vncproxy:100:a@pve:"}"#,
        r#"{"ticket":"SECRET","port":5900,"upid":"x"}"#,
        r#"{"ticket":["SECRET"],"port":5900,"upid":"x"}"#,
        "null",
    ] {
        let (_server, client) = answering(hostile).await;
        let error = client.vnc_ticket(GuestKind::Qemu, vmid(100)).await.unwrap_err();
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }
}
