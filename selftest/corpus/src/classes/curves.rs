//! Ed25519 and ECDSA edge cases: V8, V10, V11. Made from the definitions: RFC 8032, SEC 1, and the table of cases in
//! "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko 2020), section 5.

use authz::RefusalCode::{BadOrder, BadSignature, KeyType, Malformed, Replay, UnknownSigner};
use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use sha2::{Digest as _, Sha512};

use crate::base::{Case, Class, Desk, class};
use crate::forge::{INNER, KEY, Key, Parts, mpint, secret, strings, take, tbs};

/// The order of the base point, little-endian.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

pub(super) fn classes() -> Vec<Class> {
    let mut all = ed25519();
    all.extend(ecdsa());
    all
}

/// H(R, A, M) modulo L.
fn challenge(r: &[u8], a: &[u8], message: &[u8]) -> Scalar {
    Scalar::from_hash(Sha512::new().chain_update(r).chain_update(a).chain_update(message))
}

fn scalar(seed: u8) -> Scalar {
    ed25519_dalek::SigningKey::from_bytes(&secret(seed).seed()).to_scalar()
}

/// a + b, little-endian, cut to 32 bytes.
fn sum(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    let (mut sum, mut carry) = ([0; 32], 0u16);
    for at in 0..32 {
        carry += u16::from(a[at]) + u16::from(b[at]);
        sum[at] = carry as u8;
        carry >>= 8;
    }
    sum
}

/// The eight points of small order, and the other spellings of those that have one.
fn small() -> (Vec<[u8; 32]>, Vec<[u8; 32]>) {
    let points: Vec<[u8; 32]> = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()).collect();
    let mut p = [0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let mut one = p;
    one[0] = 0xee;
    let signed = |mut bytes: [u8; 32]| {
        bytes[31] |= 0x80;
        bytes
    };
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut minus_one = p;
    minus_one[0] = 0xec;
    (points, vec![p, signed(p), one, signed(one), signed(identity), signed(minus_one)])
}

fn ed25519() -> Vec<Class> {
    let (desk, alice) = (Desk::new(), Key::ed25519());
    let payload = desk.payload();
    let good = alice.parts(&payload);
    let signed = tbs(b"op.v1@writ", b"", b"sha512", &payload);
    let point = secret(0xa1).public().to_wire();
    let raw = |r: &[u8], s: &[u8]| good.with_numbers(&[r, s].concat());
    let numbers = good.inner().1;
    let (r, s): ([u8; 32], [u8; 32]) = (numbers[..32].try_into().unwrap(), numbers[32..].try_into().unwrap());
    let v10 = |parts: Parts, why: &str| desk.one(parts.armor()).refuse(BadSignature, "V10", why);
    // A key that nobody can list; the signature fits it as well as it can.
    let by = |key: &[u8; 32], r: &[u8; 32], s: &[u8; 32], why: &str| {
        let parts = raw(r, s).with(KEY, &strings(&[b"ssh-ed25519", key]));
        desk.one(parts.armor()).refuse(UnknownSigner, "V13", why)
    };
    let listed = |key: &[u8; 32], why: &str| {
        let line = format!("ssh-ed25519 {}", data_encoding::BASE64.encode(&strings(&[b"ssh-ed25519", key])));
        let bob = Key::seeded(0xb0).operator_key().to_string();
        desk.word(desk.next_text().replacen(&bob, &line, 1).as_bytes()).refuse(BadOrder, "V8", why)
    };
    let (points, spellings) = small();
    let zero = [0u8; 32];
    let answer = |r: &[u8; 32]| (challenge(r, point.as_bytes(), &signed) * scalar(0xa1)).to_bytes();
    let mut identity = [0; 32];
    identity[0] = 1;

    let mut malleable = vec![];
    let mut s_plus = s;
    for times in 1..=7 {
        s_plus = sum(&s_plus, &L);
        malleable.push(v10(raw(&r, &s_plus), &format!("S + {times} L")));
    }
    let sk = Key::sk_ed25519(1);
    let sk_desk = Desk::of(&sk);
    let sk_parts = sk.parts(&sk_desk.payload());
    let sk_numbers = sk_parts.inner().1;
    let sk_s = sum(sk_numbers[32..].try_into().unwrap(), &L);
    let sk_sig = sk_parts.with_numbers(&[&sk_numbers[..32], &sk_s].concat()).armor();
    malleable.push(sk_desk.one(sk_sig).refuse(BadSignature, "V10", "S + L of a security key"));

    let mut low_a: Vec<Case> =
        points.iter().map(|point| by(point, &identity, &zero, "a key of small order")).collect();
    low_a.push(listed(&points[0], "a policy that lists the neutral point as a key"));
    low_a.push(listed(&points[1], "a policy that lists a point of order 8 as a key"));
    let mut odd_a: Vec<Case> =
        spellings.iter().map(|point| by(point, &identity, &zero, "a second spelling of a key")).collect();
    odd_a.push(listed(&spellings[0], "a policy that lists a second spelling of a point"));
    let low_r = points.iter().map(|r| v10(raw(r, &answer(r)), "R of small order, S to match")).collect();
    let odd_r =
        spellings.iter().map(|r| v10(raw(r, &answer(r)), "a second spelling of R, S to match")).collect();
    let format =
        |bytes: Vec<u8>, why: &str| desk.one(good.with_numbers(&bytes).armor()).refuse(Malformed, "V6", why);
    vec![
        class("primitive-s-plus-order", malleable),
        class(
            "primitive-ed25519-s-zero",
            vec![
                v10(raw(&r, &zero), "S = 0"),
                v10(raw(&identity, &zero), "S = 0 and R the neutral point"),
                v10(raw(&zero, &zero), "all zero"),
            ],
        ),
        class("primitive-low-order-key", low_a),
        class("primitive-low-order-r", low_r),
        class("primitive-noncanonical-key", odd_a),
        class("primitive-noncanonical-r", odd_r),
        class(
            "primitive-63-bytes",
            vec![
                format(numbers[1..].to_vec(), "the first byte gone"),
                format(numbers[..63].to_vec(), "the last byte gone"),
                format(vec![], "no bytes at all"),
            ],
        ),
        class(
            "primitive-65-bytes",
            vec![
                format([&[0], numbers.as_slice()].concat(), "a zero in front"),
                format([numbers.as_slice(), &[0]].concat(), "a zero behind"),
                format([numbers.as_slice(), &numbers].concat(), "128 bytes"),
            ],
        ),
        zero_keys(&desk, &good),
        speccheck(),
    ]
}

