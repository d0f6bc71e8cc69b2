//! Whether this host may carry out this order now: the checks of `security.md` 2.16 that need no
//! look at the guests, in that order. Success is a value that only this module can make.

use std::collections::BTreeSet;

use protocol::text::SafeText;
use protocol::{Envelope, Fingerprint, HostId, Sha256};

use crate::keys::OperatorKey;
use crate::namespace::Namespace;
use crate::order::{Binding, Kind, Order, OrderError};
use crate::policy::{Operator, Policy, Rule};
use crate::receipt::Signer;
use crate::refusal::RefusalCode;
use crate::sshsig::{self, Claim, Listed, OperatorSignature, SigError};

/// How far the host's clock may be behind the signer's, seconds.
pub const CLOCK_SKEW_S: u64 = 120;

/// A refusal: the rule, and a sentence with cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// Which rule.
    pub code: RefusalCode,
    /// Cause and remedy.
    pub why: String,
    /// Whether a known operator's valid signature was on it: such a refusal belongs in the log.
    pub authenticated: bool,
    /// The kind, if the order could be read.
    pub kind: Option<Kind>,
    /// Whose valid signatures were on it.
    pub signers: Vec<Signer>,
}

impl Refusal {
    /// Before any signature was found valid.
    pub fn new(code: RefusalCode, why: impl Into<String>) -> Self {
        Self { code, why: why.into(), authenticated: false, kind: None, signers: Vec::new() }
    }

    /// The sentence as it may stand in a receipt.
    pub fn safe_why(&self) -> SafeText {
        SafeText::sanitize(&self.why)
    }
}

/// What the host knows of itself.
#[derive(Clone)]
pub struct HostFacts<'a> {
    /// Its id.
    pub id: HostId,
    /// Its key.
    pub key: Fingerprint,
    /// Which of its keys.
    pub generation: u32,
    /// Its log; none where there is no log to compare with (the runner: the warden has compared).
    pub log: Option<LogFacts<'a>>,
}

/// What the host knows of its log.
#[derive(Clone, Copy)]
pub struct LogFacts<'a> {
    /// Entries in it.
    pub size: u64,
    /// Hash of the last entry when the log had so many; none if it never had. Asked only for an order that
    /// is known to be signed.
    pub head_at: &'a dyn Fn(u64) -> Option<Sha256>,
}

/// Proof that operators whom the policy of this host trusts ordered `T`, for this host, now. Only
/// [`verify`] makes one. It says nothing about the nonce: burn it in the journal next.
#[derive(Debug, Clone)]
pub struct Authorized<T> {
    inner: T,
    op: Sha256,
    signers: Vec<Signer>,
}

impl<T> Authorized<T> {
    /// What was ordered.
    pub fn get(&self) -> &T {
        &self.inner
    }

    /// SHA-256 of the payload: the order's id.
    pub fn op(&self) -> &Sha256 {
        &self.op
    }

    /// Whose signatures count.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// A refusal of this order by a later check.
    pub fn refuse(&self, kind: Kind, code: RefusalCode, why: impl Into<String>) -> Refusal {
        Refusal {
            code,
            why: why.into(),
            authenticated: true,
            kind: Some(kind),
            signers: self.signers.clone(),
        }
    }
}

/// Checks 1 to 12 of `security.md` 2.16. `now` is the host's clock, unix seconds.
pub fn verify(
    envelope: &Envelope,
    policy: &Policy,
    host: &HostFacts<'_>,
    now: u64,
) -> Result<Authorized<Order>, Refusal> {
    let (namespace, signers) = check_signatures(envelope, policy, now)?;
    let refuse =
        |code, why: String| Refusal { code, why, authenticated: true, kind: None, signers: names(&signers) };

    // V17: only now are the bytes parsed, and they are the ones that were verified.
    let order = Order::decode(&envelope.payload.0).map_err(|error| {
        let code = match error {
            OrderError::NotBuilt(_) | OrderError::NoSuchKind(_) => RefusalCode::Kind,
            OrderError::Canonical(_)
            | OrderError::TooLarge(_)
            | OrderError::Version(_)
            | OrderError::Range { .. }
            | OrderError::NoGuest(_)
            | OrderError::Precondition { .. } => RefusalCode::BadOrder,
        };
        refuse(code, error.to_string())
    })?;
    let authorized = Authorized { op: envelope.id(), signers: names(&signers), inner: order };
    let order = authorized.get();
    let refuse = |code, why: String| authorized.refuse(order.kind(), code, why);

    // V7, second half: the signatures are for the authority that this kind needs.
    if order.kind().namespace() != namespace {
        let why = format!(
            "orders of kind {} are signed with -n {}, and this one was signed for {namespace}",
            order.kind(),
            order.kind().namespace()
        );
        return Err(refuse(RefusalCode::Namespace, why));
    }
    check_host(order, policy, host).map_err(|(code, why)| refuse(code, why))?;
    let rule = policy.rule(order.kind()).ok_or_else(|| {
        refuse(
            RefusalCode::Kind,
            format!("this host's policy has no rule for {}: nobody may order it", order.kind()),
        )
    })?;
    check_threshold(order, policy, rule, &signers).map_err(|why| refuse(RefusalCode::Threshold, why))?;
    check_binding(order, rule).map_err(|(code, why)| refuse(code, why))?;
    check_clock(order, rule, now).map_err(|(code, why)| refuse(code, why))?;
    Ok(authorized)
}

