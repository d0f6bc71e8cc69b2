use protocol::frame::{OrderProgress, OrderState};
use protocol::{Envelope, Sha256, Signed, TunnelId};

use super::*;
use crate::testing::{TestHost, TestHub, alice};

fn signed(text: &str) -> Signed {
    Signed { payload: text.as_bytes().to_vec().into(), sig: "s".to_owned() }
}

async fn with_order() -> (TestHub, TestHost, Sha256) {
    let hub = TestHub::new().await;
    let token = hub.login(&alice()).await;
    let host = TestHost::new(1);
    hub.enroll(&token, &host, "web1").await;
    let envelope = Envelope::new(b"order".to_vec().into(), vec!["s".to_owned()]);
    let alice = "alice".parse().unwrap();
    hub.app.store.submit_order(&host.id, &envelope, &alice, 1).await.unwrap();
    (hub, host, envelope.id())
}

#[tokio::test]
async fn receipts_attach_to_their_order_with_a_version_each() {
    let (hub, host, op) = with_order().await;
    let store = &hub.app.store;
    let entries = [
        LogEntry { signed: signed("a"), op: None },
        LogEntry { signed: signed("b"), op: Some(op) },
        LogEntry { signed: signed("c"), op: Some(Sha256::of(b"an order of another hub")) },
    ];
    assert_eq!(store.append_receipts(&host.id, 0, &entries, None).await.unwrap(), 3);
    assert!(matches!(store.append_receipts(&host.id, 0, &entries, None).await, Err(AppendError::Moved)));
    assert_eq!(store.log_end(&host.id).await.unwrap(), Some((3, Sha256::of(b"c"))));
    assert_eq!(store.receipt_hash(&host.id, 1).await.unwrap(), Some(Sha256::of(b"b")));
    assert_eq!(store.receipts(&host.id, 1).await.unwrap(), [signed("b"), signed("c")]);
    assert!(store.add_refusal(&host.id, &op, &signed("r")).await.unwrap());
    assert!(!store.add_refusal(&host.id, &Sha256::of(b"unknown"), &signed("r")).await.unwrap());

    let view = store.order(&host.id, &op).await.unwrap().unwrap();
    let got: Vec<_> = view.receipts.iter().map(|receipt| (receipt.version, &receipt.receipt)).collect();
    assert_eq!(got, [(2, &signed("b")), (3, &signed("r"))]);
    assert_eq!(view.version, 3);
}

#[tokio::test]
async fn the_newest_refusals_are_kept() {
    let (hub, host, op) = with_order().await;
    let store = &hub.app.store;
    for number in 0..25 {
        store.add_refusal(&host.id, &op, &signed(&number.to_string())).await.unwrap();
    }
    // The same bytes again are news again.
    store.add_refusal(&host.id, &op, &signed("24")).await.unwrap();
    let view = store.order(&host.id, &op).await.unwrap().unwrap();
    assert_eq!((view.receipts.len(), view.version), (20, 27));
    assert_eq!(view.receipts[0].receipt, signed("5"));
    assert_eq!((view.receipts[19].version, &view.receipts[19].receipt), (27, &signed("24")));
}

#[tokio::test]
async fn progress_and_trouble_are_versions_too() {
    let (hub, host, op) = with_order().await;
    let store = &hub.app.store;
    let progress = OrderProgress { op, state: OrderState::Committed };
    assert!(store.order_progress(&host.id, &progress).await.unwrap());
    assert!(store.order_problem(&host.id, &op, "no answer").await.unwrap());
    let view = store.order(&host.id, &op).await.unwrap().unwrap();
    assert_eq!((view.version, view.progress), (3, Some(progress)));
    assert_eq!(view.problem.as_deref(), Some("no answer"));
    let other = OrderProgress { op: Sha256::of(b"?"), state: OrderState::Verified };
    assert!(!store.order_progress(&host.id, &other).await.unwrap());
    assert!(!store.order_problem(&host.id, &other.op, "x").await.unwrap());
}

#[tokio::test]
async fn a_flood_of_orders_is_bounded() {
    let (hub, host, _) = with_order().await;
    let alice = "alice".parse().unwrap();
    let mut taken = 1;
    let full = loop {
        let payload = format!("order {taken}").into_bytes();
        let envelope = Envelope::new(payload.into(), vec!["s".to_owned()]);
        match hub.app.store.submit_order(&host.id, &envelope, &alice, 1).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SubmitError::Full), "{full}");
    assert_eq!(taken, 1_000);
}

