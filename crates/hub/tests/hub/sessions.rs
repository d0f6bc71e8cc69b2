//! Tunnels from the request to the closed row, and who may touch them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use authz::receipt::Entry;
use authz::{Event, SecretKey};
use hub::{Clock, Environment, Limits};
use protocol::api::{ApiFailure, OrderAccepted, OrderView, TunnelAnswer, TunnelView};
use protocol::frame::{AgentFrame, HubFrame, Purpose};
use protocol::tunnel::{AGENT_DATA_PATH, UPGRADE};
use protocol::{Envelope, HostId, Sha256, TunnelId};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::client::{Channel, DEADLINE, Http, TestHost, alice};
use super::tunnel::{
    Stand, asked, bob, dial, exactly, quick, refused, session_ready, signed, to_end, upgrade,
};
use super::{NO_HASH, order};

/// No tunnel of anybody's.
const UNKNOWN: TunnelId = TunnelId::from_bytes([0xee; 16]);

#[tokio::test]
async fn a_session_is_paired_listed_and_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    let (id, mut operator, mut host) = stand.connected("one").await;
    operator.write_all(b"ssh up").await.unwrap();
    exactly(&mut host, b"ssh up").await;
    host.write_all(b"ssh down!").await.unwrap();
    exactly(&mut operator, b"ssh down!").await;

    let list: Vec<TunnelView> = stand.alice.get(&stand.host.path("/tunnels")).await;
    let view = stand.view(id).await;
    assert_eq!(list, std::slice::from_ref(&view));
    assert_eq!((view.host_id, view.op, view.operator.as_str()), (stand.host.id, order("one").id(), "alice"));
    assert_eq!((view.closed_at, view.bytes_to_host, view.bytes_from_host), (None, 6, 9));
    // The order is in the list like any other, but nobody delivers it a second time.
    let orders: Vec<OrderView> = stand.alice.get(&stand.host.path("/orders")).await;
    assert_eq!((orders.len(), orders[0].op, orders[0].delivered), (1, view.op, true));

    // Any operator may close it.
    let bob = Http::operator(&stand.hub, &bob()).await;
    let path = format!("/api/v1/tunnels/{id}");
    let (status, closed): (_, TunnelView) = bob.delete(&path).await;
    assert_eq!((status, closed.why.as_deref()), (200, Some("closed by bob")));
    assert!(closed.closed_at.is_some());
    assert_eq!((to_end(&mut operator).await, to_end(&mut host).await), (vec![], vec![]));
    stand.told(id, "closed by bob").await;
    let (status, again): (_, TunnelView) = stand.alice.delete(&path).await;
    assert_eq!((status, again), (200, closed), "the first word stays");

    // Its end, by the log, stands with the order.
    let end = super::receipt(stand.host.id, Some((0, NO_HASH)), view.op, &stand.host.key);
    stand
        .channel
        .send(&AgentFrame::Receipts { first: 0, receipts: vec![end.clone()], checkpoint: None })
        .await;
    assert_eq!(stand.channel.next().await, Some(HubFrame::ReceiptsStored { held: 1 }));
    let order: OrderView = stand.alice.get(&stand.host.path(&format!("/orders/{}", view.op))).await;
    assert_eq!(order.receipts[0].receipt, end);
    stand.connected("two").await;
}

