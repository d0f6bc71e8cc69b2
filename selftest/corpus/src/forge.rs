//! Signatures taken apart and put together, and keys of every type made from seeds: nothing secret is kept.

use authz::policy::Credential;
use authz::{Namespace, OperatorKey, SecretKey};
use data_encoding::BASE64;
use ed25519_dalek::Signer as _;
use sha2::{Digest as _, Sha256, Sha512};

use crate::rsa::RsaKey;

/// SSH strings, one after the other.
pub fn strings(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u32).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// The next SSH string of well-formed bytes.
pub fn take(rest: &mut &[u8]) -> Vec<u8> {
    let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
    let field = rest[4..4 + length].to_vec();
    *rest = &rest[4 + length..];
    field
}

/// A positive number as SSH writes it.
pub fn mpint(magnitude: &[u8]) -> Vec<u8> {
    let first = magnitude.iter().position(|byte| *byte != 0).unwrap_or(magnitude.len());
    let rest = &magnitude[first..];
    if rest.first().is_some_and(|byte| *byte >= 0x80) { [&[0], rest].concat() } else { rest.to_vec() }
}

/// The armor of the real tool, with lines of this many columns.
pub fn enarmor_columns(blob: &[u8], columns: usize) -> Vec<u8> {
    let b64 = BASE64.encode(blob);
    let body = b64.as_bytes().chunks(columns).collect::<Vec<_>>().join(&b'\n');
    [b"-----BEGIN SSH SIGNATURE-----\n", body.as_slice(), b"\n-----END SSH SIGNATURE-----\n"].concat()
}

/// The armor of the real tool.
pub fn enarmor(blob: &[u8]) -> Vec<u8> {
    enarmor_columns(blob, 70)
}

/// The bytes under a signature.
pub fn tbs(namespace: &[u8], reserved: &[u8], hash: &[u8], message: &[u8]) -> Vec<u8> {
    let digest = match hash {
        b"sha256" => Sha256::digest(message).to_vec(),
        b"sha384" => sha2::Sha384::digest(message).to_vec(),
        _ => Sha512::digest(message).to_vec(),
    };
    [b"SSHSIG".as_slice(), &strings(&[namespace, reserved, hash, &digest])].concat()
}

/// An SSHSIG taken apart.
#[derive(Clone)]
pub struct Parts {
    /// `SSHSIG`
    pub magic: Vec<u8>,
    /// 1
    pub version: u32,
    /// publickey, namespace, reserved, hash, signature.
    pub fields: [Vec<u8>; 5],
}

/// Places in [`Parts::fields`].
pub const KEY: usize = 0;
/// The namespace.
pub const NAMESPACE: usize = 1;
/// Must be empty.
pub const RESERVED: usize = 2;
/// The hash's name.
pub const HASH: usize = 3;
/// Algorithm and numbers.
pub const INNER: usize = 4;

impl Parts {
    /// The bytes that the armor is around.
    pub fn blob(&self) -> Vec<u8> {
        let fields = self.fields.each_ref().map(Vec::as_slice);
        [self.magic.as_slice(), &self.version.to_be_bytes(), &strings(&fields)].concat()
    }

    /// Armored as the real tool does it.
    pub fn armor(&self) -> Vec<u8> {
        enarmor(&self.blob())
    }

    /// With another field.
    pub fn with(&self, field: usize, bytes: &[u8]) -> Self {
        let mut other = self.clone();
        other.fields[field] = bytes.to_vec();
        other
    }

    /// Algorithm, numbers, and what stands after them (flags and counter of a security key).
    pub fn inner(&self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let mut rest = self.fields[INNER].as_slice();
        let (name, numbers) = (take(&mut rest), take(&mut rest));
        (name, numbers, rest.to_vec())
    }

    /// With other numbers.
    pub fn with_numbers(&self, numbers: &[u8]) -> Self {
        let (name, _, rest) = self.inner();
        self.with(INNER, &[strings(&[&name, numbers]), rest].concat())
    }

