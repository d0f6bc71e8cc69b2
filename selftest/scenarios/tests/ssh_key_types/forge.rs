//! Signatures taken apart and put together, and security keys made of software.

use data_encoding::BASE64;
use sha2::{Digest as _, Sha256, Sha512};

use crate::desk::NAMESPACE;

pub(crate) fn put(bytes: &mut Vec<u8>, string: &[u8]) {
    bytes.extend_from_slice(&(string.len() as u32).to_be_bytes());
    bytes.extend_from_slice(string);
}

pub(crate) fn strings(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    fields.iter().for_each(|field| put(&mut bytes, field));
    bytes
}

pub(crate) fn take(rest: &mut &[u8]) -> Vec<u8> {
    let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
    let field = rest[4..4 + length].to_vec();
    *rest = &rest[4 + length..];
    field
}

pub(crate) fn mpint(magnitude: &[u8]) -> Vec<u8> {
    let first = magnitude.iter().position(|byte| *byte != 0).unwrap_or(magnitude.len());
    let rest = &magnitude[first..];
    if rest.first().is_some_and(|byte| *byte >= 0x80) { [&[0], rest].concat() } else { rest.to_vec() }
}

/// The armor of the real tool for a blob.
pub(crate) fn enarmor(blob: &[u8]) -> Vec<u8> {
    let b64 = BASE64.encode(blob);
    let lines: Vec<&[u8]> = b64.as_bytes().chunks(70).collect();
    let body = lines.join(&b'\n');
    [b"-----BEGIN SSH SIGNATURE-----\n", body.as_slice(), b"\n-----END SSH SIGNATURE-----\n"].concat()
}

pub(crate) fn dearmor(armor: &str) -> Vec<u8> {
    let b64: String = armor.lines().filter(|line| !line.starts_with("-----")).collect();
    BASE64.decode(b64.as_bytes()).unwrap()
}

pub(crate) fn blob_of(line: &str) -> Vec<u8> {
    BASE64.decode(line.split(' ').nth(1).unwrap().as_bytes()).unwrap()
}

/// An SSHSIG taken apart.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) version: u32,
    pub(crate) key: Vec<u8>,
    pub(crate) namespace: Vec<u8>,
    pub(crate) reserved: Vec<u8>,
    pub(crate) hash: Vec<u8>,
    pub(crate) inner: Vec<u8>,
}

impl Parts {
    pub(crate) fn of(armor: &str) -> Self {
        let blob = dearmor(armor);
        let mut rest = &blob[10..];
        let rest = &mut rest;
        Self {
            version: 1,
            key: take(rest),
            namespace: take(rest),
            reserved: take(rest),
            hash: take(rest),
            inner: take(rest),
        }
    }

    pub(crate) fn armor(&self) -> Vec<u8> {
        let fields = [&self.key[..], &self.namespace, &self.reserved, &self.hash, &self.inner];
        enarmor(&[b"SSHSIG".as_slice(), &self.version.to_be_bytes(), &strings(&fields)].concat())
    }

    /// With another algorithm name or another signature in the signature field.
    pub(crate) fn with_inner(&self, change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) -> Self {
        let mut rest = self.inner.as_slice();
        let (mut name, mut signature) = (take(&mut rest), take(&mut rest));
        change(&mut name, &mut signature);
        let inner = [strings(&[&name, &signature]).as_slice(), rest].concat();
        Self { inner, ..self.clone() }
    }
}

pub(crate) fn tbs(hash: &str, message: &[u8]) -> Vec<u8> {
    let digest =
        if hash == "sha256" { Sha256::digest(message).to_vec() } else { Sha512::digest(message).to_vec() };
    [b"SSHSIG".as_slice(), &strings(&[NAMESPACE.as_bytes(), b"", hash.as_bytes(), &digest])].concat()
}

/// A security key made of software.
pub(crate) enum Token {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

impl Token {
    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(ed25519_dalek::SigningKey::from_bytes(&[0x51; 32]))
    }

