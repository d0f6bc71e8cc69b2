//! Whether this host may carry out this order now: the checks of `security.md` 2.16 that need no
//! look at the guests, in that order. Success is a value that only this module can make.

use std::collections::BTreeSet;

use protocol::{Envelope, Fingerprint, HostId, HostName, Sha256};

use crate::clock;
use crate::namespace::Namespace;
use crate::order::{Binding, Class, Kind, Order, OrderError};
use crate::plan::PlanBook;
use crate::policy::{Policy, Rule};
use crate::receipt::Signer;
use crate::refusal::{Refusal, RefusalCode};
use crate::signers::{self, Scope, SignedBy, names};
use crate::sshsig;

/// How far the host's clock may be behind the signer's, seconds.
pub const CLOCK_SKEW_S: u64 = 120;

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
    /// What its clock is worth.
    pub clock: clock::State,
    /// The signed floor of its clock, unix seconds, and nothing less than the latest `exp` of the nonces that
    /// its journal forgot: what expired before this is refused, whatever the clock says.
    pub floor: u64,
    /// The last signed word that its policy is the newest is too old ([`crate::policy::chain::Chain::is_stale`]).
    pub stale: bool,
    /// The plans that it remembers, and CLOCK_BOOTTIME in seconds; none where no plans are made (the runner).
    pub plans: Option<(&'a PlanBook, u64)>,
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
///
/// Nobody else can write one down,
/// ```compile_fail,E0451
/// let forged = authz::Authorized { inner: 1, op: protocol::Sha256::of(b""), signers: vec![] };
/// ```
/// read one from somewhere,
/// ```compile_fail,E0277
/// let forged: authz::Authorized<u32> = serde_json::from_str("{}").unwrap();
/// ```
/// begin with an empty one,
/// ```compile_fail,E0277
/// fn empty<T: Default>() -> T { T::default() }
/// let forged = empty::<authz::Authorized<u32>>();
/// ```
/// put something else into one,
/// ```compile_fail,E0616
/// fn swap(mut authorized: authz::Authorized<u32>) { authorized.inner = 2; }
/// ```
/// or change what is in it.
/// ```compile_fail,E0594
/// fn change(authorized: &authz::Authorized<u32>) { *authorized.get() = 2; }
/// ```
/// Reading is all that is left:
/// ```
/// fn read(authorized: &authz::Authorized<u32>) -> u32 { *authorized.get() }
/// ```
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
    let namespace = claimed_namespace(envelope);
    let signers = signers::check(envelope, policy, namespace, Scope::InRole, now)?;
    let refuse =
        |code, why: String| Refusal { code, why, authenticated: true, kind: None, signers: names(&signers) };

    // V17: only now are the bytes parsed, and they are the ones that were verified.
    let order = Order::decode(&envelope.payload.0).map_err(|error| {
        let code = match error {
            OrderError::NotAnOrder { .. } | OrderError::NoSuchKind(_) => RefusalCode::Kind,
            OrderError::Canonical(_)
            | OrderError::TooLarge(_)
            | OrderError::Version(_)
            | OrderError::Range { .. }
            | OrderError::NoGuest(_)
            | OrderError::Needless { .. }
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
    let rule = rule_of(order, policy).map_err(|(code, why)| refuse(code, why))?;
    let need = needed(order, policy, rule, host.stale).map_err(|(code, why)| refuse(code, why))?;
    if let (_, Some(why)) = check_threshold(order, policy, rule, &signers, need) {
        return Err(refuse(RefusalCode::Threshold, why));
    }
    check_binding(order, rule, host).map_err(|(code, why)| refuse(code, why))?;
    check_clock(order, rule, host.floor, now).map_err(|(code, why)| refuse(code, why))?;
    Ok(authorized)
}

/// The namespaces of orders.
const ORDERS: [Namespace; 4] = [Namespace::Op, Namespace::Job, Namespace::Session, Namespace::Policy];

/// The namespace, one of [`ORDERS`], that all signatures must be for: what the first one claims. Whether the
/// order is of that authority is checked once it can be read.
fn claimed_namespace(envelope: &Envelope) -> Namespace {
    let claimed = envelope.sigs.first().and_then(|armored| sshsig::claimed_namespace(armored));
    claimed.filter(|claimed| ORDERS.contains(claimed)).unwrap_or(Namespace::Op)
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

/// The policy's rule for the order.
pub(crate) fn rule_of<'a>(order: &Order, policy: &'a Policy) -> Result<&'a Rule, (RefusalCode, String)> {
    policy.rule(order.kind()).ok_or_else(|| {
        let why = format!("this host's policy has no rule for {}: nobody may order it", order.kind());
        (RefusalCode::Kind, why)
    })
}

/// How many signers the order needs: what the rule says or the order itself, one more while the policy may be
/// outdated, and more for a protected guest.
pub(crate) fn needed(
    order: &Order,
    policy: &Policy,
    rule: &Rule,
    stale: bool,
) -> Result<u32, (RefusalCode, String)> {
    let mut need = rule.threshold.max(order.min_signers);
    if stale {
        if matches!(order.kind(), Kind::JobRun | Kind::SessionOpen) {
            return Err((
                RefusalCode::Stale,
                "nobody has said for too long that this host's policy is still the newest, so scripts and sessions are refused: run `writ policy refresh`".into(),
            ));
        }
        need = need.saturating_add(1);
    }
    let destructive = order.kind().class() == Class::Destructive;
    let protection = order.vmid().filter(|_| destructive).and_then(|vmid| policy.protection(vmid));
    match protection.map(|protection| (protection.extra, protection.guests)) {
        None => Ok(need),
        Some((Some(extra), _)) => Ok(need.saturating_add(extra)),
        Some((None, (first, last))) => Err((
            RefusalCode::Protected,
            format!(
                "this host's policy protects the guests {first} to {last}: nobody can order {} there; change the policy first",
                order.kind()
            ),
        )),
    }
}

/// Rule V20: distinct operators and distinct keys, of the roles that the rule names. How many there are, and
/// what is missing.
pub(crate) fn check_threshold(
    order: &Order,
    policy: &Policy,
    rule: &Rule,
    signed: &[SignedBy],
    need: u32,
) -> (u32, Option<String>) {
    let (kind, roles) = (order.kind(), policy.roles_of(rule));
    let people: BTreeSet<&HostName> = match signers::people(signed, &roles) {
        Ok(people) => people,
        Err(key) => {
            let why = format!("key {key} signed for two operators: each needs a key of their own");
            return (0, Some(why));
        }
    };
    let have = u32::try_from(people.len()).unwrap_or(u32::MAX);
    let missing = if have < need {
        Some(format!("{kind} needs {need} signer(s) of role {}, this order has {have}", rule.role))
    } else if !signers::each_has_one(&roles, &people) {
        let also: Vec<&str> = rule.also.iter().map(HostName::as_str).collect();
        Some(format!(
            "{kind} needs a signer of role {} and another one of each of: {}; nobody counts for two of them",
            rule.role,
            also.join(", ")
        ))
    } else {
        None
    };
    (have, missing)
}

/// Step 12, first half: plans, and the clock of orders without one.
fn check_binding(order: &Order, rule: &Rule, host: &HostFacts<'_>) -> Result<(), (RefusalCode, String)> {
    if order.plan.is_some() {
        let Some((book, boottime_s)) = host.plans else {
            return Err((RefusalCode::Plan, "there are no plans for this kind of order".into()));
        };
        return book.find(order, boottime_s).map(drop);
    }
    let stands = match order.kind().binding() {
        // Immediate orders live for minutes: the policy's `check` and `max_validity_s` see to that.
        Binding::None | Binding::Immediate => true,
        Binding::PlanOrStanding | Binding::Standing => rule.standing,
        Binding::Plan => false,
    };
    if !stands {
        return Err((
            RefusalCode::NeedsPlan,
            format!(
                "this host's policy does not let {} stand without a plan: prepare it with `writ op`, which asks the host for one",
                order.kind()
            ),
        ));
    }
    match host.clock.problem() {
        Some(why) => Err((RefusalCode::Clock, why.to_owned())),
        None => Ok(()),
    }
}

/// Step 12, second half: the order's own times, with a plan and without one.
fn check_clock(order: &Order, rule: &Rule, floor: u64, now: u64) -> Result<(), (RefusalCode, String)> {
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
    // A clock that was set back must not bring back an order whose nonce the journal may have forgotten.
    if order.exp <= floor {
        return Err((
            RefusalCode::Expired,
            format!(
                "the order expired at {}, and operators have since signed at {floor}: prepare and sign a new one",
                order.exp
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
