//! The form of every public key type that an operator may have (rule V8), and of the signatures that each
//! makes (V9 to V12). Reading a form costs no public-key mathematics (V22); [`Shape::is_sound`] and
//! [`Shape::accepts`] do.

use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents};
use sha2::Digest as _;

use super::type_name;
use crate::wire::{Damaged, nothing_left, take, take_positive, take_string, take_u32};

/// RSA moduli that count, in bits (V8).
const RSA_BITS: std::ops::RangeInclusive<usize> = 3072..=8192;
/// What an application that may sign for us begins with (V12).
const APPLICATION: &[u8] = b"ssh:";
/// Longest application that is read, bytes.
const MAX_APPLICATION: usize = 256;

/// Why bytes are no public key that we accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ShapeError {
    /// V8: a type outside the list, by its name where that is known.
    Type(String),
    /// V8, V12: a key of a good type that is too weak or was made for something else.
    Refused(&'static str),
    /// V6, V11.
    Damaged(&'static str),
}

impl From<Damaged> for ShapeError {
    fn from(error: Damaged) -> Self {
        Self::Damaged(error.0)
    }
}

/// NIST's curves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::P256 => b"nistp256",
            Self::P384 => b"nistp384",
            Self::P521 => b"nistp521",
        }
    }

    /// Bytes of one coordinate, and of r and of s.
    const fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn has(self, point: &[u8]) -> bool {
        match self {
            Self::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point).is_ok(),
            Self::P384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(point).is_ok(),
            Self::P521 => p521::ecdsa::VerifyingKey::from_sec1_bytes(point).is_ok(),
        }
    }

    /// V11: 0 < r, s < n. High s is allowed: OpenSSL makes it.
    fn in_range(self, r_s: &[u8]) -> bool {
        match self {
            Self::P256 => p256::ecdsa::Signature::from_slice(r_s).is_ok(),
            Self::P384 => p384::ecdsa::Signature::from_slice(r_s).is_ok(),
            Self::P521 => p521::ecdsa::Signature::from_slice(r_s).is_ok(),
        }
    }

    fn accepts(self, point: &[u8], message: &[u8], r_s: &[u8]) -> bool {
        use p256::ecdsa::signature::Verifier as _;
        match self {
            Self::P256 => p256::ecdsa::Signature::from_slice(r_s).is_ok_and(|signature| {
                p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
                    .is_ok_and(|key| key.verify(message, &signature).is_ok())
            }),
            Self::P384 => p384::ecdsa::Signature::from_slice(r_s).is_ok_and(|signature| {
                p384::ecdsa::VerifyingKey::from_sec1_bytes(point)
                    .is_ok_and(|key| key.verify(message, &signature).is_ok())
            }),
            Self::P521 => p521::ecdsa::Signature::from_slice(r_s).is_ok_and(|signature| {
                p521::ecdsa::VerifyingKey::from_sec1_bytes(point)
                    .is_ok_and(|key| key.verify(message, &signature).is_ok())
            }),
        }
    }
}

