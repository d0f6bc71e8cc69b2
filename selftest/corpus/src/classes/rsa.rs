//! RSA: V8, V9, V10. Paddings as in RFC 8017 section 9.2 and the known forgeries of it, signed with the real key, so
//! that only the padding is wrong.

use authz::RefusalCode::{BadSignature, KeyType, Malformed};
use sha2::{Digest as _, Sha256, Sha512};

use crate::base::{Case, Class, Desk, class};
use crate::forge::{INNER, KEY, Key, Parts, mpint, strings, tbs};
use crate::rsa::{RsaKey, info};

pub(super) fn classes() -> Vec<Class> {
    let key = RsaKey::bits3072();
    let rsa = Key::Rsa(key.clone());
    let desk = Desk::of(&rsa);
    let payload = desk.payload();
    let good = rsa.parts(&payload);
    let signed = tbs(b"op.v1@writ", b"", b"sha512", &payload);
    let numbers = good.inner().1;
    let case = |parts: Parts, code, rule: &str, why: &str| desk.one(parts.armor()).refuse(code, rule, why);
    let with = |bytes: Vec<u8>| good.with_numbers(&bytes);
    let public = |e: &[u8], n: &[u8]| good.with(KEY, &strings(&[b"ssh-rsa", &mpint(e), &mpint(n)]));
    let length = |bytes: Vec<u8>, why: &str| case(with(bytes), Malformed, "V6", why);
    // The first whose signature is so small that n can be added within the modulus's length.
    let above = (0..).find_map(|nonce: u8| {
        let desk = desk.but(|desk| desk.order.nonce = protocol::Nonce::from_bytes([nonce; 16]));
        let parts = rsa.parts(&desk.payload());
        let (mut sum, mut carry) = (vec![0; 384], 0u16);
        let (s, n) = (parts.inner().1, key.n());
        for at in (0..384).rev() {
            carry += u16::from(s[at]) + u16::from(n[at]);
            sum[at] = carry as u8;
            carry >>= 8;
        }
        (carry == 0).then(|| {
            desk.one(parts.with_numbers(&sum).armor()).refuse(
                BadSignature,
                "V10",
                "s + n, as long as the modulus",
            )
        })
    });
    vec![
        weak(),
        class(
            "primitive-rsa-sha1",
            vec![
                case(good.with_name(b"ssh-rsa"), Malformed, "V9", "named ssh-rsa, which is SHA-1"),
                case(
                    with(key.sign(&key.padded(info(20), &[7; 20]))).with_name(b"ssh-rsa"),
                    Malformed,
                    "V9",
                    "SHA-1 in name and padding",
                ),
                case(
                    with(key.sign(&key.padded(info(20), &Sha512::digest(&signed)[..20]))),
                    BadSignature,
                    "V10",
                    "20 bytes as SHA-1 under the name of SHA-512",
                ),
            ],
        ),
        class(
            "primitive-rsa-length",
            vec![
                length(numbers[1..].to_vec(), "the first byte gone"),
                length(numbers[..383].to_vec(), "the last byte gone"),
                length([&[0], numbers.as_slice()].concat(), "a zero in front"),
                length([numbers.as_slice(), &[0]].concat(), "a zero behind"),
                length(vec![], "nothing"),
            ],
        ),
        padding(&desk, &key, &signed, &good),
        class(
            "rsa-out-of-range",
            vec![
                above.unwrap(),
                case(with(key.n()), BadSignature, "V10", "s = n"),
                case(with(vec![0; 384]), BadSignature, "V10", "s = 0"),
                case(with([vec![0; 383], vec![1]].concat()), BadSignature, "V10", "s = 1"),
                case(with(vec![0xff; 384]), BadSignature, "V10", "s as large as fits"),
            ],
        ),
        exponents(&public, &case),
        class(
            "rsa-modulus",
            vec![
                case(public(&key.e(), &even(key.n())), KeyType, "V8", "an even modulus"),
                case(public(&key.e(), &odd(1025)), KeyType, "V8", "8200 bits"),
                case(public(&key.e(), &odd(2048)), KeyType, "V8", "16384 bits"),
                case(public(&key.e(), &[3]), KeyType, "V8", "n = 3"),
            ],
        ),
    ]
}

