//! The runner's unix socket. Frames as in [`crate::local`]; one request a connection; only the warden
//! may ask. The runner gets the signed order, never a bare command, and verifies it again itself.
//!
//! A file descriptor that comes with an answer is attached (`SCM_RIGHTS`) to the first byte of that
//! answer's frame.

use serde::{Deserialize, Serialize};

use crate::envelope::{Bytes, Envelope};
use crate::ids::{Ed25519Key, HostId, Sha256};

/// From the warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum RunnerRequest {
    /// How are you?
    Status {},
    /// Live by this policy, on this host. Accepted once, and only when root has written the policy's hash
    /// into the runner's configuration; the same again is no error.
    Anchor {
        /// The policy's bytes: the host's first one.
        policy: Bytes,
        /// The policies and revocations that followed it; the one that root named must be among all of these.
        documents: Vec<Envelope>,
        /// The host.
        host_id: HostId,
        /// Its key.
        host_key: Ed25519Key,
        /// Which of its keys.
        host_key_gen: u32,
    },
    /// Judge these policies, revocations and words of freshness, in this order, and live by them. Answered by
    /// Done when each of them counts, or did already.
    Policy {
        /// As they were signed.
        documents: Vec<Envelope>,
    },
    /// Run a signed script (`job.run`). Answered by Committed, Started and one last answer; the script runs
    /// to its end whether or not the warden stays.
    Job {
        /// The order as it was signed.
        envelope: Envelope,
        /// The script, opened; the order names its hash.
        script: Bytes,
    },
    /// What became of this script? Waits while it runs. Asking settles it: a script that the runner does not
    /// know is refused from now on, should its request still be on the way.
    JobOutcome {
        /// The order.
        op: Sha256,
    },
    /// The result is durable elsewhere: forget it.
    Forget {
        /// The order.
        op: Sha256,
    },
    /// Open a signed session (`session.open`). It lives as long as this connection: closing it ends the
    /// session and everything in it.
    Session {
        /// The order as it was signed.
        envelope: Envelope,
    },
}

/// To the warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum RunnerAnswer {
    /// To Status.
    Status(RunnerStatus),
    /// To Anchor, to Policy and to Forget.
    Done {},
    /// The order passed every check and the runner's own nonce is burned.
    Committed {},
    /// The script runs.
    Started {},
    /// The script ended; last.
    Ended {
        /// A [`crate::job::JobResult`], sealed to the key that the order names.
        sealed: Bytes,
        /// From start to end, milliseconds.
        duration_ms: u64,
    },
    /// The order was accepted and its script never started; last.
    NotStarted {
        /// Why.
        why: String,
    },
    /// The script was started, and what became of it cannot be said; last. Nothing of it runs any more,
    /// unless `why` says so.
    Unknown {
        /// What is known.
        why: String,
    },
    /// To JobOutcome: never accepted, and never will be; last.
    NotKnown {},
    /// The session's sshd waits. One end of its socket comes with this frame.
    SessionReady {
        /// The session's SSH host key, made for it alone.
        host_key: Ed25519Key,
    },
    /// The session ended, its processes and files are gone; last.
    SessionEnded {
        /// How, in words.
        why: String,
        /// How long it lasted, milliseconds.
        duration_ms: u64,
    },
    /// Nothing was done and no nonce burned; last.
    Refused {
        /// A refusal code of `authz`, or another short code.
        code: String,
        /// Cause and remedy.
        why: String,
    },
}

/// What the runner says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerStatus {
    /// Version of the runner.
    pub version: String,
    /// Whether it is root and can run things as any user.
    pub root: bool,
    /// Present once it is anchored.
    pub anchored: Option<AnchorStatus>,
    /// Why everything is refused at the moment, if it is (a damaged journal).
    pub closed: Option<String>,
    /// Sessions that are open.
    pub sessions: u32,
    /// Scripts that run.
    pub jobs: u32,
}

/// What an anchored runner lives by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorStatus {
    /// The host.
    pub host_id: HostId,
    /// Its key.
    pub host_key: Ed25519Key,
    /// Which of its keys.
    pub host_key_gen: u32,
    /// Hash of the policy in force.
    pub policy: Sha256,
    /// Policies and revocations that were accepted after the first policy.
    pub documents: u64,
    /// When somebody last said that the policy is the newest, unix seconds.
    pub fresh_at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_request_with_free_text() {
        for bad in [
            "",
            "null",
            r#""sh""#,
            r#"{"ask":"exec","command":"rm -rf /"}"#,
            r#"{"ask":"job","envelope":{"payload":"","sigs":[]},"script":"","user":"root"}"#,
            r#"{"ask":"job","script":""}"#,
            r#"{"ask":"session","envelope":"uptime"}"#,
            r#"{"ask":"forget","op":"0"}"#,
        ] {
            assert!(serde_json::from_str::<RunnerRequest>(bad).is_err(), "{bad}");
        }
    }
}
