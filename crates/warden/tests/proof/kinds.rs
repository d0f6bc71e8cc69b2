//! Every kind of order that the warden carries out through Proxmox, one row each: here those of one call on a
//! guest, in [`crate::bulk`] those about disks, backups, storages and new guests. A new kind is a new row; all
//! suites take it from [`all`], but for the model, which knows those that are here.

use authz::order::{
    ConfigChange, ConfigParams, DestroyParams, GrowParams, NoParams, Params, PowerOffParams, RebootParams,
    RollbackParams, SnapshotParams, SuspendParams, TagParams,
};
use protocol::GuestKind;
use protocol::refs::BackupRef;
use pve_sim::world::{Job, Kind, Now, World};
use warden::world::Observed;

/// What an operator's tool reads before it drafts an order.
pub(crate) struct Seen {
    /// The row's guest.
    pub(crate) guest: Observed,
    /// That guest's backups, the oldest first.
    pub(crate) backups: Vec<BackupRef>,
}

impl std::ops::Deref for Seen {
    type Target = Observed;
    fn deref(&self) -> &Observed {
        &self.guest
    }
}

/// What can take the place of what an order means.
pub(crate) enum Twin {
    /// Another guest with the number, the name and the snapshots of the row's.
    Guest,
    /// Something else under the same name.
    Other {
        /// How its lines in a [`crate::shape::Shape`] begin.
        lines: &'static str,
        /// Puts it there.
        put: fn(&mut World),
    },
    /// Somebody else's guest in the place of one that the program has made.
    Made {
        /// As above.
        lines: &'static str,
        /// As above.
        put: fn(&mut World),
    },
}

/// How one kind is tried out.
pub(crate) struct Row {
    /// For people. Its first word is the kind.
    pub(crate) name: &'static str,
    /// To which guest of the demo world. (Of an order about no guest: whose backups or volumes those are.)
    pub(crate) guest: GuestKind,
    pub(crate) vmid: u32,
    /// What the world must be like before.
    pub(crate) set_up: fn(&mut World, Now),
    /// What is asked for, of the guest as it then is.
    pub(crate) params: fn(&Seen) -> Params,
    /// The snapshot that it is about; empty when about none.
    pub(crate) snapshot: &'static str,
    /// Calls that change something in a clean run.
    pub(crate) calls: usize,
    /// Proxmox itself compares the guest with what was read, inside its lock.
    pub(crate) compare_and_set: bool,
    /// What takes its place in [`crate::reuse`].
    pub(crate) twin: Twin,
    /// Whether its reads fail in [`crate::calls`] too. Not where a longer row makes the same ones and more.
    pub(crate) reads: bool,
}

pub(crate) const NO: NoParams = NoParams {};

pub(crate) fn as_it_is(_: &mut World, _: Now) {}

/// Runs a job of the simulator's to its end.
fn done(world: &mut World, now: Now, vmid: u32, job: Job) {
    let kind = world.guests[&vmid].kind;
    let who = pve_sim::world::AuthId::parse("root@pam");
    let upid = world.begin(now, &who, kind, vmid, job);
    world.settle(Now { mono: now.mono + world.task_duration, ..now });
    let task = world.tasks.find(&upid).unwrap();
    assert!(matches!(task.ended, Some((pve_sim::world::Exit::Ok, _))), "{:?}", task.log);
}

fn snapshot(world: &mut World, now: Now) {
    for (vmid, guest) in [(101, Kind::Qemu), (201, Kind::Lxc)] {
        assert_eq!(world.guests[&vmid].kind, guest);
        let job = Job::Snapshot { name: "base".into(), description: String::new(), vmstate: false };
        done(world, now, vmid, job);
    }
    // So that who is rolled back to it does not stand there already. (ZFS goes back to the last one only.)
    done(world, now, 101, Job::Rollback { name: "before-upgrade".into(), start: false });
}

pub(crate) fn protected(world: &mut World, _: Now) {
    world.guests.get_mut(&101).unwrap().config.insert("protection".into(), serde_json::json!(1));
    world.guests.get_mut(&201).unwrap().config.insert("protection".into(), serde_json::json!(1));
}

fn paused(world: &mut World, now: Now) {
    done(world, now, 100, Job::Suspend);
}

