//! One connection's conversation with the hub, without the connection: what a frame means, what is
//! said in return, and what waits while nobody listens. Pure; [`crate::channel`] does the talking.
//!
//! The hub dispatches orders only after it saw where the host's log is, so the first thing after
//! Welcome is a batch of receipts, even an empty one.

mod results;

use std::collections::VecDeque;
use std::time::Duration;

use authz::{Outcome, Receipt};
use protocol::ask::Question;
use protocol::desired::DesiredState;
use protocol::frame::{AgentFrame, HubFrame, OLDEST, RECEIPTS_PER_FRAME, VERSION};
use protocol::plan::Plan;
use protocol::report::{HostReport, Known};
use protocol::text::printable;
use protocol::{Bytes, Envelope, Sha256, Signed, TunnelId};

use results::Results;

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
    /// An order ended with an entry in the log.
    Ended {
        /// The order.
        op: Sha256,
        /// Its script ran, so there is a result.
        ran: bool,
    },
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
    /// Have the warden judge this policy document.
    JudgePolicy(Envelope),
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
    /// Ask the warden which results of scripts wait.
    ListResults,
    /// Read one of them.
    ReadResult {
        /// The order.
        op: Sha256,
    },
    /// Tell the warden that the hub holds it.
    ForgetResult {
        /// The order.
        op: Sha256,
    },
    /// Have the warden open a session, and carry it.
    OpenTunnel {
        /// The hub's name for it.
        tunnel: TunnelId,
        /// The signed `session.open`.
        envelope: Envelope,
    },
    /// Ask the warden for an operator, and answer the hub.
    Ask {
        /// The hub's number for it.
        id: u64,
        /// The question.
        question: Question,
    },
    /// End a session.
    CloseTunnel {
        /// Which.
        tunnel: TunnelId,
        /// Why, in the hub's words, made printable.
        why: String,
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
    /// That batch was empty, and the hub has not answered to it.
    unanswered: bool,
    /// The log grew while a batch was on its way.
    more: bool,
    /// The last reading of the log failed.
    failed: bool,
    results: Results,
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
            unanswered: false,
            more: false,
            failed: false,
            results: Results::default(),
            seq: 0,
            plan: None,
            orders: VecDeque::new(),
            refused: None,
        }
    }
}

