//! The blob inside the armor: V3 to V7, V9.

use authz::Namespace;
use authz::RefusalCode::{self, BadSignature, Malformed, UnknownSigner};

use crate::base::{Case, Class, Desk, class};
use crate::forge::{HASH, INNER, KEY, Key, NAMESPACE, Parts, RESERVED, enarmor, strings, tbs};

pub(super) fn classes() -> Vec<Class> {
    let mut all = vec![
        each(
            "bad-magic",
            Malformed,
            "V3",
            &[
                ("another magic", |parts| Parts { magic: b"SSHSIH".to_vec(), ..parts.clone() }.blob()),
                ("lower case", |parts| Parts { magic: b"sshsig".to_vec(), ..parts.clone() }.blob()),
                ("a byte short", |parts| Parts { magic: b"SSHSI".to_vec(), ..parts.clone() }.blob()),
            ],
        ),
        each("version-0", Malformed, "V3", &[("version 0", |parts| version(parts, 0))]),
        each("version-2", Malformed, "V3", &[("version 2", |parts| version(parts, 2))]),
        each("version-max", Malformed, "V3", &[("the largest version", |parts| version(parts, u32::MAX))]),
    ];
    for (name, field) in
        [("key", KEY), ("namespace", NAMESPACE), ("reserved", RESERVED), ("hash", HASH), ("signature", INNER)]
    {
        all.push(lengths(name, field));
    }
    all.extend([
        truncated(),
        each(
            "trailing",
            Malformed,
            "V6",
            &[
                ("a byte after the blob", |parts| [parts.blob(), vec![0]].concat()),
                ("a byte after the key", |parts| {
                    parts.with(KEY, &[&parts.fields[KEY][..], &[0]].concat()).blob()
                }),
                ("a byte after the signature's fields", |parts| {
                    parts.with(INNER, &[&parts.fields[INNER][..], &[0]].concat()).blob()
                }),
            ],
        ),
        each(
            "reserved-unsigned",
            Malformed,
            "V4",
            &[
                ("a byte in the reserved field", |parts| parts.with(RESERVED, b"x").blob()),
                ("a NUL in the reserved field", |parts| parts.with(RESERVED, b"\0").blob()),
            ],
        ),
        reserved_signed(),
    ]);
    all.extend(namespaces());
    all.extend(hashes());
    all.extend([
        fields(
            "duplicated-field",
            &[
                ("namespace twice", &[KEY, NAMESPACE, NAMESPACE, RESERVED, HASH, INNER], Malformed),
                ("reserved twice", &[KEY, NAMESPACE, RESERVED, RESERVED, HASH, INNER], Malformed),
                ("hash twice", &[KEY, NAMESPACE, RESERVED, HASH, HASH, INNER], Malformed),
                ("signature twice", &[KEY, NAMESPACE, RESERVED, HASH, INNER, INNER], Malformed),
                ("key twice", &[KEY, KEY, NAMESPACE, RESERVED, HASH, INNER], RefusalCode::Namespace),
            ],
        ),
        fields(
            "swapped-fields",
            &[
                ("namespace and hash", &[KEY, HASH, RESERVED, NAMESPACE, INNER], RefusalCode::Namespace),
                ("reserved and hash", &[KEY, NAMESPACE, HASH, RESERVED, INNER], Malformed),
                ("key and signature", &[INNER, NAMESPACE, RESERVED, HASH, KEY], Malformed),
            ],
        ),
    ]);
    let (desk, alice) = (Desk::new(), Key::ed25519());
    let parts = alice.parts(&desk.payload());
    let other = |key: &Key| parts.with(KEY, &key.blob()).armor();
    all.push(class(
        "blob-key-substituted",
        vec![
            desk.one(other(&Key::seeded(0xb0))).refuse(
                BadSignature,
                "V10",
                "bob's key over alice's signature",
            ),
            desk.one(other(&Key::seeded(0x66))).refuse(
                UnknownSigner,
                "V13",
                "a stranger's key over alice's signature",
            ),
            desk.one(other(&Key::seeded(0xcc))).refuse(
                UnknownSigner,
                "V14",
                "a key that may not sign orders over alice's signature",
            ),
            desk.one(other(&Key::seeded(0xdd))).refuse(
                BadSignature,
                "V10",
                "dave's key over alice's signature",
            ),
        ],
    ));
    let mut cases = Vec::new();
    for key in Key::every() {
        let desk = Desk::of(&key);
        let parts = key.parts(&desk.payload());
        let name: &[u8] = if key.name() == "ssh-ed25519" { b"ssh-rsa" } else { b"ssh-ed25519" };
        cases.push(desk.one(parts.with_name(name).armor()).refuse(
            Malformed,
            "V9",
            "the signature says that it is of another type than the key",
        ));
    }
    all.push(class("blob-type-mismatch", cases));
    all
}

