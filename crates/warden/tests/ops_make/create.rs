//! `guest.create`: from a file, from a template, from a backup.

use authz::order::{CreateParams, NetParams, Order, Params, TemplateSource};
use authz::{Outcome, RefusalCode};
use protocol::{GuestKind, Sha256};
use pve_sim::world::{Fault, Volume};
use serde_json::json;

use crate::rig::{Lxc, Qemu, Rig, code, one, text, vmid};

const TEMPLATE: &str = "local:vztmpl/debian-12.tar.zst";

fn params(kind: GuestKind, n: u32, template: TemplateSource) -> CreateParams {
    CreateParams {
        vmid: vmid(n),
        kind,
        name: "fresh".parse().unwrap(),
        disk: matches!(template, TemplateSource::Archive { .. }).then_some(4 << 30),
        net: (!matches!(template, TemplateSource::Backup { .. })).then(|| NetParams {
            bridge: "vmbr0".parse().unwrap(),
            vlan: Some(7),
            firewall: true,
        }),
        template,
        storage: "tank".parse().unwrap(),
        cores: 2,
        memory_mib: 512,
        unprivileged: true,
        onboot: true,
        start: true,
        pool: None,
        tags: vec!["web".parse().unwrap(), "a1".parse().unwrap()],
    }
}

/// A template in a file, in the simulator's storage and where the warden reads it.
fn archive(rig: &Rig, bytes: &[u8]) -> TemplateSource {
    let volume = Volume {
        content: "vztmpl".into(),
        format: "tzst".into(),
        size: bytes.len() as u64,
        ..Volume::default()
    };
    rig.change(|w| drop(w.stock.volumes.insert(TEMPLATE.into(), volume)));
    let cache = rig.dir.path().join("host/var/lib/vz/template/cache");
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(cache.join("debian-12.tar.zst"), bytes).unwrap();
    TemplateSource::Archive { volume: TEMPLATE.parse().unwrap(), sha256: Sha256::of(bytes) }
}

async fn template(rig: &Rig, kind: GuestKind, n: u32) -> TemplateSource {
    rig.set(n, "template", one());
    let digest = rig.see(kind, n).await.digest.parse().unwrap();
    TemplateSource::Guest { vmid: vmid(n), digest }
}

async fn backup(rig: &Rig, kind: GuestKind, n: u32) -> TemplateSource {
    let made = rig.back_up(kind, n).await;
    TemplateSource::Backup { volume: made.volid, size: made.size, ctime: made.ctime }
}

fn order(rig: &Rig, params: CreateParams) -> Order {
    rig.order(Params::GuestCreate(params))
}

#[tokio::test]
async fn a_container_is_made_from_the_file_that_was_meant() {
    let rig = Rig::start().await;
    let order = order(&rig, params(Lxc, 300, archive(&rig, b"template")));
    let outcome = rig.carry_out(&order).await;
    assert!(outcome.is_success(), "{outcome}");
    let seen = rig.see(Lxc, 300).await;
    assert_eq!((seen.name.as_str(), seen.protection, rig.runs(300)), ("fresh", true, true));
    assert_eq!(seen.config["unprivileged"], "1");
    assert_eq!(seen.config["onboot"], "1");
    assert!(seen.config["net0"].contains("bridge=vmbr0") && seen.config["net0"].contains("tag=7"));
    assert!(seen.config["rootfs"].starts_with("tank:"));
    assert_eq!(rig.mutations().len(), 2);
}

#[tokio::test]
async fn a_file_that_is_another_one_or_cannot_be_read_is_not_used() {
    let rig = Rig::start().await;
    let source = archive(&rig, b"template");
    archive(&rig, b"something else");
    let outcome = rig.submit(&order(&rig, params(Lxc, 300, source.clone()))).await;
    let Outcome::Aborted { why } = &outcome else { panic!("{outcome}") };
    assert!(why.as_str().contains("is not the file that was meant"), "{why}");
    std::fs::remove_dir_all(rig.dir.path().join("host")).unwrap();
    let outcome = rig.submit(&order(&rig, params(Lxc, 300, source))).await;
    let Outcome::Aborted { why } = &outcome else { panic!("{outcome}") };
    assert!(why.as_str().contains("the warden cannot read"), "{why}");
    assert!(!rig.exists(300) && rig.mutations().is_empty());
}

#[tokio::test]
async fn a_template_is_cloned_whole_and_given_its_options() {
    for (kind, n) in [(Qemu, 102), (Lxc, 201)] {
        let rig = Rig::start().await;
        rig.set(
            n,
            "net3",
            if kind == Qemu {
                json!("virtio=BC:24:11:00:00:99,bridge=vmbr0")
            } else {
                json!("name=eth3,bridge=vmbr0,hwaddr=BC:24:11:00:00:99")
            },
        );
        let source = template(&rig, kind, n).await;
        let outcome = rig.carry_out(&order(&rig, params(kind, 300, source))).await;
        assert!(outcome.is_success(), "{outcome}");
        let (seen, old) = (rig.see(kind, 300).await, rig.see(kind, n).await);
        assert_eq!((seen.name.as_str(), seen.protection, rig.runs(300)), ("fresh", true, true));
        assert_eq!((seen.config["cores"].as_str(), seen.config["memory"].as_str()), ("2", "512"));
        assert!(!seen.config.contains_key("net3"), "a device that nobody ordered");
        assert!(seen.config["net0"].contains("tag=7"), "{}", seen.config["net0"]);
        assert!(seen.identity.macs.iter().all(|mac| !old.identity.macs.contains(mac)));
        assert!(seen.slots.values().all(|volume| volume.starts_with("tank:")), "{:?}", seen.slots);
    }
}

