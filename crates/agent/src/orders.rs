//! Relaying signed orders: from the hub to the warden, one after the other, each handed over at
//! most once. The agent neither judges an order nor learns enough to repeat one; a lost answer
//! becomes [`AgentFrame::OrderTrouble`], and the truth is in the warden's log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use authz::Receipt;
use protocol::frame::{AgentFrame, OrderProgress, OrderState};
use protocol::local::WardenRequest;
use protocol::{Envelope, Sha256, Signed, Vmid};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};

use crate::sentence;
use crate::session::Note;
use crate::warden::{Said, Warden, WardenError};

/// Orders that may wait for the one before them.
pub const QUEUE: usize = 64;

/// Orders that wait or run, and the guests that they are about, as they say themselves: good
/// enough for leaving these guests alone, and for nothing else.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<BTreeMap<Sha256, Option<Vmid>>>);

impl InFlight {
    /// The guests.
    pub fn guests(&self) -> BTreeSet<Vmid> {
        self.lock().values().copied().flatten().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Sha256, Option<Vmid>>> {
        // The map is whole between any two statements under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the channel hands orders in.
#[derive(Debug, Clone)]
pub struct OrderDesk {
    queue: mpsc::Sender<Envelope>,
    in_flight: Arc<InFlight>,
}

impl OrderDesk {
    /// Queues an order. Gives back a frame for the hub if that is not possible; an order that is
    /// waiting or running already needs nothing.
    pub fn submit(&self, envelope: Envelope) -> Option<AgentFrame> {
        let op = envelope.id();
        {
            let mut known = self.in_flight.lock();
            if known.contains_key(&op) {
                return None;
            }
            known.insert(op, guest_of(&envelope));
        }
        if self.queue.try_send(envelope).is_ok() {
            return None;
        }
        self.in_flight.lock().remove(&op);
        let problem = format!(
            "{QUEUE} orders wait on this host already, so this one was not taken: submit it again later"
        );
        Some(AgentFrame::OrderTrouble { op, problem })
    }
}

#[derive(Deserialize)]
struct Mentions {
    guest: MentionedGuest,
}

#[derive(Deserialize)]
struct MentionedGuest {
    vmid: Vmid,
}

fn guest_of(envelope: &Envelope) -> Option<Vmid> {
    serde_json::from_slice::<Mentions>(&envelope.payload.0).ok().map(|order| order.guest.vmid)
}

/// Carries queued orders to the warden.
#[derive(Debug)]
pub struct OrderClerk {
    queue: mpsc::Receiver<Envelope>,
    in_flight: Arc<InFlight>,
    warden: Warden,
    notes: mpsc::Sender<Note>,
    kick: Arc<Notify>,
}

/// The two ends of the queue. `kick` wakes the reconciler after every order.
pub fn desk(
    warden: Warden,
    notes: mpsc::Sender<Note>,
    kick: Arc<Notify>,
    in_flight: Arc<InFlight>,
) -> (OrderDesk, OrderClerk) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let desk = OrderDesk { queue: sender, in_flight: in_flight.clone() };
    (desk, OrderClerk { queue, in_flight, warden, notes, kick })
}

impl OrderClerk {
    /// Works until nobody can hand orders in any more.
    pub async fn run(mut self) {
        while let Some(envelope) = self.queue.recv().await {
            let op = envelope.id();
            tracing::info!(%op, "order handed to the warden");
            let note = self.relay(op, envelope).await;
            self.in_flight.lock().remove(&op);
            self.note(note).await;
            self.kick.notify_one();
        }
    }

    async fn note(&self, note: Note) {
        // Only fails when the agent is stopping; the log has the receipt.
        let _ = self.notes.send(note).await;
    }

    async fn relay(&self, op: Sha256, envelope: Envelope) -> Note {
        let request = WardenRequest::Order { envelope };
        match self.follow(op, &request).await {
            Ok(receipt) => ended(op, receipt),
            Err(error) => {
                let problem = trouble(&error);
                tracing::warn!(%op, problem, "order trouble");
                Note::Order(AgentFrame::OrderTrouble { op, problem })
            }
        }
    }

    async fn follow(&self, op: Sha256, request: &WardenRequest) -> Result<Signed, WardenError> {
        let mut performing = self.warden.perform(request).await?;
        loop {
            match performing.next().await? {
                Said::Receipt(receipt) => return Ok(receipt),
                Said::Progress(state) => {
                    let committed = state == OrderState::Committed;
                    self.note(Note::Order(AgentFrame::Progress(OrderProgress { op, state }))).await;
                    if committed {
                        self.note(Note::LogGrew).await;
                    }
                }
            }
        }
    }
}

/// A receipt with a place is in the log and goes up with it; one without goes up by itself.
fn ended(op: Sha256, receipt: Signed) -> Note {
    match serde_json::from_slice::<Receipt>(&receipt.payload.0) {
        Ok(Receipt { entry: Some(_), .. }) => Note::LogGrew,
        Ok(Receipt { entry: None, .. }) => Note::Order(AgentFrame::Refusal { op, receipt }),
        Err(_) => Note::Order(AgentFrame::OrderTrouble {
            op,
            problem: "the warden answered with a receipt that cannot be read: are agent and warden of the same version? Its log says what happened".to_owned(),
        }),
    }
}

fn trouble(error: &WardenError) -> String {
    let what = sentence(error);
    match error {
        // It says all of it already.
        WardenError::Unknown { .. } => format!("{what}. The order will not be handed over again."),
        _ if error.nothing_happened() => format!("{what}. The order was not carried out."),
        _ => format!(
            "{what}. It is not known whether the order was carried out; it will not be handed over again. Wait for its receipt, or look at the guest."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_of_an_order_is_only_a_hint() {
        let of =
            |payload: &str| guest_of(&Envelope::new(payload.as_bytes().to_vec().into(), vec![]));
        assert_eq!(of(r#"{"v":1,"guest":{"vmid":101,"type":"qemu"},"x":2}"#).map(Vmid::get), Some(101));
        for bad in ["", "[]", "{}", r#"{"guest":{"vmid":1}}"#, r#"{"guest":{"vmid":-5}}"#, "\u{0}"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_full_desk_says_so_and_duplicates_are_dropped() {
        let (notes, _keep) = mpsc::channel(1);
        let warden = Warden::new(std::path::Path::new("/nonexistent"));
        let (desk, _clerk) = desk(warden, notes, Arc::default(), Arc::default());
        let order = |n: u8| Envelope::new(vec![n].into(), vec![]);
        for n in 0..64 {
            assert_eq!(desk.submit(order(n)), None);
        }
        assert_eq!(desk.submit(order(3)), None, "waits already");
        let refused = desk.submit(order(64));
        assert!(
            matches!(&refused, Some(AgentFrame::OrderTrouble { op, problem })
                if *op == order(64).id() && problem.contains("64 orders")),
            "{refused:?}"
        );
        assert!(desk.submit(order(64)).is_some(), "and it was not remembered as waiting");
    }
}
