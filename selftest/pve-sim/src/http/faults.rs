//! Carrying out the faults of [`crate::world::Mishap`].

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use futures_util::stream;
use hyper::Response;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use serde_json::{Value, json};

use super::{Incoming, Outcome, Shared, lock};
use crate::sim::Door;
use crate::world::{Mishap, Refusal, Release, Upid};

/// Pieces of a large body.
const CHUNK: u64 = 64 * 1024;

/// What becomes of a request before it is handled.
pub(crate) enum Before {
    /// It is handled as usual.
    Handle,
    /// It gets this answer instead.
    Answer(Outcome),
    /// The connection is closed.
    Close,
    /// Nothing ever comes.
    Hang,
}

/// What keeps the daemon behind the web server from answering.
#[derive(Debug, Default)]
pub(crate) struct DaemonRest {
    until: Option<Instant>,
    requests: u32,
}

impl DaemonRest {
    /// Whether a request meets the daemon while it is down; counts the request.
    pub(crate) fn meets(&mut self) -> bool {
        let early = self.until.is_some_and(|until| Instant::now() < until);
        let counted = self.requests > 0;
        self.requests = self.requests.saturating_sub(1);
        early || counted
    }
}

/// The VMID in a path such as `/api2/json/nodes/pve1/qemu/100/config`.
fn vmid_of(path: &str) -> Option<u32> {
    let mut parts = path.split('/');
    parts.by_ref().find(|p| matches!(*p, "qemu" | "lxc"))?;
    parts.next()?.parse().ok()
}

impl Shared {
    /// Lets happen what concerns the node and not an answer; `None` for any other mishap.
    pub(crate) fn to_node(&self, mishap: &Mishap, path: &str) -> Option<Result<(), String>> {
        let now = self.now();
        let the_guest = |vmid: &Option<u32>| {
            vmid.or_else(|| vmid_of(path)).ok_or_else(|| "which guest? give its 'vmid'".to_owned())
        };
        Some(match mishap {
            Mishap::Refuse { ms } => {
                self.door.send_replace(Door::closed_for(Duration::from_millis(*ms)));
                Ok(())
            }
            Mishap::Certificate { new } => {
                self.swap_certificate(*new).map(drop).map_err(|error| error.to_string())
            }
            Mishap::Quorum { lost } => {
                lock(&self.world).cluster.quorate = !lost;
                Ok(())
            }
            Mishap::DaemonRestart { ms, requests } => {
                let until = Instant::now().checked_add(Duration::from_millis(*ms));
                *lock(&self.daemon) = DaemonRest { until, requests: *requests };
                let mut world = lock(&self.world);
                world.settle_all(now);
                world.interrupt_all(now);
                Ok(())
            }
            Mishap::ReplaceGuest { vmid } => the_guest(vmid).and_then(|vmid| {
                let known = lock(&self.world).replace_guest(vmid, now);
                known.then_some(()).ok_or_else(|| format!("there is no guest {vmid}"))
            }),
            Mishap::Flock { vmid } => the_guest(vmid).and_then(|vmid| {
                let mut world = lock(&self.world);
                let known = world.guests.contains_key(&vmid);
                world.flocked.extend(known.then_some(vmid));
                known.then_some(()).ok_or_else(|| format!("there is no guest {vmid}"))
            }),
            Mishap::DigestRace { vmid } => the_guest(vmid).and_then(|vmid| {
                let mut world = lock(&self.world);
                let guest = world.guests.get_mut(&vmid);
                let guest = guest.ok_or_else(|| format!("there is no guest {vmid}"))?;
                let before = guest.text("description").unwrap_or_default();
                let after = format!("{before}changed by somebody else\n");
                guest.config.insert("description".to_owned(), json!(after));
                Ok(())
            }),
            _ => return None,
        })
    }