pub(crate) fn base(params: fn(&Seen) -> Params, name: &'static str, guest: GuestKind, vmid: u32) -> Row {
    Row {
        name,
        guest,
        vmid,
        set_up: as_it_is,
        params,
        snapshot: "",
        calls: 1,
        compare_and_set: false,
        twin: Twin::Guest,
        reads: true,
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Row> {
    rows().into_iter().chain(crate::bulk::rows()).collect()
}

/// Those of one call on one guest, and its end.
pub(crate) fn rows() -> Vec<Row> {
    use GuestKind::{Lxc, Qemu};
    let start = |_: &Seen| Params::GuestStart(NO);
    let stop = |_: &Seen| Params::GuestStop(NO);
    let shutdown = |_: &Seen| Params::GuestShutdown(PowerOffParams { timeout_s: 30, force: true });
    let reboot = |_: &Seen| Params::GuestReboot(RebootParams { timeout_s: 30 });
    let suspend = |_: &Seen| Params::GuestSuspend(SuspendParams { to_disk: false });
    let create = |_: &Seen| Params::SnapshotCreate(SnapshotParams { snapshot: "fresh".parse().unwrap() });
    let rollback = |_: &Seen| Params::SnapshotRollback(RollbackParams { start: false });
    let and_start = |_: &Seen| Params::SnapshotRollback(RollbackParams { start: true });
    let delete = |_: &Seen| Params::SnapshotDelete(NO);
    let tag = |_: &Seen| {
        Params::GuestTag(TagParams { tags: vec!["prod".parse().unwrap(), "web".parse().unwrap()] })
    };
    let resume = |_: &Seen| Params::GuestResume(NO);
    let destroy =
        |_: &Seen| Params::GuestDestroy(DestroyParams { purge: false, destroy_unreferenced: false });
    let config = |seen: &Seen| {
        let old = seen.config.get("onboot").map(|value| value.parse().unwrap());
        let change = ConfigChange { key: "onboot".parse().unwrap(), old, new: Some("0".parse().unwrap()) };
        Params::GuestConfig(ConfigParams { changes: vec![change] })
    };
    let grow = |seen: &Seen| {
        let slot = if seen.kind == GuestKind::Qemu { "scsi0" } else { "rootfs" };
        let volume = seen.slots[slot].parse().unwrap();
        Params::GuestGrow(GrowParams { disk: slot.parse().unwrap(), volume, size: 40 << 30 })
    };
    let of_base = |row: Row| Row { set_up: snapshot, snapshot: "base", ..row };
    vec![
        base(start, "guest.start qemu", Qemu, 101),
        base(start, "guest.start lxc", Lxc, 201),
        base(stop, "guest.stop qemu", Qemu, 100),
        base(stop, "guest.stop lxc", Lxc, 200),
        base(shutdown, "guest.shutdown qemu", Qemu, 100),
        base(shutdown, "guest.shutdown lxc", Lxc, 200),
        base(reboot, "guest.reboot qemu", Qemu, 100),
        base(reboot, "guest.reboot lxc", Lxc, 200),
        base(suspend, "guest.suspend qemu", Qemu, 100),
        base(create, "snapshot.create qemu", Qemu, 101),
        base(create, "snapshot.create lxc", Lxc, 201),
        of_base(base(rollback, "snapshot.rollback qemu", Qemu, 101)),
        of_base(base(and_start, "snapshot.rollback and start qemu", Qemu, 101)),
        of_base(base(rollback, "snapshot.rollback lxc", Lxc, 201)),
        of_base(base(delete, "snapshot.delete qemu", Qemu, 101)),
        of_base(base(delete, "snapshot.delete lxc", Lxc, 201)),
        Row { compare_and_set: true, ..base(tag, "guest.tag qemu", Qemu, 101) },
        Row { compare_and_set: true, ..base(tag, "guest.tag lxc", Lxc, 201) },
        Row { set_up: paused, ..base(resume, "guest.resume qemu", Qemu, 100) },
        Row { compare_and_set: true, ..base(config, "guest.config qemu", Qemu, 101) },
        Row { compare_and_set: true, ..base(config, "guest.config lxc", Lxc, 201) },
        Row { compare_and_set: true, ..base(grow, "guest.grow qemu", Qemu, 101) },
        Row {
            compare_and_set: true,
            set_up: protected,
            calls: 2,
            ..base(destroy, "guest.destroy qemu", Qemu, 101)
        },
        Row {
            compare_and_set: true,
            set_up: protected,
            calls: 2,
            ..base(destroy, "guest.destroy lxc", Lxc, 201)
        },
    ]
}

/// One of them.
pub(crate) fn row(name: &str) -> Row {
    rows().into_iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"))
}