    /// With another algorithm.
    pub fn with_name(&self, name: &[u8]) -> Self {
        let (_, numbers, rest) = self.inner();
        self.with(INNER, &[strings(&[name, &numbers]), rest].concat())
    }
}

/// A key of each type, from a seed.
#[derive(Clone)]
pub enum Key {
    /// `ssh-ed25519`, from a seed of one byte.
    Ed25519(u8),
    /// `ecdsa-sha2-nistp256`
    P256(p256::ecdsa::SigningKey),
    /// `ecdsa-sha2-nistp384`
    P384(p384::ecdsa::SigningKey),
    /// `ecdsa-sha2-nistp521`
    P521(p521::ecdsa::SigningKey),
    /// `ssh-rsa`
    Rsa(RsaKey),
    /// `sk-ssh-ed25519@openssh.com`, made of software, from a seed of one byte.
    SkEd25519(u8, Touch),
    /// `sk-ecdsa-sha2-nistp256@openssh.com`, made of software.
    SkP256(p256::ecdsa::SigningKey, Touch),
}

/// What a security key says besides.
#[derive(Clone)]
pub struct Touch {
    /// `ssh:`
    pub application: Vec<u8>,
    /// UP 1, UV 4.
    pub flags: u8,
    /// Of this signature.
    pub counter: u32,
}

impl Touch {
    /// Touched, no PIN.
    pub fn flags(flags: u8) -> Self {
        Self { application: b"ssh:".to_vec(), flags, counter: 7 }
    }
}

impl Key {
    /// Alice's.
    pub fn ed25519() -> Self {
        Self::seeded(0xa1)
    }

    /// An Ed25519 key from one byte.
    pub fn seeded(seed: u8) -> Self {
        Self::Ed25519(seed)
    }

    /// One of each type that stands by itself.
    pub fn every() -> Vec<Self> {
        vec![
            Self::ed25519(),
            Self::p256(),
            Self::p384(),
            Self::p521(),
            Self::Rsa(RsaKey::bits3072()),
            Self::sk_ed25519(1),
            Self::sk_p256(1),
        ]
    }

    /// Three of different form, for what does not depend on the type.
    pub fn three() -> [Self; 3] {
        [Self::ed25519(), Self::p256(), Self::sk_ed25519(1)]
    }

    /// P-256.
    pub fn p256() -> Self {
        Self::P256(p256::ecdsa::SigningKey::from_slice(&[0x32; 32]).unwrap())
    }

    /// P-384.
    pub fn p384() -> Self {
        Self::P384(p384::ecdsa::SigningKey::from_slice(&[0x33; 48]).unwrap())
    }

    /// P-521.
    pub fn p521() -> Self {
        let mut scalar = [0x34; 66];
        scalar[0] = 0;
        Self::P521(p521::ecdsa::SigningKey::from_slice(&scalar).unwrap())
    }

    /// A security key with these flags.
    pub fn sk_ed25519(flags: u8) -> Self {
        Self::SkEd25519(0x51, Touch::flags(flags))
    }

    /// A security key with these flags.
    pub fn sk_p256(flags: u8) -> Self {
        Self::SkP256(p256::ecdsa::SigningKey::from_slice(&[0x52; 32]).unwrap(), Touch::flags(flags))
    }

