use p256::ecdsa::signature::Signer as _;

use super::*;
use crate::SecretKey;
use crate::policy::tests::alice;
use crate::sshsig::{MAGIC, enarmor};
use crate::wire::put_string;

const MESSAGE: &[u8] = b"{\"v\":1}\n";
const NOW: u64 = 1_763_771_000;
const LISTED: Listed = Listed { verify_required: false, max_validity_s: 16 * 3_600 };

pub(crate) fn strings(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    fields.iter().for_each(|field| put_string(&mut bytes, field));
    bytes
}

/// An armored signature from its parts.
pub(crate) fn sig(publickey: &[u8], namespace: Namespace, inner: &[u8]) -> String {
    let fields = [publickey, namespace.as_str().as_bytes(), b"", b"sha512", inner];
    enarmor(&[MAGIC.as_slice(), &1u32.to_be_bytes(), &strings(&fields)].concat())
}

/// What an Ed25519 key makes for a message under `publickey`: its own form, or a certificate.
pub(crate) fn sign_as(key: &SecretKey, publickey: &[u8], namespace: Namespace, message: &[u8]) -> String {
    let raw = raw(key, &signed_bytes(namespace, Hash::Sha512, message));
    sig(publickey, namespace, &strings(&[b"ssh-ed25519", &raw]))
}

fn raw(key: &SecretKey, bytes: &[u8]) -> [u8; 64] {
    use ed25519_dalek::Signer as _;
    ed25519_dalek::SigningKey::from_bytes(&key.seed()).sign(bytes).to_bytes()
}

pub(crate) fn ca() -> SecretKey {
    SecretKey::from_seed(&[0xca; 32])
}

/// A certificate from its fields, so that each can be made wrong.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) kind: &'static str,
    pub(crate) subject: Vec<u8>,
    pub(crate) serial: u64,
    pub(crate) role: u32,
    pub(crate) key_id: Vec<u8>,
    pub(crate) principals: Vec<u8>,
    pub(crate) times: (u64, u64),
    pub(crate) critical: Vec<u8>,
    pub(crate) extensions: Vec<u8>,
    pub(crate) reserved: Vec<u8>,
    pub(crate) ca: Vec<u8>,
    pub(crate) trailing: Vec<u8>,
}

impl Draft {
    pub(crate) fn of(key: &SecretKey, principals: &[&[u8]]) -> Self {
        Self {
            kind: "ssh-ed25519-cert-v01@openssh.com",
            subject: strings(&[key.public().to_wire().as_bytes()]),
            serial: 7,
            role: 1,
            key_id: b"id".to_vec(),
            principals: strings(principals),
            times: (NOW - 3_600, NOW + 3_600),
            critical: vec![],
            extensions: vec![],
            reserved: vec![],
            ca: ca().public().blob(),
            trailing: vec![],
        }
    }

    fn unsigned(&self) -> Vec<u8> {
        let mut bytes = strings(&[self.kind.as_bytes(), b"nonce"]);
        bytes.extend_from_slice(&self.subject);
        bytes.extend_from_slice(&self.serial.to_be_bytes());
        bytes.extend_from_slice(&self.role.to_be_bytes());
        bytes.extend_from_slice(&strings(&[&self.key_id, &self.principals]));
        bytes.extend_from_slice(&self.times.0.to_be_bytes());
        bytes.extend_from_slice(&self.times.1.to_be_bytes());
        bytes.extend_from_slice(&strings(&[&self.critical, &self.extensions, &self.reserved, &self.ca]));
        bytes
    }

    /// With this signature by the CA.
    fn with(&self, proof: &[u8]) -> Vec<u8> {
        [self.unsigned(), strings(&[proof]), self.trailing.clone()].concat()
    }

    /// Signed by the Ed25519 CA.
    pub(crate) fn signed(&self) -> Vec<u8> {
        self.with(&strings(&[b"ssh-ed25519", &raw(&ca(), &self.unsigned())]))
    }
}

