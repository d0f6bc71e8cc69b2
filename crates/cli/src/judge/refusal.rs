//! What a refusal leaves open. A hub can strip the signatures of an order, show the operator the
//! host's genuine refusal of the rest, and deliver the real order later: a refusal burns no nonce,
//! so only a used nonce or the order's own end of validity makes it harmless.

use authz::lookup::SignatureError;
use authz::verify::CLOCK_SKEW_S;
use authz::{Namespace, Order, Outcome, Policy, Receipt, RefusalCode, lookup};
use protocol::{Envelope, HostName, Sha256};

use crate::text::utc;

/// What is still to be feared of an order that a host refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// It was refused for a reason that does not keep it from being carried out later.
    pub still_valid: bool,
    /// The end of its validity; none when its bytes are no order.
    pub valid_until: Option<u64>,
    /// It is bound to the plan that its host computed for that guest: the host forgets that one when it computes the
    /// next.
    pub bound: bool,
    /// The host complains about signatures that are good by the policy of this machine.
    pub altered: bool,
    /// By the policy of this machine a key that signed it is revoked, and the other signatures are not enough;
    /// true when the host said so too.
    pub revoked: Option<bool>,
    /// Its nonce was used before, and no receipt here says how that ended.
    pub used_before: bool,
}

impl Aftermath {
    /// Of `outcome`. `envelope` is the order as this machine sent it, else as the hub shows it; its
    /// signatures may be anybody's, its payload counts only when it is the one that `op` names. With
    /// a verified success the nonce is burned, and nothing is left to be feared.
    pub fn of(
        outcome: &Outcome,
        op: &Sha256,
        envelope: Option<&Envelope>,
        policy: &Policy,
        success_known: bool,
    ) -> Self {
        let Outcome::Refused { code, .. } = outcome else { return Self::default() };
        let envelope = envelope.filter(|envelope| envelope.id() == *op);
        let altered = blames_signatures(*code) && envelope.is_some_and(|e| is_well_signed(e, policy));
        if success_known {
            return Self { altered, ..Self::default() };
        }
        let revoked = envelope.is_some_and(|envelope| lost_its_signers(envelope, policy));
        let order = envelope.and_then(|e| Order::decode(&e.payload.0).ok());
        Self {
            bound: order.as_ref().is_some_and(|order| order.plan.is_some() && order.guest.is_some()),
            revoked: revoked.then_some(*code == RefusalCode::Revoked),
            // What a host once said of a plan stays so: it has forgotten it.
            still_valid: !matches!(code, RefusalCode::Replay | RefusalCode::Expired | RefusalCode::Plan),
            valid_until: order.map(|order| order.exp),
            altered,
            used_before: *code == RefusalCode::Replay,
        }
    }

    /// In sentences without a full stop. `now` by this machine's clock.
    pub fn sentences(&self, host: &HostName, now: u64) -> Vec<String> {
        let mut said = Vec::new();
        match self.valid_until {
            _ if !self.still_valid => {}
            _ if self.revoked == Some(true) => said.push(
                "its signing key is revoked, and the host knows it: with the signatures that are known here it is never carried out"
                    .to_owned(),
            ),
            Some(exp) if self.revoked == Some(false) && now <= exp.saturating_add(CLOCK_SKEW_S) => {
                said.push(format!(
                    "its signing key is revoked: the host carries it out only if it hears of that after {} or not at all; see `writ policy status`",
                    utc(now)
                ));
            }
            // The host's clock decides; by ours it is over.
            Some(exp) if now > exp.saturating_add(CLOCK_SKEW_S) => said.push(format!(
                "this refusal was not its end: it was valid until {}, and whoever held it, the hub too, could deliver it again until then; see `writ receipts {host}`",
                utc(exp)
            )),
            Some(exp) if self.bound => said.push(format!(
                "STILL VALID until {}: whoever holds it, the hub too, can deliver it again, until you prepare a replacement: the host forgets the plan of this one then",
                utc(exp)
            )),
            Some(exp) => said.push(format!(
                "STILL VALID until {}: whoever holds it, the hub too, can deliver it again; do not sign a replacement before then",
                utc(exp)
            )),
            None => said.push(
                "STILL VALID: whoever holds it, the hub too, can deliver it again; do not sign a replacement"
                    .to_owned(),
            ),
        }
        if self.used_before {
            said.push(format!("it was used before; its end is in the host's log (`writ receipts {host}`)"));
        }
        if self.altered {
            said.push(
                "the host did not see the signatures that you sent: the hub altered the order, or the host lives by another policy"
                    .to_owned(),
            );
        }
        said
    }
}

