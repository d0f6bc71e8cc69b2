//! Relaying signed orders from the hub to the warden, several at once, each handed over at most
//! once. The agent neither judges an order nor learns enough to repeat one; a lost answer becomes
//! [`AgentFrame::OrderTrouble`], and the truth is in the warden's log.
//!
//! Orders about one guest go one after the other, in the order in which they came; others do not wait
//! for them. A script may run for hours, so what is about no guest has places of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use authz::{Event, Outcome, Receipt};
use protocol::frame::{AgentFrame, OrderProgress, OrderState};
use protocol::local::WardenRequest;
use protocol::{Envelope, Sha256, Signed, Vmid};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::sentence;
use crate::session::Note;
use crate::warden::{Said, Warden, WardenError};

/// Orders that may wait for others.
pub const QUEUE: usize = 64;
/// Orders about guests that are in the warden's hands at once, and as many about no guest.
pub const AT_ONCE: usize = 16;

/// Orders that wait or run, and the guests that they are about, as they say themselves: good
/// enough for leaving these guests alone and for not crossing their orders, and for nothing else.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<BTreeMap<Sha256, Entry>>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    guest: Option<Vmid>,
    running: bool,
}

/// An order and what it is called.
type Waiting = (Sha256, Envelope);

impl InFlight {
    /// The guests.
    pub fn guests(&self) -> BTreeSet<Vmid> {
        self.lock().values().filter_map(|entry| entry.guest).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Sha256, Entry>> {
        // The map is whole between any two statements under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the first of the waiting orders that may start, and takes it out.
    fn start(&self, waiting: &mut VecDeque<Waiting>) -> Option<Waiting> {
        let mut known = self.lock();
        let (mut busy, mut about_guests, mut others) = (BTreeSet::new(), 0, 0);
        for entry in known.values().filter(|entry| entry.running) {
            match entry.guest {
                Some(guest) => {
                    busy.insert(guest);
                    about_guests += 1;
                }
                None => others += 1,
            }
        }
        for (place, (op, _)) in waiting.iter().enumerate() {
            let Some(entry) = known.get_mut(op) else { continue };
            let free = match entry.guest {
                // Later orders about this guest stay behind this one, whether it starts or not.
                Some(guest) => busy.insert(guest) && about_guests < AT_ONCE,
                None => others < AT_ONCE,
            };
            if free {
                entry.running = true;
                return waiting.remove(place);
            }
        }
        None
    }
}

/// Where the channel hands orders in.
#[derive(Debug, Clone)]
pub struct OrderDesk {
    queue: mpsc::Sender<Waiting>,
    in_flight: Arc<InFlight>,
}

impl OrderDesk {
    /// Queues an order. Gives back a frame for the hub if that is not possible, or if it waits for another one
    /// about its guest; an order that is waiting or running already needs nothing.
    pub fn submit(&self, envelope: Envelope) -> Option<AgentFrame> {
        let op = envelope.id();
        {
            let mut known = self.in_flight.lock();
            if known.contains_key(&op) {
                return None;
            }
            if known.values().filter(|entry| !entry.running).count() < QUEUE {
                let guest = guest_of(&envelope);
                let waits = guest.is_some() && known.values().any(|entry| entry.guest == guest);
                known.insert(op, Entry { guest, running: false });
                // There is room for every order that waits.
                if self.queue.try_send((op, envelope)).is_ok() {
                    let queued = OrderProgress { op, state: OrderState::Queued };
                    return waits.then_some(AgentFrame::Progress(queued));
                }
                known.remove(&op);
            }
        }
        let problem = format!(
            "{QUEUE} orders wait on this host already, so this one was not taken: submit it again later"
        );
        Some(AgentFrame::OrderTrouble { op, problem })
    }
}

#[derive(Deserialize)]
struct Mentions {
    guest: Option<MentionedGuest>,
}

#[derive(Deserialize)]
struct MentionedGuest {
    vmid: Vmid,
}

fn guest_of(envelope: &Envelope) -> Option<Vmid> {
    let order: Mentions = serde_json::from_slice(&envelope.payload.0).ok()?;
    Some(order.guest?.vmid)
}

/// Carries queued orders to the warden.
#[derive(Debug)]
pub struct OrderClerk {
    queue: mpsc::Receiver<Waiting>,
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
    /// Works until nobody can hand orders in any more and the last one has ended. What is in the
    /// warden's hands when this is dropped stays there.
    pub async fn run(mut self) {
        let mut waiting = VecDeque::new();
        let mut running = JoinSet::new();
        let mut open = true;
        loop {
            while let Some((op, envelope)) = self.in_flight.start(&mut waiting) {
                let errand = Errand { warden: self.warden.clone(), notes: self.notes.clone() };
                running.spawn(async move { (op, errand.relay(op, envelope).await) });
            }
            tokio::select! {
                submitted = self.queue.recv(), if open => match submitted {
                    Some(order) => waiting.push_back(order),
                    None => open = false,
                },
                Some(ended) = running.join_next() => match ended {
                    Ok((op, note)) => {
                        self.in_flight.lock().remove(&op);
                        // Only fails when the agent is stopping; the log has the receipt.
                        let _ = self.notes.send(note).await;
                        self.kick.notify_one();
                    }
                    // A fault of the program: the agent ends and is started again.
                    Err(_) => return,
                },
                else => return,
            }
        }
    }
}

/// One order on its way.
struct Errand {
    warden: Warden,
    notes: mpsc::Sender<Note>,
}

impl Errand {
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
        tracing::info!(%op, "order handed to the warden");
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
        Ok(Receipt { entry: Some(_), event, .. }) => {
            let ran = matches!(event, Event::Order { outcome: Outcome::Ran { .. }, .. });
            Note::Ended { op, ran }
        }
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

    fn order(payload: &str) -> Envelope {
        Envelope::new(payload.as_bytes().to_vec().into(), vec![])
    }

    /// The `n`th order about a guest, or about none.
    fn about(guest: Option<u32>, n: usize) -> Envelope {
        match guest {
            Some(vmid) => order(&format!(r#"{{"n":{n},"guest":{{"vmid":{vmid}}}}}"#)),
            None => order(&format!(r#"{{"n":{n},"guest":null}}"#)),
        }
    }

    #[test]
    fn the_guest_of_an_order_is_only_a_hint() {
        let of = |payload: &str| guest_of(&order(payload));
        assert_eq!(of(r#"{"v":1,"guest":{"vmid":101,"type":"qemu"},"x":2}"#).map(Vmid::get), Some(101));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"guest":null}"#,
            r#"{"guest":{"vmid":1}}"#,
            r#"{"guest":{"vmid":-5}}"#,
            "\u{0}",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_full_desk_says_so_and_duplicates_are_dropped() {
        let (notes, _keep) = mpsc::channel(1);
        let warden = Warden::new(std::path::Path::new("/nonexistent"));
        let in_flight: Arc<InFlight> = Arc::default();
        let (desk, mut clerk) = desk(warden, notes, Arc::default(), in_flight.clone());
        let order = |n: usize| about(None, n);
        for n in 0..64 {
            assert_eq!(desk.submit(order(n)), None);
        }
        assert_eq!(desk.submit(order(3)), None, "waits already");
        let refused = desk.submit(order(64));
        assert!(
            matches!(&refused, Some(AgentFrame::OrderTrouble { op, problem })
                if *op == order(64).id() && problem.contains("64 orders wait")),
            "{refused:?}"
        );
        assert!(desk.submit(order(64)).is_some(), "and it was not remembered as waiting");
        // What runs does not wait.
        let mut waiting = VecDeque::from([clerk.queue.try_recv().unwrap()]);
        assert_eq!(in_flight.start(&mut waiting), Some((order(0).id(), order(0))));
        assert_eq!(desk.submit(order(0)), None, "runs already");
        assert_eq!(desk.submit(order(64)), None);
    }

    #[test]
    fn an_order_that_waits_for_another_one_about_its_guest_says_so() {
        let (queue, _taken) = mpsc::channel(QUEUE);
        let desk = OrderDesk { queue, in_flight: Arc::default() };
        let [first, other, second, again] =
            [(101, 0), (102, 1), (101, 2), (101, 2)].map(|(vmid, n)| about(Some(vmid), n));
        assert_eq!(desk.submit(first), None);
        assert_eq!(desk.submit(other), None);
        let queued = OrderProgress { op: second.id(), state: OrderState::Queued };
        assert_eq!(desk.submit(second), Some(AgentFrame::Progress(queued)));
        assert_eq!(desk.submit(again), None, "waits already");
    }

    #[test]
    fn orders_about_one_guest_keep_their_order_and_hold_up_nothing_else() {
        let in_flight = InFlight::default();
        let mut waiting = VecDeque::new();
        let submit = |waiting: &mut VecDeque<Waiting>, envelope: &Envelope| {
            let entry = Entry { guest: guest_of(envelope), running: false };
            in_flight.lock().insert(envelope.id(), entry);
            waiting.push_back((envelope.id(), envelope.clone()));
        };
        let all: Vec<Envelope> = [Some(101), Some(101), None, Some(102)]
            .into_iter()
            .enumerate()
            .map(|(n, g)| about(g, n))
            .collect();
        for envelope in &all {
            submit(&mut waiting, envelope);
        }
        for n in [0, 2, 3] {
            assert_eq!(in_flight.start(&mut waiting).map(|(_, envelope)| envelope).as_ref(), Some(&all[n]));
        }
        assert_eq!(in_flight.start(&mut waiting), None, "101 is busy");
        in_flight.lock().remove(&all[0].id());
        assert_eq!(in_flight.start(&mut waiting).map(|(op, _)| op), Some(all[1].id()));
        // Scripts fill their places only.
        for n in 10..30 {
            submit(&mut waiting, &about(None, n));
        }
        let mut started = 0;
        while in_flight.start(&mut waiting).is_some() {
            started += 1;
        }
        assert_eq!((started, waiting.len()), (AT_ONCE - 1, 5));
        let other = about(Some(103), 31);
        submit(&mut waiting, &other);
        assert_eq!(in_flight.start(&mut waiting), Some((other.id(), other)));
        assert_eq!(in_flight.guests().into_iter().map(Vmid::get).collect::<Vec<_>>(), [101, 102, 103]);
    }
}
