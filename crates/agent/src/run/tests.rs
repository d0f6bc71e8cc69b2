//! The whole agent against a simulated Proxmox, a hub made for the test and a warden that does
//! what it is asked.

use super::*;
use crate::hub::HubError;
use crate::selftest;
use crate::testing::{FakeWarden, HOST, HubEnd, HubSocket, TlsHub, Upgrade, done, receipt, soon};
use authz::{Outcome, RefusalCode};
use protocol::Sha256;
use protocol::desired::DesiredState;
use protocol::frame::{AgentFrame, HubFrame};
use protocol::local::{WardenAnswer, WardenRequest};
use protocol::plan::{Plan, Step};
use protocol::report::Known;
use pve_sim::world::World;
use pve_sim::{Sim, SimConfig};
use std::sync::Mutex;

struct Bench {
    sim: Sim,
    hub: TlsHub,
    config: AgentConfig,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new(upgrade: Upgrade) -> Self {
        let sim = Sim::start(SimConfig::demo()).await.unwrap();
        let hub = TlsHub::start(|path, _| panic!("nobody posts here: {path}"), upgrade).await;
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        files::write_atomic(&token, sim.tokens().0.as_bytes()).unwrap();
        let text = format!(
            "state_dir = {:?}\nwarden_socket = {:?}\nreport_interval = 3600\n[proxmox]\napi = {:?}\npins = [\"spki:{}\"]\ntoken_file = {:?}\n",
            dir.path().join("state"),
            dir.path().join("warden.sock"),
            sim.url(),
            sim.pins().spki,
            token
        );
        let config = AgentConfig::parse("test", &text).unwrap();
        files::prepare_state_dir(&config.state_dir).unwrap();
        Self { sim, hub, config, dir }
    }

    fn enrolled(&self) -> &Self {
        DeviceKey::open_or_create(&self.config.state_dir, &[1; 32]).unwrap();
        let record = HubRecord { url: self.hub.url.clone(), pin: self.hub.spki, next: None, host_id: HOST };
        record.save(&self.config.state_dir).unwrap();
        self
    }

    fn run(&self) -> tokio::task::JoinHandle<Result<(), RunError>> {
        let config = self.config.clone();
        tokio::spawn(async move { run(&config, std::future::pending()).await })
    }

    /// A channel past Welcome.
    async fn welcomed(&mut self, log_size: u64) -> HubEnd<HubSocket> {
        let mut end = self.hub.channel().await;
        let hello = end.next().await.unwrap();
        assert!(
            matches!(&hello, AgentFrame::Hello { host_id: HOST, purpose: Purpose::Run, log_size: size, .. }
                if *size == log_size),
            "{hello:?}"
        );
        end.send(&HubFrame::Welcome { v: 1, receipts_held: log_size }).await;
        end
    }
}

fn desired(toml: &str) -> DesiredState {
    protocol::config::parse_toml("t", toml).unwrap()
}

fn plan_of(frame: AgentFrame) -> Option<(Plan, Option<String>)> {
    match frame {
        AgentFrame::Plan { plan, problem } => Some((plan, problem)),
        _ => None,
    }
}

/// Does what a step says to the simulated node.
fn carry_out(world: &Mutex<World>, step: &Step) {
    let mut world = world.lock().unwrap();
    let vmid = step.vmid().unwrap().get();
    match step {
        Step::Start { .. } => {
            let pid = 4711;
            let since = unix_now_i64();
            world.guests.get_mut(&vmid).unwrap().running = Some(pve_sim::world::Running { pid, since });
        }
        Step::SetTags { tags, .. } => {
            let text = tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>().join(";");
            world.guests.get_mut(&vmid).unwrap().config.insert("tags".to_owned(), text.into());
        }
        other => panic!("not wanted here: {other}"),
    }
}

fn unix_now_i64() -> i64 {
    i64::try_from(crate::unix_now()).unwrap()
}

