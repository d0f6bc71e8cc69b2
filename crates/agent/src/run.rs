//! `writ-agent run`: starts the parts and keeps the channel open, for ever.

use std::sync::Arc;
use std::time::Duration;

use authz::files::{self, FileError};
use protocol::frame::Purpose;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::channel::{Ports, hello, serve};
use crate::collect::Collector;
use crate::config::{AgentConfig, ProxmoxSetupError};
use crate::device::{DeviceKey, DeviceKeyError};
use crate::hub::{HubClient, HubError, HubPins, connect};
use crate::orders::{InFlight, desk};
use crate::rounds::Reconciler;
use crate::session::Session;
use crate::state::{DesiredStore, HubRecord, StateError};
use crate::warden::Warden;
use crate::{boot_id, sentence};

/// News that may wait for the channel before its senders have to.
const NOTES: usize = 64;

/// Why the service cannot start. Once it runs, trouble is logged and waited out.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory.
    #[error(transparent)]
    Directory(#[from] FileError),
    /// A file in it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The device key.
    #[error(transparent)]
    Device(#[from] DeviceKeyError),
    /// The Proxmox client.
    #[error(transparent)]
    Proxmox(#[from] ProxmoxSetupError),
    /// The hub's client.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Nobody enrolled this host.
    #[error(
        "this host is not enrolled: ask an operator for a code (`writ enroll new`) and run `writ-agent enroll`"
    )]
    NotEnrolled,
    /// No randomness.
    #[error("the operating system gives no random bytes: try again later")]
    Random(#[source] getrandom::Error),
    /// A part ended although it should not.
    #[error("a part of the agent ended unexpectedly; see the log above and report it")]
    PartEnded,
}

/// What is known of the hub, opened for use.
pub struct Opened {
    /// The hub that this host enrolled with.
    pub record: HubRecord,
    /// A client for it.
    pub hub: HubClient,
}

/// Opens what enrollment left in the state directory.
pub fn open_hub(config: &AgentConfig) -> Result<Opened, RunError> {
    files::prepare_state_dir(&config.state_dir)?;
    let record = HubRecord::load(&config.state_dir)?.ok_or(RunError::NotEnrolled)?;
    let device = DeviceKey::open(&config.state_dir)?.ok_or(RunError::NotEnrolled)?;
    let pins = HubPins { current: record.pin, next: record.next };
    let hub = HubClient::new(&record.url, pins, &device)?;
    Ok(Opened { record, hub })
}

/// Random bytes of the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], RunError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(RunError::Random)?;
    Ok(bytes)
}

/// Runs until `stop` resolves or a part fails.
pub async fn run(config: &AgentConfig, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let Opened { record, hub } = open_hub(config)?;
    let warden = Warden::new(&config.warden_socket);
    let collector = Collector::new(config.proxmox.client()?, Some(warden.clone()));
    let desired = DesiredStore::open(&config.state_dir)?;
    let (sender, notes) = mpsc::channel(NOTES);
    let kick = Arc::new(Notify::new());
    let in_flight = Arc::new(InFlight::default());
    let (wanted, wants) = watch::channel(desired.current().cloned().map(Arc::new));
    let (desk, clerk) = desk(warden.clone(), sender.clone(), kick.clone(), in_flight.clone());
    let reconciler = Reconciler {
        collector,
        warden: warden.clone(),
        interval: config.report_interval,
        desired: wants,
        kick: kick.clone(),
        notes: sender,
        in_flight,
    };
    let session = Session::default();
    let ports = Ports { warden, hub: hub.clone(), desk, desired, wanted, kick, notes, session };
    // Dropping the set ends the parts with this function.
    let mut parts = JoinSet::new();
    parts.spawn(clerk.run());
    parts.spawn(reconciler.run());
    tracing::info!(host = %record.host_id, hub = record.url, "agent running");
    tokio::select! {
        ended = stay_connected(&hub, &record, ports) => ended,
        _ = parts.join_next() => Err(RunError::PartEnded),
        () = stop => {
            tracing::info!("agent stopping");
            Ok(())
        }
    }
}

async fn stay_connected(hub: &HubClient, record: &HubRecord, mut ports: Ports) -> Result<(), RunError> {
    let mut backoff = Backoff::default();
    loop {
        let nonce = random()?;
        let warden = ports.warden.clone();
        let attempt = async {
            let log_size = warden.status().await.map(|status| status.log_size).ok();
            connect(hub, nonce).await.map(|socket| (socket, log_size))
        };
        let ended = match keeping_notes(&mut ports, attempt).await {
            Ok((socket, log_size)) => {
                let first = hello(record.host_id, boot_id(), Purpose::Run, log_size);
                let ended = serve(socket, first, &mut ports).await;
                if ended.was_open {
                    backoff.reset();
                }
                (ended.why, ended.retry_after)
            }
            Err(error) => (sentence(&error), Duration::ZERO),
        };
        let (why, at_least) = ended;
        let wait = backoff.wait(u32::from_le_bytes(random()?), at_least);
        tracing::warn!(retry_in_ms = wait.as_millis() as u64, "no channel: {why}");
        keeping_notes(&mut ports, tokio::time::sleep(wait)).await;
    }
}

/// Waits for something while the other parts go on talking.
async fn keeping_notes<T>(ports: &mut Ports, waiting: impl Future<Output = T>) -> T {
    let mut waiting = std::pin::pin!(waiting);
    loop {
        tokio::select! {
            done = &mut waiting => return done,
            Some(note) = ports.notes.recv() => {
                // Without a channel a note only waits; there is nothing to do.
                let _ = ports.session.on_note(note);
            }
        }
    }
}

#[cfg(test)]
mod tests;