#[tokio::test]
async fn files_that_are_not_ours_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sqlite");
    Store::open(&path).await.unwrap().close().await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Store::open(&path).await.unwrap_err().to_string().contains("chmod 600"));
    let junk = dir.path().join("junk");
    authz::files::write_atomic(&junk, &[b'x'; 8192]).unwrap();
    assert!(matches!(Store::open(&junk).await, Err(OpenError::Sqlite { .. } | OpenError::Migrate { .. })));
    assert!(matches!(Store::open(&dir.path().join("no/such")).await, Err(OpenError::File(_))));
}

fn tunnel(host: &TestHost, number: u8, operator: &str) -> NewTunnel {
    NewTunnel {
        id: TunnelId::from_bytes([number; 16]),
        host_id: host.id,
        envelope: Envelope::new(format!("session {number}").into_bytes().into(), vec!["s".to_owned()]),
        operator: operator.parse().unwrap(),
        key: alice().public().fingerprint(),
    }
}

#[tokio::test]
async fn the_database_holds_operators_to_their_slots() {
    let (hub, host, ordinary) = with_order().await;
    let store = &hub.app.store;
    let first = tunnel(&host, 1, "alice");
    store.open_tunnel(&first, 1, 10).await.unwrap();
    let second = tunnel(&host, 2, "alice");
    let error = store.open_tunnel(&second, 1, 11).await.unwrap_err();
    assert!(matches!(error, OpenTunnelError::Exists(id) if id == first.id), "{error}");
    assert_eq!(store.tunnel(&second.id).await.unwrap(), None);
    assert_eq!(store.order_version(&host.id, &second.envelope.id()).await.unwrap(), None, "all or nothing");
    // Not even a program that forgets to ask gets past the index.
    let forced = sqlx::query(
        "INSERT INTO tunnels (id, host_id, op, operator, fingerprint, slot, opened_at) \
         SELECT randomblob(16), host_id, op, operator, fingerprint, slot, opened_at FROM tunnels",
    );
    let refused = forced.execute(&store.write).await.unwrap_err();
    assert!(refused.as_database_error().unwrap().is_unique_violation(), "{refused}");

    store.open_tunnel(&second, 2, 11).await.unwrap();
    assert!(store.open_tunnel(&tunnel(&host, 3, "alice"), 2, 12).await.is_err());
    store.open_tunnel(&tunnel(&host, 4, "bob"), 2, 12).await.unwrap();
    let relayed = Relayed { to_host: 5, from_host: 7 };
    store.close_tunnel(&first.id, "enough", relayed, 20).await.unwrap();
    store.close_tunnel(&first.id, "a better word", relayed, 30).await.unwrap();
    let view = store.tunnel(&first.id).await.unwrap().unwrap();
    assert_eq!((view.opened_at, view.closed_at, view.why.as_deref()), (10, Some(20), Some("a better word")));
    assert_eq!((view.bytes_to_host, view.bytes_from_host), (5, 7));
    store.open_tunnel(&tunnel(&host, 5, "alice"), 2, 31).await.unwrap();
    let newest: Vec<_> = store.tunnels(&host.id).await.unwrap().iter().map(|view| view.opened_at).collect();
    assert_eq!(newest, [31, 12, 11, 10]);

    // An order is a session's or not, and a session's is never the next to be delivered.
    let before = store.next_order(&host.id).await.unwrap().unwrap();
    assert_eq!(before.op, ordinary);
    store.order_delivered(&host.id, &before).await.unwrap();
    assert!(store.next_order(&host.id).await.unwrap().is_none());
    let again = NewTunnel { id: TunnelId::from_bytes([9; 16]), ..first.clone() };
    store.close_all_tunnels("restarted", 40).await.unwrap();
    store.open_tunnel(&again, 1, 41).await.unwrap();
    assert_eq!(store.order_version(&host.id, &first.envelope.id()).await.unwrap(), Some(2));
    let alice = "alice".parse().unwrap();
    let submitted = store.submit_order(&host.id, &first.envelope, &alice, 42).await;
    assert!(matches!(submitted, Err(SubmitError::Session)), "{submitted:?}");
    let other = Envelope::new(b"order".to_vec().into(), vec!["s".to_owned()]);
    let ordinary =
        NewTunnel { id: TunnelId::from_bytes([8; 16]), envelope: other, ..tunnel(&host, 8, "bob") };
    let opened = store.open_tunnel(&ordinary, 9, 42).await;
    assert!(matches!(opened, Err(OpenTunnelError::Ordinary)), "{opened:?}");
    assert_eq!(store.tunnel(&ordinary.id).await.unwrap(), None);
}

