//! Orders about the host itself: scripts and sessions. No report is needed; what they may do is all in
//! their parameters.

use authz::order::{Params, PolicyRef, Preconditions};
use authz::{Kind, Order, Policy};

use super::{Circumstances, PrepareError, check_rule, host_ref};
use crate::resolve::Believed;

/// How long such an order may be valid when `wish_s` would do; seconds.
pub fn longest_validity(policy: &Policy, kind: Kind, wish_s: u64) -> u64 {
    policy.rule(kind).map_or(wish_s, |rule| rule.max_validity_s.min(wish_s))
}

/// Prepares an order that one operator signs at once.
pub fn prepare_for_host(
    host: &Believed,
    policy: &Policy,
    params: Params,
    with: Circumstances,
) -> Result<Order, PrepareError> {
    let kind = params.kind();
    check_rule(policy, kind, with.valid_s)?;
    // The runner, which carries such orders out, remembers no plans.
    if crate::planned::is_wanted(kind, policy) {
        return Err(PrepareError::NeedsPlan(kind));
    }
    if let Some(rule) = policy.rule(kind).filter(|rule| rule.threshold > 1) {
        return Err(PrepareError::Signers { kind, threshold: rule.threshold });
    }
    let Circumstances { nonce, now, valid_s, reason, ticket } = with;
    let order = Order {
        params,
        host: host_ref(host),
        guest: None,
        pre: Preconditions::default(),
        plan: None,
        nonce,
        nbf: now,
        exp: now.saturating_add(valid_s),
        after: None,
        policy: PolicyRef { version: policy.version(), sha256: *policy.hash() },
        min_signers: 1,
        reason,
        ticket,
    };
    // As the host will read it: what it would refuse as no order is better refused here.
    Order::decode(&order.encode()).map_err(|error| PrepareError::Range(error.to_string()))?;
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, believed, job, mallory, name, policy, session, with};
    use authz::order::SessionMode;

    #[test]
    fn scripts_and_sessions_are_orders_about_the_host() {
        let host = believed(1, "web1");
        for params in [Params::JobRun(job()), Params::SessionOpen(session())] {
            let kind = params.kind();
            let order = prepare_for_host(&host, &policy(), params.clone(), with()).unwrap();
            assert_eq!((order.kind(), &order.guest, order.exp - order.nbf), (kind, &None, 600));
            assert_eq!(Order::decode(&order.encode()).unwrap().params, params);
            assert_eq!(order.nbf, NOW);
        }
        assert_eq!(longest_validity(&policy(), Kind::SessionOpen, 3_000), 600);
        assert_eq!(longest_validity(&policy(), Kind::SessionOpen, 300), 300);
    }

    #[test]
    fn what_the_host_would_refuse_is_said_before_anybody_signs() {
        let host = believed(1, "web1");
        let mut endless = session();
        endless.max_s = 999_999;
        let mut nowhere = session();
        (nowhere.mode, nowhere.forwards) = (SessionMode::Forward {}, vec![]);
        for params in [endless, nowhere] {
            let error = prepare_for_host(&host, &policy(), Params::SessionOpen(params), with()).unwrap_err();
            assert!(error.to_string().contains("session.open must be"), "{error}");
        }
        let long = Circumstances { valid_s: 601, ..with() };
        let error = prepare_for_host(&host, &policy(), Params::SessionOpen(session()), long).unwrap_err();
        assert!(matches!(error, PrepareError::Validity { max_s: 600, .. }), "{error}");

        let mut document = policy().document().clone();
        document.rules.retain(|rule| rule.kind != Kind::SessionOpen);
        let second = authz::policy::Operator { name: name("bob"), keys: vec![mallory().public().into()] };
        document.roles[0].members.push(second.name.clone());
        document.operators.push(second);
        document.rules.iter_mut().for_each(|rule| rule.threshold = 2);
        let strict = Policy::decode(&document.encode()).unwrap();
        let order = |params| prepare_for_host(&host, &strict, params, with()).unwrap_err();
        assert_eq!(order(Params::SessionOpen(session())), PrepareError::NoRule(Kind::SessionOpen));
        let two = PrepareError::Signers { kind: Kind::JobRun, threshold: 2 };
        assert_eq!(order(Params::JobRun(job())), two);
        document.rules.iter_mut().for_each(|rule| (rule.threshold, rule.standing) = (1, false));
        let bound = Policy::decode(&document.encode()).unwrap();
        let error = prepare_for_host(&host, &bound, Params::JobRun(job()), with()).unwrap_err();
        assert_eq!(error, PrepareError::NeedsPlan(Kind::JobRun));
    }
}
