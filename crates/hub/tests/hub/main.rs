//! A whole hub over real TLS, used by an operator and by agents.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests; clippy sees only the test functions")]

mod ask;
mod client;
mod hostile;
mod log;
mod relay;
mod scripts;
mod sessions;
mod tunnel;

use std::time::Duration;

use authz::receipt::Entry;
use authz::{Event, Outcome, Receipt, SecretKey};
use client::{Channel, Http, TestHost, new_config, start, start_in};
use hub::{Environment, Limits};
use protocol::api::{
    DesiredAccepted, DesiredView, EnrollmentView, HostDetail, HostView, OrderAccepted, OrderView,
    ReceiptsView,
};
use protocol::frame::{AgentFrame, HubFrame, OrderProgress, OrderState, Purpose, VERSION};
use protocol::plan::Plan;
use protocol::report::{HostReport, Known};
use protocol::{Envelope, HostId, Sha256, Signed};
use serde_json::json;

pub(crate) fn report() -> HostReport {
    let unknown = || "not read".to_owned();
    HostReport {
        v: 1,
        collected_at: 1,
        boot_id: "boot".to_owned(),
        agent_version: "0.1.0".to_owned(),
        warden: Known::Unknown(unknown()),
        node: Known::Unknown(unknown()),
        certificate: Known::Unknown(unknown()),
        guests: Known::Known(vec![]),
        storages: Known::Unknown(unknown()),
    }
}

pub(crate) const NO_HASH: Sha256 = Sha256::from_bytes([0; 32]);

/// A receipt about an order; in the log when `entry` says where.
pub(crate) fn receipt(host: HostId, entry: Option<(u64, Sha256)>, op: Sha256, key: &SecretKey) -> Signed {
    Receipt {
        v: 1,
        host,
        host_key_gen: 1,
        boot_id: "boot".to_owned(),
        time: 5,
        entry: entry.map(|(seq, prev)| Entry { seq, prev }),
        event: Event::Order {
            op,
            kind: None,
            vmid: None,
            signers: vec![],
            outcome: Outcome::Done { upid: None, seen: "it is so".parse().unwrap() },
        },
    }
    .sign(key)
}

pub(crate) fn order(text: &str) -> Envelope {
    Envelope::new(text.as_bytes().to_vec().into(), vec!["a signature".to_owned()])
}

