//! A signed session: the runner opens it and hands over one end of its socket, which goes on to the agent.
//! No byte of the session comes through here.
//!
//! The two connections are its lifelines. When the agent's closes, the runner is told by the end of data on
//! its own, ends everything and says so; when the runner's breaks, or the warden ends, the agent's end is
//! closed with it. What was seen of the end is in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use authz::order::SessionParams;
use authz::receipt::Signer;
use authz::{Authorized, Event, Kind, Order, Outcome, Params, PublicKey, RefusalCode};
use local_socket::Framed;
use protocol::local::WardenAnswer;
use protocol::runner::{RunnerAnswer, RunnerRequest};
use protocol::{Ed25519Key, Envelope, HostName, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::answers::{LastWord, Opening, of_lost_session, of_opening, of_session};
use crate::hold::{self, Point};
use crate::ledger::{OpenOrder, Stage};
use crate::orders::{self, Denied, Written};
use crate::runner;
use crate::server::{ANSWER, send};
use crate::warden::{Shut, Warden, chain, lock};
use crate::{now, safe};

/// Sessions of all operators together: each keeps a connection of the warden's socket.
const MAX_OPEN: usize = 32;
/// The runner has this long to start a session's SSH server.
const OPEN: Duration = Duration::from_secs(60);
/// It has this long to end everything in a session.
const END: Duration = Duration::from_secs(30);
/// The runner ends a session at its time limit; this much later the warden ends it.
const OVERTIME: Duration = Duration::from_secs(60);

/// Sessions that are open or being opened, and how to end them.
#[derive(Debug, Default)]
pub struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    op: Sha256,
    signers: Vec<Signer>,
    operators: BTreeSet<HostName>,
    end: watch::Sender<Option<String>>,
}

/// A session's place among them; it is free again when this is dropped.
#[derive(Debug)]
struct Place {
    sessions: Arc<Sessions>,
    id: u64,
    end: watch::Receiver<Option<String>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.sessions.inner).open.remove(&self.id);
    }
}

impl Place {
    /// Resolves when somebody wants the session to end; says why.
    async fn ended(&mut self) -> String {
        match self.end.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "it has no place any more".into(),
        }
    }
}

impl Sessions {
    /// Whose signature counted has a session of theirs counted.
    fn admit(
        self: &Arc<Self>,
        op: Sha256,
        signers: &[Signer],
        each: u32,
    ) -> Result<Place, (RefusalCode, String)> {
        let operators: BTreeSet<_> = signers.iter().map(|signer| signer.operator.clone()).collect();
        let mut inner = lock(&self.inner);
        if inner.open.len() >= MAX_OPEN {
            let why = format!("{MAX_OPEN} sessions are open on this host already: try again later");
            return Err((RefusalCode::Busy, why));
        }
        for operator in &operators {
            let open = inner.open.values().filter(|entry| entry.operators.contains(operator)).count();
            if open >= each as usize {
                return Err((
                    RefusalCode::Sessions,
                    format!(
                        "{operator} has {open} session(s) open on this host, and {each} may be: end one first"
                    ),
                ));
            }
        }
        let (sender, end) = watch::channel(None);
        let id = inner.next;
        inner.next += 1;
        inner.open.insert(id, Entry { op, signers: signers.to_vec(), operators, end: sender });
        Ok(Place { sessions: self.clone(), id, end })
    }

    /// Ends the sessions that `which` picks by their order and the operators who signed it. Their receipts
    /// will say why.
    pub fn end(&self, why: &str, which: impl Fn(&Sha256, &BTreeSet<HostName>) -> bool) {
        for entry in lock(&self.inner).open.values() {
            if which(&entry.op, &entry.operators) {
                entry.end.send_replace(Some(why.to_owned()));
            }
        }
    }

