use protocol::frame::{OrderProgress, OrderState};
use protocol::{Envelope, Sha256, Signed};

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
    assert_eq!(store.append_receipts(&host.id, 0, &entries).await.unwrap(), 3);
    assert!(matches!(store.append_receipts(&host.id, 0, &entries).await, Err(AppendError::Moved)));
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