#[tokio::test]
async fn the_hosts_no_reaches_the_operator_and_frees_the_slot() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    let (host_id, key) = (stand.host.id, SecretKey::from_seed(&[1; 32]));
    let mallory = SecretKey::from_seed(&[66; 32]);
    let Stand { alice, host, channel, .. } = &mut stand;
    let path = host.path("/tunnels");
    let op = |what| order(what).id();
    let committed = |op| {
        let event = Event::OrderCommitted { op, kind: "session.open".to_owned(), signers: vec![] };
        signed(host_id, Some(Entry { seq: 0, prev: NO_HASH }), event, &key)
    };
    let elsewhere = HostId::from_bytes([9; 16]);
    let no = |receipt, problem: Option<&str>| {
        let problem = problem.map(str::to_owned);
        AgentFrame::TunnelError { tunnel: UNKNOWN, receipt, problem }
    };
    let ready = |receipt| AgentFrame::TunnelReady { tunnel: UNKNOWN, receipt };
    let close = AgentFrame::TunnelClose { tunnel: UNKNOWN, why: "gone".to_owned() };
    let not_signed =
        "its answer is not a receipt for this order signed with the host key: do not trust this host";
    let cases = [
        ("words", no(None, Some("no\u{1b}[2J sshd")), "no?[2J sshd"),
        ("no words", no(None, None), "it gave no reason"),
        ("closed", close, "gone"),
        (
            "no by another key",
            no(Some(refused(host_id, op("no by another key"), &mallory)), None),
            not_signed,
        ),
        ("no to another order", no(Some(refused(host_id, op("x"), &key)), None), not_signed),
        ("yes as a no", no(Some(session_ready(host_id, op("yes as a no"), &key)), None), not_signed),
        ("another key", ready(session_ready(host_id, op("another key"), &mallory)), not_signed),
        ("another host", ready(session_ready(elsewhere, op("another host"), &key)), not_signed),
        ("another order", ready(session_ready(host_id, op("x"), &key)), not_signed),
        ("only committed", ready(committed(op("only committed"))), not_signed),
        ("no as a yes", ready(refused(host_id, op("no as a yes"), &key)), not_signed),
    ];
    for (what, frame, says) in cases {
        let envelope = order(what);
        let says = format!("the host could not open it: {says}");
        let answered = async {
            let tunnel = asked(channel, &envelope).await;
            let frame = serde_json::to_string(&frame).unwrap();
            channel.send_text(&frame.replace(&UNKNOWN.to_string(), &tunnel.to_string())).await;
        };
        let ((status, answer), ()) = tokio::join!(alice.post::<TunnelAnswer>(&path, &envelope), answered);
        assert_eq!((status, answer), (200, TunnelAnswer::Trouble { problem: says.clone() }), "{what}");
        let view: OrderView = alice.get(&host.path(&format!("/orders/{}", envelope.id()))).await;
        assert_eq!((view.problem, view.receipts.len()), (Some(says), 0));
    }

    // A signed refusal goes to the operator as it is, and stands with the order.
    let envelope = order("refused");
    let receipt = refused(host_id, envelope.id(), &key);
    let answered = async {
        let tunnel = asked(channel, &envelope).await;
        let receipt = Some(receipt.clone());
        channel.send(&AgentFrame::TunnelError { tunnel, receipt, problem: None }).await;
        tunnel
    };
    let ((_, answer), id) = tokio::join!(alice.post::<TunnelAnswer>(&path, &envelope), answered);
    assert_eq!(answer, TunnelAnswer::Refused { receipt: receipt.clone() });
    let view: OrderView = alice.get(&host.path(&format!("/orders/{}", envelope.id()))).await;
    assert_eq!((view.receipts.len(), &view.receipts[0].receipt, view.problem), (1, &receipt, None));
    stand.closed(id, "the host refused").await;
    // The same order again is asked again: whether it may is for the host to say.
    let id = stand.ready("refused").await;
    assert!(stand.view(id).await.closed_at.is_none());
}

