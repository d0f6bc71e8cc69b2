//! `guest.destroy`.

use authz::order::{DestroyParams, Order, Params};
use authz::{Outcome, RefusalCode};
use protocol::frame::OrderState;
use protocol::{GuestKind, RunState};
use pve_sim::world::Fault;

use crate::rig::{Lxc, Qemu, Rig, code, one, text};

fn params(purge: bool) -> Params {
    Params::GuestDestroy(DestroyParams { purge, destroy_unreferenced: false })
}

async fn draft(rig: &Rig, kind: GuestKind, n: u32) -> Order {
    rig.on_guest(kind, n, params(false)).await
}

fn deletes(rig: &Rig) -> usize {
    rig.mutations().iter().filter(|m| m.starts_with("DELETE")).count()
}

#[tokio::test]
async fn a_guest_is_stopped_compared_and_destroyed() {
    for (kind, n, running, protected) in
        [(Qemu, 101, false, false), (Qemu, 100, true, true), (Lxc, 201, false, true), (Lxc, 200, true, false)]
    {
        let rig = Rig::start().await;
        if protected {
            rig.set(n, "protection", one());
        }
        let draft = draft(&rig, kind, n).await;
        assert_eq!(draft.pre.state == Some(RunState::Running), running);
        let (plan, order) = rig.plan(&draft).await.unwrap();
        let calls = text(&plan.calls);
        assert_eq!(calls.contains("status/stop"), running, "{calls}");
        assert_eq!(calls.contains("delete=protection"), protected, "{calls}");
        let outcome = rig.submit(&order).await;
        assert!(outcome.is_success(), "{outcome}");
        assert!(!rig.exists(n));
        let mutations = rig.mutations();
        assert_eq!(mutations.len(), 2 + usize::from(running), "{mutations:?}");
        assert!(mutations[mutations.len() - 2].starts_with("PUT"), "{mutations:?}");
        assert_eq!(deletes(&rig), 1);
    }
}

#[tokio::test]
async fn a_guest_that_is_not_destroyed_is_protected_again() {
    for (kind, n, task) in [(Qemu, 101, "qmdestroy"), (Lxc, 201, "vzdestroy")] {
        let rig = Rig::start().await;
        rig.set(n, "protection", one());
        rig.inject(task, Fault::Fail { text: "no".into(), leave_lock: false });
        let outcome = rig.carry_out(&draft(&rig, kind, n).await).await;
        let Outcome::Failed { why, .. } = &outcome else { panic!("{outcome}") };
        assert!(why.as_str().contains("put right: protection is 1"), "{why}");
        assert_eq!((rig.option(n, "protection"), deletes(&rig)), (Some(one()), 1));
    }
}

#[tokio::test]
async fn lost_answers_are_looked_for_and_nothing_is_sent_again() {
    for (kind, n) in [(Qemu, 100), (Lxc, 200)] {
        for (method, part) in [("POST", "/stop"), ("PUT", "/config"), ("DELETE", "")] {
            let rig = Rig::start().await;
            rig.set(n, "protection", one());
            let order = rig.plan(&draft(&rig, kind, n).await).await.unwrap().1;
            rig.sim.drop_answer_next(method, part);
            let outcome = rig.submit(&order).await;
            assert!(outcome.is_success(), "{method}: {outcome}");
            assert_eq!((rig.exists(n), rig.mutations().len()), (false, 3), "{method}");
        }
    }
}

#[tokio::test]
async fn an_error_at_any_call_ends_the_program_there() {
    for (method, part, left) in [("POST", "/stop", 1), ("PUT", "/config", 2), ("DELETE", "/qemu/100", 4)] {
        let rig = Rig::start().await;
        rig.set(100, "protection", one());
        let order = rig.plan(&draft(&rig, Qemu, 100).await).await.unwrap().1;
        rig.refuse(method, part, "something else");
        let outcome = rig.submit(&order).await;
        assert!(matches!(outcome, Outcome::Failed { .. }), "{method}: {outcome}");
        assert!(rig.exists(100));
        assert_eq!(rig.option(100, "protection"), Some(one()), "{method}");
        assert_eq!(rig.mutations().len(), left, "{method}: {:?}", rig.mutations());
    }
}