/// Decides as a host does whose policy lists the CA.
fn check(cert: &[u8]) -> Result<(), SigError> {
    let armored = sign_as(&alice(), cert, Namespace::Op, MESSAGE);
    decode_operator(&armored, Namespace::Op)?.verify(MESSAGE, LISTED, NOW).map(drop)
}

fn good() -> Draft {
    Draft::of(&alice(), &[b"alice"])
}

#[test]
fn an_ed25519_signature_is_the_same_to_both_decoders() {
    let armored = alice().sign(Namespace::Op, MESSAGE);
    let signature = decode_operator(&armored, Namespace::Op).unwrap();
    assert!(matches!(signature.claim(), Claim::Key(raw) if raw == alice().public().blob()));
    assert_eq!(signature.verify_by(&alice().public().into(), MESSAGE), Ok(()));
    assert_eq!(signature.verify_by(&ca().public().into(), MESSAGE), Err(SigError::Wrong));
    assert_eq!(signature.verify_by(&alice().public().into(), b"x"), Err(SigError::Wrong));
    assert_eq!(
        decode_operator(&armored, Namespace::Job),
        Err(SigError::Namespace { expected: Namespace::Job })
    );
    // A weak key of good form costs no mathematics until somebody lists it, which nobody can.
    let weak = sign_as(&alice(), &strings(&[b"ssh-ed25519", &[0; 32]]), Namespace::Op, MESSAGE);
    let signature = decode_operator(&weak, Namespace::Op).unwrap();
    assert_eq!(signature.verify(MESSAGE, LISTED, NOW), Err(SigError::WeakKey));
}

/// What an agent or token gave back must be by the very key or certificate that was asked.
#[test]
fn a_signature_that_was_asked_for_is_by_the_one_that_was_asked() {
    let identity = |blob: Vec<u8>| crate::keys::OperatorIdentity::from_blob(blob).unwrap();
    let key = identity(alice().public().blob());
    let (cert, other) = (good().signed(), Draft { serial: 8, ..good() }.signed());
    let by = |armored: &str, identity: &crate::keys::OperatorIdentity, message: &[u8], now: u64| {
        decode_operator(armored, Namespace::Op).unwrap().verify_as(identity, message, now)
    };
    let plain = alice().sign(Namespace::Op, MESSAGE);
    let certified = sign_as(&alice(), &cert, Namespace::Op, MESSAGE);
    assert_eq!(by(&plain, &key, MESSAGE, NOW), Ok(()));
    assert_eq!(by(&certified, &identity(cert.clone()), MESSAGE, NOW), Ok(()));
    assert_eq!(by(&plain, &identity(ca().public().blob()), MESSAGE, NOW), Err(SigError::Wrong));
    assert_eq!(by(&plain, &identity(cert.clone()), MESSAGE, NOW), Err(SigError::Wrong));
    assert_eq!(by(&certified, &key, MESSAGE, NOW), Err(SigError::Wrong));
    assert_eq!(by(&certified, &identity(other), MESSAGE, NOW), Err(SigError::Wrong));
    assert_eq!(by(&plain, &key, b"x", NOW), Err(SigError::Wrong));
    assert_eq!(by(&certified, &identity(cert.clone()), b"x", NOW), Err(SigError::Wrong));
    let late = by(&certified, &identity(cert.clone()), MESSAGE, NOW + 3_600);
    assert!(matches!(late, Err(SigError::Certificate(_))), "{late:?}");
    // How long a certificate may be valid is the policy's to say.
    let long = Draft { times: (NOW - 1, NOW + 400 * 24 * 3_600), ..good() }.signed();
    let armored = sign_as(&alice(), &long, Namespace::Op, MESSAGE);
    assert_eq!(by(&armored, &identity(long), MESSAGE, NOW), Ok(()));
    let signature = decode_operator(&certified, Namespace::Op).unwrap();
    assert_eq!(signature.verify_by(&alice().public().into(), MESSAGE), Err(SigError::Wrong));
}

