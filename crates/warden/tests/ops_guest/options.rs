use authz::order::{Amount, ConfigChange, ConfigParams, Params, ResizeParams};
use authz::{Outcome, RefusalCode};
use protocol::GuestKind;
use pve_sim::world::{FaultRule, Mishap};

use crate::common::{BOTH, Rig, code};

fn change(key: &str, old: Option<&str>, new: Option<&str>) -> ConfigChange {
    ConfigChange {
        key: key.parse().unwrap(),
        old: old.map(|old| old.parse().unwrap()),
        new: new.map(|new| new.parse().unwrap()),
    }
}

fn config(changes: Vec<ConfigChange>) -> Params {
    Params::GuestConfig(ConfigParams { changes })
}

async fn onboot(rig: &Rig, kind: GuestKind, n: u32) -> Params {
    let old = rig.see(kind, n).await.config.get("onboot").cloned();
    let new = if old.as_deref() == Some("1") { "0" } else { "1" };
    config(vec![change("onboot", old.as_deref(), Some(new))])
}

#[tokio::test]
async fn options_are_set_and_taken_away() {
    let rig = Rig::start().await;
    for (kind, n, _) in BOTH {
        let old = rig.see(kind, n).await.config.get("onboot").cloned();
        let changes = vec![
            change("onboot", old.as_deref(), if old.is_some() { None } else { Some("1") }),
            change("protection", None, Some("1")),
        ];
        let outcome = rig.run(kind, n, config(changes)).await;
        assert!(matches!(outcome, Outcome::Done { upid: None, .. }), "{outcome}");
        let seen = rig.see(kind, n).await;
        assert!(seen.protection && seen.config.contains_key("onboot") == old.is_none(), "{outcome}");
        let text = outcome.to_string();
        assert!(text.contains("protection is 1") && !text.contains("next start"), "{text}");
    }
}

#[tokio::test]
async fn a_running_machine_is_told_what_waits() {
    let rig = Rig::start().await;
    let amount = |old, new| Some(Amount { old: Some(old), new });
    let resize = |memory_mib| {
        Params::GuestResize(ResizeParams { cores: None, sockets: None, memory_mib, swap_mib: None })
    };
    // A machine needs a start, a container does not.
    let order = rig.order(GuestKind::Qemu, 100, resize(amount(2048, 4096))).await;
    let (lines, _) = rig.planned(&order).await.unwrap();
    assert!(lines.iter().any(|line| line.contains("memory may wait for its next start")), "{lines:?}");
    let outcome = rig.carry_out(&order).await;
    let text = outcome.to_string();
    assert!(
        outcome.is_success()
            && text.contains("memory is 4096 (from the guest's next start on; until then 2048)"),
        "{text}"
    );
    let outcome = rig.run(GuestKind::Lxc, 200, resize(amount(256, 512))).await;
    assert!(outcome.is_success() && !outcome.to_string().contains("next start"), "{outcome}");
    // Stopped guests take it at once.
    let outcome = rig.run(GuestKind::Qemu, 101, resize(amount(4096, 8192))).await;
    assert!(outcome.is_success() && !outcome.to_string().contains("next start"), "{outcome}");
    assert_eq!(rig.see(GuestKind::Qemu, 101).await.config["memory"], "8192");
}

#[tokio::test]
async fn another_value_or_digest_is_refused_before_anything_is_sent() {
    let rig = Rig::start().await;
    for (kind, n, _) in BOTH {
        let order = rig.order(kind, n, onboot(&rig, kind, n).await).await;
        let before = rig.mutations();
        rig.set_option(n, "description", Some("somebody was here"));
        assert_eq!(code(&rig.carry_out(&order).await), RefusalCode::Precondition);
        // The same digest, and another value than was signed.
        let stale = config(vec![change("onboot", Some("7"), Some("1"))]);
        let order = rig.order(kind, n, stale).await;
        assert_eq!(code(&rig.carry_out(&order).await), RefusalCode::Precondition);
        assert_eq!(rig.mutations(), before);
    }
}

/// The digest changes after the last look: Proxmox itself compares it, and the outcome says that nothing
/// happened.
#[tokio::test]
async fn proxmox_compares_the_digest_once_more() {
    let rig = Rig::start().await;
    for (kind, n, _) in BOTH {
        let order = rig.order(kind, n, onboot(&rig, kind, n).await).await;
        let was = rig.see(kind, n).await.config.get("onboot").cloned();
        let race = FaultRule::new(Mishap::DigestRace { vmid: Some(n) }).method("PUT").contains("/config");
        rig.sim.fault(race).unwrap();
        let outcome = rig.carry_out(&order).await;
        let Outcome::Failed { upid: None, why } = &outcome else { panic!("{outcome}") };
        assert!(why.as_str().starts_with("Proxmox refused"), "{why}");
        assert_eq!(rig.see(kind, n).await.config.get("onboot").cloned(), was);
        rig.sim.clear_faults();
    }
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_looking() {
    let rig = Rig::start().await;
    for (kind, n, _) in BOTH {
        rig.sim.drop_answer_next("PUT", "/config");
        let before = rig.mutations();
        let outcome = rig.run(kind, n, onboot(&rig, kind, n).await).await;
        assert!(matches!(outcome, Outcome::Done { upid: None, .. }), "{outcome}");
        assert_eq!(rig.mutations(), before + 1);
    }
}

/// It never arrived, which is known only once it cannot arrive any more.
#[tokio::test]
async fn a_request_that_never_arrived_changed_nothing() {
    let rig = Rig::start().await;
    let (kind, n) = (GuestKind::Qemu, 101);
    let lost = FaultRule::new(Mishap::Reset { handled: false }).method("PUT").contains("/config");
    rig.sim.fault(lost).unwrap();
    let before = rig.mutations();
    let outcome = rig.run(kind, n, onboot(&rig, kind, n).await).await;
    assert!(matches!(outcome, Outcome::Aborted { .. }), "{outcome}");
    assert_eq!(rig.mutations(), before + 1);
}

#[tokio::test]
async fn locked_and_recycled_guests_are_left_alone() {
    let rig = Rig::start().await;
    for (kind, n, _) in BOTH {
        let order = rig.order(kind, n, onboot(&rig, kind, n).await).await;
        let before = rig.mutations();
        rig.set_option(n, "lock", Some("backup"));
        assert_eq!(code(&rig.carry_out(&order).await), RefusalCode::Busy);
        rig.set_option(n, "lock", None);
        rig.replace(n);
        assert_eq!(code(&rig.carry_out(&order).await), RefusalCode::GuestIdentity);
        assert_eq!(rig.mutations(), before);
    }
}
