//! A container from a golden image.

use authz::order::{Params, TemplateSource};
use authz::{Namespace, SecretKey};
use protocol::privileged::{PrivilegedAnswer, PrivilegedRequest};
use protocol::{HostId, Sha256};

use crate::rig::{IMAGE, Rig, all, code, sign_as, until, words};

#[tokio::test]
async fn a_signed_order_is_carried_out_once() {
    let (rig, process) = Rig::anchored().await;
    let order = rig.create();
    let envelope = rig.sign(&order);
    let op = envelope.id();
    let ask = PrivilegedRequest::Order { envelope };
    let answers = all(&mut rig.send(&ask).await).await;
    assert_eq!(answers[..2], [PrivilegedAnswer::Committed {}, PrivilegedAnswer::Started {}]);
    let did = answers.last().unwrap().clone();
    assert!(matches!(did, PrivilegedAnswer::Did { .. }), "{did:?}");
    let log = rig.text("bin/pct.log");
    assert!(log.starts_with("create 301 /") && log.contains(" --features keyctl=1,nesting=1 "), "{log}");
    assert_eq!(std::fs::read(rig.path("bin/image")).unwrap(), IMAGE, "pct got the image");
    assert_eq!(std::fs::read_dir(rig.path("state/images")).unwrap().count(), 0, "and it is gone afterwards");

    assert_eq!(code(&rig.ask(&ask).await), "replay");
    assert_eq!(rig.outcome(op).await, did);
    drop(process);
    let _process = rig.start("").await;
    assert_eq!(code(&rig.ask(&ask).await), "replay", "also after a restart");
    assert_eq!(rig.outcome(op).await, did);
    assert_eq!(rig.ask(&PrivilegedRequest::Forget { op }).await, PrivilegedAnswer::Done {});
    assert!(words(&rig.outcome(op).await).contains("forgotten"));
    assert_eq!(code(&rig.ask(&ask).await), "replay", "forgotten, and still burned");
    assert_eq!(rig.ran("pct", "create"), 1);
}

/// The whole table is `authz`'s; these show that it is asked, and with what.
#[tokio::test]
async fn forged_foreign_and_late_orders_are_refused() {
    let (rig, _process) = Rig::anchored().await;
    let good = rig.create();
    let change = |change: &dyn Fn(&mut authz::Order)| {
        let mut order = good.clone();
        change(&mut order);
        rig.sign(&order)
    };
    let mut altered = rig.sign(&good);
    altered.payload.0[200] ^= 1;
    let cases = [
        ("unknown_signer", sign_as(&good, Namespace::Op, &SecretKey::from_seed(&[9; 32]))),
        ("unknown_signer", sign_as(&good, Namespace::Job, &rig.operator)),
        ("namespace", sign_as(&good, Namespace::Policy, &rig.operator)),
        ("unsigned", protocol::Envelope::new(good.encode().into(), vec![])),
        ("bad_signature", altered),
        ("other_host", change(&|order| order.host.id = HostId::from_bytes([9; 16]))),
        ("other_host", change(&|order| order.host.generation = 2)),
        ("other_policy", change(&|order| order.policy.sha256 = Sha256::of(b"x"))),
        ("expired", change(&|order| (order.nbf, order.exp) = (order.nbf - 600, order.nbf - 1))),
        ("too_early", change(&|order| (order.nbf, order.exp) = (order.exp, order.exp + 10))),
        ("validity", change(&|order| order.exp += 10_000)),
        ("threshold", change(&|order| order.min_signers = 2)),
    ];
    for (expected, envelope) in cases {
        let answer = rig.ask(&PrivilegedRequest::Order { envelope }).await;
        assert_eq!(code(&answer), expected, "{answer:?}");
    }
    assert_eq!(rig.ran("pct", "create"), 0);
    assert!(matches!(rig.order(&good).await, PrivilegedAnswer::Did { .. }), "nothing was used up");
}

