use authz::order::{NoParams, Params, PowerOffParams, RebootParams, SuspendParams};
use authz::{Outcome, RefusalCode};
use protocol::{GuestKind, RunState};
use pve_sim::world::Fault;

use crate::common::{BOTH, Rig, code};

fn stop() -> Params {
    Params::GuestStop(NoParams {})
}

fn shutdown(force: bool) -> Params {
    Params::GuestShutdown(PowerOffParams { timeout_s: 30, force })
}

fn reboot() -> Params {
    Params::GuestReboot(RebootParams { timeout_s: 30 })
}

#[tokio::test]
async fn start_shut_down_and_stop() {
    let rig = Rig::start().await;
    for (kind, stopped, running) in BOTH {
        let outcome = rig.run(kind, stopped, Params::GuestStart(NoParams {})).await;
        assert!(outcome.is_success(), "{outcome}");
        assert_eq!(rig.see(kind, stopped).await.state, RunState::Running);
        let outcome = rig.run(kind, stopped, shutdown(false)).await;
        assert!(outcome.is_success(), "{outcome}");
        let outcome = rig.run(kind, running, stop()).await;
        assert!(outcome.is_success(), "{outcome}");
        assert_eq!(rig.see(kind, running).await.state, RunState::Stopped);
    }
}

#[tokio::test]
async fn a_deaf_guest_is_stopped_only_when_that_was_ordered() {
    let rig = Rig::start().await;
    for (kind, _, n) in BOTH {
        rig.sim.world().lock().unwrap().guests.get_mut(&n).unwrap().deaf = true;
        let outcome = rig.run(kind, n, shutdown(false)).await;
        assert!(matches!(outcome, Outcome::Failed { upid: Some(_), .. }), "{outcome}");
        assert_eq!(rig.see(kind, n).await.state, RunState::Running);
        let outcome = rig.run(kind, n, reboot()).await;
        assert!(matches!(outcome, Outcome::Failed { upid: Some(_), .. }), "{outcome}");
        let outcome = rig.run(kind, n, shutdown(true)).await;
        assert!(outcome.is_success(), "{outcome}");
        assert_eq!(rig.see(kind, n).await.state, RunState::Stopped);
    }
}

#[tokio::test]
async fn a_reboot_is_proved_by_another_process() {
    let rig = Rig::start().await;
    for (kind, _, n) in BOTH {
        let before = rig.see(kind, n).await.boot.unwrap();
        let outcome = rig.run(kind, n, reboot()).await;
        let after = rig.see(kind, n).await.boot.unwrap();
        assert_ne!(before.pid, after.pid);
        let proof = format!("as process {} instead of {}", after.pid.unwrap(), before.pid.unwrap());
        assert!(outcome.is_success() && outcome.to_string().contains(&proof), "{outcome}");
    }
}

#[tokio::test]
async fn a_machine_is_paused_and_goes_on() {
    let rig = Rig::start().await;
    let (kind, n) = (GuestKind::Qemu, 100);
    let outcome = rig.run(kind, n, Params::GuestSuspend(SuspendParams { to_disk: true })).await;
    assert_eq!(code(&outcome), RefusalCode::Kind, "a lock that only root can clear");
    let outcome = rig.run(kind, n, Params::GuestSuspend(SuspendParams { to_disk: false })).await;
    assert!(outcome.is_success(), "{outcome}");
    assert!(rig.see(kind, n).await.paused);
    let outcome = rig.run(kind, n, Params::GuestResume(NoParams {})).await;
    assert!(outcome.is_success() && !rig.see(kind, n).await.paused, "{outcome}");
}

#[tokio::test]
async fn high_availability_follows_later_and_is_waited_for() {
    let rig = Rig::start().await;
    for (kind, stopped, running) in BOTH {
        rig.manage(stopped, "stopped");
        rig.manage(running, "started");
        let order = rig.order(kind, running, shutdown(false)).await;
        let (lines, _) = rig.planned(&order).await.unwrap();
        assert!(lines.iter().any(|line| line.contains("keeps the guest stopped")), "{lines:?}");
        assert!(
            lines.iter().any(|line| line.contains("stopped hard after that time all the same")),
            "{lines:?}"
        );
        let outcome = rig.carry_out(&order).await;
        assert!(by_task(&outcome, ":hastop:"), "{outcome}");
        assert_eq!(rig.see(kind, running).await.state, RunState::Stopped);
        let outcome = rig.run(kind, stopped, Params::GuestStart(NoParams {})).await;
        assert!(by_task(&outcome, ":hastart:"), "{outcome}");
        // What high availability wants has changed since: nothing is sent.
        let before = rig.mutations();
        let outcome = rig.carry_out(&unmanaged_since(&rig, kind, stopped).await).await;
        assert_eq!((code(&outcome), rig.mutations()), (RefusalCode::Precondition, before), "{outcome}");
    }
}

fn by_task(outcome: &Outcome, name: &str) -> bool {
    matches!(outcome, Outcome::Done { upid: Some(upid), .. } if upid.contains(name))
}

/// A stop that was prepared before somebody took the guest out of high availability.
async fn unmanaged_since(rig: &Rig, kind: GuestKind, n: u32) -> authz::Order {
    let order = rig.order(kind, n, stop()).await;
    rig.sim.world().lock().unwrap().ha.remove(&n);
    order
}

#[tokio::test]
async fn power_meets_every_mishap() {
    for (kind, _, n) in BOTH {
        let rig = Rig::start().await;
        let task = |what: &str| format!("{}{what}", if kind == GuestKind::Qemu { "qm" } else { "vz" });
        // The answer is lost: the task is found, and nothing is sent again.
        rig.sim.drop_answer_next("POST", "/status/reboot");
        let before = rig.mutations();
        let outcome = rig.run(kind, n, reboot()).await;
        assert!(matches!(outcome, Outcome::Done { upid: Some(_), .. }), "{outcome}");
        assert_eq!(rig.mutations(), before + 1);
        // Done with warnings, failed, killed.
        rig.inject(&task("reboot"), Fault::Warn(2));
        let outcome = rig.run(kind, n, reboot()).await;
        assert!(matches!(outcome, Outcome::Warnings { count: 2, .. }), "{outcome}");
        rig.inject(&task("stop"), Fault::Fail { text: "no".into(), leave_lock: false });
        let outcome = rig.run(kind, n, stop()).await;
        assert!(matches!(outcome, Outcome::Failed { upid: Some(_), .. }), "{outcome}");
        rig.inject(&task("stop"), Fault::Kill);
        let outcome = rig.run(kind, n, stop()).await;
        assert!(matches!(outcome, Outcome::Unknown { upid: Some(_), .. }), "{outcome}");
        // Locked, and recycled, between the preparation and the order: nothing is sent.
        let before = rig.mutations();
        rig.set_option(n, "lock", None);
        let order = rig.order(kind, n, stop()).await;
        rig.set_option(n, "lock", Some("backup"));
        assert_eq!(code(&rig.carry_out(&order).await), RefusalCode::Busy);
        rig.set_option(n, "lock", None);
        rig.replace(n);
        let outcome = rig.carry_out(&order).await;
        assert!(matches!(code(&outcome), RefusalCode::GuestIdentity), "{outcome}");
        assert_eq!(rig.mutations(), before);
    }
}
