//! `writ-agent status`: what this host is to the hub, in a few lines.

use protocol::text::printable;

use crate::config::AgentConfig;
use crate::device::DeviceKey;
use crate::selftest::Check;
use crate::sentence;
use crate::state::{DesiredStore, HubRecord};
use crate::warden::Warden;

/// What is there and whether it can be used. Connects to the warden only.
pub async fn status(config: &AgentConfig) -> Vec<Check> {
    let directory = &config.state_dir;
    let mut lines = Vec::new();
    if let Err(error) = authz::files::prepare_state_dir(directory) {
        return vec![Check::fail("state", sentence(&error))];
    }
    lines.push(match HubRecord::load(directory) {
        Ok(Some(record)) => {
            Check::ok("hub", format!("{}, key {}, host {}", record.url, record.pin, record.host_id))
        }
        Ok(None) => Check::fail_with(
            "hub",
            "this host is not enrolled",
            "ask an operator for a code (`writ enroll new`) and run `writ-agent enroll`",
        ),
        Err(error) => Check::fail("hub", sentence(&error)),
    });
    lines.push(match DeviceKey::open(directory) {
        Ok(Some(key)) => Check::ok("device key", key.public().fingerprint().to_string()),
        Ok(None) => Check::fail_with("device key", "there is none", "it is made by `writ-agent enroll`"),
        Err(error) => Check::fail("device key", sentence(&error)),
    });
    lines.push(match DesiredStore::open(directory) {
        Ok(store) => Check::ok(
            "desired state",
            store.current().map_or_else(
                || "none so far".to_owned(),
                |desired| {
                    format!(
                        "generation {}, {} guest(s), content {}",
                        desired.generation,
                        desired.state.guests.len(),
                        desired.hash
                    )
                },
            ),
        ),
        Err(error) => Check::fail("desired state", sentence(&error)),
    });
    lines.push(match Warden::new(&config.warden_socket).status().await {
        Err(error) => Check::fail("warden", sentence(&error)),
        Ok(status) => match (status.closed, status.enrolled) {
            (Some(why), _) => Check::fail_with(
                "warden",
                format!("it refuses signed orders: {}", printable(&why)),
                "see its log",
            ),
            (None, None) => Check::fail_with("warden", "it is not enrolled", "run `writ-agent enroll`"),
            (None, Some(enrolled)) => Check::ok(
                "warden",
                format!(
                    "version {}, host key {}, policy {} ({}), {} log entries",
                    printable(&status.version),
                    enrolled.host_key.fingerprint(),
                    enrolled.policy_version,
                    enrolled.policy,
                    status.log_size
                ),
            ),
        },
    });
    lines
}
