//! Every kind of order that the warden carries out through Proxmox, one row each. A new kind is a new row;
//! all suites take it from here.

use authz::order::{
    ConfigChange, ConfigParams, DestroyParams, GrowParams, NoParams, Params, PowerOffParams, RebootParams,
    RollbackParams, SnapshotParams, SuspendParams, TagParams,
};
use protocol::GuestKind;
use protocol::refs::VolumeRef;
use pve_sim::world::{Job, Kind, Now, World};
use warden::world::Observed;

/// How one kind is tried out.
pub(crate) struct Row {
    /// For people.
    pub(crate) name: &'static str,
    /// To which guest of the demo world.
    pub(crate) guest: GuestKind,
    pub(crate) vmid: u32,
    /// What the world must be like before.
    pub(crate) set_up: fn(&mut World, Now),
    /// What is asked for, of the guest as it then is.
    pub(crate) params: fn(&Observed) -> Params,
    /// The snapshot that it is about; empty when about none.
    pub(crate) snapshot: &'static str,
    /// Calls that change something in a clean run.
    pub(crate) calls: usize,
    /// Proxmox itself compares the guest with what was read, inside its lock.
    pub(crate) compare_and_set: bool,
}

impl Row {
    /// Those of the guest's volumes that the order is about.
    pub(crate) fn volumes(&self, _params: &Params, all: &[VolumeRef]) -> Vec<VolumeRef> {
        all.to_vec()
    }
}

const NO: NoParams = NoParams {};

fn as_it_is(_: &mut World, _: Now) {}

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

fn protected(world: &mut World, _: Now) {
    world.guests.get_mut(&101).unwrap().config.insert("protection".into(), serde_json::json!(1));
    world.guests.get_mut(&201).unwrap().config.insert("protection".into(), serde_json::json!(1));
}

fn paused(world: &mut World, now: Now) {
    done(world, now, 100, Job::Suspend);
}

fn base(params: fn(&Observed) -> Params, name: &'static str, guest: GuestKind, vmid: u32) -> Row {
    Row { name, guest, vmid, set_up: as_it_is, params, snapshot: "", calls: 1, compare_and_set: false }
}

/// All of them.
pub(crate) fn rows() -> Vec<Row> {
    use GuestKind::{Lxc, Qemu};
    let start = |_: &Observed| Params::GuestStart(NO);
    let stop = |_: &Observed| Params::GuestStop(NO);
    let shutdown = |_: &Observed| Params::GuestShutdown(PowerOffParams { timeout_s: 30, force: true });
    let reboot = |_: &Observed| Params::GuestReboot(RebootParams { timeout_s: 30 });
    let suspend = |_: &Observed| Params::GuestSuspend(SuspendParams { to_disk: false });
    let create = |_: &Observed| Params::SnapshotCreate(SnapshotParams { snapshot: "fresh".parse().unwrap() });
    let rollback = |_: &Observed| Params::SnapshotRollback(RollbackParams { start: false });
    let and_start = |_: &Observed| Params::SnapshotRollback(RollbackParams { start: true });
    let delete = |_: &Observed| Params::SnapshotDelete(NO);
    let tag = |_: &Observed| {
        Params::GuestTag(TagParams { tags: vec!["prod".parse().unwrap(), "web".parse().unwrap()] })
    };
    let resume = |_: &Observed| Params::GuestResume(NO);
    let destroy =
        |_: &Observed| Params::GuestDestroy(DestroyParams { purge: false, destroy_unreferenced: false });
    let config = |seen: &Observed| {
        let old = seen.config.get("onboot").map(|value| value.parse().unwrap());
        let change = ConfigChange { key: "onboot".parse().unwrap(), old, new: Some("0".parse().unwrap()) };
        Params::GuestConfig(ConfigParams { changes: vec![change] })
    };
    let grow = |seen: &Observed| {
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