    /// What the fired mishaps do before the request is handled.
    pub(crate) fn before(&self, fired: &[Mishap], path: &str) -> Before {
        for mishap in fired {
            if let Some(Err(sentence)) = self.to_node(mishap, path) {
                tracing::warn!(fault = ?mishap, "a fault could not be carried out: {sentence}");
            }
        }
        for mishap in fired {
            match mishap {
                Mishap::Refuse { .. } | Mishap::Reset { handled: false } => return Before::Close,
                Mishap::Hang { handled: false } => return Before::Hang,
                Mishap::Unauthorized { reason } => {
                    let release = lock(&self.world).release;
                    let reason = reason.clone().unwrap_or_else(|| {
                        match release {
                            Release::V8 => "invalid token value!",
                            Release::V9 => "Authentication failed!",
                        }
                        .to_owned()
                    });
                    return Before::Answer(Outcome::bare(401, &reason));
                }
                Mishap::Error { text } => {
                    return Before::Answer(Outcome::refused(&Refusal::internal(text), super::Format::Json));
                }
                Mishap::Status { status, reason, body, handled: false } => {
                    return Before::Answer(scripted(*status, reason, body));
                }
                Mishap::Proxy { status: 595, reason, .. } => {
                    return Before::Answer(proxy(595, reason.as_deref()));
                }
                _ => {}
            }
        }
        Before::Handle
    }

    /// How long after the answer the request is to be handled, and that answer.
    pub(crate) fn answered_early(fired: &[Mishap]) -> Option<(Duration, Outcome)> {
        fired.iter().find_map(|mishap| match mishap {
            Mishap::Proxy { status, reason, later_ms } if *status != 595 && *later_ms > 0 => {
                Some((Duration::from_millis(*later_ms), proxy(*status, reason.as_deref())))
            }
            _ => None,
        })
    }

    /// What the fired mishaps make of the outcome; `None` closes the connection.
    pub(crate) async fn after(&self, fired: &[Mishap], mut outcome: Outcome) -> Option<Outcome> {
        for mishap in fired {
            match mishap {
                Mishap::Reset { handled: true } => return None,
                Mishap::Hang { handled: true } => std::future::pending().await,
                Mishap::Status { status, reason, body, handled: true } => {
                    outcome = scripted(*status, reason, body);
                }
                Mishap::Proxy { status, reason, .. } => outcome = proxy(*status, reason.as_deref()),
                Mishap::Upid { upid } => {
                    let another = upid.clone().or_else(|| outcome.upid().as_deref().and_then(never_was));
                    if let (Some(another), Some(envelope)) = (another, outcome.envelope.as_mut()) {
                        envelope["data"] = json!(another);
                    }
                }
                Mishap::NoData {} => {
                    if let Some(map) = outcome.envelope.as_mut().and_then(Value::as_object_mut) {
                        map.remove("data");
                    }
                }
                Mishap::BadJson { text } => {
                    let half = r#"{"data":[{"vmid":100,"name":"we"#;
                    outcome.replace_body(text.as_deref().unwrap_or(half).as_bytes());
                }
                Mishap::BadText {} => outcome.replace_body(b"{\"data\":\"\xff\xfe\xc0\"}"),
                Mishap::BigBody { bytes } => outcome.big = Some(*bytes),
                Mishap::Drip { bytes, ms } => {
                    let piece = usize::try_from(*bytes).unwrap_or(usize::MAX).max(1);
                    outcome.drip = Some((piece, Duration::from_millis((*ms).into())));
                }
                task => {
                    if let Some(upid) = outcome.upid() {
                        lock(&self.world).afflict(&upid, task);
                    }
                }
            }
        }
        Some(outcome)
    }
}

fn scripted(status: u16, reason: &str, body: &str) -> Outcome {
    let mut outcome = Outcome::bare(status, reason);
    if !body.is_empty() {
        outcome.replace_body(body.as_bytes());
    }
    outcome
}