#[tokio::test]
async fn an_operator_who_leaves_or_never_connects_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { tunnel_connect: Duration::from_secs(1), ..quick() };
    let mut stand = Stand::limited(dir.path(), limits).await;
    let envelope = order("left");
    let path = stand.host.path("/tunnels");
    let id = {
        let asking = stand.alice.post::<TunnelAnswer>(&path, &envelope);
        // Dropped as soon as the host was asked.
        tokio::select! {
            _ = asking => panic!("nobody answered"),
            id = asked(&mut stand.channel, &envelope) => id,
        }
    };
    stand.told(id, "the operator left before the host had answered").await;
    stand.closed(id, "the operator left before the host had answered").await;
    // The host's answer comes too late and finds nothing.
    let receipt = session_ready(stand.host.id, envelope.id(), &stand.host.key);
    stand.channel.send(&AgentFrame::TunnelReady { tunnel: id, receipt }).await;

    let id = stand.ready("nobody connects").await;
    stand.told(id, "the host's data connection did not come in time").await;
    assert_eq!(stand.dial_operator(&stand.alice, id).await.err(), Some((404, "no_such_tunnel".to_owned())));

    let id = stand.ready("the operator does not connect").await;
    let mut host = stand.dial_host(&stand.host, id).await.unwrap();
    assert_eq!(to_end(&mut host).await, b"");
    stand.told(id, "the operator's data connection did not come in time").await;

    let id = stand.ready("the host does not connect").await;
    let mut operator = stand.dial_operator(&stand.alice, id).await.unwrap();
    assert_eq!(to_end(&mut operator).await, b"");
    stand.closed(id, "the host's data connection did not come in time").await;
    stand.connected("in the end").await;
}

#[tokio::test]
async fn a_host_that_is_away_or_silent_is_said_at_once_or_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { tunnel_answer: Duration::from_secs(1), ..quick() };
    let mut stand = Stand::limited(dir.path(), limits).await;
    let away = TestHost::enrolled(2, &stand.hub, &stand.alice).await;
    let (status, failure): (_, ApiFailure) = stand.alice.post(&away.path("/tunnels"), &order("x")).await;
    assert_eq!((status, failure.code.as_str()), (409, "offline"));
    let nothing: Vec<TunnelView> = stand.alice.get(&away.path("/tunnels")).await;
    let no_order: Vec<OrderView> = stand.alice.get(&away.path("/orders")).await;
    assert_eq!((nothing, no_order), (vec![], vec![]), "and nothing waits for it");

    let envelope = order("silence");
    let (_, answer): (_, TunnelAnswer) = stand.alice.post(&stand.host.path("/tunnels"), &envelope).await;
    assert_eq!(answer, TunnelAnswer::Trouble { problem: "the host did not answer in time".to_owned() });
    let id = asked(&mut stand.channel, &envelope).await;
    stand.told(id, "the host did not answer in time").await;

    // A channel that is not the service's is asked nothing and may answer nothing.
    let mut test = Channel::open(&stand.hub, Some(&stand.host.cert)).await.unwrap();
    test.send(&stand.host.hello(Purpose::Selftest, "boot", 0)).await;
    assert!(matches!(test.next().await, Some(HubFrame::Welcome { .. })));
    let id = stand.ready("real").await;
    let receipt = session_ready(stand.host.id, order("real").id(), &stand.host.key);
    test.send(&AgentFrame::TunnelReady { tunnel: id, receipt }).await;
    assert_eq!(test.bye().await, "a selftest sends a report and nothing else");
}

#[tokio::test]
async fn the_number_of_sessions_is_held_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    let (first, mut operator, mut host) = stand.connected("one").await;
    let path = stand.host.path("/tunnels");
    let (status, failure): (_, ApiFailure) = stand.alice.post(&path, &order("two")).await;
    assert_eq!((status, failure.code.as_str()), (409, "session_exists"));
    for says in ["writ sessions HOST".to_owned(), format!("writ sessions close {first}")] {
        assert!(failure.message.contains(&says), "{}", failure.message);
    }
    // Bob has his own, and what alice has goes on.
    let bob = Http::operator(&stand.hub, &bob()).await;
    let mine = std::mem::replace(&mut stand.alice, bob);
    let (bobs, ..) = stand.connected("bob's").await;
    assert_eq!(stand.view(bobs).await.operator.as_str(), "bob");
    stand.alice = mine;
    operator.write_all(b"still here").await.unwrap();
    exactly(&mut host, b"still here").await;
}

