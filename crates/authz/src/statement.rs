//! Operators' signed statements: which key a host name means, and logins at a hub.

use protocol::api::LoginStatement;
use protocol::enroll::HostStatement;
use protocol::{HostName, Sha256, Signed};

use crate::canonical::{self, CanonicalError};
use crate::keys::OperatorKey;
use crate::lookup::{self, SignatureError};
use crate::namespace::Namespace;
use crate::policy::Policy;
use crate::secret::SecretKey;
use crate::sshsig::{self, Claim, Listed, SigError};

/// Why a statement is not believed.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// Not a signature, or over other bytes.
    #[error("the statement is not properly signed: do not believe it")]
    Signature(#[source] SigError),
    /// Signed by somebody whom the policy does not let vouch for hosts.
    #[error("{0}, so nobody vouches for that host: do not believe it")]
    Signer(#[source] SignatureError),
    /// Signed by somebody whom the hub does not know.
    #[error("the statement is signed by key {0}, which is not in the hub's list of operators")]
    Stranger(protocol::Fingerprint),
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
/// it, with any key or certificate that counts for orders too; a certificate must be valid at `now`, unix
/// seconds. Gives the operator's name too.
pub fn verify_host(
    signed: &Signed,
    policy: &Policy,
    now: u64,
) -> Result<(HostStatement, HostName), StatementError> {
    let by =
        lookup::judge(&signed.sig, Namespace::Enroll, &signed.payload.0, policy, now).map_err(|error| {
            match error {
                SignatureError::Signature(error) => StatementError::Signature(error),
                unlisted => StatementError::Signer(unlisted),
            }
        })?;
    let statement =
        canonical::decode("host statement", &signed.payload.0).map_err(StatementError::Payload)?;
    Ok((statement, by.operator))
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

/// What a hub demands of a key or certificate that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// PIN or biometric (V12).
    pub verify_required: bool,
    /// Longest window of a certificate, seconds (V15); of no meaning for a key.
    pub max_validity_s: u64,
}

/// Checks that somebody whom `standing` knows signed the payload: the look into the caller's own list, before
/// any mathematics (rule V22), none for who is not in it. A certificate must be valid at `now`, unix
/// seconds. Gives the key that signed; what was signed is still to be read.
pub fn verify_known(
    signed: &Signed,
    namespace: Namespace,
    now: u64,
    standing: impl FnOnce(&Claim<'_>) -> Option<Standing>,
) -> Result<OperatorKey, StatementError> {
    let signature = sshsig::decode_operator(&signed.sig, namespace).map_err(StatementError::Signature)?;
    let Some(Standing { verify_required, max_validity_s }) = standing(&signature.claim()) else {
        return Err(StatementError::Stranger(signature.fingerprint()));
    };
    let listed = Listed { verify_required, max_validity_s };
    signature.verify(&signed.payload.0, listed, now).map_err(StatementError::Signature)
}

/// Checks a login: as [`verify_known`], for this hub and this challenge. Gives the key that signed.
pub fn verify_login(
    signed: &Signed,
    hub_spki: &Sha256,
    challenge: &Sha256,
    now: u64,
    standing: impl FnOnce(&Claim<'_>) -> Option<Standing>,
) -> Result<OperatorKey, StatementError> {
    let key = verify_known(signed, Namespace::Login, now, standing)?;
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
        assert_eq!(verify_host(&signed, &policy, 1).unwrap().1.as_str(), "alice");

        assert!(matches!(
            verify_host(&sign_host(&statement(), &mallory()), &policy, 1),
            Err(StatementError::Signer(_))
        ));
        let mut altered = signed.clone();
        let at = altered.payload.0.windows(4).position(|w| w == b"web1").unwrap();
        altered.payload.0[at + 3] = b'2';
        assert!(matches!(verify_host(&altered, &policy, 1), Err(StatementError::Signature(SigError::Wrong))));
        let mut spaced = statement();
        spaced.name = "web2".parse().unwrap();
        let payload = [canonical::encode(&spaced).as_slice(), b" "].concat();
        let sig = alice().sign(Namespace::Enroll, &payload);
        let spaced = Signed { payload: payload.into(), sig };
        assert!(matches!(verify_host(&spaced, &policy, 1), Err(StatementError::Payload(_))));
        // A signature for another purpose is worth nothing here.
        let sig = alice().sign(Namespace::Op, &signed.payload.0);
        assert!(matches!(
            verify_host(&Signed { sig, ..signed }, &policy, 1),
            Err(StatementError::Signature(_))
        ));
    }

    #[test]
    fn a_login_is_good_for_one_hub_and_one_challenge() {
        let (hub, challenge) = (Sha256::of(b"hub"), Sha256::of(b"c"));
        let signed = sign_login(hub, challenge, &alice());
        assert_eq!(login_challenge(&signed).unwrap(), challenge);
        let known = |_: &Claim<'_>| Some(Standing { verify_required: false, max_validity_s: 0 });
        let key = verify_login(&signed, &hub, &challenge, 1, known).unwrap();
        assert_eq!(key, alice().public().into());
        let other = Sha256::of(b"other");
        let error = |hub, challenge| verify_login(&signed, hub, challenge, 1, known).unwrap_err();
        assert!(matches!(error(&other, &challenge), StatementError::OtherHub));
        assert!(matches!(error(&hub, &other), StatementError::OtherChallenge));
        let stranger = verify_login(&signed, &hub, &challenge, 1, |_| None).unwrap_err();
        assert!(matches!(stranger, StatementError::Stranger(_)));
        // Only a security key can ask for a PIN (V12).
        let strict = |_: &Claim<'_>| Some(Standing { verify_required: true, max_validity_s: 0 });
        let refused = verify_login(&signed, &hub, &challenge, 1, strict).unwrap_err();
        assert!(matches!(refused, StatementError::Signature(SigError::NotVerified)));
    }
}