#[tokio::test]
async fn another_guest_with_the_number_lives() {
    for (kind, n) in [(Qemu, 101), (Lxc, 201)] {
        // Between plan and order.
        let rig = Rig::start().await;
        let order = rig.plan(&draft(&rig, kind, n).await).await.unwrap().1;
        rig.replace(n);
        assert_eq!(code(&rig.submit(&order).await), RefusalCode::GuestIdentity);
        // While the order is written down.
        let rig = Rig::start().await;
        let order = rig.plan(&draft(&rig, kind, n).await).await.unwrap().1;
        let outcome = rig.change_at(&order, OrderState::Verified, |rig| rig.replace(n)).await;
        assert!(matches!(outcome, Outcome::Aborted { .. }), "{outcome}");
        assert!(rig.exists(n));
        assert_eq!(rig.mutations().len(), 0);
    }
}

/// The guest is stopped, and taken from under the warden between that and the comparison.
#[tokio::test]
async fn another_guest_that_comes_in_the_middle_lives() {
    let rig = Rig::start().await;
    let order = rig.plan(&draft(&rig, Qemu, 100).await).await.unwrap().1;
    // Announced before the stop, which is compared once more: nothing of this guest is stopped either.
    let outcome = {
        let (world, now) = (rig.sim.world(), rig.sim.now());
        rig.change_at(&order, OrderState::Starting, move |_| {
            assert!(world.lock().unwrap().replace_guest(100, now));
        })
        .await
    };
    assert!(!outcome.is_success(), "{outcome}");
    assert!(rig.exists(100));
    assert_eq!(deletes(&rig), 0);
}

#[tokio::test]
async fn what_proxmox_would_not_do_is_refused_before_the_order_is_used_up() {
    let rig = Rig::start().await;
    rig.change(|w| drop(w.ha.insert(101, pve_sim::world::HaResource::new("stopped"))));
    let draft = draft(&rig, Qemu, 101).await;
    let why = rig.plan(&draft).await.unwrap_err();
    assert!(why.contains("high availability") && why.contains("params.purge"), "{why}");
    let mut purged = rig.on_guest(Qemu, 101, params(true)).await;
    purged.pre.ha = draft.pre.ha;
    assert!(rig.carry_out(&purged).await.is_success());
}

#[tokio::test]
async fn locked_changed_and_warned() {
    let rig = Rig::start().await;
    let order = rig.plan(&draft(&rig, Qemu, 101).await).await.unwrap().1;
    rig.set(101, "lock", "backup");
    assert_eq!(code(&rig.submit(&order).await), RefusalCode::Busy);
    rig.change(|w| drop(w.guests.get_mut(&101).unwrap().config.remove("lock")));
    rig.set(101, "memory", "512");
    assert_eq!(code(&rig.submit(&order).await), RefusalCode::Precondition);
    rig.inject("qmdestroy", Fault::Warn(1));
    let outcome = rig.carry_out(&draft(&rig, Qemu, 101).await).await;
    assert!(matches!(outcome, Outcome::Warnings { count: 1, .. }), "{outcome}");
    assert!(!rig.exists(101));
}

/// Proxmox says that it is done, and a volume is still there: nobody calls that done.
#[tokio::test]
async fn a_task_that_says_ok_and_did_nothing_is_not_believed() {
    let rig = Rig::start().await;
    let draft = draft(&rig, Qemu, 101).await;
    rig.inject("qmdestroy", Fault::Kill);
    let outcome = rig.carry_out(&draft).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome}");
    assert_eq!(deletes(&rig), 1);
}
