//! What the order says, against what the host knows of itself: 2.4, 2.8, 2.9, V20, V21. All of it is signed well.

use authz::RefusalCode::{
    self, BadOrder, BadSignature, Expired, LogAnchor, OtherHost, OtherPolicy, Plan, Replay, Threshold,
    TooEarly, UnknownSigner, Validity,
};
use authz::order::{LogAnchor as Anchor, NoParams, Params};
use authz::verify::CLOCK_SKEW_S;
use authz::{Kind, Namespace};
use protocol::{HostId, Nonce, Sha256};

use crate::base::{BOOTTIME, Case, Class, Desk, NOW, class};
use crate::forge::Key;

type Change<'a> = &'a dyn Fn(&mut Desk);

fn alice(desk: &Desk) -> crate::base::Draft {
    desk.signed(&[&Key::ed25519()])
}

/// The change, without a plan and with one that was made for the changed order.
fn refused(name: &str, code: RefusalCode, rule: &str, changes: &[(&str, Change<'_>)]) -> Class {
    let mut cases = Vec::new();
    for (why, change) in changes {
        let desk = Desk::new().but(|desk| change(desk));
        cases.push(alice(&desk).refuse(code, rule, why));
        cases.push(alice(&desk.planned(|_| {})).refuse(code, rule, &format!("{why}; bound to a plan")));
    }
    class(&format!("semantic-{name}"), cases)
}

pub(super) fn classes() -> Vec<Class> {
    let key = |byte: u8| protocol::Fingerprint::of_key_blob(&[byte; 32]);
    let anchor = |size: u64, head: &[u8], strict: bool| Some(Anchor { size, head: Sha256::of(head), strict });
    vec![
        refused(
            "other-host",
            OtherHost,
            "2.16",
            &[
                ("another host", &|d| d.order.host.id = HostId::from_bytes([9; 16])),
                ("no host", &|d| d.order.host.id = HostId::from_bytes([0; 16])),
            ],
        ),
        refused(
            "other-key-generation",
            OtherHost,
            "2.12",
            &[
                ("an older generation", &|d| d.order.host.generation = 0),
                ("a later generation", &|d| d.order.host.generation = 2),
                ("another key", &|d| d.order.host.key = key(9)),
                ("the host has a new key", &|d| (d.host.key, d.host.generation) = (key(8), 2)),
            ],
        ),
        refused(
            "other-cluster",
            OtherHost,
            "2.2",
            &[
                ("a cluster", &|d| d.order.host.cluster = Some("c1".into())),
                ("a cluster without a name", &|d| d.order.host.cluster = Some(String::new())),
            ],
        ),
        refused(
            "expired",
            Expired,
            "2.8",
            &[
                ("a second ago", &|d| (d.order.nbf, d.order.exp) = (NOW - 100, NOW - 1)),
                ("a year ago", &|d| (d.order.nbf, d.order.exp) = (NOW - 31_536_100, NOW - 31_536_000)),
                ("the host's clock at the end of time", &|d| d.host.now = u64::MAX),
            ],
        ),
        refused(
            "early",
            TooEarly,
            "2.8",
            &[
                ("a second too early", &|d| (d.order.nbf, d.order.exp) = (NOW + CLOCK_SKEW_S + 1, NOW + 600)),
                ("a year too early", &|d| (d.order.nbf, d.order.exp) = (NOW + 31_536_000, NOW + 31_536_100)),
                ("the host's clock in 1970", &|d| d.host.now = 0),
            ],
        ),
        refused(
            "window",
            Validity,
            "2.2",
            &[
                ("a second too long", &|d| d.order.exp = d.order.nbf + 3_601),
                ("for ever", &|d| d.order.exp = 1 << 53),
                ("ends before it begins", &|d| d.order.exp = d.order.nbf - 1),
            ],
        ),
        replays(),
        resigned(),
        malleated(),
        nonces(),
        plans(
            "wrong-plan-hash",
            &[
                ("another hash", &|d| d.order.plan.as_mut().unwrap().sha256 = Sha256::of(b"x")),
                ("another challenge", &|d| d.order.plan.as_mut().unwrap().challenge = Sha256::of(b"x")),
                ("hash and challenge changed places", &|d| {
                    let plan = d.order.plan.as_mut().unwrap();
                    (plan.sha256, plan.challenge) = (plan.challenge, plan.sha256);
                }),
                ("another order than the plan's", &|d| d.order.reason = "other".parse().unwrap()),
            ],
        ),
        plans(
            "plan-expired",
            &[
                ("a second over 15 minutes", &|d| boottime(d, BOOTTIME - 60 + 901)),
                ("a day", &|d| boottime(d, BOOTTIME + 86_400)),
                ("from the future", &|d| boottime(d, 1)),
            ],
        ),
        other_plans(),
        plans(
            "plan-used",
            &[
                ("used, and forgotten", &|d| d.host.plans.as_mut().unwrap().live.clear()),
                ("lost with a restart", &|d| {
                    d.host.plans.as_mut().unwrap().live.clear();
                    boottime(d, 30);
                }),
                ("a host that makes no plans", &|d| d.host.plans = None),
            ],
        ),
        refused(
            "log-ahead",
            LogAnchor,
            "2.9",
            &[
                ("the signer saw more", &|d| d.order.after = anchor(8, b"seven", false)),
                ("the signer saw far more", &|d| d.order.after = anchor(1 << 40, b"x", false)),
                ("the signer saw another entry", &|d| d.order.after = anchor(7, b"fork", false)),
                ("the log is empty", &|d| {
                    d.order.after = anchor(7, b"seven", false);
                    d.host.log = Some(authz::case::LogFile { size: 0, heads: vec![] });
                }),
            ],
        ),
        refused(
            "log-strict",
            LogAnchor,
            "2.9",
            &[
                ("the log went on", &|d| d.order.after = anchor(6, b"six", true)),
                ("the signer saw more", &|d| d.order.after = anchor(8, b"eight", true)),
                ("the same size, another entry", &|d| d.order.after = anchor(7, b"six", true)),
            ],
        ),
        refused(
            "older-policy",
            OtherPolicy,
            "2.10",
            &[
                ("another hash", &|d| d.order.policy.sha256 = Sha256::of(b"x")),
                ("another version", &|d| {
                    (d.order.policy.version, d.order.policy.sha256) = (2, Sha256::of(&d.policy.encode()));
                }),
                ("the version before", &|d| {
                    (d.order.policy.version, d.order.policy.sha256) = (1, Sha256::of(&d.policy.encode()));
                    let next = d.next(|_| {}).encode();
                    *d = d.after_word(&next);
                }),
            ],
        ),
        too_few(),
        duplicate_signers(),
        roles(),
    ]
}

fn boottime(desk: &mut Desk, boottime_s: u64) {
    if let Some(plans) = &mut desk.host.plans {
        plans.boottime_s = boottime_s;
    }
}

fn burned(desk: &Desk) -> Desk {
    desk.but(|desk| desk.host.burned.push(desk.order.nonce))
}

fn replays() -> Class {
    let desk = burned(&Desk::new());
    let mut cases: Vec<Case> = Vec::new();
    for key in Key::three() {
        let desk = burned(&Desk::of(&key));
        cases.push(desk.signed(&[&key]).refuse(Replay, "2.9", "the same bytes again"));
    }
    cases.push(alice(&desk.planned(|_| {})).refuse(Replay, "2.9", "the same nonce under a new plan"));
    let other = desk.but(|desk| desk.order.params = Params::SnapshotDelete(NoParams {}));
    cases.push(other.signed(&[&Key::ed25519(), &Key::seeded(0xb0)]).refuse(
        Replay,
        "2.9",
        "another order with a nonce that was used",
    ));
    class("semantic-replay", cases)
}

fn resigned() -> Class {
    let desk = burned(&Desk::new());
    let by = |key: &Key, hash: &str| {
        let sig = key.parts_as(&key.blob(), Namespace::Op, hash, &desk.payload()).armor();
        desk.one(sig).refuse(Replay, "V21", "the same order, signed anew")
    };
    let (alice, bob) = (Key::ed25519(), Key::seeded(0xb0));
    class(
        "semantic-replay-resigned",
        vec![
            by(&alice, "sha256"),
            by(&bob, "sha512"),
            by(&bob, "sha256"),
            desk.signed(&[&alice, &bob]).refuse(Replay, "V21", "the same order with a signer more"),
        ],
    )
}

fn malleated() -> Class {
    let mut cases = Vec::new();
    for key in [Key::sk_ed25519(1), Key::sk_p256(1)] {
        let desk = burned(&Desk::of(&key));
        for counter in [8, 9] {
            let mut other = key.clone();
            if let Key::SkEd25519(_, touch) | Key::SkP256(_, touch) = &mut other {
                touch.counter = counter;
            }
            cases.push(desk.signed(&[&other]).refuse(Replay, "V21", "the same order, touched again"));
        }
    }
    let desk = burned(&Desk::new());
    let sig = Key::ed25519().sign(&desk.payload());
    let bare = sig[..sig.len() - 1].to_vec();
    cases.push(desk.one(bare.clone()).refuse(Replay, "V21", "the same signature without its last newline"));
    cases.push(
        desk.but(|desk| desk.host.burned.clear())
            .one(bare)
            .accept("V2", "no newline at the end is the other form that counts"),
    );
    class("semantic-new-signature-bytes", cases)
}

fn nonces() -> Class {
    let desk = Desk::new();
    let good = desk.text();
    let hex = |nonce: &Nonce| nonce.to_string();
    let case = |why: &str, to: &str| {
        let text = good.replacen(&hex(&desk.order.nonce), to, 1);
        assert_ne!(text, good);
        desk.saying(text.as_bytes(), &[&Key::ed25519()]).refuse(BadOrder, "V19", why)
    };
    class(
        "semantic-short-nonce",
        vec![
            case("a byte short", &"22".repeat(15)),
            case("a byte long", &"22".repeat(17)),
            case("empty", ""),
            case("in capitals", &"AB".repeat(16)),
            case("no hex", &"zz".repeat(16)),
        ],
    )
}

fn plans(name: &str, changes: &[(&str, Change<'_>)]) -> Class {
    let good = Desk::new().planned(|_| {});
    let mut cases: Vec<Case> = changes
        .iter()
        .map(|(why, change)| alice(&good.but(|desk| change(desk))).refuse(Plan, "2.4", why))
        .collect();
    cases.push(alice(&good).accept("2.4", "the plan that the host remembers"));
    class(&format!("semantic-{name}"), cases)
}

fn other_plans() -> Class {
    let good = Desk::new().planned(|_| {});
    // Named by the order, remembered by another host only.
    let elsewhere = good.but(|desk| desk.host.plans.as_mut().unwrap().live.clear());
    let theirs = Desk::new().planned(|plan| plan.host = HostId::from_bytes([9; 16]));
    let hidden = theirs.but(|desk| desk.host.plans.as_mut().unwrap().live.clear());
    let replaced = good.but(|desk| {
        let newer = Desk::new().planned(|plan| plan.challenge = Sha256::of(b"newer")).host.plans.unwrap();
        desk.host.plans.as_mut().unwrap().live.extend(newer.live);
    });
    let kind = Desk::new().planned(|plan| plan.draft = Sha256::of(b"another draft"));
    class(
        "semantic-plan-of-other",
        vec![
            alice(&elsewhere).refuse(Plan, "2.4", "a plan that this host never made"),
            alice(&hidden).refuse(Plan, "2.4", "a plan of another host"),
            alice(&replaced).refuse(Plan, "2.4", "a newer plan for the same draft took its place"),
            alice(&kind).refuse(Plan, "2.4", "a plan for another draft"),
        ],
    )
}

fn too_few() -> Class {
    let delete = Desk::new().but(|desk| desk.order.params = Params::SnapshotDelete(NoParams {}));
    let two = Desk::new().but(|desk| desk.order.min_signers = 2);
    let (a, b) = (Key::ed25519(), Key::seeded(0xb0));
    class(
        "semantic-too-few",
        vec![
            alice(&delete).refuse(Threshold, "V20", "the policy wants two"),
            alice(&two).refuse(Threshold, "2.2", "the order wants two"),
            two.but(|desk| desk.order.min_signers = u32::MAX).signed(&[&a, &b]).refuse(
                Threshold,
                "2.2",
                "the order wants more than there are",
            ),
            delete.but(|desk| desk.order.min_signers = 0).signed(&[&a]).refuse(
                Threshold,
                "2.2",
                "the order lowers nothing",
            ),
            delete.signed(&[&a, &b]).accept("V20", "two, as the policy wants"),
            two.but(|desk| desk.order.min_signers = 0).signed(&[&a]).accept("2.2", "the policy wants one"),
        ],
    )
}

fn duplicate_signers() -> Class {
    let two = Desk::new().but(|desk| desk.order.min_signers = 2);
    let (a, b) = (Key::ed25519(), Key::seeded(0xb0));
    let payload = two.payload();
    let sha256 = a.parts_as(&a.blob(), Namespace::Op, "sha256", &payload).armor();
    let mut bad = b.parts(&payload);
    let last = bad.fields[4].len() - 40;
    bad.fields[4][last] ^= 1;
    let nine = vec![a.sign(&payload); 9];
    class(
        "semantic-duplicate-signer",
        vec![
            two.signed(&[&a, &a]).refuse(Threshold, "V20", "the same signature twice"),
            two.case(&payload, vec![a.sign(&payload), sha256]).refuse(
                Threshold,
                "V20",
                "one key, two hashes",
            ),
            two.case(&payload, vec![a.sign(&payload), bad.armor()]).refuse(
                BadSignature,
                "2.3",
                "one bad signature refuses all",
            ),
            two.case(&payload, nine).refuse(RefusalCode::Size, "V1", "nine signatures"),
            two.signed(&[&a, &b, &a, &b]).accept("2.3", "two people, each twice"),
        ],
    )
}

fn roles() -> Class {
    let desk = Desk::new();
    let (carol, dave) = (Key::seeded(0xcc), Key::seeded(0xdd));
    let both = Desk::new().but(|desk| {
        let rule = desk.policy.rules.iter_mut().find(|rule| rule.kind == Kind::SnapshotRollback).unwrap();
        (rule.also, rule.threshold) = (vec!["backup".parse().unwrap()], 2);
    });
    class(
        "semantic-role",
        vec![
            desk.signed(&[&carol]).refuse(UnknownSigner, "V14", "an operator who may not sign orders"),
            desk.signed(&[&dave]).refuse(Threshold, "V20", "an operator of another role"),
            both.signed(&[&Key::ed25519(), &Key::seeded(0xb0)]).refuse(
                Threshold,
                "2.3",
                "two of one role, where two roles are wanted",
            ),
            both.signed(&[&Key::ed25519()]).refuse(Threshold, "2.3", "one of two roles"),
            both.signed(&[&Key::ed25519(), &dave]).accept("2.3", "one of each role"),
        ],
    )
}
