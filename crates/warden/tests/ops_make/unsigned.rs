//! What may be made without a signature: templates and guests that the policy pins by their content.

use authz::policy::Bounds;
use authz::policy::bounds::{Create, Downloads, Fields, PinnedTemplate};
use authz::{Outcome, RefusalCode};
use protocol::Sha256;
use protocol::plan::{NewGuest, Pin, Step};
use serde_json::json;

use crate::rig::{Lxc, Rig, code, vmid};

const FILE: &str = "alpine-3.22-default_20250617_amd64.tar.xz";
const BYTES: &[u8] = b"alpine";

fn archive() -> Pin {
    let volume = format!("local:vztmpl/{FILE}").parse().unwrap();
    Pin::Archive { volume, sha256: Sha256::of(BYTES) }
}

fn bounds(templates: Vec<Pin>) -> Bounds {
    let pinned = PinnedTemplate { template: FILE.parse().unwrap(), sha256: Sha256::of(BYTES) };
    Bounds {
        guests: vec![(vmid(100), vmid(399))],
        start: false,
        tags: false,
        snapshots: false,
        max_snapshots_per_guest: 3,
        max_pool_used_percent: 80,
        max_changes_per_hour: 20,
        fields: Some(Fields {
            cores: None,
            memory: None,
            onboot: None,
            description: false,
            grow: None,
            backups: None,
            downloads: Some(Downloads {
                storages: vec!["local".parse().unwrap()],
                templates: vec![pinned],
                max_per_day: 1,
            }),
            create: Some(Create {
                templates,
                storages: vec!["tank".parse().unwrap()],
                bridges: vec!["vmbr0".parse().unwrap()],
                max_cores: 2,
                max_memory_mib: 1024,
                max_disk: 8 << 30,
                max_per_day: 2,
            }),
        }),
        ..Bounds::default()
    }
}

fn new(n: u32, template: &Pin) -> NewGuest {
    let whole = matches!(template, Pin::Archive { .. }).then_some(4_u64 << 30);
    serde_json::from_value(json!({
        "vmid": n, "type": "lxc", "name": "fresh", "template": template, "storage": "tank", "disk": whole,
        "cores": 2, "memory_mib": 512, "bridge": "vmbr0", "start": true, "tags": ["web"],
    }))
    .unwrap()
}

fn make(n: u32, template: &Pin) -> Step {
    Step::CreateFromTemplate(Box::new(new(n, template)))
}

fn arrives(rig: &Rig, bytes: &[u8]) {
    let cache = rig.dir.path().join("host/var/lib/vz/template/cache");
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(cache.join(FILE), bytes).unwrap();
}

#[tokio::test]
async fn a_pinned_template_arrives_and_becomes_a_guest() {
    let rig = Rig::bounded(|_| {}, async |_| bounds(vec![archive()])).await;
    arrives(&rig, BYTES);
    let download = |sha256| Step::TemplateDownload {
        storage: "local".parse().unwrap(),
        template: FILE.parse().unwrap(),
        sha256,
    };
    let other = rig.step(download(Sha256::of(b"other"))).await;
    assert!(code(&other) == RefusalCode::Bounds && other.to_string().contains("not pinned"), "{other}");
    rig.sim.drop_answer_next("POST", "/aplinfo");
    let outcome = rig.step(download(Sha256::of(BYTES))).await;
    assert!(outcome.is_success(), "{outcome}");
    let second = rig.step(download(Sha256::of(BYTES))).await;
    assert_eq!(code(&second), RefusalCode::Rate, "{second}");

    let outcome = rig.step(make(300, &archive())).await;
    assert!(outcome.is_success(), "{outcome}");
    let seen = rig.see(Lxc, 300).await;
    assert_eq!((seen.name.as_str(), seen.protection, rig.runs(300)), ("fresh", true, true));
    let option = |key: &str| seen.config.get(key).map_or("", String::as_str);
    assert_eq!((option("unprivileged"), option("cores"), option("memory")), ("1", "2", "512"));
    assert_eq!((option("onboot"), option("tags")), ("0", "web"));
    assert!(option("net0").contains("firewall=1") && !option("net0").contains("tag="), "{seen:?}");
    assert_eq!(rig.mutations().len(), 3, "a download, a container, a start");

    // A number that is taken is nobody's business to overwrite.
    let taken = rig.step(make(300, &archive())).await;
    let Outcome::Aborted { why } = &taken else { panic!("{taken}") };
    assert!(why.as_str().contains("300"), "{why}");
    let third = rig.step(make(302, &archive())).await;
    assert_eq!(code(&third), RefusalCode::Rate, "{third}");
    assert_eq!(rig.mutations().len(), 3);
}

#[tokio::test]
async fn a_file_with_other_bytes_becomes_nothing() {
    let rig = Rig::bounded(
        |world| {
            let volume = pve_sim::world::Volume {
                content: "vztmpl".into(),
                format: "txz".into(),
                size: 4,
                ..pve_sim::world::Volume::default()
            };
            world.stock.volumes.insert(format!("local:vztmpl/{FILE}"), volume);
        },
        async |_| bounds(vec![archive()]),
    )
    .await;
    arrives(&rig, b"evil");
    let outcome = rig.step(make(300, &archive())).await;
    let Outcome::Aborted { why } = &outcome else { panic!("{outcome}") };
    assert!(why.as_str().contains("is not the file that was meant"), "{why}");
    assert!(!rig.exists(300) && rig.mutations().is_empty());
}

#[tokio::test]
async fn a_pinned_guest_is_cloned_until_it_changes() {
    let template = |world: &mut pve_sim::world::World| {
        drop(world.guests.get_mut(&201).unwrap().config.insert("template".into(), json!(1)));
    };
    let pinned = async |client: &proxmox_client::Client| {
        let seen = warden::world::observe(client, Lxc, vmid(201)).await.unwrap();
        bounds(vec![Pin::Guest { vmid: vmid(201), digest: seen.digest.parse().unwrap() }])
    };
    let rig = Rig::bounded(template, pinned).await;
    let pin = Pin::Guest { vmid: vmid(201), digest: rig.see(Lxc, 201).await.digest.parse().unwrap() };
    let outcome = rig.step(make(300, &pin)).await;
    assert!(outcome.is_success(), "{outcome}");
    let seen = rig.see(Lxc, 300).await;
    assert_eq!((seen.protection, seen.config["cores"].as_str(), rig.runs(300)), (true, "2", true));
    rig.set(201, "description", "another one");
    let made = rig.mutations().len();
    let outcome = rig.step(make(301, &pin)).await;
    assert_eq!(code(&outcome), RefusalCode::Bounds, "{outcome}");
    assert_eq!(rig.mutations().len(), made);
}
