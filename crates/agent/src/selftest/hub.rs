//! `--selftest=hub`: one connection, one report, one acknowledgement. The service's own channel is
//! left alone.

use protocol::frame::{AgentFrame, HubFrame, Purpose};
use protocol::text::printable;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, timeout};
use tokio_tungstenite::WebSocketStream;

use super::Check;
use crate::channel::{Carrier, hello};
use crate::collect::Collector;
use crate::config::AgentConfig;
use crate::hub::connect;
use crate::run::{Opened, open_hub, random};
use crate::warden::Warden;
use crate::{boot_id, sentence};

/// For each answer of the hub.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes all checks, up to the first that the next ones depend on.
pub async fn hub(config: &AgentConfig) -> Vec<Check> {
    let mut checks = Vec::new();
    let Opened { record, hub } = match open_hub(config) {
        Ok(opened) => opened,
        Err(error) => return vec![Check::fail("enrollment", sentence(&error))],
    };
    checks.push(Check::ok("enrollment", format!("host {} of {}", record.host_id, record.url)));
    let warden = Warden::new(&config.warden_socket);
    let log_size = match warden.status().await {
        Ok(status) => {
            checks.push(match status.closed {
                None => Check::ok(
                    "warden",
                    format!("version {}, {} log entries", status.version, status.log_size),
                ),
                Some(why) => {
                    Check::fail_with("warden", format!("it refuses signed orders: {why}"), "see its log")
                }
            });
            Some(status.log_size)
        }
        Err(error) => {
            checks.push(Check::fail("warden", sentence(&error)));
            None
        }
    };
    let client = match config.proxmox.client() {
        Ok(client) => client,
        Err(error) => {
            checks.push(Check::fail("proxmox", sentence(&error)));
            return checks;
        }
    };
    let nonce = match random() {
        Ok(nonce) => nonce,
        Err(error) => {
            checks.push(Check::fail("connect", sentence(&error)));
            return checks;
        }
    };
    let socket = match connect(&hub, nonce).await {
        Ok(socket) => socket,
        Err(error) => {
            checks.push(Check::fail("connect", sentence(&error)));
            return checks;
        }
    };
    checks.push(Check::ok("connect", format!("{} shows the pinned key", hub.url())));
    let first = hello(record.host_id, boot_id(), Purpose::Selftest, log_size);
    let collector = Collector::new(client, Some(warden));
    checks.extend(round_trip(socket, first, &collector).await);
    checks
}

/// Hello, Welcome, Report, ReportStored.
pub async fn round_trip<S>(socket: WebSocketStream<S>, first: AgentFrame, collector: &Collector) -> Vec<Check>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut carrier = Carrier::new(socket);
    let mut checks = Vec::new();
    let welcome = async {
        carrier.send(&first).await.map_err(|error| sentence(&error))?;
        answer(&mut carrier, |frame| match frame {
            HubFrame::Welcome { receipts_held, .. } => {
                Some(Ok(format!("welcomed; the hub holds {receipts_held} log entries")))
            }
            HubFrame::Pending {} => {
                Some(Err("no operator has approved this host yet: `writ enroll approve`".to_owned()))
            }
            _ => None,
        })
        .await
    };
    match welcome.await {
        Ok(seen) => checks.push(Check::ok("welcome", seen)),
        Err(why) => {
            checks.push(Check::fail("welcome", why));
            return checks;
        }
    }
    let report = collector.collect().await;
    let stored = async {
        let frame = AgentFrame::Report { seq: 1, report: Box::new(report) };
        carrier.send(&frame).await.map_err(|error| sentence(&error))?;
        answer(&mut carrier, |frame| match frame {
            HubFrame::ReportStored { seq: 1 } => Some(Ok("the hub has stored a report".to_owned())),
            _ => None,
        })
        .await
    };
    checks.push(match stored.await {
        Ok(seen) => Check::ok("report", seen),
        Err(why) => Check::fail("report", why),
    });
    carrier.close().await;
    checks
}

/// Waits for the frame that `wanted` accepts or refuses; skips heartbeats.
async fn answer<S>(
    carrier: &mut Carrier<S>,
    wanted: impl Fn(&HubFrame) -> Option<Result<String, String>>,
) -> Result<String, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let waiting = async {
        loop {
            let frame = carrier.receive().await.map_err(|error| sentence(&error))?;
            match (&frame, wanted(&frame)) {
                (_, Some(result)) => return result,
                (HubFrame::Heartbeat {}, None) => {}
                (HubFrame::Bye { why, .. }, None) => {
                    return Err(format!("the hub ends the channel: {}", printable(why)));
                }
                (_, None) => {
                    return Err(
                        "the hub answered something else: are hub and agent of the same version?".to_owned()
                    );
                }
            }
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s: see the hub's log", PATIENCE.as_secs())))
}