/// The web server's own answer when the daemon or node behind it does not answer: no body.
fn proxy(status: u16, reason: Option<&str>) -> Outcome {
    let usual = match status {
        595 => "Connection refused",
        // What the HTTP library behind the real proxy says of a connection that went silent.
        596 => "Connection timed out",
        597 => "Broken pipe",
        598 => "Aborted",
        _ => "Too many redirections",
    };
    Outcome::bare(status, reason.unwrap_or(usual))
}

/// The UPID of a process that never was.
fn never_was(upid: &str) -> Option<String> {
    let known = Upid::parse(upid)?;
    Some(Upid { pid: known.pid ^ 0x0100_0000, ..known }.to_string())
}

/// Sends a body piece by piece, with its length in the header.
pub(crate) fn slowly(body: Vec<u8>, piece: usize, every: Duration) -> Response<Body> {
    let length = body.len();
    let pieces = stream::unfold(Bytes::from(body), move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(every).await;
        let next = rest.split_to(piece.min(rest.len()));
        Some((Ok::<_, Infallible>(next), rest))
    });
    with_length(Body::from_stream(pieces), length as u64)
}

/// `{"data":"xxx…"}` with so many letters, never all of it in memory.
pub(crate) fn large(letters: u64) -> Response<Body> {
    let (head, tail) = (r#"{"data":""#, r#""}"#);
    let length = letters.saturating_add((head.len() + tail.len()) as u64);
    let chunk = Bytes::from(vec![b'x'; CHUNK as usize]);
    let middle = stream::unfold(letters, move |left| {
        let chunk = chunk.clone();
        async move {
            let size = left.min(CHUNK);
            (size > 0).then(|| (chunk.slice(..size as usize), left - size))
        }
    });
    let edge = |text: &'static str| stream::iter([Bytes::from_static(text.as_bytes())]);
    let all = stream::StreamExt::chain(stream::StreamExt::chain(edge(head), middle), edge(tail));
    with_length(Body::from_stream(stream::StreamExt::map(all, Ok::<_, Infallible>)), length)
}

fn with_length(body: Body, length: u64) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Whether the web server hands the request to the daemon behind it instead of answering itself:
/// every method that changes something, and these reads (the schema says which).
pub(crate) fn is_protected(incoming: &Incoming, parts: &[&str]) -> bool {
    if incoming.method != "GET" {
        return true;
    }
    match parts {
        ["cluster", "status"] | ["access", "users"] => true,
        ["nodes", _, rest @ ..] => match rest {
            ["tasks", _, what] => matches!(*what, "log" | "status"),
            ["qemu" | "lxc", rest @ ..] => matches!(
                rest,
                [] | [_, "feature" | "snapshot" | "rrd" | "rrddata" | "migrate" | "interfaces"]
                    | [_, "status", "current"]
            ),
            ["storage"] | ["storage", _, _, ..] | ["disks", _, ..] => true,
            ["services" | "syslog" | "journal" | "report" | "hosts" | "rrd" | "rrddata" | "replication"] => {
                true
            }
            ["apt", "update"] | ["hardware", ..] | ["vzdump", "extractconfig"] => true,
            ["services" | "replication", ..] => true,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmids_in_paths() {
        assert_eq!(vmid_of("/api2/json/nodes/pve1/qemu/100/config"), Some(100));
        assert_eq!(vmid_of("/api2/json/nodes/pve1/lxc"), None);
        assert_eq!(vmid_of("/api2/json/nodes/pve1/lxc/x"), None);
        assert_eq!(vmid_of(""), None);
    }

    #[test]
    fn another_upid_keeps_its_form() {
        let upid = "UPID:pve1:0000016B:0002B38C:6B025E0A:vzcreate:200:tester@pve!full:";
        let other = never_was(upid).unwrap();
        assert_ne!(other, upid);
        assert_eq!(Upid::parse(&other).unwrap().pid, 0x0100_016B);
        assert_eq!(never_was("x"), None);
    }

    #[test]
    fn a_restarting_daemon_counts_down() {
        let mut rest = DaemonRest { until: None, requests: 2 };
        assert_eq!([rest.meets(), rest.meets(), rest.meets()], [true, true, false]);
    }
}
