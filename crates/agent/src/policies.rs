//! Policy documents on their way from the hub to the warden, one after the other. The agent judges nothing:
//! it says upward which policy the warden lives by now, and what it refused.

use std::collections::VecDeque;

use protocol::frame::AgentFrame;
use protocol::local::DocumentAnswer;
use protocol::{Envelope, Sha256};
use serde::Deserialize;

use crate::sentence;
use crate::warden::{PolicyState, WardenError};

/// Most documents that wait for the warden; the hub holds no more.
const QUEUE: usize = 4_096;

/// What waits, and what was refused last.
#[derive(Debug, Default)]
pub struct Policies {
    /// None asks which policy is in force.
    waiting: VecDeque<Option<Envelope>>,
    problem: Option<String>,
}

/// What a document was about, as it says itself: good enough to tell old from new, and for nothing else.
#[derive(Default, Deserialize)]
struct Mentions {
    version: Option<u64>,
    policy: Option<Named>,
    fresh: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    version: u64,
}

/// Whether a document speaks of a policy that is older than `version`, or of this one itself.
fn is_old(document: &Envelope, version: u64) -> bool {
    let says: Mentions = serde_json::from_slice(&document.payload.0).unwrap_or_default();
    match says {
        Mentions { version: Some(of), .. } => of <= version,
        Mentions { policy: Some(Named { version: of }), .. }
        | Mentions { fresh: Some(Named { version: of }), .. } => of < version,
        Mentions { .. } => false,
    }
}

impl Policies {
    /// A document came. False when more wait than any hub holds.
    pub fn push(&mut self, document: Option<Envelope>) -> bool {
        let room = self.waiting.len() < QUEUE;
        if room {
            self.waiting.push_back(document);
        }
        room
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What is to be asked next.
    pub fn pop(&mut self) -> Option<Option<Envelope>> {
        self.waiting.pop_front()
    }

    /// The warden answered: what to tell the hub, and whether the log grew.
    pub fn answered(
        &mut self,
        document: Option<&Envelope>,
        answer: Result<PolicyState, WardenError>,
    ) -> (Option<AgentFrame>, bool) {
        let PolicyState { version, sha256, answer } = match answer {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!("the warden did not take a policy document: {}", sentence(&error));
                return (None, false);
            }
        };
        let grew = matches!(answer, Some(DocumentAnswer::Accepted {}));
        match (document, answer) {
            (Some(document), Some(DocumentAnswer::Refused { code, why })) => {
                let sha256: Sha256 = document.id();
                // A host that was enrolled later does not know those who signed before its time.
                if is_old(document, version) {
                    tracing::debug!(%sha256, code, "an old policy document means nothing to this host");
                } else {
                    tracing::warn!(%sha256, code, why, "the warden refused a policy document");
                    self.problem = Some(format!("refused {sha256} ({code}): {why}"));
                }
            }
            (_, Some(DocumentAnswer::Accepted {})) => self.problem = None,
            (_, Some(DocumentAnswer::Known {} | DocumentAnswer::Refused { .. }) | None) => {}
        }
        (Some(AgentFrame::Policy { version, sha256, problem: self.problem.clone() }), grew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(payload: &str) -> Envelope {
        Envelope::new(payload.as_bytes().to_vec().into(), vec![])
    }

    fn state(answer: Option<DocumentAnswer>) -> Result<PolicyState, WardenError> {
        Ok(PolicyState { version: 3, sha256: Sha256::of(b"3"), answer })
    }

    #[test]
    fn only_what_could_have_changed_the_host_is_a_problem() {
        let refused = || Some(DocumentAnswer::Refused { code: "chain".into(), why: "a fork".into() });
        for (payload, problem) in [
            (r#"{"v":1,"version":4}"#, true),
            (r#"{"v":1,"version":3}"#, false),
            (r#"{"v":1,"version":2}"#, false),
            (r#"{"revoke":1,"policy":{"version":3}}"#, true),
            (r#"{"revoke":1,"policy":{"version":2}}"#, false),
            (r#"{"fresh":{"version":2}}"#, false),
            ("junk", true),
            ("[]", true),
        ] {
            let mut policies = Policies::default();
            let (frame, grew) = policies.answered(Some(&document(payload)), state(refused()));
            let Some(AgentFrame::Policy { version: 3, problem: said, .. }) = frame else { panic!() };
            assert_eq!((said.is_some(), grew), (problem, false), "{payload}");
        }
    }

    #[test]
    fn a_problem_is_repeated_until_something_is_accepted() {
        let mut policies = Policies::default();
        let refused = DocumentAnswer::Refused { code: "threshold".into(), why: "1 of 2".into() };
        policies.answered(Some(&document("{}")), state(Some(refused)));
        let said = |frame| match frame {
            (Some(AgentFrame::Policy { problem, .. }), grew) => (problem.is_some(), grew),
            other => panic!("{other:?}"),
        };
        let known = state(Some(DocumentAnswer::Known {}));
        assert_eq!(said(policies.answered(Some(&document("{}")), known)), (true, false));
        let accepted = state(Some(DocumentAnswer::Accepted {}));
        assert_eq!(said(policies.answered(Some(&document("{}")), accepted)), (false, true));
        assert_eq!(said(policies.answered(None, state(None))), (false, false));
    }

    #[test]
    fn a_flood_is_not_kept() {
        let mut policies = Policies::default();
        assert!((0..QUEUE).all(|_| policies.push(None)));
        assert!(!policies.push(None));
    }
}