#[test]
fn a_certificate_counts_within_its_times() {
    check(&good().signed()).unwrap();
    for (times, fine) in [
        ((NOW, NOW + 1), true),
        ((NOW - 1, NOW + 1), true),
        ((NOW + 1, NOW + 2), false),
        ((NOW - 2, NOW), false),
        ((NOW - 8 * 3_600, NOW + 8 * 3_600), true),
        ((NOW - 8 * 3_600, NOW + 8 * 3_600 + 1), false),
        ((0, u64::MAX), false),
        ((NOW, NOW), false),
        ((NOW + 5, NOW - 5), false),
        ((u64::MAX, 0), false),
    ] {
        let verdict = check(&Draft { times, ..good() }.signed());
        assert_eq!(verdict.is_ok(), fine, "{times:?}: {verdict:?}");
        assert!(fine || matches!(verdict, Err(SigError::Certificate(_))), "{times:?}");
    }
}

/// Rule V15, each part of it.
#[test]
fn certificates_that_do_not_count_are_refused_by_rule() {
    let option = |name: &[u8], data: &[u8]| strings(&[name, data]);
    let seventeen: Vec<u8> = strings(&[b"alice".as_slice(); 17]);
    let nested = Draft { ca: good().signed(), ..good() };
    let cases: [(&str, Draft); 15] = [
        ("for a host", Draft { role: 2, ..good() }),
        ("for nobody", Draft { role: 0, ..good() }),
        ("no principals", Draft { principals: vec![], ..good() }),
        ("17 principals", Draft { principals: seventeen, ..good() }),
        ("empty principal", Draft { principals: strings(&[b""]), ..good() }),
        ("wildcard", Draft { principals: strings(&[b"al*"]), ..good() }),
        ("comma", Draft { principals: strings(&[b"alice,bob"]), ..good() }),
        ("negation", Draft { principals: strings(&[b"!bob"]), ..good() }),
        ("NUL", Draft { principals: strings(&[b"alice\0"]), ..good() }),
        ("long key id", Draft { key_id: vec![b'x'; 257], ..good() }),
        ("force-command", Draft { critical: option(b"force-command", b"x"), ..good() }),
        ("unknown option", Draft { critical: option(b"x@y", b""), ..good() }),
        ("data in verify-required", Draft { critical: option(b"verify-required", b"x"), ..good() }),
        ("PIN of no security key", Draft { critical: option(b"verify-required", b""), ..good() }),
        ("certificate as CA", nested),
    ];
    for (what, draft) in cases {
        let verdict = check(&draft.signed());
        assert!(matches!(verdict, Err(SigError::Certificate(_))), "{what}: {verdict:?}");
    }
    let format: [(&str, Draft); 6] = [
        ("reserved", Draft { reserved: b"x".to_vec(), ..good() }),
        ("trailing", Draft { trailing: vec![0], ..good() }),
        ("half a principal", Draft { principals: vec![0, 0, 0, 9, b'a'], ..good() }),
        ("half an option", Draft { critical: strings(&[b"verify-required"]), ..good() }),
        ("half an extension", Draft { extensions: strings(&[b"x"]), ..good() }),
        ("short key", Draft { subject: strings(&[&[1; 31]]), ..good() }),
    ];
    for (what, draft) in format {
        let verdict = check(&draft.signed());
        assert!(matches!(verdict, Err(SigError::Format(_))), "{what}: {verdict:?}");
    }
    check(&Draft { extensions: option(b"no-touch-required", b""), ..good() }.signed()).unwrap();
    // Whoever is certified must be sound, and the CA must have signed exactly this.
    let weak = Draft { subject: strings(&[&[0; 32]]), ..good() };
    assert_eq!(check(&weak.signed()), Err(SigError::WeakKey));
    let other = Draft { serial: 8, ..good() };
    let moved = good().with(&strings(&[b"ssh-ed25519", &raw(&ca(), &other.unsigned())]));
    assert!(matches!(check(&moved), Err(SigError::Certificate(_))));
    let blank = good().with(&strings(&[b"ssh-ed25519", &[0; 64]]));
    assert!(matches!(check(&blank), Err(SigError::Certificate(_))));
    let renamed = Draft { kind: "ssh-dss-cert-v01@openssh.com", ..good() };
    assert!(matches!(check(&renamed.signed()), Err(SigError::NeverAccepted(_))));
}

