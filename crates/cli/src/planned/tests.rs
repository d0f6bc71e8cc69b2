use super::*;
use crate::testing::{NOW, believed, host_key, mallory, name, order, plan_of, policy};
use authz::policy::PolicyDocument;
use protocol::{HostId, Nonce};

fn key() -> PublicKey {
    host_key(1).public()
}

fn bound() -> (Order, Signed) {
    let signed = plan_of(&order()).sign(&host_key(1));
    (bind(order(), &signed, &key()).unwrap().0, signed)
}

fn with_standing(standing: bool) -> Policy {
    let mut document: PolicyDocument = policy().document().clone();
    for rule in &mut document.rules {
        rule.standing = standing && !matches!(rule.kind.binding(), Binding::Immediate | Binding::Plan);
    }
    Policy::decode(&document.encode()).unwrap()
}

#[test]
fn a_plan_is_wanted_where_the_host_will_refuse_without() {
    for kind in Kind::ALL {
        let (loose, strict) =
            (is_wanted(*kind, &with_standing(true)), is_wanted(*kind, &with_standing(false)));
        let has_rule = policy().rule(*kind).is_some();
        let expected = match kind.binding() {
            Binding::None | Binding::Immediate => (false, false),
            Binding::Plan => (true, true),
            Binding::PlanOrStanding | Binding::Standing => (!has_rule, true),
        };
        assert_eq!((loose, strict), expected, "{kind}");
    }
}

/// `security.md` 2.4: a hub can show no operator another plan than the host's own for exactly this order.
#[test]
fn only_this_hosts_plan_for_this_draft_binds() {
    let (draft, good) = (order(), plan_of(&order()));
    let refused = |signed: &Signed| bind(order(), signed, &key()).unwrap_err();
    assert!(matches!(refused(&good.sign(&mallory())), PlannedError::Plan { error: PlanError::Signature(_) }));
    assert!(matches!(
        refused(&good.sign(&host_key(2))),
        PlannedError::Plan { error: PlanError::Signature(_) }
    ));
    // Altered effects under the host's signature.
    let mut altered = good.sign(&host_key(1));
    let text = String::from_utf8(altered.payload.0.clone()).unwrap();
    altered.payload = text.replace("everything since the snapshot", "nothing").into_bytes().into();
    assert!(matches!(refused(&altered), PlannedError::Plan { error: PlanError::Signature(_) }));
    // Genuine plans of this host for something else: another guest, another nonce (an old plan), other words.
    let mut guest = order();
    guest.guest.as_mut().unwrap().vmid = 102.try_into().unwrap();
    let old = Order { nonce: Nonce::from_bytes([1; 16]), ..order() };
    let reason = Order { reason: "another".parse().unwrap(), ..order() };
    for other in [guest, old, reason] {
        let error = refused(&plan_of(&other).sign(&host_key(1)));
        assert!(matches!(error, PlannedError::Plan { error: PlanError::OtherOrder }), "{error}");
    }
    let elsewhere = Plan { host: HostId::from_bytes([2; 16]), ..good.clone() };
    let error = refused(&elsewhere.sign(&host_key(1)));
    assert!(matches!(error, PlannedError::Plan { error: PlanError::OtherHost { .. } }), "{error}");
    let generation = Plan { host_key_gen: 2, ..good.clone() };
    let error = refused(&generation.sign(&host_key(1)));
    assert!(matches!(error, PlannedError::Generation { expected: 1, found: 2 }), "{error}");
    // A host that was rolled back since this machine last saw its log.
    let head = Sha256::of(b"head");
    let after = Some(authz::order::LogAnchor { size: 8, head, strict: false });
    let knowing = Order { after, ..draft };
    let signed = plan_of(&knowing).sign(&host_key(1));
    let error = bind(knowing, &signed, &key()).unwrap_err();
    assert!(matches!(error, PlannedError::RolledBack { known: 8, found: 7 }), "{error}");
}

#[test]
fn the_plan_beside_an_order_must_be_its_own() {
    let (bound, signed) = bound();
    assert_eq!(belongs(&bound, &signed, &key()).unwrap(), plan_of(&order()));
    assert!(matches!(belongs(&order(), &signed, &key()), Err(PlannedError::Unbound)));
    // The host made a second plan for the same draft.
    let second = Plan { challenge: Sha256::of(b"second"), ..plan_of(&order()) }.sign(&host_key(1));
    assert!(matches!(belongs(&bound, &second, &key()), Err(PlannedError::OtherPlan { .. })));
    // The challenge is part of the name.
    let mut other = bound.clone();
    other.plan.as_mut().unwrap().challenge = Sha256::of(b"x");
    assert!(belongs(&other, &signed, &key()).is_err());
    let reworded = Order { reason: "another".parse().unwrap(), ..bound };
    assert!(belongs(&reworded, &signed, &key()).is_err());
}

#[test]
fn a_plan_can_be_used_for_fifteen_minutes() {
    let (bound, _) = bound();
    let long = Order { exp: NOW + 3_600, ..bound.clone() };
    assert_eq!((deadline(&long), deadline(&bound)), (NOW + 900, NOW + 600));
    assert_eq!(too_late(&long, NOW + 900), None);
    let why = too_late(&long, NOW + 901).unwrap();
    assert!(why.contains(&utc(NOW + 900)) && why.contains("prepare the order again"), "{why}");
    assert_eq!(too_late(&Order { plan: None, ..long }, NOW + 9_000), None, "bound to none");
}

#[test]
fn all_of_a_plan_is_shown_and_until_when_it_holds() {
    let (bound, _) = bound();
    let mut plan = plan_of(&order());
    plan.effects = (0..50).map(|n| format!("effect number {n}").parse().unwrap()).collect();
    plan.calls = (0..50).map(|n| format!("POST /call/{n}").parse().unwrap()).collect();
    let host = believed(1, "web1");
    let text = describe(&plan, &bound, host.name(), NOW + 60);
    for n in 0..50 {
        assert!(
            text.contains(&format!("effect number {n}\n")) && text.contains(&format!("POST /call/{n}\n"))
        );
    }
    let until = format!("sign and submit before {} (9 min left), once", utc(NOW + 600));
    assert!(text.contains(&until) && text.contains("host 'web1'"), "{text}");
    assert!(describe(&plan, &bound, &name("web1"), NOW + 601).contains("TOO LATE since"));
    (plan.effects, plan.calls) = (vec![], vec![]);
    let text = describe(&plan, &bound, &name("web1"), NOW);
    assert!(text.contains("none that the host knows of"), "{text}");
}
