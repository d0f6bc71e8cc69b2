//! Questions that operators ask wardens, while they are under way. A question goes to the host's live
//! channel, and its answer to whoever asked: nothing waits for a host that is away, and nothing is stored.
//!
//! A question makes a host read Proxmox, and a new plan takes an older one's place there. So few may be
//! under way for an operator and for a host, and an operator may ask a host so many in a minute. Hosts have
//! limits of their own: a stolen hub has none.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::ask::{Question, Reply};
use protocol::frame::HubFrame;
use protocol::{HostId, HostName};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::app::AppInner;
use crate::live::Line;
use crate::tunnel::Origin;

/// Most questions of one operator that are under way at once.
pub(crate) const PER_OPERATOR: usize = 8;
/// Most questions to one host that are under way at once; the agent takes as many.
pub(crate) const PER_HOST: usize = 16;
/// Most questions of one operator to one host within [`MINUTE`].
pub(crate) const PER_MINUTE: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// Why a question was not answered. Nothing was changed by it, and it may be asked again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    #[error("host {0} is not connected to the hub, and only a connected host can be asked: see `writ hosts`")]
    Offline(HostId),
    #[error("the agent of host {0} is too old to answer questions: update it")]
    TooOld(HostId),
    #[error("{PER_OPERATOR} questions of yours are being answered already: wait for an answer")]
    ManyOfOperator,
    #[error("host {0} is asked too many questions at the moment: try again in a minute")]
    ManyOfHost(HostId),
    #[error("you asked host {0} {PER_MINUTE} questions within a minute: wait a little")]
    Rate(HostId),
    #[error(
        "the channel of host {0} ended before it had answered: ask again, and see the agent's log if this stays"
    )]
    ChannelEnded(HostId),
    #[error(
        "host {host} did not answer within {seconds} s: ask again, and see the logs of its agent and warden if this stays"
    )]
    NoAnswer { host: HostId, seconds: u64 },
    #[error("the hub is stopping: try again in a minute")]
    Stopping,
}

/// What became of a host's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// It went to whoever asked.
    Passed,
    /// There is no such question of this channel, or nobody waits for its answer any more.
    Nobody,
}

/// A question under way.
#[derive(Debug)]
struct Entry {
    host: HostId,
    channel: u64,
    operator: HostName,
    answer: oneshot::Sender<Reply>,
}

#[derive(Debug, Default)]
struct Inside {
    /// The last question's number.
    last: u64,
    open: BTreeMap<u64, Entry>,
    /// When whom was asked by whom; what is older than [`MINUTE`] goes with the next question.
    asked: BTreeMap<(HostName, HostId), VecDeque<Instant>>,
}

/// All questions under way; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Questions(Arc<Mutex<Inside>>);

/// Takes a question off the list, however the asking ends.
struct Asking<'a> {
    questions: &'a Questions,
    id: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.questions.lock().open.remove(&self.id);
    }
}

impl Questions {
    /// A panic elsewhere leaves the maps whole: every change is one call.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, and waits for the answer. Whoever drops this does not wait any more.
    pub(crate) async fn ask(
        &self,
        app: &AppInner,
        host: &HostId,
        operator: &HostName,
        question: Question,
    ) -> Result<Reply, AskError> {
        let line = app.live.line(host).ok_or(AskError::Offline(*host))?;
        if !line.answers {
            return Err(AskError::TooOld(*host));
        }
        let (asking, answer) = self.open(host, operator, &line)?;
        let Line { frames, mut alive, .. } = line;
        // A queue that is full belongs to an agent that does not read.
        frames
            .try_send(HubFrame::Ask { id: asking.id, question })
            .map_err(|_| AskError::ManyOfHost(*host))?;
        let limit = app.limits().answer;
        let mut stop = app.live.watch_stop();
        let waiting = async {
            tokio::select! {
                answer = answer => answer.map_err(|_| AskError::ChannelEnded(*host)),
                // Only ever an error: nothing is sent there.
                _ = alive.changed() => Err(AskError::ChannelEnded(*host)),
                _ = stop.wait_for(|stop| *stop) => Err(AskError::Stopping),
            }
        };
        let late = || AskError::NoAnswer { host: *host, seconds: limit.as_secs() };
        timeout(limit, waiting).await.unwrap_or_else(|_| Err(late()))
    }

    fn open(
        &self,
        host: &HostId,
        operator: &HostName,
        line: &Line,
    ) -> Result<(Asking<'_>, oneshot::Receiver<Reply>), AskError> {
        let now = Instant::now();
        let mut inside = self.lock();
        if inside.open.values().filter(|entry| entry.operator == *operator).count() >= PER_OPERATOR {
            return Err(AskError::ManyOfOperator);
        }
        if inside.open.values().filter(|entry| entry.host == *host).count() >= PER_HOST {
            return Err(AskError::ManyOfHost(*host));
        }
        inside.asked.retain(|_, times| {
            times.retain(|at| now.duration_since(*at) < MINUTE);
            !times.is_empty()
        });
        let times = inside.asked.entry((operator.clone(), *host)).or_default();
        if times.len() >= PER_MINUTE {
            return Err(AskError::Rate(*host));
        }
        times.push_back(now);
        inside.last += 1;
        let id = inside.last;
        let (sender, answer) = oneshot::channel();
        let (host, channel, operator) = (*host, line.channel, operator.clone());
        inside.open.insert(id, Entry { host, channel, operator, answer: sender });
        Ok((Asking { questions: self, id }, answer))
    }

    /// A host's answer, which counts on the channel on which it was asked, once.
    pub(crate) fn answer(&self, id: u64, origin: Origin, reply: Reply) -> Answered {
        let mut inside = self.lock();
        let of_channel = |entry: &Entry| entry.host == origin.host_id && entry.channel == origin.channel;
        if !inside.open.get(&id).is_some_and(of_channel) {
            return Answered::Nobody;
        }
        match inside.open.remove(&id).map(|entry| entry.answer.send(reply)) {
            Some(Ok(())) => Answered::Passed,
            Some(Err(_)) | None => Answered::Nobody,
        }
    }
}

#[cfg(test)]
mod tests;