/// Namespaces of the orders that can be carried out so far.
const ORDERS: [Namespace; 3] = [Namespace::Op, Namespace::Job, Namespace::Session];

/// Steps 1 to 6: sizes, form, known keys, revocation, then the mathematics. Gives the namespace, one of
/// [`ORDERS`], that all signatures are for; whether the order is of that authority is still to be checked.
fn check_signatures(
    envelope: &Envelope,
    policy: &Policy,
    now: u64,
) -> Result<(Namespace, Vec<(OperatorKey, Signer)>), Refusal> {
    if envelope.sigs.is_empty() {
        return Err(Refusal::new(
            RefusalCode::Unsigned,
            "the order carries no signature: sign it with `writ sign`",
        ));
    }
    if envelope.sigs.len() > Envelope::MAX_SIGNATURES || envelope.payload.0.len() > Envelope::MAX_PAYLOAD {
        return Err(Refusal::new(
            RefusalCode::Size,
            format!(
                "the order is too large: at most {} signatures and {} bytes of payload",
                Envelope::MAX_SIGNATURES,
                Envelope::MAX_PAYLOAD
            ),
        ));
    }
    let claimed = envelope.sigs.first().and_then(|armored| sshsig::claimed_namespace(armored));
    let namespace = claimed.filter(|claimed| ORDERS.contains(claimed)).unwrap_or(Namespace::Op);
    // Every signature is decoded and every key looked up before any mathematics; one bad signature
    // refuses the whole envelope (2.3).
    let mut decoded = Vec::new();
    for armored in &envelope.sigs {
        let signature =
            sshsig::decode_operator(armored, namespace).map_err(|error| signature_refusal(&error))?;
        let (operator, listed) = look_up(&signature, policy, namespace)?;
        let signer = Signer { operator: operator.name.clone(), key: signature.fingerprint() };
        decoded.push((signature, listed, signer));
    }
    let verified: Result<Vec<_>, Refusal> = decoded
        .into_iter()
        .map(|(signature, listed, signer)| {
            let key = signature
                .verify(&envelope.payload.0, listed, now)
                .map_err(|error| signature_refusal(&error))?;
            Ok((key, signer))
        })
        .collect();
    Ok((namespace, verified?))
}

/// Steps 4 and 5: whom the signature would count for, by the policy alone (V13, V14, V16). A stranger learns
/// nothing and costs no mathematics (V22).
fn look_up<'a>(
    signature: &OperatorSignature,
    policy: &'a Policy,
    namespace: Namespace,
) -> Result<(&'a Operator, Listed), Refusal> {
    let key = signature.fingerprint();
    let revoked =
        |what: String| Refusal::new(RefusalCode::Revoked, format!("{what} is revoked by this host's policy"));
    let unknown = |what: String| {
        let why = format!("{what} is not allowed to sign {namespace} by this host's policy");
        Refusal::new(RefusalCode::UnknownSigner, why)
    };
    let (operator, listed) = match signature.claim() {
        Claim::Key(raw) => {
            let (operator, credential) = policy.listed(raw).ok_or_else(|| unknown(format!("key {key}")))?;
            if policy.is_revoked(raw) {
                return Err(revoked(format!("key {key}")));
            }
            (operator, Listed { verify_required: credential.verify_required(), max_validity_s: 0 })
        }
        Claim::Certificate { ca, subject, principals, serial, key_id } => {
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
                return Err(Refusal::new(
                    RefusalCode::Certificate,
                    format!(
                        "the certificate for key {key} stands for two operators: sign one for each with -n NAME"
                    ),
                ));
            }
            let listed = Listed {
                verify_required: authority.verify_required,
                max_validity_s: authority.max_validity_s,
            };
            (operator, listed)
        }
    };
    if policy.has_namespace(operator, namespace) {
        Ok((operator, listed))
    } else {
        Err(unknown(format!("key {key}")))
    }
}