#[tokio::test]
async fn of_many_requests_at_once_as_many_win_as_may() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::with(dir.path(), Environment::default(), 2).await;
    let path = stand.host.path("/tunnels");
    let envelopes: Vec<Envelope> = (0..6).map(|n| order(&format!("at once {n}"))).collect();
    let asking =
        envelopes.iter().map(|envelope| stand.alice.try_call(reqwest::Method::POST, &path, Some(envelope)));
    let asking = futures_util::future::join_all(asking);
    let host = &stand.host;
    let answering = async {
        for _ in 0..2 {
            let Some(HubFrame::TunnelOpen { tunnel, envelope }) = stand.channel.next().await else {
                panic!("TunnelOpen was expected")
            };
            let receipt = session_ready(host.id, envelope.id(), &host.key);
            stand.channel.send(&AgentFrame::TunnelReady { tunnel, receipt }).await;
        }
    };
    let (answers, ()) = tokio::join!(asking, answering);
    let mut statuses: Vec<u16> =
        answers.into_iter().map(|answer| answer.unwrap().status().as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 409, 409, 409, 409]);
    let list: Vec<TunnelView> = stand.alice.get(&path).await;
    assert_eq!(list.iter().filter(|view| view.closed_at.is_none()).count(), 2);
}

#[tokio::test]
async fn a_session_ends_with_its_channel() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    let why = "the host's channel to the hub ended";
    // Lost.
    let (id, mut operator, mut host) = stand.connected("one").await;
    stand.channel.0.get_mut().get_mut().0.shutdown().await.unwrap();
    assert_eq!((to_end(&mut operator).await, to_end(&mut host).await), (vec![], vec![]));
    stand.closed(id, why).await;
    // Replaced.
    stand.channel = Channel::welcome(&stand.hub, &stand.host, 0, 0).await;
    let (id, mut operator, _host) = stand.connected("two").await;
    stand.channel = Channel::welcome(&stand.hub, &stand.host, 0, 0).await;
    assert_eq!(to_end(&mut operator).await, b"");
    stand.closed(id, why).await;
    // Lost while the operator waits.
    let envelope = order("three");
    let path = stand.host.path("/tunnels");
    let lost = async {
        asked(&mut stand.channel, &envelope).await;
        stand.channel.0.close(None).await.unwrap();
    };
    let ((_, answer), ()) = tokio::join!(stand.alice.post::<TunnelAnswer>(&path, &envelope), lost);
    assert_eq!(answer, TunnelAnswer::Trouble { problem: why.to_owned() });
}

#[tokio::test]
async fn a_hub_that_stops_ends_its_sessions_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::new(dir.path()).await;
    let (id, mut operator, mut host) = stand.connected("one").await;
    host.write_all(b"last").await.unwrap();
    exactly(&mut operator, b"last").await;
    let path = stand.host.path("/tunnels");
    let Stand { hub, mut channel, host: machine, .. } = stand;
    let ends = async {
        assert_eq!((to_end(&mut operator).await, to_end(&mut host).await), (vec![], vec![]));
        drop((operator, host));
    };
    let channel = async { while channel.any().await.is_some() {} };
    timeout(DEADLINE, async { tokio::join!(hub.shutdown(), ends, channel) }).await.unwrap();

    let config = hub::HubConfig::load(&dir.path().join("hub/hub.toml")).unwrap();
    let hub = hub::serve(config).await.unwrap();
    let alice = Http::alice(&hub).await;
    let list: Vec<TunnelView> = alice.get(&path).await;
    assert_eq!((list[0].id, list[0].why.as_deref()), (id, Some("the hub is stopping")));
    assert_eq!((list[0].bytes_from_host, list[0].host_id), (4, machine.id));
}

