//! The warden's unix socket: frames of a 4-byte big-endian length and JSON. One request a
//! connection; the warden answers with any number of [`WardenAnswer::Progress`] and one last answer.
//!
//! A session's connection stays open: after [`WardenAnswer::SessionReady`], whose frame's first byte
//! carries a file descriptor (`SCM_RIGHTS`), the session lives until the agent closes the connection or
//! the warden sends the receipt of its end.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::ask::{Question, Reply};
use crate::envelope::{Bytes, Envelope, Signed};
use crate::frame::OrderState;
use crate::ids::{Ed25519Key, HostId, Sha256};
use crate::note::Note;
use crate::plan::Step;
use crate::privileged::{BlockDevice, SmartReading, SmartTransport};

/// Longest frame in bytes: room for the result of a script ([`crate::job::MAX_SEALED_RESULT`]) as base64.
pub const MAX_FRAME: usize = 4 * 1024 * 1024;

/// Why bytes on a local socket are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A length over the limit: [`MAX_FRAME`], or less where only requests are expected.
    #[error("a frame of {0} bytes on the local socket is more than this end takes")]
    TooLong(usize),
    /// Not the JSON of this type.
    #[error("a frame on the local socket could not be read: are agent and warden of the same version?")]
    Malformed(#[source] serde_json::Error),
}

/// From the agent to the warden.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum WardenRequest {
    /// Who are you and how are you?
    Status {},
    /// Accept this policy and vouch for this device key. Asking again with the same policy gives
    /// the same host id and key; another policy is refused.
    Enroll {
        /// The policy's bytes as the hub delivered them.
        policy: Bytes,
        /// Its hash as the code demands it.
        policy_sha256: Sha256,
        /// K of the code; used for the proof and forgotten.
        k: Bytes,
        /// The agent's transport key.
        device_key: Ed25519Key,
    },
    /// Carry out one unsigned step, inside the policy's bounds.
    Step {
        /// The step.
        step: Step,
        /// Of the desired state that asked for it; for the log.
        generation: u64,
    },
    /// Verify and carry out a signed order.
    Order {
        /// The order.
        envelope: Envelope,
    },
    /// Log entries from `first` on, at most `max`.
    Receipts {
        /// Place, from 0.
        first: u64,
        /// How many.
        max: u32,
    },
    /// Verify a signed `session.open` and open the session; see the module's text.
    Session {
        /// The order.
        envelope: Envelope,
    },
    /// Judge these policies, revocations and words of freshness, in this order, and live by what is accepted.
    /// None: which policy is in force?
    Policy {
        /// As they were signed.
        documents: Vec<Envelope>,
    },
    /// What is being done, and what waits?
    Queue {},
    /// A question that changes nothing.
    Ask {
        /// The question.
        question: Question,
    },
    /// Read a disk's SMART values as root, where Proxmox's API cannot: behind a USB bridge, or asleep. A disk
    /// that sleeps is left asleep. Reads only.
    Smart {
        /// Which disk.
        device: BlockDevice,
        /// How to speak to it; none: `smartctl` chooses.
        transport: Option<SmartTransport>,
    },
    /// Which results of scripts wait for the hub?
    Results {},
    /// One of them.
    Result {
        /// The order.
        op: Sha256,
    },
    /// The hub holds this result durably: forget it.
    ResultStored {
        /// The order.
        op: Sha256,
    },
}

/// From the warden to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum WardenAnswer {
    /// To Status.
    Status(WardenStatus),
    /// To Enroll.
    Enrolled {
        /// The host.
        host_id: HostId,
        /// Its key.
        host_key: Ed25519Key,
        /// Which of its keys.
        host_key_gen: u32,
        /// The host key's statement about the device key.
        device_cert: Signed,
        /// HMAC under K.
        proof: Sha256,
    },
    /// An order on its way; more follows.
    Progress(OrderState),
    /// The end of a step or an order, or its refusal: a signed receipt.
    Receipt(Signed),
    /// To Receipts.
    Receipts {
        /// Place of the first.
        first: u64,
        /// Entries in the log.
        log_size: u64,
        /// The entries.
        receipts: Vec<Signed>,
        /// The host key's checkpoint over all `log_size` entries.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkpoint: Option<Note>,
    },
    /// The session waits. One end of its socket comes with this frame; the receipt names its SSH host key.
    SessionReady {
        /// The log entry.
        receipt: Signed,
    },
    /// To Policy.
    Policy {
        /// Version of the policy in force now.
        version: u64,
        /// Its hash.
        sha256: Sha256,
        /// What became of each document, in their order.
        answers: Vec<DocumentAnswer>,
    },
    /// To Queue, oldest first.
    Queue {
        /// The orders and steps.
        entries: Vec<QueueEntry>,
    },
    /// To Ask.
    Answered {
        /// The answer.
        reply: Reply,
    },
    /// To Smart.
    Smart(SmartReading),
    /// To Results, oldest first.
    Results {
        /// The orders.
        ops: Vec<Sha256>,
    },
    /// To Result.
    Result {
        /// The order.
        op: Sha256,
        /// A [`crate::job::JobResult`] under seal.
        sealed: Bytes,
    },
    /// To ResultStored, also when there was no such result.
    Forgotten {},
    /// The request was accepted, and what became of it could not be written down: it may have been
    /// carried out. A restart of the warden reads again what is known.
    Unknown {
        /// What happened.
        why: String,
    },
    /// The request was not carried out and nothing was changed by it.
    Refused {
        /// A short code that programs may compare.
        code: String,
        /// Cause and remedy.
        why: String,
    },
}

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum DocumentAnswer {
    /// In force, and durable.
    Accepted {},
    /// It was in force before, or something newer is.
    Known {},
    /// Nothing was changed by it.
    Refused {
        /// A refusal code of `authz`.
        code: String,
        /// Cause and remedy.
        why: String,
    },
}

