//! One connection's conversation with the hub, without the connection: what a frame means, what is
//! said in return, and what waits while nobody listens. Pure; [`crate::channel`] does the talking.
//!
//! The hub dispatches orders only after it saw where the host's log is, so the first thing after
//! Welcome is a batch of receipts, even an empty one.

use std::collections::VecDeque;
use std::time::Duration;

use protocol::desired::DesiredState;
use protocol::frame::{AgentFrame, HubFrame, RECEIPTS_PER_FRAME, VERSION};
use protocol::plan::Plan;
use protocol::report::{HostReport, Known};
use protocol::text::printable;
use protocol::{Envelope, Signed};

/// Most order frames kept while there is no channel.
const BACKLOG: usize = 256;

/// News from the other parts of the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// A fresh report.
    Report(Box<HostReport>),
    /// A round's plan.
    Plan {
        /// The plan.
        plan: Plan,
        /// What went wrong.
        problem: Option<String>,
    },
    /// About an order: progress, refusal, trouble.
    Order(AgentFrame),
    /// The warden's log has new entries.
    LogGrew,
}

/// What the connection is to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send this frame.
    Send(AgentFrame),
    /// The host is enrolled and its channel open; collect a report now.
    Opened,
    /// Hand the order to the warden.
    Relay(Envelope),
    /// Decide about this desired state.
    Adopt {
        /// Its number.
        generation: u64,
        /// Its content.
        state: DesiredState,
    },
    /// Read log entries from this place on, at most [`RECEIPTS_PER_FRAME`].
    ReadLog {
        /// Place.
        first: u64,
    },
    /// End the connection.
    Close {
        /// Why, for the log.
        why: String,
        /// Not before.
        retry_after: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing came yet.
    Greeting,
    /// Nobody approved the host yet.
    Pending,
    /// Welcome.
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogSync {
    Idle,
    Reading,
    AwaitingStored,
}

/// The conversation. Lives as long as the agent; [`Session::begin`] starts each connection.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    held: u64,
    sync: LogSync,
    /// The hub saw a batch of receipts on this connection.
    announced: bool,
    /// The log grew while a batch was on its way.
    more: bool,
    /// The last reading of the log failed.
    failed: bool,
    seq: u64,
    plan: Option<(Plan, Option<String>)>,
    orders: VecDeque<AgentFrame>,
    /// Why the last desired state that was delivered is not in force. Goes with every plan, because
    /// the hub shows the last plan's problem only.
    refused: Option<String>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            stage: Stage::Greeting,
            held: 0,
            sync: LogSync::Idle,
            announced: false,
            more: false,
            failed: false,
            seq: 0,
            plan: None,
            orders: VecDeque::new(),
            refused: None,
        }
    }
}

fn violation(why: &str) -> Effect {
    Effect::Close { why: format!("the hub broke the protocol: {why}"), retry_after: Duration::ZERO }
}

impl Session {
    /// A new connection: everything about the last one is forgotten, what waits is kept.
    pub fn begin(&mut self) {
        *self = Self {
            plan: self.plan.take(),
            orders: std::mem::take(&mut self.orders),
            refused: self.refused.take(),
            ..Self::default()
        };
    }

    /// Whether the hub has welcomed this connection.
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// A frame came.
    pub fn on_frame(&mut self, frame: HubFrame) -> Vec<Effect> {
        match (self.stage, frame) {
            (_, HubFrame::Bye { why, retry_after_s }) => vec![Effect::Close {
                why: format!("the hub ends the channel: {}", printable(&why)),
                // A hostile number must not put the host to sleep for ever.
                retry_after: Duration::from_secs(retry_after_s.min(3600)),
            }],
            (_, HubFrame::Heartbeat {}) => Vec::new(),
            (Stage::Open, HubFrame::Welcome { .. } | HubFrame::Pending {}) => {
                vec![violation("a second Welcome")]
            }
            (_, HubFrame::Welcome { v, receipts_held }) => self.on_welcome(v, receipts_held),
            (_, HubFrame::Pending {}) => {
                self.stage = Stage::Pending;
                Vec::new()
            }
            (Stage::Open, HubFrame::Desired { generation, state }) => {
                vec![Effect::Adopt { generation, state }]
            }
            (Stage::Open, HubFrame::Order { envelope }) => vec![Effect::Relay(envelope)],
            (Stage::Open, HubFrame::ReportStored { seq }) if seq > self.seq => {
                vec![violation("it stored a report that was never sent")]
            }
            (Stage::Open, HubFrame::ReportStored { .. }) => Vec::new(),
            (Stage::Open, HubFrame::ReceiptsStored { held }) => self.on_stored(held),
            (Stage::Greeting | Stage::Pending, _) => vec![violation("it sent something before Welcome")],
        }
    }

    fn on_welcome(&mut self, v: u32, receipts_held: u64) -> Vec<Effect> {
        if v != VERSION {
            let why = format!(
                "the hub speaks version {v} of the protocol, this agent {VERSION}: update the older one"
            );
            return vec![Effect::Close { why, retry_after: Duration::from_secs(60) }];
        }
        self.stage = Stage::Open;
        self.held = receipts_held;
        let mut effects = vec![Effect::Opened];
        effects.extend(self.orders.drain(..).map(Effect::Send));
        if let Some((plan, problem)) = self.plan.take() {
            effects.push(self.send_plan(plan, problem));
        }
        effects.extend(self.read_log());
        effects
    }

