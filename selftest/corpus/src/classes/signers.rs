//! Who is listed, and how: V13, V14, V19, V20. Where the catalogue speaks of `allowed_signers` and KRL files, the same
//! trap is laid in a policy and in the words beside it, which take their place on a host.

use authz::RefusalCode::{
    self, BadOrder, Certificate, Chain, Expired, Revoked as RevokedCode, Threshold, UnknownSigner,
};
use authz::policy::words::{Revocation, Revoked};
use authz::policy::{Authority, Credential, VerifiedKey};
use protocol::Fingerprint;

use super::certificates::Cert;
use crate::base::{Case, Class, Desk, NOW, authority, ca, class};
use crate::forge::Key;

/// A policy that no host may take in.
fn bad(desk: &Desk, why: &str, text: &str) -> Case {
    desk.word(text.as_bytes()).refuse(BadOrder, "V19", why)
}

fn swapped(desk: &Desk, from: &str, to: &str) -> String {
    let text = desk.next_text();
    assert!(text.contains(from), "the policy has {from}");
    text.replacen(from, to, 1)
}

pub(super) fn classes() -> Vec<Class> {
    let (desk, by_ca) = (Desk::new(), Desk::by_ca());
    let alice = Key::ed25519().operator_key().to_string();
    let principals =
        |names: &str| swapped(&by_ca, r#""principals":["alice"]"#, &format!(r#""principals":[{names}]"#));
    let lines = |line: &str| swapped(&desk, &format!("\"{alice}\""), &format!("\"{line}\""));
    let edit = |why: &str, from: &str, to: &str| bad(&desk, why, &swapped(&desk, from, to));
    vec![
        class(
            "signers-wildcard",
            vec![
                bad(&by_ca, "everybody", &principals("\"*\"")),
                bad(&by_ca, "a beginning", &principals("\"al*\"")),
                bad(&by_ca, "one letter open", &principals("\"alic?\"")),
            ],
        ),
        class(
            "signers-negation",
            vec![
                bad(&by_ca, "everybody but bob", &principals("\"!bob\"")),
                bad(&by_ca, "alice, and not bob", &principals("\"alice\",\"!bob\"")),
                bad(&by_ca, "a list in a word", &principals("\"alice,!bob\"")),
            ],
        ),
        class(
            "signers-no-namespaces",
            vec![
                edit("the field is missing", r#""namespaces":["enroll.v1@writ"],"#, ""),
                edit("null", r#""namespaces":["enroll.v1@writ"]"#, r#""namespaces":null"#),
                edit("a pattern", r#""namespaces":["enroll.v1@writ"]"#, r#""namespaces":["*"]"#),
                desk.but(|desk| desk.policy.roles[1].namespaces.clear())
                    .signed(&[&Key::seeded(0xcc)])
                    .refuse(UnknownSigner, "V14", "a role without namespaces may sign nothing"),
            ],
        ),
        duplicates(&desk, &by_ca),
        class(
            "signers-malformed-key",
            vec![
                bad(&desk, "a key cut short", &lines("ssh-ed25519 AAAA")),
                bad(&desk, "no key at all", &lines("")),
                bad(&desk, "an option of allowed_signers", &lines(&format!("cert-authority {alice}"))),
                bad(&desk, "a key of a type that is not accepted", &lines("ssh-dss AAAAB3NzaC1kc3M=")),
            ],
        ),
        class(
            "signers-unknown-option",
            vec![
                edit("in the policy", "{\"v\":1,", "{\"v\":1,\"allow\":true,"),
                edit("in an operator", "{\"name\":\"alice\",", "{\"name\":\"alice\",\"admin\":true,"),
                bad(&by_ca, "in a CA", &swapped(&by_ca, "{\"ca\":", "{\"touch\":false,\"ca\":")),
            ],
        ),
        class(
            "signers-crlf",
            vec![
                bad(&desk, "at the end", &desk.next_text().replace('\n', "\r\n")),
                bad(&desk, "between fields", &swapped(&desk, ",\"version\"", ",\r\n\"version\"")),
                bad(&desk, "in a key", &lines(&format!("{alice}\\r"))),
            ],
        ),
        boundaries(&by_ca),
        class(
            "signers-time-form",
            vec![
                edit("a date", &format!("\"issued_at\":{}", NOW - 699_999), "\"issued_at\":\"20251114\""),
                edit(
                    "a time without zone",
                    &format!("\"issued_at\":{}", NOW - 699_999),
                    "\"issued_at\":\"2025-11-14T00:00:00\"",
                ),
                edit("a fraction", &format!("\"issued_at\":{}", NOW - 699_999), "\"issued_at\":1763070001.5"),
            ],
        ),
        letter_case(&desk, &by_ca),
        class(
            "signers-duplicate-clause",
            vec![
                edit(
                    "namespaces twice",
                    "\"namespaces\":[\"enroll.v1@writ\"],",
                    "\"namespaces\":[],\"namespaces\":[\"enroll.v1@writ\"],",
                ),
                edit("revoked twice", "\"revoked\":[]", "\"revoked\":[],\"revoked\":[]"),
                bad(
                    &by_ca,
                    "principals twice",
                    &swapped(&by_ca, "\"principals\":", "\"principals\":[\"bob\"],\"principals\":"),
                ),
            ],
        ),
        class(
            "signers-comment",
            vec![
                bad(&desk, "a comment", &lines(&format!("{alice} alice@laptop"))),
                bad(
                    &desk,
                    "a comment that looks like a key",
                    &lines(&format!("{alice} {}", Key::seeded(0x66).operator_key())),
                ),
                bad(&desk, "a space behind", &lines(&format!("{alice} "))),
            ],
        ),
        shared(&desk, &by_ca),
        one_person(),
        truncated_words(&desk),
        older_words(&desk),
    ]
}

fn duplicates(desk: &Desk, by_ca: &Desk) -> Class {
    let next = |desk: &Desk, keys: Vec<Credential>, why: &str| {
        let next = desk.next(|next| next.operators[0].keys.extend(keys)).encode();
        desk.word(&next).refuse(BadOrder, "V13", why)
    };
    let week = Authority { max_validity_s: 604_800, ..authority() };
    let sk = Key::sk_ed25519(1);
    let strict = Credential::Verified(VerifiedKey { key: sk.operator_key(), verify_required: true });
    let by_pin = Desk::of(&sk).but(|desk| desk.policy.operators[0].keys.push(Key::ed25519().credential()));
    let revoked = desk.but(|desk| {
        desk.policy.revoked.push(Fingerprint::of_key_blob(&Key::seeded(0xb0).blob()));
    });
    class(
        "signers-expired-and-open",
        vec![
            next(
                by_ca,
                vec![Credential::Authority(week)],
                "the same CA and principal, for hours and for a week",
            ),
            next(&by_pin, vec![strict], "the same key with and without PIN"),
            next(desk, vec![Key::ed25519().credential()], "the same key twice"),
            revoked.signed(&[&Key::seeded(0xb0)]).refuse(
                RevokedCode,
                "V16",
                "revoked, and listed all the same",
            ),
        ],
    )
}

fn boundaries(by_ca: &Desk) -> Class {
    let cert = |times: (u64, u64)| Cert { times, ..Cert::of(&Key::seeded(0x11)) }.sign(by_ca);
    let at = |now: u64| Desk::new().but(|desk| desk.host.now = now).signed(&[&Key::ed25519()]);
    let exp = Desk::new().order.exp;
    class(
        "signers-boundary-second",
        vec![
            cert((NOW, NOW + 60)).accept("V15", "a certificate's first second"),
            cert((NOW - 60, NOW + 1)).accept("V15", "a certificate's last second"),
            cert((NOW - 60, NOW)).refuse(Certificate, "V15", "the second after"),
            cert((NOW + 1, NOW + 60)).refuse(Certificate, "V15", "the second before"),
            at(exp).accept("2.8", "an order's last second"),
            at(exp + 1).refuse(Expired, "2.8", "the second after"),
        ],
    )
}

fn letter_case(desk: &Desk, by_ca: &Desk) -> Class {
    let cert = Cert { principals: vec![b"ALICE".to_vec()], ..Cert::of(&Key::seeded(0x11)) };
    let edit = |why: &str, from: &str, to: &str| bad(desk, why, &swapped(desk, from, to));
    class(
        "signers-letter-case",
        vec![
            cert.sign(by_ca).refuse(UnknownSigner, "V15", "a principal in capitals"),
            edit("a namespace in capitals", "\"enroll.v1@writ\"]", "\"ENROLL.V1@WRIT\"]"),
            edit("a kind in capitals", "\"snapshot.rollback\"", "\"Snapshot.Rollback\""),
            edit("a field in capitals", "\"revoked\"", "\"Revoked\""),
        ],
    )
}

fn shared(desk: &Desk, by_ca: &Desk) -> Class {
    let order = |policy: &Desk| policy.but(|desk| desk.order.min_signers = 2);
    let dave = Authority::new(Key::seeded(0x68).operator_key(), vec!["bob".to_owned()]);
    let two = order(&by_ca.but(|desk| desk.policy.operators[1].keys.push(Credential::Authority(dave))));
    let one_key = Key::seeded(0x11);
    let for_bob = Cert { ca: Key::seeded(0x68), principals: vec![b"bob".to_vec()], ..Cert::of(&one_key) };
    let payload = two.payload();
    let next = desk.next(|next| next.operators[2].keys = vec![Key::ed25519().credential()]).encode();
    let again = by_ca.next(|next| next.operators[1].keys.push(Credential::Authority(authority()))).encode();
    let as_key = by_ca.next(|next| next.operators[1].keys.push(ca().credential())).encode();
    class(
        "signers-two-operators-one-key",
        vec![
            desk.word(&next).refuse(BadOrder, "V20", "alice's key is carol's too"),
            by_ca.word(&again).refuse(BadOrder, "V20", "one principal of one CA for two operators"),
            by_ca.word(&as_key).refuse(BadOrder, "V15", "a CA's key is bob's own key"),
            two.case(&payload, vec![Cert::of(&one_key).armor(&payload), for_bob.armor(&payload)]).refuse(
                Threshold,
                "V20",
                "two CAs certify one key, for alice and for bob",
            ),
        ],
    )
}

fn one_person() -> Class {
    let second = Key::p256();
    let two_keys = Desk::new().but(|desk| {
        desk.policy.operators[0].keys.push(second.credential());
        desk.order.min_signers = 2;
    });
    let by_ca = Desk::by_ca().but(|desk| desk.order.min_signers = 2);
    let payload = by_ca.payload();
    let cert = |seed: u8| Cert::of(&Key::seeded(seed)).armor(&payload);
    class(
        "signers-one-operator-two-keys",
        vec![
            two_keys.signed(&[&Key::ed25519(), &second]).refuse(Threshold, "V20", "two keys of alice"),
            by_ca.case(&payload, vec![cert(0x11), Key::ed25519().sign(&payload)]).refuse(
                Threshold,
                "V20",
                "a certificate and a key of alice",
            ),
            by_ca.case(&payload, vec![cert(0x11), cert(0x12)]).refuse(
                Threshold,
                "V20",
                "two certificates for alice",
            ),
            two_keys
                .signed(&[&Key::ed25519(), &second, &Key::seeded(0xb0)])
                .accept("V20", "two keys of alice, and bob"),
        ],
    )
}

fn revocation(desk: &Desk, key: &Key) -> Revocation {
    let policy = authz::Policy::decode(&desk.policy.encode()).unwrap();
    Revocation {
        v: 1,
        revoke: Revoked::Key { key: Fingerprint::of_key_blob(&key.blob()) },
        policy: (&policy).into(),
        issued_at: NOW - 60,
        reason: "lost".parse().unwrap(),
    }
}

fn truncated_words(desk: &Desk) -> Class {
    let word = revocation(desk, &Key::seeded(0xb0)).encode();
    let cut = |length: usize| {
        desk.word(&word[..length]).refuse(BadOrder, "V18", &format!("a revocation cut after {length} bytes"))
    };
    class(
        "signers-truncated-revocation",
        vec![
            cut(0),
            cut(10),
            cut(word.len() / 2),
            cut(word.len() - 2),
            cut(word.len() - 1),
            desk.word(&word).accept("V16", "the whole of it"),
        ],
    )
}

/// What is older than what the host knows takes nothing back.
fn older_words(desk: &Desk) -> Class {
    let bob = Key::seeded(0xb0);
    let without = desk.next(|next| next.revoked.push(Fingerprint::of_key_blob(&bob.blob()))).encode();
    let after = desk.after_word(&without);
    let first = desk.policy.encode();
    let fork = desk.next(|next| next.issued_at += 1).encode();
    let skipped = desk.next(|next| next.version += 1).encode();
    let taken = desk.after_word(&revocation(desk, &bob).encode());
    let again = |desk: &Desk, payload: &[u8]| desk.word(payload);
    let old = |code: RefusalCode, draft: crate::base::Draft, why: &str| draft.refuse(code, "2.10", why);
    class(
        "signers-older-policy",
        vec![
            old(Chain, again(&after, &fork), "another version 2"),
            old(Chain, again(desk, &skipped), "version 3 without version 2"),
            again(&after, &first).accept("2.10", "the first version again: known, and changes nothing"),
            after.signed(&[&bob]).refuse(RevokedCode, "V16", "bob orders after the version that revokes him"),
            taken.signed(&[&bob]).refuse(RevokedCode, "V16", "bob orders after a word that revokes him"),
            taken.signed(&[&Key::ed25519()]).accept("V16", "alice orders after a word that revokes bob"),
        ],
    )
}