/// What the warden says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WardenStatus {
    /// Version of the warden.
    pub version: String,
    /// Present once enrolled.
    pub enrolled: Option<EnrolledStatus>,
    /// Entries in the audit log.
    pub log_size: u64,
    /// Why signed orders are refused at the moment, if they are (a damaged journal).
    pub closed: Option<String>,
}

/// An order or an unsigned step that the warden works on, or will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueEntry {
    /// The order; none of an unsigned step.
    pub op: Option<Sha256>,
    /// What it works on: `guest 101`, `storage local`.
    pub resources: Vec<String>,
    /// Since when, unix seconds.
    pub since: u64,
    /// Whether it has begun; else it waits.
    pub working: bool,
}

/// Identity and policy of an enrolled host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolledStatus {
    /// The host.
    pub host_id: HostId,
    /// Its key.
    pub host_key: Ed25519Key,
    /// Which of its keys.
    pub host_key_gen: u32,
    /// Version of the policy in force.
    pub policy_version: u64,
    /// Its hash.
    pub policy: Sha256,
}

/// A message as bytes for the socket.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, LocalError> {
    let json = serde_json::to_vec(message).map_err(LocalError::Malformed)?;
    if json.len() > MAX_FRAME {
        return Err(LocalError::TooLong(json.len()));
    }
    let mut frame =
        u32::try_from(json.len()).map_err(|_| LocalError::TooLong(json.len()))?.to_be_bytes().to_vec();
    frame.extend_from_slice(&json);
    Ok(frame)
}

/// Collects bytes from a socket and gives back whole messages. The length is checked before
/// anything is reserved for it.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    limit: usize,
}

impl Default for FrameBuffer {
    /// Takes messages of up to [`MAX_FRAME`] bytes.
    fn default() -> Self {
        Self::with_limit(MAX_FRAME)
    }
}

impl FrameBuffer {
    /// Takes messages of up to so many bytes, at most [`MAX_FRAME`].
    pub fn with_limit(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit: limit.min(MAX_FRAME) }
    }

    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether nothing waits, not even a part of a message.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next whole message, if there is one.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LocalError> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length > self.limit {
            return Err(LocalError::TooLong(length));
        }
        let Some(json) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(json).map_err(LocalError::Malformed)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_splitting() {
        let frame = encode(&WardenRequest::Receipts { first: 3, max: 9 }).unwrap();
        let twice = [frame.clone(), frame].concat();
        for size in 1..twice.len() {
            let mut buffer = FrameBuffer::default();
            let mut seen = 0;
            for chunk in twice.chunks(size) {
                buffer.push(chunk);
                while let Some(message) = buffer.take::<WardenRequest>().unwrap() {
                    assert_eq!(message, WardenRequest::Receipts { first: 3, max: 9 });
                    seen += 1;
                }
            }
            assert_eq!(seen, 2);
        }
    }

    #[test]
    fn hostile_lengths_and_bodies_are_errors() {
        let mut buffer = FrameBuffer::default();
        buffer.push(&[0xff; 8]);
        assert!(matches!(buffer.take::<WardenRequest>(), Err(LocalError::TooLong(4_294_967_295))));
        for (limit, length, good) in [(100, 100, true), (100, 101, false), (usize::MAX, MAX_FRAME + 1, false)]
        {
            let mut buffer = FrameBuffer::with_limit(limit);
            buffer.push(&u32::try_from(length).unwrap().to_be_bytes());
            assert_eq!(buffer.take::<WardenRequest>().is_ok(), good, "{length} of {limit}");
        }
        for body in ["", "{}", r#"{"ask":"sudo"}"#, r#"{"ask":"status","x":1}"#, "\u{0}"] {
            let mut buffer = FrameBuffer::default();
            buffer.push(&(body.len() as u32).to_be_bytes());
            buffer.push(body.as_bytes());
            assert!(matches!(buffer.take::<WardenRequest>(), Err(LocalError::Malformed(_))), "{body}");
        }
    }
}
