//! What is signed about a policy, against the chain that the host lives by (`security.md` 2.10), and duties that are
//! kept apart.

use authz::RefusalCode::{
    self, BadOrder, BadSignature, Certificate, Chain, Malformed, Namespace as OtherNamespace, Presence,
    Replay, Revoked as RevokedCode, Threshold, TooEarly, UnknownSigner, Unsigned,
};
use authz::case::Judge;
use authz::policy::chain::AHEAD_S;
use authz::policy::words::{Freshness, Revocation, Revoked};
use authz::policy::{Policy, PolicyDocument};
use authz::{Kind, Namespace};
use protocol::{Fingerprint, Sha256};

use super::certificates::Cert;
use crate::base::{Case, Class, Desk, Draft, NOW, ca, class};
use crate::forge::{INNER, Key};

fn alice() -> Key {
    Key::ed25519()
}

fn bob() -> Key {
    Key::seeded(0xb0)
}

/// Nobody knows it.
fn stranger() -> Key {
    Key::seeded(0x77)
}

fn print(key: &Key) -> Fingerprint {
    Fingerprint::of_key_blob(&key.blob())
}

/// These bytes, signed for `policy.v1@writ` by these keys, for the chain to judge.
fn word(desk: &Desk, payload: &[u8], keys: &[&Key]) -> Draft {
    let by = |key: &&Key| key.parts_as(&key.blob(), Namespace::Policy, "sha512", payload).armor();
    judged(desk, payload, keys.iter().map(by).collect())
}

fn judged(desk: &Desk, payload: &[u8], sigs: Vec<Vec<u8>>) -> Draft {
    desk.but(|desk| desk.host.judge = Judge::Policy).case(payload, sigs)
}

fn refused(code: RefusalCode, why: &str, draft: Draft) -> Case {
    draft.refuse(code, "2.10", why)
}

/// The version after `policy`.
fn after(policy: &PolicyDocument) -> PolicyDocument {
    let mut next = policy.clone();
    next.version += 1;
    next.prev = Some(Sha256::of(&policy.encode()));
    next.issued_at += 1;
    next
}

fn revocation(policy: &PolicyDocument, revoke: Revoked) -> Revocation {
    let policy = Policy::decode(&policy.encode()).unwrap();
    let reason = "lost".parse().unwrap();
    Revocation { v: 1, revoke, policy: (&policy).into(), issued_at: NOW - 60, reason }
}

fn fresh(policy: &PolicyDocument, issued_at: u64) -> Freshness {
    let policy = Policy::decode(&policy.encode()).unwrap();
    Freshness { v: 1, fresh: (&policy).into(), issued_at }
}

pub(super) fn classes() -> Vec<Class> {
    let first = Desk::new();
    let second = first.next(|_| {});
    let at_two = first.after_word(&second.encode());
    let third = after(&second);
    let at_three = at_two.after_word(&third.encode());
    let fork = first.next(|next| next.bounds.guests.clear());
    let by = |desk: &Desk, document: &PolicyDocument| word(desk, &document.encode(), &[&alice()]);
    let changed = |change: &dyn Fn(&mut PolicyDocument)| by(&first, &first.next(|next| change(next)));
    vec![
        class(
            "chain-fork",
            vec![
                refused(Chain, "another version 2", by(&at_two, &fork)),
                refused(Chain, "another version 2, when 3 is in force", by(&at_three, &fork)),
                refused(
                    Chain,
                    "another version 1",
                    by(&at_two, &first.but(|d| d.policy.issued_at -= 1).policy),
                ),
                refused(Chain, "a version 3 after another version 2", by(&at_two, &after(&fork))),
                refused(
                    Chain,
                    "the hash of another version 1",
                    changed(&|n| n.prev = Some(Sha256::of(b"x"))),
                ),
                by(&first, &fork).accept("2.10", "the same version 2, where it is the first one to come"),
            ],
        ),
        class(
            "chain-gap",
            vec![
                refused(Chain, "version 3 without version 2", by(&first, &third)),
                refused(Chain, "a version far ahead", changed(&|n| n.version = 1 << 52)),
                refused(Chain, "version 4 after version 2", by(&at_two, &after(&third))),
                by(&at_two, &third).accept("2.10", "version 3 after version 2"),
            ],
        ),
        class(
            "chain-older",
            vec![
                refused(
                    Chain,
                    "issued before the one before it",
                    changed(&|n| n.issued_at = first.policy.issued_at - 1),
                ),
                refused(Chain, "issued in 1970", changed(&|n| n.issued_at = 0)),
                by(&at_three, &second).accept("2.10", "version 2 again, after 3: known, and changes nothing"),
                by(&at_three, &first.policy).accept("2.10", "version 1 again: known, and changes nothing"),
            ],
        ),
        signatures(&first, &second),
        root_thresholds(&first),
        certificates(),
        revocations(&first, &fork),
        strangers(&first),
        freshness(&first, &fork),
        duties(),
    ]
}