fn signature_refusal(error: &SigError) -> Refusal {
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

fn names(signers: &[(OperatorKey, Signer)]) -> Vec<Signer> {
    let mut names: Vec<Signer> = Vec::new();
    for (_, signer) in signers {
        if !names.contains(signer) {
            names.push(signer.clone());
        }
    }
    names
}

/// Steps 10 and 11, without the threshold.
fn check_host(order: &Order, policy: &Policy, host: &HostFacts<'_>) -> Result<(), (RefusalCode, String)> {
    if order.host.id != host.id {
        return Err((
            RefusalCode::OtherHost,
            format!("the order is for host {}, this is {}", order.host.id, host.id),
        ));
    }
    if order.host.key != host.key || order.host.generation != host.generation {
        return Err((
            RefusalCode::OtherHost,
            format!(
                "the order is for this host's key {}, its key is now {}: prepare it again",
                order.host.key, host.key
            ),
        ));
    }
    if order.host.cluster.is_some() {
        return Err((RefusalCode::OtherHost, "the order names a cluster, and this host is in none".into()));
    }
    if order.policy.version != policy.version() || order.policy.sha256 != *policy.hash() {
        return Err((
            RefusalCode::OtherPolicy,
            format!(
                "the order was made under policy version {} ({}), this host lives by version {} ({}): prepare it again",
                order.policy.version,
                order.policy.sha256,
                policy.version(),
                policy.hash()
            ),
        ));
    }
    if let (Some(after), Some(log)) = (&order.after, &host.log) {
        let wrong_size = if after.strict { log.size != after.size } else { log.size < after.size };
        if wrong_size || (log.head_at)(after.size) != Some(after.head) {
            return Err((
                RefusalCode::LogAnchor,
                format!(
                    "the signer knew {} log entries of this host, which has {}: its history was rolled back or has moved on",
                    after.size, log.size
                ),
            ));
        }
    }
    Ok(())
}

/// Rule V20: distinct operators and distinct keys, of the role that the rule names.
fn check_threshold(
    order: &Order,
    policy: &Policy,
    rule: &Rule,
    signers: &[(OperatorKey, Signer)],
) -> Result<(), String> {
    let counting: Vec<_> = signers
        .iter()
        .filter(|(_, signer)| {
            policy.operator(&signer.operator).is_some_and(|operator| policy.counts_for(rule, operator))
        })
        .collect();
    // Two CAs could certify one key for two people: whoever holds it is one person.
    if let Some((_, signer)) = counting.iter().find(|(key, signer)| {
        counting.iter().any(|(other, theirs)| key == other && signer.operator != theirs.operator)
    }) {
        return Err(format!("key {} signed for two operators: each needs a key of their own", signer.key));
    }
    let operators: BTreeSet<_> = counting.iter().map(|(_, signer)| &signer.operator).collect();
    let keys: BTreeSet<_> = counting.iter().map(|(key, _)| key).collect();
    let have = operators.len().min(keys.len());
    let need = rule.threshold.max(order.min_signers);
    if have < need as usize {
        return Err(format!(
            "{} needs {need} signer(s) of role {}, this order has {have}",
            order.kind(),
            rule.role
        ));
    }
    Ok(())
}

/// Step 12, first half: plans. The warden does not compute plans yet, so an order that is bound to
/// one is never accepted, and only kinds that may stand by policy are.
fn check_binding(order: &Order, rule: &Rule) -> Result<(), (RefusalCode, String)> {
    if order.plan.is_some() {
        return Err((
            RefusalCode::NeedsPlan,
            "this host has not computed the plan that the order is bound to".into(),
        ));
    }
    let stands = match order.kind().binding() {
        // Immediate orders live for minutes: the policy's `check` and `max_validity_s` see to that.
        Binding::None | Binding::Immediate => true,
        Binding::PlanOrStanding | Binding::Standing => rule.standing,
        Binding::Plan => false,
    };
    if stands {
        Ok(())
    } else {
        Err((
            RefusalCode::NeedsPlan,
            format!("this host's policy does not let {} stand without a plan", order.kind()),
        ))
    }
}

/// Step 12, second half: the clock of standing orders.
fn check_clock(order: &Order, rule: &Rule, now: u64) -> Result<(), (RefusalCode, String)> {
    let Some(validity) = order.exp.checked_sub(order.nbf) else {
        return Err((RefusalCode::Validity, "the order expires before it begins".into()));
    };
    if validity > rule.max_validity_s {
        return Err((
            RefusalCode::Validity,
            format!(
                "the order is valid for {validity} s; this host's policy allows {} s",
                rule.max_validity_s
            ),
        ));
    }
    if now.saturating_add(CLOCK_SKEW_S) < order.nbf {
        return Err((
            RefusalCode::TooEarly,
            format!(
                "the order begins at {}, and it is {now} on the host: wait, or check the clocks",
                order.nbf
            ),
        ));
    }
    if now > order.exp {
        return Err((
            RefusalCode::Expired,
            format!("the order expired {} s ago: prepare and sign a new one", now - order.exp),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