fn version(parts: &Parts, version: u32) -> Vec<u8> {
    Parts { version, ..parts.clone() }.blob()
}

type Change = fn(&Parts) -> Vec<u8>;

/// Each change, for keys of three forms.
fn each(name: &str, code: RefusalCode, rule: &str, changes: &[(&str, Change)]) -> Class {
    let mut cases = Vec::new();
    for key in Key::three() {
        let desk = Desk::of(&key);
        let parts = key.parts(&desk.payload());
        for (why, change) in changes {
            cases.push(desk.one(enarmor(&change(&parts))).refuse(code, rule, why));
        }
    }
    class(&format!("blob-{name}"), cases)
}

/// The length before a field says something else than there is.
fn lengths(name: &str, field: usize) -> Class {
    let (desk, key) = (Desk::new(), Key::ed25519());
    let parts = key.parts(&desk.payload());
    let blob = parts.blob();
    let at = 10 + parts.fields[..field].iter().map(|field| field.len() + 4).sum::<usize>();
    let length = parts.fields[field].len() as u32;
    let case = |other: u32, why: &str| {
        let mut blob = blob.clone();
        blob[at..at + 4].copy_from_slice(&other.to_be_bytes());
        // A namespace a byte shorter or longer is another namespace before anything else is wrong.
        let near = field == NAMESPACE && length.abs_diff(other) == 1;
        let code = if near { RefusalCode::Namespace } else { Malformed };
        desk.one(enarmor(&blob)).refuse(code, "V6", why)
    };
    let cases = vec![
        case(length.wrapping_sub(1), "one less"),
        case(length + 1, "one more"),
        case(length + 255, "255 more"),
        case(length + (1 << 31), "2^31 more"),
        case(u32::MAX, "the largest length"),
    ];
    class(&format!("blob-length-{name}"), cases)
}

fn truncated() -> Class {
    let (desk, key) = (Desk::new(), Key::ed25519());
    let parts = key.parts(&desk.payload());
    let blob = parts.blob();
    let mut cuts = vec![1, 3, 6, 8, 10];
    let mut at = 10;
    for field in &parts.fields {
        cuts.extend([at + 2, at + 4, at + 4 + field.len() / 2, at + 4 + field.len()]);
        at += 4 + field.len();
    }
    cuts.push(blob.len() - 1);
    cuts.retain(|cut| *cut < blob.len());
    cuts.dedup();
    let case = |cut: &usize| {
        // The namespace cut at its first bytes cannot be told from a cut anywhere else.
        desk.one(enarmor(&blob[..*cut])).refuse(Malformed, "V6", &format!("cut after {cut} bytes"))
    };
    class("blob-truncated", cuts.iter().map(case).collect())
}

fn reserved_signed() -> Class {
    let mut cases = Vec::new();
    for key in Key::three() {
        let desk = Desk::of(&key);
        let payload = desk.payload();
        let namespace = Namespace::Op.as_str().as_bytes();
        for reserved in [b"x".as_slice(), b"future=1"] {
            let inner = key.inner(&tbs(namespace, reserved, b"sha512", &payload), b"sha512");
            let parts = key.parts(&payload).with(RESERVED, reserved).with(INNER, &inner);
            cases.push(desk.one(parts.armor()).refuse(Malformed, "V4", "reserved bytes, signed as well"));
        }
    }
    class("blob-reserved-signed", cases)
}