    fn read_log(&mut self) -> Option<Effect> {
        match self.sync {
            LogSync::Idle => {
                (self.more, self.failed) = (false, false);
                self.sync = LogSync::Reading;
                Some(Effect::ReadLog { first: self.held })
            }
            LogSync::Reading | LogSync::AwaitingStored => {
                self.more = true;
                None
            }
        }
    }

    /// The warden answered [`Effect::ReadLog`].
    pub fn on_log(&mut self, first: u64, receipts: Vec<Signed>) -> Vec<Effect> {
        self.sync = LogSync::Idle;
        if first != self.held || receipts.len() > RECEIPTS_PER_FRAME {
            // Not what was asked for: nothing of it may reach the hub.
            return self.on_log_failed();
        }
        let empty = receipts.is_empty();
        let mut effects = Vec::new();
        if !empty || !self.announced {
            self.announced = true;
            effects.push(Effect::Send(AgentFrame::Receipts { first, receipts }));
        }
        if !empty {
            self.sync = LogSync::AwaitingStored;
        } else if self.more {
            effects.extend(self.read_log());
        }
        effects
    }

    /// The warden did not answer [`Effect::ReadLog`]; the next tick tries again.
    pub fn on_log_failed(&mut self) -> Vec<Effect> {
        self.sync = LogSync::Idle;
        self.failed = true;
        Vec::new()
    }

    fn on_stored(&mut self, held: u64) -> Vec<Effect> {
        if self.sync != LogSync::AwaitingStored {
            // The answer to an empty batch.
            return Vec::new();
        }
        self.sync = LogSync::Idle;
        if held <= self.held {
            return vec![violation("it does not keep the receipts it is sent")];
        }
        self.held = held;
        self.read_log().into_iter().collect()
    }

    /// Every heartbeat's time.
    pub fn on_tick(&mut self) -> Vec<Effect> {
        if self.is_open() && self.failed { self.read_log().into_iter().collect() } else { Vec::new() }
    }

    /// What became of a delivered desired state: nothing to tell, or why it is not in force.
    pub fn on_adopted(&mut self, refused: Option<String>) {
        self.refused = refused;
    }

    fn send_plan(&self, plan: Plan, problem: Option<String>) -> Effect {
        let problem = match (&self.refused, problem) {
            (None, problem) => problem,
            (Some(refused), None) => Some(refused.clone()),
            // A plan that could not be sent carries it already.
            (Some(refused), Some(problem)) if problem.contains(refused.as_str()) => Some(problem),
            (Some(refused), Some(problem)) => Some(format!("{refused}; {problem}")),
        };
        Effect::Send(AgentFrame::Plan { plan, problem })
    }

    /// News from another part of the agent.
    pub fn on_note(&mut self, note: Note) -> Vec<Effect> {
        if !self.is_open() {
            self.keep(note);
            return Vec::new();
        }
        match note {
            Note::Report(report) => {
                self.seq += 1;
                // Entries that nobody announced: a warden that was started again ended what a
                // crash interrupted, or an order outlived the agent that had handed it over.
                let behind = matches!(&report.warden, Known::Known(warden) if warden.log_size > self.held);
                let mut effects = vec![Effect::Send(AgentFrame::Report { seq: self.seq, report })];
                if behind {
                    effects.extend(self.read_log());
                }
                effects
            }
            Note::Plan { plan, problem } => vec![self.send_plan(plan, problem)],
            Note::Order(frame) => vec![Effect::Send(frame)],
            Note::LogGrew => self.read_log().into_iter().collect(),
        }
    }

    /// What makes sense later is kept: the latest plan, and news of orders. A report is collected
    /// afresh at Welcome, and Welcome says where the hub's copy of the log ends.
    fn keep(&mut self, note: Note) {
        match note {
            Note::Report(_) | Note::LogGrew => {}
            Note::Plan { plan, problem } => self.plan = Some((plan, problem)),
            Note::Order(frame) => {
                if self.orders.len() == BACKLOG {
                    self.orders.pop_front();
                }
                self.orders.push_back(frame);
            }
        }
    }

    /// A frame could not be sent after all.
    pub fn not_sent(&mut self, frame: AgentFrame) {
        match frame {
            AgentFrame::Refusal { .. } | AgentFrame::OrderTrouble { .. } => self.keep(Note::Order(frame)),
            AgentFrame::Plan { plan, problem } if self.plan.is_none() => self.plan = Some((plan, problem)),
            AgentFrame::Plan { .. }
            | AgentFrame::Hello { .. }
            | AgentFrame::Report { .. }
            | AgentFrame::DesiredRefused { .. }
            | AgentFrame::Progress(_)
            | AgentFrame::Receipts { .. }
            | AgentFrame::Heartbeat {} => {}
        }
    }
}

#[cfg(test)]
mod tests;