fn zero_keys(desk: &Desk, good: &Parts) -> Class {
    let unknown = |key: &[u8], inner: &[u8]| {
        let parts = good.with(KEY, key).with(INNER, inner);
        desk.one(parts.armor()).refuse(UnknownSigner, "V13", "a key of zeros")
    };
    let point = [&[4][..], &[0; 64]].concat();
    let p256 = Key::p256().parts(&desk.payload());
    let sk = Key::sk_ed25519(1).parts(&desk.payload());
    class(
        "primitive-zero-key",
        vec![
            unknown(&strings(&[b"ssh-ed25519", &[0; 32]]), &good.fields[INNER]),
            unknown(&strings(&[b"ecdsa-sha2-nistp256", b"nistp256", &point]), &p256.fields[INNER]),
            unknown(&strings(&[b"sk-ssh-ed25519@openssh.com", &[0; 32], b"ssh:"]), &sk.fields[INNER]),
        ],
    )
}

/// The cases of the paper's table by the orders of A and R. Only what holds without the cofactor, with points of
/// large order, counts; every verifier in the field agrees on those.
fn speccheck() -> Class {
    let alice = scalar(0xa1);
    let base = EdwardsPoint::mul_base(&alice);
    let torsion = EIGHT_TORSION[1];
    let mut cases = Vec::new();
    let mixed_key = base + torsion;
    let mixed = mixed_key.compress().to_bytes();
    let blob = strings(&[b"ssh-ed25519", &mixed]);
    // A has a part of small order, and stands in the policy: it is a key like another, only an odd one.
    let desk = Desk::with(authz::OperatorKey::from_blob(blob.clone()).unwrap().into());
    let signed = tbs(b"op.v1@writ", b"", b"sha512", &desk.payload());
    let sig = |r: &[u8; 32], s: &[u8; 32]| {
        let inner = strings(&[b"ssh-ed25519", &[r.as_slice(), s].concat()]);
        Key::ed25519().parts(&desk.payload()).with(KEY, &blob).with(INNER, &inner).armor()
    };
    let bad = |r: &[u8; 32], s: &[u8; 32], why: &str| desk.one(sig(r, s)).refuse(BadSignature, "V10", why);
    // Case 2: A mixed, R small, holding without the cofactor. Cases 3 to 5: A mixed, R mixed or large.
    let small = (0..8).flat_map(|n| [EIGHT_TORSION[n]]).find_map(|r| {
        let bytes = r.compress().to_bytes();
        let k = challenge(&bytes, &mixed, &signed);
        (r + torsion * k == EdwardsPoint::default()).then(|| (bytes, (k * alice).to_bytes()))
    });
    if let Some((r, s)) = small {
        cases.push(bad(&r, &s, "A of mixed order, R of small order, the plain equation holds"));
    }
    let (mut plain, mut cofactored, mut pure, mut pure_fails) = (None, None, None, None);
    for nonce in 1..200u64 {
        let nonce = Scalar::from(nonce);
        for (small, is_mixed) in [(EIGHT_TORSION[3], true), (EdwardsPoint::default(), false)] {
            let r = EdwardsPoint::mul_base(&nonce) + small;
            let bytes = r.compress().to_bytes();
            let k = challenge(&bytes, &mixed, &signed);
            let s = (nonce + k * alice).to_bytes();
            let holds = small + torsion * k == EdwardsPoint::default();
            let place = match (is_mixed, holds) {
                (true, true) => &mut plain,
                (true, false) => &mut cofactored,
                (false, true) => &mut pure,
                (false, false) => &mut pure_fails,
            };
            place.get_or_insert((bytes, s));
        }
    }
    let (r, s) = plain.unwrap();
    cases.push(
        desk.one(sig(&r, &s))
            .accept("V10", "A and R of mixed order, the plain equation holds: valid everywhere"),
    );
    let (r, s) = cofactored.unwrap();
    cases.push(bad(&r, &s, "A and R of mixed order, only the equation with the cofactor holds"));
    let (r, s) = pure.unwrap();
    cases.push(
        desk.one(sig(&r, &s)).accept("V10", "A of mixed order, R of large order, the plain equation holds"),
    );
    let (r, s) = pure_fails.unwrap();
    cases.push(bad(&r, &s, "A of mixed order, only the equation with the cofactor holds"));
    cases.push(bad(&r, &sum(&s, &L), "the same with S + L"));
    class("ed25519-mixed-order", cases)
}

