use authz::order::{DetachParams, GrowParams, MoveParams, Params};
use authz::{Outcome, RefusalCode};
use protocol::GuestKind;
use protocol::report::Known;
use pve_sim::world::{Fault, FaultRule, Mishap};

use crate::common::{BOTH, Rig, code};

fn slot(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Qemu => "scsi0",
        GuestKind::Lxc => "rootfs",
    }
}

async fn size(rig: &Rig, kind: GuestKind, n: u32, volume: &str) -> u64 {
    let Known::Known(volumes) = rig.see(kind, n).await.volumes else { panic!() };
    volumes.iter().find(|v| v.volid.as_str() == volume).unwrap().size
}

async fn grow(rig: &Rig, kind: GuestKind, n: u32, by: u64) -> Params {
    let volume = rig.see(kind, n).await.slots[slot(kind)].clone();
    let size = size(rig, kind, n, &volume).await + by;
    Params::GuestGrow(GrowParams { disk: slot(kind).parse().unwrap(), volume: volume.parse().unwrap(), size })
}

async fn relocate(rig: &Rig, kind: GuestKind, n: u32, delete_source: bool) -> Params {
    let volume = rig.see(kind, n).await.slots[slot(kind)].clone();
    let storage = if volume.starts_with("tank:") { "local-lvm" } else { "tank" };
    Params::DiskMove(MoveParams {
        disk: slot(kind).parse().unwrap(),
        volume: volume.parse().unwrap(),
        storage: storage.parse().unwrap(),
        delete_source,
    })
}

/// A second disk, which can be detached.
fn second(rig: &Rig, kind: GuestKind, n: u32) -> Params {
    let (disk, volume) = match kind {
        GuestKind::Qemu => ("scsi1", format!("local-lvm:vm-{n}-disk-7")),
        GuestKind::Lxc => ("mp0", format!("local-lvm:vm-{n}-disk-7")),
    };
    let more = if kind == GuestKind::Lxc { ",mp=/data" } else { "" };
    rig.set_option(n, disk, Some(&format!("{volume}{more},size=1G")));
    Params::DiskDetach(DetachParams { disk: disk.parse().unwrap(), volume: volume.parse().unwrap() })
}

#[tokio::test]
async fn disks_grow_to_the_kib() {
    let rig = Rig::start().await;
    for (kind, stopped, running) in BOTH {
        for n in [stopped, running] {
            let volume = rig.see(kind, n).await.slots[slot(kind)].clone();
            let before = size(&rig, kind, n, &volume).await;
            let outcome = rig.run(kind, n, grow(&rig, kind, n, (1 << 30) + 1024).await).await;
            assert!(matches!(outcome, Outcome::Done { upid: Some(_), .. }), "{outcome}");
            assert_eq!(size(&rig, kind, n, &volume).await, before + (1 << 30) + 1024);
        }
    }
}

#[tokio::test]
async fn disks_move_with_and_without_their_old_volume() {
    let rig = Rig::start().await;
    // A machine's disk in a snapshot stays where it is when it was to be deleted.
    let params = relocate(&rig, GuestKind::Qemu, 101, true).await;
    let outcome = rig.run(GuestKind::Qemu, 101, params).await;
    assert!(
        matches!(&outcome, Outcome::Failed { why, .. } if why.as_str().contains("snapshot")),
        "{outcome}"
    );
    for (kind, n) in [(GuestKind::Qemu, 102), (GuestKind::Qemu, 100), (GuestKind::Lxc, 201)] {
        for delete in [false, true] {
            let old = rig.see(kind, n).await.slots[slot(kind)].clone();
            let outcome = rig.run(kind, n, relocate(&rig, kind, n, delete).await).await;
            assert!(matches!(outcome, Outcome::Done { upid: Some(_), .. }), "{outcome}");
            let slots = rig.see(kind, n).await.slots;
            assert_ne!(slots[slot(kind)], old);
            assert_eq!(slots.values().any(|volume| *volume == old), !delete, "{outcome}");
            assert_eq!(outcome.to_string().contains("the old volume is gone"), delete, "{outcome}");
        }
    }
    let outcome = rig.run(GuestKind::Lxc, 200, relocate(&rig, GuestKind::Lxc, 200, false).await).await;
    assert!(
        matches!(&outcome, Outcome::Refused { why, .. } if why.as_str().contains("shut it down first")),
        "a running container: {outcome}"
    );
}

#[tokio::test]
async fn disks_are_detached_and_stay() {
    let rig = Rig::start().await;
    for (kind, stopped, running) in BOTH {
        for n in [stopped, running] {
            let params = second(&rig, kind, n);
            let outcome = rig.run(kind, n, params).await;
            assert!(matches!(outcome, Outcome::Done { upid: None, .. }), "{outcome}");
            assert!(outcome.to_string().contains("stays, as unused0"), "{outcome}");
            assert_eq!(rig.see(kind, n).await.slots["unused0"], format!("local-lvm:vm-{n}-disk-7"));
        }
    }
}