#[tokio::test]
async fn a_template_that_changed_or_is_none_is_not_cloned() {
    let rig = Rig::start().await;
    let source = template(&rig, Qemu, 102).await;
    rig.set(102, "memory", "2048");
    assert_eq!(code(&rig.submit(&order(&rig, params(Qemu, 300, source))).await), RefusalCode::Precondition);
    let rig = Rig::start().await;
    let source = template(&rig, Lxc, 201).await;
    let privileged = CreateParams { unprivileged: false, ..params(Lxc, 300, source) };
    let outcome = rig.submit(&order(&rig, privileged)).await;
    assert!(outcome.to_string().contains("a clone is what its template is"), "{outcome}");
    assert_eq!(rig.mutations().len(), 0);
}

#[tokio::test]
async fn a_backup_becomes_a_guest_with_an_identity_of_its_own() {
    for (kind, n) in [(Qemu, 101), (Lxc, 201)] {
        let rig = Rig::start().await;
        let source = backup(&rig, kind, n).await;
        let old = rig.see(kind, n).await;
        let wanted = CreateParams { start: false, ..params(kind, 300, source) };
        let (plan, signed) = rig.plan(&order(&rig, wanted)).await.unwrap();
        assert!(text(&plan.calls).contains("unique=1 start=0 onboot=0"), "{:?}", plan.calls);
        let outcome = rig.submit(&signed).await;
        assert!(outcome.is_success(), "{outcome}");
        let seen = rig.see(kind, 300).await;
        assert!(seen.identity.macs.iter().all(|mac| !old.identity.macs.contains(mac)));
        assert!(kind == Lxc || seen.identity.smbios_uuid != old.identity.smbios_uuid);
        assert!(seen.config["net0"].contains("link_down=1"), "{}", seen.config["net0"]);
        assert_eq!((seen.name.as_str(), seen.protection, rig.runs(300)), ("fresh", true, false));
        assert_eq!(rig.see(kind, n).await.guest_now(), old.guest_now(), "the guest that the backup is of");
    }
}

#[tokio::test]
async fn a_guest_that_appears_under_the_number_is_left_alone() {
    for place in 0..2 {
        let rig = Rig::start().await;
        let source = backup(&rig, Qemu, 101).await;
        let order = order(&rig, params(Qemu, 300, source));
        let appear = |rig: &Rig| {
            rig.change(|w| {
                let guest = w.guests[&102].clone();
                w.guests.insert(300, guest);
            });
        };
        let outcome = if place == 0 {
            appear(&rig);
            rig.submit(&order).await
        } else {
            rig.change_at(&order, protocol::frame::OrderState::Verified, appear).await
        };
        assert!(!outcome.is_success(), "{outcome}");
        assert_eq!(rig.see(Qemu, 300).await.name, "files");
        assert_eq!(rig.count("POST", "/qemu"), 0, "{:?}", rig.mutations());
    }
}

#[tokio::test]
async fn lost_answers_and_failures_of_each_call() {
    for (method, part) in [("POST", "/clone"), ("PUT", "/config"), ("POST", "/start")] {
        let rig = Rig::start().await;
        let source = template(&rig, Qemu, 102).await;
        let order = order(&rig, params(Qemu, 300, source));
        rig.sim.drop_answer_next(method, part);
        let outcome = rig.submit(&order).await;
        assert!(outcome.is_success(), "{method} {part}: {outcome}");
        assert_eq!(rig.mutations().len(), 3);
    }
    for (task, fault) in [
        ("qmclone", Fault::Fail { text: "no space".into(), leave_lock: false }),
        ("qmclone", Fault::Kill),
        ("qmstart", Fault::Fail { text: "no".into(), leave_lock: false }),
    ] {
        let rig = Rig::start().await;
        let source = template(&rig, Qemu, 102).await;
        rig.inject(task, fault);
        let outcome = rig.submit(&order(&rig, params(Qemu, 300, source))).await;
        assert!(matches!(outcome, Outcome::Failed { .. } | Outcome::Unknown { .. }), "{task}: {outcome}");
        assert_eq!(rig.count("POST", "/clone"), 1);
    }
}

#[tokio::test]
async fn no_room_no_guest() {
    let rig = Rig::start().await;
    let order = order(&rig, params(Lxc, 300, archive(&rig, b"template")));
    rig.change(|w| assert!(w.set_usage("tank", Some(99.9), None)));
    let outcome = rig.submit(&order).await;
    assert!(outcome.to_string().contains("bytes left"), "{outcome}");
    assert_eq!(rig.mutations().len(), 0);
}
