//! A refused request, in the form the API reports it.

use std::collections::BTreeMap;

/// An answer other than success: status, text, and the per-parameter errors of a 400.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The reason phrase, which is also the JSON `message`.
    pub text: String,
    /// The `errors` map; only ever filled for 400.
    pub errors: BTreeMap<String, String>,
    /// Whether `message` ends in a newline: texts of Perl's `die "…\n"` do, those of the router do not.
    pub newline: bool,
}

impl Refusal {
    /// Any status with a text raised by a handler.
    pub fn new(status: u16, text: impl Into<String>) -> Refusal {
        Refusal { status, text: text.into(), errors: BTreeMap::new(), newline: true }
    }

    /// 500, Proxmox VE's answer to everything a handler dies of.
    pub fn internal(text: impl Into<String>) -> Refusal {
        Refusal::new(500, text)
    }

    /// 400 `Parameter verification failed.` with its `errors` map.
    pub fn parameters(errors: BTreeMap<String, String>) -> Refusal {
        Refusal { errors, ..Refusal::new(400, "Parameter verification failed.") }
    }

    /// [`Refusal::parameters`] with one entry.
    pub fn parameter(name: &str, text: impl Into<String>) -> Refusal {
        Refusal::parameters(BTreeMap::from([(name.to_owned(), text.into())]))
    }

    /// 403 for `privileges` (already joined by `|`) on `path`.
    pub fn permission(path: &str, privileges: &str) -> Refusal {
        Refusal::new(403, format!("Permission check failed ({path}, {privileges})"))
    }

    /// 403 of a method only the user `root@pam` may call, never a token.
    pub fn root_only() -> Refusal {
        Refusal::new(403, "Permission check failed (user != root@pam)")
    }

    /// 595: the node or the daemon behind the web server cannot be reached. Such an answer has no
    /// body, and the request was not handled.
    pub fn unreachable() -> Refusal {
        Refusal::new(595, "Connection refused")
    }

    /// The 500 of a write without a quorum.
    pub fn no_quorum() -> Refusal {
        Refusal::internal("cluster not ready - no quorum?")
    }

    /// 501 of the router for a method and path it does not know.
    pub fn not_implemented(method: &str, path: &str) -> Refusal {
        Refusal { newline: false, ..Refusal::new(501, format!("Method '{method} {path}' not implemented")) }
    }
}
