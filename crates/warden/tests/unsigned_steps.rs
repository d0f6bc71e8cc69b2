//! The guard of unsigned steps through the warden's library, against a simulated Proxmox: refusals name their
//! rule, nothing is sent, and a restart forgets nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions")]

use std::sync::Arc;
use std::time::Duration;

use authz::policy::bounds::{Amounts, Backups, Fields, Grow, Rates};
use authz::policy::{Bounds, Operator, PolicyDocument, Role, Root};
use authz::{Event, Namespace, Outcome, PublicKey, Receipt, RefusalCode, SecretKey};
use protocol::local::WardenAnswer;
use protocol::plan::{Field, Step};
use protocol::{GuestKind, GuestRef, Sha256, Vmid};
use pve_sim::{Sim, SimConfig};
use serde_json::json;
use warden::bounds::LocalBounds;
use warden::config::ProxmoxConfig;
use warden::world::{Observed, observe};
use warden::{Warden, WardenConfig, now, steps};

struct Rig {
    sim: Sim,
    warden: Arc<Warden>,
    config: WardenConfig,
    client: proxmox_client::Client,
    dir: tempfile::TempDir,
}

fn vmid(n: u32) -> Vmid {
    Vmid::try_from(n).unwrap()
}

fn bounds() -> Bounds {
    Bounds {
        guests: vec![(vmid(100), vmid(299))],
        start: true,
        tags: true,
        snapshots: true,
        max_snapshots_per_guest: 3,
        max_pool_used_percent: 80,
        max_changes_per_hour: 60,
        ..Bounds::default()
    }
}

impl Rig {
    async fn start(bounds: Bounds, local: LocalBounds) -> Self {
        let sim = Sim::start(SimConfig { task_duration: Duration::from_millis(20), ..SimConfig::demo() })
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        authz::files::write_atomic(&token_file, sim.tokens().1.as_bytes()).unwrap();
        let config = WardenConfig {
            state_dir: dir.path().join("state"),
            socket: dir.path().join("socket"),
            allowed_uids: vec![0],
            reader_uids: vec![],
            privileged_socket: None,
            runner_socket: None,
            sessions_per_operator: 1,
            bounds: local,
            host_root: "/".into(),
            proxmox: ProxmoxConfig {
                api: sim.url(),
                pins: vec![format!("spki:{}", sim.pins().spki)],
                pins_dir: None,
                token_file,
                node: None,
            },
        };
        let client = config.proxmox.client().unwrap();
        let (warden, _) = Warden::open(config.clone()).unwrap();
        let operator = SecretKey::from_seed(&[7; 32]).public();
        let alice: protocol::HostName = "alice".parse().unwrap();
        let role: protocol::HostName = "ops".parse().unwrap();
        let policy = PolicyDocument {
            v: 1,
            version: 1,
            prev: None,
            root: Root { role: role.clone(), threshold: 1 },
            protected: vec![],
            freshness_s: None,
            issued_at: now(),
            operators: vec![Operator { name: alice.clone(), keys: vec![operator.into()] }],
            roles: vec![Role { name: role, namespaces: vec![Namespace::Policy], members: vec![alice] }],
            rules: vec![],
            bounds,
            revoked: vec![],
        };
        let bytes = policy.encode();
        let device = SecretKey::from_seed(&[8; 32]).public().to_wire();
        let answer = warden.enroll(&bytes.clone().into(), Sha256::of(&bytes), &vec![1; 32].into(), device);
        assert!(matches!(answer, WardenAnswer::Enrolled { .. }), "{answer:?}");
        Self { sim, warden, config, client, dir }
    }

    /// Opens the same state again, as after a crash.
    fn restart(&mut self) {
        let idle = WardenConfig { state_dir: self.dir.path().join("idle"), ..self.config.clone() };
        // The state is locked while the warden lives.
        self.warden = Warden::open(idle).unwrap().0;
        self.warden = Warden::open(self.config.clone()).unwrap().0;
    }

