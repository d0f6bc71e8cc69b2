//! `--selftest=read`: can everything be read that is needed, and is it in order? Changes nothing, and goes on
//! after what is refused.

mod access;
mod guests;
mod host;
mod pins;

use std::time::{Duration, Instant};

use proxmox_client::{ApiError, Client, ErrorClass};

pub use access::Role;

use super::{Check, Findings};
use crate::config::ProxmoxSettings;
use crate::{sentence, unix_now};

/// Both clocks are one on the host itself; signed orders tolerate little more.
const CLOCK_LIMIT: u64 = 5;
/// Slower than this and an answer says little about the clock.
const SLOW_ANSWER: Duration = Duration::from_secs(2);

/// Makes all checks. When nothing can be read at all the later ones are left out: they would only
/// repeat the first failure.
pub async fn read(
    settings: &ProxmoxSettings,
    role: Option<Role>,
    of_agent: bool,
    findings: &mut Findings<'_>,
) {
    let Some(client) = connect(settings, findings).await else { return };
    let certificates = client.certificates_info().await;
    pins::check(&client, settings, &certificates, findings);
    findings.push(clock(&client).await);
    let role = access::check(&client, role, of_agent, findings).await;
    let seen = Seen { client: &client, role };
    host::node(&seen, findings).await;
    let here = host::cluster(&seen, findings).await;
    host::storages(&seen, findings).await;
    guests::guests(&seen, here, findings).await;
    guests::tasks(&seen, findings).await;
    host::certificates(&seen, certificates, findings);
    host::disks(&seen, findings).await;
    host::ha(&seen, findings).await;
    host::replication(&seen, findings).await;
}

/// Through whose eyes.
struct Seen<'a> {
    client: &'a Client,
    role: Role,
}

impl Seen<'_> {
    /// A read without which Writ does not work was refused.
    fn needed(&self, name: &'static str, error: &ApiError) -> Check {
        match error.class() {
            ErrorClass::Permission { path, privilege } => {
                Check::fail_with(name, lacks(&path, &privilege), self.role.grant(self.client.identity()))
            }
            _ => Check::fail(name, error.to_string()),
        }
    }

    /// A read that is good to have was refused.
    fn useful(&self, name: &'static str, error: &ApiError) -> Check {
        match error.class() {
            ErrorClass::Permission { path, privilege } => {
                Check::warn(name, lacks(&path, &privilege)).with(self.role.grant(self.client.identity()))
            }
            // What a method that this node lacks, or a tool that fails on it, cannot tell.
            ErrorClass::NoSuchMethod | ErrorClass::Other if error.status().is_some() => {
                Check::ok(name, not_here(error))
            }
            _ => Check::warn(name, error.to_string()),
        }
    }
}

fn lacks(path: &str, privilege: &str) -> String {
    match path {
        "" => format!("refused to this token: {privilege}"),
        path => format!("cannot be read: the token lacks {} on {path}", privilege.replace('|', " or ")),
    }
}

/// For what a container, a nested host or another version does not have.
fn not_here(error: &ApiError) -> String {
    match (error.status(), error.message().or(error.reason())) {
        (Some(status), Some(text)) => format!("not available here ({status} {})", text.trim()),
        _ => format!("not available here ({error})"),
    }
}

/// The token file, the connection, the version. Nothing when there is no use in going on.
pub(super) async fn connect(settings: &ProxmoxSettings, findings: &mut Findings<'_>) -> Option<Client> {
    let client = match settings.client() {
        Ok(client) => client,
        Err(error) => {
            findings.push(Check::fail("token file", sentence(&error)));
            return None;
        }
    };
    let file = settings.token_file.display();
    findings.push(Check::ok("token file", format!("{file} for {}", client.identity())));
    match client.version().await {
        Ok(version) => {
            let known = matches!(version.major(), Some(8 | 9));
            let seen = format!("{} is Proxmox VE {}", client.endpoint(), version.version);
            findings.version = Some(version.version);
            findings.push(match known {
                true => Check::ok("api", seen),
                false => Check::fail_with("api", seen, "Use Proxmox VE 8 or 9; nothing else was tried."),
            });
            Some(client)
        }
        Err(error) => {
            let name = match error.status() {
                _ if error.pin_mismatch().is_some() => "pin",
                Some(401) => "token",
                _ => "api",
            };
            findings.push(Check::fail(name, error.to_string()));
            None
        }
    }
}

/// The node's clock against this one's.
async fn clock(client: &Client) -> Check {
    let (asked, began) = (unix_now(), Instant::now());
    match client.node_time().await {
        Err(error) => match error.class() {
            ErrorClass::Permission { path, privilege } => Check::warn("clock", lacks(&path, &privilege)),
            // Reports say then that it is unknown.
            _ => Check::warn("clock", error.to_string()),
        },
        Ok(time) => judge_clock(time.time, asked, began.elapsed()),
    }
}

/// The answer was made at some instant between question and arrival.
fn judge_clock(node: u64, asked: u64, took: Duration) -> Check {
    let middle = asked + took.as_secs() / 2;
    let (far, which) = match node >= middle {
        true => (node - middle, "ahead of"),
        false => (middle - node, "behind"),
    };
    let mut seen = format!("the node's is {far} s {which} this one's");
    if far <= 1 {
        seen = "the node's and this one's agree".to_owned();
    }
    if took > SLOW_ANSWER {
        seen.push_str(&format!(" (its answer took {} s)", took.as_secs()));
    }
    if far > CLOCK_LIMIT + took.as_secs() / 2 {
        return Check::warn("clock", seen).with(
            "Set the clocks by NTP on both sides (`chronyc tracking`, `timedatectl`): orders are valid for a time only.",
        );
    }
    Check::ok("clock", seen)
}

#[cfg(test)]
mod tests;
