//! The live channel between agent and hub: JSON text frames over a WebSocket at
//! [`CHANNEL_PATH`]. Delivery is at least once; every effect is at most once, because orders are
//! identified by their payload's hash, receipts by their place in the host's log, and reports and
//! desired states by a number that only grows.
//!
//! Version history:
//! * 1
//! * 2 (this): [`HubFrame::Ask`] and [`AgentFrame::Answer`]. A hub speaks 1 with an agent that does; it asks
//!   such an agent nothing.

use serde::{Deserialize, Serialize};

use crate::ask::{Question, Reply};
use crate::desired::DesiredState;
use crate::envelope::{Bytes, Envelope, Signed};
use crate::ids::{HostId, Sha256, TunnelId};
use crate::note::Note;
use crate::plan::Plan;
use crate::report::HostReport;

/// Version of this vocabulary.
pub const VERSION: u32 = 2;
/// Oldest version that a hub still speaks, with agents that were not updated yet.
pub const OLDEST: u32 = 1;
/// From this version on an agent answers [`HubFrame::Ask`].
pub const ANSWERS_FROM: u32 = 2;
/// Where the hub serves the channel.
pub const CHANNEL_PATH: &str = "/agent/v1/channel";
/// Longest frame in bytes, either way; a longer one closes the channel.
pub const MAX_FRAME: usize = 4 * 1024 * 1024;
/// Most receipts in one [`AgentFrame::Receipts`].
pub const RECEIPTS_PER_FRAME: usize = 100;
/// The agent sends something at least this often, and so does the hub; seconds.
pub const HEARTBEAT_S: u64 = 20;
/// After this much silence either side closes the channel; seconds.
pub const SILENCE_S: u64 = 60;

/// Why an agent connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The service: orders are delivered here.
    Run,
    /// `writ-agent --selftest=hub`: one report, no orders; the service's channel is left alone.
    Selftest,
}

/// From the agent. Unknown frames are refused: both ends know each other's version from Hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case", deny_unknown_fields)]
pub enum AgentFrame {
    /// First frame. The device key was proven by the TLS handshake.
    Hello {
        /// [`VERSION`].
        v: u32,
        /// Who.
        host_id: HostId,
        /// The kernel's boot id: two at once mean a cloned host.
        boot_id: String,
        /// Version of the agent.
        agent_version: String,
        /// Why.
        purpose: Purpose,
        /// Entries in the warden's log.
        log_size: u64,
    },
    /// A report; answered by [`HubFrame::ReportStored`].
    Report {
        /// Grows by one with each report of this connection.
        seq: u64,
        /// The report.
        report: Box<HostReport>,
    },
    /// The plan for the generation that it names, after each reconcile round.
    Plan {
        /// The plan.
        plan: Plan,
        /// What went wrong in the last round, if anything, in words for the operator.
        problem: Option<String>,
    },
    /// A desired state was refused.
    DesiredRefused {
        /// Which.
        generation: u64,
        /// Why.
        why: String,
    },
    /// Where an order is.
    Progress(OrderProgress),
    /// Entries of the host's signed log, in order; answered by [`HubFrame::ReceiptsStored`].
    Receipts {
        /// Place of the first one, from 0.
        first: u64,
        /// The entries.
        receipts: Vec<Signed>,
        /// The host's signed word about the whole log at that moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkpoint: Option<Note>,
    },
    /// A signed refusal that is not in the log, because nobody known signed the order.
    Refusal {
        /// The order.
        op: Sha256,
        /// The host's signed refusal.
        receipt: Signed,
    },
    /// The warden did not answer about this order; its fate is unknown to the agent.
    OrderTrouble {
        /// The order.
        op: Sha256,
        /// What happened, in words for the operator.
        problem: String,
    },
    /// The result of a script, sealed to the operator's key; answered by
    /// [`HubFrame::JobResultStored`] and sent again on each connection until then.
    JobResult {
        /// The order.
        op: Sha256,
        /// A [`crate::job::JobResult`] under seal.
        sealed: Bytes,
    },
    /// The session of a [`HubFrame::TunnelOpen`] waits; the agent dials the data connection now.
    TunnelReady {
        /// Which.
        tunnel: TunnelId,
        /// The host's signed word, with the session's SSH host key.
        receipt: Signed,
    },
    /// There will be no session.
    TunnelError {
        /// Which.
        tunnel: TunnelId,
        /// The host's signed refusal, where it made one.
        receipt: Option<Signed>,
        /// Otherwise what went wrong, in words for the operator.
        problem: Option<String>,
    },
    /// The session is over at this end.
    TunnelClose {
        /// Which.
        tunnel: TunnelId,
        /// Why, in words.
        why: String,
    },
    /// The policy in force on the host: once after Welcome, and after each [`HubFrame::Policy`].
    Policy {
        /// Its version.
        version: u64,
        /// Its hash.
        sha256: Sha256,
        /// The last document that would have changed it and was refused, in words.
        problem: Option<String>,
    },
    /// To [`HubFrame::Ask`]: each is answered once, unless the channel ends before.
    Answer {
        /// Of the question.
        id: u64,
        /// The warden's answer, at most [`crate::ask::MAX_REPLY`] bytes, or why there is none.
        reply: Reply,
    },
    /// Sent when nothing else is.
    Heartbeat {},
}