/// The warden stores a result before it says so in its log.
fn tells_of_result(entry: &Signed) -> bool {
    serde_json::from_slice::<Receipt>(&entry.payload.0).is_ok_and(|receipt| {
        receipt.order_outcome().is_some_and(|(_, outcome)| matches!(outcome, Outcome::Ran { .. }))
    })
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
            (Stage::Open, HubFrame::Policy { document }) => vec![Effect::JudgePolicy(document)],
            (Stage::Open, HubFrame::Order { envelope }) => vec![Effect::Relay(envelope)],
            (Stage::Open, HubFrame::ReportStored { seq }) if seq > self.seq => {
                vec![violation("it stored a report that was never sent")]
            }
            (Stage::Open, HubFrame::ReportStored { .. }) => Vec::new(),
            (Stage::Open, HubFrame::ReceiptsStored { held }) => self.on_stored(held),
            // It would cost the only copy.
            (Stage::Open, HubFrame::JobResultStored { op }) if !self.results.on_stored(op) => {
                vec![violation("it stored a result that was never sent")]
            }
            (Stage::Open, HubFrame::JobResultStored { .. }) => self.next_result(),
            (Stage::Open, HubFrame::TunnelOpen { tunnel, envelope }) => {
                vec![Effect::OpenTunnel { tunnel, envelope }]
            }
            (Stage::Open, HubFrame::TunnelClose { tunnel, why }) => {
                vec![Effect::CloseTunnel { tunnel, why: printable(&why) }]
            }
            (Stage::Open, HubFrame::Ask { id, question }) => vec![Effect::Ask { id, question }],
            (Stage::Greeting | Stage::Pending, _) => vec![violation("it sent something before Welcome")],
        }
    }

    fn on_welcome(&mut self, v: u32, receipts_held: u64) -> Vec<Effect> {
        // What both speak, in the hub's word; a hub that does not speak this agent's version says Bye.
        if !(OLDEST..=VERSION).contains(&v) {
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
        self.results.want();
        effects.extend(self.next_result());
        effects
    }

    fn read_log(&mut self) -> Option<Effect> {
        match self.sync {
            LogSync::Idle => {
                (self.more, self.failed) = (false, false);
                self.sync = LogSync::Reading;
                self.results.log_reading();
                Some(Effect::ReadLog { first: self.held })
            }
            LogSync::Reading | LogSync::AwaitingStored => {
                self.more = true;
                None
            }
        }
    }

    /// The warden answered [`Effect::ReadLog`].
    pub fn on_log(
        &mut self,
        first: u64,
        receipts: Vec<Signed>,
        checkpoint: Option<protocol::Note>,
    ) -> Vec<Effect> {
        self.sync = LogSync::Idle;
        if first != self.held || receipts.len() > RECEIPTS_PER_FRAME {
            // Not what was asked for: nothing of it may reach the hub.
            return self.on_log_failed();
        }
        let empty = receipts.is_empty();
        if receipts.len() < RECEIPTS_PER_FRAME {
            self.results.log_at_end();
        }
        if receipts.iter().any(tells_of_result) {
            // Whoever handed that script over may be gone, and nobody else says that it has ended.
            self.results.want();
        }
        let mut effects = Vec::new();
        if !empty || !self.announced {
            self.announced = true;
            self.unanswered |= empty;
            effects.push(Effect::Send(AgentFrame::Receipts { first, receipts, checkpoint }));
        }
        if !empty {
            self.sync = LogSync::AwaitingStored;
        } else if self.more {
            effects.extend(self.read_log());
        }
        effects.extend(self.next_result());
        effects
    }

    /// The warden did not answer [`Effect::ReadLog`]; the next tick tries again.
    pub fn on_log_failed(&mut self) -> Vec<Effect> {
        self.sync = LogSync::Idle;
        self.failed = true;
        Vec::new()
    }

    fn next_result(&mut self) -> Vec<Effect> {
        self.results.next().into_iter().collect()
    }

    /// The warden answered [`Effect::ListResults`].
    pub fn on_results(&mut self, ops: Vec<Sha256>) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.results.on_list(ops) {
            // Their receipts first.
            effects.extend(self.read_log());
        }
        effects.extend(self.next_result());
        effects
    }

    /// The warden answered [`Effect::ReadResult`].
    pub fn on_result(&mut self, op: Sha256, sealed: Bytes) -> Vec<Effect> {
        self.results.on_read(op);
        let mut effects = vec![Effect::Send(AgentFrame::JobResult { op, sealed })];
        effects.extend(self.next_result());
        effects
    }

    /// The warden answered [`Effect::ForgetResult`], or said that it cannot give what
    /// [`Effect::ReadResult`] asked for; that one is not asked for again on this connection.
    pub fn on_result_done(&mut self) -> Vec<Effect> {
        self.results.on_answer();
        self.next_result()
    }

    /// The warden did not answer [`Effect::ListResults`] or [`Effect::ReadResult`]; the next tick
    /// begins again.
    pub fn on_results_failed(&mut self) -> Vec<Effect> {
        self.results.on_failed();
        Vec::new()
    }

    /// The warden did not answer [`Effect::ForgetResult`]; the next tick tells it again.
    pub fn on_not_forgotten(&mut self, op: Sha256) -> Vec<Effect> {
        self.results.on_not_forgotten(op);
        Vec::new()
    }

    /// News of a tunnel of this connection. Its beginning and its end are in the log, too.
    pub fn on_tunnel(&mut self, frame: AgentFrame) -> Vec<Effect> {
        let mut effects = vec![Effect::Send(frame)];
        effects.extend(self.read_log());
        effects
    }

    fn on_stored(&mut self, held: u64) -> Vec<Effect> {
        let of_empty = std::mem::take(&mut self.unanswered) && held <= self.held;
        if of_empty || self.sync != LogSync::AwaitingStored {
            // The answer to an empty batch, after which one with entries may have been sent.
            return Vec::new();
        }
        self.sync = LogSync::Idle;
        if held <= self.held {
            return vec![violation("it does not keep the receipts it is sent")];
        }
        self.held = held;
        self.read_log().into_iter().collect()
    }

    /// Every heartbeat's time, and every report's.
    pub fn on_tick(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.is_open() {
            if self.failed {
                effects.extend(self.read_log());
            }
            self.results.on_tick();
            effects.extend(self.next_result());
        }
        effects
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
                    self.results.want();
                }
                // With a short interval no heartbeat is ever due.
                effects.extend(self.on_tick());
                effects
            }
            Note::Plan { plan, problem } => vec![self.send_plan(plan, problem)],
            Note::Order(frame) => vec![Effect::Send(frame)],
            Note::LogGrew => self.read_log().into_iter().collect(),
            Note::Ended { op, ran } => {
                if ran {
                    self.results.add(op);
                } else {
                    self.results.want();
                }
                let mut effects: Vec<Effect> = self.read_log().into_iter().collect();
                effects.extend(self.next_result());
                effects
            }
        }
    }

    /// What makes sense later is kept: the latest plan, and news of orders. A report is collected
    /// afresh at Welcome, Welcome says where the hub's copy of the log ends, and the warden is asked
    /// for results then.
    fn keep(&mut self, note: Note) {
        match note {
            Note::Report(_) | Note::LogGrew | Note::Ended { .. } => {}
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
            // Said again after the next Welcome.
            | AgentFrame::Policy { .. }
            // The warden has it still.
            | AgentFrame::JobResult { .. }
            // A tunnel ends with its connection.
            | AgentFrame::TunnelReady { .. }
            | AgentFrame::TunnelError { .. }
            | AgentFrame::TunnelClose { .. }
            // Nobody waits for it after the channel.
            | AgentFrame::Answer { .. }
            | AgentFrame::Heartbeat {} => {}
        }
    }
}

#[cfg(test)]
mod tests;