    /// As OpenSSH calls the type.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "ssh-ed25519",
            Self::P256(_) => "ecdsa-sha2-nistp256",
            Self::P384(_) => "ecdsa-sha2-nistp384",
            Self::P521(_) => "ecdsa-sha2-nistp521",
            Self::Rsa(_) => "ssh-rsa",
            Self::SkEd25519(..) => "sk-ssh-ed25519@openssh.com",
            Self::SkP256(..) => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// What stands after the type's name, in a key and in a certificate.
    pub fn public_fields(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(seed) => strings(&[secret(*seed).public().to_wire().as_bytes()]),
            Self::P256(key) => strings(&[b"nistp256", key.verifying_key().to_sec1_point(false).as_bytes()]),
            Self::P384(key) => strings(&[b"nistp384", key.verifying_key().to_sec1_point(false).as_bytes()]),
            Self::P521(key) => strings(&[b"nistp521", key.verifying_key().to_sec1_point(false).as_bytes()]),
            Self::Rsa(key) => strings(&[&mpint(&key.e()), &mpint(&key.n())]),
            Self::SkEd25519(seed, touch) => {
                strings(&[secret(*seed).public().to_wire().as_bytes(), &touch.application])
            }
            Self::SkP256(key, touch) => {
                let point = key.verifying_key().to_sec1_point(false);
                strings(&[b"nistp256", point.as_bytes(), &touch.application])
            }
        }
    }

    /// SSH wire bytes.
    pub fn blob(&self) -> Vec<u8> {
        [strings(&[self.name().as_bytes()]), self.public_fields()].concat()
    }

    /// As it stands in a policy.
    pub fn credential(&self) -> Credential {
        self.operator_key().into()
    }

    /// As a policy has it.
    pub fn operator_key(&self) -> OperatorKey {
        OperatorKey::from_blob(self.blob()).unwrap()
    }

    /// The signature field over these bytes.
    pub fn inner(&self, signed: &[u8], hash: &[u8]) -> Vec<u8> {
        let name = self.name().as_bytes();
        let token = |touch: &Touch| {
            [
                Sha256::digest(&touch.application).as_slice(),
                &[touch.flags],
                &touch.counter.to_be_bytes(),
                &Sha256::digest(signed),
            ]
            .concat()
        };
        let after = |touch: &Touch| [&[touch.flags][..], &touch.counter.to_be_bytes()].concat();
        match self {
            Self::Ed25519(seed) => strings(&[name, &raw(&secret(*seed), signed)]),
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(signed);
                strings(&[name, &numbers(&signature.to_bytes())])
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign(signed);
                strings(&[name, &numbers(&signature.to_bytes())])
            }
            Self::P521(key) => {
                let signature: p521::ecdsa::Signature = key.sign(signed);
                strings(&[name, &numbers(&signature.to_bytes())])
            }
            Self::Rsa(key) => {
                let (name, digest) = if hash == b"sha256" {
                    (b"rsa-sha2-256", Sha256::digest(signed).to_vec())
                } else {
                    (b"rsa-sha2-512", Sha512::digest(signed).to_vec())
                };
                strings(&[name, &key.sign(&key.padded(crate::rsa::info(digest.len()), &digest))])
            }
            Self::SkEd25519(seed, touch) => {
                [strings(&[name, &raw(&secret(*seed), &token(touch))]), after(touch)].concat()
            }
            Self::SkP256(key, touch) => {
                let signature: p256::ecdsa::Signature = key.sign(&token(touch));
                [strings(&[name, &numbers(&signature.to_bytes())]), after(touch)].concat()
            }
        }
    }

    /// A good signature under `publickey`: the key's own blob or a certificate for it.
    pub fn parts_as(&self, publickey: &[u8], namespace: Namespace, hash: &str, message: &[u8]) -> Parts {
        let (namespace, hash) = (namespace.as_str().as_bytes(), hash.as_bytes());
        let inner = self.inner(&tbs(namespace, b"", hash, message), hash);
        let fields = [publickey.to_vec(), namespace.to_vec(), vec![], hash.to_vec(), inner];
        Parts { magic: b"SSHSIG".to_vec(), version: 1, fields }
    }

    /// A good signature in `op.v1@writ` with SHA-512.
    pub fn parts(&self, message: &[u8]) -> Parts {
        self.parts_as(&self.blob(), Namespace::Op, "sha512", message)
    }

    /// The same, armored.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.parts(message).armor()
    }
}

/// An Ed25519 key from one byte.
pub fn secret(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// 64 bytes of Ed25519.
pub fn raw(key: &SecretKey, bytes: &[u8]) -> [u8; 64] {
    ed25519_dalek::SigningKey::from_bytes(&key.seed()).sign(bytes).to_bytes()
}

/// r and s as SSH writes them.
pub fn numbers(r_s: &[u8]) -> Vec<u8> {
    let (r, s) = r_s.split_at(r_s.len() / 2);
    strings(&[&mpint(r), &mpint(s)])
}
