//! Classes beyond the catalogue: what must be accepted, and what the policy asks for besides.

use authz::RefusalCode::{
    Clock, Expired, Kind as NoKind, Namespace as OtherNamespace, NeedsPlan, NotEnrolled, Protected, Stale,
    Threshold, Unsigned,
};
use authz::case::ClockWord;
use authz::order::Order;
use authz::policy::Protection;
use authz::{Kind, Namespace};

use super::certificates::Cert;
use crate::base::{Case, Class, Desk, class, vmid};
use crate::forge::Key;

const JOB: &[u8] = include_bytes!("../../../../crates/authz/fixtures/orders/job.run.json");
const START: &[u8] = include_bytes!("../../../../crates/authz/fixtures/orders/guest.start.json");
const SESSION: &[u8] = include_bytes!("../../../../crates/authz/fixtures/orders/session.open.json");

fn alice(desk: &Desk) -> crate::base::Draft {
    desk.signed(&[&Key::ed25519()])
}

pub(super) fn classes() -> Vec<Class> {
    let mut good: Vec<Case> = Vec::new();
    let mut certified: Vec<Case> = Vec::new();
    for key in Key::every() {
        let desk = Desk::of(&key);
        for hash in ["sha256", "sha512"] {
            let sig = key.parts_as(&key.blob(), Namespace::Op, hash, &desk.payload()).armor();
            good.push(desk.one(sig).accept("V8", &format!("{} with {hash}", key.name())));
        }
        let subject = if matches!(key, Key::Ed25519(_)) { Key::seeded(0x11) } else { key };
        let cert = Cert::of(&subject).sign(&Desk::by_ca());
        certified.push(cert.accept("V15", &format!("a certificate for {}", subject.name())));
    }
    let clock = |word: ClockWord| Desk::new().but(|desk| desk.host.clock = word);
    // The floor at so many seconds after the order's end.
    let floor =
        |after: i64| Desk::new().but(|desk| desk.host.floor = desk.order.exp.saturating_add_signed(after));
    let stale = Desk::new().but(|desk| desk.host.stale = true);
    let (a, b) = (Key::ed25519(), Key::seeded(0xb0));
    let of = |golden: &[u8]| Desk::new().but(|desk| desk.order = Order::decode(golden).unwrap());
    let (job, session, start) = (of(JOB), of(SESSION), of(START));
    let named = |desk: &Desk, namespace: Namespace| {
        let sig = a.parts_as(&a.blob(), namespace, "sha512", &desk.payload()).armor();
        desk.one(sig)
    };
    let guarded = |extra: Option<u32>| {
        Desk::new()
            .but(|desk| desk.policy.protected = vec![Protection { guests: (vmid(101), vmid(101)), extra }])
    };
    let planned = |standing: bool| Desk::new().but(|desk| desk.policy.rules[0].standing = standing);
    let broken = |change: &dyn Fn(&mut Case)| {
        let mut case = alice(&Desk::new()).refuse(NotEnrolled, "2.10", "a policy that no host could live by");
        change(&mut case);
        case
    };
    vec![
        class("good-keys", good),
        class("good-certificates", certified),
        class(
            "clock",
            vec![
                alice(&clock(ClockWord::Behind)).refuse(
                    Clock,
                    "2.8",
                    "the clock is behind, and there is no plan",
                ),
                alice(&clock(ClockWord::Suspect)).refuse(
                    Clock,
                    "2.8",
                    "the clock is suspect, and there is no plan",
                ),
                alice(&clock(ClockWord::Suspect).planned(|_| {})).accept("2.8", "a plan needs no clock"),
                alice(&clock(ClockWord::Behind).planned(|_| {})).accept("2.8", "a plan needs no clock"),
            ],
        ),
        class(
            "signed-floor",
            vec![
                alice(&floor(-1)).accept("2.9", "a second after the floor"),
                alice(&floor(0)).refuse(Expired, "2.9", "at the floor"),
                alice(&floor(0).planned(|_| {})).refuse(Expired, "2.9", "at the floor, with a plan"),
                alice(&floor(172_801).but(|desk| desk.host.now = 0).planned(|_| {})).refuse(
                    Expired,
                    "2.9",
                    "far before the floor, and the clock was set back",
                ),
                alice(&floor(i64::MAX)).refuse(Expired, "2.9", "the floor at the end of time"),
            ],
        ),
        class(
            "stale-policy",
            vec![
                alice(&stale).refuse(Threshold, "2.10", "one signer more than the rule says"),
                stale.signed(&[&a, &b]).accept("2.10", "one signer more"),
                named(&job.but(|desk| desk.host.stale = true), Namespace::Job).refuse(
                    Stale,
                    "2.10",
                    "no scripts",
                ),
                named(&session.but(|desk| desk.host.stale = true), Namespace::Session).refuse(
                    Stale,
                    "2.10",
                    "no sessions",
                ),
            ],
        ),
        class(
            "protected-guest",
            vec![
                guarded(None).signed(&[&a, &b]).refuse(Protected, "2.10", "never, whoever signs"),
                alice(&guarded(Some(1))).refuse(Threshold, "2.10", "one signer more"),
                guarded(Some(1)).signed(&[&a, &b]).accept("2.10", "one signer more"),
                guarded(Some(u32::MAX)).signed(&[&a, &b]).refuse(Threshold, "2.10", "more than there are"),
            ],
        ),
        class(
            "needs-plan",
            vec![
                alice(&planned(false)).refuse(NeedsPlan, "2.4", "the policy lets it not stand"),
                alice(&planned(false).planned(|_| {})).accept("2.4", "bound to a plan"),
                alice(&planned(true)).accept("2.4", "the policy lets it stand"),
            ],
        ),
        class(
            "no-rule",
            vec![
                alice(&start).refuse(NoKind, "2.10", "a kind without a rule"),
                start.signed(&[&a, &b]).refuse(NoKind, "2.10", "whoever signs"),
                alice(
                    &Desk::new()
                        .but(|desk| desk.policy.rules.retain(|rule| rule.kind != Kind::SnapshotRollback)),
                )
                .refuse(NoKind, "2.10", "the rule was taken out"),
            ],
        ),
        class(
            "wrong-authority",
            vec![
                named(&job, Namespace::Job).accept("V7", "a script, signed as one"),
                named(&session, Namespace::Session).accept("V7", "a session, signed as one"),
                named(&job, Namespace::Op).refuse(
                    OtherNamespace,
                    "V7",
                    "a script, signed as an order about guests",
                ),
                named(&job, Namespace::Session).refuse(OtherNamespace, "V7", "a script, signed as a session"),
                named(&session, Namespace::Policy).refuse(
                    OtherNamespace,
                    "V7",
                    "a session, signed as a policy",
                ),
            ],
        ),
        class(
            "unsigned",
            vec![
                Desk::new().case(&Desk::new().payload(), vec![]).refuse(Unsigned, "V1", "no signature"),
                Desk::new().case(b"", vec![]).refuse(Unsigned, "V1", "nothing at all"),
                Desk::new().case(&vec![b'x'; 70_000], vec![]).refuse(
                    Unsigned,
                    "V1",
                    "no signature, and too large",
                ),
            ],
        ),
        class(
            "no-policy",
            vec![
                broken(&|case| case.policy.clear()),
                broken(&|case| case.policy.truncate(100)),
                broken(&|case| case.policy.push(b' ')),
            ],
        ),
    ]
}
