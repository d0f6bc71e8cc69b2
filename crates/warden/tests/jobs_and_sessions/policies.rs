//! The policy chain on a host: documents that are judged, kept, logged, and never lost in silence.

use std::path::Path;

use authz::order::PolicyRef;
use authz::policy::PolicyDocument;
use authz::policy::words::{Freshness, Revocation, Revoked};
use authz::{Event, Namespace, Policy, RefusalCode, SecretKey};
use protocol::Envelope;
use protocol::local::{DocumentAnswer, WardenAnswer};
use protocol::runner::RunnerRequest;
use warden::{Warden, WardenConfig, now};

use crate::rig::{Rig, code, config, sign};

const SCRIPT: &[u8] = b"true\n";

fn signed(payload: Vec<u8>, keys: &[&SecretKey]) -> Envelope {
    let sigs = keys.iter().map(|key| key.sign(Namespace::Policy, &payload)).collect();
    Envelope::new(payload.into(), sigs)
}

impl Rig {
    fn first(&self) -> Policy {
        self.identity().policy
    }

    fn revocation(&self, policy: &Policy, of: &SecretKey, by: &SecretKey) -> Envelope {
        let word = Revocation {
            v: 1,
            revoke: Revoked::Key { key: of.public().fingerprint() },
            policy: PolicyRef::from(policy),
            issued_at: now(),
            reason: "lost".parse().unwrap(),
        };
        signed(word.encode(), &[by])
    }