/// A policy that is signed otherwise than a policy is.
fn signatures(desk: &Desk, next: &PolicyDocument) -> Class {
    let bytes = next.encode();
    let good = |key: &Key| key.parts_as(&key.blob(), Namespace::Policy, "sha512", &bytes);
    let one = |sig: Vec<u8>| judged(desk, &bytes, vec![sig]);
    let op = alice().parts_as(&alice().blob(), Namespace::Op, "sha512", &bytes).armor();
    let mut broken = good(&bob());
    let last = broken.fields[INNER].len() - 40;
    broken.fields[INNER][last] ^= 1;
    let mut other = next.clone();
    other.issued_at += 1;
    let untouched = Key::sk_ed25519(0);
    let by_token = Desk::of(&untouched);
    let theirs = by_token.next(|_| {}).encode();
    class(
        "chain-signatures",
        vec![
            refused(Unsigned, "no signature", judged(desk, &bytes, vec![])),
            refused(OtherNamespace, "signed as an order", one(op)),
            refused(
                BadSignature,
                "signed over another version",
                judged(desk, &other.encode(), vec![good(&alice()).armor()]),
            ),
            refused(
                BadSignature,
                "alice's, and a broken one of bob's",
                judged(desk, &bytes, vec![good(&alice()).armor(), broken.armor()]),
            ),
            refused(
                Malformed,
                "alice's, and no signature at all",
                judged(desk, &bytes, vec![good(&alice()).armor(), b"x".to_vec()]),
            ),
            refused(UnknownSigner, "alice's, and a stranger's", word(desk, &bytes, &[&alice(), &stranger()])),
            refused(Presence, "a security key that nobody touched", word(&by_token, &theirs, &[&untouched])),
            word(desk, &bytes, &[&alice(), &bob()]).accept("2.10", "alice's and bob's"),
        ],
    )
}

/// Version N+1 counts by the threshold of N's root **and** of its own.
fn root_thresholds(desk: &Desk) -> Class {
    let two = desk.but(|desk| desk.policy.root.threshold = 2);
    let next = two.next(|_| {}).encode();
    let lowered = two.next(|next| next.root.threshold = 1).encode();
    let raised = desk.next(|next| next.root.threshold = 2).encode();
    let new = Key::seeded(0x66);
    let replaced = desk.next(|next| next.operators[0].keys = vec![new.credential()]).encode();
    let no = |why: &str, desk: &Desk, bytes: &[u8], keys: &[&Key]| {
        refused(Threshold, why, word(desk, bytes, keys))
    };
    let (a, b, carol, dave) = (alice(), bob(), Key::seeded(0xcc), Key::seeded(0xdd));
    class(
        "chain-threshold",
        vec![
            no("one of two", &two, &next, &[&a]),
            no("one of two, twice", &two, &next, &[&a, &a]),
            no("one of two, and one of the helpdesk", &two, &next, &[&a, &carol]),
            no("nobody of the root", &two, &next, &[&carol, &dave]),
            no("one, who would be enough afterwards", &two, &lowered, &[&a]),
            no("one, who would not be enough afterwards", desk, &raised, &[&a]),
            no("by a key that the next version does not know", desk, &replaced, &[&a]),
            refused(
                UnknownSigner,
                "by a key that only the next version knows",
                word(desk, &replaced, &[&new]),
            ),
            word(desk, &replaced, &[&a, &new]).accept("2.10", "by the old key and by the new one"),
            word(&two, &lowered, &[&a, &b]).accept("2.10", "two lower it to one"),
        ],
    )
}