#[tokio::test]
async fn a_session_ends_with_its_operators_key_and_not_with_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let now = clock.clone();
    let environment = Environment { clock: Clock::new(move || now.load(Ordering::Relaxed)), limits: quick() };
    let mut stand = Stand::with(dir.path(), environment, 1).await;
    let (id, mut operator, mut host) = stand.connected("one").await;
    clock.fetch_add(13 * 3_600, Ordering::Relaxed);
    assert_eq!(stand.alice.get::<ApiFailure>("/api/v1/me").await.code, "bad_token");
    stand.alice = Http::alice(&stand.hub).await;
    operator.write_all(b"still here").await.unwrap();
    exactly(&mut host, b"still here").await;

    let bob = Http::operator(&stand.hub, &bob()).await;
    std::fs::write(&stand.operators, format!("bob {}\n", super::tunnel::bob().public())).unwrap();
    assert_eq!((to_end(&mut operator).await, to_end(&mut host).await), (vec![], vec![]));
    stand.alice = bob;
    stand.closed(id, "the operator's key was taken from the hub's operators file").await;
    let list: Vec<TunnelView> = stand.alice.get(&stand.host.path("/tunnels")).await;
    assert_eq!(list[0].operator.as_str(), "alice");
    // Alice with another key is not who opened the session.
    std::fs::write(&stand.operators, format!("alice {}\n", alice().public())).unwrap();
    stand.alice = Http::alice(&stand.hub).await;
    let (_, mut operator, _host) = stand.connected("two").await;
    let other = SecretKey::from_seed(&[3; 32]);
    std::fs::write(&stand.operators, format!("alice {}\n", other.public())).unwrap();
    assert_eq!(to_end(&mut operator).await, b"");
}

#[tokio::test]
async fn data_connections_are_for_both_ends_only_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::new(dir.path()).await;
    let id = stand.ready("one").await;
    let bob = Http::operator(&stand.hub, &bob()).await;
    let other = TestHost::enrolled(2, &stand.hub, &stand.alice).await;
    let stranger = TestHost::new(3);
    let refuse = |status: u16, code: &str| Some((status, code.to_owned()));
    assert_eq!(stand.dial_operator(&bob, id).await.err(), refuse(404, "no_such_tunnel"));
    assert_eq!(stand.dial_operator(&stand.alice, UNKNOWN).await.err(), refuse(404, "no_such_tunnel"));
    assert_eq!(stand.dial_host(&other, id).await.err(), refuse(404, "no_such_tunnel"));
    assert_eq!(stand.dial_host(&stand.host, UNKNOWN).await.err(), refuse(404, "no_such_tunnel"));
    assert_eq!(stand.dial_host(&stranger, id).await.err(), refuse(403, "unknown_device"));
    let (hub, good) = (&stand.hub, upgrade(UPGRADE));
    let token = format!("authorization: Bearer {}\r\n", stand.alice.token());
    let operators = format!("GET /api/v1/tunnels/{id}/data");
    let hosts = format!("GET {AGENT_DATA_PATH}/{id}");
    assert_eq!(dial(hub, None, &hosts, &good).await.err(), refuse(403, "unknown_device"));
    assert_eq!(dial(hub, None, &hosts, &format!("{token}{good}")).await.err(), refuse(403, "unknown_device"));
    assert_eq!(dial(hub, None, &operators, &good).await.err(), refuse(401, "no_token"));
    let certificate = Some(&stand.host.cert);
    assert_eq!(dial(hub, certificate, &operators, &good).await.err(), refuse(401, "no_token"));
    for id in ["x", "../../../healthz", &"0".repeat(31), &"A".repeat(32)] {
        let line = format!("GET /api/v1/tunnels/{id}/data");
        let (status, _) = dial(hub, None, &line, &format!("{token}{good}")).await.unwrap_err();
        assert!(matches!(status, 400 | 401 | 404), "{id}: {status}");
    }

    // Not asked for as it must be.
    for headers in [
        String::new(),
        "connection: upgrade\r\n".to_owned(),
        format!("upgrade: {UPGRADE}\r\n"),
        format!("connection: close\r\nupgrade: {UPGRADE}\r\n"),
        upgrade("websocket"),
        upgrade("writ-tunnel/2"),
        upgrade("writ-tunnel"),
        upgrade("writ-tunnel/1x"),
    ] {
        let (operators_headers, wrong) = (format!("{token}{headers}"), refuse(426, "not_a_tunnel"));
        assert_eq!(dial(hub, None, &operators, &operators_headers).await.err(), wrong, "{headers}");
        assert_eq!(dial(hub, certificate, &hosts, &headers).await.err(), wrong, "{headers}");
    }
    let head = dial(hub, None, &operators.replace("GET", "HEAD"), &format!("{token}{good}")).await;
    assert_eq!(head.err().unwrap().0, 426);
    let posted = dial(hub, None, &operators.replace("GET", "POST"), &format!("{token}{good}")).await;
    assert_eq!(posted.err(), refuse(405, "wrong_method"));

    // None of that has used up an end. Each end once:
    let mut operator = stand.dial_operator(&stand.alice, id).await.unwrap();
    assert_eq!(stand.dial_operator(&stand.alice, id).await.err(), refuse(409, "tunnel_taken"));
    // With other tokens in the lists, and bytes that come before the answer.
    let many = format!("connection: keep-alive, Upgrade\r\nupgrade: websocket, {UPGRADE}\r\n");
    let mut host = dial(hub, certificate, &hosts, &many).await.unwrap();
    assert_eq!(stand.dial_host(&stand.host, id).await.err(), refuse(409, "tunnel_taken"));
    operator.write_all(b"undisturbed").await.unwrap();
    exactly(&mut host, b"undisturbed").await;
    assert_eq!(stand.dial_host(&stand.host, id).await.err(), refuse(409, "tunnel_taken"));
}