/// Which of two ends of an order says more about it: what happened before what did not, and of
/// refusals the one in the host's log, because a refusal outside of it is the end of nothing.
pub fn weight(receipt: &Receipt) -> u8 {
    match receipt.order_outcome() {
        Some((_, outcome)) if outcome.is_success() => 4,
        Some((_, Outcome::Refused { .. })) => 1 + u8::from(receipt.entry.is_some()),
        Some(_) => 3,
        None => 0,
    }
}

/// Refusals that a host gives only when something is wrong with the signatures.
fn blames_signatures(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::Unsigned
            | RefusalCode::Malformed
            | RefusalCode::BadSignature
            | RefusalCode::UnknownSigner
            | RefusalCode::KeyType
            | RefusalCode::Presence
            | RefusalCode::Revoked
            | RefusalCode::Namespace
            | RefusalCode::Size
            | RefusalCode::Threshold
    )
}

/// Every one, as a host demands it: one bad signature refuses the whole order, and so do too few.
fn is_well_signed(envelope: &Envelope, policy: &Policy) -> bool {
    // What is no order is signed for no purpose; the one of most orders does.
    let order = Order::decode(&envelope.payload.0).ok();
    let namespace = order.as_ref().map_or(Namespace::Op, |order| order.kind().namespace());
    // Certificates at the order's own beginning: one that ended since accuses nobody, and one that did not
    // count when the order was made does not either.
    let made = order.as_ref().map_or(0, |order| order.nbf);
    let judge = |armored: &String| lookup::judge(armored, namespace, &envelope.payload.0, policy, made);
    let fits =
        envelope.sigs.len() <= Envelope::MAX_SIGNATURES && envelope.payload.0.len() <= Envelope::MAX_PAYLOAD;
    if !fits || envelope.sigs.is_empty() {
        return false;
    }
    let Ok(by) = envelope.sigs.iter().map(judge).collect::<Result<Vec<_>, _>>() else { return false };
    // Whether the host's policy is outdated nobody knows here: one more is asked for only there.
    let counted = order.as_ref().and_then(|order| lookup::count(order, policy, &by, false).ok());
    counted.is_none_or(|count| count.missing.is_none())
}

