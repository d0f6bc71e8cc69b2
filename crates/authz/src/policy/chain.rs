//! The policies that a host has lived by, one after the other (`security.md` 2.10). Pure: signed envelopes go
//! in, the policy in force comes out.
//!
//! Version N+1 counts only when it is signed by the threshold of N's root role **and** of its own, names N's
//! hash, and is no older. Nothing is ever skipped, so whoever holds the links can follow a host from its first
//! policy to the present one. Certificates do not count here: they expire, and the chain must be checkable for
//! ever.

use protocol::{Envelope, Sha256};

use super::words::{Freshness, Revocation, Revoked, Word};
use super::{Policy, PolicyError};
use crate::namespace::Namespace;
use crate::order::PolicyRef;
use crate::receipt::Signer;
use crate::refusal::{Refusal, RefusalCode};
use crate::signers::{self, Scope, SignedBy};

/// Most revocations beside the policy in force that it does not say itself: a new policy version takes them in.
pub const MAX_REVOCATIONS: usize = 1_024;
/// How far ahead of the host's clock a word of freshness may be dated, seconds.
pub const AHEAD_S: u64 = 24 * 3_600;

/// What accepting an envelope came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// A new version is in force.
    Advanced {
        /// Which.
        policy: PolicyRef,
        /// Who signed it.
        signers: Vec<Signer>,
    },
    /// Something counts no more.
    Revoked {
        /// What.
        what: Revoked,
        /// Who signed that.
        signers: Vec<Signer>,
    },
    /// The policy was still the newest at this time, unix seconds.
    Fresh(u64),
    /// Nothing new: it was accepted before, or a newer one of its kind was.
    Known,
}

/// The chain of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    first: u64,
    /// Of each version from `first` on.
    hashes: Vec<Sha256>,
    current: Policy,
    fresh_at: u64,
}

impl Chain {
    /// Begins with a policy that is trusted by its hash.
    pub fn new(first: Policy) -> Self {
        let (version, hash, fresh_at) = (first.version(), *first.hash(), first.document().issued_at);
        Self { first: version, hashes: vec![hash], current: first, fresh_at }
    }

    /// The policy in force, without what was revoked.
    pub fn current(&self) -> &Policy {
        &self.current
    }

    /// When somebody last said that it is the newest, unix seconds.
    pub fn fresh_at(&self) -> u64 {
        self.fresh_at
    }

    /// Whether the last such word is older than the policy allows. `now` is the host's trusted time.
    pub fn is_stale(&self, now: u64) -> bool {
        let allowed = self.current.document().freshness_s;
        allowed.is_some_and(|allowed| now > self.fresh_at.saturating_add(allowed))
    }

