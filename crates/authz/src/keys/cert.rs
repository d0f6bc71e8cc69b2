//! OpenSSH user certificates as operators' credentials (rule V15; OpenSSH PROTOCOL.certkeys).
//!
//! Reading one checks all that needs neither policy nor clock nor mathematics. `ssh-keygen -Y verify`
//! checks much less: it ignores critical options, and takes CA signatures with SHA-1.

use super::shape::{Proof, Shape, ShapeError};
use crate::sshsig::Claim;
use crate::wire::{Damaged, nothing_left, put_string, take_string, take_u32, take_u64};

/// Most principals of a certificate (V15).
const MAX_PRINCIPALS: usize = 16;
/// Longest principal, and longest key id, bytes.
const MAX_NAME: usize = 256;
/// Certificates for users; 2 would be for hosts.
const USER: u32 = 1;

/// Why bytes are no certificate that we accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CertError {
    /// V8: what it certifies, or who certifies it, is no key that we accept.
    Key(ShapeError),
    /// V15, in words.
    Rule(&'static str),
    /// V6.
    Damaged(&'static str),
}

impl From<Damaged> for CertError {
    fn from(error: Damaged) -> Self {
        Self::Damaged(error.0)
    }
}

impl From<ShapeError> for CertError {
    fn from(error: ShapeError) -> Self {
        Self::Key(error)
    }
}

/// A certificate of exact form, made for a user by a plain key. Neither its signature nor its times are
/// checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// What the CA signed.
    pub(crate) signed: Vec<u8>,
    /// The certified key's own SSH wire form.
    pub(crate) subject: Vec<u8>,
    pub(crate) serial: u64,
    pub(crate) key_id: Vec<u8>,
    /// 1 to 16, without wildcards, commas or spaces.
    pub(crate) principals: Vec<String>,
    /// Unix seconds, inclusive.
    pub(crate) valid_after: u64,
    /// Unix seconds, exclusive.
    pub(crate) valid_before: u64,
    /// It demands PIN or biometric.
    pub(crate) verify_required: bool,
    /// The CA's SSH wire form.
    pub(crate) ca: Vec<u8>,
    /// The CA's signature.
    pub(crate) proof: Proof,
}

/// The type of the certified key, if the name is a certificate's.
pub(crate) fn certified_type(name: &[u8]) -> Option<&'static str> {
    Some(match name {
        b"ssh-ed25519-cert-v01@openssh.com" => "ssh-ed25519",
        b"ecdsa-sha2-nistp256-cert-v01@openssh.com" => "ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384-cert-v01@openssh.com" => "ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521-cert-v01@openssh.com" => "ecdsa-sha2-nistp521",
        b"ssh-rsa-cert-v01@openssh.com" => "ssh-rsa",
        b"sk-ssh-ed25519-cert-v01@openssh.com" => "sk-ssh-ed25519@openssh.com",
        b"sk-ecdsa-sha2-nistp256-cert-v01@openssh.com" => "sk-ecdsa-sha2-nistp256@openssh.com",
        _ => return None,
    })
}

/// Whether a principal may stand in a certificate or in a policy: what is compared exactly must not look
/// like a pattern or a list.
pub(crate) fn is_principal(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"*?!,\"".contains(&byte))
}