/// Certificates expire; a chain must be checkable for ever.
fn certificates() -> Class {
    let desk = Desk::by_ca();
    let bytes = desk.next(|_| {}).encode();
    let subject = Key::seeded(0x11);
    let blob = Cert::of(&subject).blob();
    let cert = subject.parts_as(&blob, Namespace::Policy, "sha512", &bytes).armor();
    let key = |key: &Key| key.parts_as(&key.blob(), Namespace::Policy, "sha512", &bytes).armor();
    let late = desk.but(|desk| desk.host.now = NOW + 31_536_000);
    class(
        "chain-certificate",
        vec![
            refused(Certificate, "a certificate", judged(&desk, &bytes, vec![cert.clone()])),
            refused(
                Certificate,
                "a certificate beside bob's key",
                judged(&desk, &bytes, vec![cert.clone(), key(&bob())]),
            ),
            refused(Certificate, "a certificate that expired", judged(&late, &bytes, vec![cert])),
            refused(UnknownSigner, "the CA's own key", judged(&desk, &bytes, vec![key(&ca())])),
            judged(&desk, &bytes, vec![key(&bob())]).accept("2.10", "bob's key"),
        ],
    )
}

fn revocations(desk: &Desk, fork: &PolicyDocument) -> Class {
    let of_bob = Revoked::Key { key: print(&bob()) };
    let here = revocation(&desk.policy, of_bob.clone());
    let said = |word_: &Revocation| word(desk, &word_.encode(), &[&alice()]);
    let with = |change: &dyn Fn(&mut Revocation)| {
        let mut other = here.clone();
        change(&mut other);
        other
    };
    let taken = desk.after_word(&here.encode());
    let again = revocation(&desk.policy, Revoked::Key { key: print(&alice()) });
    let back = taken.next(|next| next.bounds.guests.clear()).encode();
    let burned = taken.but(|desk| desk.host.burned.push(desk.order.nonce));
    class(
        "chain-revocation",
        vec![
            refused(Chain, "bound to a version of a fork", said(&revocation(fork, of_bob.clone()))),
            refused(
                Chain,
                "bound to a version that is still to come",
                said(&revocation(&desk.next(|_| {}), of_bob)),
            ),
            refused(Chain, "bound to no version", said(&with(&|w| w.policy.sha256 = Sha256::of(b"x")))),
            refused(BadOrder, "of a format to come", said(&with(&|w| w.v = 2))),
            refused(
                Threshold,
                "afterwards nobody could change the policy",
                word(&taken, &again.encode(), &[&alice()]),
            ),
            refused(RevokedCode, "bob signs after he was revoked", word(&taken, &here.encode(), &[&bob()])),
            refused(
                RevokedCode,
                "bob signs the next version after he was revoked",
                word(&taken, &back, &[&bob()]),
            ),
            taken.signed(&[&bob()]).refuse(RevokedCode, "V16", "bob orders after he was revoked"),
            burned.signed(&[&alice()]).refuse(Replay, "2.9", "a nonce that was used before the revocation"),
            word(&taken, &here.encode(), &[&alice()]).accept("2.10", "again: known, and changes nothing"),
            word(&taken, &back, &[&alice()]).accept("2.10", "alice signs the next version"),
        ],
    )
}

