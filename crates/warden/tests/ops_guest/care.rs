use authz::order::{AdoptParams, DetachParams, NoParams, Params};
use authz::{Order, Outcome, RefusalCode};
use protocol::ask::{Look, Question, Reply};
use protocol::local::WardenAnswer;
use protocol::plan::Step;
use protocol::report::Known;
use protocol::{GuestKind, RunState};
use pve_sim::world::{FaultRule, Mishap};
use warden::questions;

use crate::common::{BOTH, Rig, code, vmid};

fn adopt(protect: bool) -> Params {
    Params::GuestAdopt(AdoptParams { protect })
}

/// What the warden says that the guest's instance id is.
async fn giid(rig: &Rig, n: u32) -> Option<String> {
    let look = Look { guest: Some(vmid(n)), ..Look::default() };
    let WardenAnswer::Answered { reply: Reply::World { json } } =
        questions::answer(&rig.warden, Question::Look(look)).await
    else {
        panic!("not a world")
    };
    let world: authz::world::World = serde_json::from_slice(&json.0).unwrap();
    let Known::Known(guest) = world.guest else { panic!("no guest") };
    guest.identity.giid
}

async fn with_giid(rig: &Rig, kind: GuestKind, n: u32, params: Params) -> Order {
    let mut order = rig.order(kind, n, params).await;
    order.guest.as_mut().unwrap().identity.giid = giid(rig, n).await;
    order
}

#[tokio::test]
async fn an_adopted_guest_has_an_id_that_survives_and_that_orders_compare() {
    let mut rig = Rig::start().await;
    for (kind, n, _) in BOTH {
        assert_eq!(giid(&rig, n).await, None);
        let before = rig.mutations();
        let outcome = rig.run(kind, n, adopt(false)).await;
        assert!(matches!(outcome, Outcome::Done { upid: None, .. }), "{outcome}");
        assert_eq!(rig.mutations(), before, "nothing for Proxmox to do");
        let id = giid(&rig, n).await.unwrap();
        assert!(outcome.to_string().contains(&id), "{outcome}");
        assert_eq!(code(&rig.run(kind, n, adopt(false)).await), RefusalCode::Precondition, "twice");
        rig = rig.reopen();
        assert_eq!(giid(&rig, n).await.as_ref(), Some(&id));
        // An order that states it, and one that states another.
        let order = with_giid(&rig, kind, n, Params::GuestStart(NoParams {})).await;
        let mut other = order.clone();
        other.guest.as_mut().unwrap().identity.giid = Some("0".repeat(32));
        assert_eq!(code(&rig.submit(&other).await), RefusalCode::GuestIdentity);
        assert!(rig.submit(&order).await.is_success());
        assert_eq!(rig.see(kind, n).await.state, RunState::Running);
        // Released: the id is gone, and an order that states it is refused.
        let stale = with_giid(&rig, kind, n, Params::GuestStop(NoParams {})).await;
        let outcome = rig.run(kind, n, Params::GuestRelease(NoParams {})).await;
        assert!(outcome.is_success(), "{outcome}");
        assert_eq!(giid(&rig, n).await, None);
        assert_eq!(code(&rig.submit(&stale).await), RefusalCode::GuestIdentity);
        let again = rig.run(kind, n, Params::GuestRelease(NoParams {})).await;
        assert_eq!(code(&again), RefusalCode::Precondition, "{again}");
    }
}

#[tokio::test]
async fn a_recycled_number_inherits_nothing_and_takes_no_unsigned_steps() {
    let rig = Rig::start().await;
    for (kind, n, _) in BOTH {
        assert!(rig.run(kind, n, adopt(false)).await.is_success());
        let order = with_giid(&rig, kind, n, Params::GuestStart(NoParams {})).await;
        rig.replace(n);
        assert_eq!(giid(&rig, n).await, None);
        let before = rig.mutations();
        assert_eq!(code(&rig.submit(&order).await), RefusalCode::GuestIdentity);
        let step = Step::Start { guest: rig.guest(kind, n).await };
        let outcome = rig.step(step.clone()).await;
        assert_eq!(code(&outcome), RefusalCode::GuestIdentity, "{outcome}");
        assert!(outcome.to_string().contains("was adopted"), "{outcome}");
        assert_eq!(rig.mutations(), before);
        // A signed order says what it is from now on.
        assert!(rig.run(kind, n, adopt(false)).await.is_success());
        assert!(rig.step(step).await.is_success());
    }
}

#[tokio::test]
async fn protection_is_set_by_compare_and_set() {
    let rig = Rig::start().await;
    for (kind, n, _) in BOTH {
        let order = rig.order(kind, n, adopt(true)).await;
        let race = FaultRule::new(Mishap::DigestRace { vmid: Some(n) }).method("PUT").contains("/config");
        rig.sim.fault(race).unwrap();
        let outcome = rig.carry_out(&order).await;
        assert!(matches!(outcome, Outcome::Failed { upid: None, .. }), "{outcome}");
        assert_eq!((giid(&rig, n).await, rig.see(kind, n).await.protection), (None, false));
        rig.sim.clear_faults();
        rig.sim.drop_answer_next("PUT", "/config");
        let outcome = rig.run(kind, n, adopt(true)).await;
        assert!(matches!(outcome, Outcome::Done { upid: None, .. }), "{outcome}");
        assert!(giid(&rig, n).await.is_some() && rig.see(kind, n).await.protection);
    }
}

/// What a signed order changes in a guest does not make it another one.
#[tokio::test]
async fn the_list_follows_signed_orders() {
    let rig = Rig::start().await;
    let (kind, n) = (GuestKind::Lxc, 201);
    rig.set_option(n, "net0", None);
    rig.set_option(n, "mp0", Some("local-lvm:vm-201-disk-7,mp=/data,size=1G"));
    assert!(rig.run(kind, n, adopt(false)).await.is_success());
    let id = giid(&rig, n).await;
    let detach = Params::DiskDetach(DetachParams {
        disk: "mp0".parse().unwrap(),
        volume: "local-lvm:vm-201-disk-7".parse().unwrap(),
    });
    assert!(rig.run(kind, n, detach).await.is_success());
    let relocate = Params::DiskMove(authz::order::MoveParams {
        disk: "rootfs".parse().unwrap(),
        volume: "tank:subvol-201-disk-0".parse().unwrap(),
        storage: "local-lvm".parse().unwrap(),
        delete_source: true,
    });
    let outcome = rig.run(kind, n, relocate).await;
    assert!(outcome.is_success(), "{outcome}");
    assert_eq!(giid(&rig, n).await, id);
}

/// Nothing is taken for "nobody is adopted" that is not known to be so.
#[tokio::test]
async fn a_damaged_list_stops_everything_that_would_need_it() {
    let rig = Rig::start().await;
    let (kind, n) = (GuestKind::Qemu, 101);
    assert!(rig.run(kind, n, adopt(false)).await.is_success());
    std::fs::write(rig.dir.path().join("state/adopted.json"), b"{}").unwrap();
    let rig = rig.reopen();
    let before = rig.mutations();
    let outcome = rig.run(kind, n, Params::GuestStart(NoParams {})).await;
    assert_eq!(code(&outcome), RefusalCode::Closed, "{outcome}");
    let outcome = rig.step(Step::Start { guest: rig.guest(kind, n).await }).await;
    assert_eq!(code(&outcome), RefusalCode::Closed, "{outcome}");
    assert_eq!(rig.mutations(), before);
}
