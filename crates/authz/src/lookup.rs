//! Whose signature it is, by a policy: one lookup for orders, statements and whoever asks before signing.

use protocol::{Fingerprint, HostName};

use crate::keys::OperatorKey;
use crate::namespace::Namespace;
use crate::order::Order;
use crate::policy::{Operator, Policy};
use crate::receipt::Signer;
use crate::refusal::RefusalCode;
use crate::signers::SignedBy;
use crate::sshsig::{self, Claim, Listed, SigError};
use crate::verify;

/// Why a signature counts for nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// V1 to V12, V15: what can be said without a policy.
    #[error(transparent)]
    Signature(#[from] SigError),
    /// V13 to V15: nobody's, or not for this purpose.
    #[error("{what} is not allowed to sign {namespace} by the policy")]
    Unknown {
        /// The key or certificate, in words.
        what: String,
        /// The purpose.
        namespace: Namespace,
    },
    /// V16.
    #[error("{what} is revoked by the policy")]
    Revoked {
        /// The key, CA or certificate, in words.
        what: String,
    },
    /// V15, V20: one person would be two.
    #[error("the certificate for key {0} stands for two operators: sign one for each with -n NAME")]
    TwoOperators(Fingerprint),
}

/// Who signed: found in the policy, and the mathematics done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatory {
    /// The operator.
    pub operator: HostName,
    /// The key that signed; the certified one, where it was a certificate.
    pub key: OperatorKey,
}

/// The operator whom a signature with this claim would count for. Costs no mathematics.
pub fn operator_of<'a>(
    claim: &Claim<'_>,
    policy: &'a Policy,
    namespace: Namespace,
) -> Result<&'a Operator, SignatureError> {
    look_up(claim, policy, namespace).map(|(operator, _)| operator)
}

/// How many signers a host wants for the order, while nothing is wrong with its policy's freshness: by the
/// rule, the order itself, and the protection of the guest. None where the policy lets nobody order it.
pub fn signers_needed(order: &Order, policy: &Policy) -> Option<u32> {
    verify::needed(order, policy, policy.rule(order.kind())?, false).ok()
}

/// How far some signers are from enough for an order (V20).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Distinct operators with distinct keys, of the roles that count.
    pub have: u32,
    /// So many are wanted.
    pub need: u32,
    /// What is missing, in a host's words: too few, nobody of a role that must be among them, or one key for
    /// two operators. None when they are enough.
    pub missing: Option<String>,
}

/// Counts signers as a host does, with what the host's [`crate::verify::verify`] counts with. `stale` says that
/// the last word of the policy's freshness is too old.
///
/// # Errors
/// Nobody can order it, however many sign: the policy has no rule for it, protects the guest, or is too old for
/// scripts and sessions.
pub fn count(
    order: &Order,
    policy: &Policy,
    by: &[Signatory],
    stale: bool,
) -> Result<Count, (RefusalCode, String)> {
    let rule = verify::rule_of(order, policy)?;
    let need = verify::needed(order, policy, rule, stale)?;
    let signed: Vec<SignedBy> = by
        .iter()
        .map(|by| SignedBy {
            key: by.key.clone(),
            signer: Signer { operator: by.operator.clone(), key: by.key.fingerprint() },
            certified: false,
        })
        .collect();
    let (have, missing) = verify::check_threshold(order, policy, rule, &signed, need);
    Ok(Count { have, need, missing })
}

/// Judges one signature over `message` as a host does: form, whose it is, mathematics, touch, and a
/// certificate's time at `now`, unix seconds.
pub fn judge(
    armored: &str,
    namespace: Namespace,
    message: &[u8],
    policy: &Policy,
    now: u64,
) -> Result<Signatory, SignatureError> {
    let signature = sshsig::decode_operator(armored, namespace)?;
    // V22: before any mathematics.
    let (operator, listed) = look_up(&signature.claim(), policy, namespace)?;
    let key = signature.verify(message, listed, now)?;
    Ok(Signatory { operator: operator.name.clone(), key })
}

/// Steps 4 and 5: whom the signature would count for, by the policy alone (V13, V14, V16). A stranger learns
/// nothing and costs no mathematics (V22).
pub(crate) fn look_up<'a>(
    claim: &Claim<'_>,
    policy: &'a Policy,
    namespace: Namespace,
) -> Result<(&'a Operator, Listed), SignatureError> {
    let (operator, listed) = find(claim, policy, namespace)?;
    if policy.has_namespace(operator, namespace) {
        Ok((operator, listed))
    } else {
        Err(SignatureError::Unknown { what: format!("key {}", claim.fingerprint()), namespace })
    }
}

/// The same without V14: whoever is listed. `namespace` is for the words only.
pub(crate) fn find<'a>(
    claim: &Claim<'_>,
    policy: &'a Policy,
    namespace: Namespace,
) -> Result<(&'a Operator, Listed), SignatureError> {
    let key = claim.fingerprint();
    let revoked = |what: String| SignatureError::Revoked { what };
    let unknown = |what: String| SignatureError::Unknown { what, namespace };
    match *claim {
        Claim::Key(raw) => {
            let (operator, credential) = policy.listed(raw).ok_or_else(|| unknown(format!("key {key}")))?;
            if policy.is_revoked(raw) {
                return Err(revoked(format!("key {key}")));
            }
            Ok((operator, Listed { verify_required: credential.verify_required(), max_validity_s: 0 }))
        }
        Claim::Certificate { ca, subject, principals, serial, key_id, .. } => {
            let ca_name = format!("CA {}", Fingerprint::of_key_blob(ca));
            // V15: the CA is listed, for one of the principals.
            if policy.authorities(ca).next().is_none() {
                return Err(unknown(format!("a certificate for key {key} by {ca_name}")));
            }
            // V16: the CA too.
            if policy.is_revoked(ca) {
                return Err(revoked(ca_name));
            }
            if policy.is_revoked(subject) {
                return Err(revoked(format!("key {key}, which is certified,")));
            }
            if policy.is_certificate_revoked(ca, serial, key_id) {
                return Err(revoked(format!("certificate {serial} of {ca_name}")));
            }
            let mut meant = policy.authorities(ca).filter(|(_, authority)| {
                authority.principals.iter().any(|principal| principals.contains(principal))
            });
            let (operator, authority) = meant.next().ok_or_else(|| {
                unknown(format!("none of the principals of the certificate for key {key} by {ca_name}"))
            })?;
            // A certificate for two operators would let one person be both (V20).
            if meant.any(|(other, _)| other.name != operator.name) {
                return Err(SignatureError::TwoOperators(key));
            }
            let listed = Listed {
                verify_required: authority.verify_required,
                max_validity_s: authority.max_validity_s,
            };
            Ok((operator, listed))
        }
    }
}

#[cfg(test)]
mod tests;