/// Rights are taken away by one signature, but not by anybody's.
fn strangers(desk: &Desk) -> Class {
    let of = |key: &Key| revocation(&desk.policy, Revoked::Key { key: print(key) }).encode();
    let unlisted = UnknownSigner;
    class(
        "chain-revocation-by-stranger",
        vec![
            refused(unlisted, "a stranger takes bob's key away", word(desk, &of(&bob()), &[&stranger()])),
            refused(
                unlisted,
                "a stranger takes his own key away",
                word(desk, &of(&stranger()), &[&stranger()]),
            ),
            refused(unlisted, "a CA's key, where there is no CA", word(desk, &of(&bob()), &[&ca()])),
            refused(unlisted, "alice, and a stranger", word(desk, &of(&bob()), &[&alice(), &stranger()])),
            refused(
                BadSignature,
                "a stranger under alice's key",
                judged(
                    desk,
                    &of(&bob()),
                    vec![{
                        let bytes = of(&bob());
                        stranger().parts_as(&alice().blob(), Namespace::Policy, "sha512", &bytes).armor()
                    }],
                ),
            ),
            word(desk, &of(&bob()), &[&alice()]).accept("2.10", "alice takes bob's key away"),
        ],
    )
}

fn freshness(desk: &Desk, fork: &PolicyDocument) -> Class {
    let said = |policy: &PolicyDocument, at: u64| word(desk, &fresh(policy, at).encode(), &[&alice()]);
    let here = fresh(&desk.policy, NOW).encode();
    class(
        "chain-freshness",
        vec![
            refused(Chain, "of a fork", said(fork, NOW)),
            refused(Chain, "of a version that is still to come", said(&desk.next(|_| {}), NOW)),
            refused(TooEarly, "a second more than a day ahead", said(&desk.policy, NOW + AHEAD_S + 1)),
            refused(TooEarly, "a year ahead", said(&desk.policy, NOW + 31_536_000)),
            refused(UnknownSigner, "by a stranger", word(desk, &here, &[&stranger()])),
            refused(UnknownSigner, "by alice and a stranger", word(desk, &here, &[&alice(), &stranger()])),
            refused(BadOrder, "above 2^53", said(&desk.policy, (1 << 53) + 1)),
            said(&desk.policy, NOW + AHEAD_S).accept("2.10", "a day ahead"),
            said(&desk.policy, 1).accept("2.10", "older than what the host knows: changes nothing"),
            word(desk, &here, &[&alice()]).accept("2.10", "alice says so"),
        ],
    )
}

/// Separation of duty: one of each role, and nobody stands for two.
fn duties() -> Class {
    let desk = |members: &[&str]| {
        Desk::new().but(|desk| {
            let members = members.iter().map(|name| name.parse().unwrap()).collect();
            desk.policy.roles[2].members = members;
            let rule = desk.policy.rules.iter_mut().find(|rule| rule.kind == Kind::SnapshotRollback).unwrap();
            (rule.also, rule.threshold) = (vec!["backup".parse().unwrap()], 2);
        })
    };
    let (a, b, carol, dave) = (alice(), bob(), Key::seeded(0xcc), Key::seeded(0xdd));
    // Alice is in both roles here.
    let (apart, both) = (desk(&["dave"]), desk(&["alice", "dave"]));
    let no = |why: &str, draft: Draft| draft.refuse(Threshold, "2.3", why);
    class(
        "separation-of-duty",
        vec![
            no("two of one role", apart.signed(&[&a, &b])),
            no("one who is in both roles", both.signed(&[&a])),
            no("one who is in both roles, twice", both.signed(&[&a, &a])),
            no("the second role alone", apart.signed(&[&dave])),
            no(
                "one of each role, where the order wants three",
                both.but(|d| d.order.min_signers = 3).signed(&[&a, &dave]),
            ),
            apart.signed(&[&a, &carol]).refuse(
                UnknownSigner,
                "V14",
                "one who may sign no orders, as the second",
            ),
            both.signed(&[&a, &b]).accept("2.3", "alice for the second role, bob for the first"),
            apart.signed(&[&b, &dave]).accept("2.3", "one of each"),
        ],
    )
}
