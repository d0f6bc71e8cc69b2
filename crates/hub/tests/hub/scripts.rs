//! Scripts on their way down and their results on the way up: sealed bytes, kept until they are needed.

use authz::receipt::Entry;
use authz::{Event, Outcome, SecretKey};
use protocol::api::{ApiFailure, OrderAccepted, OrderView};
use protocol::frame::{AgentFrame, HubFrame};
use protocol::job::MAX_SEALED_RESULT;
use protocol::{Envelope, HostId, Sha256, Signed};

use super::client::{Channel, Http, TestHost, start};
use super::{NO_HASH, order, tunnel};

fn script(text: &str, sealed: Vec<u8>) -> Envelope {
    Envelope { sealed: Some(sealed.into()), ..order(text) }
}

fn ran(host: HostId, op: Sha256, result: &[u8], key: &SecretKey) -> Signed {
    let outcome = Outcome::Ran { result: Sha256::of(result), size: result.len() as u64, duration_ms: 1 };
    let event = Event::Order { op, kind: None, vmid: None, signers: vec![], outcome };
    tunnel::signed(host, Some(Entry { seq: 0, prev: NO_HASH }), event, key)
}

#[tokio::test]
async fn a_script_goes_down_whole_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    // As large as an order can be.
    let largest = Envelope {
        payload: vec![b'p'; Envelope::MAX_PAYLOAD].into(),
        sigs: vec!["\n".repeat(Envelope::MAX_ARMOR); Envelope::MAX_SIGNATURES],
        sealed: Some(vec![7; Envelope::MAX_SEALED].into()),
    };
    let (status, accepted): (_, OrderAccepted) = operator.post(&host.path("/orders"), &largest).await;
    assert_eq!((status, accepted.op), (200, largest.id()));
    for sealed in [vec![], vec![7; Envelope::MAX_SEALED + 1]] {
        let (status, failure): (_, ApiFailure) =
            operator.post(&host.path("/orders"), &script("x", sealed)).await;
        assert_eq!((status, failure.code.as_str()), (422, "bad_order"), "{}", failure.message);
    }
    let mut channel = Channel::welcome(&hub, &host, 0, 0).await;
    assert_eq!(channel.next().await, Some(HubFrame::Order { envelope: largest.clone() }));
    // Sent again without its script it is still the whole order.
    operator
        .post::<OrderAccepted>(&host.path("/orders"), &Envelope { sealed: None, ..largest.clone() })
        .await;
    assert_eq!(channel.next().await, Some(HubFrame::Order { envelope: largest.clone() }));
    let one: OrderView = operator.get(&host.path(&format!("/orders/{}", largest.id()))).await;
    let all: Vec<OrderView> = operator.get(&host.path("/orders")).await;
    for view in [&one, &all[0]] {
        assert_eq!((view.op, &view.envelope.sealed), (largest.id(), &None));
    }
}

#[tokio::test]
async fn a_result_is_kept_once_and_shown_with_its_order_only() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    let envelope = script("job", b"sealed script".to_vec());
    let op = envelope.id();
    operator.post::<OrderAccepted>(&host.path("/orders"), &envelope).await;
    let mut channel = Channel::welcome(&hub, &host, 0, 0).await;
    assert_eq!(channel.next().await, Some(HubFrame::Order { envelope }));
    let path = host.path(&format!("/orders/{op}"));
    let view = async || operator.get::<OrderView>(&path).await;
    let result = |op, sealed: &[u8]| AgentFrame::JobResult { op, sealed: sealed.to_vec().into() };
    let stored = Some(HubFrame::JobResultStored { op });
    let shown = |view: &OrderView| view.result.clone().map(|bytes| bytes.0);

    // Waiting for news ends with the result.
    let before = loop {
        let view = view().await;
        if view.delivered {
            break view.version;
        }
    };
    let waiting = format!("{path}?after={before}&wait_s=20");
    let first = result(op, b"a result");
    let (news, ()) = tokio::join!(operator.get::<OrderView>(&waiting), channel.send(&first));
    assert_eq!(shown(&news).as_deref(), Some(&b"a result"[..]));
    assert_eq!(channel.next().await, stored);
    // The same again is answered again, and no news.
    channel.send(&first).await;
    assert_eq!(channel.next().await, stored);
    assert_eq!(view().await, news);
    let all: Vec<OrderView> = operator.get(&host.path("/orders")).await;
    assert_eq!(shown(&all[0]), None);

    // Without the log's word the newer one counts, with it the one that it names.
    for (sealed, kept) in [(b"another", b"another"), (b"the one", b"the one")] {
        channel.send(&result(op, sealed)).await;
        assert_eq!(channel.next().await, stored);
        assert_eq!(shown(&view().await).as_deref(), Some(&kept[..]));
    }
    let receipts = vec![ran(host.id, op, b"another", &host.key)];
    channel.send(&AgentFrame::Receipts { first: 0, receipts, checkpoint: None }).await;
    assert_eq!(channel.next().await, Some(HubFrame::ReceiptsStored { held: 1 }));
    for sealed in [&b"another"[..], b"something else", b"the one"] {
        channel.send(&result(op, sealed)).await;
        assert_eq!(channel.next().await, stored);
        assert_eq!(shown(&view().await).as_deref(), Some(&b"another"[..]), "the log names it");
    }
}

#[tokio::test]
async fn results_that_cannot_be_kept_are_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    let other = TestHost::enrolled(2, &hub, &operator).await;
    let (mine, others) = (order("mine"), order("another host's"));
    operator.post::<OrderAccepted>(&host.path("/orders"), &mine).await;
    operator.post::<OrderAccepted>(&other.path("/orders"), &others).await;
    let mut channel = Channel::welcome(&hub, &host, 0, 0).await;
    assert_eq!(channel.next().await, Some(HubFrame::Order { envelope: mine.clone() }));
    let result =
        |envelope: &Envelope, size| AgentFrame::JobResult { op: envelope.id(), sealed: vec![7; size].into() };
    channel.send(&result(&order("never seen"), 1)).await;
    channel.send(&result(&others, 1)).await;
    channel.send(&result(&mine, 0)).await;
    channel.send(&result(&mine, MAX_SEALED_RESULT + 1)).await;
    // The largest is taken, and it is the first of all these that is answered.
    channel.send(&result(&mine, MAX_SEALED_RESULT)).await;
    assert_eq!(channel.next().await, Some(HubFrame::JobResultStored { op: mine.id() }));
    let view: OrderView = operator.get(&host.path(&format!("/orders/{}", mine.id()))).await;
    assert_eq!(view.result.map(|bytes| bytes.0.len()), Some(MAX_SEALED_RESULT));
    assert!(view.problem.unwrap().contains("does not take"));
    let view: OrderView = operator.get(&other.path(&format!("/orders/{}", others.id()))).await;
    assert_eq!(view.result, None);
}