#[tokio::test]
async fn frames_about_tunnels_of_others_touch_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    let other = TestHost::enrolled(2, &stand.hub, &stand.alice).await;
    let mut others = Channel::welcome(&stand.hub, &other, 0, 0).await;
    let meddle = async |channel: &mut Channel, host: &TestHost, tunnel, op: Sha256| {
        let receipt = session_ready(host.id, op, &host.key);
        channel.send(&AgentFrame::TunnelReady { tunnel, receipt }).await;
        let (receipt, problem) = (Some(refused(host.id, op, &host.key)), Some("no".to_owned()));
        channel.send(&AgentFrame::TunnelError { tunnel, receipt, problem }).await;
        channel.send(&AgentFrame::TunnelClose { tunnel, why: "no".to_owned() }).await;
        // Answered after all these.
        channel.send(&AgentFrame::Report { seq: 1, report: Box::new(super::report()) }).await;
        assert_eq!(channel.next().await, Some(HubFrame::ReportStored { seq: 1 }));
    };
    let envelope = order("one");
    let path = stand.host.path("/tunnels");
    let answered = async {
        let tunnel = asked(&mut stand.channel, &envelope).await;
        meddle(&mut others, &other, tunnel, envelope.id()).await;
        meddle(&mut others, &other, UNKNOWN, envelope.id()).await;
        let receipt = session_ready(stand.host.id, envelope.id(), &stand.host.key);
        stand.channel.send(&AgentFrame::TunnelReady { tunnel, receipt }).await;
        tunnel
    };
    let ((_, answer), id) = tokio::join!(stand.alice.post::<TunnelAnswer>(&path, &envelope), answered);
    assert!(matches!(answer, TunnelAnswer::Ready { .. }), "{answer:?}");
    let mut operator = stand.dial_operator(&stand.alice, id).await.unwrap();
    let mut host = stand.dial_host(&stand.host, id).await.unwrap();
    meddle(&mut others, &other, id, envelope.id()).await;
    // Its own host cannot answer twice either.
    let receipt = Some(refused(stand.host.id, envelope.id(), &stand.host.key));
    stand.channel.send(&AgentFrame::TunnelError { tunnel: id, receipt, problem: None }).await;
    operator.write_all(b"undisturbed").await.unwrap();
    exactly(&mut host, b"undisturbed").await;
    let others_orders: Vec<OrderView> = stand.alice.get(&other.path("/orders")).await;
    assert_eq!(others_orders, []);

    // Frames that cannot be read end the channel, and with it its sessions.
    for bad in [
        r#"{"t":"tunnel_ready","tunnel":"00"}"#.to_owned(),
        format!(r#"{{"t":"tunnel_close","tunnel":"{id}"}}"#),
        format!(r#"{{"t":"tunnel_close","tunnel":"{id}","why":7}}"#),
        format!(r#"{{"t":"tunnel_data","tunnel":"{id}","data":""}}"#),
        r#"{"t":"job_result","op":"00","sealed":""}"#.to_owned(),
    ] {
        others.send_text(&bad).await;
        assert!(others.bye().await.contains("could not be read"), "{bad}");
        others = Channel::welcome(&stand.hub, &other, 0, 0).await;
    }
}

#[tokio::test]
async fn hostile_requests_for_a_tunnel_open_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = Stand::limited(dir.path(), quick()).await;
    let path = stand.host.path("/tunnels");
    let sealed = Envelope { sealed: Some(vec![1].into()), ..order("x") };
    let nameless = Envelope { sigs: vec![], ..order("x") };
    let large = Envelope { payload: vec![0; Envelope::MAX_PAYLOAD + 1].into(), ..order("x") };
    for envelope in [&sealed, &nameless, &large] {
        let (status, failure): (_, ApiFailure) = stand.alice.post(&path, envelope).await;
        assert_eq!((status, failure.code.as_str()), (422, "bad_order"));
    }
    let nowhere = TestHost::new(7).path("/tunnels");
    let (status, failure): (_, ApiFailure) = stand.alice.post(&nowhere, &order("x")).await;
    assert_eq!((status, failure.code.as_str()), (404, "no_such_host"));
    let (status, failure): (_, ApiFailure) = stand.alice.post(&path, &"not an envelope").await;
    assert_eq!((status, failure.code.as_str()), (400, "bad_request"));
    let unknown = format!("/api/v1/tunnels/{}", "0".repeat(32));
    assert_eq!(stand.alice.get::<ApiFailure>(&unknown).await.code, "no_such_tunnel");
    assert_eq!(stand.alice.delete::<ApiFailure>(&unknown).await.1.code, "no_such_tunnel");

    // An order is a session's or one to deliver, and stays what it was first.
    let envelope = order("to deliver");
    stand.alice.post::<OrderAccepted>(&stand.host.path("/orders"), &envelope).await;
    assert_eq!(stand.channel.next().await, Some(HubFrame::Order { envelope: envelope.clone() }));
    let (status, failure): (_, ApiFailure) = stand.alice.post(&path, &envelope).await;
    assert_eq!((status, failure.code.as_str()), (409, "is_no_session"));
    let none: Vec<TunnelView> = stand.alice.get(&path).await;
    assert_eq!(none, []);
    let id = stand.ready("a session").await;
    let (status, failure): (_, ApiFailure) =
        stand.alice.post(&stand.host.path("/orders"), &order("a session")).await;
    assert_eq!((status, failure.code.as_str()), (409, "is_a_session"));
    stand.alice.delete::<TunnelView>(&format!("/api/v1/tunnels/{id}")).await;
    stand.told(id, "closed by alice").await;
    // A new channel is given what waits and what was not heard of, and that is not the session's order.
    stand.channel = Channel::welcome(&stand.hub, &stand.host, 0, 0).await;
    assert_eq!(stand.channel.next().await, Some(HubFrame::Order { envelope }));
    let last = order("last");
    stand.alice.post::<OrderAccepted>(&stand.host.path("/orders"), &last).await;
    assert_eq!(stand.channel.next().await, Some(HubFrame::Order { envelope: last }));
}
