use data_encoding::BASE64;

use super::*;
use crate::SecretKey;
use crate::policy::tests::{alice, mallory};

const MESSAGE: &[u8] = b"{\"v\":1}\n";

fn blob(armored: &str) -> Vec<u8> {
    dearmor(armored).unwrap()
}

fn check(armored: &str) -> Result<(), SigError> {
    verify(armored, Namespace::Op, MESSAGE, &alice().public())
}

/// A blob from its fields, so that each can be made wrong.
struct Forge<'a> {
    magic: &'a [u8],
    version: u32,
    key_type: &'a [u8],
    key: &'a [u8],
    namespace: &'a [u8],
    reserved: &'a [u8],
    hash: &'a [u8],
    sig_type: &'a [u8],
    sig: &'a [u8],
}

impl Forge<'_> {
    fn armor(&self) -> String {
        let mut key = Vec::new();
        put_string(&mut key, self.key_type);
        put_string(&mut key, self.key);
        let mut inner = Vec::new();
        put_string(&mut inner, self.sig_type);
        put_string(&mut inner, self.sig);
        let mut blob = self.magic.to_vec();
        blob.extend_from_slice(&self.version.to_be_bytes());
        for field in [key.as_slice(), self.namespace, self.reserved, self.hash, &inner] {
            put_string(&mut blob, field);
        }
        enarmor(&blob)
    }
}

/// V1, to the last byte.
#[test]
fn the_longest_armor_that_is_read() {
    let longest: Vec<u8> = (11_000..13_000)
        .map(|length| vec![7; length])
        .find(|blob| {
            enarmor(blob).trim_end().len() == Envelope::MAX_ARMOR
                || enarmor(blob).len() == Envelope::MAX_ARMOR
        })
        .unwrap_or_default();
    assert!(!longest.is_empty(), "there is one of exactly that length");
    let armored = enarmor(&longest);
    let exact = if armored.len() == Envelope::MAX_ARMOR { armored.as_str() } else { armored.trim_end() };
    assert_eq!(dearmor(exact), Ok(longest));
    assert_eq!(dearmor(&format!("{exact}\n")), Err(SigError::TooLarge));
}

#[test]
fn our_own_signatures_verify_and_bind_message_namespace_and_key() {
    let sig = alice().sign(Namespace::Op, MESSAGE);
    check(&sig).unwrap();
    check(sig.trim_end()).unwrap();
    assert_eq!(verify(&sig, Namespace::Op, b"other", &alice().public()), Err(SigError::Wrong));
    assert_eq!(verify(&sig, Namespace::Op, MESSAGE, &mallory().public()), Err(SigError::Wrong));
    assert_eq!(
        verify(&sig, Namespace::Job, MESSAGE, &alice().public()),
        Err(SigError::Namespace { expected: Namespace::Job })
    );
}

#[test]
fn the_armor_has_one_form() {
    let sig = alice().sign(Namespace::Op, MESSAGE);
    let b64 = BASE64.encode(&blob(&sig));
    let one_line = format!("{BEGIN}{b64}\n{END}\n");
    let wrapped = |n: usize| {
        let lines: Vec<String> =
            b64.as_bytes().chunks(n).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
        format!("{BEGIN}{}\n{END}\n", lines.join("\n"))
    };
    let cases = [
        ("leading text", format!("hello\n{sig}")),
        ("leading blank", format!("\n{sig}")),
        ("trailing text", format!("{sig}hello\n")),
        ("trailing blank", format!("{sig}\n")),
        ("two blocks", format!("{sig}{sig}")),
        ("wrong label", sig.replace("SSH SIGNATURE", "PGP SIGNATURE")),
        ("no footer", sig.replace(END, "")),
        ("no header", sig.replace(BEGIN, "")),
        ("CRLF", sig.replace('\n', "\r\n")),
        ("lone CR", sig.replace('\n', "\r")),
        ("one line", one_line),
        ("64 columns", wrapped(64)),
        ("1 column", wrapped(1)),
        ("inner space", sig.replacen("U1NI", "U1NI ", 1)),
        ("bad character", sig.replacen("U1NI", "U1N!", 1)),
        ("empty", String::new()),
        ("empty body", format!("{BEGIN}{END}\n")),
        ("NUL", sig.replacen("U1NI", "U1N\0", 1)),
        ("BOM", format!("\u{feff}{sig}")),
    ];
    for (what, bad) in cases {
        let error = check(&bad).expect_err(what);
        assert!(matches!(error, SigError::Armor | SigError::Format(_)), "{what}: {error}");
    }
    assert_eq!(check(&"A".repeat(Envelope::MAX_ARMOR + 1)), Err(SigError::TooLarge));
    // Spare bits in the last base64 character.
    let body = sig.trim_end().trim_end_matches(END).trim_end();
    if body.ends_with('=') {
        let at = body.trim_end_matches('=').len() - 1;
        let mut bytes = sig.clone().into_bytes();
        bytes[at] += 1;
        assert!(check(&String::from_utf8(bytes).unwrap()).is_err());
    }
}

