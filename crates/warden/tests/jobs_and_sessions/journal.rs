//! The nonce journal held against log and order files: what the journal alone cannot see.

use std::path::Path;

use authz::files::layer::Disk;
use authz::journal::{AGE, FLOOR_MARGIN, NonceJournal, RECORD};
use authz::{Order, RefusalCode};
use protocol::Envelope;
use protocol::local::WardenAnswer;
use warden::ledger::{Ledger, LedgerError};

use crate::fake_runner::Act;
use crate::jobs::good_run;
use crate::rig::{Rig, SCRIPT, code, within};

/// A warden that ran some scripts, and their orders.
async fn busy(count: usize) -> (Rig, Vec<Envelope>) {
    let rig = Rig::start().await;
    let mut envelopes = Vec::new();
    for _ in 0..count {
        let envelope = rig.job(SCRIPT);
        rig.runner.plan("job", good_run().into_iter().map(Act::Say).collect());
        rig.submit(&envelope).await;
        envelopes.push(envelope);
    }
    assert_eq!(rig.inspect().0, count);
    (rig, envelopes)
}

/// Says the same with and without opening.
fn opened(state: &Path) -> Result<Ledger, LedgerError> {
    let identity = || warden::identity::Identity::load(state).unwrap().unwrap();
    let inspected = Ledger::inspect(state, &identity()).map(drop);
    let opened = Ledger::open(state, identity().into(), "boot").map(|(ledger, _)| ledger);
    assert_eq!(
        inspected.map_err(|error| error.to_string()),
        opened.as_ref().map(drop).map_err(ToString::to_string)
    );
    opened
}

/// To the journal a last record that rotted looks like one that was never finished.
#[tokio::test(start_paused = true)]
async fn a_last_record_that_rotted_or_is_gone_is_noticed() {
    let (rig, envelopes) = busy(2).await;
    let last = envelopes[1].id();
    let check = |state: &Path| {
        let path = state.join("nonces-000001.seg");
        let good = std::fs::read(&path).unwrap();
        let mut rotten = good.clone();
        rotten[good.len() - 50] ^= 4;
        for bad in [&rotten[..], &good[..good.len() - RECORD], &good[..good.len() - 1]] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(NonceJournal::open(state).unwrap().ops().len(), 1, "the journal alone sees nothing");
            let error = opened(state).unwrap_err();
            assert!(matches!(&error, LedgerError::LostNonce { op } if *op == last), "{error}");
            assert!(error.to_string().contains("root moves the state directory away"), "{error}");
        }
        std::fs::write(&path, good).unwrap();
        opened(state).unwrap();
    };
    let rig = rig.restart_after(check, |config| config).await;
    assert_eq!(code(&rig.submit(&envelopes[1]).await.0), RefusalCode::Replay);
}

/// What the journal forgot is missing in it, and that is no loss; anything more is.
#[tokio::test(start_paused = true)]
async fn a_compacted_journal_is_in_step_with_the_log_and_a_loss_still_shows() {
    let (rig, envelopes) = busy(5).await;
    let check = |state: &Path| {
        // The same history in segments of two nonces.
        std::fs::remove_file(state.join("nonces-000001.seg")).unwrap();
        let mut journal = NonceJournal::create_on(Box::new(Disk), state, 3).unwrap();
        for envelope in &envelopes {
            let order = Order::decode(&envelope.payload.0).unwrap();
            journal.burn(&order.nonce, &envelope.id(), order.exp).unwrap();
        }
        drop(journal);
        let mut ledger = opened_alone(state);
        assert_eq!(ledger.compact(u64::MAX).unwrap(), 0, "the floor decides, not the clock");
        let exps: Vec<u64> =
            envelopes.iter().map(|envelope| Order::decode(&envelope.payload.0).unwrap().exp).collect();
        let (first, last) = (*exps.iter().min().unwrap(), *exps.iter().max().unwrap());
        assert!(ledger.policies().floor() < first);
        drop(ledger);
        // What operators signed since then, as it is on disk.
        let clock = state.join("clock.json");
        let floor = last + FLOOR_MARGIN + 1;
        std::fs::write(&clock, format!(r#"{{"at":{floor},"since":0,"boot_id":"earlier"}}"#)).unwrap();
        let mut ledger = opened_alone(state);
        assert_eq!(ledger.compact(first + AGE).unwrap(), 0, "and the clock decides too");
        assert_eq!(ledger.compact(last + AGE + 1).unwrap(), 4);
        drop(ledger);
        drop(opened_alone(state));

        // No forgotten nonce can be used again: not with a clock that was set back, and not when the floor's
        // own file is gone.
        std::fs::remove_file(&clock).unwrap();
        for _ in 0..2 {
            let ledger = opened_alone(state);
            for envelope in &envelopes[..4] {
                let order = Order::decode(&envelope.payload.0).unwrap();
                assert_eq!(ledger.replayed(&order.nonce, &envelope.id()), None, "forgotten");
                let policy = ledger.policies().current();
                let judged =
                    ledger.with_facts(None, |host| authz::verify::verify(envelope, policy, host, order.nbf));
                assert_eq!(judged.unwrap_err().code, RefusalCode::Expired);
            }
        }

        let path = state.join("nonces-000003.seg");
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, &good[..RECORD]).unwrap();
        let error = opened(state).unwrap_err();
        assert!(matches!(error, LedgerError::LostNonce { .. }), "{error}");
        std::fs::write(&path, &good).unwrap();
        drop(opened_alone(state));
    };
    rig.restart_after(check, |config| config).await;
}

fn opened_alone(state: &Path) -> Ledger {
    let identity = warden::identity::Identity::load(state).unwrap().unwrap();
    Ledger::inspect(state, &identity).unwrap();
    Ledger::open(state, identity.into(), "boot").unwrap().0
}

/// D7: the next order is refused before it is written down, and the warden ends.
#[tokio::test(start_paused = true)]
async fn a_journal_that_was_replaced_under_the_warden_ends_it() {
    let (rig, _) = busy(1).await;
    let path = rig.dir.path().join("state/nonces-000001.seg");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let answer = within(100, rig.spawn(&rig.job(SCRIPT))).await.unwrap();
    assert!(
        matches!(&answer, WardenAnswer::Refused { code, why } if code == "closed" && why.contains("another file")),
        "{answer:?}"
    );
    assert!(within(10, rig.warden.fatal()).await.contains("another file"));
    assert_eq!(rig.open_orders(), 0);
}