    async fn offer(&self, documents: &[Envelope]) -> (u64, Vec<String>) {
        match self.warden.policy(documents).await {
            WardenAnswer::Policy { version, answers, .. } => {
                let word = |answer| match answer {
                    DocumentAnswer::Accepted {} => "accepted".to_owned(),
                    DocumentAnswer::Known {} => "known".to_owned(),
                    DocumentAnswer::Refused { code, .. } => code,
                };
                (version, answers.into_iter().map(word).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Version 2, which Alice alone may follow: Bob orders nothing any more.
fn second(first: &Policy) -> PolicyDocument {
    let mut next = PolicyDocument::next_after(first, now());
    next.rules.iter_mut().for_each(|rule| rule.max_validity_s -= 1);
    next
}

#[tokio::test]
async fn orders_are_judged_by_the_newest_policy() {
    let rig = Rig::start().await;
    let first = rig.first();
    let before = rig.job(SCRIPT);
    let next = second(&first);
    let two = signed(next.encode(), &[&rig.alice]);
    let policy = Policy::decode(&next.encode()).unwrap();
    let mut fork = next.clone();
    fork.rules.truncate(1);
    let stranger = SecretKey::from_seed(&[66; 32]);
    let mut third = PolicyDocument::next_after(&policy, now());
    third.version = 4;
    for (what, document, answer) in [
        ("unsigned", Envelope::new(next.encode().into(), vec![]), "unsigned"),
        ("a stranger", signed(next.encode(), &[&stranger]), "unknown_signer"),
        ("a gap", signed(third.encode(), &[&rig.alice]), "chain"),
    ] {
        assert_eq!(rig.offer(&[document]).await, (1, vec![answer.to_owned()]), "{what}");
    }
    assert_eq!(rig.offer(&[]).await, (1, vec![]));
    assert_eq!(rig.offer(&[two.clone(), two.clone()]).await, (2, vec!["accepted".into(), "known".into()]));
    let forked = signed(fork.encode(), &[&rig.alice]);
    assert_eq!(rig.offer(&[forked]).await, (2, vec!["chain".into()]));
    let status = rig.warden.status().enrolled.unwrap();
    assert_eq!((status.policy_version, status.policy), (2, *policy.hash()));
    let logged = rig.log().into_iter().map(|receipt| receipt.event).collect::<Vec<_>>();
    assert!(
        matches!(&logged[..], [Event::PolicyAdvanced { version: 2, signers, .. }] if signers.len() == 1),
        "{logged:?}"
    );
    // Made under version 1.
    assert_eq!(code(&rig.submit(&before).await.0), RefusalCode::OtherPolicy);

    // And the same after a restart, where the older policy and a replay of it mean nothing.
    let rig = rig.restart().await;
    assert_eq!(rig.warden.status().enrolled.unwrap().policy_version, 2);
    assert_eq!(rig.offer(&[two]).await, (2, vec!["known".into()]));
    assert_eq!(rig.log().len(), 2, "one policy, one refusal");
}

#[tokio::test]
async fn a_revoked_key_orders_nothing_from_then_on() {
    let rig = Rig::start().await;
    let first = rig.first();
    // Accepted, and on its way when the key is revoked: what is committed runs on, the next is refused.
    let gone = rig.revocation(&first, &rig.alice, &rig.bob);
    assert_eq!(rig.offer(&[gone.clone(), gone.clone()]).await, (1, vec!["accepted".into(), "known".into()]));
    let (receipt, states) = rig.submit(&rig.job(SCRIPT)).await;
    assert_eq!((code(&receipt), states.len()), (RefusalCode::Revoked, 0));
    // Nobody would be left.
    let both = rig.revocation(&first, &rig.bob, &rig.bob);
    assert_eq!(rig.offer(&[both]).await, (1, vec!["threshold".into()]));
    assert!(rig.log().iter().any(|receipt| matches!(receipt.event, Event::Revoked { .. })));
    let rig = rig.restart().await;
    assert_eq!(code(&rig.submit(&rig.job(SCRIPT)).await.0), RefusalCode::Revoked);
    // Bob's still counts, and the runner gets what the host knows first.
    let order = rig.job_order(SCRIPT);
    let envelope = Envelope { sealed: rig.seal(SCRIPT), ..sign(&rig.bob, Namespace::Job, &order) };
    let _ = rig.submit(&envelope).await;
    let seen = rig.runner.seen();
    assert!(
        seen.iter().any(
            |asked| matches!(asked, RunnerRequest::Anchor { documents, .. } if *documents == [gone.clone()])
        ),
        "{seen:?}"
    );
}

#[tokio::test]
async fn staleness_stops_scripts_until_somebody_says_that_the_policy_is_the_newest() {
    let rig = Rig::start().await;
    let mut next = second(&rig.first());
    // The first policy is up to 100 days old; this one as old as it, and fresh for an hour.
    next.issued_at = rig.first().document().issued_at;
    next.freshness_s = Some(3_600);
    let policy = Policy::decode(&next.encode()).unwrap();
    let old_enough = now() > next.issued_at + 3_600;
    assert_eq!(rig.offer(&[signed(next.encode(), &[&rig.alice])]).await.0, 2);
    let job = |rig: &Rig| {
        let mut order = rig.job_order(SCRIPT);
        order.policy = PolicyRef::from(&policy);
        Envelope { sealed: rig.seal(SCRIPT), ..sign(&rig.alice, Namespace::Job, &order) }
    };
    if old_enough {
        assert_eq!(code(&rig.submit(&job(&rig)).await.0), RefusalCode::Stale);
    }
    let word = Freshness { v: 1, fresh: PolicyRef::from(&policy), issued_at: now() };
    let fresh = signed(word.encode(), &[&rig.bob]);
    assert_eq!(rig.offer(&[fresh.clone(), fresh]).await.1, ["accepted", "known"]);
    let rig = rig.restart().await;
    // The scripted runner does not know the chain, and that is the only thing that is missing.
    let (receipt, _) = rig.submit(&job(&rig)).await;
    assert_ne!(code(&receipt), RefusalCode::Stale);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &name);
        } else {
            std::fs::copy(&path, &name).unwrap();
        }
    }
}

/// Every file of the chain removed or damaged, the whole chain lost, and the chain of an earlier day put back.
#[tokio::test]
async fn a_lost_policy_closes_the_host() {
    let rig = Rig::start().await;
    let first = rig.first();
    let state = rig.dir.path().join("state");
    copy(&state.join("policy"), &rig.dir.path().join("empty"));
    let next = second(&first);
    let two = signed(next.encode(), &[&rig.alice]);
    assert_eq!(rig.offer(&[two]).await.0, 2);
    copy(&state.join("policy"), &rig.dir.path().join("older"));
    let policy = Policy::decode(&next.encode()).unwrap();
    let gone = rig.revocation(&policy, &rig.bob, &rig.alice);
    assert_eq!(rig.offer(&[gone]).await.1, ["accepted"]);
    type Edit = fn(&Path);
    let cases: [(&str, Edit); 8] = [
        ("as it was", |_| ()),
        ("first document gone", |d| std::fs::remove_file(d.join("policy/00000001.json")).unwrap()),
        ("last document gone", |d| std::fs::remove_file(d.join("policy/00000002.json")).unwrap()),
        ("head gone", |d| std::fs::remove_file(d.join("policy/head.json")).unwrap()),
        ("document damaged", |d| std::fs::write(d.join("policy/00000002.json"), b"{}").unwrap()),
        ("all gone", |d| std::fs::remove_dir_all(d.join("policy")).unwrap()),
        ("put back to one document", |d| {
            std::fs::remove_dir_all(d.join("policy")).unwrap();
            copy(&d.join("../../older"), &d.join("policy"));
        }),
        ("put back to none", |d| {
            std::fs::remove_dir_all(d.join("policy")).unwrap();
            copy(&d.join("../../empty"), &d.join("policy"));
        }),
    ];
    for (i, (what, edit)) in cases.into_iter().enumerate() {
        let dir = rig.dir.path().join(format!("case{i}"));
        std::fs::create_dir(&dir).unwrap();
        copy(&state, &dir.join("state"));
        edit(&dir.join("state"));
        let config = WardenConfig { state_dir: dir.join("state"), ..config(rig.dir.path()) };
        let (warden, _) = Warden::open(config).unwrap();
        let closed = warden.status().closed;
        match i {
            0 => assert_eq!(closed, None, "{what}"),
            // A document more than the log is the one that a crash cut off; here the log has them all.
            _ => {
                let why = closed.unwrap_or_else(|| panic!("{what}: open"));
                assert!(why.contains("policy") && why.contains("backup"), "{what}: {why}");
            }
        }
    }
}

/// A document that is written and not logged is logged at the next start.
#[tokio::test]
async fn a_crash_between_document_and_log_is_completed() {
    let rig = Rig::start().await;
    let first = rig.first();
    let two = signed(second(&first).encode(), &[&rig.alice]);
    let write = move |state: &Path| {
        let mut store = authz::policy::store::ChainStore::open(state, first).unwrap();
        store.take(&two, now()).unwrap();
    };
    let rig = rig.restart_after(write, |config| config).await;
    assert_eq!(rig.warden.status().enrolled.unwrap().policy_version, 2);
    assert!(
        matches!(rig.log()[..], [ref one] if matches!(one.event, Event::PolicyAdvanced { version: 2, .. }))
    );
    let rig = rig.restart().await;
    assert_eq!(rig.log().len(), 1);
}

/// Without room nothing is accepted, and nothing ends: the hub may bring it again and again.
#[tokio::test]
async fn a_full_disk_refuses_policies_and_orders_and_the_warden_goes_on() {
    let rig = Rig::start().await;
    let two = signed(second(&rig.first()).encode(), &[&rig.alice]);
    let job = rig.job(SCRIPT);
    // A file that takes no byte: the space that is held for the end of what begins.
    let full = || {
        let reserve = rig.dir.path().join("state/log.reserve");
        let _ = std::fs::remove_file(&reserve);
        std::os::unix::fs::symlink("/dev/full", reserve).unwrap();
    };
    for _ in 0..2 {
        full();
        assert_eq!(rig.offer(std::slice::from_ref(&two)).await, (1, vec!["closed".into()]));
        full();
        let (receipt, states) = rig.submit(&job).await;
        assert_eq!((code(&receipt), states.len()), (RefusalCode::Closed, 1), "{states:?}");
    }
    assert_eq!(rig.warden.status().closed, None);
    assert_eq!(rig.inspect().0, 0, "no nonce was burned");
    // There is room again.
    rig.runner.plan("job", crate::jobs::good_run().into_iter().map(crate::fake_runner::Act::Say).collect());
    let (receipt, _) = rig.submit(&job).await;
    assert!(matches!(receipt.order_outcome(), Some((_, outcome)) if outcome.is_success()), "{receipt:?}");
    assert_eq!(rig.inspect().0, 1);
    assert_eq!(rig.offer(&[two]).await, (2, vec!["accepted".into()]));
    let rig = rig.restart().await;
    assert_eq!(rig.warden.status().enrolled.unwrap().policy_version, 2);
}
