//! The whole way: an operator's order, the warden, this service, a stand-in for `pct`, and a simulated Proxmox in
//! which the container appears.

use std::sync::Arc;
use std::time::Duration;

use authz::order::{Order, Params, PolicyRef};
use authz::{Event, Outcome, PublicKey, Receipt, RefusalCode, SecretKey};
use protocol::Sha256;
use protocol::frame::OrderState;
use protocol::local::WardenAnswer;
use pve_sim::world::{Config, Guest, Kind};
use pve_sim::{Sim, SimConfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use warden::config::ProxmoxConfig;
use warden::privileged::Privileged;
use warden::{Warden, WardenConfig, orders};

use crate::rig::{Process, Rig, UNIT, policy, until};

struct Whole {
    rig: Rig,
    sim: Sim,
    warden: Arc<Warden>,
    _process: Process,
}

fn config(rig: &Rig, sim: &Sim) -> WardenConfig {
    WardenConfig {
        state_dir: rig.path("warden"),
        socket: rig.path("warden.sock"),
        allowed_uids: vec![0],
        reader_uids: vec![],
        runner_socket: None,
        privileged_socket: Some(rig.path("run/socket")),
        sessions_per_operator: 1,
        bounds: warden::bounds::LocalBounds::default(),
        host_root: rig.path(""),
        proxmox: ProxmoxConfig {
            api: sim.url(),
            pins: vec![format!("spki:{}", sim.pins().spki)],
            pins_dir: None,
            token_file: rig.path("token"),
            node: None,
        },
    }
}

impl Whole {
    async fn new() -> Self {
        let rig = Rig::new();
        let sim = SimConfig { task_duration: Duration::from_millis(20), ..SimConfig::demo() };
        let sim = Sim::start(sim).await.unwrap();
        authz::files::write_atomic(&rig.path("token"), sim.tokens().1.as_bytes()).unwrap();
        let process = rig.start("").await;
        let (warden, _) = Warden::open(config(&rig, &sim)).unwrap();
        let bytes = policy().encode();
        let device = SecretKey::from_seed(&[8; 32]).public().to_wire();
        let answer = warden.enroll(&bytes.clone().into(), Sha256::of(&bytes), &vec![1; 32].into(), device);
        assert!(matches!(answer, WardenAnswer::Enrolled { .. }), "{answer:?}");
        Self { rig, sim, warden, _process: process }
    }

    /// An order for this warden's host.
    fn order(&self, mut order: Order) -> Order {
        let enrolled = self.warden.status().enrolled.unwrap();
        (order.host.id, order.host.key) = (enrolled.host_id, enrolled.host_key.fingerprint());
        order.policy = PolicyRef { version: 1, sha256: enrolled.policy };
        if let Params::GuestCreate(params) = &mut order.params {
            params.storage = "local-lvm".parse().unwrap();
        }
        order
    }

    fn submit(&self, order: &Order) -> JoinHandle<(WardenAnswer, Vec<OrderState>)> {
        let (warden, envelope) = (self.warden.clone(), self.rig.sign(order));
        tokio::spawn(async move {
            let (progress, mut states) = mpsc::channel(16);
            let answer = orders::order(warden, envelope, progress).await;
            let mut seen = Vec::new();
            while let Ok(state) = states.try_recv() {
                seen.push(state);
            }
            (answer, seen)
        })
    }

    fn outcome(&self, answer: &WardenAnswer) -> Outcome {
        let WardenAnswer::Receipt(signed) = answer else { panic!("{answer:?}") };
        let enrolled = self.warden.status().enrolled.unwrap();
        let key = PublicKey::try_from(enrolled.host_key).unwrap();
        let receipt = Receipt::verify(signed, &enrolled.host_id, &key).unwrap();
        receipt.order_outcome().unwrap().1.clone()
    }

    async fn end(&self, order: &Order) -> Outcome {
        self.outcome(&self.submit(order).await.unwrap().0)
    }

    async fn pct_runs(&self) {
        until("pct", || (self.rig.ran("pct", "create") == 1).then_some(())).await;
    }

    /// What `pct` would have made of its arguments.
    fn container_appears(&self, features: &str) {
        let line = self.rig.text("bin/pct.log");
        let args: Vec<&str> = line.trim().split(' ').collect();
        let option = |name: &str| args[args.iter().position(|arg| *arg == name).unwrap() + 1];
        let config = [
            ("hostname", option("--hostname")),
            ("cores", option("--cores")),
            ("memory", option("--memory")),
            ("unprivileged", option("--unprivileged")),
            ("rootfs", "local-lvm:vm-301-disk-0,size=8G"),
            ("features", features),
        ];
        let config: Config = config.map(|(key, value)| (key.to_owned(), serde_json::json!(value))).into();
        let world = self.sim.world();
        world.lock().unwrap().guests.insert(args[1].parse().unwrap(), Guest::new(Kind::Lxc, config));
    }

    /// The warden ends, and starts again.
    async fn restart_warden(self) -> Self {
        let Self { rig, sim, warden, _process } = self;
        let gone = Arc::downgrade(&warden);
        drop(warden);
        until("the old warden's end", || (gone.strong_count() == 0).then_some(())).await;
        let (warden, left) = Warden::open(config(&rig, &sim)).unwrap();
        for interrupted in left {
            tokio::spawn(orders::resume(warden.clone(), interrupted));
        }
        Self { rig, sim, warden, _process }
    }

    fn ends_in_log(&self) -> Vec<Outcome> {
        let WardenAnswer::Receipts { receipts, .. } = self.warden.receipts(0, 100) else { panic!("no log") };
        let enrolled = self.warden.status().enrolled.unwrap();
        let key = PublicKey::try_from(enrolled.host_key).unwrap();
        receipts
            .iter()
            .map(|signed| Receipt::verify(signed, &enrolled.host_id, &key).unwrap().event)
            .filter_map(|event| match event {
                Event::Order { outcome, .. } => Some(outcome),
                _ => None,
            })
            .collect()
    }
}

#[tokio::test]
async fn a_container_is_made_and_seen() {
    let whole = Whole::new().await;
    whole.rig.mode("gate");
    let order = whole.order(whole.rig.create());
    let waiting = whole.submit(&order);
    whole.pct_runs().await;
    whole.container_appears("keyctl=1,nesting=1");
    whole.rig.put("bin/gate", "");
    let (answer, states) = waiting.await.unwrap();
    let outcome = whole.outcome(&answer);
    assert!(
        matches!(&outcome, Outcome::Done { seen, .. } if seen.to_string().contains("with keyctl and nesting")),
        "{outcome}"
    );
    assert_eq!(states, [OrderState::Verified, OrderState::Committed, OrderState::Executing]);
    // The end is durable at the warden, so root's service has forgotten it.
    assert_eq!(std::fs::read_dir(whole.rig.path("state/orders")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(whole.rig.path("warden/orders")).unwrap().count(), 0);
    let again = whole.end(&order).await;
    assert!(matches!(again, Outcome::Refused { code: RefusalCode::Replay, .. }), "{again}");
    // Its number is taken now.
    let taken = whole.end(&whole.order(whole.rig.create())).await;
    assert!(matches!(taken, Outcome::Refused { code: RefusalCode::Precondition, .. }), "{taken}");
    assert_eq!(whole.rig.ran("pct", "create"), 1);
}

/// An exit status alone is never believed.
#[tokio::test]
async fn what_pct_says_is_compared_with_what_is_there() {
    for (features, says) in [(None, "could not be read"), (Some("nesting=1"), "has features nesting=1")] {
        let whole = Whole::new().await;
        whole.rig.mode("gate");
        let waiting = whole.submit(&whole.order(whole.rig.create()));
        whole.pct_runs().await;
        if let Some(features) = features {
            whole.container_appears(features);
        }
        whole.rig.put("bin/gate", "");
        let outcome = whole.outcome(&waiting.await.unwrap().0);
        assert!(
            matches!(&outcome, Outcome::Unknown { why, .. } if why.to_string().contains(says)),
            "{outcome}"
        );
    }
}

#[tokio::test]
async fn a_warden_that_ends_meanwhile_asks_and_hands_over_nothing_again() {
    let whole = Whole::new().await;
    whole.rig.mode("gate");
    let waiting = whole.submit(&whole.order(whole.rig.create()));
    whole.pct_runs().await;
    waiting.abort();
    let _ = waiting.await;
    let whole = whole.restart_warden().await;
    whole.container_appears("keyctl=1,nesting=1");
    whole.rig.put("bin/gate", "");
    let outcome = until("the end", || whole.ends_in_log().pop()).await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome}");
    assert_eq!((whole.rig.ran("pct", "create"), whole.ends_in_log().len()), (1, 1));
}

#[tokio::test]
async fn refusals_failures_and_losses_are_told_as_they_are() {
    let whole = Whole::new().await;
    whole.rig.mode("fail");
    let outcome = whole.end(&whole.order(whole.rig.create())).await;
    assert!(
        matches!(&outcome, Outcome::Failed { why, .. } if why.to_string().contains("there is no guest 301")),
        "{outcome}"
    );
    whole.rig.put("cache/golden.tar.zst", b"with a back door");
    let outcome = whole.end(&whole.order(whole.rig.create())).await;
    assert!(
        matches!(&outcome, Outcome::Aborted { why } if why.to_string().contains("not the one that was signed")),
        "{outcome}"
    );
    assert_eq!(whole.rig.ran("pct", "create"), 1);
}

#[tokio::test]
async fn a_usb_disk_is_mounted_by_order() {
    let whole = Whole::new().await;
    let outcome = whole.end(&whole.order(whole.rig.mount(true))).await;
    assert!(
        matches!(&outcome, Outcome::Done { seen, .. } if seen.to_string().contains("USB-1")),
        "{outcome}"
    );
    assert!(whole.rig.path("units").join(UNIT).exists());
    whole.rig.put("udev/b8:16", "E:ID_SERIAL_SHORT=USB-2\n");
    let outcome = whole.end(&whole.order(whole.rig.unmount(true))).await;
    assert!(
        matches!(&outcome, Outcome::Aborted { why } if why.to_string().contains("no disk with serial number USB-1")),
        "{outcome}"
    );
}

/// Before the nonce is burned: the order can come again.
#[tokio::test]
async fn without_the_service_nothing_is_used_up() {
    let whole = Whole::new().await;
    let order = whole.order(whole.rig.mount(false));
    let Whole { rig, sim, warden, _process } = whole;
    drop(_process);
    let whole = Whole { _process: rig.start_with("", "").await, rig, sim, warden };
    let outcome = whole.end(&order).await;
    assert!(matches!(&outcome, Outcome::Refused { code: RefusalCode::Privileged, .. }), "{outcome}");
    let Whole { rig, sim, warden, _process } = whole;
    drop(_process);
    let whole = Whole { _process: rig.start("").await, rig, sim, warden };
    let outcome = whole.end(&order).await;
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome}");
}

#[tokio::test]
async fn smart_is_read_for_the_warden() {
    let rig = Rig::new();
    let (device, none) = ("/dev/sda".parse::<protocol::privileged::BlockDevice>().unwrap(), None);
    let refusal = |answer: WardenAnswer| match answer {
        WardenAnswer::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    };
    let nobody = Privileged::new(None);
    assert_eq!(refusal(nobody.answer_smart(device.clone(), none).await), "privileged");
    let _process = rig.start_with("", "").await;
    let service = Privileged::new(Some(rig.path("run/socket")));
    let answer = service.answer_smart(device.clone(), none).await;
    assert!(matches!(&answer, WardenAnswer::Smart(reading) if reading.device == device), "{answer:?}");
    assert_eq!(refusal(service.answer_smart(device, none).await), "rate");
}
