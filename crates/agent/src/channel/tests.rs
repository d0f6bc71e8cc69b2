mod work;

use super::*;
use crate::device::DeviceKey;
use crate::hub::HubPins;
use crate::orders::{InFlight, desk};
use crate::testing::{FakeWarden, HOST, HubEnd, done, receipt, soon};
use authz::{Outcome, RefusalCode};
use protocol::desired::DesiredState;
use protocol::frame::{OrderProgress, OrderState};
use protocol::local::{WardenAnswer, WardenRequest};
use protocol::plan::Plan;
use protocol::{Envelope, Signed};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::Role;

struct Bench {
    hub: HubEnd<DuplexStream>,
    serving: JoinHandle<(Ended, Ports)>,
    notes: mpsc::Sender<Note>,
    kick: Arc<Notify>,
    wants: watch::Receiver<Option<Arc<Desired>>>,
    dir: tempfile::TempDir,
}

impl Bench {
    /// A channel with both ends in this process, past Hello.
    async fn start(dir: tempfile::TempDir) -> Self {
        let device = DeviceKey::open_or_create(dir.path(), &[1; 32]).unwrap();
        let pins = HubPins { current: Sha256::of(b"key"), next: None };
        let nowhere = HubClient::new("https://127.0.0.1:1", pins, &device).unwrap();
        Self::with(dir, nowhere).await
    }

    /// The same; data connections go to that hub.
    async fn with(dir: tempfile::TempDir, data: HubClient) -> Self {
        let (sender, notes) = mpsc::channel(64);
        let kick = Arc::new(Notify::new());
        let warden = Warden::new(&dir.path().join("warden.sock"));
        let in_flight = Arc::new(InFlight::default());
        let (desk, clerk) = desk(warden.clone(), sender.clone(), kick.clone(), in_flight);
        tokio::spawn(clerk.run());
        let (wanted, wants) = watch::channel(None);
        let desired = DesiredStore::open(dir.path()).unwrap();
        let session = Session::default();
        let ports = Ports { warden, hub: data, desk, desired, wanted, kick: kick.clone(), notes, session };
        let (hub, serving) = connect(ports).await;
        Self { hub, serving, notes: sender, kick, wants, dir }
    }

    /// The next connection of the same agent, past Welcome.
    async fn again(&mut self, receipts_held: u64) {
        let (hub, serving) = tokio::io::duplex(1);
        drop(serving);
        let gone = HubEnd(WebSocketStream::from_raw_socket(hub, Role::Server, None).await);
        drop(std::mem::replace(&mut self.hub, gone));
        let (_, ports) = soon(&mut self.serving).await.unwrap();
        (self.hub, self.serving) = connect(ports).await;
        self.hub.send(&HubFrame::Welcome { v: 1, receipts_held }).await;
    }

    async fn welcomed(dir: tempfile::TempDir) -> Self {
        let mut bench = Self::start(dir).await;
        bench.hub.send(&HubFrame::Welcome { v: 1, receipts_held: 0 }).await;
        bench
    }

    async fn ended(self) -> Ended {
        drop(self.hub);
        soon(self.serving).await.unwrap().0
    }
}

async fn connect(mut ports: Ports) -> (HubEnd<DuplexStream>, JoinHandle<(Ended, Ports)>) {
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    let agent =
        WebSocketStream::from_raw_socket(ours, Role::Client, Some(crate::hub::connect::limits())).await;
    let mut hub = HubEnd(WebSocketStream::from_raw_socket(theirs, Role::Server, None).await);
    let serving = tokio::spawn(async move {
        let first = hello(HOST, "boot".to_owned(), Purpose::Run, Some(0));
        let ended = serve(agent, first, &mut ports).await;
        (ended, ports)
    });
    assert!(matches!(hub.next().await, Some(AgentFrame::Hello { v: VERSION, host_id: HOST, .. })));
    (hub, serving)
}

