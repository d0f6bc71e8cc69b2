//! What a hub must not take from agents and strangers.

use std::sync::Arc;

use protocol::api::{
    ApiFailure, ENROLL_FINISH_PATH, EnrollFinish, HostDetail, OrderAccepted, OrderView, ReceiptsView,
};
use protocol::frame::{AgentFrame, HubFrame, MAX_FRAME, Purpose, RECEIPTS_PER_FRAME, VERSION};
use protocol::{HostId, Sha256};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use tokio::net::TcpStream;

use super::client::{Channel, ClientCert, Http, TestHost, client_cert, client_config, start};
use super::{NO_HASH, order, receipt};

#[tokio::test]
async fn forged_receipts_store_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    let mallory = TestHost::new(66).key;
    let envelope = order("one");
    let op = envelope.id();
    operator.post::<OrderAccepted>(&host.path("/orders"), &envelope).await;

    let good = receipt(host.id, Some((0, NO_HASH)), op, &host.key);
    let next = |key, prev| receipt(host.id, Some((1, prev)), op, key);
    let prev = Sha256::of(&good.payload.0);
    let receipts = |first, receipts| AgentFrame::Receipts { first, receipts, checkpoint: None };
    let cases = [
        ("another key", receipts(0, vec![receipt(host.id, Some((0, NO_HASH)), op, &mallory)])),
        (
            "another host",
            receipts(0, vec![receipt(HostId::from_bytes([9; 16]), Some((0, NO_HASH)), op, &host.key)]),
        ),
        ("a good one, then a forged one", receipts(0, vec![good.clone(), next(&mallory, prev)])),
        (
            "a good one, then one that follows another",
            receipts(0, vec![good.clone(), next(&host.key, NO_HASH)]),
        ),
        ("a gap", receipts(1, vec![next(&host.key, prev)])),
        ("a place far away", receipts(u64::MAX, vec![good.clone()])),
        ("outside the log", receipts(0, vec![receipt(host.id, None, op, &host.key)])),
        ("too many", receipts(0, vec![good.clone(); RECEIPTS_PER_FRAME + 1])),
        ("a forged refusal", AgentFrame::Refusal { op, receipt: receipt(host.id, None, op, &mallory) }),
        ("a refusal inside the log", AgentFrame::Refusal { op, receipt: good.clone() }),
        (
            "a refusal of another order",
            AgentFrame::Refusal { op, receipt: receipt(host.id, None, Sha256::of(b"x"), &host.key) },
        ),
    ];
    for (what, frame) in cases {
        let mut channel = Channel::open(&hub, Some(&host.cert)).await.unwrap();
        // More entries than the hub holds, so that no order comes in between.
        channel.send(&host.hello(Purpose::Run, "boot", 5)).await;
        assert_eq!(channel.next().await, Some(HubFrame::Welcome { v: VERSION, receipts_held: 0 }), "{what}");
        channel.send(&frame).await;
        let why = channel.bye().await;
        assert!(why.contains("receipt") || why.contains("refusal"), "{what}: {why}");
    }
    let held: ReceiptsView = operator.get(&host.path("/receipts")).await;
    assert_eq!((held.held, held.receipts.len()), (0, 0));
    let view: OrderView = operator.get(&host.path(&format!("/orders/{op}"))).await;
    assert_eq!((view.receipts.len(), view.version), (0, 1));

    // The log goes on as if nothing had happened, and history cannot be told differently later.
    let mut channel = Channel::welcome(&hub, &host, 1, 0).await;
    channel.send(&receipts(0, vec![good])).await;
    assert_eq!(channel.next().await, Some(HubFrame::ReceiptsStored { held: 1 }));
    assert_eq!(channel.next().await, Some(HubFrame::Order { envelope }));
    channel.send(&receipts(0, vec![receipt(host.id, Some((0, NO_HASH)), Sha256::of(b"y"), &host.key)])).await;
    assert!(channel.bye().await.contains("rewritten"));
}

