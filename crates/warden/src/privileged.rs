//! What only root can do: a container from a golden image, a USB disk, SMART behind a bridge.
//!
//! A signed order is handed to `writ-privileged` at most once, as it was signed; whatever happens afterwards, only
//! questions follow. It verifies the order again, and sees what the warden cannot (disks, mounts, files); the
//! warden sees what root's program only claims: whether the container is there and is what was ordered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use authz::order::{CreateParams, Params};
use authz::{Authorized, Order, Outcome, RefusalCode};
use local_socket::{Framed, SocketError};
use protocol::frame::OrderState;
use protocol::local::WardenAnswer;
use protocol::privileged::{
    BlockDevice, MAX_SAID, PrivilegedAnswer, PrivilegedRequest, PrivilegedStatus, SmartTransport,
};
use protocol::runner::AnchorStatus;
use protocol::text::printable;
use protocol::{Envelope, GuestKind, RunState, Sha256};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::answers::patience;
use crate::follow::{Brought, Follower, Odd};
use crate::hold::{self, Point};
use crate::ledger::{OpenOrder, Stage};
use crate::orders::{self, Denied, Progress, Written};
use crate::warden::{Warden, refused};
use crate::world::{self, Observed, Wanted};
use crate::{now, ops, safe};

/// It takes a connection within this time.
const CONNECT: Duration = Duration::from_secs(5);
/// It takes a request within this time, and answers one that needs no waiting.
const ASK: Duration = Duration::from_secs(10);
/// A reading may take so long: a disk behind a bad bridge is slow.
const READ: Duration = Duration::from_secs(75);
/// The longest that an order may take there (`create_timeout_s` and what comes before it), seconds.
const LONGEST_S: u32 = 2 * 3600;
/// Between two questions to a service that does not answer: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// So long it is tried to make it forget an order that is over.
const FORGET: Duration = Duration::from_secs(120);

/// Why `writ-privileged` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegedError {
    /// Not set up.
    #[error(
        "what only root can do is not set up on this host: install writ-privileged there, and name its socket as privileged_socket in the warden's configuration"
    )]
    NotConfigured,
    /// Nobody there.
    #[error("writ-privileged cannot be reached at {path} ({reason}): start it, or correct privileged_socket", path = .path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It said nothing.
    #[error("writ-privileged did not answer in time: look at its log")]
    Silent,
    /// The connection broke.
    #[error("writ-privileged broke off the conversation ({0}): look at its log")]
    Lost(String),
    /// An answer to another question.
    #[error(
        "writ-privileged answered something else than it was asked: is it of the same version as the warden?"
    )]
    Unexpected,
    /// In its own words.
    #[error("writ-privileged refuses ({code}): {why}")]
    Refused {
        /// Its code.
        code: String,
        /// Cause and remedy.
        why: String,
    },
    /// It refuses everything.
    #[error("writ-privileged refuses everything at the moment: {0}")]
    Closed(String),
    /// It lives by something else.
    #[error(
        "writ-privileged lives by policy {} for host {}, and this host is {host} with policy {policy}: root anchors it anew (see privileged.toml)",
        .anchored.policy, .anchored.host_id
    )]
    OtherAnchor {
        /// What it lives by.
        anchored: Box<AnchorStatus>,
        /// This host.
        host: protocol::HostId,
        /// This host's policy.
        policy: Sha256,
    },
}