#[tokio::test]
async fn from_code_to_receipt_and_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;

    // A host answers a code and waits on its channel until somebody vouches for it.
    let host = TestHost::new(1);
    let id = host.answer_code(&hub, &operator).await;
    let mut channel = Channel::open(&hub, Some(&host.cert)).await.unwrap();
    channel.send(&host.hello(Purpose::Run, "boot", 0)).await;
    assert_eq!(channel.next().await, Some(HubFrame::Pending {}));
    let waiting: EnrollmentView = operator.get(&format!("/api/v1/enrollments/{id}")).await;
    assert_eq!(waiting.answer, Some(host.answer()));
    host.approve(&operator, id).await;
    assert_eq!(channel.next().await, Some(HubFrame::Welcome { v: VERSION, receipts_held: 0 }));

    // Reports and plans.
    channel.send(&AgentFrame::Report { seq: 1, report: Box::new(report()) }).await;
    assert_eq!(channel.next().await, Some(HubFrame::ReportStored { seq: 1 }));
    let plan = Plan { generation: 0, ..Plan::default() };
    channel.send(&AgentFrame::Plan { plan: plan.clone(), problem: Some("tired\u{1b}[31m".to_owned()) }).await;

    // Desired states are pushed when they change and only then.
    let guest = json!({"guest": [{"vmid": 100, "name": "web", "running": true}]});
    for (state, generation, changed) in
        [(&guest, 1, true), (&guest, 1, false), (&json!({"guest": []}), 2, true)]
    {
        let (_, accepted): (_, DesiredAccepted) = operator.put(&host.path("/desired"), state).await;
        assert_eq!(accepted, DesiredAccepted { generation, changed });
        if changed {
            let Some(HubFrame::Desired { generation: pushed, .. }) = channel.next().await else {
                panic!("a desired state was expected")
            };
            assert_eq!(pushed, generation);
        }
    }
    channel.send(&AgentFrame::DesiredRefused { generation: 2, why: "no".to_owned() }).await;

    // An order goes down; progress and a signed receipt come up.
    let envelope = order("one");
    let op = envelope.id();
    let (_, accepted): (_, OrderAccepted) = operator.post(&host.path("/orders"), &envelope).await;
    assert_eq!((accepted.op, accepted.online), (op, true));
    assert_eq!(channel.next().await, Some(HubFrame::Order { envelope: envelope.clone() }));
    let progress = OrderProgress { op, state: OrderState::Running { upid: "UPID:x".to_owned() } };
    channel.send(&AgentFrame::Progress(progress.clone())).await;
    let done = receipt(host.id, Some((0, NO_HASH)), op, &host.key);
    channel.send(&AgentFrame::Receipts { first: 0, receipts: vec![done.clone()], checkpoint: None }).await;
    assert_eq!(channel.next().await, Some(HubFrame::ReceiptsStored { held: 1 }));
    // The same again is no harm: at least once.
    channel.send(&AgentFrame::Receipts { first: 0, receipts: vec![done.clone()], checkpoint: None }).await;
    assert_eq!(channel.next().await, Some(HubFrame::ReceiptsStored { held: 1 }));
    let refusal = receipt(host.id, None, op, &host.key);
    channel.send(&AgentFrame::Refusal { op, receipt: refusal.clone() }).await;
    channel.send(&AgentFrame::OrderTrouble { op, problem: "asleep".to_owned() }).await;
    let mut after = accepted.version;
    let seen = loop {
        let path = host.path(&format!("/orders/{op}?after={after}&wait_s=20"));
        let view: OrderView = operator.get(&path).await;
        assert!(view.version > after, "the wait ended without news");
        after = view.version;
        if view.problem.is_some() {
            break view;
        }
    };
    assert_eq!((seen.delivered, seen.online, &seen.progress), (true, true, &Some(progress)));
    let receipts: Vec<_> = seen.receipts.iter().map(|receipt| &receipt.receipt).collect();
    assert_eq!(receipts, [&done, &refusal]);

    let detail: HostDetail = operator.get(&host.path("")).await;
    assert!(detail.host.online && detail.host.last_seen.is_some());
    assert_eq!(detail.report, Some(report()));
    let plan_view = detail.plan.unwrap();
    assert_eq!(
        (&plan_view.plan, plan_view.problem.as_deref()),
        (&plan, Some("desired state 2 was refused: no"))
    );

    // A second order waits while the host is away.
    channel.0.close(None).await.unwrap();
    while channel.any().await.is_some() {}
    let second = order("two");
    let (_, accepted): (_, OrderAccepted) = operator.post(&host.path("/orders"), &second).await;

    // Stopped and started on the same directory: everything is still there, and so is the session.
    hub.shutdown().await;
    let config = hub::HubConfig::load(&dir.path().join("hub/hub.toml")).unwrap();
    let hub = hub::serve(config).await.unwrap();
    let operator = Http::alice(&hub).await;
    let hosts: Vec<HostView> = operator.get("/api/v1/hosts").await;
    assert_eq!((hosts.len(), hosts[0].online, hosts[0].receipts_held), (1, false, 1));
    assert!(hosts[0].last_seen.is_some() && hosts[0].report_at.is_some());
    let desired: DesiredView = operator.get(&host.path("/desired")).await;
    assert_eq!((desired.generation, desired.set_by.as_str()), (2, "alice"));
    let again: OrderView = operator.get(&host.path(&format!("/orders/{op}"))).await;
    assert_eq!(again, OrderView { online: false, ..seen });
    let receipts: ReceiptsView = operator.get(&host.path("/receipts?first=0")).await;
    assert_eq!(receipts, ReceiptsView { first: 0, held: 1, receipts: vec![done] });

    // The host comes back: the desired state and the waiting order are delivered.
    let mut channel = Channel::welcome(&hub, &host, 1, 1).await;
    assert!(matches!(channel.next().await, Some(HubFrame::Desired { generation: 2, .. })));
    assert_eq!(channel.next().await, Some(HubFrame::Order { envelope: second }));
    let path = host.path(&format!("/orders/{}?after={}&wait_s=20", accepted.op, accepted.version));
    assert!(operator.get::<OrderView>(&path).await.delivered);
    let (farewell, ()) = tokio::join!(channel.bye(), hub.shutdown());
    assert_eq!(farewell, "the hub is stopping");
}

