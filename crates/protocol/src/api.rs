//! The hub's `/api/v1` for operators, and the two calls of an agent that enrolls. JSON bodies;
//! every failure is an [`ApiFailure`]. What the hub says about hosts is not proof of anything: the
//! operator's tool believes signed statements and receipts only.

use serde::{Deserialize, Serialize};

use crate::desired::DesiredState;
use crate::enroll::EnrollmentAnswer;
use crate::envelope::{Bytes, Envelope, Signed};
use crate::frame::OrderProgress;
use crate::ids::{HostId, HostName, Sha256, TunnelId};
use crate::note::Note;
use crate::plan::Plan;
use crate::report::HostReport;

/// Where an enrolling agent asks for the policy that its code names: POST [`EnrollBegin`].
pub const ENROLL_BEGIN_PATH: &str = "/agent/v1/enroll/begin";
/// Where it delivers its answer: POST [`EnrollFinish`]. May be repeated with the same answer.
pub const ENROLL_FINISH_PATH: &str = "/agent/v1/enroll/finish";

/// Body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiFailure {
    /// Short and stable; programs may compare it.
    pub code: String,
    /// Cause and remedy in one sentence.
    pub message: String,
}

/// `POST /api/v1/login/challenge` (no body).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginChallenge {
    /// Random, usable once.
    pub challenge: Sha256,
    /// Unix seconds.
    pub expires_at: u64,
}

/// What an operator signs in namespace `login.v1@writ`. It names the hub's TLS key, so a signature
/// given to one hub is worth nothing at another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginStatement {
    /// 1.
    pub v: u32,
    /// SHA-256 of the SubjectPublicKeyInfo that the operator's tool saw in TLS.
    pub hub_spki: Sha256,
    /// From the hub.
    pub challenge: Sha256,
}

/// `POST /api/v1/login` takes a [`Signed`] [`LoginStatement`] and gives this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginAnswer {
    /// Bearer token; the hub keeps only its hash.
    pub token: String,
    /// Whom the hub takes the signer for.
    pub operator: HostName,
    /// Unix seconds.
    pub expires_at: u64,
}

/// `POST /api/v1/enrollments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentNew {
    /// SHA-256 of the code's hub secret.
    pub secret_sha256: Sha256,
    /// The policy for the host; the code names its hash.
    pub policy: Bytes,
    /// Seconds until the code is void, at most 7 days.
    pub expires_in_s: u64,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentCreated {
    /// Names the enrollment from now on.
    pub id: u64,
    /// Unix seconds.
    pub expires_at: u64,
}

/// Where an enrollment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrollmentState {
    /// Nobody has used the code.
    WaitingForHost,
    /// A host answered.
    WaitingForApproval,
    /// An operator vouched for it.
    Approved,
    /// An operator refused it.
    Rejected,
    /// The code was not used in time.
    Expired,
}

/// One of `GET /api/v1/enrollments`, and `GET /api/v1/enrollments/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentView {
    /// Its id.
    pub id: u64,
    /// Where it is.
    pub state: EnrollmentState,
    /// Who made the code.
    pub created_by: HostName,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds.
    pub expires_at: u64,
    /// Hash of the policy.
    pub policy: Sha256,
    /// The host's answer, once there is one.
    pub answer: Option<EnrollmentAnswer>,
}

/// `POST /api/v1/enrollments/{id}/approve`; the statement is a signed
/// [`crate::enroll::HostStatement`]. (`POST …/reject` has no body.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentApprove {
    /// The operator's statement.
    pub statement: Signed,
}

/// `POST` [`ENROLL_BEGIN_PATH`]; answered by [`EnrollPolicy`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollBegin {
    /// The code's hub secret.
    pub secret: Bytes,
}

/// The policy as the operator uploaded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollPolicy {
    /// Its bytes.
    pub policy: Bytes,
}

/// `POST` [`ENROLL_FINISH_PATH`], over TLS with the device key as client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollFinish {
    /// The code's hub secret.
    pub secret: Bytes,
    /// The host's answer.
    pub answer: EnrollmentAnswer,
}

/// Its answer: the number that the operator approves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollFinished {
    /// Names the enrollment.
    pub id: u64,
    /// Where it is now.
    pub state: EnrollmentState,
}

/// One of `GET /api/v1/hosts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    /// The host.
    pub host_id: HostId,
    /// What the hub calls it. Believe the statement instead.
    pub name: HostName,
    /// The operator's signed statement about it.
    pub statement: Signed,
    /// Whether its channel is open now.
    pub online: bool,
    /// Unix seconds of the last frame.
    pub last_seen: Option<u64>,
    /// Unix seconds of the last report's arrival.
    pub report_at: Option<u64>,
    /// Entries of its log that the hub holds.
    pub receipts_held: u64,
}

/// `GET /api/v1/policy`: what operators uploaded, and where the hosts say they are. (`POST` takes an
/// [`Envelope`] and gives [`PolicyStored`].)
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Oldest first.
    pub documents: Vec<StoredPolicy>,
    /// Hosts that have said something.
    pub hosts: Vec<HostPolicy>,
}

/// A policy, a revocation or a word of freshness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPolicy {
    /// Its place.
    pub n: u64,
    /// As it was signed.
    pub envelope: Envelope,
    /// Who uploaded it.
    pub submitted_by: HostName,
    /// Unix seconds.
    pub submitted_at: u64,
}

/// By which policy a host says that it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPolicy {
    /// The host.
    pub host_id: HostId,
    /// Version of the policy.
    pub version: u64,
    /// Its hash.
    pub sha256: Sha256,
    /// The last document that it refused, in words.
    pub problem: Option<String>,
    /// Unix seconds of that.
    pub received_at: u64,
}