/// From the hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case", deny_unknown_fields)]
pub enum HubFrame {
    /// Answer to Hello when the host is enrolled.
    Welcome {
        /// [`VERSION`].
        v: u32,
        /// How many entries of the host's log the hub holds.
        receipts_held: u64,
    },
    /// Answer to Hello while nobody has approved the host: stay connected, send nothing.
    Pending {},
    /// What is wanted; sent after Welcome and on every change.
    Desired {
        /// Only ever grows.
        generation: u64,
        /// The state.
        state: DesiredState,
    },
    /// A signed order to relay to the warden.
    Order {
        /// The order.
        envelope: Envelope,
    },
    /// A policy, a revocation or a word of freshness, as it was signed; all of them, oldest first, after
    /// Welcome, and each new one. Answered by [`AgentFrame::Policy`].
    Policy {
        /// The document.
        document: Envelope,
    },
    /// The report is durable.
    ReportStored {
        /// Which.
        seq: u64,
    },
    /// Log entries are durable up to here.
    ReceiptsStored {
        /// Entries held.
        held: u64,
    },
    /// The result of a script is durable: the host may forget it.
    JobResultStored {
        /// The order.
        op: Sha256,
    },
    /// An operator wants a session. Answered by TunnelReady or TunnelError.
    TunnelOpen {
        /// The hub's name for it.
        tunnel: TunnelId,
        /// The signed `session.open`.
        envelope: Envelope,
    },
    /// The session is to end at once: its operator left, or may not stay.
    TunnelClose {
        /// Which.
        tunnel: TunnelId,
        /// Why, in words.
        why: String,
    },
    /// An operator's question to the warden, which changes nothing. Not kept for a later channel.
    Ask {
        /// The hub's number for it; no other of this channel has it.
        id: u64,
        /// The question.
        question: Question,
    },
    /// The hub ends the channel.
    Bye {
        /// Why, for the agent's log.
        why: String,
        /// Do not come back before this many seconds.
        retry_after_s: u64,
    },
    /// Sent when nothing else is.
    Heartbeat {},
}

/// How far an order has come. The end of an order is a receipt, not one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderProgress {
    /// The order.
    pub op: Sha256,
    /// Its state.
    pub state: OrderState,
}

/// States on the way (`security.md` 2.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OrderState {
    /// Other work on the same guest or storage comes first. Says nothing of the signatures: the agent says it,
    /// too, of orders that nobody has looked at.
    Queued,
    /// Signatures, policy, clock and live preconditions hold.
    Verified,
    /// The nonce is burned: this order can never be accepted again.
    Committed,
    /// About to call Proxmox.
    Starting,
    /// Proxmox runs it.
    Running {
        /// Proxmox's task.
        upid: String,
    },
    /// The runner runs its script.
    Executing,
}