#[tokio::test]
async fn orders_wait_until_the_hosts_log_was_heard() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    let envelope = order("one");
    operator.post::<OrderAccepted>(&host.path("/orders"), &envelope).await;
    // The host's log has an entry that the hub has not: perhaps the receipt of this very order.
    let mut channel = Channel::welcome(&hub, &host, 1, 0).await;
    channel.send(&AgentFrame::Report { seq: 1, report: Box::new(report()) }).await;
    assert_eq!(channel.next().await, Some(HubFrame::ReportStored { seq: 1 }));
    let done = receipt(host.id, Some((0, NO_HASH)), Sha256::of(b"other"), &host.key);
    channel.send(&AgentFrame::Receipts { first: 0, receipts: vec![done], checkpoint: None }).await;
    assert_eq!(channel.next().await, Some(HubFrame::ReceiptsStored { held: 1 }));
    assert_eq!(channel.next().await, Some(HubFrame::Order { envelope: envelope.clone() }));
    // The same order, submitted again, is sent again on the same channel.
    operator.post::<OrderAccepted>(&host.path("/orders"), &envelope).await;
    assert_eq!(channel.next().await, Some(HubFrame::Order { envelope }));
}

#[tokio::test]
async fn the_newest_channel_wins_and_a_selftest_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    let mut first = Channel::welcome(&hub, &host, 0, 0).await;
    let mut test = Channel::open(&hub, Some(&host.cert)).await.unwrap();
    test.send(&host.hello(Purpose::Selftest, "boot", 0)).await;
    assert!(matches!(test.next().await, Some(HubFrame::Welcome { .. })));
    let one = order("one");
    operator.post::<OrderAccepted>(&host.path("/orders"), &one).await;
    assert_eq!(first.next().await, Some(HubFrame::Order { envelope: one.clone() }));
    test.send(&AgentFrame::Report { seq: 9, report: Box::new(report()) }).await;
    assert_eq!(test.next().await, Some(HubFrame::ReportStored { seq: 9 }), "and no order before it");

    let mut second = Channel::welcome(&hub, &host, 0, 0).await;
    assert!(first.bye().await.contains("another channel"));
    // Nothing was heard of it on the first one: perhaps the agent never read it.
    assert_eq!(second.next().await, Some(HubFrame::Order { envelope: one }));
    let envelope = order("two");
    let (_, accepted): (_, OrderAccepted) = operator.post(&host.path("/orders"), &envelope).await;
    assert!(accepted.online, "the end of the first channel did not take the second off the list");
    assert_eq!(second.next().await, Some(HubFrame::Order { envelope }));
}

#[tokio::test]
async fn a_silent_agent_is_let_go_and_a_quiet_one_is_not() {
    let limits = Limits {
        heartbeat: Duration::from_millis(50),
        silence: Duration::from_millis(400),
        ..Limits::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = start_in(dir.path(), Environment { limits, ..Environment::default() }).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    // Reading is enough to stay: pings are answered by the WebSocket itself.
    let mut channel = Channel::welcome(&hub, &host, 0, 0).await;
    for _ in 0..30 {
        assert_eq!(channel.any().await, Some(HubFrame::Heartbeat {}));
    }
    // Not reading is not. The operator's view says when the hub has noticed.
    let deadline = tokio::time::Instant::now() + client::DEADLINE;
    while operator.get::<HostDetail>(&host.path("")).await.host.online {
        assert!(tokio::time::Instant::now() < deadline, "the silent channel stays open");
    }
    assert!(channel.bye().await.contains("nothing was heard"));
}

#[tokio::test]
async fn what_hinders_the_start_is_said_with_its_remedy() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let config = new_config(dir.path());
    let hub = hub::serve(config.clone()).await.unwrap();
    let second = hub::serve(config.clone()).await.unwrap_err().to_string();
    assert!(second.contains("another writ-hub uses the state directory"), "{second}");
    let other_dir = tempfile::tempdir().unwrap();
    let mut other = new_config(other_dir.path());
    other.listen = hub.addr();
    let taken = hub::serve(other.clone()).await.unwrap_err().to_string();
    assert!(taken.contains("choose another port"), "{taken}");
    hub.shutdown().await;

    let chmod = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    chmod(&config.tls_key, 0o640);
    assert!(hub::serve(config.clone()).await.unwrap_err().to_string().contains("chmod 600"));
    chmod(&config.tls_key, 0o600);
    chmod(&config.state_dir, 0o755);
    assert!(hub::serve(config.clone()).await.unwrap_err().to_string().contains("chmod 700"));
    chmod(&config.state_dir, 0o700);
    std::fs::write(&config.operators, "alice\n").unwrap();
    assert!(hub::serve(config.clone()).await.unwrap_err().to_string().contains("line 1"));
    other.state_dir = other_dir.path().join("no/where");
    assert!(hub::serve(other).await.unwrap_err().to_string().contains("does not exist"));
}
