//! `writ-runner`: starts signed scripts and sessions as the right user, in the host's namespaces.
//!
//! **Not built yet.** This crate holds the typed requests that the warden will hand over and the
//! refusals that it gives today; the binary refuses everything by name. What is decided already and
//! will not change: the runner receives the signed *envelope*, never a bare command, and verifies it
//! again itself against a root-owned policy anchor and a nonce journal of its own, so that a stolen
//! warden can neither invent a script nor replay one.

use protocol::Envelope;
use serde::{Deserialize, Serialize};

/// From the warden, over the runner's socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum RunnerRequest {
    /// A signed script (`job.run`, namespace `job.v1@writ`).
    Job {
        /// The order as it was signed.
        envelope: Envelope,
    },
    /// A signed session (`session.open`, namespace `session.v1@writ`).
    Session {
        /// The order as it was signed.
        envelope: Envelope,
    },
}

/// Why the runner does not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "refused", rename_all = "snake_case", deny_unknown_fields)]
pub enum RunnerRefusal {
    /// This version cannot.
    #[error("{kind} is not built yet in this version of writ-runner: use another tool for it until then")]
    NotBuilt {
        /// The order kind.
        kind: String,
    },
}

impl RunnerRequest {
    /// The order kind that it asks for.
    pub const fn kind(&self) -> authz::Kind {
        match self {
            Self::Job { .. } => authz::Kind::JobRun,
            Self::Session { .. } => authz::Kind::SessionOpen,
        }
    }

    /// Today's answer to everything.
    pub fn refuse(&self) -> RunnerRefusal {
        RunnerRefusal::NotBuilt { kind: self.kind().as_str().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_refused_by_name() {
        let envelope = Envelope::new(b"x".to_vec().into(), vec![]);
        let job = RunnerRequest::Job { envelope: envelope.clone() };
        assert!(job.refuse().to_string().starts_with("job.run is not built yet"));
        assert!(RunnerRequest::Session { envelope }.refuse().to_string().starts_with("session.open"));
    }

    #[test]
    fn there_is_no_request_with_free_text() {
        for bad in ["\"sh\"", "[]"] {
            assert!(serde_from(bad).is_none(), "{bad}");
        }
    }

    fn serde_from(json: &str) -> Option<RunnerRequest> {
        RunnerRequest::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(json))
            .ok()
    }
}
