//! `--selftest=read`: can everything be read that is needed, and is it in order? Changes nothing, and goes on
//! after what is refused.

mod access;
mod guests;
mod host;
mod pins;
mod place;

use std::sync::atomic::{AtomicBool, Ordering};
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
/// repeat the first failure. The same goes for what a node would be asked when it is not known which.
pub async fn read(
    settings: &ProxmoxSettings,
    role: Option<Role>,
    of_agent: bool,
    findings: &mut Findings<'_>,
) {
    let Some(client) = connect(settings, findings).await else { return };
    let place = place::find(client, settings.node.as_ref()).await;
    if let (true, Err(failure)) = (place.over, &place.node) {
        return findings.push(failure.clone());
    }
    let client = &place.client;
    let guess = role.unwrap_or(Role::Report);
    let mut seen = Seen::new(client, guess, findings.pins_given);
    let certificates = match &place.node {
        Ok(_) => Some(client.certificates_info().await),
        Err(_) => None,
    };
    pins::check(client, settings, certificates.as_ref(), findings);
    if place.node.is_ok() {
        findings.push(clock(&seen).await);
    }
    if seen.over() {
        return;
    }
    seen.role = access::check(&seen, role, of_agent, findings).await;
    if seen.over() {
        return;
    }
    let seen = seen;
    let there = place.node.is_ok();
    match &place.node {
        Ok(found) => host::node(&seen, found, findings).await,
        Err(failure) => findings.push(failure.clone()),
    }
    if seen.over() {
        return;
    }
    let here = host::cluster(&seen, findings).await;
    if there && !seen.over() {
        host::storages(&seen, findings).await;
    }
    if there && !seen.over() {
        guests::guests(&seen, here, findings).await;
    }
    if there && !seen.over() {
        guests::tasks(&seen, findings).await;
    }
    if let Some(certificates) = certificates.filter(|_| !seen.over()) {
        host::certificates(&seen, certificates, findings);
    }
    if there && !seen.over() {
        host::disks(&seen, findings).await;
    }
    if !seen.over() {
        host::ha(&seen, findings).await;
    }
    if there && !seen.over() {
        host::replication(&seen, findings).await;
    }
}

/// Through whose eyes, and what was said already.
struct Seen<'a> {
    client: &'a Client,
    role: Role,
    pins_given: bool,
    /// The lines that grant the role were printed.
    granted: AtomicBool,
    /// Another certificate or a dead token: every further question would get the same answer.
    over: AtomicBool,
}

impl<'a> Seen<'a> {
    fn new(client: &'a Client, role: Role, pins_given: bool) -> Self {
        let no = || AtomicBool::new(false);
        Self { client, role, pins_given, granted: no(), over: no() }
    }

    /// Whether there is no use in going on.
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The lines that grant what is lacking were told.
    fn has_granted(&self) {
        self.granted.store(true, Ordering::Relaxed);
    }

    /// The error in words; remembers one that ends everything.
    fn words(&self, error: &ApiError) -> String {
        if matches!(error.class(), ErrorClass::Untrusted | ErrorClass::Auth) {
            self.over.store(true, Ordering::Relaxed);
        }
        if self.pins_given { words(error) } else { error.to_string() }
    }

    /// With the lines that grant the role, once.
    fn grant(&self, check: Check) -> Check {
        match self.granted.swap(true, Ordering::Relaxed) {
            true => check,
            false => check.with(self.role.grant(self.client.identity())),
        }
    }

    /// A read without which Writ does not work was refused.
    fn needed(&self, name: &'static str, error: &ApiError) -> Check {
        match error.class() {
            ErrorClass::Permission { path, privilege } => {
                self.grant(Check::fail(name, lacks(&path, &privilege)))
            }
            _ => Check::fail(name, self.words(error)),
        }
    }

    /// A read that is good to have was refused.
    fn useful(&self, name: &'static str, error: &ApiError) -> Check {
        match error.class() {
            ErrorClass::Permission { path, privilege } => {
                self.grant(Check::warn(name, lacks(&path, &privilege)))
            }
            _ if is_not_here(error) => Check::ok(name, not_here(error)),
            _ => Check::warn(name, self.words(error)),
        }
    }
}

/// The error, without the command that puts the new pin into a configuration: there may be none.
pub(super) fn words(error: &ApiError) -> String {
    let text = error.to_string();
    match error.pin_mismatch().and_then(|_| text.split_once(": `sed ")) {
        Some((before, _)) => before.to_owned(),
        None => text,
    }
}

/// A method that this version lacks, or a tool or device that this host does not have. Every other refusal is
/// worth a look. These texts are in no recording.
fn is_not_here(error: &ApiError) -> bool {
    if error.class() == ErrorClass::NoSuchMethod {
        return true;
    }
    let text = error.message().or(error.reason()).unwrap_or_default();
    error.status() == Some(500) && is_not_here_text(text)
}

fn is_not_here_text(text: &str) -> bool {
    // `smartctl` ends so for a disk that is a virtual one, or sleeps.
    text.starts_with("Error getting S.M.A.R.T. data: Exit code: ")
        || (text.contains("failed to execute") && text.contains("No such file or directory"))
        || (text.starts_with("command '") && text.trim_end().ends_with("failed: No such file or directory"))
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
            let text = if findings.pins_given { words(&error) } else { error.to_string() };
            findings.push(Check::fail(name, text));
            None
        }
    }
}

/// The node's clock against this one's.
async fn clock(seen: &Seen<'_>) -> Check {
    let (asked, began) = (unix_now(), Instant::now());
    match seen.client.node_time().await {
        Err(error) => match error.class() {
            ErrorClass::Permission { path, privilege } => Check::warn("clock", lacks(&path, &privilege)),
            ErrorClass::Untrusted | ErrorClass::Auth => Check::fail("clock", seen.words(&error)),
            // Reports say then that it is unknown.
            _ => Check::warn("clock", seen.words(&error)),
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
