//! Reading an answer that was recorded elsewhere, exactly as the client reads one off the wire.

use crate::wire::classify::ErrorClass;
use crate::wire::error::{Delivery, Failure, delivery};
use crate::wire::named::wrong_task;
use crate::wire::transport::{MAX_LONG_BODY, body_limit, envelope, error_answer};

use super::{AnyCall, Data, all};

/// What the client makes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Understanding {
    /// The name of the call; `None` where the client has no typed method for it.
    pub call: Option<&'static str>,
    /// What it is.
    pub outcome: Understood,
}

/// See [`Understanding`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Understood {
    /// The call's own type could be made of it.
    Typed,
    /// A success that nobody here asks for: an envelope of a call without a method, or a body that is
    /// compressed, which this client never allows.
    Envelope,
    /// A refusal.
    Refused {
        /// Sorted.
        class: ErrorClass,
        /// Whether the request may have had an effect.
        delivery: Delivery,
        /// The best text there is.
        text: String,
    },
    /// A success that cannot be read.
    Unreadable(String),
}

/// Reads the answer to `method path` (below `/api2/json`, percent-encoded or not, query allowed).
#[must_use]
pub fn understand(method: &str, path: &str, status: u16, reason: Option<&str>, body: &[u8]) -> Understanding {
    let call = find(method, path);
    let name = call.map(|call| call.shape().name);
    let outcome = if (200..300).contains(&status) && is_gzip(body) {
        Understood::Envelope
    } else if (200..300).contains(&status) {
        let limit = call.map_or(MAX_LONG_BODY, |call| body_limit(call.shape()));
        match (envelope(body, limit), call) {
            (Ok(data), Some(call)) => {
                match another_task(call, path, &data).map_or_else(|| call.check(data), Err) {
                    Ok(()) => Understood::Typed,
                    Err(why) => Understood::Unreadable(why),
                }
            }
            (Ok(_), None) => Understood::Envelope,
            (Err(Failure::BadAnswer { why } | Failure::TooLarge { what: why }), _) => {
                Understood::Unreadable(why)
            }
            (Err(_), _) => Understood::Unreadable("not an answer".to_owned()),
        }
    } else {
        let answer = error_answer(status, reason.map(str::to_owned), body);
        Understood::Refused {
            class: answer.class(),
            delivery: delivery(status),
            text: answer.text().to_owned(),
        }
    };
    Understanding { call: name, outcome }
}

/// Why the task that is named cannot be the request's. Who asked is not known here.
fn another_task(call: &dyn AnyCall, path: &str, data: &Data) -> Option<String> {
    let parts: Vec<&str> = parts(path).collect();
    wrong_task(call.shape(), &parts, None, &data.value).map(|(upid, why)| format!("the task {upid}: {why}"))
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('?').next().unwrap_or_default().split('/').filter(|part| !part.is_empty())
}

/// Whether the body is compressed. Recordings keep bodies as text, in which the second byte of the
/// magic number became U+FFFD.
fn is_gzip(body: &[u8]) -> bool {
    body.starts_with(b"\x1f\x8b") || body.starts_with("\u{1f}\u{fffd}".as_bytes())
}

/// The call that has this method and path. A literal beats a placeholder; the last placeholder
/// takes slashes too where it is a volume, as Proxmox's router does.
fn find(method: &str, path: &str) -> Option<&'static dyn AnyCall> {
    let parts: Vec<&str> = parts(path).collect();
    let score = |call: &&'static dyn AnyCall| {
        let shape = call.shape();
        (shape.verb.as_str() == method).then(|| matches(shape.path, &parts)).flatten()
    };
    all().filter_map(|call| Some((score(&call)?, call))).max_by_key(|(score, _)| *score).map(|(_, call)| call)
}

/// How many literals match; `None` if it is another path.
fn matches(template: &str, parts: &[&str]) -> Option<usize> {
    let wanted: Vec<&str> = template.split('/').filter(|part| !part.is_empty()).collect();
    let swallows = wanted.last() == Some(&"{volume}");
    if !(wanted.len() == parts.len() || swallows && parts.len() > wanted.len()) {
        return None;
    }
    let mut literals = 0;
    for (wanted, part) in wanted.iter().zip(parts) {
        if wanted.starts_with('{') {
            // `qemu/{vmid}` is not `qemu/abc`, but Proxmox answers both in the same way.
            continue;
        }
        if wanted != part {
            return None;
        }
        literals += 1;
    }
    Some(literals)
}
