//! What a KRL means for a policy.

use std::collections::BTreeSet;

use data_encoding::{BASE64_NOPAD, HEXLOWER};
use protocol::Fingerprint;
use protocol::text::SafeText;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::{At, Krl, KrlError, MAX_ENTRIES, Part, Section, refuse, serials_of};
use crate::canonical::MAX_INTEGER;
use crate::policy::words::Revoked;
use crate::policy::{Credential, PolicyDocument};

/// What to do with a SHA-1 hash that is of no key in the policy. Nobody can say whose it is: a certified key's,
/// perhaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// The file is refused.
    Refuse,
    /// It is listed and does not count.
    Ignore,
}

/// What a KRL comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// In the file's order, each once.
    pub revoked: Vec<Revoked>,
    /// SHA-1 hashes of no key in the policy, in hex: not revoked.
    pub unknown: Vec<String>,
    /// Names of extensions that were passed over, as the format allows.
    pub extensions: Vec<String>,
    /// Whether something is revoked for any CA: that means those in the policy now, and none that comes later.
    pub any_ca: bool,
}

/// What an import changed in a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Added {
    /// Not revoked before.
    pub new: Vec<Revoked>,
    /// Revoked before.
    pub known: Vec<Revoked>,
}

/// Gives each revocation the name that a policy has for it, or refuses all of them.
pub fn resolve(krl: &Krl<'_>, document: &PolicyDocument, unknown: Unknown) -> Result<Resolved, KrlError> {
    let mut out = Out { resolved: Resolved::default(), seen: BTreeSet::new() };
    for section in &krl.sections {
        match section {
            Section::Certificates { ca, parts } => certificates(&mut out, document, ca, parts)?,
            Section::Keys(keys) => {
                for key in keys {
                    out.add(key.offset, Revoked::Key { key: Fingerprint::of_key_blob(key.is) })?;
                }
            }
            Section::Sha256(hashes) => {
                for hash in hashes {
                    let key = fingerprint(&hash.is)
                        .ok_or_else(|| refuse(hash.offset, "this is no fingerprint of a key"))?;
                    out.add(hash.offset, Revoked::Key { key })?;
                }
            }
            Section::Sha1(hashes) => {
                for hash in hashes {
                    match (key_of(document, &hash.is), unknown) {
                        (Some(key), _) => out.add(hash.offset, Revoked::Key { key })?,
                        (None, Unknown::Ignore) => out.resolved.unknown.push(HEXLOWER.encode(&hash.is)),
                        (None, Unknown::Refuse) => {
                            return Err(refuse(
                                hash.offset,
                                format!(
                                    "SHA-1 hash {} is of no key in the policy, and a policy names keys by SHA-256: revoke \
                                 the key itself (ssh-keygen -k with its public key file), or import with \
                                 --ignore-unknown-sha1",
                                    HEXLOWER.encode(&hash.is)
                                ),
                            ));
                        }
                    }
                }
            }
            Section::Extension(extension) => out.resolved.extensions.push(extension.name.to_owned()),
        }
    }
    Ok(out.resolved)
}

fn certificates(
    out: &mut Out,
    document: &PolicyDocument,
    ca: &At<Option<&[u8]>>,
    parts: &[Part<'_>],
) -> Result<(), KrlError> {
    let known =
        document.operators.iter().flat_map(|operator| &operator.keys).filter_map(Credential::authority);
    let meant: BTreeSet<Fingerprint> = known
        .filter(|authority| ca.is.is_none_or(|blob| authority.ca.blob() == blob))
        .map(|authority| authority.ca.fingerprint())
        .collect();
    match ca.is {
        Some(blob) if meant.is_empty() => {
            let why = format!(
                "CA {} is not in the policy, so its certificates count for nobody: add the CA first, or make the KRL \
                 without them",
                Fingerprint::of_key_blob(blob)
            );
            return Err(refuse(ca.offset, why));
        }
        None if meant.is_empty() => {
            let why = "it revokes certificates of any CA, and the policy has none: add the CA first, or make the KRL \
                       without them";
            return Err(refuse(ca.offset, why));
        }
        Some(_) => {}
        None => out.resolved.any_ca = true,
    }
    for part in parts {
        match part {
            Part::Serials(serials) => {
                for serial in serials {
                    out.serial(serial.offset, &meant, serial.is)?;
                }
            }
            Part::Range(At { offset, is: (first, last) }) => {
                for serial in *first..=*last {
                    out.serial(*offset, &meant, serial)?;
                }
            }
            Part::Bitmap(At { offset, is: (first, bits) }) => {
                for serial in serials_of(*first, bits) {
                    out.serial(*offset, &meant, serial)?;
                }
            }
            Part::KeyIds(ids) => {
                for id in ids {
                    let key_id: SafeText = id.is.parse().map_err(|error| {
                        refuse(id.offset, format!("a key id cannot be revoked by name, its {error}"))
                    })?;
                    for ca in &meant {
                        out.add(id.offset, Revoked::KeyId { ca: *ca, key_id: key_id.clone() })?;
                    }
                }
            }
            Part::Extension(extension) => out.resolved.extensions.push(extension.name.to_owned()),
        }
    }
    Ok(())
}

/// What was found so far.
struct Out {
    resolved: Resolved,
    seen: BTreeSet<Revoked>,
}

impl Out {
    fn add(&mut self, offset: usize, what: Revoked) -> Result<(), KrlError> {
        if self.seen.len() >= MAX_ENTRIES {
            let why = format!("it comes to more than {MAX_ENTRIES} revocations: revoke the CA instead");
            return Err(refuse(offset, why));
        }
        if self.seen.insert(what.clone()) {
            self.resolved.revoked.push(what);
        }
        Ok(())
    }

    fn serial(&mut self, offset: usize, cas: &BTreeSet<Fingerprint>, serial: u64) -> Result<(), KrlError> {
        if serial > MAX_INTEGER {
            let why = format!("serial {serial} is above 2^53: revoke that certificate by its key id");
            return Err(refuse(offset, why));
        }
        cas.iter().try_for_each(|ca| self.add(offset, Revoked::Serial { ca: *ca, serial }))
    }
}

fn fingerprint(hash: &[u8; 32]) -> Option<Fingerprint> {
    format!("SHA256:{}", BASE64_NOPAD.encode(hash)).parse().ok()
}

/// The key of the policy with this SHA-1 hash. SHA-1 names here, it does not prove: who finds another key with
/// the hash of one in the policy gets nothing but that one revoked.
fn key_of(document: &PolicyDocument, hash: &[u8; 20]) -> Option<Fingerprint> {
    let mut keys = document.operators.iter().flat_map(|operator| &operator.keys).map(Credential::key);
    keys.find(|key| digest(&SHA1_FOR_LEGACY_USE_ONLY, key.blob()).as_ref() == hash)
        .map(|key| key.fingerprint())
}

/// Writes the revocations into a draft.
pub fn import(document: &mut PolicyDocument, revoked: &[Revoked]) -> Added {
    let mut added = Added::default();
    for what in revoked {
        let list = if document.take_away(what) { &mut added.new } else { &mut added.known };
        list.push(what.clone());
    }
    added
}