impl std::fmt::Display for OrderState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Queued => f.write_str("waiting on the host for other work on the same guest or storage"),
            Self::Verified => f.write_str("verified on the host"),
            Self::Committed => f.write_str("committed, nonce burned"),
            Self::Starting => f.write_str("starting"),
            Self::Running { upid } => write!(f, "running as {upid}"),
            Self::Executing => f.write_str("the script runs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Handshake bytes are frozen: another version must find them unchanged.
    #[test]
    fn hello_and_welcome_bytes_are_frozen() {
        let hello = AgentFrame::Hello {
            v: VERSION,
            host_id: HostId::from_bytes([1; 16]),
            boot_id: "b".into(),
            agent_version: "0.1.0".into(),
            purpose: Purpose::Run,
            log_size: 2,
        };
        assert_eq!(
            serde_json::to_string(&hello).unwrap(),
            r#"{"t":"hello","v":2,"host_id":"01010101010101010101010101010101","boot_id":"b","agent_version":"0.1.0","purpose":"run","log_size":2}"#
        );
        assert_eq!(
            serde_json::to_string(&HubFrame::Welcome { v: 1, receipts_held: 3 }).unwrap(),
            r#"{"t":"welcome","v":1,"receipts_held":3}"#
        );
    }

    /// Version 2's own frames.
    #[test]
    fn questions_and_answers_bytes_are_frozen() {
        let draft = b"draft".to_vec();
        let ask = HubFrame::Ask { id: 7, question: Question::Plan { draft: draft.into() } };
        let text = r#"{"t":"ask","id":7,"question":{"ask":"plan","draft":"ZHJhZnQ="}}"#;
        assert_eq!(serde_json::to_string(&ask).unwrap(), text);
        assert_eq!(serde_json::from_str::<HubFrame>(text).unwrap(), ask);
        let look = crate::ask::Look { guest: Some(101.try_into().unwrap()), ..Default::default() };
        let ask = HubFrame::Ask { id: 8, question: Question::Look(look) };
        let text = r#"{"t":"ask","id":8,"question":{"ask":"look","guest":101,"owner":null,"storages":[],"volumes":[],"template":null,"disks":false,"backing":false,"vmids":false}}"#;
        assert_eq!(serde_json::to_string(&ask).unwrap(), text);
        assert_eq!(serde_json::from_str::<HubFrame>(text).unwrap(), ask);
        let reply = Reply::Refused { code: "busy".into(), why: "later".into() };
        let answer = AgentFrame::Answer { id: 7, reply };
        let text = r#"{"t":"answer","id":7,"reply":{"is":"refused","code":"busy","why":"later"}}"#;
        assert_eq!(serde_json::to_string(&answer).unwrap(), text);
        assert_eq!(serde_json::from_str::<AgentFrame>(text).unwrap(), answer);
    }

    /// What may be passed on fits a frame, whatever it is.
    #[test]
    fn the_longest_reply_fits_a_frame() {
        let json = vec![b'x'; crate::ask::MAX_REPLY];
        let reply = Reply::World { json: json.clone().into() };
        assert!(reply.is_bounded());
        let frame = serde_json::to_string(&AgentFrame::Answer { id: u64::MAX, reply }).unwrap();
        assert!(frame.len() < MAX_FRAME, "{}", frame.len());
        let more = [json, vec![b'x']].concat();
        assert!(!Reply::World { json: more.clone().into() }.is_bounded());
        assert!(!Reply::Plan { plan: Signed { payload: more.into(), sig: String::new() } }.is_bounded());
        let sig = "s".repeat(Envelope::MAX_ARMOR + 1);
        assert!(!Reply::Plan { plan: Signed { payload: vec![1].into(), sig } }.is_bounded());
        assert!(!Reply::Refused { code: "c".into(), why: "w".repeat(5000) }.is_bounded());
        for (size, good) in
            [(0, false), (1, true), (Envelope::MAX_PAYLOAD, true), (Envelope::MAX_PAYLOAD + 1, false)]
        {
            assert_eq!(Question::Plan { draft: vec![0; size].into() }.is_bounded(), good, "{size}");
        }
        let storages = vec!["local".parse().unwrap(); crate::ask::MAX_NAMED + 1];
        assert!(!Question::Look(crate::ask::Look { storages, ..Default::default() }).is_bounded());
    }

    #[test]
    fn hostile_frames_are_errors() {
        for bad in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"t":"root_shell"}"#,
            r#"{"t":"heartbeat","x":1}"#,
            r#"{"t":"order","envelope":{"payload":"!!","sigs":[]}}"#,
            r#"{"t":"order","envelope":{"payload":"","sigs":[],"plan":1}}"#,
            r#"{"t":"welcome","v":1,"receipts_held":-1}"#,
            r#"{"t":"welcome","v":1,"receipts_held":1.5}"#,
            r#"{"t":"tunnel_open","tunnel":"00","envelope":{"payload":"","sigs":[]}}"#,
            r#"{"t":"tunnel_close","tunnel":"00000000000000000000000000000000"}"#,
            r#"{"t":"order","envelope":{"payload":"","sigs":[],"sealed":7}}"#,
            r#"{"t":"ask","id":-1,"question":{"ask":"plan","draft":""}}"#,
            r#"{"t":"ask","id":18446744073709551616,"question":{"ask":"plan","draft":""}}"#,
            r#"{"t":"ask","question":{"ask":"plan","draft":""}}"#,
            r#"{"t":"ask","id":1}"#,
            r#"{"t":"ask","id":1,"question":{"ask":"step"}}"#,
            r#"{"t":"ask","id":1,"question":{"ask":"plan","draft":"!"}}"#,
            r#"{"t":"ask","id":1,"question":{"ask":"plan","draft":"","order":""}}"#,
            r#"{"t":"ask","id":1,"question":{"ask":"look","guest":null,"owner":null,"storages":[],"volumes":[],"template":null,"disks":false,"backing":false}}"#,
            r#"{"t":"ask","id":1,"question":{"ask":"look","guest":0,"owner":null,"storages":[],"volumes":[],"template":null,"disks":false,"backing":false,"vmids":false}}"#,
            r#"{"t":"ask","id":1,"question":{"ask":"look","guest":null,"owner":null,"storages":["../x"],"volumes":[],"template":null,"disks":false,"backing":false,"vmids":false}}"#,
        ] {
            assert!(serde_json::from_str::<HubFrame>(bad).is_err(), "{bad}");
        }
        for bad in [
            r#"{"t":"answer","id":1,"reply":{"is":"world"}}"#,
            r#"{"t":"answer","id":1.0,"reply":{"is":"refused","code":"x","why":"y"}}"#,
            r#"{"t":"answer","id":1,"reply":{"is":"refused","code":"x","why":"y","more":1}}"#,
            r#"{"t":"answer","id":1,"reply":{"is":"plan","plan":{"payload":"","sig":""},"json":""}}"#,
            r#"{"t":"answer","id":1,"reply":{"is":"plan","plan":{"payload":""}}}"#,
        ] {
            assert!(serde_json::from_str::<AgentFrame>(bad).is_err(), "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert!(serde_json::from_str::<AgentFrame>(&deep).is_err());
    }
}
