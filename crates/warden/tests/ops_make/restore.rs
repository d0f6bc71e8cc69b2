//! `guest.restore_over`, which never overwrites.

use authz::order::{Order, Params, RestoreOverParams};
use authz::{Outcome, RefusalCode};
use protocol::GuestKind;
use protocol::frame::OrderState;
use protocol::plan::Step;
use pve_sim::world::Fault;

use crate::rig::{Lxc, Qemu, Rig, code, one, text};

async fn draft(rig: &Rig, kind: GuestKind, n: u32, unique: bool) -> Order {
    let (archive, other) = (rig.back_up(kind, n).await, rig.back_up(kind, n).await);
    let params = RestoreOverParams {
        archive: archive.volid.clone(),
        storage: "tank".parse().unwrap(),
        unique,
        start: true,
    };
    let mut order = rig.on_guest(kind, n, Params::GuestRestoreOver(params)).await;
    order.pre.backups = Some(vec![archive, other]);
    order
}

fn tags(rig: &Rig, n: u32) -> String {
    rig.option(n, "tags").map_or(String::new(), |tags| tags.as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_old_guest_is_put_aside_and_kept() {
    for (kind, n, new) in [(Qemu, 100, 103), (Qemu, 101, 103), (Lxc, 200, 202), (Lxc, 201, 202)] {
        for unique in [true, false] {
            let rig = Rig::start().await;
            let running = rig.runs(n);
            let draft = draft(&rig, kind, n, unique).await;
            let old = rig.see(kind, n).await;
            let (plan, order) = rig.plan(&draft).await.unwrap();
            let calls = text(&plan.calls);
            assert!(calls.contains(&format!("vmid={new} ")) && !calls.contains("force"), "{calls}");
            let outcome = rig.submit(&order).await;
            assert!(outcome.is_success(), "{outcome}");
            assert_eq!((rig.runs(n), rig.runs(new), running), (false, true, rig.runs(n) || running));
            let (kept, made) = (rig.see(kind, n).await, rig.see(kind, new).await);
            assert!(kept.protection && made.protection);
            assert_eq!(kept.identity.volids, old.identity.volids);
            assert!(tags(&rig, n).contains("writ-replaced") && !tags(&rig, new).contains("writ-replaced"));
            assert!(kept.config["net0"].contains("link_down=1") && kept.config["onboot"] == "0");
            assert!(!made.config["net0"].contains("link_down=1"), "{}", made.config["net0"]);
            assert_eq!(made.config["onboot"], "1");
            assert_eq!(made.identity.macs == old.identity.macs, !unique);
            assert!(kind == Lxc || made.identity.smbios_uuid != old.identity.smbios_uuid);
            assert_eq!(rig.count("DELETE", ""), 0);
        }
    }
}

/// What wants the old guest to run, by desired state, does not start a second machine with the same addresses.
#[tokio::test]
async fn nothing_unsigned_touches_what_was_put_aside() {
    let bounds = authz::policy::Bounds {
        guests: vec![(crate::rig::vmid(100), crate::rig::vmid(299))],
        start: true,
        tags: true,
        snapshots: true,
        max_snapshots_per_guest: 9,
        max_pool_used_percent: 80,
        max_changes_per_hour: 20,
        ..authz::policy::Bounds::default()
    };
    let rig = Rig::bounded(|_| {}, async |_| bounds).await;
    let order = rig.plan(&draft(&rig, Qemu, 100, true).await).await.unwrap().1;
    let outcome = rig.submit(&order).await;
    assert!(outcome.is_success(), "{outcome}");
    let before = rig.mutations().len();
    let seen = rig.see(Qemu, 100).await;
    let guest = protocol::GuestRef {
        vmid: crate::rig::vmid(100),
        kind: Qemu,
        name: seen.name.clone(),
        identity: seen.identity.clone(),
    };
    let tags = vec!["prod".parse().unwrap()];
    for step in [
        Step::Start { guest: guest.clone() },
        Step::SetTags { guest: guest.clone(), digest: seen.digest, tags },
        Step::SnapshotCreate { guest, snapshot: "more".parse().unwrap() },
    ] {
        let outcome = rig.step(step).await;
        assert!(
            code(&outcome) == RefusalCode::Bounds && outcome.to_string().contains("put aside"),
            "{outcome}"
        );
    }
    assert_eq!(rig.mutations().len(), before);
}

#[tokio::test]
async fn a_restore_that_fails_leaves_the_old_guest_alone() {
    for (kind, n, new, task) in [(Qemu, 100, 103, "qmrestore"), (Lxc, 200, 202, "vzrestore")] {
        for fault in [Fault::Fail { text: "broken archive".into(), leave_lock: false }, Fault::Kill] {
            let rig = Rig::start().await;
            let order = rig.plan(&draft(&rig, kind, n, true).await).await.unwrap().1;
            let old = rig.see(kind, n).await.guest_now();
            rig.inject(task, fault);
            let outcome = rig.submit(&order).await;
            assert!(matches!(outcome, Outcome::Failed { .. } | Outcome::Unknown { .. }), "{outcome}");
            assert_eq!((rig.see(kind, n).await.guest_now(), rig.runs(n)), (old, true));
            assert_eq!(rig.count("POST", &format!("/{new}/status")), 0);
        }
    }
}

#[tokio::test]
async fn lost_answers_at_each_call() {
    for (method, part) in [
        ("POST", "/nodes/pve1/qemu"),
        ("PUT", "/103/config"),
        ("PUT", "/100/config"),
        ("POST", "/100/status/stop"),
        ("POST", "/103/status/start"),
    ] {
        let rig = Rig::start().await;
        let order = rig.plan(&draft(&rig, Qemu, 100, true).await).await.unwrap().1;
        let before = rig.mutations().len();
        rig.sim.drop_answer_next(method, part);
        let outcome = rig.submit(&order).await;
        assert!(outcome.is_success(), "{method} {part}: {outcome}");
        assert_eq!(rig.mutations().len(), before + 6, "{method} {part}");
    }
}

/// Somebody changes the old guest while the archive is unpacked: it is not touched, and goes on.
#[tokio::test]
async fn an_old_guest_that_changed_meanwhile_is_left_alone() {
    let rig = Rig::start().await;
    let order = rig.plan(&draft(&rig, Qemu, 100, true).await).await.unwrap().1;
    rig.inject("qmrestore", Fault::Warn(1));
    let outcome = rig.change_at(&order, OrderState::Starting, |rig| rig.set(100, "memory", "777")).await;
    assert!(!outcome.is_success(), "{outcome}");
    assert!(rig.runs(100) && !tags(&rig, 100).contains("writ-replaced"));
}

#[tokio::test]
async fn what_was_put_aside_is_put_back_when_the_rest_fails() {
    let rig = Rig::start().await;
    let order = rig.plan(&draft(&rig, Qemu, 101, true).await).await.unwrap().1;
    rig.inject("qmstart", Fault::Fail { text: "no".into(), leave_lock: false });
    let outcome = rig.submit(&order).await;
    let Outcome::Failed { why, .. } = &outcome else { panic!("{outcome}") };
    assert!(why.as_str().contains("put right"), "{why}");
    let old = rig.see(Qemu, 101).await;
    assert!(!old.config["net0"].contains("link_down") && old.config["onboot"] == "1");
}

#[tokio::test]
async fn a_number_that_is_taken_meanwhile_makes_the_plan_void() {
    let rig = Rig::start().await;
    let order = rig.plan(&draft(&rig, Qemu, 101, true).await).await.unwrap().1;
    rig.change(|w| {
        let guest = w.guests[&102].clone();
        w.guests.insert(103, guest);
    });
    assert_eq!(code(&rig.submit(&order).await), RefusalCode::Plan);
    assert_eq!(rig.option(101, "onboot"), Some(one()));
}