#[tokio::test]
async fn the_desired_state_is_reached_and_shown() {
    let mut bench = Bench::new(Upgrade::Right).await;
    let world = bench.sim.world();
    let warden = FakeWarden::start(bench.dir.path(), move |request, size| {
        let WardenRequest::Step { step, generation: 1 } = request else { panic!("{request:?}") };
        carry_out(&world, step);
        vec![WardenAnswer::Receipt(receipt(Some(size), None, done()))]
    });
    let agent = bench.enrolled().run();
    let mut hub = bench.welcomed(0).await;
    let (seq, report) = hub
        .find(|frame| match frame {
            AgentFrame::Report { seq, report } => Some((seq, report)),
            _ => None,
        })
        .await;
    assert_eq!(seq, 1);
    let Known::Known(guests) = &report.guests else { panic!("{:?}", report.guests) };
    assert_eq!(guests.len(), 5);
    let state = desired("[[guest]]\nvmid = 101\nname = \"db\"\nrunning = true\ntags = [\"prod\"]");
    hub.send(&HubFrame::Desired { generation: 1, state }).await;
    let (first, problem) = hub.find(plan_of).await;
    assert_eq!(first.steps.iter().map(Step::kind).collect::<Vec<_>>(), ["guest.tag", "guest.start"]);
    assert_eq!((first.generation, problem), (1, None));
    let mut receipts = 0;
    let last = hub
        .find(|frame| match frame {
            AgentFrame::Receipts { receipts: more, .. } => {
                receipts += more.len();
                None
            }
            other => plan_of(other),
        })
        .await;
    assert_eq!(last, (Plan { generation: 1, ..Plan::default() }, None), "reached");
    let asked: Vec<_> = warden.changes();
    assert_eq!(asked.len(), 2, "each step once: {asked:?}");
    // Another connection: Hello says how long the log is, and nothing is done again.
    hub.text("this is not a frame").await;
    let mut hub = bench.welcomed(2).await;
    let again = hub.find(plan_of).await;
    assert!(again.0.is_converged());
    assert_eq!(warden.changes().len(), 2);
    agent.abort();
}

#[tokio::test]
async fn a_refused_step_is_shown_and_not_repeated() {
    let mut bench = Bench::new(Upgrade::Right).await;
    let refusal = Outcome::Refused { code: RefusalCode::Busy, why: "too many today".parse().unwrap() };
    let warden = FakeWarden::start(bench.dir.path(), move |_, _| {
        vec![WardenAnswer::Receipt(receipt(None, None, refusal.clone()))]
    });
    let agent = bench.enrolled().run();
    let mut hub = bench.welcomed(0).await;
    let state = desired("[[guest]]\nvmid = 101\nname = \"db\"\nrunning = true");
    hub.send(&HubFrame::Desired { generation: 1, state: state.clone() }).await;
    let (plan, problem) = hub.find(|frame| plan_of(frame).filter(|(_, problem)| problem.is_some())).await;
    assert_eq!(plan.steps.len(), 1, "still wanted");
    assert!(problem.unwrap().contains("too many today"));
    // Out of turn, inside the interval: planned, shown, not tried.
    hub.text("this is not a frame").await;
    let mut hub = bench.welcomed(0).await;
    let (_, problem) = hub.find(|frame| plan_of(frame).filter(|(_, problem)| problem.is_some())).await;
    assert!(problem.unwrap().contains("too many today"));
    assert_eq!(warden.changes().len(), 1);
    // Another generation is another attempt.
    hub.send(&HubFrame::Desired { generation: 2, state }).await;
    hub.find(|frame| plan_of(frame).filter(|(plan, problem)| plan.generation == 2 && problem.is_some()))
        .await;
    assert_eq!(warden.changes().len(), 2);
    agent.abort();
}