/// A public key of exact form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape<'a> {
    Ed25519 { point: &'a [u8; 32] },
    Ecdsa { curve: Curve, point: &'a [u8] },
    Rsa { e: &'a [u8], n: &'a [u8] },
    SkEd25519 { point: &'a [u8; 32], application: &'a [u8] },
    SkEcdsa { point: &'a [u8], application: &'a [u8] },
}

impl<'a> Shape<'a> {
    /// Reads SSH wire bytes, all of them.
    pub(crate) fn parse(blob: &'a [u8]) -> Result<Self, ShapeError> {
        let mut rest = blob;
        let name = take_string(&mut rest)?;
        let shape = Self::fields(name, &mut rest)?;
        nothing_left(rest)?;
        Ok(shape)
    }

    /// Reads what comes after the type's name: in a key at once, in a certificate after the nonce.
    pub(crate) fn fields(name: &[u8], rest: &mut &'a [u8]) -> Result<Self, ShapeError> {
        Ok(match name {
            b"ssh-ed25519" => Self::Ed25519 { point: take_ed25519(rest)? },
            b"ecdsa-sha2-nistp256" => take_ecdsa(Curve::P256, rest)?,
            b"ecdsa-sha2-nistp384" => take_ecdsa(Curve::P384, rest)?,
            b"ecdsa-sha2-nistp521" => take_ecdsa(Curve::P521, rest)?,
            b"ssh-rsa" => take_rsa(rest)?,
            b"sk-ssh-ed25519@openssh.com" => {
                Self::SkEd25519 { point: take_ed25519(rest)?, application: take_application(rest)? }
            }
            b"sk-ecdsa-sha2-nistp256@openssh.com" => {
                let point = take_point(Curve::P256, rest)?;
                Self::SkEcdsa { point, application: take_application(rest)? }
            }
            other => return Err(ShapeError::Type(type_name(other))),
        })
    }

    /// The type's name.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Ed25519 { .. } => "ssh-ed25519",
            Self::Ecdsa { curve: Curve::P256, .. } => "ecdsa-sha2-nistp256",
            Self::Ecdsa { curve: Curve::P384, .. } => "ecdsa-sha2-nistp384",
            Self::Ecdsa { curve: Curve::P521, .. } => "ecdsa-sha2-nistp521",
            Self::Rsa { .. } => "ssh-rsa",
            Self::SkEd25519 { .. } => "sk-ssh-ed25519@openssh.com",
            Self::SkEcdsa { .. } => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// Whether it is a security key, which alone can tell of touch and PIN.
    pub(crate) const fn is_security_key(&self) -> bool {
        matches!(self, Self::SkEd25519 { .. } | Self::SkEcdsa { .. })
    }

    /// Whether the point lies on its curve and is not one with which anybody could sign (V8, V10).
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Self::Ed25519 { point } | Self::SkEd25519 { point, .. } => {
                ed25519_dalek::VerifyingKey::from_bytes(point).is_ok_and(|point| !point.is_weak())
            }
            Self::Ecdsa { curve, point } => curve.has(point),
            Self::SkEcdsa { point, .. } => Curve::P256.has(point),
            // The form is all that can be said of a modulus.
            Self::Rsa { .. } => true,
        }
    }

    /// Whether this key made the signature over these bytes: the mathematics, nothing else. A security
    /// key's flags are judged by [`Proof::presence`].
    pub(crate) fn accepts(&self, message: &[u8], proof: &Proof) -> bool {
        match (self, proof) {
            (Self::Ed25519 { point }, Proof::Ed25519(signature)) => ed25519(point, message, signature),
            (Self::Ecdsa { curve, point }, Proof::Ecdsa(r_s)) => curve.accepts(point, message, r_s),
            (Self::Rsa { e, n }, Proof::Rsa { hash, signature }) => {
                let parameters = match hash {
                    RsaHash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                    RsaHash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            (Self::SkEd25519 { point, application }, Proof::Sk { signature, flags, counter }) => {
                ed25519(point, &token_signed(application, *flags, *counter, message), signature)
            }
            (Self::SkEcdsa { point, application }, Proof::Sk { signature, flags, counter }) => {
                let signed = token_signed(application, *flags, *counter, message);
                Curve::P256.accepts(point, &signed, signature)
            }
            _ => false,
        }
    }
}

/// V10: `verify_strict`, which refuses small-order points, other spellings of a point, and s >= L.
fn ed25519(point: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    ed25519_dalek::VerifyingKey::from_bytes(point)
        .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

/// What a security key signs instead of the message (OpenSSH PROTOCOL.u2f).
fn token_signed(application: &[u8], flags: u8, counter: u32, message: &[u8]) -> Vec<u8> {
    let mut bytes = sha2::Sha256::digest(application).to_vec();
    bytes.push(flags);
    bytes.extend_from_slice(&counter.to_be_bytes());
    bytes.extend_from_slice(&sha2::Sha256::digest(message));
    bytes
}

fn take_ed25519<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8; 32], ShapeError> {
    take_string(rest)?.try_into().map_err(|_| ShapeError::Damaged("key is not 32 bytes"))
}

fn take_ecdsa<'a>(curve: Curve, rest: &mut &'a [u8]) -> Result<Shape<'a>, ShapeError> {
    Ok(Shape::Ecdsa { curve, point: take_point(curve, rest)? })
}

fn take_point<'a>(curve: Curve, rest: &mut &'a [u8]) -> Result<&'a [u8], ShapeError> {
    if take_string(rest)? != curve.name() {
        return Err(ShapeError::Damaged("the key's curve differs from its type"));
    }
    let point = take_string(rest)?;
    // Uncompressed only: a key has one spelling, the one that OpenSSH takes.
    if point.first() != Some(&4) || point.len() != 1 + 2 * curve.size() {
        return Err(ShapeError::Damaged("the key is no uncompressed point of its curve"));
    }
    Ok(point)
}

fn take_application<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], ShapeError> {
    let application = take_string(rest)?;
    let fits = application.starts_with(APPLICATION) && application.len() <= MAX_APPLICATION;
    if fits && application.is_ascii() {
        Ok(application)
    } else {
        Err(ShapeError::Refused(
            "this security key was enrolled for something else than SSH: its application must begin with ssh:",
        ))
    }
}

