//! What is refused, and that a refusal leaves nothing behind: the good order works afterwards.

use authz::{Namespace, Order, Params, SecretKey};
use protocol::runner::{RunnerAnswer, RunnerRequest};
use protocol::{Ed25519Key, Envelope, HostId, Sha256};

use crate::rig::{Rig, Wishes, all, code, next, request, sign_as};

const SCRIPT: &str = "exit 0";

fn params(order: &mut Order) -> &mut authz::order::JobParams {
    match &mut order.params {
        Params::JobRun(params) => params,
        _ => unreachable!("a script"),
    }
}

#[tokio::test]
async fn every_refusal_has_its_code_and_no_side_effect() {
    let (rig, _process) = Rig::anchored().await;
    let script = rig.counting(SCRIPT);
    let good = rig.job(&script);
    let changed = |change: &dyn Fn(&mut Order)| {
        let mut order = good.clone();
        change(&mut order);
        request(rig.sign(&order), &script)
    };
    let signed = rig.sign(&good);
    let mallory = SecretKey::from_seed(&[66; 32]);
    let weak = Ed25519Key::from_bytes([0; 32]);
    let long = "#".repeat(protocol::job::MAX_SCRIPT + 1);
    let mut forged = signed.clone();
    let at = forged.payload.0.windows(4).position(|four| four == b"test").unwrap();
    forged.payload.0[at] = b'T';
    let session = rig.sign(&rig.session());
    let cases: Vec<(&str, RunnerRequest, &str)> = vec![
        ("unsigned", request(Envelope { sigs: vec![], ..signed.clone() }, &script), "unsigned"),
        (
            "junk for a signature",
            request(Envelope { sigs: vec!["x".into()], ..signed.clone() }, &script),
            "malformed",
        ),
        ("altered", request(forged, &script), "bad_signature"),
        ("a stranger's", request(sign_as(&good, Namespace::Job, &mallory), &script), "unknown_signer"),
        (
            "signed as a session",
            request(sign_as(&good, Namespace::Session, &rig.operator), &script),
            "namespace",
        ),
        (
            "signed as an operation",
            request(sign_as(&good, Namespace::Op, &rig.operator), &script),
            "unknown_signer",
        ),
        ("other host", changed(&|o| o.host.id = HostId::from_bytes([9; 16])), "other_host"),
        ("other host key", changed(&|o| o.host.key = mallory.public().fingerprint()), "other_host"),
        ("other policy", changed(&|o| o.policy.sha256 = Sha256::of(b"x")), "other_policy"),
        ("expired", changed(&|o| (o.nbf, o.exp) = (o.nbf - 500, o.nbf - 1)), "expired"),
        ("early", changed(&|o| (o.nbf, o.exp) = (o.nbf + 500, o.exp + 500)), "too_early"),
        ("valid too long", changed(&|o| o.exp = o.nbf + 3601), "validity"),
        ("two signers wanted", changed(&|o| o.min_signers = 2), "threshold"),
        ("other script", request(signed.clone(), &script.replace("exit 0", "exit 1")), "script"),
        ("longer script", request(signed.clone(), &format!("{script}\n")), "script"),
        ("no script", request(signed.clone(), ""), "script"),
        ("far too long", request(signed.clone(), &long), "script"),
        (
            "a length over the limit",
            changed(&|o| params(o).script_len = u32::try_from(long.len()).unwrap()),
            "bad_order",
        ),
        ("nobody's account", changed(&|o| params(o).user = "no-such-user-here".parse().unwrap()), "user"),
        ("a result for nobody", changed(&|o| params(o).result_key = weak), "bad_order"),
        ("a session run as a script", request(session.clone(), &script), "kind"),
        ("a script opened as a session", RunnerRequest::Session { envelope: signed.clone() }, "kind"),
    ];
    for (what, ask, expected) in &cases {
        let answer = rig.ask(ask).await;
        assert_eq!(code(&answer), *expected, "{what}: {answer:?}");
    }
    assert_eq!((rig.runs(), rig.status().await.jobs), (0, 0));
    let (good, text) = rig.run("status", &Wishes::default()).await;
    assert!(
        good && text.contains("0 nonce(s) burned") && text.contains("0 under way, 0 result(s)"),
        "{text}"
    );

    let answers = all(&mut rig.send(&request(signed.clone(), &script)).await).await;
    assert!(matches!(answers.last(), Some(RunnerAnswer::Ended { .. })), "{answers:?}");
    assert_eq!(code(&rig.ask(&request(signed, &script)).await), "replay");
    assert_eq!(rig.runs(), 1);
}

/// One nonce, two orders: whichever came first.
#[tokio::test]
async fn a_nonce_counts_once_whatever_the_order() {
    let (rig, _process) = Rig::anchored().await;
    let first = rig.job(SCRIPT);
    let mut second = rig.session();
    second.nonce = first.nonce;
    all(&mut rig.send(&request(rig.sign(&first), SCRIPT)).await).await;
    let answer = rig.ask(&RunnerRequest::Session { envelope: rig.sign(&second) }).await;
    assert!(
        matches!(&answer, RunnerAnswer::Refused { code, why } if code == "replay" && why.contains("another order")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn who_asked_and_was_told_no_is_told_no_for_ever() {
    let (rig, _process) = Rig::anchored().await;
    let (op, ask) = rig.script(&rig.counting(SCRIPT));
    assert_eq!(rig.outcome(op).await, RunnerAnswer::NotKnown {});
    assert_eq!(rig.outcome(op).await, RunnerAnswer::NotKnown {});
    assert_eq!(code(&rig.ask(&ask).await), "replay");
    assert_eq!(rig.runs(), 0);
}

#[tokio::test]
async fn only_the_warden_is_heard() {
    let rig = Rig::new();
    let mine = Wishes::default().uid;
    let _process = rig.start(&Wishes { uid: mine + 1, ..Wishes::default() }, "").await;
    let (op, job) = rig.script(SCRIPT);
    let session = RunnerRequest::Session { envelope: rig.sign(&rig.session()) };
    // Also those who may do least.
    for ask in [
        RunnerRequest::Status {},
        rig.anchor_request(),
        job,
        RunnerRequest::JobOutcome { op },
        RunnerRequest::Forget { op },
        session,
    ] {
        // It hangs up without having understood what was asked.
        let answer = next(&mut rig.send(&ask).await).await;
        assert!(
            matches!(&answer, RunnerAnswer::Refused { code, why } if code == "peer" && why.contains("allowed_uids")),
            "{answer:?}"
        );
    }
}
