use authz::order::{ConfigChange, ConfigParams, NoParams, Params};
use authz::{Outcome, RefusalCode};
use protocol::GuestKind;

use crate::common::{Rig, code};

/// What the token may not do is refused by name, in the plan already, and costs no nonce.
#[tokio::test]
async fn a_right_that_is_lacking_is_named_and_the_order_can_come_again() {
    let rig = Rig::start().await;
    let startup =
        ConfigChange { key: "startup".parse().unwrap(), old: None, new: Some("order=3".parse().unwrap()) };
    let params = Params::GuestConfig(ConfigParams { changes: vec![startup] });
    let order = rig.order(GuestKind::Qemu, 101, params).await;
    let why = rig.planned(&order).await.unwrap_err();
    assert!(why.contains("lacks Sys.Modify on /"), "{why}");
    let before = rig.mutations();
    for _ in 0..2 {
        let outcome = rig.submit(&order).await;
        assert_eq!(code(&outcome), RefusalCode::Proxmox, "and no replay the second time: {outcome}");
        assert!(outcome.to_string().contains("pveum role add Writ-Sys-Modify"), "{outcome}");
    }
    assert_eq!(rig.mutations(), before);
    // Root does what the lines say, and the same order is carried out.
    {
        let world = rig.sim.world();
        let mut world = world.lock().unwrap();
        for whom in ["writ@pve", "writ@pve!act"] {
            world.access.grant("/", whom, "Administrator");
        }
    }
    let outcome = rig.submit(&order).await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome}");
}

#[tokio::test]
async fn a_token_that_lost_its_role_is_told_how_to_get_it_back() {
    let rig = Rig::start().await;
    let order = rig.order(GuestKind::Qemu, 101, Params::GuestStart(NoParams {})).await;
    rig.sim.world().lock().unwrap().access.acl.retain(|line| line.role != "WritAgent");
    {
        let world = rig.sim.world();
        let mut world = world.lock().unwrap();
        world.access.grant("/", "writ@pve!act", "PVEAuditor");
    }
    let outcome = rig.submit(&order).await;
    assert_eq!(code(&outcome), RefusalCode::Proxmox);
    let text = outcome.to_string();
    assert!(
        text.contains("lacks VM.PowerMgmt on /vms/101")
            && text.contains(
                "pveum acl modify /vms/101 --users 'writ@pve' --tokens 'writ@pve!act' --roles WritAgent"
            ),
        "{text}"
    );
}
