//! Whose signatures stand under some bytes, by a policy: steps 1 to 7 of `security.md` 2.16, and how many
//! people that makes (V20). Orders, policies, revocations and statements are all judged here.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{Envelope, Fingerprint, HostName};

use crate::keys::OperatorKey;
use crate::lookup::{self, SignatureError};
use crate::namespace::Namespace;
use crate::policy::{Operator, Policy, Role};
use crate::receipt::Signer;
use crate::refusal::{Refusal, RefusalCode};
use crate::sshsig::{self, Claim, Listed, OperatorSignature, SigError};

/// For what an operator's signature is to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Only where one of the operator's roles has the namespace (V14).
    InRole,
    /// Whoever is listed: for what only takes rights away.
    Anyone,
}

/// One valid signature.
#[derive(Debug, Clone)]
pub(crate) struct SignedBy {
    /// The key itself, or the certified one.
    pub(crate) key: OperatorKey,
    /// Whom it counts for.
    pub(crate) signer: Signer,
    /// By a certificate.
    pub(crate) certified: bool,
}

/// One well-formed signature and what the policy says of it; no mathematics done.
#[derive(Debug)]
pub(crate) struct Known {
    signature: OperatorSignature,
    listed: Listed,
    signer: Signer,
}

impl Known {
    /// Step 6 and 7: the mathematics, then the rules of security keys and certificates.
    pub(crate) fn verify(self, payload: &[u8], now: u64) -> Result<SignedBy, Refusal> {
        let certified = matches!(self.signature.claim(), Claim::Certificate { .. });
        let key = self.signature.verify(payload, self.listed, now).map_err(|error| refusal(&error))?;
        Ok(SignedBy { key, signer: self.signer, certified })
    }
}

/// Steps 1 and 2: how many, how large, and whether each is a signature at all (V1).
pub(crate) fn decode(envelope: &Envelope, namespace: Namespace) -> Result<Vec<OperatorSignature>, Refusal> {
    if envelope.sigs.is_empty() {
        let why = "it carries no signature: sign it with `writ sign`, a policy with `writ policy sign`";
        return Err(Refusal::new(RefusalCode::Unsigned, why));
    }
    if envelope.sigs.len() > Envelope::MAX_SIGNATURES || envelope.payload.0.len() > Envelope::MAX_PAYLOAD {
        return Err(Refusal::new(
            RefusalCode::Size,
            format!(
                "it is too large: at most {} signatures and {} bytes of payload",
                Envelope::MAX_SIGNATURES,
                Envelope::MAX_PAYLOAD
            ),
        ));
    }
    let read =
        |armored: &String| sshsig::decode_operator(armored, namespace).map_err(|error| refusal(&error));
    envelope.sigs.iter().map(read).collect()
}

/// Steps 1 to 7 for one policy. Every signature is decoded and every key looked up before any mathematics;
/// one bad signature refuses the whole envelope (2.3).
pub(crate) fn check(
    envelope: &Envelope,
    policy: &Policy,
    namespace: Namespace,
    scope: Scope,
    now: u64,
) -> Result<Vec<SignedBy>, Refusal> {
    let known: Result<Vec<Known>, Refusal> = decode(envelope, namespace)?
        .into_iter()
        .map(|signature| look_up(signature, policy, namespace, scope))
        .collect();
    known?.into_iter().map(|known| known.verify(&envelope.payload.0, now)).collect()
}

/// Steps 4 and 5: whom the signature would count for, by the policy alone (V13, V14, V16). A stranger learns
/// nothing and costs no mathematics (V22).
pub(crate) fn look_up(
    signature: OperatorSignature,
    policy: &Policy,
    namespace: Namespace,
    scope: Scope,
) -> Result<Known, Refusal> {
    let key = signature.fingerprint();
    let (operator, listed) = claimed(&signature, policy, namespace)?;
    if scope == Scope::InRole && !policy.has_namespace(operator, namespace) {
        return Err(unknown(namespace, &format!("key {key}")));
    }
    let signer = Signer { operator: operator.name.clone(), key };
    Ok(Known { signature, listed, signer })
}