fn order(n: u8) -> Envelope {
    Envelope::new(vec![n].into(), vec![])
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn no_changes(request: &WardenRequest, _: u64) -> Vec<WardenAnswer> {
    panic!("nobody may ask for {request:?}")
}

#[tokio::test]
async fn pending_stays_and_welcome_opens() {
    let dir = dir();
    let _warden = FakeWarden::start(dir.path(), no_changes);
    let mut bench = Bench::start(dir).await;
    bench.hub.send(&HubFrame::Pending {}).await;
    let plan = Plan { generation: 3, ..Plan::default() };
    bench.notes.send(Note::Plan { plan: plan.clone(), problem: None }).await.unwrap();
    bench.hub.send(&HubFrame::Welcome { v: 1, receipts_held: 0 }).await;
    let mut frames = [bench.hub.next().await.unwrap(), bench.hub.next().await.unwrap()];
    frames.sort_by_key(|frame| matches!(frame, AgentFrame::Receipts { .. }));
    assert_eq!(frames[0], AgentFrame::Plan { plan, problem: None });
    assert_eq!(
        frames[1],
        AgentFrame::Receipts {
            first: 0,
            receipts: vec![],
            checkpoint: Some(crate::testing::checkpoint(&[]))
        },
        "the hub may send orders"
    );
    soon(bench.kick.notified()).await;
    bench.hub.send(&HubFrame::Bye { why: "update".to_owned(), retry_after_s: 7 }).await;
    let ended = bench.ended().await;
    assert!(ended.was_open && ended.why.contains("update"));
    assert_eq!(ended.retry_after, Duration::from_secs(7));
}

#[tokio::test]
async fn desired_states_that_go_back_are_refused() {
    let dir = dir();
    let _warden = FakeWarden::start(dir.path(), no_changes);
    let mut bench = Bench::welcomed(dir).await;
    let state = |name: &str| -> DesiredState {
        protocol::config::parse_toml("t", &format!("[[guest]]\nvmid = 100\nname = \"{name}\"")).unwrap()
    };
    bench.hub.send(&HubFrame::Desired { generation: 5, state: state("web") }).await;
    soon(bench.wants.wait_for(|wants| wants.as_ref().is_some_and(|desired| desired.generation == 5)))
        .await
        .unwrap();
    for (generation, name, says) in [(4, "web", "older"), (5, "db", "other content")] {
        bench.hub.send(&HubFrame::Desired { generation, state: state(name) }).await;
        let why = bench
            .hub
            .find(|frame| match frame {
                AgentFrame::DesiredRefused { generation: refused, why } if refused == generation => Some(why),
                _ => None,
            })
            .await;
        assert!(why.contains(says), "{why}");
    }
    let kept = DesiredStore::open(bench.dir.path()).unwrap();
    assert_eq!(kept.current().unwrap().state, state("web"), "durable, and not replaced");
    assert_eq!(bench.wants.borrow().as_ref().unwrap().state, state("web"));
}

#[tokio::test]
async fn an_order_is_relayed_once_and_its_receipt_comes_with_the_log() {
    let dir = dir();
    let op = order(1).id();
    let warden = FakeWarden::start(dir.path(), move |_, size| {
        vec![
            WardenAnswer::Progress(OrderState::Verified),
            WardenAnswer::Progress(OrderState::Committed),
            WardenAnswer::Receipt(receipt(Some(size), Some(op), done())),
        ]
    });
    warden.log.lock().unwrap().push(receipt(Some(0), None, done()));
    let mut bench = Bench::welcomed(dir).await;
    bench.hub.send(&HubFrame::Order { envelope: order(1) }).await;
    let (mut progress, mut receipts): (Vec<OrderState>, Vec<Signed>) = Default::default();
    while receipts.len() < 2 || progress.len() < 2 {
        match bench.hub.next().await.unwrap() {
            AgentFrame::Progress(OrderProgress { op: about, state }) => {
                assert_eq!(about, op);
                progress.push(state);
            }
            AgentFrame::Receipts { first, receipts: more, .. } => {
                assert_eq!(first, receipts.len() as u64);
                receipts.extend(more);
                bench.hub.send(&HubFrame::ReceiptsStored { held: receipts.len() as u64 }).await;
            }
            AgentFrame::Heartbeat {} => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(progress, [OrderState::Verified, OrderState::Committed]);
    assert_eq!(receipts, *warden.log.lock().unwrap());
    assert_eq!(warden.changes(), [WardenRequest::Order { envelope: order(1) }]);
}

#[tokio::test]
async fn a_refusal_outside_the_log_goes_up_by_itself() {
    let dir = dir();
    let op = order(2).id();
    let why = Outcome::Refused { code: RefusalCode::Busy, why: "no".parse().unwrap() };
    let refusal = receipt(None, Some(op), why);
    let answer = refusal.clone();
    let _warden = FakeWarden::start(dir.path(), move |_, _| vec![WardenAnswer::Receipt(answer.clone())]);
    let mut bench = Bench::welcomed(dir).await;
    bench.hub.send(&HubFrame::Order { envelope: order(2) }).await;
    let sent = bench.hub.find(|frame| match frame {
        AgentFrame::Refusal { op, receipt } => Some((op, receipt)),
        _ => None,
    });
    assert_eq!(sent.await, (op, refusal));
}

#[tokio::test]
async fn a_warden_that_dies_makes_trouble_and_is_not_asked_again() {
    let dir = dir();
    let warden = FakeWarden::start(dir.path(), |_, _| vec![WardenAnswer::Progress(OrderState::Committed)]);
    let mut bench = Bench::welcomed(dir).await;
    let trouble = |frame| match frame {
        AgentFrame::OrderTrouble { op, problem } => Some((op, problem)),
        _ => None,
    };
    bench.hub.send(&HubFrame::Order { envelope: order(3) }).await;
    let (op, problem) = bench.hub.find(trouble).await;
    assert_eq!(op, order(3).id());
    assert!(problem.contains("not known whether") && !problem.contains("not carried out"), "{problem}");
    assert_eq!(warden.changes().len(), 1);
    std::fs::remove_file(&warden.socket).unwrap();
    bench.hub.send(&HubFrame::Order { envelope: order(4) }).await;
    let (op, problem) = bench.hub.find(trouble).await;
    assert_eq!(op, order(4).id());
    assert!(problem.contains("was not carried out") && problem.contains("writ-warden runs"), "{problem}");
}

#[tokio::test]
async fn an_order_whose_end_was_not_written_down_is_not_called_undone() {
    let dir = dir();
    let warden = FakeWarden::start(dir.path(), |_, _| {
        vec![
            WardenAnswer::Progress(OrderState::Committed),
            WardenAnswer::Unknown { why: "the log cannot be written\u{1b}[2J".to_owned() },
        ]
    });
    let mut bench = Bench::welcomed(dir).await;
    bench.hub.send(&HubFrame::Order { envelope: order(5) }).await;
    let trouble = bench.hub.find(|frame| match frame {
        AgentFrame::OrderTrouble { op, problem } => Some((op, problem)),
        _ => None,
    });
    let (op, problem) = trouble.await;
    assert_eq!(op, order(5).id());
    assert!(problem.contains("the outcome is not known: the log cannot be written"), "{problem}");
    assert!(problem.contains("after a restart of the warden its log says what is known"), "{problem}");
    assert!(!problem.contains("not carried out") && !problem.contains('\u{1b}'), "{problem}");
    assert_eq!(warden.changes().len(), 1, "never handed over twice");
}

/// One frame must not end desired states for good; and the refusal stays to be seen in plans.
#[tokio::test]
async fn a_generation_out_of_reach_is_refused_until_another_is_accepted() {
    let dir = dir();
    let _warden = FakeWarden::start(dir.path(), no_changes);
    let mut bench = Bench::welcomed(dir).await;
    let state = |name: &str| -> DesiredState {
        protocol::config::parse_toml("t", &format!("[[guest]]\nvmid = 100\nname = \"{name}\"")).unwrap()
    };
    let plan = |frame| match frame {
        AgentFrame::Plan { problem, .. } => Some(problem),
        _ => None,
    };
    let note =
        |problem: Option<&str>| Note::Plan { plan: Plan::default(), problem: problem.map(str::to_owned) };
    for generation in [u64::MAX, (1 << 53) + 1, 1_000_001] {
        bench.hub.send(&HubFrame::Desired { generation, state: state("evil") }).await;
        let refused = bench.hub.find(|frame| match frame {
            AgentFrame::DesiredRefused { generation, why } => Some((generation, why)),
            _ => None,
        });
        let (which, why) = refused.await;
        assert!(which == generation && why.contains("desired.json") && why.contains("repair"), "{why}");
    }
    for _ in 0..2 {
        bench.notes.send(note(None)).await.unwrap();
        let problem = bench.hub.find(plan).await.unwrap();
        assert!(problem.contains("1000001") && problem.contains("repair"), "{problem}");
    }
    bench.notes.send(note(Some("no room"))).await.unwrap();
    let problem = bench.hub.find(plan).await.unwrap();
    assert!(problem.contains("no room") && problem.contains("1000001"), "{problem}");
    bench.hub.send(&HubFrame::Desired { generation: 1, state: state("web") }).await;
    soon(bench.wants.wait_for(|wants| wants.as_ref().is_some_and(|desired| desired.generation == 1)))
        .await
        .unwrap();
    bench.notes.send(note(None)).await.unwrap();
    assert_eq!(bench.hub.find(plan).await, None, "accepted: nothing is wrong any more");
}

/// Whatever a hub sends, the agent leaves in an orderly way.
#[tokio::test]
async fn hostile_frames_end_the_channel() {
    let huge = format!("{{\"t\":\"bye\",\"why\":\"{}\",\"retry_after_s\":0}}", "x".repeat(MAX_FRAME));
    let cases: [(Message, &str); 9] = [
        (Message::text("{"), "not a frame"),
        (Message::text(""), "not a frame"),
        (Message::text(r#"{"t":"root_shell","argv":["rm"]}"#), "not a frame"),
        (Message::text(r#"{"t":"heartbeat","x":1}"#), "not a frame"),
        (Message::text(r#"{"t":"order","envelope":{"payload":"!","sigs":[]}}"#), "not a frame"),
        (Message::text("[".repeat(100_000)), "not a frame"),
        (Message::binary(vec![0xff; 100]), "binary"),
        (Message::text(huge), "broke"),
        (Message::text(r#"{"t":"welcome","v":99,"receipts_held":0}"#), "version 99"),
    ];
    for (message, says) in cases {
        let dir = dir();
        let _warden = FakeWarden::start(dir.path(), no_changes);
        let mut bench = Bench::start(dir).await;
        // Sending the huge one fails when the agent leaves in the middle of it.
        let sending = tokio::time::timeout(Duration::from_secs(5), bench.hub.0.send(message));
        let _ = sending.await;
        let ended = bench.ended().await;
        assert!(ended.why.contains(says), "{:?} should say {says}", ended.why);
        assert!(!ended.was_open);
    }
    let dir = dir();
    let bench = Bench::start(dir).await;
    assert!(bench.ended().await.why.contains("broke"), "a hub that just goes away");
}

/// Nothing listens at the warden's socket here, so time may be paused.
#[tokio::test(start_paused = true)]
async fn a_silent_hub_is_left_after_heartbeats() {
    let mut bench = Bench::welcomed(dir()).await;
    let begun = Instant::now();
    let mut heartbeats = 0;
    while let Some(frame) = bench.hub.next().await {
        assert_eq!(frame, AgentFrame::Heartbeat {});
        heartbeats += 1;
    }
    // At 20 and 40 s; the third is due in the very moment of the end.
    assert!((2..=3).contains(&heartbeats), "{heartbeats}");
    assert_eq!(begun.elapsed(), SILENCE);
    assert!(bench.ended().await.why.contains("nothing was heard"));
}
