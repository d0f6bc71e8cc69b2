//! Operators' signed statements: which key a host name means, and logins at a hub.

use protocol::api::LoginStatement;
use protocol::enroll::HostStatement;
use protocol::{HostName, Sha256, Signed};

use crate::canonical::{self, CanonicalError};
use crate::keys::PublicKey;
use crate::namespace::Namespace;
use crate::policy::Policy;
use crate::secret::SecretKey;
use crate::sshsig::{self, SigError};

/// Why a statement is not believed.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// Not a signature, or over other bytes.
    #[error("the statement is not properly signed: do not believe it")]
    Signature(#[source] SigError),
    /// Signed by somebody who may not.
    #[error(
        "the statement is signed by key {0}, which your policy does not allow to vouch for hosts: do not believe it"
    )]
    Signer(protocol::Fingerprint),
    /// Signed, but not a statement.
    #[error("the signed statement cannot be read: was it made by another version?")]
    Payload(#[source] CanonicalError),
    /// A login for another hub.
    #[error("the login names another hub's TLS key: somebody may be relaying it")]
    OtherHub,
    /// A login with another challenge.
    #[error("the login answers another challenge: log in again")]
    OtherChallenge,
}

/// Vouches for a host.
pub fn sign_host(statement: &HostStatement, key: &SecretKey) -> Signed {
    let payload = canonical::encode(statement);
    let sig = key.sign(Namespace::Enroll, &payload);
    Signed { payload: payload.into(), sig }
}

/// Believes a host statement only when an operator whom `policy` allows to vouch for hosts signed
/// it. Gives the operator's name too.
pub fn verify_host(signed: &Signed, policy: &Policy) -> Result<(HostStatement, HostName), StatementError> {
    let signature = sshsig::decode(&signed.sig, Namespace::Enroll).map_err(StatementError::Signature)?;
    let key = signature.claimed_key();
    let operator =
        policy.may_sign(key, Namespace::Enroll).ok_or_else(|| StatementError::Signer(key.fingerprint()))?;
    signature.verify(&signed.payload.0).map_err(StatementError::Signature)?;
    let statement =
        canonical::decode("host statement", &signed.payload.0).map_err(StatementError::Payload)?;
    Ok((statement, operator.name.clone()))
}

/// Reads a host statement without believing it: for a hub, which only carries it.
pub fn read_host_unverified(signed: &Signed) -> Result<HostStatement, StatementError> {
    canonical::decode("host statement", &signed.payload.0).map_err(StatementError::Payload)
}

/// Answers a hub's challenge.
pub fn sign_login(hub_spki: Sha256, challenge: Sha256, key: &SecretKey) -> Signed {
    let payload = canonical::encode(&LoginStatement { v: 1, hub_spki, challenge });
    let sig = key.sign(Namespace::Login, &payload);
    Signed { payload: payload.into(), sig }
}

/// The challenge that a login claims to answer, before anything is verified.
pub fn login_challenge(signed: &Signed) -> Result<Sha256, StatementError> {
    let login: LoginStatement =
        canonical::decode("login", &signed.payload.0).map_err(StatementError::Payload)?;
    Ok(login.challenge)
}

/// Checks a login: signed, for this hub and this challenge. Gives the key, for the hub to look up;
/// `known` says beforehand whether it is worth the mathematics (rule V22).
pub fn verify_login(
    signed: &Signed,
    hub_spki: &Sha256,
    challenge: &Sha256,
    known: impl FnOnce(&PublicKey) -> bool,
) -> Result<PublicKey, StatementError> {
    let signature = sshsig::decode(&signed.sig, Namespace::Login).map_err(StatementError::Signature)?;
    let key = *signature.claimed_key();
    if !known(&key) {
        return Err(StatementError::Signer(key.fingerprint()));
    }
    signature.verify(&signed.payload.0).map_err(StatementError::Signature)?;
    let login: LoginStatement =
        canonical::decode("login", &signed.payload.0).map_err(StatementError::Payload)?;
    if login.hub_spki != *hub_spki {
        return Err(StatementError::OtherHub);
    }
    if login.challenge != *challenge {
        return Err(StatementError::OtherChallenge);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{alice, mallory, policy};
    use protocol::{Ed25519Key, HostId};

    fn statement() -> HostStatement {
        HostStatement {
            v: 1,
            name: "web1".parse().unwrap(),
            site: "berlin".parse().unwrap(),
            host_id: HostId::from_bytes([1; 16]),
            host_key: Ed25519Key::from_bytes([2; 32]),
            host_key_gen: 1,
            device_key: Ed25519Key::from_bytes([3; 32]),
            policy: Sha256::of(b"p"),
            issued_at: 1,
        }
    }

    #[test]
    fn only_the_policys_operators_name_hosts() {
        let policy = policy();
        let signed = sign_host(&statement(), &alice());
        assert_eq!(verify_host(&signed, &policy).unwrap().1.as_str(), "alice");

        assert!(matches!(
            verify_host(&sign_host(&statement(), &mallory()), &policy),
            Err(StatementError::Signer(_))
        ));
        let mut altered = signed.clone();
        let at = altered.payload.0.windows(4).position(|w| w == b"web1").unwrap();
        altered.payload.0[at + 3] = b'2';
        assert!(matches!(verify_host(&altered, &policy), Err(StatementError::Signature(SigError::Wrong))));
        let mut spaced = statement();
        spaced.name = "web2".parse().unwrap();
        let payload = [canonical::encode(&spaced).as_slice(), b" "].concat();
        let sig = alice().sign(Namespace::Enroll, &payload);
        let spaced = Signed { payload: payload.into(), sig };
        assert!(matches!(verify_host(&spaced, &policy), Err(StatementError::Payload(_))));
        // A signature for another purpose is worth nothing here.
        let sig = alice().sign(Namespace::Op, &signed.payload.0);
        assert!(matches!(verify_host(&Signed { sig, ..signed }, &policy), Err(StatementError::Signature(_))));
    }

    #[test]
    fn a_login_is_good_for_one_hub_and_one_challenge() {
        let (hub, challenge) = (Sha256::of(b"hub"), Sha256::of(b"c"));
        let signed = sign_login(hub, challenge, &alice());
        assert_eq!(login_challenge(&signed).unwrap(), challenge);
        assert_eq!(verify_login(&signed, &hub, &challenge, |_| true).unwrap(), alice().public());
        let other = Sha256::of(b"other");
        assert!(matches!(verify_login(&signed, &other, &challenge, |_| true), Err(StatementError::OtherHub)));
        assert!(matches!(verify_login(&signed, &hub, &other, |_| true), Err(StatementError::OtherChallenge)));
        assert!(matches!(verify_login(&signed, &hub, &challenge, |_| false), Err(StatementError::Signer(_))));
    }
}
