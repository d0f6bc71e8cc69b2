//! Enrollment, on the host's side. Every step may be cut short and repeated with the same code:
//! the device key is durable before anyone hears of it, the warden gives the same answer again,
//! and that answer is durable before the hub gets it, because the hub takes a code only once.

use std::path::Path;

use authz::files;
use protocol::api::{
    ENROLL_BEGIN_PATH, ENROLL_FINISH_PATH, EnrollBegin, EnrollFinish, EnrollFinished, EnrollPolicy,
    EnrollmentState,
};
use protocol::enroll::{EnrollmentAnswer, EnrollmentCode};
use protocol::local::WardenRequest;
use protocol::{Fingerprint, HostId, Sha256};
use serde::{Deserialize, Serialize};

use crate::device::{DeviceKey, DeviceKeyError};
use crate::hub::{HubClient, HubError, HubPins};
use crate::state::{HubRecord, StateError};
use crate::warden::{Warden, WardenError};

/// Name of the file with the answer to the last code.
pub const ANSWER_FILE: &str = "enroll.json";
const MAX_ANSWER: u64 = 256 * 1024;

/// Why the host was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The device key.
    #[error(transparent)]
    Device(#[from] DeviceKeyError),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The warden.
    #[error(transparent)]
    Warden(#[from] WardenError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The hub lies.
    #[error(
        "the hub delivered another policy ({found}) than the code demands ({expected}): do not use this hub; tell the operator who gave you the code"
    )]
    OtherPolicy {
        /// The code's.
        expected: Sha256,
        /// The hub's.
        found: Sha256,
    },
    /// An operator said no.
    #[error("an operator rejected this enrollment: ask for a new code")]
    Rejected,
    /// Too late.
    #[error("the enrollment code has expired: ask for a new one")]
    Expired,
    /// The hub does not know what it is doing.
    #[error(
        "the hub says that enrollment {id} still waits for a host after it took the answer: are hub and agent of the same version?"
    )]
    Odd {
        /// Which.
        id: u64,
    },
}

/// What was achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentDone {
    /// What the operator approves.
    pub id: u64,
    /// Whether that has been done.
    pub approved: bool,
    /// The host.
    pub host_id: HostId,
    /// Fingerprint of the host key.
    pub host_key: Fingerprint,
    /// The hub.
    pub hub: String,
}

/// The answer to a code, kept so that it can be delivered again. Holds no secret: of the code's
/// secret only the hash.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptAnswer {
    code: Sha256,
    answer: EnrollmentAnswer,
}

/// Enrolls, or finishes an enrollment that was cut short. `seed` becomes the device key if there
/// is none yet; `hostname` is for display.
pub async fn enroll(
    state_dir: &Path,
    warden: &Warden,
    code: &EnrollmentCode,
    seed: &[u8; 32],
    hostname: &str,
) -> Result<EnrollmentDone, EnrollError> {
    let device = DeviceKey::open_or_create(state_dir, seed)?;
    let hub = HubClient::new(&code.hub, HubPins { current: code.hub_spki, next: None }, &device)?;
    let answer = match kept_answer(state_dir, code, &device)? {
        Some(answer) => answer,
        None => {
            let answer = answer(&hub, warden, code, &device, hostname).await?;
            keep_answer(state_dir, code, &answer)?;
            answer
        }
    };
    let finish = EnrollFinish { secret: code.secret.to_vec().into(), answer: answer.clone() };
    let EnrollFinished { id, state } = hub.post(ENROLL_FINISH_PATH, &finish).await?;
    let approved = match state {
        EnrollmentState::WaitingForApproval => false,
        EnrollmentState::Approved => true,
        EnrollmentState::Rejected => return Err(EnrollError::Rejected),
        EnrollmentState::Expired => return Err(EnrollError::Expired),
        EnrollmentState::WaitingForHost => return Err(EnrollError::Odd { id }),
    };
    let record =
        HubRecord { url: hub.url().to_owned(), pin: code.hub_spki, next: None, host_id: answer.host_id };
    record.save(state_dir)?;
    Ok(EnrollmentDone {
        id,
        approved,
        host_id: answer.host_id,
        host_key: answer.host_key.fingerprint(),
        hub: record.url,
    })
}

/// Asks the hub for the policy and the warden for its word.
async fn answer(
    hub: &HubClient,
    warden: &Warden,
    code: &EnrollmentCode,
    device: &DeviceKey,
    hostname: &str,
) -> Result<EnrollmentAnswer, EnrollError> {
    let begin = EnrollBegin { secret: code.secret.to_vec().into() };
    let EnrollPolicy { policy } = hub.post(ENROLL_BEGIN_PATH, &begin).await?;
    let found = Sha256::of(&policy.0);
    if found != code.policy {
        return Err(EnrollError::OtherPolicy { expected: code.policy, found });
    }
    let device_key = device.public();
    let request =
        WardenRequest::Enroll { policy, policy_sha256: code.policy, k: code.k.to_vec().into(), device_key };
    let enrolled = warden.enroll(&request).await?;
    Ok(EnrollmentAnswer {
        v: 1,
        host_id: enrolled.host_id,
        host_key: enrolled.host_key,
        host_key_gen: enrolled.host_key_gen,
        device_key,
        device_cert: enrolled.device_cert,
        policy: code.policy,
        proof: enrolled.proof,
        hostname: hostname.to_owned(),
    })
}

fn kept_answer(
    state_dir: &Path,
    code: &EnrollmentCode,
    device: &DeviceKey,
) -> Result<Option<EnrollmentAnswer>, EnrollError> {
    match files::read_limited(&state_dir.join(ANSWER_FILE), MAX_ANSWER) {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(StateError::from(error).into()),
        // One that cannot be read, or is about another code or key, is worth nothing.
        Ok(bytes) => Ok(serde_json::from_slice::<KeptAnswer>(&bytes)
            .ok()
            .filter(|kept| kept.code == Sha256::of(&code.secret) && kept.answer.policy == code.policy)
            .filter(|kept| kept.answer.device_key == device.public())
            .map(|kept| kept.answer)),
    }
}

fn keep_answer(
    state_dir: &Path,
    code: &EnrollmentCode,
    answer: &EnrollmentAnswer,
) -> Result<(), EnrollError> {
    let kept = KeptAnswer { code: Sha256::of(&code.secret), answer: answer.clone() };
    let json = serde_json::to_vec(&kept).expect("an answer is made of strings and numbers");
    files::write_atomic(&state_dir.join(ANSWER_FILE), &json).map_err(StateError::from)?;
    Ok(())
}

#[cfg(test)]
mod tests;