/// The order of each curve, big-endian.
fn order_of(key: &Key) -> Vec<u8> {
    let hex = match key {
        Key::P384(_) => {
            "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973"
                .to_owned()
        }
        Key::P521(_) => {
            format!("01{}FA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409", "FF".repeat(32))
        }
        _ => "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551".to_owned(),
    };
    data_encoding::HEXUPPER.decode(hex.as_bytes()).unwrap()
}

/// a - b, of numbers as long as a.
fn difference(a: &[u8], b: &[u8]) -> Vec<u8> {
    let b =
        [vec![0; a.len().saturating_sub(b.len())], b[b.len().saturating_sub(a.len())..].to_vec()].concat();
    let (mut out, mut borrow) = (vec![0; a.len()], 0i16);
    for at in (0..a.len()).rev() {
        let digit = i16::from(a[at]) - i16::from(b[at]) - borrow;
        (out[at], borrow) = (digit as u8, i16::from(digit < 0));
    }
    out
}

/// a + b, of numbers as long as a, and a byte more.
fn big_sum(a: &[u8], b: &[u8]) -> Vec<u8> {
    let a = [&[0], a].concat();
    let b = [vec![0; a.len().saturating_sub(b.len())], b.to_vec()].concat();
    let (mut out, mut carry) = (vec![0; a.len()], 0u16);
    for at in (0..a.len()).rev() {
        carry += u16::from(a[at]) + u16::from(b[at]);
        out[at] = carry as u8;
        carry >>= 8;
    }
    out
}

struct Curve {
    key: Key,
    desk: Desk,
    good: Parts,
    r: Vec<u8>,
    s: Vec<u8>,
    n: Vec<u8>,
}

impl Curve {
    fn of(key: Key) -> Self {
        let desk = Desk::of(&key);
        let good = key.parts(&desk.payload());
        let numbers = good.inner().1;
        let mut rest = numbers.as_slice();
        let (r, s) = (take(&mut rest), take(&mut rest));
        Self { n: order_of(&key), key, desk, good, r, s }
    }

    fn sig(&self, r: &[u8], s: &[u8]) -> Vec<u8> {
        self.good.with_numbers(&strings(&[r, s])).armor()
    }

    fn bad(&self, r: &[u8], s: &[u8], why: &str) -> Case {
        self.desk.one(self.sig(r, s)).refuse(Malformed, "V11", why)
    }

    /// Kind, curve and point of the key.
    fn public(&self) -> [Vec<u8>; 3] {
        let blob = self.key.blob();
        let mut rest = blob.as_slice();
        [take(&mut rest), take(&mut rest), take(&mut rest)]
    }
}