/// Signed for real in another namespace, or signed elsewhere and relabelled.
fn namespaces() -> Vec<Class> {
    let signed = |name: &str, namespaces: &[&[u8]]| {
        let mut cases = Vec::new();
        for key in Key::three() {
            let desk = Desk::of(&key);
            let payload = desk.payload();
            for namespace in namespaces {
                let inner = key.inner(&tbs(namespace, b"", b"sha512", &payload), b"sha512");
                let parts = key.parts(&payload).with(NAMESPACE, namespace).with(INNER, &inner);
                let why = format!("signed for {}", String::from_utf8_lossy(namespace).escape_debug());
                cases.push(desk.one(parts.armor()).refuse(RefusalCode::Namespace, "V7", &why));
            }
        }
        class(&format!("blob-namespace-{name}"), cases)
    };
    let relabelled = || {
        let mut cases = Vec::new();
        for key in Key::three() {
            let desk = Desk::of(&key);
            for namespace in [Namespace::Job, Namespace::Session, Namespace::Policy, Namespace::Login] {
                let parts = key.parts_as(&key.blob(), namespace, "sha512", &desk.payload());
                let parts = parts.with(NAMESPACE, Namespace::Op.as_str().as_bytes());
                let why = format!("signed for {namespace} and relabelled");
                cases.push(desk.one(parts.armor()).refuse(BadSignature, "V7", &why));
            }
        }
        class("blob-namespace-relabelled", cases)
    };
    vec![
        signed("empty", &[b""]),
        signed("nul", &[b"op.v1@writ\0", b"op.v1@writ\0x"]),
        signed("case", &[b"OP.V1@WRIT", b"Op.v1@writ"]),
        signed("homoglyph", &["\u{43e}p.v1@writ".as_bytes(), "op.v1@wr\u{131}t".as_bytes()]),
        signed("prefix", &[b"op.v1@wri", b"op.v1"]),
        signed("suffix", &[b"op.v1@writx", b"op.v1@writ "]),
        signed(
            "other-purpose",
            &[b"job.v1@writ", b"session.v1@writ", b"policy.v1@writ", b"login.v1@writ", b"file", b"git"],
        ),
        relabelled(),
    ]
}

fn hashes() -> Vec<Class> {
    let named = |name: &str, hashes: &[(&str, &str)]| {
        let mut cases = Vec::new();
        for key in Key::three() {
            let desk = Desk::of(&key);
            let payload = desk.payload();
            for (label, signed) in hashes {
                let namespace = Namespace::Op.as_str().as_bytes();
                let mut bytes = tbs(namespace, b"", signed.as_bytes(), &payload);
                if *label == "sha1" {
                    bytes = [b"SSHSIG".as_slice(), &strings(&[namespace, b"", b"sha1", &[7; 20]])].concat();
                }
                let inner = key.inner(&bytes, b"sha512");
                let parts = key.parts(&payload).with(HASH, label.as_bytes()).with(INNER, &inner);
                let good_name = matches!(*label, "sha256" | "sha512");
                let code = if good_name { BadSignature } else { Malformed };
                let why = format!("says {label}, signed with {signed}");
                cases.push(desk.one(parts.armor()).refuse(code, "V5", &why));
            }
        }
        class(&format!("blob-hash-{name}"), cases)
    };
    vec![
        named("sha1", &[("sha1", "sha1")]),
        named("sha384", &[("sha384", "sha384")]),
        named(
            "spelling",
            &[("SHA512", "sha512"), ("sha-512", "sha512"), ("sha512\0", "sha512"), ("", "sha512")],
        ),
        named("mismatch", &[("sha256", "sha512"), ("sha512", "sha256")]),
    ]
}

/// The fields in another order.
fn fields(name: &str, orders: &[(&str, &[usize], RefusalCode)]) -> Class {
    let mut cases: Vec<Case> = Vec::new();
    for key in Key::three() {
        let desk = Desk::of(&key);
        let parts = key.parts(&desk.payload());
        for (why, order, code) in orders {
            let fields: Vec<&[u8]> = order.iter().map(|field| parts.fields[*field].as_slice()).collect();
            let blob = [b"SSHSIG".as_slice(), &1u32.to_be_bytes(), &strings(&fields)].concat();
            cases.push(desk.one(enarmor(&blob)).refuse(*code, "V6", why));
        }
    }
    class(&format!("blob-{name}"), cases)
}