#[tokio::test]
async fn a_device_key_must_be_proven() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    assert!(Channel::open(&hub, Some(&host.cert)).await.is_ok());

    let stranger = TestHost::new(2);
    assert_eq!(Channel::open(&hub, None).await.err(), Some(403));
    assert_eq!(Channel::open(&hub, Some(&stranger.cert)).await.err(), Some(403));
    // The victim's certificate is public; without its key it is worth nothing.
    let (_, own) = client_cert(&PKCS_ED25519);
    let stolen = ClientCert { cert: host.cert.cert.clone(), key: own.key };
    assert_eq!(Channel::open(&hub, Some(&stolen)).await.err(), Some(0));
    // The hub asks for Ed25519 only, so this client shows no certificate at all.
    let (_, other_kind) = client_cert(&PKCS_ECDSA_P256_SHA256);
    assert_eq!(Channel::open(&hub, Some(&other_kind)).await.err(), Some(403));

    // An answer for one device key, delivered with another.
    let agent = Http::new(&hub, Some(&stranger.cert));
    let finish = EnrollFinish { secret: vec![1].into(), answer: host.answer() };
    let (status, failure): (_, ApiFailure) = agent.post(ENROLL_FINISH_PATH, &finish).await;
    assert_eq!((status, failure.code.as_str()), (403, "wrong_device"));
    let failure = agent.get::<ApiFailure>("/agent/v1/channel").await;
    assert_eq!(failure.code, "unknown_device");
    let plain = Http::new(&hub, Some(&host.cert)).get::<ApiFailure>("/agent/v1/channel").await;
    assert_eq!(plain.code, "not_a_websocket");

    // Nothing below TLS 1.3.
    let config = client_config(hub.pin(), None, &[&rustls::version::TLS12]);
    let tcp = TcpStream::connect(hub.addr()).await.unwrap();
    let name = "hub.example".try_into().unwrap();
    assert!(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.is_err());
}

#[tokio::test]
async fn frames_that_make_no_sense_end_the_channel() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    let hello = |text: &str| {
        serde_json::to_string(&host.hello(Purpose::Run, "b", 0)).unwrap().replace("\"v\":2", text)
    };
    let other = serde_json::to_string(&TestHost::new(2).hello(Purpose::Run, "b", 0)).unwrap();
    for (first, says) in [
        ("", "could not be read"),
        ("{}", "could not be read"),
        (&"[".repeat(100_000), "could not be read"),
        ("{\"t\":\"root_shell\"}", "could not be read"),
        ("{\"t\":\"heartbeat\"}", "first frame must be Hello"),
        (&hello("\"v\":3"), "version 3"),
        (&other, "belongs to host"),
    ] {
        let mut channel = Channel::open(&hub, Some(&host.cert)).await.unwrap();
        channel.send_text(first).await;
        let why = channel.bye().await;
        assert!(why.contains(says), "{why}");
    }
    for (frame, says) in [
        (hello("\"v\":2"), "Hello came twice"),
        ("{\"t\":\"report\",\"seq\":1}".to_owned(), "could not be read"),
        (
            format!(
                "{{\"t\":\"progress\",\"op\":\"{NO_HASH}\",\"state\":{{\"state\":\"running\",\"upid\":\"{}\"}}}}",
                "U".repeat(9_000)
            ),
            "too long",
        ),
    ] {
        let mut channel = Channel::welcome(&hub, &host, 0, 0).await;
        channel.send_text(&frame).await;
        let why = channel.bye().await;
        assert!(why.contains(says), "{why}");
    }
    // Too large even to be read.
    let mut channel = Channel::welcome(&hub, &host, 0, 0).await;
    use futures_util::SinkExt as _;
    let huge = "x".repeat(MAX_FRAME + 1);
    let _ = channel.0.send(tokio_tungstenite::tungstenite::Message::Text(huge.into())).await;
    assert!(matches!(channel.next().await, None | Some(HubFrame::Bye { .. })));
    let detail: HostDetail = operator.get(&host.path("")).await;
    assert_eq!((detail.report, detail.plan), (None, None));
}

#[tokio::test]
async fn a_rejected_host_is_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::new(1);
    let id = host.answer_code(&hub, &operator).await;
    let mut channel = Channel::open(&hub, Some(&host.cert)).await.unwrap();
    channel.send(&host.hello(Purpose::Run, "boot", 0)).await;
    assert_eq!(channel.next().await, Some(HubFrame::Pending {}));
    operator.post::<serde_json::Value>(&format!("/api/v1/enrollments/{id}/reject"), &()).await;
    assert!(channel.bye().await.contains("rejected"));
    assert_eq!(Channel::open(&hub, Some(&host.cert)).await.err(), Some(403));
}
