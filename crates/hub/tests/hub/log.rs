//! Checkpoints and proofs: what the hub keeps, what it refuses, and that an operator can verify all of it.

use authz::merkle::{Tree, leaf_hash};
use authz::{Checkpoint, Origin};
use protocol::api::{LogCheckpoint, LogProof, OrderView};
use protocol::frame::{AgentFrame, HubFrame, RECEIPTS_PER_FRAME};
use protocol::{Note, Sha256, Signed};

use super::client::{Channel, Http, TestHost, start};
use super::{NO_HASH, receipt};

/// A host's log, and the tree over it.
fn log(host: &TestHost, size: u64) -> (Vec<Signed>, Tree) {
    let (mut prev, mut tree, mut entries) = (NO_HASH, Tree::default(), Vec::new());
    for seq in 0..size {
        let signed = receipt(host.id, Some((seq, prev)), Sha256::of(&seq.to_be_bytes()), &host.key);
        prev = Sha256::of(&signed.payload.0);
        tree.push(leaf_hash(&signed.payload.0));
        entries.push(signed);
    }
    (entries, tree)
}

fn origin(host: &TestHost) -> Origin {
    Origin { host: host.id, generation: 1 }
}

fn at(tree: &Tree, size: u64) -> Checkpoint {
    Checkpoint { size, root: tree.root(size).unwrap() }
}

fn note(host: &TestHost, tree: &Tree, size: u64) -> Option<Note> {
    Some(at(tree, size).sign(&origin(host), &host.key))
}

/// Status and body of an answer that may be a failure.
async fn ask(operator: &Http, path: &str) -> (u16, String) {
    let answer = operator.try_call(reqwest::Method::GET, path, None::<&()>).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn send(channel: &mut Channel, first: usize, receipts: &[Signed], checkpoint: Option<Note>) -> u64 {
    let receipts = receipts.to_vec();
    channel.send(&AgentFrame::Receipts { first: first as u64, receipts, checkpoint }).await;
    match channel.next().await {
        Some(HubFrame::ReceiptsStored { held }) => held,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn everything_under_the_newest_checkpoint_can_be_proven() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    let (entries, tree) = log(&host, 530);
    let mut channel = Channel::welcome(&hub, &host, 530, 0).await;
    let path = host.path("/log/checkpoint");
    let (status, body) = ask(&operator, &path).await;
    assert_eq!((status, body.contains("no_checkpoint")), (404, true), "{body}");
    // The host signs its whole log each time; the hub keeps that only when it holds all of it.
    for (batch, page) in entries.chunks(RECEIPTS_PER_FRAME).enumerate() {
        let first = batch * RECEIPTS_PER_FRAME;
        let held = send(&mut channel, first, page, note(&host, &tree, 530)).await;
        assert_eq!(held as usize, first + page.len());
        let (status, _) = ask(&operator, &path).await;
        assert_eq!(status == 200, held == 530, "after {held}");
    }
    // An older one, and the same again, are no news.
    for size in [100, 530] {
        send(&mut channel, 530, &[], note(&host, &tree, size)).await;
    }
    let kept: LogCheckpoint = operator.get(&path).await;
    let newest = Checkpoint::verify(&kept.checkpoint, &origin(&host), &host.key.public()).unwrap();
    assert_eq!(newest, at(&tree, 530));
    for _ in 0..2 {
        for index in [0, 1, 255, 256, 257, 511, 512, 529] {
            let path = host.path(&format!("/log/proof?entry={index}&size=530"));
            let proof: LogProof = operator.get(&path).await;
            newest.includes(index, &entries[index as usize].payload.0, &proof.hashes).unwrap();
            assert_eq!(proof.hashes, tree.inclusion(index, 530).unwrap());
        }
        for old in [0, 1, 2, 255, 256, 257, 512, 513, 529, 530] {
            let path = host.path(&format!("/log/proof?from={old}&size=530"));
            let proof: LogProof = operator.get(&path).await;
            newest.continues(&at(&tree, old), &proof.hashes).unwrap();
        }
        // The second time with nothing kept beside the entries.
        let database = dir.path().join("hub/state/hub.sqlite");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
        let mut db = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
        let gone = sqlx::query("DELETE FROM log_nodes").execute(&mut db).await.unwrap();
        assert_eq!(gone.rows_affected(), 3, "two blocks and their parent");
    }
    for (question, status) in [
        ("entry=530&size=530", 404),
        ("entry=0&size=531", 404),
        ("entry=0&size=0", 404),
        ("from=531&size=530", 404),
        ("entry=18446744073709551615&size=18446744073709551615", 404),
        ("size=530", 400),
        ("entry=1&from=1&size=530", 400),
        ("entry=1", 400),
        ("entry=1&size=1.5", 400),
        ("entry=1&size=530&x=1", 400),
    ] {
        let path = host.path(&format!("/log/proof?{question}"));
        assert_eq!(ask(&operator, &path).await.0, status, "{question}");
    }
    hub.shutdown().await;
}

/// A checkpoint that the host's key did not sign ends the channel, and nothing of the frame is kept.
#[tokio::test]
async fn forged_checkpoints_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let hub = start(dir.path()).await;
    let operator = Http::alice(&hub).await;
    let host = TestHost::enrolled(1, &hub, &operator).await;
    let (entries, tree) = log(&host, 1);
    let mallory = TestHost::new(66);
    let good = at(&tree, 1);
    for lie in [
        good.sign(&origin(&host), &mallory.key),
        good.sign(&origin(&mallory), &host.key),
        good.sign(&Origin { generation: 2, ..origin(&host) }, &host.key),
        "not a checkpoint\n".parse().unwrap(),
    ] {
        let mut channel = Channel::welcome(&hub, &host, 1, 0).await;
        let receipts = entries.clone();
        channel.send(&AgentFrame::Receipts { first: 0, receipts, checkpoint: Some(lie) }).await;
        assert!(channel.bye().await.contains("checkpoint"));
    }
    // What is no note at all is no frame.
    let mut channel = Channel::welcome(&hub, &host, 1, 0).await;
    let huge =
        format!("{{\"t\":\"receipts\",\"first\":0,\"receipts\":[],\"checkpoint\":\"{}\"}}", "x".repeat(5000));
    channel.send_text(&huge).await;
    assert!(channel.bye().await.contains("could not be read"));
    let mut channel = Channel::welcome(&hub, &host, 1, 0).await;
    assert_eq!(send(&mut channel, 0, &entries, note(&host, &tree, 1)).await, 1);
    let orders: Vec<OrderView> = operator.get(&host.path("/orders")).await;
    assert!(orders.is_empty());
    hub.shutdown().await;
}