fn take_rsa<'a>(rest: &mut &'a [u8]) -> Result<Shape<'a>, ShapeError> {
    let (e, n) = (take_positive(rest)?, take_positive(rest)?);
    let bits = bits(n);
    if !RSA_BITS.contains(&bits) {
        return Err(ShapeError::Refused("RSA keys must have 3072 to 8192 bits: ssh-keygen -t rsa -b 3072"));
    }
    // At most 33 bits is what the mathematics below is built for; OpenSSH has made 65537 since 2005.
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    let exponent = (e.len() <= 5).then(|| e.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte)));
    if !odd(e) || exponent.is_none_or(|e| !(65_537..1 << 33).contains(&e)) {
        return Err(ShapeError::Refused(
            "the RSA key's exponent must be odd, at least 65537 and below 2^33: make a new key with ssh-keygen",
        ));
    }
    if !odd(n) {
        return Err(ShapeError::Refused("the RSA key's modulus is even: make a new key with ssh-keygen"));
    }
    Ok(Shape::Rsa { e, n })
}

/// Bits of a number without leading zero bytes.
fn bits(magnitude: &[u8]) -> usize {
    magnitude.first().map_or(0, |first| magnitude.len() * 8 - first.leading_zeros() as usize)
}

/// The hash inside an RSA signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RsaHash {
    Sha256,
    Sha512,
}

/// A signature of exact form for one key's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    Ed25519([u8; 64]),
    /// r and s, each as long as the curve's numbers.
    Ecdsa(Vec<u8>),
    Rsa {
        hash: RsaHash,
        signature: Vec<u8>,
    },
    Sk {
        /// R and S of Ed25519, or r and s of P-256.
        signature: [u8; 64],
        flags: u8,
        counter: u32,
    },
}

/// Why a valid signature of a security key does not count (V12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    Touch,
    Verification,
    Flags,
}

/// The owner touched the key.
const USER_PRESENT: u8 = 0x01;
/// The key knows its owner: PIN or biometric.
const USER_VERIFIED: u8 = 0x04;

impl Proof {
    /// Reads the signature field: the algorithm's name, which must fit the key (V9), and its numbers.
    pub(crate) fn parse(key: &Shape<'_>, bytes: &[u8]) -> Result<Self, Damaged> {
        let mut rest = bytes;
        let name = take_string(&mut rest)?;
        let other = Damaged("signature type differs from key type");
        let hash = match (key, name) {
            // SHA-1 signatures are named like the key, ssh-rsa: refused here.
            (Shape::Rsa { .. }, b"rsa-sha2-256") => RsaHash::Sha256,
            (Shape::Rsa { .. }, b"rsa-sha2-512") => RsaHash::Sha512,
            (Shape::Rsa { .. }, _) => return Err(other),
            (_, name) if name == key.name().as_bytes() => RsaHash::Sha256,
            _ => return Err(other),
        };
        let signature = take_string(&mut rest)?;
        let proof = match key {
            Shape::Ed25519 { .. } => Self::Ed25519(sixty_four(signature)?),
            Shape::Ecdsa { curve, .. } => Self::Ecdsa(numbers(*curve, signature)?),
            Shape::Rsa { n, .. } => {
                if signature.len() != n.len() {
                    return Err(Damaged("the RSA signature is not as long as the modulus"));
                }
                Self::Rsa { hash, signature: signature.to_vec() }
            }
            Shape::SkEd25519 { .. } | Shape::SkEcdsa { .. } => {
                let signature = match key {
                    Shape::SkEcdsa { .. } => sixty_four(&numbers(Curve::P256, signature)?)?,
                    _ => sixty_four(signature)?,
                };
                let &[flags] = take(&mut rest, 1)? else { return Err(Damaged("cut short")) };
                Self::Sk { signature, flags, counter: take_u32(&mut rest)? }
            }
        };
        nothing_left(rest)?;
        Ok(proof)
    }

    /// V12: touch always, PIN or biometric where it is required, no flag that we do not know. The counter
    /// says nothing that could be relied on.
    pub(crate) fn presence(&self, verified: bool) -> Result<(), Absence> {
        let Self::Sk { flags, .. } = self else {
            // Only a security key can say who was there.
            return if verified { Err(Absence::Verification) } else { Ok(()) };
        };
        if flags & !(USER_PRESENT | USER_VERIFIED) != 0 {
            Err(Absence::Flags)
        } else if flags & USER_PRESENT == 0 {
            Err(Absence::Touch)
        } else if verified && flags & USER_VERIFIED == 0 {
            Err(Absence::Verification)
        } else {
            Ok(())
        }
    }
}

fn sixty_four(signature: &[u8]) -> Result<[u8; 64], Damaged> {
    signature.try_into().map_err(|_| Damaged("signature is not 64 bytes"))
}

/// The two mpints of an ECDSA signature, padded to the curve's size.
fn numbers(curve: Curve, bytes: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut rest = bytes;
    let mut both = Vec::with_capacity(2 * curve.size());
    for _ in 0..2 {
        let number = take_positive(&mut rest)?;
        let padding = curve.size().checked_sub(number.len()).ok_or(Damaged("a number is too large"))?;
        both.resize(both.len() + padding, 0);
        both.extend_from_slice(number);
    }
    nothing_left(rest)?;
    if curve.in_range(&both) { Ok(both) } else { Err(Damaged("a number is outside the curve's order")) }
}
