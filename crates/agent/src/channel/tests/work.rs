//! What takes long: scripts, their results, sessions.

use super::*;
use std::os::fd::AsFd as _;
use std::sync::OnceLock;

use crate::testing::{HubSocket, TlsHub, Upgrade};
use local_socket::Framed;
use protocol::job::MAX_SEALED_RESULT;
use protocol::{Bytes, TunnelId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// A script of an hour must not keep a guest from being rolled back.
#[tokio::test]
async fn a_slow_order_holds_up_no_other() {
    let dir = dir();
    let warden = FakeWarden::start(dir.path(), |request, size| {
        let WardenRequest::Order { envelope } = request else { panic!("{request:?}") };
        vec![WardenAnswer::Receipt(receipt(Some(size), Some(envelope.id()), done()))]
    });
    warden.slow.send_replace([order(1).id()].into());
    let mut bench = Bench::welcomed(dir).await;
    let mut held = 0;
    for (sent, ends) in
        [(Some(1), None), (Some(2), Some(2)), (Some(1), None), (Some(3), Some(3)), (None, Some(1))]
    {
        if let Some(n) = sent {
            bench.hub.send(&HubFrame::Order { envelope: order(n) }).await;
        } else {
            warden.slow.send_modify(|slow| slow.clear());
        }
        let Some(n) = ends else { continue };
        let receipts = bench.hub.find(|frame| match frame {
            AgentFrame::Receipts { receipts, .. } if !receipts.is_empty() => Some(receipts),
            _ => None,
        });
        let receipts = receipts.await;
        assert_eq!(receipts, [receipt(Some(held), Some(order(n).id()), done())]);
        held += 1;
        bench.hub.send(&HubFrame::ReceiptsStored { held }).await;
    }
    assert_eq!(warden.changes().len(), 3, "each once");
}

fn ran(sealed: &Bytes) -> Outcome {
    Outcome::Ran { result: Sha256::of(&sealed.0), size: sealed.0.len() as u64, duration_ms: 1 }
}

#[tokio::test]
async fn a_result_follows_its_receipt_and_comes_again_until_the_hub_holds_it() {
    let dir = dir();
    // The longest one: it must fit into every frame on its way.
    let sealed: Bytes = vec![0xa5; MAX_SEALED_RESULT].into();
    let results = Arc::new(OnceLock::<Arc<std::sync::Mutex<Vec<(Sha256, Bytes)>>>>::new());
    let (shelf, kept) = (Arc::clone(&results), sealed.clone());
    let warden = FakeWarden::start(dir.path(), move |request, size| {
        let WardenRequest::Order { envelope } = request else { panic!("{request:?}") };
        // The result is durable before its receipt is.
        shelf.get().unwrap().lock().unwrap().push((envelope.id(), kept.clone()));
        vec![WardenAnswer::Receipt(receipt(Some(size), Some(envelope.id()), ran(&kept)))]
    });
    results.set(Arc::clone(&warden.results)).unwrap();
    let mut bench = Bench::welcomed(dir).await;
    let op = order(1).id();
    let mut script = order(1);
    script.sealed = Some(b"sealed script".to_vec().into());
    bench.hub.send(&HubFrame::Order { envelope: script.clone() }).await;
    let result = |frame| match frame {
        AgentFrame::JobResult { op, sealed } => Some((op, sealed)),
        _ => None,
    };
    let mut receipts = 0;
    let came = bench.hub.find(|frame| match frame {
        AgentFrame::Receipts { receipts: more, .. } => {
            receipts += more.len();
            None
        }
        other => result(other),
    });
    assert!(came.await == (op, sealed.clone()));
    assert_eq!(receipts, 1, "the receipt came before");
    assert_eq!(warden.changes(), [WardenRequest::Order { envelope: script }], "with its script untouched");
    bench.again(1).await;
    assert!(bench.hub.find(result).await == (op, sealed));
    bench.hub.send(&HubFrame::JobResultStored { op }).await;
    let forgotten = async {
        while !warden.results.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon(forgotten).await;
    // Nobody else's word is taken for it.
    bench.hub.send(&HubFrame::JobResultStored { op }).await;
    let ended = soon(bench.serving).await.unwrap().0;
    assert!(ended.why.contains("never sent"), "{ended:?}");
}

/// A session that is open from the operator to the host.
struct Running {
    bench: Bench,
    warden: Framed,
    session: UnixStream,
    data: HubSocket,
}

async fn running() -> Running {
    let tunnel = TunnelId::from_bytes([9; 16]);
    let dir = dir();
    let mut hub = TlsHub::start(|path, _| panic!("nobody posts here: {path}"), Upgrade::Right).await;
    let mut fake = FakeWarden::start(dir.path(), no_changes);
    let client = hub.client(dir.path());
    let mut bench = Bench::with(dir, client).await;
    bench.hub.send(&HubFrame::Welcome { v: 1, receipts_held: 0 }).await;
    // The second one is the same: a hub that repeats itself opens one session.
    for _ in 0..2 {
        bench.hub.send(&HubFrame::TunnelOpen { tunnel, envelope: order(1) }).await;
    }
    let (envelope, mut warden) = fake.session().await;
    assert_eq!(envelope, order(1));
    let entry = receipt(Some(0), Some(order(1).id()), done());
    fake.log.lock().unwrap().push(entry.clone());
    let (session, passed) = UnixStream::pair().unwrap();
    let ready = WardenAnswer::SessionReady { receipt: entry.clone() };
    warden.send_with_fd(&ready, passed.as_fd()).await.unwrap();
    drop(passed);
    let told = bench.hub.find(|frame| match frame {
        AgentFrame::TunnelReady { tunnel, receipt } => Some((tunnel, receipt)),
        _ => None,
    });
    assert_eq!(told.await, (tunnel, entry.clone()));
    let logged = bench.hub.find(|frame| match frame {
        AgentFrame::Receipts { receipts, .. } if !receipts.is_empty() => Some(receipts),
        _ => None,
    });
    assert_eq!(logged.await, [entry]);
    bench.hub.send(&HubFrame::ReceiptsStored { held: 1 }).await;
    let (dialled, data) = hub.tunnel().await;
    assert_eq!(dialled, tunnel);
    assert!(fake.sessions.try_recv().is_err());
    Running { bench, warden, session, data }
}

#[tokio::test]
async fn sessions_end_with_the_channel_that_opened_them() {
    for how in ["the hub goes away", "the hub says goodbye", "the agent is stopped"] {
        let Running { mut bench, mut warden, mut session, mut data } = running().await;
        match how {
            "the hub goes away" => drop(bench.hub),
            "the hub says goodbye" => {
                bench.hub.send(&HubFrame::Bye { why: "x".to_owned(), retry_after_s: 0 }).await;
            }
            _ => bench.serving.abort(),
        }
        let mut rest = Vec::new();
        assert_eq!(soon(session.read_to_end(&mut rest)).await.unwrap(), 0, "{how}");
        let answer = soon(warden.receive::<WardenAnswer>()).await;
        assert!(matches!(answer, Ok(None)), "{how}: {answer:?}");
        assert!(!matches!(soon(data.read(&mut [0; 1])).await, Ok(1..)), "{how}");
    }
}

#[tokio::test]
async fn the_hub_closes_a_session_by_a_frame() {
    let Running { mut bench, mut warden, mut session, data: _data } = running().await;
    let tunnel = TunnelId::from_bytes([9; 16]);
    bench.hub.send(&HubFrame::TunnelClose { tunnel, why: "removed\u{202e}".to_owned() }).await;
    assert!(matches!(soon(warden.receive::<WardenAnswer>()).await, Ok(None)));
    assert_eq!(soon(session.read(&mut [0; 1])).await.unwrap(), 0);
    drop(warden);
    let told = bench.hub.find(|frame| match frame {
        AgentFrame::TunnelClose { tunnel, why } => Some((tunnel, why)),
        _ => None,
    });
    assert_eq!(told.await, (tunnel, "the hub closed the tunnel: removed?".to_owned()));
}

/// Bulk in a session shares nothing with the live channel that could make it wait.
#[tokio::test]
async fn bulk_in_a_session_does_not_delay_the_channel() {
    let Running { mut bench, warden: _warden, session, data } = running().await;
    let (mut from_session, mut to_session) = session.into_split();
    let (mut from_hub, mut to_hub) = tokio::io::split(data);
    let (moved, progress) = watch::channel(0_u64);
    let frame = [&protocol::tunnel::data_header(60_000).unwrap()[..], &[7; 60_000]].concat();
    let bulk = [
        tokio::spawn(async move { while to_session.write_all(&[5; 64 * 1024]).await.is_ok() {} }),
        tokio::spawn(async move {
            while to_hub.write_all(&frame).await.is_ok() && to_hub.flush().await.is_ok() {}
        }),
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while from_session.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }),
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = from_hub.read(&mut buffer).await {
                moved.send_modify(|moved| *moved += read as u64);
            }
        }),
    ];
    let mut progress = progress;
    for seq in 0..20_u64 {
        let before = *progress.borrow_and_update();
        soon(progress.wait_for(|now| *now >= before + (1 << 20))).await.unwrap();
        let plan = Plan { generation: seq, ..Plan::default() };
        let asked = Instant::now();
        bench.notes.send(Note::Plan { plan, problem: None }).await.unwrap();
        let told = bench.hub.find(|frame| match frame {
            AgentFrame::Plan { plan, .. } => Some(plan.generation),
            _ => None,
        });
        assert_eq!(told.await, seq);
        bench.hub.send(&HubFrame::Heartbeat {}).await;
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(5), "frame {seq} took {took:?} beside a bulk stream");
    }
    assert!(bulk.iter().all(|task| !task.is_finished()), "the stream went on all the time");
    for task in bulk {
        task.abort();
    }
}
