use serde_json::json;

use super::*;
use crate::ops::{Action, Target, config, power};

fn permissions(value: serde_json::Value) -> Permissions {
    serde_json::from_value(value).unwrap()
}

fn vmid() -> Vmid {
    Vmid::try_from(101).unwrap()
}

fn target() -> Target {
    Target { kind: GuestKind::Qemu, vmid: vmid() }
}

fn one(call: Call) -> Program {
    Program { actions: vec![Action::on_guest(call)] }
}

#[test]
fn the_nearest_path_decides_and_hands_down_only_what_it_says() {
    let all = permissions(json!({
        "/": {"VM.Audit": true, "Sys.Audit": false},
        "/vms": {"VM.PowerMgmt": true, "VM.Config.CPU": false},
        "/vms/102": {"VM.Audit": false},
    }));
    let on = |path| held(&all, path).into_iter().collect::<Vec<_>>();
    assert_eq!(on("/vms/101"), ["VM.PowerMgmt"], "neither the grandparent's nor what stays on the parent");
    assert_eq!(on("/vms/102"), ["VM.Audit"], "the path's own line, handed down or not");
    assert_eq!(on("/vms"), ["VM.Config.CPU", "VM.PowerMgmt"]);
    assert_eq!(on("/storage/local"), ["VM.Audit"]);
    assert_eq!(on("/"), ["Sys.Audit", "VM.Audit"]);
    assert!(held(&Permissions::new(), "/vms/101").is_empty());
}

#[test]
fn what_is_lacking_is_named_with_the_lines_that_grant_it() {
    let all = permissions(json!({"/": {"VM.PowerMgmt": true, "VM.Config.Options": true}}));
    check(&one(power::stop(target())), &all, "writ@pve!act").unwrap();
    let startup = config::set(target(), [("startup", Some("order=1".to_owned()))], Some("d"));
    let (code, why) = check(&one(startup), &all, "writ@pve!act").unwrap_err();
    assert_eq!(code, RefusalCode::Proxmox);
    assert!(why.contains("lacks Sys.Modify on /:"), "{why}");
    assert!(
        why.ends_with(
            "pveum role add Writ-Sys-Modify --privs Sys.Modify; pveum acl modify / --users 'writ@pve' --tokens 'writ@pve!act' --roles Writ-Sys-Modify"
        ),
        "{why}"
    );
    let none = Permissions::new();
    let (_, why) = check(&one(power::stop(target())), &none, "root@pam!w").unwrap_err();
    assert!(why.ends_with("pveum acl modify /vms/101 --tokens 'root@pam!w' --roles WritAgent"), "{why}");
}

#[test]
fn an_undoing_call_needs_its_rights_too() {
    let set = config::set(target(), [("protection", None)], Some("d"));
    let program = Program { actions: vec![Action::on_guest(power::stop(target())).or_else(set)] };
    let all = permissions(json!({"/vms": {"VM.PowerMgmt": true}}));
    let (_, why) = check(&program, &all, "writ@pve!act").unwrap_err();
    assert!(why.contains("lacks VM.Config.Options on /vms/101"), "{why}");
}

#[test]
fn network_devices_need_their_bridge() {
    let text = "virtio=BC:24:11:00:00:01,bridge=vmbr1,tag=5";
    let rights = for_option(GuestKind::Qemu, vmid(), "net0", Some(text));
    assert_eq!(rights[1], on("/sdn/zones/localnetwork/vmbr1/5", "SDN.Use"));
    assert_eq!(for_option(GuestKind::Qemu, vmid(), "net0", None).len(), 1);
    assert!(for_option(GuestKind::Qemu, vmid(), "boot", None).is_empty(), "not certain, so not asked for");
    assert_eq!(for_option(GuestKind::Qemu, vmid(), "ipconfig0", None)[0].any_of.len(), 2);
}
