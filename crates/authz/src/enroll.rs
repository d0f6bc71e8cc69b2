//! Proofs of enrollment: the HMAC that tells the operator that a host key was made where the code
//! was typed in, and the host key's statement about its device key.

use hmac::{Hmac, KeyInit as _, Mac as _};
use protocol::enroll::EnrollmentAnswer;
use protocol::{Ed25519Key, HostId, Sha256, Signed};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::keys::PublicKey;
use crate::namespace::Namespace;
use crate::secret::SecretKey;
use crate::sshsig::{self, SigError};

/// Why an answer to an enrollment code is not believed.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Another version.
    #[error("the host's answer has format version {0}: are host and tool of the same version?")]
    Version(u32),
    /// The HMAC is wrong.
    #[error(
        "the host's answer does not prove knowledge of the enrollment code: it does not come from where you typed the code in. Reject it"
    )]
    Proof,
    /// It accepted another policy.
    #[error("the host accepted policy {found}, not yours ({expected}): reject it")]
    Policy {
        /// The code's.
        expected: Sha256,
        /// The answer's.
        found: Sha256,
    },
    /// A key nobody may use.
    #[error("the host's key is malformed or weak: reject it")]
    WeakKey,
    /// The host key does not vouch for the device key.
    #[error("the host key does not vouch for the device key: reject it")]
    DeviceCert(#[source] SigError),
    /// It vouches for another one.
    #[error("the host key vouches for another device key: reject it")]
    OtherDevice,
    /// The certificate cannot be read.
    #[error("the host's device certificate cannot be read: are host and tool of the same version?")]
    Payload(#[source] CanonicalError),
}

/// What the host key signs about the device key, in `device.v1@writ`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceStatement {
    v: u32,
    host_id: HostId,
    host_key_gen: u32,
    device_key: Ed25519Key,
}

/// HMAC-SHA-256 under K.
pub fn proof(
    k: &[u8],
    policy: &Sha256,
    host_id: &HostId,
    host_key: &Ed25519Key,
    device_key: &Ed25519Key,
) -> Sha256 {
    Sha256::from_bytes(mac(k, policy, host_id, host_key, device_key).finalize().into_bytes().into())
}

fn mac(
    k: &[u8],
    policy: &Sha256,
    host_id: &HostId,
    host_key: &Ed25519Key,
    device_key: &Ed25519Key,
) -> Hmac<sha2::Sha256> {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(k).expect("HMAC takes a key of any length");
    mac.update(&EnrollmentAnswer::proof_input(policy, host_id, host_key, device_key));
    mac
}

/// The host key vouches for the device key.
pub fn certify_device(host_id: HostId, host_key_gen: u32, device_key: Ed25519Key, key: &SecretKey) -> Signed {
    let payload = canonical::encode(&DeviceStatement { v: 1, host_id, host_key_gen, device_key });
    let sig = key.sign(Namespace::Device, &payload);
    Signed { payload: payload.into(), sig }
}

/// Checks everything about an answer that can be checked with K and the policy of the code.
pub fn verify_answer(answer: &EnrollmentAnswer, k: &[u8; 32], policy: &Sha256) -> Result<(), AnswerError> {
    let EnrollmentAnswer {
        v,
        host_id,
        host_key,
        host_key_gen,
        device_key,
        device_cert,
        policy: found,
        proof,
        ..
    } = answer;
    if *v != 1 {
        return Err(AnswerError::Version(*v));
    }
    // The MAC covers the policy that the code demands, so this is constant-time over all of it.
    mac(k, policy, host_id, host_key, device_key)
        .verify_slice(proof.as_bytes())
        .map_err(|_| AnswerError::Proof)?;
    if found != policy {
        return Err(AnswerError::Policy { expected: *policy, found: *found });
    }
    let key = PublicKey::try_from(*host_key).map_err(|_| AnswerError::WeakKey)?;
    sshsig::verify(&device_cert.sig, Namespace::Device, &device_cert.payload.0, &key)
        .map_err(AnswerError::DeviceCert)?;
    let cert: DeviceStatement =
        canonical::decode("device certificate", &device_cert.payload.0).map_err(AnswerError::Payload)?;
    let expected =
        DeviceStatement { v: 1, host_id: *host_id, host_key_gen: *host_key_gen, device_key: *device_key };
    if cert == expected { Ok(()) } else { Err(AnswerError::OtherDevice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(k: &[u8; 32]) -> EnrollmentAnswer {
        let key = SecretKey::from_seed(&[1; 32]);
        let (policy, host_id, device_key) =
            (Sha256::of(b"p"), HostId::from_bytes([2; 16]), Ed25519Key::from_bytes([3; 32]));
        let host_key = key.public().to_wire();
        EnrollmentAnswer {
            v: 1,
            host_id,
            host_key,
            host_key_gen: 1,
            device_key,
            device_cert: certify_device(host_id, 1, device_key, &key),
            policy,
            proof: proof(k, &policy, &host_id, &host_key, &device_key),
            hostname: "pve1".into(),
        }
    }

    #[test]
    fn nothing_in_an_answer_can_be_swapped() {
        let (k, policy) = ([9; 32], Sha256::of(b"p"));
        verify_answer(&answer(&k), &k, &policy).unwrap();
        assert!(matches!(verify_answer(&answer(&k), &[8; 32], &policy), Err(AnswerError::Proof)));
        assert!(matches!(verify_answer(&answer(&k), &k, &Sha256::of(b"q")), Err(AnswerError::Proof)));
        let good = answer(&k);
        let other = SecretKey::from_seed(&[7; 32]);
        let swaps = [
            EnrollmentAnswer { host_id: HostId::from_bytes([5; 16]), ..good.clone() },
            EnrollmentAnswer { host_key: other.public().to_wire(), ..good.clone() },
            EnrollmentAnswer { device_key: Ed25519Key::from_bytes([4; 32]), ..good.clone() },
        ];
        for swapped in swaps {
            assert!(matches!(verify_answer(&swapped, &k, &policy), Err(AnswerError::Proof)));
        }
        let cert = certify_device(good.host_id, 1, good.device_key, &other);
        let forged = EnrollmentAnswer { device_cert: cert, ..good.clone() };
        assert!(matches!(verify_answer(&forged, &k, &policy), Err(AnswerError::DeviceCert(_))));
        let gen2 = EnrollmentAnswer { host_key_gen: 2, ..good };
        assert!(matches!(verify_answer(&gen2, &k, &policy), Err(AnswerError::OtherDevice)));
    }
}