#[tokio::test]
async fn the_selftest_makes_one_round_trip() {
    let mut bench = Bench::new(Upgrade::Right).await;
    let failed = selftest::hub::hub(&bench.config).await;
    assert!(failed[0].detail.contains("not enrolled"), "{failed:?}");
    let _warden = FakeWarden::start(bench.dir.path(), |_, _| vec![]);
    let config = bench.enrolled().config.clone();
    let testing = tokio::spawn(async move { selftest::hub::hub(&config).await });
    let mut hub = bench.hub.channel().await;
    assert!(matches!(hub.next().await, Some(AgentFrame::Hello { purpose: Purpose::Selftest, .. })));
    hub.send(&HubFrame::Welcome { v: 1, receipts_held: 0 }).await;
    assert!(matches!(hub.next().await, Some(AgentFrame::Report { seq: 1, .. })));
    hub.send(&HubFrame::ReportStored { seq: 1 }).await;
    let checks = soon(testing).await.unwrap();
    assert!(checks.iter().all(|check| check.passed()), "{checks:#?}");
    assert_eq!(checks.last().unwrap().name, "report");
    let config = bench.config.clone();
    let testing = tokio::spawn(async move { selftest::hub::hub(&config).await });
    let mut hub = bench.hub.channel().await;
    hub.next().await.unwrap();
    hub.send(&HubFrame::Pending {}).await;
    let checks = soon(testing).await.unwrap();
    assert!(checks.last().unwrap().detail.contains("writ enroll approve"), "{checks:#?}");
    let lines = crate::status::status(&bench.config).await;
    assert!(lines.iter().all(|line| line.passed()), "{lines:#?}");
}

#[tokio::test]
async fn a_hub_that_does_not_take_the_channel_is_a_sentence() {
    for (upgrade, says) in [
        (Upgrade::Forbidden, "(403): this device is not enrolled"),
        (Upgrade::WrongAccept, "Sec-WebSocket-Accept"),
    ] {
        let bench = Bench::new(upgrade).await;
        let opened = open_hub(&bench.enrolled().config).unwrap();
        let error = sentence(&connect(&opened.hub, [1; 16]).await.err().unwrap());
        assert!(error.contains(says), "{error}");
    }
    let bench = Bench::new(Upgrade::Right).await;
    let mut record =
        HubRecord { url: bench.hub.url.clone(), pin: Sha256::of(b"x"), next: None, host_id: HOST };
    let device = DeviceKey::open_or_create(&bench.config.state_dir, &[1; 32]).unwrap();
    let pins = |record: &HubRecord| HubPins { current: record.pin, next: record.next };
    let client = HubClient::new(&record.url, pins(&record), &device).unwrap();
    let error = connect(&client, [1; 16]).await.err().unwrap();
    assert!(
        matches!(&error, HubError::Pin { mismatch, .. } if mismatch.shown == Some(bench.hub.spki)),
        "{error}"
    );
    record.next = Some(bench.hub.spki);
    let client = HubClient::new(&record.url, pins(&record), &device).unwrap();
    connect(&client, [1; 16]).await.unwrap();
    let plain = HubClient::new(&record.url.replace("https", "http"), pins(&record), &device).unwrap();
    assert!(connect(&plain, [1; 16]).await.is_err(), "never without TLS");
}

#[tokio::test]
async fn what_is_missing_at_the_start_is_told() {
    let bench = Bench::new(Upgrade::Right).await;
    assert!(matches!(run(&bench.config, std::future::pending()).await, Err(RunError::NotEnrolled)));
    bench.enrolled();
    let mut config = bench.config.clone();
    config.proxmox.token_file = bench.dir.path().join("absent");
    let error = run(&config, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("token file"), "{error}");
    std::fs::set_permissions(&bench.config.state_dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let error = run(&bench.config, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("chmod 700"), "{error}");
    std::fs::set_permissions(&bench.config.state_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    // Without a warden and with a hub that is away it starts, and stops when told to.
    soon(run(&bench.config, async {})).await.unwrap();
}
