//! A signed session: sshd for one client, as long as the warden's connection lives. It leaves no trace but
//! its burned nonce: whatever ends, the connection, the runner or sshd, all of it ends.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use authz::order::{SessionMode, SessionParams};
use authz::{Authorized, Kind, Order, PublicKey, RefusalCode};
use local_socket::Framed;
use protocol::Envelope;
use protocol::runner::RunnerAnswer;
use tokio::sync::OwnedSemaphorePermit;

use crate::checks::{self, Answer as _, Denied};
use crate::engine::session::{Session, SessionEnd, SessionSpec};
use crate::engine::{self, SshdError, StartError};
use crate::jobs::{NotBurned, burn, may_run_as};
use crate::places::SessionPlace;
use crate::runner::Runner;
use crate::server::ANSWER;
use crate::{chain, now};

/// Verifies, opens, and stays until it has ended. The last answer is given back, the one before is sent.
/// `slot` is the connection's place among those who ask; an accepted order has one of its own.
pub async fn session(
    runner: &Arc<Runner>,
    envelope: &Envelope,
    peer: &mut Framed,
    slot: OwnedSemaphorePermit,
) -> RunnerAnswer {
    let op = envelope.id();
    let (spec, _place) = match accept(runner, envelope).await {
        Ok(accepted) => accepted,
        Err(NotBurned::Denied(denied)) => {
            tracing::info!(%op, code = denied.code, why = denied.why, "session refused");
            return denied.answer();
        }
        Err(NotBurned::Disk(why)) => return RunnerAnswer::SessionEnded { why, duration_ms: 0 },
    };
    drop(slot);
    let config = &runner.config;
    let opened = engine::session::start(&runner.engine, &config.run_dir, &config.sshd, spec).await;
    let Session { host_key, socket, handle } = match opened {
        Ok(session) => session,
        Err(error) => {
            tracing::warn!(%op, error = chain(&error), "the session could not be opened");
            let why = format!("the session could not be opened: {}", in_our_words(&error));
            return RunnerAnswer::SessionEnded { why, duration_ms: 0 };
        }
    };
    tracing::info!(%op, "session ready");
    let canceller = handle.canceller();
    let ending = handle.wait();
    tokio::pin!(ending);
    let ready = RunnerAnswer::SessionReady { host_key: host_key.to_wire() };
    let sent = tokio::time::timeout(ANSWER, peer.send_with_fd(&ready, socket.as_fd())).await;
    // A copy that stayed open here would keep sshd from seeing its client go.
    drop(socket);
    let cancelled = if sent.is_ok_and(|sent| sent.is_ok()) {
        tokio::select! {
            end = &mut ending => return ended(&op, end, None),
            () = peer.closed() => "the warden closed its connection".to_owned(),
            why = runner.stopping() => why,
        }
    } else {
        "the warden did not take it".to_owned()
    };
    canceller.cancel();
    ended(&op, ending.await, Some(cancelled))
}

async fn accept(runner: &Arc<Runner>, envelope: &Envelope) -> Result<(SessionSpec, SessionPlace), NotBurned> {
    let authorized = runner.with_ledger(|anchor, ledger| {
        checks::verify(envelope, anchor, ledger.floor(), Kind::SessionOpen, now())
    })??;
    let order = authorized.get();
    if let Some(why) = runner.with_ledger(|_, ledger| ledger.replayed(&order.nonce, authorized.op()))? {
        return Err(Denied::new(RefusalCode::Replay, why).into());
    }
    let (params, operators) = checks::session(&authorized)?;
    let spec = specification(params, &authorized)?;
    if !runner.config.sshd.is_file() {
        let why = SshdError::Missing(runner.config.sshd.clone()).to_string();
        return Err(Denied::new(RefusalCode::Runner, why).into());
    }
    let place = runner.places.session(operators, runner.config.sessions_per_operator)?;
    may_run_as(&params.user).await?;
    burn(runner, &authorized)?;
    Ok((spec, place))
}

fn specification(params: &SessionParams, authorized: &Authorized<Order>) -> Result<SessionSpec, Denied> {
    // The engine refuses this too, but only when the nonce is burned.
    if matches!(&params.mode, SessionMode::Exec { command } if command.as_str().ends_with('\\')) {
        return Err(Denied::new(RefusalCode::BadOrder, SshdError::Command.to_string()));
    }
    let client_key = PublicKey::try_from(params.key)
        .map_err(|error| Denied::new(RefusalCode::BadOrder, error.to_string()))?;
    Ok(SessionSpec {
        user: params.user.clone(),
        client_key,
        mode: params.mode.clone(),
        forwards: params.forwards.clone(),
        idle: Duration::from_secs(params.idle_s.into()),
        max: Duration::from_secs(params.max_s.into()),
        not_after: authorized.get().exp,
    })
}

/// What is said here goes into a receipt, which the hub reads; what sshd says names targets and commands, and
/// stays in this host's log.
fn in_our_words(error: &StartError) -> String {
    match error {
        StartError::Sshd(SshdError::Refused(_)) => {
            "sshd refuses its configuration: see the runner's log on the host".into()
        }
        StartError::Sshd(SshdError::NoAnswer { .. }) => {
            "sshd did not say whether it takes its configuration: see the runner's log on the host".into()
        }
        StartError::Unknown { .. } => {
            "its supervisor ended before sshd had started: see the runner's log on the host".into()
        }
        other => chain(other),
    }
}

fn ended(op: &protocol::Sha256, end: SessionEnd, cancelled: Option<String>) -> RunnerAnswer {
    let duration_ms = u64::try_from(end.duration.as_millis()).unwrap_or(u64::MAX);
    let mut why = match cancelled {
        Some(cancelled) => format!("{cancelled}; {}", end.how),
        None => end.how.to_string(),
    };
    if !end.survivors.is_empty() {
        let pids: Vec<String> = end.survivors.iter().map(i32::to_string).collect();
        why.push_str(&format!("; process(es) {} of it could not be killed and still run", pids.join(", ")));
    }
    let said = end.said;
    tracing::info!(%op, %why, said, duration_ms, killed = end.leftovers_killed, "session ended");
    RunnerAnswer::SessionEnded { why, duration_ms }
}