    pub(crate) fn p256() -> Self {
        Self::P256(p256::ecdsa::SigningKey::from_slice(&[0x52; 32]).unwrap())
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "sk-ssh-ed25519@openssh.com",
            Self::P256(_) => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    pub(crate) fn blob(&self, application: &str) -> Vec<u8> {
        let (name, application) = (self.name().as_bytes(), application.as_bytes());
        match self {
            Self::Ed25519(key) => strings(&[name, key.verifying_key().as_bytes(), application]),
            Self::P256(key) => {
                let point = key.verifying_key().to_sec1_point(false);
                strings(&[name, b"nistp256", point.as_bytes(), application])
            }
        }
    }

    pub(crate) fn line(&self, application: &str) -> String {
        format!("{} {}", self.name(), BASE64.encode(&self.blob(application)))
    }

    /// The signature that such a key makes over a message with these flags; `publickey` is its own form or
    /// a certificate for it.
    pub(crate) fn sign(
        &self,
        publickey: Vec<u8>,
        application: &str,
        hash: &str,
        flags: u8,
        message: &[u8],
    ) -> Parts {
        use p256::ecdsa::signature::Signer as _;
        let counter = 7u32.to_be_bytes();
        let signed = [
            Sha256::digest(application.as_bytes()).as_slice(),
            &[flags],
            &counter,
            &Sha256::digest(tbs(hash, message)),
        ]
        .concat();
        let signature = match self {
            Self::Ed25519(key) => key.sign(&signed).to_bytes().to_vec(),
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(&signed);
                let bytes = signature.to_bytes();
                strings(&[&mpint(&bytes[..32]), &mpint(&bytes[32..])])
            }
        };
        let inner = [strings(&[self.name().as_bytes(), &signature]).as_slice(), &[flags], &counter].concat();
        Parts {
            version: 1,
            key: publickey,
            namespace: NAMESPACE.as_bytes().to_vec(),
            reserved: vec![],
            hash: hash.as_bytes().to_vec(),
            inner,
        }
    }
}

impl Token {
    /// What a browser makes of the same key (`webauthn-sk-ecdsa-sha2-nistp256@openssh.com`).
    pub(crate) fn webauthn(&self, message: &[u8]) -> Parts {
        use p256::ecdsa::signature::Signer as _;
        let Self::P256(key) = self else { panic!("only P-256") };
        let origin = "https://example.org";
        let challenge = data_encoding::BASE64URL_NOPAD.encode(&tbs("sha512", message));
        let client = format!(r#"{{"type":"webauthn.get","challenge":"{challenge}","origin":"{origin}"}}"#);
        let counter = 7u32.to_be_bytes();
        let signed =
            [Sha256::digest(b"ssh:").as_slice(), &[1], &counter, &Sha256::digest(client.as_bytes())].concat();
        let signature: p256::ecdsa::Signature = key.sign(&signed);
        let bytes = signature.to_bytes();
        let numbers = strings(&[&mpint(&bytes[..32]), &mpint(&bytes[32..])]);
        let name = b"webauthn-sk-ecdsa-sha2-nistp256@openssh.com";
        let after = strings(&[origin.as_bytes(), client.as_bytes(), b""]);
        let inner = [strings(&[name, &numbers]).as_slice(), &[1], &counter, &after].concat();
        Parts { inner, ..self.sign(self.blob("ssh:"), "ssh:", "sha512", 1, message) }
    }
}

/// The sum of two numbers of one length; a carry makes it longer.
pub(crate) fn add(a: &[u8], b: &[u8]) -> Vec<u8> {
    let b = padded(b, a.len());
    let mut sum = vec![0; a.len() + 1];
    let mut carry = 0u16;
    for at in (0..a.len()).rev() {
        let digit = u16::from(a[at]) + u16::from(b[at]) + carry;
        sum[at + 1] = digit as u8;
        carry = digit >> 8;
    }
    sum[0] = carry as u8;
    sum
}

/// a - b, where b is smaller.
pub(crate) fn subtract(a: &[u8], b: &[u8]) -> Vec<u8> {
    let b = padded(b, a.len());
    let mut difference = vec![0; a.len()];
    let mut borrow = 0i16;
    for at in (0..a.len()).rev() {
        let digit = i16::from(a[at]) - i16::from(b[at]) - borrow;
        difference[at] = digit as u8;
        borrow = i16::from(digit < 0);
    }
    difference
}

pub(crate) fn padded(number: &[u8], length: usize) -> Vec<u8> {
    let first = number.len().saturating_sub(length);
    let rest = &number[first..];
    [vec![0; length - rest.len()].as_slice(), rest].concat()
}