    /// Ends the sessions that somebody signed for whom `gone` picks.
    pub(crate) fn end_signed(&self, why: &str, gone: impl Fn(&Signer) -> bool) {
        for entry in lock(&self.inner).open.values() {
            if entry.signers.iter().any(&gone) {
                entry.end.send_replace(Some(why.to_owned()));
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.inner).open.len()
    }
}

/// Verifies the order, opens the session, and stays until its end. The last answer goes to the agent if it
/// is still there.
pub async fn session(warden: Arc<Warden>, envelope: Envelope, mut agent: Framed) {
    let last = match accept(&warden, &envelope).await {
        Ok(accepted) => orders::last_answer(live(&warden, accepted, envelope, &mut agent).await),
        Err(denied) => denied.answer(&warden, envelope.id()),
    };
    if let Err(error) = send(&mut agent, &last).await {
        tracing::debug!(%error, "the agent left before the last answer about its session");
    }
}

/// A session's order whose nonce is burned.
struct Accepted {
    open: OpenOrder,
    order: Order,
    max: Duration,
    place: Place,
}

async fn accept(warden: &Arc<Warden>, envelope: &Envelope) -> Result<Accepted, Denied> {
    let authorized = orders::verify(warden, envelope)?;
    let order = authorized.get().clone();
    let refuse = |code, why: String| Denied::from(authorized.refuse(order.kind(), code, why));
    let Params::SessionOpen(params) = &order.params else {
        let kind = order.kind();
        let why = format!(
            "an order of kind {kind} opens no session ({} does): submit it with `writ submit`",
            Kind::SessionOpen
        );
        return Err(refuse(RefusalCode::Kind, why));
    };
    orders::fresh(warden, &authorized)?;
    let runner = |error: runner::RunnerError| refuse(RefusalCode::Runner, error.to_string());
    warden.runner.configured().map_err(runner)?;
    let place = admit(warden, &authorized, params).map_err(|(code, why)| refuse(code, why))?;
    let identity = warden.identity()?;
    warden.ready_runner(&identity).await.map_err(runner)?;
    let (silent, _) = mpsc::channel(1);
    let open = orders::commit(warden, &authorized, OpenOrder::new(&authorized), &silent).await?;
    let max = Duration::from_secs(params.max_s.into());
    Ok(Accepted { open, max, place, order })
}

fn admit(
    warden: &Warden,
    authorized: &Authorized<Order>,
    params: &SessionParams,
) -> Result<Place, (RefusalCode, String)> {
    PublicKey::try_from(params.key).map_err(|error| {
        (RefusalCode::BadOrder, format!("nobody can log in with the order's client key: {error}"))
    })?;
    let each = warden.config.sessions_per_operator;
    warden.sessions.admit(*authorized.op(), authorized.signers(), each)
}

async fn live(warden: &Warden, accepted: Accepted, envelope: Envelope, agent: &mut Framed) -> Written {
    let Accepted { mut open, order, max, mut place } = accepted;
    open.stage = Stage::Handing { t0: now() };
    if let Err(why) = orders::write_stage(warden, &open) {
        let why = format!("{why}; the runner was not asked for a session");
        return orders::finish(warden, &open, &order, Outcome::Aborted { why: safe(&why) }).await;
    }
    hold::at(Point::Handing).await;
    let outcome = match begin(warden, envelope, agent, &mut place).await {
        Err(why) => Outcome::Aborted { why: safe(&format!("{why}; nobody was connected")) },
        Ok(Begun { runner, host_key, socket }) => {
            let event = Event::SessionReady { op: open.op, host_key };
            let receipt = match warden.with_ledger(|_, ledger| ledger.append(event, now())) {
                Ok(Ok(receipt)) => receipt,
                Ok(Err(error)) => {
                    warden.fail(&error);
                    return Err(unwritten(&chain(&error)));
                }
                Err(Shut::Closed(_, why)) => return Err(unwritten(&why)),
                Err(Shut::NotEnrolled) => return Err(unwritten("the host is not enrolled")),
            };
            hold::at(Point::Ready).await;
            tracing::info!(op = %open.op, "session ready");
            let ready = WardenAnswer::SessionReady { receipt };
            let told = timeout(ANSWER, agent.send_with_fd(&ready, socket.as_fd())).await;
            // From here on the agent has the only copy.
            drop(socket);
            let gone = (!matches!(told, Ok(Ok(())))).then(|| "the agent left when it was ready".to_owned());
            watch(runner, agent, &mut place, max, gone).await
        }
    };
    orders::finish(warden, &open, &order, outcome).await
}

fn unwritten(why: &str) -> String {
    format!("the session was not opened, because that could not be written down; its nonce is burned: {why}")
}

/// A session that is ready.
struct Begun {
    runner: Framed,
    host_key: Ed25519Key,
    /// One end of the session's own socket.
    socket: UnixStream,
}

/// Asks the runner for the session. Errors say why there is none.
async fn begin(
    warden: &Warden,
    envelope: Envelope,
    agent: &mut Framed,
    place: &mut Place,
) -> Result<Begun, String> {
    let mut runner = warden.runner.connect().await.map_err(|error| error.to_string())?;
    match ask(&mut runner, envelope, agent, place).await {
        Ok((host_key, socket)) => Ok(Begun { runner, host_key, socket }),
        Err(why) => {
            // Whatever it had started ends now. Its place is free when that is over: the operator may try
            // again at once, and the runner counts sessions too.
            let _ = runner.finish().await;
            let _ = timeout(END, async { while runner::next(&mut runner).await.is_ok() {} }).await;
            Err(why)
        }
    }
}

async fn ask(
    runner: &mut Framed,
    envelope: Envelope,
    agent: &mut Framed,
    place: &mut Place,
) -> Result<(Ed25519Key, UnixStream), String> {
    // What came beside the signed order is not for the runner.
    let request = RunnerRequest::Session { envelope: Envelope::new(envelope.payload, envelope.sigs) };
    let sent = runner::hand_over(runner, &request).await;
    hold::at(Point::Handed).await;
    let opening = tokio::select! {
        opened = timeout(OPEN, opened(runner)) => opened,
        () = agent.closed() => return Err("the agent left before the session was ready".into()),
        why = place.ended() => return Err(why),
    };
    let host_key = match (opening, sent) {
        (Ok(Ok(host_key)), Ok(())) => host_key,
        // A runner that turns the warden away says so without reading the request.
        (Ok(Err(why)), _) => return Err(why),
        (_, Err(error)) => return Err(error.to_string()),
        (Err(_), Ok(())) => {
            return Err(format!("the runner did not open it within {} s: look at its log", OPEN.as_secs()));
        }
    };
    let fd = runner.take_fd().ok_or("the runner handed over no socket with it: look at its log")?;
    if runner.take_fd().is_some() {
        return Err("the runner handed over more than one socket with it: look at its log".into());
    }
    let socket = UnixStream::from(fd);
    match socket.local_addr() {
        Ok(_) => Ok((host_key, socket)),
        Err(_) => Err("what the runner handed over with it is no unix socket: look at its log".into()),
    }
}

async fn opened(runner: &mut Framed) -> Result<Ed25519Key, String> {
    loop {
        match of_opening(runner::next(runner).await.map_err(|error| error.to_string())?) {
            Opening::More => {}
            Opening::Ready(host_key) => return Ok(host_key),
            Opening::Failed(why) => return Err(why),
        }
    }
}

/// Stays with an open session until its end. `gone` is why it is to end at once.
async fn watch(
    mut runner: Framed,
    agent: &mut Framed,
    place: &mut Place,
    max: Duration,
    gone: Option<String>,
) -> Outcome {
    let ours = if let Some(gone) = gone {
        gone
    } else {
        tokio::select! {
            answer = runner::next(&mut runner) => match answer {
                Ok(RunnerAnswer::SessionEnded { why, duration_ms }) => {
                    return of_session(None, LastWord::Ended { why, duration_ms });
                }
                Ok(_) => "the runner said something that has no place in a session".into(),
                Err(error) => return of_session(None, LastWord::None(error.to_string())),
            },
            () = agent.closed() => "the agent closed its connection".into(),
            why = place.ended() => why,
            () = sleep(max + OVERTIME) => "its time was over, and the runner had not ended it".into(),
        }
    };
    // The end of data tells the runner to end everything.
    let last = match runner.finish().await {
        Err(error) => LastWord::None(error.to_string()),
        Ok(()) => match timeout(END, last_word(&mut runner)).await {
            Ok(last) => last,
            Err(_) => LastWord::None(format!("it did not answer within {} s", END.as_secs())),
        },
    };
    of_session(Some(&ours), last)
}

async fn last_word(runner: &mut Framed) -> LastWord {
    loop {
        match runner::next(runner).await {
            Ok(RunnerAnswer::SessionEnded { why, duration_ms }) => {
                return LastWord::Ended { why, duration_ms };
            }
            Ok(_) => {}
            Err(error) => return LastWord::None(error.to_string()),
        }
    }
}

/// What became of a session that a crash of the warden interrupted. Opens nothing.
pub(crate) async fn resume(warden: &Warden, open: &OpenOrder, ready: bool) -> Outcome {
    match open.stage {
        Stage::Verified {} | Stage::Handing { .. } if !ready => of_lost_session(false, Ok(0)),
        Stage::Handing { .. } => {
            let until = Instant::now() + END;
            loop {
                let open = warden.runner.status().await.map(|status| status.sessions);
                if matches!(open, Ok(0)) || Instant::now() >= until {
                    return of_lost_session(true, open.map_err(|error| error.to_string()));
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
        Stage::Verified {} | Stage::Starting { .. } | Stage::Running { .. } => orders::unreadable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(name: &str) -> Signer {
        let key = authz::SecretKey::from_seed(&[1; 32]).public().fingerprint();
        Signer { operator: name.parse().unwrap(), key }
    }

    #[tokio::test]
    async fn each_operator_has_so_many_sessions_and_no_more() {
        let sessions: Arc<Sessions> = Arc::default();
        let admit = |names: &[&str], each| {
            let signers: Vec<_> = names.iter().map(|name| signer(name)).collect();
            sessions.admit(Sha256::of(b"op"), &signers, each)
        };
        let mut first = admit(&["alice"], 1).unwrap();
        let (code, why) = admit(&["alice"], 1).unwrap_err();
        assert_eq!(code, RefusalCode::Sessions);
        assert!(why.contains("alice has 1 session(s) open"), "{why}");
        assert!(admit(&["bob", "alice"], 1).is_err(), "a session of two is one of each");
        let second = admit(&["bob"], 1).unwrap();
        assert!(admit(&["bob", "alice"], 2).is_ok());
        assert_eq!(admit(&["carol"], 0).unwrap_err().0, RefusalCode::Sessions);

        sessions.end("revoked", |_, operators| operators.contains(&"alice".parse().unwrap()));
        assert_eq!(first.ended().await, "revoked");
        assert_eq!(*second.end.borrow(), None);
        drop((first, second));
        assert_eq!(sessions.count(), 0);
        let all: Vec<_> = (0..MAX_OPEN).map(|n| admit(&[&format!("o{n}")], 1).unwrap()).collect();
        assert_eq!(admit(&["alice"], 1).unwrap_err().0, RefusalCode::Busy);
        drop(all);
        admit(&["alice"], 1).unwrap();
    }
}