impl From<SocketError> for PrivilegedError {
    fn from(error: SocketError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// `writ-privileged` of this host, if there is one.
#[derive(Debug, Clone)]
pub struct Privileged {
    socket: Option<PathBuf>,
}

impl Privileged {
    /// At this socket; connects to nothing yet.
    pub const fn new(socket: Option<PathBuf>) -> Self {
        Self { socket }
    }

    /// Answers [`protocol::local::WardenRequest::Smart`].
    pub async fn answer_smart(&self, device: BlockDevice, transport: Option<SmartTransport>) -> WardenAnswer {
        let asked = device.clone();
        match self.ask(&PrivilegedRequest::Smart { device, transport }, READ).await {
            Ok(PrivilegedAnswer::Smart(reading)) if reading.device == asked => WardenAnswer::Smart(reading),
            // Its own refusal, with its own code.
            Ok(PrivilegedAnswer::Refused { code, why }) => refused(&printable(&code), said(&why)),
            Ok(_) => self.refused(&PrivilegedError::Unexpected),
            Err(error) => self.refused(&error),
        }
    }

    fn refused(&self, error: &PrivilegedError) -> WardenAnswer {
        refused(&RefusalCode::Privileged.to_string(), error.to_string())
    }

    async fn forget(&self, op: Sha256) -> Result<(), PrivilegedError> {
        self.done(&PrivilegedRequest::Forget { op }).await
    }

    async fn done(&self, request: &PrivilegedRequest) -> Result<(), PrivilegedError> {
        match self.ask(request, ASK).await? {
            PrivilegedAnswer::Done {} => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// One question and its answer.
    async fn ask(
        &self,
        request: &PrivilegedRequest,
        within: Duration,
    ) -> Result<PrivilegedAnswer, PrivilegedError> {
        let mut connection = self.connect().await?;
        let conversation = async {
            let sent = connection.send(request).await;
            // A service that turns this user away answers without reading the question.
            match (connection.receive().await, sent) {
                (Ok(Some(answer)), _) => Ok(answer),
                (_, Err(error)) | (Err(error), Ok(())) => Err(error.into()),
                (Ok(None), Ok(())) => Err(PrivilegedError::Lost("end of data".into())),
            }
        };
        timeout(within, conversation).await.map_err(|_| PrivilegedError::Silent)?
    }

    async fn connect(&self) -> Result<Framed, PrivilegedError> {
        let path = self.socket.as_ref().ok_or(PrivilegedError::NotConfigured)?;
        let fail = |reason: String| PrivilegedError::Connect { path: path.clone(), reason };
        match timeout(CONNECT, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => Ok(stream.into()),
            Ok(Err(error)) => Err(fail(match error.kind() {
                std::io::ErrorKind::NotFound => "there is no such socket".into(),
                std::io::ErrorKind::ConnectionRefused => "nobody listens there".into(),
                std::io::ErrorKind::PermissionDenied => "permission denied".into(),
                _ => error.to_string(),
            })),
            Err(_) => Err(fail(format!("no connection within {} s", CONNECT.as_secs()))),
        }
    }
}

impl Follower for Privileged {
    type Status = PrivilegedStatus;
    type Error = PrivilegedError;

    async fn status(&self) -> Result<PrivilegedStatus, PrivilegedError> {
        match self.ask(&PrivilegedRequest::Status {}, ASK).await? {
            PrivilegedAnswer::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    fn lives_by(status: &PrivilegedStatus) -> (Option<&AnchorStatus>, Option<&str>) {
        (status.anchored.as_ref(), status.closed.as_deref())
    }

    async fn anchor(&self, brought: Brought) -> Result<(), PrivilegedError> {
        let Brought { policy, documents, host_id, host_key, host_key_gen } = brought;
        self.done(&PrivilegedRequest::Anchor { policy, documents, host_id, host_key, host_key_gen }).await
    }

    async fn take(&self, document: Envelope) -> Result<(), PrivilegedError> {
        self.done(&PrivilegedRequest::Policy { documents: vec![document] }).await
    }

    fn error(odd: Odd) -> PrivilegedError {
        match odd {
            Odd::Closed(why) => PrivilegedError::Closed(why),
            Odd::Other { anchored, host, policy } => PrivilegedError::OtherAnchor { anchored, host, policy },
            Odd::NotAnchored => PrivilegedError::Unexpected,
        }
    }
}

fn unexpected(answer: PrivilegedAnswer) -> PrivilegedError {
    match answer {
        PrivilegedAnswer::Refused { code, why } => {
            PrivilegedError::Refused { code: printable(&code), why: said(&why) }
        }
        _ => PrivilegedError::Unexpected,
    }
}

/// Words of root's programs: printable, and not endless.
fn said(text: &str) -> String {
    let mut end = text.len().min(2 * MAX_SAID);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    printable(&text[..end])
}

/// Checks, commits, hands over, and waits for the end.
pub(crate) async fn carry_out(
    warden: &Arc<Warden>,
    envelope: &Envelope,
    authorized: &Authorized<Order>,
    progress: &Progress,
) -> Result<Written, Denied> {
    let refuse = |code, why: String| Denied::from(authorized.refuse(authorized.get().kind(), code, why));
    orders::fresh(warden, authorized)?;
    let (_claim, waited) = warden
        .queue
        .claim(ops::resources(authorized.get()), authorized.op(), || {
            drop(progress.try_send(OrderState::Queued));
        })
        .await
        .map_err(|full| refuse(RefusalCode::Busy, full.to_string()))?;
    // Time passed: it may be too late now, or somebody may have revoked a key.
    let renewed = if waited { Some(orders::verify(warden, envelope)?) } else { None };
    let authorized = renewed.as_ref().unwrap_or(authorized);
    orders::fresh(warden, authorized)?;
    let order = authorized.get();
    if let Params::GuestCreate(_) = &order.params {
        let (seen, _) = world::read(&warden.near(), &Wanted::of_order(order))
            .await
            .map_err(|error| refuse(RefusalCode::Proxmox, error.to_string()))?;
        authz::world::check(order, &seen).map_err(|(code, why)| refuse(code, why))?;
    }
    // Disks and mounts are compared where they can be seen: the order states them, and root's service reads them.
    let identity = warden.identity()?;
    warden
        .ready_privileged(&identity)
        .await
        .map_err(|error| refuse(RefusalCode::Privileged, error.to_string()))?;

    let mut open = orders::commit(warden, authorized, OpenOrder::new(authorized), progress).await?;
    let t0 = now();
    open.stage = Stage::Handing { t0 };
    if let Err(why) = orders::write_stage(warden, &open) {
        let why = format!("{why}; nothing was handed over");
        return Ok(orders::finish(warden, &open, order, Outcome::Aborted { why: safe(&why) }).await);
    }
    hold::at(Point::Handing).await;
    let envelope = Envelope::new(envelope.payload.clone(), envelope.sigs.clone());
    let mut watch = Watch::new(warden, open.op, patience(t0, LONGEST_S, t0), Some(progress));
    let ending = watch.hand_over(PrivilegedRequest::Order { envelope }).await;
    Ok(conclude(warden, &open, order, ending).await)
}

/// Ends an order that a crash interrupted. Hands nothing over.
pub(crate) async fn resume(warden: &Arc<Warden>, open: &OpenOrder, order: &Order) -> Written {
    let Stage::Handing { t0 } = open.stage else {
        let outcome = if open.stage == (Stage::Verified {}) {
            let why = "the warden ended after the nonce was burned and before the order was handed over";
            Outcome::Aborted { why: safe(why) }
        } else {
            orders::unreadable()
        };
        return orders::finish(warden, open, order, outcome).await;
    };
    let mut watch = Watch::new(warden, open.op, patience(t0, LONGEST_S, now()), None);
    let ending = watch.ask("it was not asked yet".into()).await;
    conclude(warden, open, order, ending).await
}

/// How an order ended there.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    /// Done, as root sees it.
    Did(String),
    /// A program said no.
    Failed(String),
    /// Accepted, and nothing was started.
    NotStarted(String),
    /// Never accepted.
    NotAccepted(String),
    /// Nobody can say.
    Unknown {
        /// What is known.
        why: String,
        /// It said so itself, so it has settled the matter.
        settled: bool,
    },
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// To carry it out.
    Order,
    /// What became of it.
    Outcome,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
enum Says {
    /// Go on listening; whether a program runs.
    More(bool),
    /// The end.
    End(Ending),
    /// No answer to that: ask again later.
    Nothing(String),
}

/// Pure: `accepted` is whether it has said on this connection that it accepted the order.
fn judge(asked: Asked, accepted: bool, answer: PrivilegedAnswer) -> Says {
    match (answer, asked) {
        (PrivilegedAnswer::Committed {}, Asked::Order) => Says::More(false),
        (PrivilegedAnswer::Started {}, Asked::Order) => Says::More(true),
        (PrivilegedAnswer::Did { seen }, _) => Says::End(Ending::Did(said(&seen))),
        (PrivilegedAnswer::Failed { why }, _) => Says::End(Ending::Failed(said(&why))),
        (PrivilegedAnswer::NotStarted { why }, _) => Says::End(Ending::NotStarted(said(&why))),
        (PrivilegedAnswer::Unknown { why }, _) => {
            Says::End(Ending::Unknown { why: said(&why), settled: true })
        }
        (PrivilegedAnswer::NotKnown {}, Asked::Outcome) => {
            Says::End(Ending::NotAccepted("writ-privileged never got the order; nothing was done".into()))
        }
        (PrivilegedAnswer::Refused { code, why }, Asked::Order) if !accepted => Says::End(
            Ending::NotAccepted(format!("writ-privileged refuses ({}): {}", printable(&code), said(&why))),
        ),
        (PrivilegedAnswer::Refused { code, why }, _) => {
            Says::Nothing(format!("writ-privileged refuses ({}): {}", printable(&code), said(&why)))
        }
        (
            PrivilegedAnswer::Status(_)
            | PrivilegedAnswer::Done {}
            | PrivilegedAnswer::Smart(_)
            | PrivilegedAnswer::Committed {}
            | PrivilegedAnswer::Started {}
            | PrivilegedAnswer::NotKnown {},
            _,
        ) => Says::Nothing(PrivilegedError::Unexpected.to_string()),
    }
}

/// Waits for the end of one order, for a bounded time.
struct Watch<'a> {
    warden: &'a Warden,
    op: Sha256,
    patience: Duration,
    until: Instant,
    progress: Option<&'a Progress>,
}

impl<'a> Watch<'a> {
    fn new(warden: &'a Warden, op: Sha256, patience: Duration, progress: Option<&'a Progress>) -> Self {
        Self { warden, op, patience, until: Instant::now() + patience, progress }
    }

    /// The one handover.
    async fn hand_over(&mut self, request: PrivilegedRequest) -> Ending {
        let mut connection = match self.warden.privileged.connect().await {
            Ok(connection) => connection,
            Err(error) => return Ending::NotAccepted(format!("{error}; the order was not handed over")),
        };
        let sent = timeout(ASK, connection.send(&request)).await;
        hold::at(Point::Handed).await;
        let trouble = match sent {
            // It does not even read: there is nothing to listen to.
            Err(_) => PrivilegedError::Silent.to_string(),
            // Who turns the warden away says so without reading the request.
            Ok(sent) => match (self.listen(Asked::Order, &mut connection).await, sent) {
                (Ok(ending), _) => return ending,
                (Err(trouble), Ok(())) => trouble,
                (Err(_), Err(error)) => error.to_string(),
            },
        };
        drop(connection);
        tracing::warn!(op = %self.op, trouble, "asking writ-privileged what became of the order");
        self.ask(trouble).await
    }

    /// Asks what became of it, and asks again while there is no answer.
    async fn ask(&mut self, mut trouble: String) -> Ending {
        let (mut pause, longest) = PAUSE;
        while Instant::now() < self.until {
            match self.ask_once().await {
                Ok(ending) => return ending,
                Err(again) => {
                    tracing::warn!(op = %self.op, trouble = again, "writ-privileged does not say what became of it");
                    trouble = again;
                }
            }
            sleep(pause.min(self.until.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(longest);
        }
        let seconds = self.patience.as_secs();
        let why =
            format!("writ-privileged did not say within {seconds} s what became of the order: {trouble}");
        Ending::Unknown { why, settled: false }
    }

    async fn ask_once(&mut self) -> Result<Ending, String> {
        let mut connection = self.warden.privileged.connect().await.map_err(|error| error.to_string())?;
        let sent = timeout(ASK, connection.send(&PrivilegedRequest::Outcome { op: self.op })).await;
        sent.map_err(|_| PrivilegedError::Silent.to_string())?.map_err(|error| error.to_string())?;
        self.listen(Asked::Outcome, &mut connection).await
    }

    /// Answers until the end, or what went wrong.
    async fn listen(&mut self, asked: Asked, connection: &mut Framed) -> Result<Ending, String> {
        let mut accepted = false;
        loop {
            let answer = timeout_at(self.until, connection.receive())
                .await
                .map_err(|_| "it kept silent".to_owned())?
                .map_err(|error| error.to_string())?
                .ok_or("end of data")?;
            match judge(asked, accepted, answer) {
                Says::End(ending) => return Ok(ending),
                Says::Nothing(why) => return Err(why),
                Says::More(runs) => {
                    accepted = true;
                    if let (Some(progress), true) = (self.progress, runs) {
                        let _ = progress.try_send(OrderState::Executing);
                    }
                }
            }
        }
    }
}

/// Reads the world again, writes the end down, and lets root's service forget.
async fn conclude(warden: &Arc<Warden>, open: &OpenOrder, order: &Order, ending: Ending) -> Written {
    let kept = !matches!(ending, Ending::NotAccepted(_) | Ending::Unknown { settled: false, .. });
    hold::at(Point::Ended).await;
    let outcome = match (ending, &order.params) {
        (Ending::NotAccepted(why) | Ending::NotStarted(why), _) => Outcome::Aborted { why: safe(&why) },
        (Ending::Did(_), Params::GuestCreate(params)) => created(warden, params).await,
        (Ending::Did(seen), _) => Outcome::Done { upid: None, seen: safe(&seen) },
        (Ending::Failed(why), Params::GuestCreate(params)) => {
            let now = whether_there(warden, params).await;
            Outcome::Failed { upid: None, why: safe(&format!("{why}; now {now}")) }
        }
        (Ending::Failed(why), _) => Outcome::Failed { upid: None, why: safe(&why) },
        (Ending::Unknown { why, .. }, Params::GuestCreate(params)) => {
            let now = whether_there(warden, params).await;
            Outcome::Unknown { upid: None, why: safe(&format!("{why}; now {now}")) }
        }
        (Ending::Unknown { why, .. }, _) => Outcome::Unknown { upid: None, why: safe(&why) },
    };
    let receipt = orders::log_end(warden, open, order, outcome).await?;
    if !kept {
        orders::forget(warden, &open.op);
    } else if !forget(warden, &open.op).await {
        let (warden, op) = (warden.clone(), open.op);
        tokio::spawn(async move { forget_patiently(&warden, &op).await });
    }
    Ok(receipt)
}

/// Success is what the world shows, not how a program ended.
async fn created(warden: &Warden, params: &CreateParams) -> Outcome {
    let mut pause = Duration::from_millis(200);
    let seen = loop {
        match world::observe(&warden.client, GuestKind::Lxc, params.vmid).await {
            Ok(seen) => break Ok(seen),
            Err(error) if pause > Duration::from_secs(8) => break Err(error),
            Err(error) => {
                tracing::warn!(vmid = params.vmid.get(), %error, "cannot read the new container yet");
                sleep(pause).await;
                pause *= 2;
            }
        }
    };
    let unknown = |why: String| Outcome::Unknown { upid: None, why: safe(&why) };
    match seen {
        Ok(seen) => match is_right(params, &seen) {
            Ok(seen) => Outcome::Done { upid: None, seen: safe(&seen) },
            Err(wrong) => unknown(format!("pct says that it is done, but {wrong}: look at the container")),
        },
        Err(error) => {
            unknown(format!("pct says that it is done, but the container could not be read: {error}"))
        }
    }
}

/// Pure: whether the container is the one that was ordered.
fn is_right(params: &CreateParams, seen: &Observed) -> Result<String, String> {
    let vmid = params.vmid;
    let has = |key: &str| seen.config.get(key).map_or("", String::as_str);
    let feature = |name: &str| has("features").split(',').any(|part| part == format!("{name}=1"));
    if seen.name != params.name.as_str() {
        return Err(format!("container {vmid} is called {}", safe(&seen.name)));
    }
    for (key, wanted) in [
        ("unprivileged", "1".to_owned()),
        ("cores", params.cores.to_string()),
        ("memory", params.memory_mib.to_string()),
    ] {
        if has(key) != wanted {
            return Err(format!("container {vmid} has {key} {} instead of {wanted}", safe(has(key))));
        }
    }
    if !feature("keyctl") || !feature("nesting") {
        return Err(format!("container {vmid} has features {}", safe(has("features"))));
    }
    if let Some(lock) = &seen.lock {
        return Err(format!("container {vmid} is locked ({})", safe(lock)));
    }
    if params.start && seen.state != RunState::Running {
        return Err(format!("container {vmid} is {}", seen.state));
    }
    Ok(format!(
        "container {vmid} '{}' is there with keyctl and nesting, unprivileged, and is {}",
        params.name, seen.state
    ))
}

async fn whether_there(warden: &Warden, params: &CreateParams) -> String {
    match world::kind_of(&warden.client, params.vmid).await {
        Ok(Some(kind)) => format!("there is a guest {kind} {}", params.vmid),
        Ok(None) => format!("there is no guest {}", params.vmid),
        Err(error) => format!("it cannot be said whether guest {} is there ({error})", params.vmid),
    }
}

/// Tells root's service. The order's file stays until that has worked: the next start tries again. Whether it has.
async fn forget(warden: &Warden, op: &Sha256) -> bool {
    match warden.privileged.forget(*op).await {
        Ok(()) => {
            orders::forget(warden, op);
            true
        }
        Err(error) => {
            tracing::warn!(%op, %error, "writ-privileged could not be told that an order is over");
            false
        }
    }
}

/// Tells it what it could not be told before. It may still be coming up.
pub(crate) async fn forget_patiently(warden: &Warden, op: &Sha256) {
    let (mut pause, longest) = PAUSE;
    let until = Instant::now() + FORGET;
    while !forget(warden, op).await && Instant::now() < until {
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> PrivilegedAnswer {
        PrivilegedAnswer::Refused { code: "replay".into(), why: "burned".into() }
    }

    /// A refusal says that nothing was done only where nothing was accepted.
    #[test]
    fn answers_mean_no_more_than_they_say() {
        let not_accepted = |says: Says| matches!(says, Says::End(Ending::NotAccepted(_)));
        assert!(not_accepted(judge(Asked::Order, false, refusal())));
        assert!(matches!(judge(Asked::Order, true, refusal()), Says::Nothing(_)));
        assert!(matches!(judge(Asked::Outcome, false, refusal()), Says::Nothing(_)));
        assert!(not_accepted(judge(Asked::Outcome, false, PrivilegedAnswer::NotKnown {})));
        assert!(matches!(judge(Asked::Order, false, PrivilegedAnswer::NotKnown {}), Says::Nothing(_)));
        assert!(matches!(judge(Asked::Outcome, false, PrivilegedAnswer::Started {}), Says::Nothing(_)));
        assert!(matches!(judge(Asked::Order, false, PrivilegedAnswer::Done {}), Says::Nothing(_)));
        assert_eq!(judge(Asked::Order, true, PrivilegedAnswer::Started {}), Says::More(true));
        for asked in [Asked::Order, Asked::Outcome] {
            let did = judge(asked, true, PrivilegedAnswer::Did { seen: "x\u{1b}[2J".into() });
            assert!(matches!(did, Says::End(Ending::Did(seen)) if !seen.contains('\u{1b}')));
            let unknown = judge(asked, false, PrivilegedAnswer::Unknown { why: "x".into() });
            assert!(matches!(unknown, Says::End(Ending::Unknown { settled: true, .. })));
        }
    }

    #[test]
    fn endless_words_are_cut() {
        assert!(said(&"ä".repeat(100_000)).len() <= 2 * MAX_SAID);
    }
}