/// Sent on a channel that broke: nobody knows whether the host read it, until something is heard of it.
#[tokio::test]
async fn an_order_of_which_nothing_was_heard_is_delivered_again() {
    let (hub, host, _) = with_order().await;
    let store = &hub.app.store;
    let alice = "alice".parse().unwrap();
    for name in ["progress", "problem", "receipt", "refusal", "waiting"] {
        let envelope = Envelope::new(name.as_bytes().to_vec().into(), vec!["s".to_owned()]);
        store.submit_order(&host.id, &envelope, &alice, 1).await.unwrap();
    }
    assert_eq!(store.deliver_unheard_again(&host.id).await.unwrap(), 0, "none was sent");
    let mut sent = Vec::new();
    for _ in 0..5 {
        let next = store.next_order(&host.id).await.unwrap().unwrap();
        store.order_delivered(&host.id, &next).await.unwrap();
        sent.push(next.op);
    }
    let [unheard, progress, problem, receipt, refusal] = sent[..] else { panic!("five") };
    let verified = OrderProgress { op: progress, state: OrderState::Verified };
    assert!(store.order_progress(&host.id, &verified).await.unwrap());
    assert!(store.order_problem(&host.id, &problem, "the warden is away").await.unwrap());
    let entry = LogEntry { signed: signed("r"), op: Some(receipt) };
    store.append_receipts(&host.id, 0, &[entry], None).await.unwrap();
    store.add_refusal(&host.id, &refusal, &signed("no")).await.unwrap();
    assert_eq!(store.deliver_unheard_again(&host.id).await.unwrap(), 1);
    assert_eq!(store.next_order(&host.id).await.unwrap().unwrap().op, unheard);
}

#[tokio::test]
async fn old_tunnels_and_used_scripts_are_forgotten() {
    let (hub, host, _) = with_order().await;
    let store = &hub.app.store;
    for number in 1..=3 {
        store.open_tunnel(&tunnel(&host, number, "alice"), 1, 1).await.unwrap();
        if number < 3 {
            store.close_all_tunnels("over", u64::from(number) * 100).await.unwrap();
        }
    }
    assert_eq!(store.forget_tunnels(200).await.unwrap(), 1);
    let left: Vec<_> = store.tunnels(&host.id).await.unwrap().iter().map(|view| view.closed_at).collect();
    assert_eq!(left, [None, Some(200)], "an open one is never old");

    let alice = "alice".parse().unwrap();
    let script = |text: &str| Envelope {
        sealed: Some(vec![7; 10].into()),
        ..Envelope::new(text.as_bytes().to_vec().into(), vec!["s".to_owned()])
    };
    let [ended, running, waiting] = ["ended", "running", "waiting"].map(script);
    for envelope in [&ended, &running, &waiting] {
        store.submit_order(&host.id, envelope, &alice, 1).await.unwrap();
    }
    let mut delivered = Vec::new();
    // The one of before, and the first two of these.
    for _ in 0..3 {
        let next = store.next_order(&host.id).await.unwrap().unwrap();
        store.order_delivered(&host.id, &next).await.unwrap();
        delivered.push(next.op);
    }
    let entries = [ended.id(), waiting.id()].map(|op| LogEntry { signed: signed("r"), op: Some(op) });
    store.append_receipts(&host.id, 0, &entries, None).await.unwrap();
    assert_eq!(store.forget_scripts().await.unwrap(), 1);
    let has_script = async |envelope: &Envelope| -> bool {
        sqlx::query_scalar("SELECT sealed IS NOT NULL FROM orders WHERE op = $1")
            .bind(envelope.id().as_bytes().as_slice())
            .fetch_one(&store.read)
            .await
            .unwrap()
    };
    assert_eq!(
        (has_script(&ended).await, has_script(&running).await, has_script(&waiting).await),
        (false, true, true)
    );
    assert_eq!(delivered.len(), 3);
}