/// Signed and valid, and none of the three.
#[tokio::test]
async fn other_orders_are_not_carried_out_whoever_signed_them() {
    let (rig, _process) = Rig::anchored().await;
    let mut order = rig.create();
    let Params::GuestCreate(params) = &mut order.params else { unreachable!() };
    params.template = TemplateSource::Archive {
        volume: "local:vztmpl/golden.tar.zst".parse().unwrap(),
        sha256: Sha256::of(IMAGE),
    };
    assert_eq!(code(&rig.order(&order).await), "kind");
    let mut order = rig.create();
    order.params = Params::GuestStart(authz::order::NoParams {});
    order.guest = Some(protocol::GuestRef {
        vmid: 101.try_into().unwrap(),
        kind: protocol::GuestKind::Lxc,
        name: "x".into(),
        identity: protocol::GuestIdentity {
            macs: vec!["BC:24:11:00:00:02".into()],
            ..protocol::GuestIdentity::default()
        },
    });
    let answer = rig.order(&order).await;
    assert_eq!(code(&answer), "kind", "{answer:?}");
    assert_eq!(rig.text("bin/pct.log"), "");
}

#[tokio::test]
async fn another_image_is_no_golden_one() {
    let (rig, _process) = Rig::anchored().await;
    rig.put("cache/golden.tar.zst", b"with a back door");
    let order = rig.create();
    let answer = rig.order(&order).await;
    assert!(
        code(&answer) == "precondition" && words(&answer).contains("not the one that was signed"),
        "{answer:?}"
    );
    assert_eq!(rig.ran("pct", "create"), 0);
    rig.put("cache/golden.tar.zst", IMAGE);
    assert!(matches!(rig.order(&order).await, PrivilegedAnswer::Did { .. }), "the same order is still good");
}

#[tokio::test]
async fn ends_are_told_as_they_are() {
    let (rig, _process) = Rig::anchored().await;
    rig.mode("fail");
    let answer = rig.order(&rig.create()).await;
    assert!(
        matches!(&answer, PrivilegedAnswer::Failed { why } if why.contains("ended with 255") && why.contains("does not exist")),
        "{answer:?}"
    );
    rig.mode("killed");
    let answer = rig.order(&rig.create()).await;
    assert!(matches!(&answer, PrivilegedAnswer::Unknown { why } if why.contains("signal 9")), "{answer:?}");
    rig.mode("loud");
    let answer = rig.order(&rig.create()).await;
    assert!(matches!(answer, PrivilegedAnswer::Did { .. }), "{answer:?}");
    std::fs::remove_file(rig.path("bin/pct")).unwrap();
    let answer = rig.order(&rig.create()).await;
    assert!(
        matches!(&answer, PrivilegedAnswer::NotStarted { why } if why.contains("install it")),
        "{answer:?}"
    );
}

/// It ignores SIGTERM too.
#[tokio::test]
async fn a_program_that_hangs_is_ended_and_nobody_says_what_came_of_it() {
    let (rig, _process) = Rig::anchored().await;
    rig.mode("hang");
    let order = rig.create();
    let op = rig.sign(&order).id();
    let answer = rig.order(&order).await;
    assert!(
        matches!(&answer, PrivilegedAnswer::Unknown { why } if why.contains("longer than 10 s")),
        "{answer:?}"
    );
    assert_eq!(rig.outcome(op).await, answer);
    assert_eq!(rig.status().await.closed, None);
}

/// What left its process group is found all the same.
#[tokio::test]
async fn what_a_program_leaves_behind_is_ended() {
    let (rig, _process) = Rig::anchored().await;
    rig.mode("escape");
    assert!(matches!(rig.order(&rig.create()).await, PrivilegedAnswer::Did { .. }));
    let pid = rig.text("bin/pid");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
}

#[tokio::test]
async fn one_order_at_a_time_and_the_end_is_waited_for() {
    let (rig, _process) = Rig::anchored().await;
    rig.mode("gate");
    let first = rig.sign(&rig.create());
    let op = first.id();
    let asked = rig.send(&PrivilegedRequest::Order { envelope: first }).await;
    until("pct", || (rig.ran("pct", "create") == 1).then_some(())).await;
    drop(asked);
    let answer = rig.order(&rig.create()).await;
    assert_eq!(code(&answer), "busy");
    let (outcome, ()) = tokio::join!(rig.outcome(op), async { rig.put("bin/gate", "") });
    assert!(
        matches!(outcome, PrivilegedAnswer::Did { .. }),
        "it went on although nobody listened: {outcome:?}"
    );
}

/// Asking settles it.
#[tokio::test]
async fn an_order_that_was_asked_about_never_comes() {
    let (rig, _process) = Rig::anchored().await;
    let order = rig.create();
    assert_eq!(rig.outcome(rig.sign(&order).id()).await, PrivilegedAnswer::NotKnown {});
    assert_eq!(code(&rig.order(&order).await), "replay");
    assert_eq!(rig.ran("pct", "create"), 0);
}