/// A document is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStored {
    /// Its place.
    pub n: u64,
}

/// `GET /api/v1/hosts/{host_id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostDetail {
    /// The host.
    pub host: HostView,
    /// Its last report.
    pub report: Option<HostReport>,
    /// What is wanted.
    pub desired: Option<DesiredView>,
    /// Its last plan.
    pub plan: Option<PlanView>,
}

/// A desired state and its generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredView {
    /// Grows with every change.
    pub generation: u64,
    /// Who set it.
    pub set_by: HostName,
    /// Unix seconds.
    pub set_at: u64,
    /// The state.
    pub state: DesiredState,
}

/// The agent's last plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    /// Unix seconds of its arrival.
    pub received_at: u64,
    /// The plan; compare its generation with the desired one.
    pub plan: Plan,
    /// What went wrong in the last round.
    pub problem: Option<String>,
}

/// `PUT /api/v1/hosts/{host_id}/desired` takes a [`DesiredState`] and gives this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredAccepted {
    /// Its generation.
    pub generation: u64,
    /// False when it was the same as before.
    pub changed: bool,
}

/// `POST /api/v1/hosts/{host_id}/orders` takes an [`Envelope`] and gives this. Submitting the same
/// order again is no error and sends it to the host again, which refuses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAccepted {
    /// The order's id: SHA-256 of its payload.
    pub op: Sha256,
    /// Receipts and progress after this version are news.
    pub version: u64,
    /// Whether the host is connected now.
    pub online: bool,
}

/// `GET /api/v1/hosts/{host_id}/orders/{op}?after=VERSION&wait_s=N` (waits up to N seconds, at most
/// 30, until the version is greater), and one of `GET /api/v1/hosts/{host_id}/orders`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderView {
    /// The order's id.
    pub op: Sha256,
    /// Grows with every event of this order.
    pub version: u64,
    /// Who submitted it.
    pub submitted_by: HostName,
    /// Unix seconds.
    pub submitted_at: u64,
    /// The order itself.
    pub envelope: Envelope,
    /// Whether it was handed to the host's agent since it was last submitted.
    pub delivered: bool,
    /// Whether the host is connected now.
    pub online: bool,
    /// How far it is.
    pub progress: Option<OrderProgress>,
    /// What the agent could not do about it.
    pub problem: Option<String>,
    /// Signed receipts about this order, in order of arrival, with the version of each.
    pub receipts: Vec<OrderReceipt>,
    /// The sealed result of a script, once the host delivered it; its hash stands in the receipt. Always
    /// absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Bytes>,
}

/// A receipt and when it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderReceipt {
    /// The order's version at which it came.
    pub version: u64,
    /// Signed by the host key.
    pub receipt: Signed,
}

/// `GET /api/v1/hosts/{host_id}/receipts?first=N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptsView {
    /// Place of the first.
    pub first: u64,
    /// Entries held.
    pub held: u64,
    /// At most 100 entries.
    pub receipts: Vec<Signed>,
}

/// `GET /api/v1/hosts/{host_id}/log/checkpoint`: the newest one that the hub can prove everything about.
/// A failure with code `no_checkpoint` while it has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCheckpoint {
    /// Signed by the host key; for `authz::checkpoint` to judge.
    pub checkpoint: Note,
}

/// `GET /api/v1/hosts/{host_id}/log/proof?entry=N&size=S`: that entry N (from 0) is among the first S.
/// `GET /api/v1/hosts/{host_id}/log/proof?from=A&size=S`: that the log with S entries begins with the one
/// with A. A failure with code `no_proof` when there are not so many entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogProof {
    /// As RFC 6962 sections 2.1.1 and 2.1.2 order them; at most 65.
    pub hashes: Vec<Sha256>,
}

/// `POST /api/v1/hosts/{host_id}/tunnels` takes an [`Envelope`] with a `session.open` and waits until the
/// host answered, at most 40 s. One open tunnel per operator and host, unless the hub's configuration allows
/// more: another is a failure with code `session_exists`; a host without a channel is `offline`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tunnel", rename_all = "snake_case", deny_unknown_fields)]
pub enum TunnelAnswer {
    /// Dial `GET /api/v1/tunnels/{id}/data` now ([`crate::tunnel`]).
    Ready {
        /// The tunnel.
        id: TunnelId,
        /// The host's signed word, with the session's SSH host key.
        receipt: Signed,
    },
    /// The host refused, signed.
    Refused {
        /// Its word.
        receipt: Signed,
    },
    /// It came to nothing, and the host signed nothing about it.
    Trouble {
        /// What is known, in words.
        problem: String,
    },
}

/// One of `GET /api/v1/hosts/{host_id}/tunnels` (the newest 100), and `GET /api/v1/tunnels/{id}`.
/// `DELETE /api/v1/tunnels/{id}` closes one and gives this too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelView {
    /// The tunnel.
    pub id: TunnelId,
    /// The host.
    pub host_id: HostId,
    /// The order.
    pub op: Sha256,
    /// Whose it is, as the hub knows them.
    pub operator: HostName,
    /// Unix seconds.
    pub opened_at: u64,
    /// Unix seconds; absent while it is open.
    pub closed_at: Option<u64>,
    /// Why it was closed, in words.
    pub why: Option<String>,
    /// Relayed from the operator to the host; bytes, as far as known.
    pub bytes_to_host: u64,
    /// Relayed from the host to the operator; bytes, as far as known.
    pub bytes_from_host: u64,
}