#[tokio::test]
async fn waiting_scripts_are_bounded_by_size() {
    let (hub, host, _) = with_order().await;
    let alice = "alice".parse().unwrap();
    let mut taken = 0;
    let full = loop {
        let envelope = Envelope {
            sealed: Some(vec![7; 4 << 20].into()),
            ..Envelope::new(format!("script {taken}").into_bytes().into(), vec!["s".to_owned()])
        };
        match hub.app.store.submit_order(&host.id, &envelope, &alice, 1).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((full.to_string().contains("64 MiB"), taken), (true, 16), "{full}");
    // What carries nothing still has room.
    let envelope = Envelope::new(b"small".to_vec().into(), vec!["s".to_owned()]);
    hub.app.store.submit_order(&host.id, &envelope, &alice, 1).await.unwrap();
}

#[tokio::test]
async fn a_database_of_the_first_version_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sqlite");
    authz::files::write_atomic(&path, b"").unwrap();
    let old = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&path)).await.unwrap();
    sqlx::migrate!().run_to(1, &old).await.unwrap();
    let host = TestHost::new(1);
    for statement in [
        "INSERT INTO hosts (host_id, name, site, statement_payload, statement_sig, device_key, host_key, \
         host_key_gen, enrolled_at, receipts_held, receipts_hash) \
         VALUES ($1, 'web1', 'lab', x'', '', x'00', $1, 1, 1, 0, zeroblob(32))",
        "INSERT INTO orders (host_id, op, payload, sigs, submitted_by, submitted_at, submission, version, \
         delivered) VALUES ($1, zeroblob(32), x'78', '[\"s\"]', 'alice', 1, 1, 1, 0)",
    ] {
        sqlx::query(statement).bind(host.id.as_bytes().as_slice()).execute(&old).await.unwrap();
    }
    old.close().await;
    let store = Store::open(&path).await.unwrap();
    let order = store.next_order(&host.id).await.unwrap().unwrap();
    assert_eq!(order.envelope, Envelope::new(b"x".to_vec().into(), vec!["s".to_owned()]));
    store.open_tunnel(&tunnel(&host, 1, "alice"), 1, 1).await.unwrap();
    // The first file must never be edited: databases remember its hash.
    assert_eq!(
        Sha256::of(include_bytes!("../../migrations/0001_first.sql")).to_string(),
        "772683f6e99484fcda108b9e9a7673dc17e504544a50ca875dbe737868f5feb4"
    );
}

fn document(n: u32) -> Envelope {
    Envelope::new(n.to_be_bytes().to_vec().into(), vec!["s".to_owned()])
}

/// As many as there may be, of so many bytes each; their places begin at 1.
async fn filled_with_policies(store: &Store, count: i64, length: i64) {
    sqlx::query(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $1) \
         INSERT INTO policy_documents SELECT n, randomblob(32), zeroblob($2), '[\"s\"]', 'alice', 1 FROM numbers",
    )
    .bind(count)
    .bind(length)
    .execute(&store.write)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_policy_document_keeps_its_place_and_bytes() {
    let hub = TestHub::new().await;
    let (store, alice) = (&hub.app.store, "alice".parse().unwrap());
    for (n, expected) in [(7, 1), (8, 2), (7, 1), (9, 3), (8, 2)] {
        assert_eq!(store.put_policy_document(&document(n), &alice, 5).await.unwrap(), expected);
    }
    // With another signature it is another document: the first may have had too few.
    let cosigned = Envelope { sigs: vec!["s".into(), "t".into()], ..document(7) };
    assert_eq!(store.put_policy_document(&cosigned, &alice, 5).await.unwrap(), 4);
    let held = store.policy_documents().await.unwrap();
    let places: Vec<_> = held.iter().map(|held| (held.n, &held.envelope)).collect();
    assert_eq!(places, [(1, &document(7)), (2, &document(8)), (3, &document(9)), (4, &cosigned)]);
    assert_eq!(store.policy_document_after(2).await.unwrap().unwrap().envelope, document(9));
    assert_eq!(store.policy_document_after(4).await.unwrap(), None);
    assert_eq!(store.policy_document_after(u64::MAX).await.unwrap(), None);
}

#[tokio::test]
async fn a_flood_of_policy_documents_is_bounded_by_number_and_bytes() {
    let alice = "alice".parse().unwrap();
    for (count, length) in [(4_095, 10), (511, 65_536)] {
        let hub = TestHub::new().await;
        let store = &hub.app.store;
        filled_with_policies(store, count, length).await;
        let last = Envelope::new(vec![b'x'; 65_536].into(), vec!["s".to_owned()]);
        assert_eq!(store.put_policy_document(&last, &alice, 5).await.unwrap(), count.unsigned_abs() + 1);
        let more = store.put_policy_document(&document(1), &alice, 5).await;
        assert!(matches!(more, Err(PolicyStoreError::Full)), "{count}");
        // What it has it still knows, and hands on.
        assert_eq!(store.put_policy_document(&last, &alice, 5).await.unwrap(), count.unsigned_abs() + 1);
        let after = store.policy_document_after(count.unsigned_abs()).await.unwrap();
        assert_eq!(after.unwrap().envelope, last);
    }
}