    async fn see(&self, kind: GuestKind, n: u32) -> Observed {
        observe(&self.client, kind, vmid(n)).await.unwrap()
    }

    async fn guest(&self, kind: GuestKind, n: u32) -> GuestRef {
        let seen = self.see(kind, n).await;
        GuestRef { vmid: vmid(n), kind, name: seen.name, identity: seen.identity }
    }

    async fn step(&self, step: Step) -> Outcome {
        let answer = steps::step(self.warden.clone(), step, 1).await;
        let WardenAnswer::Receipt(signed) = answer else { panic!("{answer:?}") };
        let enrolled = self.warden.status().enrolled.unwrap();
        let key = PublicKey::try_from(enrolled.host_key).unwrap();
        let receipt = Receipt::verify(&signed, &enrolled.host_id, &key).unwrap();
        let Event::Step { outcome, .. } = receipt.event else { panic!("{receipt:?}") };
        outcome
    }

    async fn tag(&self, kind: GuestKind, n: u32, word: &str) -> Outcome {
        let digest = self.see(kind, n).await.digest;
        let tags = vec![word.parse().unwrap()];
        self.step(Step::SetTags { guest: self.guest(kind, n).await, digest, tags }).await
    }

    fn mutations(&self) -> usize {
        self.sim.requests().iter().filter(|r| r.method != "GET").count()
    }
}

/// Every kind of unsigned step through the real warden: outside the bounds the refusal names the rule, and
/// Proxmox is not called.
#[tokio::test]
async fn refusals_of_steps_name_the_rule() {
    let mut bounds = bounds();
    bounds.fields = Some(Fields {
        cores: Some(Amounts { up_percent: 50, down_percent: 50, min: 1, max: 4 }),
        memory: Some(Amounts { up_percent: 50, down_percent: 50, min: 16, max: 65536 }),
        onboot: None,
        description: true,
        grow: Some(Grow { max_bytes_per_step: 1 << 30, max_bytes_per_guest_and_day: 1 << 30 }),
        backups: Some(Backups { storages: vec!["local".parse().unwrap()], max_per_guest_and_day: 1 }),
        downloads: None,
        create: None,
    });
    let local = LocalBounds { forbid: vec![Field::Description], ..LocalBounds::default() };
    let rig = Rig::start(bounds, local).await;
    let seen = rig.see(GuestKind::Qemu, 101).await;
    let number = |key: &str, default: u32| seen.config.get(key).map_or(default, |text| text.parse().unwrap());
    let (cores, memory) = (number("cores", 1), number("memory", 512));
    let disk =
        seen.config.iter().find(|(key, line)| key.starts_with("scsi") && line.contains("size=")).unwrap();
    let volume = disk.1.split(',').next().unwrap();
    let guest = rig.guest(GuestKind::Qemu, 101).await;
    let ask = async |what: &str, more: serde_json::Value| {
        let mut step = json!({"do": what, "guest": guest, "digest": seen.digest});
        if what == "backup" {
            step.as_object_mut().unwrap().remove("digest");
        }
        if ["template_download", "create_from_template"].contains(&what) {
            step = json!({"do": what});
        }
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let outcome = rig.step(serde_json::from_value(step).unwrap()).await;
        let Outcome::Refused { code, why } = outcome else { panic!("{what}: {outcome}") };
        (code, why.as_str().to_owned())
    };
    let sha = "ab".repeat(32);
    let grow = |size: u64| json!({"disk": disk.0, "volume": volume, "size": size});
    let new = json!({
        "vmid": 150, "type": "lxc", "name": "app", "storage": "local-lvm", "disk": 1 << 30, "cores": 1,
        "memory_mib": 512, "bridge": null, "start": false, "tags": [],
        "template": {"from": "archive", "volume": "local:vztmpl/debian.tar.zst", "sha256": sha},
    });
    let before = (rig.mutations(), rig.warden.status().log_size);
    let table = [
        ("set_cores", json!({"cores": cores * 2}), "rule bounds.fields.cores.up_percent of the policy"),
        ("set_memory", json!({"memory_mib": memory * 2}), "rule bounds.fields.memory.up_percent"),
        ("set_memory", json!({"memory_mib": memory / 4}), "rule bounds.fields.memory.down_percent"),
        ("set_onboot", json!({"onboot": true}), "rule bounds.fields.onboot of the policy"),
        ("set_description", json!({"description": "x"}), "rule [bounds] forbid of this host's warden.toml"),
        ("grow", grow(1 << 20), "rule: no shrinking"),
        ("grow", grow(1 << 42), "rule bounds.fields.grow.max_bytes_per_step of the policy"),
        ("backup", json!({"storage": "local-lvm"}), "rule bounds.fields.backups.storages of the policy"),
        (
            "template_download",
            json!({"storage": "local", "template": "debian.tar.zst", "sha256": sha}),
            "rule bounds.fields.downloads of the policy",
        ),
        ("create_from_template", new, "rule bounds.fields.create of the policy"),
    ];
    for (what, more, says) in table {
        let (code, why) = ask(what, more).await;
        assert!(code == RefusalCode::Bounds && why.contains(says), "{what}: {code} {why}");
    }
    let elsewhere = rig.guest(GuestKind::Lxc, 201).await;
    let moved = GuestRef { vmid: vmid(300), ..elsewhere };
    let outcome = rig.step(Step::Start { guest: moved }).await.to_string();
    assert!(
        outcome.contains("rule bounds.guests of the policy") || outcome.contains("(proxmox)"),
        "{outcome}"
    );
    let after = (rig.mutations(), rig.warden.status().log_size);
    assert_eq!(before, after, "nothing was sent, and a refusal of a step fills no log");
}