impl Certificate {
    /// Reads SSH wire bytes, all of them.
    pub(crate) fn parse(blob: &[u8]) -> Result<Self, CertError> {
        let mut rest = blob;
        let name = take_string(&mut rest)?;
        let Some(kind) = certified_type(name) else {
            return Err(ShapeError::Type(super::type_name(name)).into());
        };
        take_string(&mut rest)?; // The CA's nonce: random, signed, of no other meaning.
        let fields = rest;
        let shape = Shape::fields(kind.as_bytes(), &mut rest)?;
        let mut subject = Vec::new();
        put_string(&mut subject, kind.as_bytes());
        subject.extend_from_slice(&fields[..fields.len() - rest.len()]);

        let serial = take_u64(&mut rest)?;
        if take_u32(&mut rest)? != USER {
            return Err(CertError::Rule("it is not for a user: sign it without ssh-keygen's -h"));
        }
        let key_id = take_string(&mut rest)?;
        if key_id.len() > MAX_NAME {
            return Err(CertError::Rule("its key id is longer than 256 bytes: give it a shorter -I"));
        }
        let principals = principals(take_string(&mut rest)?)?;
        let (valid_after, valid_before) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
        if valid_after >= valid_before {
            return Err(CertError::Rule("it ends before it begins: sign it with a -V in the future"));
        }
        let verify_required = critical(take_string(&mut rest)?)?;
        if verify_required && !shape.is_security_key() {
            return Err(CertError::Rule("it demands verify-required of a key that is no security key"));
        }
        extensions(take_string(&mut rest)?)?;
        if !take_string(&mut rest)?.is_empty() {
            return Err(CertError::Damaged("a certificate's reserved field in use"));
        }
        let ca = take_string(&mut rest)?;
        let signed = blob[..blob.len() - rest.len()].to_vec();
        // A chain of certificates: whoever held any certificate of the CA could make more of them.
        if take_string(&mut &*ca).is_ok_and(|name| certified_type(name).is_some()) {
            return Err(CertError::Rule(
                "it was signed by a certificate, which is never a CA: sign it with the CA's own key",
            ));
        }
        let ca_shape = Shape::parse(ca)?;
        let signature = take_string(&mut rest)?;
        nothing_left(rest)?;
        if matches!(ca_shape, Shape::Rsa { .. }) && take_string(&mut &*signature) == Ok(b"ssh-rsa") {
            return Err(CertError::Rule("its CA signed with SHA-1: sign it with -t rsa-sha2-512"));
        }
        let proof = Proof::parse(&ca_shape, signature)?;
        Ok(Self {
            subject,
            serial,
            key_id: key_id.to_vec(),
            principals,
            valid_after,
            valid_before,
            verify_required,
            ca: ca.to_vec(),
            proof,
            signed,
        })
    }

    /// Whom it stands for, for the look into the policy.
    pub(crate) fn claim(&self) -> Claim<'_> {
        Claim::Certificate {
            ca: &self.ca,
            subject: &self.subject,
            principals: &self.principals,
            serial: self.serial,
            key_id: &self.key_id,
            valid_before: self.valid_before,
        }
    }

    /// Whether the CA made this certificate. A CA in a security key must have been touched (V12).
    pub(crate) fn is_signed(&self) -> bool {
        Shape::parse(&self.ca).is_ok_and(|ca| ca.is_sound() && ca.accepts(&self.signed, &self.proof))
            && self.proof.presence(false).is_ok()
    }

    /// The window at the trusted time (V15). Like OpenSSH: the first second counts, the last does not.
    pub(crate) fn is_current(&self, now: u64, longest: u64) -> Result<(), &'static str> {
        if self.valid_before - self.valid_after > longest {
            Err(
                "it is valid for longer than the policy allows (16 h by default): sign it with a shorter -V, such as -V +15h",
            )
        } else if now < self.valid_after {
            Err("it is not valid yet: wait, or check the clocks")
        } else if now >= self.valid_before {
            Err("it has expired: have your CA sign a new one")
        } else {
            Ok(())
        }
    }
}

/// V15: 1 to 16, each a plain word. None would mean everybody.
fn principals(bytes: &[u8]) -> Result<Vec<String>, CertError> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let principal = take_string(&mut rest)?;
        if found.len() == MAX_PRINCIPALS {
            return Err(CertError::Rule("it names more than 16 principals: sign it with fewer in -n"));
        }
        match std::str::from_utf8(principal) {
            Ok(principal) if is_principal(principal) => found.push(principal.to_owned()),
            _ => {
                return Err(CertError::Rule(
                    "a principal in it is no plain word (no spaces, commas, wildcards): sign it with -n NAME",
                ));
            }
        }
    }
    if found.is_empty() {
        return Err(CertError::Rule("it names no principal: sign it with -n NAME"));
    }
    Ok(found)
}

/// V15: every critical option is refused, but for `verify-required`, which gives true.
fn critical(bytes: &[u8]) -> Result<bool, CertError> {
    let mut rest = bytes;
    let mut verify_required = false;
    while !rest.is_empty() {
        let (name, data) = (take_string(&mut rest)?, take_string(&mut rest)?);
        if name != b"verify-required" || !data.is_empty() || verify_required {
            return Err(CertError::Rule(
                "it has a critical option other than verify-required, which cannot be kept here: sign it without",
            ));
        }
        verify_required = true;
    }
    Ok(verify_required)
}

/// Extensions grant things to logins; here they grant nothing. Their form counts (V6).
fn extensions(bytes: &[u8]) -> Result<(), CertError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        take_string(&mut rest)?;
        take_string(&mut rest)?;
    }
    Ok(())
}
