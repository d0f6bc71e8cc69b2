//! What can be said of an order before anything is done. Pure, and free of side effects: whatever is
//! refused here can be asked again.

use anchored::Anchor;
use authz::clock::Floor;
use authz::order::{JobParams, SessionParams};
use authz::{Authorized, Kind, Order, Params, PublicKey, RefusalCode};
use protocol::runner::RunnerAnswer;
use protocol::{Envelope, HostName, Sha256};

pub use anchored::Denied;

/// As it crosses the socket.
pub trait Answer {
    /// One [`RunnerAnswer::Refused`].
    fn answer(self) -> RunnerAnswer;
}

impl Answer for Denied {
    fn answer(self) -> RunnerAnswer {
        RunnerAnswer::Refused { code: self.code, why: self.why }
    }
}

/// The order's signatures, host, policy and times, checked again by the runner's own anchor; then that it
/// is of the kind that was asked for. `now` is the host's clock, unix seconds.
pub fn verify(
    envelope: &Envelope,
    anchor: &Anchor,
    floor: &Floor,
    wanted: Kind,
    now: u64,
) -> Result<Authorized<Order>, Denied> {
    let authorized = anchor.verify(envelope, floor, now)?;
    let kind = authorized.get().kind();
    if kind != wanted {
        let why = format!("this is an order of kind {kind}, and the runner was asked for {wanted}");
        return Err(Denied::new(RefusalCode::Kind, why));
    }
    Ok(authorized)
}

/// A script order's parameters, once the script is known to be the one that was signed and its result can
/// be sealed to somebody.
pub fn job<'a>(authorized: &'a Authorized<Order>, script: &[u8]) -> Result<&'a JobParams, Denied> {
    let Params::JobRun(params) = &authorized.get().params else {
        return Err(Denied::new(RefusalCode::Kind, "this is no order about a script"));
    };
    if script.len() != params.script_len as usize || Sha256::of(script) != params.script {
        let why = format!(
            "the script is not the one that was signed: {} bytes came, {} were signed; submit it again",
            script.len(),
            params.script_len
        );
        return Err(Denied::new(RefusalCode::Script, why));
    }
    if PublicKey::try_from(params.result_key).is_err() {
        let why =
            "nothing can be sealed to the order's result key, it is malformed or weak: prepare it again";
        return Err(Denied::new(RefusalCode::BadOrder, why));
    }
    Ok(params)
}

/// A session order's parameters, and whose session it would be: everybody's whose signature counted.
pub fn session(authorized: &Authorized<Order>) -> Result<(&SessionParams, Vec<HostName>), Denied> {
    let Params::SessionOpen(params) = &authorized.get().params else {
        return Err(Denied::new(RefusalCode::Kind, "this is no order about a session"));
    };
    if PublicKey::try_from(params.key).is_err() {
        let why =
            "anybody could log in with the order's client key, it is malformed or weak: prepare it again";
        return Err(Denied::new(RefusalCode::BadOrder, why));
    }
    let mut operators: Vec<HostName> =
        authorized.signers().iter().map(|signer| signer.operator.clone()).collect();
    operators.sort_unstable();
    operators.dedup();
    Ok((params, operators))
}

#[cfg(test)]
mod tests {
    use authz::Namespace;
    use protocol::Ed25519Key;

    use super::*;
    use crate::testing::{self, NOW};

    fn code<T>(checked: Result<T, Denied>) -> String {
        match checked {
            Ok(_) => "accepted".into(),
            Err(denied) => denied.code,
        }
    }

    fn check(envelope: &Envelope, wanted: Kind) -> Result<Authorized<Order>, Denied> {
        verify(envelope, &testing::anchor(), &testing::floor(), wanted, NOW)
    }

    #[test]
    fn each_kind_is_carried_out_only_as_itself() {
        let (job, session) = (testing::job(b"true\n"), testing::session());
        let (job, session) = (testing::sign(&job), testing::sign(&session));
        assert_eq!(code(check(&job, Kind::JobRun)), "accepted");
        assert_eq!(code(check(&session, Kind::SessionOpen)), "accepted");
        assert_eq!(code(check(&job, Kind::SessionOpen)), "kind");
        assert_eq!(code(check(&session, Kind::JobRun)), "kind");
        let authorized = check(&session, Kind::SessionOpen).unwrap();
        assert_eq!(code(super::job(&authorized, b"true\n")), "kind");
        let authorized = check(&job, Kind::JobRun).unwrap();
        assert_eq!(code(super::session(&authorized)), "kind");
    }

    /// The whole table is `authz`'s; these show that it is asked, and with what.
    #[test]
    fn forged_foreign_and_late_orders_are_refused() {
        let order = testing::job(b"true\n");
        let good = testing::sign(&order);
        let signed = |order: &Order| check(&testing::sign(order), Kind::JobRun);
        assert_eq!(code(check(&Envelope { sigs: vec![], ..good.clone() }, Kind::JobRun)), "unsigned");
        let mallory = testing::sign_as(&order, Namespace::Job, 9);
        assert_eq!(code(check(&mallory, Kind::JobRun)), "unknown_signer");
        let elsewhere = testing::sign_as(&order, Namespace::Session, 7);
        assert_eq!(code(check(&elsewhere, Kind::JobRun)), "namespace");
        let mut other = order.clone();
        other.host.id = protocol::HostId::from_bytes([9; 16]);
        assert_eq!(code(signed(&other)), "other_host");
        let mut other = order.clone();
        other.host.generation += 1;
        assert_eq!(code(signed(&other)), "other_host");
        let mut other = order.clone();
        other.policy.sha256 = Sha256::of(b"x");
        assert_eq!(code(signed(&other)), "other_policy");
        let late = verify(&good, &testing::anchor(), &testing::floor(), Kind::JobRun, order.exp + 1);
        assert_eq!(code(late), "expired");
    }

    #[test]
    fn a_script_must_be_the_signed_one() {
        let authorized = check(&testing::sign(&testing::job(b"true\n")), Kind::JobRun).unwrap();
        assert_eq!(code(job(&authorized, b"true\n")), "accepted");
        for other in [&b""[..], b"true", b"true\n\n", b"fals\n"] {
            assert_eq!(code(job(&authorized, other)), "script", "{other:?}");
        }
    }

    #[test]
    fn weak_keys_are_refused_before_anything_is_burned() {
        let weak = Ed25519Key::from_bytes([0; 32]);
        let mut order = testing::job(b"true\n");
        if let Params::JobRun(params) = &mut order.params {
            params.result_key = weak;
        }
        let authorized = check(&testing::sign(&order), Kind::JobRun).unwrap();
        assert_eq!(code(job(&authorized, b"true\n")), "bad_order");
        let mut order = testing::session();
        if let Params::SessionOpen(params) = &mut order.params {
            params.key = weak;
        }
        let authorized = check(&testing::sign(&order), Kind::SessionOpen).unwrap();
        assert_eq!(code(session(&authorized)), "bad_order");
    }

    #[test]
    fn a_session_belongs_to_its_signers() {
        let authorized = check(&testing::sign(&testing::session()), Kind::SessionOpen).unwrap();
        let (_, operators) = session(&authorized).unwrap();
        assert_eq!(operators, ["alice".parse::<HostName>().unwrap()]);
    }
}