fn ecdsa() -> Vec<Class> {
    let curves = [Key::p256(), Key::p384(), Key::p521(), Key::sk_p256(1)].map(Curve::of);
    let each = |name: &str, make: &dyn Fn(&Curve) -> Vec<Case>| {
        class(&format!("primitive-{name}"), curves.iter().flat_map(make).collect())
    };
    // A security key's blob has its application behind the point: three are enough for what is about keys.
    let keys = |name: &str, make: &dyn Fn(&Curve) -> Vec<Case>| {
        class(name, curves[..3].iter().flat_map(make).collect())
    };
    vec![
        each("r-zero", &|c| {
            vec![c.bad(b"", &c.s, "r = 0"), c.bad(&[0], &c.s, "r spelled 00"), c.bad(b"", b"", "both 0")]
        }),
        each("s-zero", &|c| vec![c.bad(&c.r, b"", "s = 0"), c.bad(&c.r, &[0], "s spelled 00")]),
        each("r-too-large", &|c| {
            vec![
                c.bad(&mpint(&c.n), &c.s, "r = n"),
                c.bad(&mpint(&big_sum(&c.n, &c.r)), &c.s, "r + n"),
                c.bad(&mpint(&vec![0xff; c.n.len()]), &c.s, "r as large as fits"),
            ]
        }),
        each("s-too-large", &|c| {
            vec![
                c.bad(&c.r, &mpint(&c.n), "s = n"),
                c.bad(&c.r, &mpint(&big_sum(&c.n, &c.s)), "s + n"),
                c.bad(&c.r, &[&[1][..], &[0; 80]].concat(), "s far too long"),
            ]
        }),
        each("high-s", &|c| {
            let other = c.sig(&c.r, &mpint(&difference(&c.n, &c.s)));
            let used = c.desk.but(|desk| desk.host.burned.push(desk.order.nonce));
            vec![
                c.desk.one(other.clone()).accept("V11", "n - s instead of s: OpenSSL makes both"),
                used.one(other).refuse(Replay, "V21", "n - s of an order that was carried out: no new order"),
            ]
        }),
        each("negative", &|c| {
            let negative = |number: &[u8]| [&[0x80 | number[0]], &number[1..]].concat();
            vec![c.bad(&negative(&c.r), &c.s, "r below 0"), c.bad(&c.r, &negative(&c.s), "s below 0")]
        }),
        each("padded", &|c| {
            let padded = |number: &[u8]| [&[0, 0], number].concat();
            vec![
                c.bad(&padded(&c.r), &c.s, "zeros before r"),
                c.bad(&c.r, &padded(&c.s), "zeros before s"),
                c.bad(&[&[0, 0, 0, 0], c.r.as_slice()].concat(), &padded(&c.s), "zeros before both"),
            ]
        }),
        keys("primitive-off-curve", &|c| {
            let [kind, curve, mut point] = c.public();
            let last = point.len() - 1;
            point[last] ^= 1;
            let sig = c.good.with(KEY, &strings(&[&kind, &curve, &point])).armor();
            let line = c.key.operator_key().to_string();
            let off = format!(
                "{} {}",
                c.key.name(),
                data_encoding::BASE64.encode(&strings(&[&kind, &curve, &point]))
            );
            let desk = Desk::new().but(|desk| desk.policy.operators[1].keys = vec![c.key.credential()]);
            vec![
                c.desk.one(sig).refuse(UnknownSigner, "V13", "a key beside the curve"),
                desk.word(desk.next_text().replacen(&line, &off, 1).as_bytes()).refuse(
                    BadOrder,
                    "V8",
                    "a policy that lists a key beside the curve",
                ),
            ]
        }),
        keys("primitive-compressed-point", &|c| {
            let [kind, curve, point] = c.public();
            let half = (point.len() - 1) / 2;
            let parity = point[2 * half] & 1;
            let forms = [
                ("compressed", [&[2 + parity], &point[1..=half]].concat()),
                ("hybrid", [&[6 + parity], &point[1..]].concat()),
                ("the point at infinity", vec![0]),
            ];
            forms
                .iter()
                .map(|(why, point)| {
                    let sig = c.good.with(KEY, &strings(&[&kind, &curve, point])).armor();
                    c.desk.one(sig).refuse(Malformed, "V8", why)
                })
                .collect()
        }),
        keys("primitive-curve-mismatch", &|c| {
            let [kind, curve, point] = c.public();
            let other: &[u8] = if curve == b"nistp256" { b"nistp384" } else { b"nistp256" };
            let renamed = [b"ecdsa-sha2-", other].concat();
            vec![
                c.desk.one(c.good.with(KEY, &strings(&[&kind, other, &point])).armor()).refuse(
                    Malformed,
                    "V9",
                    "the curve is not the type's",
                ),
                c.desk.one(c.good.with(KEY, &strings(&[&renamed, other, &point])).armor()).refuse(
                    Malformed,
                    "V9",
                    "a point of another curve",
                ),
                c.desk
                    .one(c.good.with(KEY, &strings(&[b"ecdsa-sha2-secp256k1", b"secp256k1", &point])).armor())
                    .refuse(KeyType, "V8", "a curve that SSH does not have"),
            ]
        }),
        keys("ecdsa-swapped-numbers", &|c| {
            vec![
                c.desk.one(c.sig(&c.s, &c.r)).refuse(BadSignature, "V10", "r and s changed places"),
                c.desk.one(c.sig(&[1], &[1])).refuse(BadSignature, "V10", "r = s = 1"),
            ]
        }),
    ]
}