/// Every byte of certificate and signature, with several wrong values, and every prefix.
#[test]
fn no_byte_of_a_certificate_may_be_otherwise() {
    let blob = good().signed();
    for at in 0..blob.len() {
        for change in [1u8, 0x80, 0xff] {
            let mut bad = blob.clone();
            bad[at] ^= change;
            assert!(check(&bad).is_err(), "byte {at} ^ {change:#x}");
        }
        assert!(check(&blob[..at]).is_err(), "cut at {at}");
    }
}

fn token_blob(application: &[u8]) -> Vec<u8> {
    let point = token().verifying_key().to_sec1_point(false);
    strings(&[b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", point.as_bytes(), application])
}

fn token() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[0x52; 32]).unwrap()
}

fn number(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let rest = &bytes[zeros..];
    if rest[0] >= 0x80 { [&[0], rest].concat() } else { rest.to_vec() }
}

/// What a security key signs (OpenSSH PROTOCOL.u2f), made in software.
fn touched(message: &[u8], flags: u8) -> Vec<u8> {
    use sha2::Digest as _;
    let counter = 3u32.to_be_bytes();
    let (application, message) = (sha2::Sha256::digest(b"ssh:"), sha2::Sha256::digest(message));
    let signed = [&application[..], &[flags], &counter, &message[..]].concat();
    let signature: p256::ecdsa::Signature = token().sign(&signed);
    let bytes = signature.to_bytes();
    let numbers = strings(&[&number(&bytes[..32]), &number(&bytes[32..])]);
    let name = b"sk-ecdsa-sha2-nistp256@openssh.com";
    [strings(&[name, &numbers]).as_slice(), &[flags], &counter].concat()
}

/// Rule V12. The words say what to do.
#[test]
fn security_keys_must_be_touched() {
    let blob = token_blob(b"ssh:");
    let check = |flags, verify_required| {
        let inner = touched(&signed_bytes(Namespace::Op, Hash::Sha512, MESSAGE), flags);
        let listed = Listed { verify_required, ..LISTED };
        let signature = decode_operator(&sig(&blob, Namespace::Op, &inner), Namespace::Op).unwrap();
        signature.verify(MESSAGE, listed, NOW).map(drop)
    };
    for flags in 0..=u8::MAX {
        for verify_required in [false, true] {
            let expected = match flags {
                0x05 => Ok(()),
                0x01 if verify_required => Err(SigError::NotVerified),
                0x01 => Ok(()),
                0x00 | 0x04 => Err(SigError::NoTouch),
                _ => Err(SigError::Flags),
            };
            assert_eq!(check(flags, verify_required), expected, "{flags:#x}, {verify_required}");
        }
    }
    for application in [b"https://evil".as_slice(), b"SSH:", b"ssh", b"", &[b's'; 300], b"ssh:\xff"] {
        let error = OperatorKey::from_blob(token_blob(application)).unwrap_err();
        assert!(error.to_string().contains("application must begin with ssh:"), "{error}");
    }
    OperatorKey::from_blob(token_blob(b"ssh:work")).unwrap();
}

/// A CA may live in a security key. Its signatures need a touch too.
#[test]
fn a_ca_in_a_security_key_must_be_touched() {
    let draft = Draft { ca: token_blob(b"ssh:"), ..good() };
    check(&draft.with(&touched(&draft.unsigned(), 1))).unwrap();
    check(&draft.with(&touched(&draft.unsigned(), 5))).unwrap();
    for flags in [0, 4, 0x41] {
        let verdict = check(&draft.with(&touched(&draft.unsigned(), flags)));
        assert!(matches!(verdict, Err(SigError::Certificate(_))), "{flags}: {verdict:?}");
    }
}
