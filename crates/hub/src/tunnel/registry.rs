//! The open tunnels by name, for requests and frames that are about one of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::text::SafeText;
use protocol::{HostId, HostName, Sha256, TunnelId};
use tokio::sync::{oneshot, watch};

use super::relay::Counts;
use super::{Dialed, HostAnswer};
use crate::store::Relayed;

/// Where a frame came from. A tunnel is touched only by the channel on which it was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) host_id: HostId,
    pub(crate) channel: u64,
}

/// Why a data connection finds no tunnel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// No open one, or another's.
    Unknown,
    /// This end has its connection.
    Taken,
}

/// Who a tunnel is for and where it leads.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) id: TunnelId,
    pub(super) op: Sha256,
    pub(super) operator: HostName,
    pub(super) origin: Origin,
}

/// An open tunnel as others see it. What may happen once is a sender that is taken out.
#[derive(Debug)]
struct Entry {
    about: About,
    answer: Option<oneshot::Sender<HostAnswer>>,
    operator: Option<oneshot::Sender<Dialed>>,
    host: Option<oneshot::Sender<Dialed>>,
    said_by_host: watch::Sender<Option<SafeText>>,
    closed_by: watch::Sender<Option<HostName>>,
    counts: Arc<Counts>,
    closed: watch::Receiver<bool>,
}

/// A tunnel's entry from the side of its keeper. The entry goes when this is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    tunnels: Tunnels,
    pub(super) about: About,
    pub(super) answer: oneshot::Receiver<HostAnswer>,
    pub(super) operator: oneshot::Receiver<Dialed>,
    pub(super) host: oneshot::Receiver<Dialed>,
    pub(super) said_by_host: watch::Receiver<Option<SafeText>>,
    pub(super) closed_by: watch::Receiver<Option<HostName>>,
    pub(super) counts: Arc<Counts>,
    /// Set when the tunnel's row is closed.
    pub(super) closed: watch::Sender<bool>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.tunnels.lock().remove(&self.about.id);
    }
}

/// All open tunnels; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tunnels {
    open: Arc<Mutex<BTreeMap<TunnelId, Entry>>>,
}

impl Tunnels {
    /// A panic elsewhere leaves the map whole: every change is one call.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TunnelId, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a tunnel known under its name, which is new.
    pub(super) fn add(&self, about: About) -> Kept {
        let (answer_sender, answer) = oneshot::channel();
        let (operator_sender, operator) = oneshot::channel();
        let (host_sender, host) = oneshot::channel();
        let (said_sender, said_by_host) = watch::channel(None);
        let (closed_by_sender, closed_by) = watch::channel(None);
        let (closed, closed_receiver) = watch::channel(false);
        let counts = Arc::<Counts>::default();
        let entry = Entry {
            about: about.clone(),
            answer: Some(answer_sender),
            operator: Some(operator_sender),
            host: Some(host_sender),
            said_by_host: said_sender,
            closed_by: closed_by_sender,
            counts: counts.clone(),
            closed: closed_receiver,
        };
        self.lock().insert(about.id, entry);
        Kept { tunnels: self.clone(), about, answer, operator, host, said_by_host, closed_by, counts, closed }
    }

    /// The order of a tunnel of this channel.
    pub(crate) fn order(&self, id: &TunnelId, origin: Origin) -> Option<Sha256> {
        self.lock().get(id).filter(|entry| entry.is_of(origin)).map(|entry| entry.about.op)
    }

    /// The host's answer; false when there is no such tunnel of this channel, or it has answered.
    pub(crate) fn answer(&self, id: &TunnelId, origin: Origin, answer: HostAnswer) -> bool {
        let mut open = self.lock();
        let entry = open.get_mut(id).filter(|entry| entry.is_of(origin));
        entry.and_then(|entry| entry.answer.take()).is_some_and(|sender| sender.send(answer).is_ok())
    }

    /// The host's end is over; false as for [`Self::answer`].
    pub(crate) fn closed_by_host(&self, id: &TunnelId, origin: Origin, why: SafeText) -> bool {
        let open = self.lock();
        let entry = open.get(id).filter(|entry| entry.is_of(origin));
        entry.is_some_and(|entry| set_once(&entry.said_by_host, why))
    }

    /// The operator's data connection.
    pub(crate) fn connect_operator(
        &self,
        id: &TunnelId,
        operator: &HostName,
        dialed: Dialed,
    ) -> Result<(), ConnectError> {
        let mut open = self.lock();
        let entry = open.get_mut(id).filter(|entry| entry.about.operator == *operator);
        connect(entry.map(|entry| &mut entry.operator), dialed)
    }

    /// The host's data connection.
    pub(crate) fn connect_host(
        &self,
        id: &TunnelId,
        host_id: &HostId,
        dialed: Dialed,
    ) -> Result<(), ConnectError> {
        let mut open = self.lock();
        let entry = open.get_mut(id).filter(|entry| entry.about.origin.host_id == *host_id);
        connect(entry.map(|entry| &mut entry.host), dialed)
    }

    /// Whether the operator has this tunnel open.
    pub(crate) fn is_operators(&self, id: &TunnelId, operator: &HostName) -> bool {
        self.lock().get(id).is_some_and(|entry| entry.about.operator == *operator)
    }

    /// Whether the host has this tunnel open.
    pub(crate) fn is_hosts(&self, id: &TunnelId, host_id: &HostId) -> bool {
        self.lock().get(id).is_some_and(|entry| entry.about.origin.host_id == *host_id)
    }

    /// Asks for a tunnel's end. Gives what becomes true when it is closed; none when it is not open.
    pub(crate) fn close(&self, id: &TunnelId, by: &HostName) -> Option<watch::Receiver<bool>> {
        let open = self.lock();
        let entry = open.get(id)?;
        set_once(&entry.closed_by, by.clone());
        Some(entry.closed.clone())
    }

    /// What an open tunnel has carried until now.
    pub(crate) fn relayed(&self, id: &TunnelId) -> Option<Relayed> {
        self.lock().get(id).map(|entry| entry.counts.now())
    }
}

impl Entry {
    fn is_of(&self, origin: Origin) -> bool {
        self.about.origin.host_id == origin.host_id && self.about.origin.channel == origin.channel
    }
}

/// The first word counts.
fn set_once<T>(sender: &watch::Sender<Option<T>>, value: T) -> bool {
    sender.send_if_modified(|now| {
        let first = now.is_none();
        if first {
            *now = Some(value);
        }
        first
    })
}

fn connect(end: Option<&mut Option<oneshot::Sender<Dialed>>>, dialed: Dialed) -> Result<(), ConnectError> {
    let sender = end.ok_or(ConnectError::Unknown)?.take().ok_or(ConnectError::Taken)?;
    // A keeper that has stopped to wait for it is about to take the tunnel off the list.
    sender.send(dialed).map_err(|_| ConnectError::Unknown)
}