/// A disk that a running guest does not let go is gone in the merged configuration, and still in use.
#[tokio::test]
async fn a_disk_that_waits_is_said_to_wait() {
    let rig = Rig::start().await;
    let n = 100;
    rig.set_option(n, "sata0", Some("local-lvm:vm-100-disk-7,size=1G"));
    let params = Params::DiskDetach(DetachParams {
        disk: "sata0".parse().unwrap(),
        volume: "local-lvm:vm-100-disk-7".parse().unwrap(),
    });
    let order = rig.order(GuestKind::Qemu, n, params).await;
    let (lines, order) = rig.planned(&order).await.unwrap();
    assert!(lines.iter().any(|line| line.contains("next start only")), "{lines:?}");
    let outcome = rig.carry_out(&order).await;
    let text = outcome.to_string();
    assert!(
        outcome.is_success() && text.contains("sata0 goes at the guest's next start; until then"),
        "{text}"
    );
    assert!(rig.see(GuestKind::Qemu, n).await.slots.values().all(|v| v != "local-lvm:vm-100-disk-7"));
}

#[tokio::test]
async fn protection_keeps_a_disk_and_the_plan_says_so() {
    let rig = Rig::start().await;
    for (kind, n, _) in BOTH {
        rig.set_option(n, "protection", Some("1"));
        rig.sim
            .world()
            .lock()
            .unwrap()
            .guests
            .get_mut(&n)
            .unwrap()
            .config
            .insert("protection".into(), 1.into());
        let params = second(&rig, kind, n);
        let order = rig.order(kind, n, params).await;
        let (lines, order) = rig.planned(&order).await.unwrap();
        assert!(lines.iter().any(|line| line.contains("protection is on")), "{lines:?}");
        let outcome = rig.carry_out(&order).await;
        assert!(matches!(outcome, Outcome::Failed { upid: None, .. }), "{outcome}");
    }
}

#[tokio::test]
async fn disks_meet_every_mishap() {
    for (kind, n, _) in BOTH {
        let rig = Rig::start().await;
        let mover = if kind == GuestKind::Qemu { "qmmove" } else { "move_volume" };
        // Lost answers: both tasks are found again, and nothing is sent twice.
        rig.sim.drop_answer_next("PUT", "/resize");
        let before = rig.mutations();
        let outcome = rig.run(kind, n, grow(&rig, kind, n, 1 << 20).await).await;
        assert!(matches!(outcome, Outcome::Done { upid: Some(_), .. }), "{outcome}");
        rig.sim.drop_answer_next("POST", "/move_");
        let outcome = rig.run(kind, n, relocate(&rig, kind, n, false).await).await;
        assert!(matches!(outcome, Outcome::Done { upid: Some(_), .. }), "{outcome}");
        assert_eq!(rig.mutations(), before + 2);
        // Warnings, a failure, a killed worker.
        rig.inject("resize", Fault::Warn(1));
        let outcome = rig.run(kind, n, grow(&rig, kind, n, 1 << 20).await).await;
        assert!(matches!(outcome, Outcome::Warnings { count: 1, .. }), "{outcome}");
        rig.inject(mover, Fault::Fail { text: "no space left".into(), leave_lock: false });
        let outcome = rig.run(kind, n, relocate(&rig, kind, n, false).await).await;
        assert!(
            matches!(&outcome, Outcome::Failed { why, .. } if why.as_str().starts_with("no space left; now ")),
            "{outcome}"
        );
        rig.inject("resize", Fault::Kill);
        let outcome = rig.run(kind, n, grow(&rig, kind, n, 1 << 20).await).await;
        assert!(matches!(outcome, Outcome::Unknown { upid: Some(_), .. }), "{outcome}");
        rig.set_option(n, "lock", None);
        // The digest changes after the last look.
        for (path, verb, params) in [
            ("/resize", "PUT", grow(&rig, kind, n, 1 << 20).await),
            ("/move_", "POST", relocate(&rig, kind, n, false).await),
            ("/config", "PUT", second(&rig, kind, n)),
        ] {
            let order = rig.order(kind, n, params).await;
            let order = match order.kind().binding() {
                authz::order::Binding::Plan => rig.planned(&order).await.unwrap().1,
                _ => order,
            };
            let race = FaultRule::new(Mishap::DigestRace { vmid: Some(n) }).method(verb).contains(path);
            rig.sim.fault(race).unwrap();
            let slots = rig.see(kind, n).await.slots;
            let outcome = rig.submit(&order).await;
            assert!(matches!(outcome, Outcome::Failed { upid: None, .. }), "{path}: {outcome}");
            assert_eq!(rig.see(kind, n).await.slots, slots);
            rig.sim.clear_faults();
        }
        // Locked, then recycled.
        let order = rig.order(kind, n, relocate(&rig, kind, n, true).await).await;
        let before = rig.mutations();
        rig.set_option(n, "lock", Some("backup"));
        assert_eq!(code(&rig.carry_out(&order).await), RefusalCode::Busy);
        rig.set_option(n, "lock", None);
        rig.replace(n);
        assert_eq!(code(&rig.carry_out(&order).await), RefusalCode::GuestIdentity);
        assert_eq!(rig.mutations(), before);
    }
}