fn unknown(namespace: Namespace, what: &str) -> Refusal {
    let why = format!("{what} is not allowed to sign {namespace} by this host's policy");
    Refusal::new(RefusalCode::UnknownSigner, why)
}

/// The lookup that everybody uses, in a host's words.
fn claimed<'a>(
    signature: &OperatorSignature,
    policy: &'a Policy,
    namespace: Namespace,
) -> Result<(&'a Operator, Listed), Refusal> {
    lookup::find(&signature.claim(), policy, namespace).map_err(|error| match error {
        SignatureError::Signature(error) => refusal(&error),
        SignatureError::Unknown { what, namespace } => unknown(namespace, &what),
        SignatureError::Revoked { what } => {
            Refusal::new(RefusalCode::Revoked, format!("{what} is revoked by this host's policy"))
        }
        SignatureError::TwoOperators(_) => Refusal::new(RefusalCode::Certificate, error.to_string()),
    })
}

/// The refusal that an error of a signature is.
pub(crate) fn refusal(error: &SigError) -> Refusal {
    let code = match error {
        SigError::TooLarge => RefusalCode::Size,
        SigError::Armor | SigError::Format(_) | SigError::Hash => RefusalCode::Malformed,
        SigError::Namespace { .. } => RefusalCode::Namespace,
        SigError::KeyType(_) | SigError::NeverAccepted(_) | SigError::KeyRefused(_) | SigError::WeakKey => {
            RefusalCode::KeyType
        }
        SigError::NoTouch | SigError::NotVerified | SigError::Flags => RefusalCode::Presence,
        SigError::Certificate(_) => RefusalCode::Certificate,
        SigError::Wrong => RefusalCode::BadSignature,
    };
    Refusal::new(code, error.to_string())
}

/// The signers, each once.
pub(crate) fn names(signed: &[SignedBy]) -> Vec<Signer> {
    let mut names: Vec<Signer> = Vec::new();
    for SignedBy { signer, .. } in signed {
        if !names.contains(signer) {
            names.push(signer.clone());
        }
    }
    names
}

/// How many distinct people with distinct keys signed (V20), of those who are members of one of `roles`; or
/// the key that signed for two of them: two CAs could certify one key for two people, and whoever holds it is
/// one person.
pub(crate) fn people<'a>(
    signed: &'a [SignedBy],
    roles: &[&Role],
) -> Result<BTreeSet<&'a HostName>, Fingerprint> {
    let counting: Vec<&SignedBy> = signed
        .iter()
        .filter(|by| roles.iter().any(|role| role.members.contains(&by.signer.operator)))
        .collect();
    for by in &counting {
        if counting.iter().any(|other| other.key == by.key && other.signer.operator != by.signer.operator) {
            return Err(by.signer.key);
        }
    }
    Ok(counting.iter().map(|by| &by.signer.operator).collect())
}

/// Whether each role can be given a signer of its own, nobody standing for two: separation of duty.
pub(crate) fn each_has_one(roles: &[&Role], people: &BTreeSet<&HostName>) -> bool {
    // A matching by augmenting paths: who is asked for a second time moves to another role if one is free.
    fn give<'a>(
        role: usize,
        roles: &[&Role],
        people: &BTreeSet<&'a HostName>,
        asked: &mut BTreeSet<&'a HostName>,
        given: &mut BTreeMap<&'a HostName, usize>,
    ) -> bool {
        for person in people.iter().filter(|person| roles[role].members.contains(**person)) {
            if !asked.insert(person) {
                continue;
            }
            let free = match given.get(person).copied() {
                None => true,
                Some(other) => give(other, roles, people, asked, given),
            };
            if free {
                given.insert(person, role);
                return true;
            }
        }
        false
    }
    let mut given = BTreeMap::new();
    (0..roles.len()).all(|role| give(role, roles, people, &mut BTreeSet::new(), &mut given))
}