/// Whether a signature of it is by a key that is revoked since, and without those it has too few. (Without them:
/// whoever holds an order can leave signatures out.)
fn lost_its_signers(envelope: &Envelope, policy: &Policy) -> bool {
    let Ok(order) = Order::decode(&envelope.payload.0) else { return false };
    let judge = |armored: &String| {
        lookup::judge(armored, order.kind().namespace(), &envelope.payload.0, policy, order.nbf)
    };
    let judged: Vec<_> = envelope.sigs.iter().take(Envelope::MAX_SIGNATURES).map(judge).collect();
    let revoked = |found: &Result<_, SignatureError>| matches!(found, Err(SignatureError::Revoked { .. }));
    if !judged.iter().any(revoked) {
        return false;
    }
    let left: Vec<_> = judged.into_iter().flatten().collect();
    // The policy that the order was made under may have asked for less than this one.
    let members = lookup::count(&Order { min_signers: 1, ..order }, policy, &left, false);
    left.is_empty() || members.is_ok_and(|count| count.missing.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, NOW, alice, mallory, name, order, policy};
    use authz::SecretKey;

    fn refused(code: RefusalCode) -> Outcome {
        Outcome::Refused { code, why: "because".parse().unwrap() }
    }

    fn signed_by(payload: Vec<u8>, keys: &[SecretKey]) -> Envelope {
        let sigs = keys.iter().map(|key| key.sign(Namespace::Op, &payload)).collect();
        Envelope::new(payload.into(), sigs)
    }

    fn judged(code: RefusalCode, envelope: &Envelope) -> Aftermath {
        Aftermath::of(&refused(code), &envelope.id(), Some(envelope), &policy(), false)
    }

    #[test]
    fn a_refused_order_stays_dangerous_until_it_expires() {
        let order = order();
        let good = signed_by(order.encode(), &[alice()]);
        for code in
            [RefusalCode::Unsigned, RefusalCode::Precondition, RefusalCode::Busy, RefusalCode::TooEarly]
        {
            let after = judged(code, &good);
            assert_eq!((after.still_valid, after.valid_until), (true, Some(order.exp)));
            let said = after.sentences(&name("web1"), NOW).join("; ");
            assert!(said.contains(&format!("STILL VALID until {}", utc(order.exp))), "{said}");
            let later = after.sentences(&name("web1"), order.exp + CLOCK_SKEW_S + 1).join("; ");
            assert!(!later.contains("STILL VALID") && later.contains("not its end"), "{later}");
        }
        for code in [RefusalCode::Replay, RefusalCode::Expired] {
            assert!(!judged(code, &good).still_valid);
        }
        let done = crate::testing::done();
        let none = Aftermath::of(&done, &good.id(), Some(&good), &policy(), false);
        assert_eq!(none, Aftermath::default());
        // A used nonce is the one thing that disarms it.
        let used = Aftermath::of(&refused(RefusalCode::Busy), &good.id(), Some(&good), &policy(), true);
        assert_eq!(used, Aftermath::default());
    }

    /// Who lost a key revokes it; an order that only this key signed is not to be feared any more.
    #[test]
    fn an_order_whose_key_is_revoked_is_not_still_valid() {
        let order = order();
        let good = signed_by(order.encode(), &[alice()]);
        let mut document = policy().document().clone();
        document.operators[0].keys.push(mallory().public().into());
        let with_two = Policy::decode(&document.encode()).unwrap();
        document.revoked.push(alice().public().fingerprint());
        let policy = Policy::decode(&document.encode()).unwrap();
        let after = |code, envelope: &Envelope, policy: &Policy| {
            let after = Aftermath::of(&refused(code), &envelope.id(), Some(envelope), policy, false);
            (after.revoked, after.sentences(&name("web1"), NOW).join("; "))
        };
        let (revoked, said) = after(RefusalCode::Revoked, &good, &policy);
        assert_eq!(revoked, Some(true));
        assert!(!said.contains("STILL VALID") && said.contains("the host knows"), "{said}");
        let (revoked, said) = after(RefusalCode::Busy, &good, &policy);
        assert_eq!(revoked, Some(false), "it was refused for another reason, before the host heard of it");
        assert!(!said.contains("STILL VALID") && said.contains("only if"), "{said}");
        // Another signature is enough, or the host blames a key that is in order here.
        let both = signed_by(order.encode(), &[alice(), mallory()]);
        for (envelope, policy) in [(&both, &policy), (&good, &with_two)] {
            let (revoked, said) = after(RefusalCode::Revoked, envelope, policy);
            assert!(revoked.is_none() && said.contains("STILL VALID until"), "{said}");
        }
    }

    #[test]
    fn the_end_of_validity_comes_from_the_order_that_is_meant_only() {
        let junk = signed_by(b"junk".to_vec(), &[alice()]);
        let after = judged(RefusalCode::BadOrder, &junk);
        assert_eq!((after.still_valid, after.valid_until), (true, None));
        assert!(!after.sentences(&name("web1"), NOW)[0].contains("until"));
        let other = signed_by(order().encode(), &[alice()]);
        let op = Sha256::of(b"another");
        let swapped = Aftermath::of(&refused(RefusalCode::Unsigned), &op, Some(&other), &policy(), false);
        assert_eq!((swapped.valid_until, swapped.altered), (None, false));
    }

    #[test]
    fn only_signatures_that_are_all_good_here_accuse_the_hub() {
        let bytes = order().encode();
        let good = signed_by(bytes.clone(), &[alice()]);
        for code in [
            RefusalCode::Unsigned,
            RefusalCode::Malformed,
            RefusalCode::BadSignature,
            RefusalCode::UnknownSigner,
            RefusalCode::KeyType,
            RefusalCode::Namespace,
            RefusalCode::Size,
            RefusalCode::Presence,
            RefusalCode::Revoked,
            RefusalCode::Threshold,
        ] {
            assert!(judged(code, &good).altered, "{code}");
        }
        assert!(!judged(RefusalCode::Precondition, &good).altered);
        let (params, host) = (authz::Params::JobRun(testing::job()), testing::believed(1, "web1"));
        let job = crate::prepare::prepare_for_host(&host, &policy(), params, testing::with()).unwrap();
        let job = job.encode();
        let script = Envelope::new(job.clone().into(), vec![alice().sign(Namespace::Job, &job)]);
        assert!(judged(RefusalCode::BadSignature, &script).altered);
        assert!(!judged(RefusalCode::BadSignature, &signed_by(job, &[alice()])).altered);
        // Too few by the order's own word: the host is right.
        let raised = authz::Order { min_signers: 2, ..order() }.encode();
        assert!(!judged(RefusalCode::Threshold, &signed_by(raised, &[alice()])).altered);
        let mut over_other_bytes = good.clone();
        over_other_bytes.sigs = vec![alice().sign(Namespace::Op, b"other")];
        let mut other_purpose = good.clone();
        other_purpose.sigs = vec![alice().sign(Namespace::Enroll, &bytes)];
        for bad in [
            signed_by(bytes.clone(), &[]),
            signed_by(bytes.clone(), &[mallory()]),
            signed_by(bytes.clone(), &[alice(), mallory()]),
            Envelope { sigs: vec!["garbage".into()], ..good.clone() },
            over_other_bytes,
            other_purpose,
        ] {
            assert!(!judged(RefusalCode::BadSignature, &bad).altered, "{bad:?}");
        }
    }
}