/// What was begun counts after a restart as before it, and the breaker and the blast radius with it.
#[tokio::test]
async fn a_restart_forgets_no_rate() {
    let mut bounds = bounds();
    let rates = Rates { few_guests_per_day: 2, ..Rates::default() };
    bounds.rates = Some(rates);
    let mut rig = Rig::start(bounds, LocalBounds::default()).await;
    for word in ["a", "b", "c"] {
        rig.restart();
        let outcome = rig.tag(GuestKind::Qemu, 101, word).await;
        assert!(outcome.is_success(), "{outcome}");
    }
    assert!(rig.tag(GuestKind::Lxc, 201, "a").await.is_success());
    for _ in 0..2 {
        let flip = rig.tag(GuestKind::Qemu, 101, "d").await;
        assert!(flip.to_string().contains("rule bounds.rates.flips_per_hour of the policy"), "{flip}");
        let third = rig.tag(GuestKind::Qemu, 102, "a").await;
        assert!(third.to_string().contains("rule bounds.rates.few_guests_per_day of the policy"), "{third}");
        rig.restart();
    }
    assert!(rig.tag(GuestKind::Lxc, 201, "b").await.is_success(), "a guest that counts already");
}

/// The log says of each begun step which field it changed in which direction.
#[tokio::test]
async fn the_log_says_what_a_step_does() {
    let rig = Rig::start(bounds(), LocalBounds::default()).await;
    assert!(rig.tag(GuestKind::Qemu, 101, "a").await.is_success());
    let log = std::fs::read_to_string(rig.dir.path().join("state/log.jsonl")).unwrap();
    let effects: Vec<_> = log
        .lines()
        .map(|line| serde_json::from_str::<protocol::Signed>(line).unwrap())
        .filter_map(|signed| match serde_json::from_slice::<Receipt>(&signed.payload.0).unwrap().event {
            Event::StepStarted { effect, .. } => effect,
            _ => None,
        })
        .collect();
    assert_eq!(
        serde_json::to_value(effects).unwrap(),
        json!([{"field": "tags", "direction": "set", "from": 0, "to": 0}])
    );
}