    /// Whether this host ever lived by that policy.
    pub fn contains(&self, policy: &PolicyRef) -> bool {
        let place = policy.version.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.hashes.get(place)) == Some(&policy.sha256)
    }

    /// The same by hash alone.
    pub fn has(&self, sha256: &Sha256) -> bool {
        self.hashes.contains(sha256)
    }

    /// Judges one envelope and takes it in. `now` is the host's clock, unix seconds; it decides about
    /// certificates and about words from the future only.
    pub fn accept(&mut self, envelope: &Envelope, now: u64) -> Result<Accepted, Refusal> {
        let (known, strangers) = self.split(envelope)?;
        let mut signed = Vec::new();
        for known in known {
            signed.push(known.verify(&envelope.payload.0, now)?);
        }
        // V17: somebody whom the policy lists signed exactly these bytes. Only now are they read.
        let word = Word::decode(&envelope.payload.0).map_err(|error| {
            let code = match error {
                PolicyError::TooLarge(_) => RefusalCode::Size,
                PolicyError::Canonical(_) | PolicyError::Inconsistent(_) => RefusalCode::BadOrder,
            };
            refuse(&signed, code, error.to_string())
        })?;
        match word {
            Word::Policy(next) => self.advance(*next, envelope, signed),
            Word::Revocation(word) => {
                no_strangers(&signed, strangers)?;
                self.revoke(&word, &signed)
            }
            Word::Freshness(word) => {
                no_strangers(&signed, strangers)?;
                self.freshen(&word, &signed, now)
            }
        }
    }

    /// The signatures by those whom the policy in force lists, and the refusal of another one. Nobody whom it
    /// lists: nothing is read and nothing computed (V22).
    fn split(&self, envelope: &Envelope) -> Result<(Vec<signers::Known>, Option<Refusal>), Refusal> {
        let (mut known, mut stranger) = (Vec::new(), None);
        for signature in signers::decode(envelope, Namespace::Policy)? {
            match signers::look_up(signature, &self.current, Namespace::Policy, Scope::Anyone) {
                Ok(signature) => known.push(signature),
                Err(refusal) => stranger = Some(refusal),
            }
        }
        match (known.is_empty(), stranger) {
            (true, Some(refusal)) => Err(refusal),
            (_, stranger) => Ok((known, stranger)),
        }
    }

    fn advance(
        &mut self,
        next: Policy,
        envelope: &Envelope,
        by_current: Vec<SignedBy>,
    ) -> Result<Accepted, Refusal> {
        let refuse = |code, why: String| Err(refuse(&by_current, code, why));
        if by_current.iter().any(|by| by.certified) {
            let why =
                "a policy is signed with keys, not with certificates: they expire, and a chain must not";
            return refuse(RefusalCode::Certificate, why.into());
        }
        let name = PolicyRef::from(&next);
        if self.contains(&name) {
            return Ok(Accepted::Known);
        }
        let (version, wanted) = (name.version, self.current.version().saturating_add(1));
        if version < wanted {
            let why = format!(
                "policy version {version} with hash {} is not of this host's chain, which is at version {}: somebody forked the policy",
                name.sha256,
                self.current.version()
            );
            return refuse(RefusalCode::Chain, why);
        }
        if version > wanted {
            let why = format!(
                "policy version {version} does not follow version {}: deliver the versions between them first",
                self.current.version()
            );
            return refuse(RefusalCode::Chain, why);
        }
        if next.document().prev != Some(*self.current.hash()) {
            let why = format!(
                "policy version {version} does not name the hash of this host's version {} ({}): it is of another chain",
                self.current.version(),
                self.current.hash()
            );
            return refuse(RefusalCode::Chain, why);
        }
        if next.document().issued_at < self.current.document().issued_at {
            return refuse(
                RefusalCode::Chain,
                format!("policy version {version} is older than the one before it"),
            );
        }
        // What was revoked stays so, in the next version's own eyes too.
        let next = next.without(self.current.taken());
        if !next.has_root() {
            let why = format!(
                "under policy version {version} nobody could change the policy: keys of its root role were revoked"
            );
            return refuse(RefusalCode::Threshold, why);
        }
        // Every signature must be by somebody whom one of the two lists, and valid under each that lists them.
        let mut by_next = Vec::new();
        for signature in signers::decode(envelope, Namespace::Policy)? {
            let key = signature.fingerprint();
            match signers::look_up(signature, &next, Namespace::Policy, Scope::Anyone) {
                // Time is out of it: certificates are not counted.
                Ok(known) => by_next.push(known.verify(&envelope.payload.0, 0)),
                Err(_) if by_current.iter().any(|by| by.signer.key == key) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let by_next: Vec<SignedBy> = by_next.into_iter().collect::<Result<_, _>>()?;
        for (policy, signed) in [(&self.current, &by_current), (&next, &by_next)] {
            root_threshold(policy, signed)
                .map_err(|why| self::refuse(&by_current, RefusalCode::Threshold, why))?;
        }
        let mut signers = signers::names(&by_current);
        signers.extend(
            signers::names(&by_next)
                .into_iter()
                .filter(|signer| !by_current.iter().any(|by| by.signer == *signer)),
        );
        self.hashes.push(name.sha256);
        self.fresh_at = self.fresh_at.max(next.document().issued_at);
        self.current = next;
        Ok(Accepted::Advanced { policy: name, signers })
    }

    fn revoke(&mut self, word: &Revocation, signed: &[SignedBy]) -> Result<Accepted, Refusal> {
        self.of_this_chain(&word.policy, signed)?;
        if self.current.taken().contains(&word.revoke) {
            return Ok(Accepted::Known);
        }
        // What was revoked stays so, whatever a later version says; only what it does not say takes room.
        let document = self.current.document();
        let beside = self.current.taken().iter().filter(|taken| !document.says(taken));
        if beside.count() >= MAX_REVOCATIONS {
            let why = format!(
                "{MAX_REVOCATIONS} revocations stand beside this host's policy: sign a new policy version that takes them in"
            );
            return Err(refuse(signed, RefusalCode::Size, why));
        }
        let after = self.current.clone().without(std::slice::from_ref(&word.revoke));
        if !after.has_root() {
            let why = format!(
                "without {} nobody could change the policy any more: sign a new policy version that replaces it",
                word.revoke
            );
            return Err(refuse(signed, RefusalCode::Threshold, why));
        }
        self.current = after;
        Ok(Accepted::Revoked { what: word.revoke.clone(), signers: signers::names(signed) })
    }

    fn freshen(&mut self, word: &Freshness, signed: &[SignedBy], now: u64) -> Result<Accepted, Refusal> {
        self.of_this_chain(&word.fresh, signed)?;
        if word.fresh != PolicyRef::from(&self.current) || word.issued_at <= self.fresh_at {
            return Ok(Accepted::Known);
        }
        if word.issued_at > now.saturating_add(AHEAD_S) {
            let why =
                "the word that the policy is the newest is dated more than a day ahead: check the clocks";
            return Err(refuse(signed, RefusalCode::TooEarly, why));
        }
        self.fresh_at = word.issued_at;
        Ok(Accepted::Fresh(word.issued_at))
    }

    /// What names a policy that this host never had is of another chain, or shows that the host is behind.
    fn of_this_chain(&self, policy: &PolicyRef, signed: &[SignedBy]) -> Result<(), Refusal> {
        if self.contains(policy) {
            return Ok(());
        }
        let (here, there) = (self.current.version(), policy.version);
        let why = if there > here {
            format!(
                "it was signed under policy version {there}, this host has {here}: deliver the newer policy first"
            )
        } else {
            format!(
                "it was signed under policy version {there} ({}), which is not of this host's chain",
                policy.sha256
            )
        };
        Err(refuse(signed, RefusalCode::Chain, why))
    }
}

fn no_strangers(signed: &[SignedBy], stranger: Option<Refusal>) -> Result<(), Refusal> {
    match stranger {
        None => Ok(()),
        Some(refusal) => Err(Refusal { signers: signers::names(signed), authenticated: true, ..refusal }),
    }
}

fn refuse(signed: &[SignedBy], code: RefusalCode, why: impl Into<String>) -> Refusal {
    Refusal { authenticated: true, signers: signers::names(signed), ..Refusal::new(code, why) }
}

/// V20 for the root role; keys only.
fn root_threshold(policy: &Policy, signed: &[SignedBy]) -> Result<(), String> {
    let root = &policy.document().root;
    let role = policy.role(&root.role).filter(|role| role.namespaces.contains(&Namespace::Policy));
    let by_key: Vec<SignedBy> = signed.iter().filter(|by| !by.certified).cloned().collect();
    let roles: Vec<_> = role.into_iter().collect();
    let have = signers::people(&by_key, &roles)
        .map_err(|key| format!("key {key} signed for two operators: each needs a key of their own"))?
        .len();
    if have >= root.threshold as usize {
        return Ok(());
    }
    Err(format!(
        "policy version {} wants {} signer(s) of its root role {} with their own keys, and this has {have}",
        policy.version(),
        root.threshold,
        root.role
    ))
}

#[cfg(test)]
mod tests;