#[test]
fn every_field_of_the_blob_counts() {
    let alice = alice();
    let signed = |hash| signed_bytes(Namespace::Op, hash, MESSAGE);
    let sign = |bytes: &[u8]| {
        use ed25519_dalek::Signer as _;
        ed25519_dalek::SigningKey::from_bytes(&[0xa1; 32]).sign(bytes).to_bytes()
    };
    let (sig512, sig256) = (sign(&signed(Hash::Sha512)), sign(&signed(Hash::Sha256)));
    let key = *alice.public().to_wire().as_bytes();
    let good = || Forge {
        magic: MAGIC,
        version: 1,
        key_type: b"ssh-ed25519",
        key: &key,
        namespace: b"op.v1@writ",
        reserved: b"",
        hash: b"sha512",
        sig_type: b"ssh-ed25519",
        sig: &sig512,
    };
    check(&good().armor()).unwrap();
    check(&Forge { hash: b"sha256", sig: &sig256, ..good() }.armor()).unwrap();

    let long = [sig512.as_slice(), &[0]].concat();
    let format: [(&str, Forge<'_>); 9] = [
        ("magic", Forge { magic: b"SSHSIH", ..good() }),
        ("version 0", Forge { version: 0, ..good() }),
        ("version 2", Forge { version: 2, ..good() }),
        ("version max", Forge { version: u32::MAX, ..good() }),
        ("reserved", Forge { reserved: b"x", ..good() }),
        ("short key", Forge { key: &key[..31], ..good() }),
        ("63 bytes", Forge { sig: &sig512[..63], ..good() }),
        ("65 bytes", Forge { sig: &long, ..good() }),
        ("signature type", Forge { sig_type: b"ssh-rsa", ..good() }),
    ];
    for (what, forged) in format {
        let error = check(&forged.armor()).expect_err(what);
        assert!(matches!(error, SigError::Format(_)), "{what}: {error}");
    }
    for hash in [&b"sha1"[..], b"sha384", b"SHA512", b"sha512 ", b""] {
        assert_eq!(check(&Forge { hash, ..good() }.armor()), Err(SigError::Hash));
    }
    for namespace in [
        &b""[..],
        b"file",
        b"op.v1@writ\0",
        b"OP.v1@writ",
        b"op.v1@wri",
        b"op.v1@writx",
        b"job.v1@writ",
        b"\xffop",
    ] {
        let error = check(&Forge { namespace, ..good() }.armor());
        assert_eq!(error, Err(SigError::Namespace { expected: Namespace::Op }));
    }
    // The hash named is not the hash signed.
    assert_eq!(check(&Forge { hash: b"sha256", ..good() }.armor()), Err(SigError::Wrong));
    for kind in
        ["ssh-rsa", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256", "ssh-ed25519-cert-v01@openssh.com"]
    {
        let error = check(&Forge { key_type: kind.as_bytes(), ..good() }.armor());
        assert_eq!(error, Err(SigError::KeyType(kind.to_owned())), "refused by name");
    }
    assert!(
        matches!(check(&Forge { key_type: b"evil\x1b[2J", ..good() }.armor()), Err(SigError::KeyType(n)) if n == "unknown to us")
    );
    assert_eq!(check(&Forge { key: &[0; 32], ..good() }.armor()), Err(SigError::WeakKey));
}

#[test]
fn no_prefix_no_extension_no_length_is_accepted() {
    let blob = blob(&alice().sign(Namespace::Op, MESSAGE));
    for cut in 0..blob.len() {
        assert!(check(&enarmor(&blob[..cut])).is_err(), "cut at {cut}");
    }
    assert!(check(&enarmor(&[blob.as_slice(), &[0]].concat())).is_err());
    // Every byte, with several wrong values: among them all length fields with huge lengths.
    for at in 0..blob.len() {
        for change in [1u8, 0x80, 0xff] {
            let mut bad = blob.clone();
            bad[at] ^= change;
            assert!(check(&enarmor(&bad)).is_err(), "byte {at} ^ {change:#x}");
        }
    }
}

/// S + L is a second valid signature for sloppy verifiers (OpenSSH before 10.4 takes it).
#[test]
fn malleated_signatures_are_refused() {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut blob = blob(&alice().sign(Namespace::Op, MESSAGE));
    let s = blob.len() - 32;
    let mut carry = 0u16;
    for (byte, l) in blob[s..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(l) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    assert_eq!(check(&enarmor(&blob)), Err(SigError::Wrong));
}

#[test]
fn keys_are_compared_by_their_bytes() {
    let other = SecretKey::from_seed(&[0xa2; 32]);
    let sig = other.sign(Namespace::Op, MESSAGE);
    let decoded = decode(&sig, Namespace::Op).unwrap();
    assert_eq!(*decoded.claimed_key(), other.public());
    assert_ne!(*decoded.claimed_key(), alice().public());
}