fn even(mut n: Vec<u8>) -> Vec<u8> {
    let last = n.len() - 1;
    n[last] &= 0xfe;
    n
}

/// An odd number of so many bytes that is no product of primes of anybody.
fn odd(length: usize) -> Vec<u8> {
    [&[0xc1], vec![0x5a; length - 2].as_slice(), &[0x01]].concat()
}

/// Valid signatures of keys that are too short.
fn weak() -> Class {
    let mut cases = Vec::new();
    let desk = Desk::new();
    for (key, why) in [(RsaKey::bits1024(), "1024 bits"), (RsaKey::bits2048(), "2048 bits")] {
        let key = Key::Rsa(key);
        cases.push(desk.one(key.sign(&desk.payload())).refuse(KeyType, "V8", why));
    }
    let good = Key::Rsa(RsaKey::bits2048()).parts(&desk.payload());
    for (n, why) in [(vec![0x7f; 384], "3071 bits"), (odd(256), "2048 bits of nobody")] {
        let parts = good.with(KEY, &strings(&[b"ssh-rsa", &[1, 0, 1], &mpint(&n)]));
        cases.push(desk.one(parts.armor()).refuse(KeyType, "V8", why));
    }
    class("primitive-rsa-weak", cases)
}

fn exponents(
    public: &dyn Fn(&[u8], &[u8]) -> Parts,
    case: &dyn Fn(Parts, authz::RefusalCode, &str, &str) -> Case,
) -> Class {
    let n = RsaKey::bits3072().n();
    let mut cases: Vec<Case> = [
        (&[1][..], "e = 1: anybody can sign"),
        (&[3], "e = 3"),
        (&[1, 0, 0], "e even"),
        (&[0xff, 0xff], "e = 65535"),
        (&[2, 0, 0, 0, 1], "e above 33 bits"),
        (&[1; 32], "e of 256 bits"),
    ]
    .iter()
    .map(|(e, why)| case(public(e, &n), KeyType, "V8", why))
    .collect();
    let three = Key::Rsa(RsaKey::exponent3());
    let desk = Desk::new();
    cases.push(desk.one(three.sign(&desk.payload())).refuse(KeyType, "V8", "a valid signature with e = 3"));
    class("rsa-exponent", cases)
}

fn padding(desk: &Desk, key: &RsaKey, signed: &[u8], good: &Parts) -> Class {
    let digest = Sha512::digest(signed).to_vec();
    let right = key.padded(info(64), &digest);
    let bad = |padded: Vec<u8>, why: &str| {
        let inner = strings(&[b"rsa-sha2-512", &key.sign(&padded)]);
        desk.one(good.with(INNER, &inner).armor()).refuse(BadSignature, "V10", why)
    };
    let changed = |at: usize, to: u8| {
        let mut padded = right.clone();
        padded[at] = to;
        padded
    };
    let filler = |length: usize, tail: &[u8]| {
        let rest = key.size() - 3 - length - tail.len();
        [&[0, 1][..], &vec![0xff; length], &[0], tail, &vec![0; rest]].concat()
    };
    let der = [info(64), &digest].concat();
    // DigestInfo without the NULL of its parameters.
    let bare = [&[0x30, 0x4f, 0x30, 0x0b][..], &info(64)[4..15], &[4, 0x40], &digest].concat();
    class(
        "rsa-padding",
        vec![
            bad(filler(8, &der), "little padding and garbage behind (Bleichenbacher 2006)"),
            bad(filler(200, &der), "garbage behind a long padding"),
            bad(changed(1, 2), "block type 2"),
            bad(changed(0, 1), "the first byte not zero"),
            bad(changed(20, 0xfe), "a byte of the padding differs"),
            bad(changed(key.size() - 64 - info(64).len() - 1, 0xff), "no zero after the padding"),
            bad(key.padded(info(32), &digest[..32]), "SHA-256 in the padding, SHA-512 in the name"),
            bad(key.padded(info(64), &Sha512::digest(b"another message")), "another message"),
            bad(key.padded(&bare[..bare.len() - 64], &digest), "no NULL in the DigestInfo"),
            bad(key.padded(b"", &digest), "no DigestInfo"),
            bad(key.padded(info(32), &Sha256::digest(signed)), "SHA-256 under the name of SHA-512"),
        ],
    )
}
