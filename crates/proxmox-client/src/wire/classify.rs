//! What a status and a text mean. Proxmox answers nearly every refusal with 500, and the same
//! texts come back as task results, so the text is what there is to go by.

use std::collections::BTreeMap;

/// What went wrong, as far as a caller must branch on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorClass {
    /// The server is not the pinned one, or its TLS handshake is not valid.
    Untrusted,
    /// 401: the token is unknown, wrong, expired or disabled.
    Auth,
    /// 403: the token's rights do not suffice. Comes before existence is tested.
    Permission {
        /// The object the right is missing on, e.g. `/vms/100`; empty if the text does not say.
        path: String,
        /// The missing privilege, alternatives joined with `|`; or the whole reason.
        privilege: String,
    },
    /// 400, or refused here before sending: a parameter is wrong.
    Parameter,
    /// 501: this version has no such method.
    NoSuchMethod,
    /// The guest, task, node, storage or snapshot does not exist (here).
    NotFound,
    /// The guest's config carries a lock.
    Locked {
        /// `backup`, `snapshot`, `migrate`, ...
        by: String,
    },
    /// Another task holds the config file for a moment; trying again later is sensible.
    Busy,
    /// The cluster has no quorum; reads work, writes do not.
    NoQuorum,
    /// The config changed since its digest was read.
    DigestMismatch,
    /// The node (or its daemon) was not reached; the request was not delivered.
    NodeUnreachable,
    /// The request went out and no complete answer came back.
    Ambiguous,
    /// None of the above.
    Other,
}

/// Statuses of something between here and the handler, which say nothing about what the handler does.
/// Proxmox's own proxy says 596 to 599 (`pve/facts.md` 3.8). Others that people put before it say 408 (no
/// whole request in time: parts of it may have been passed on), 502 to 504 (a bad answer, none, or none
/// in time) and, behind a content network, 520 to 530 (the same, sorted more finely; even those that
/// claim no connection come after retries of their own). 409 is none of them: who says that has read
/// the request and refused it.
pub(crate) const fn is_lost_behind_a_proxy(status: u16) -> bool {
    matches!(status, 408 | 502..=504 | 520..=530 | 596..=599)
}

/// Sorts an answer. `errors` is the parameter map of a 400.
pub(crate) fn classify(status: u16, text: &str, errors: &BTreeMap<String, String>) -> ErrorClass {
    match status {
        401 => ErrorClass::Auth,
        403 => permission(text),
        400 if errors.get("upid").is_some_and(|text| text.contains("no such task")) => ErrorClass::NotFound,
        400 => ErrorClass::Parameter,
        // 501 also says `for data too large` and `Unexpected content`, which are not that.
        501 if text.starts_with("Method '") || text.starts_with("method '") || text.is_empty() => {
            ErrorClass::NoSuchMethod
        }
        595 => ErrorClass::NodeUnreachable,
        _ if is_lost_behind_a_proxy(status) => ErrorClass::Ambiguous,
        _ => classify_text(text),
    }
}

/// Sorts the text of a 500 or of a failed task (`VM is locked (backup)`,
/// `can't lock file '...' - got timeout`, ...).
#[must_use]
pub fn classify_text(text: &str) -> ErrorClass {
    let text = text.trim();
    if let Some(by) = locked_by(text) {
        ErrorClass::Locked { by }
    } else if text.contains("Permission check failed") {
        // Workers check rights too: `403 Permission check failed (/vms/101, VM.Backup)`.
        permission(text)
    } else if text.contains("only root can ")
        || text.contains("Only root can ")
        || text.contains("only possible for root")
        || text.contains("only allowed for root@pam")
    {
        // Closed to every token, `root@pam!x` included (`pve/facts.md` 1.5, 2); a 500 for virtual machines.
        permission(text)
    } else if text.contains("no quorum") {
        ErrorClass::NoQuorum
    } else if text.contains("checksum mismatch (file change by other user?)")
        || text.contains("detected modified configuration")
    {
        ErrorClass::DigestMismatch
    } else if text.contains("can't lock file")
        || text.contains("error with cfs lock")
        || text.contains("cfs-lock '")
    {
        ErrorClass::Busy
    } else if text.contains("does not exist")
        || text.starts_with("hostname lookup '")
        || text.starts_with("no such ")
        || text.starts_with("unable to find configuration file")
    {
        ErrorClass::NotFound
    } else {
        ErrorClass::Other
    }
}

/// `VM is locked (backup)`, `CT is locked (snapshot-delete)`.
fn locked_by(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(" is locked (")?;
    let (by, _) = rest.split_once(')')?;
    Some(by.to_owned())
}

/// `Permission check failed (/vms/100, VM.Snapshot)`.
fn permission(text: &str) -> ErrorClass {
    // Other refusals have brackets of their own: `changing feature flags (except nesting) is only …`.
    let inner = text
        .split_once("Permission check failed (")
        .and_then(|(_, rest)| rest.rsplit_once(')'))
        .map_or(text.trim(), |(inner, _)| inner.trim());
    match inner.split_once(',') {
        Some((path, privilege)) if path.starts_with('/') => {
            ErrorClass::Permission { path: path.trim().to_owned(), privilege: privilege.trim().to_owned() }
        }
        _ => ErrorClass::Permission { path: String::new(), privilege: inner.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(by: &str) -> ErrorClass {
        ErrorClass::Locked { by: by.to_owned() }
    }

    fn lacks(path: &str, privilege: &str) -> ErrorClass {
        ErrorClass::Permission { path: path.to_owned(), privilege: privilege.to_owned() }
    }

    #[test]
    fn texts_that_no_recording_holds() {
        let none = BTreeMap::new();
        for (status, text, class) in [
            (500, "cluster not ready - no quorum?", ErrorClass::NoQuorum),
            (
                500,
                "detected modified configuration - file changed by other user? Try again.",
                ErrorClass::DigestMismatch,
            ),
            (500, "checksum mismatch (file change by other user?)", ErrorClass::DigestMismatch),
            (403, "Permission check failed (user != root@pam)", lacks("", "user != root@pam")),
            (403, "Permission check failed", lacks("", "Permission check failed")),
            (403, "", lacks("", "")),
            (403, ")(", lacks("", ")(")),
            (501, "for data too large", ErrorClass::Other),
            (501, "Unexpected content for method 'DELETE'", ErrorClass::Other),
            (506, "", ErrorClass::Other),
            (400, "bad request", ErrorClass::Parameter),
            (
                400,
                "duplicate parameter (already defined in URI) with conflicting values!",
                ErrorClass::Parameter,
            ),
            (597, "", ErrorClass::Ambiguous),
            (598, "", ErrorClass::Ambiguous),
            (502, "Bad Gateway", ErrorClass::Ambiguous),
            (503, "", ErrorClass::Ambiguous),
            (595, "No route to host", ErrorClass::NodeUnreachable),
            (595, "", ErrorClass::NodeUnreachable),
            (500, "got timeout", ErrorClass::Other),
            (500, "error with cfs lock 'file-replication_cfg': got lock request timeout", ErrorClass::Busy),
            (500, "cfs-lock 'file-user_cfg' error: got lock request timeout", ErrorClass::Busy),
            (500, "cfs-lock 'file-user_cfg' error: no quorum!", ErrorClass::NoQuorum),
            (500, "no such resource 'vm:100'", ErrorClass::NotFound),
            (500, "unable to find configuration file for VM 100 on node 'pve1'", ErrorClass::NotFound),
            (500, "can't remove VM 101 - protection mode enabled", ErrorClass::Other),
            (500, "can't overwrite running container", ErrorClass::Other),
            (500, "unable to restore VM 103 - VM 103 already exists on node 'pve1'", ErrorClass::Other),
            (500, "There is a max backup limit of 1 enforced by the target storage", ErrorClass::Other),
            (500, "only root can set 'args' config", lacks("", "only root can set 'args' config")),
            (
                403,
                "changing feature flags (except nesting) is only allowed for root@pam",
                lacks("", "changing feature flags (except nesting) is only allowed for root@pam"),
            ),
            (
                403,
                "URI '/access/ticket' not available with API token, need proper ticket.",
                lacks("", "URI '/access/ticket' not available with API token, need proper ticket."),
            ),
            (
                500,
                "Only root can pass arbitrary filesystem paths.",
                lacks("", "Only root can pass arbitrary filesystem paths."),
            ),
            (
                500,
                "restoring 'mp0' to bind mount is only possible for root",
                lacks("", "restoring 'mp0' to bind mount is only possible for root"),
            ),
            (596, "Connection timed out", ErrorClass::Ambiguous),
            (599, "", ErrorClass::Ambiguous),
            (504, "", ErrorClass::Ambiguous),
            (408, "Request Timeout", ErrorClass::Ambiguous),
            (520, "", ErrorClass::Ambiguous),
            (524, "", ErrorClass::Ambiguous),
            (530, "", ErrorClass::Ambiguous),
            (531, "", ErrorClass::Other),
            (505, "", ErrorClass::Other),
            (409, "Conflict", ErrorClass::Other),
            (500, "", ErrorClass::Other),
            (500, "is locked (", ErrorClass::Other),
            (302, "moved", ErrorClass::Other),
        ] {
            assert_eq!(classify(status, text, &none), class, "{status} {text}");
        }
    }

    #[test]
    fn task_texts() {
        for (text, class) in [
            ("VM is locked (backup)", locked("backup")),
            ("CT is locked (snapshot-delete)", locked("snapshot-delete")),
            ("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", ErrorClass::Busy),
            ("VM quit/powerdown failed - got timeout", ErrorClass::Other),
            ("403 Permission check failed (/vms/101, VM.Backup)", lacks("/vms/101", "VM.Backup")),
            ("snapshot 'nosuch' does not exist", ErrorClass::NotFound),
            ("snapshot feature is not available", ErrorClass::Other),
            ("snapshot name 'before' already used", ErrorClass::Other),
            ("can't rollback, 'a' is not most recent snapshot on 'zfs:vm-100-disk-0'", ErrorClass::Other),
            ("unable to rollback to incomplete snapshot", ErrorClass::Other),
            ("snapshot 'x' needed by replication job '100-0' - run replication first", ErrorClass::Other),
            (
                "mount point type bind is only allowed for root@pam",
                lacks("", "mount point type bind is only allowed for root@pam"),
            ),
            ("unable to clone mountpoint 'mp0' (type bind)", ErrorClass::Other),
            ("could not activate storage 'offl': storage 'offl' is disabled", ErrorClass::Other),
            ("interrupted by signal", ErrorClass::Other),
            ("received interrupt", ErrorClass::Other),
            ("job errors", ErrorClass::Other),
            ("cluster not ready - no quorum?", ErrorClass::NoQuorum),
            ("VM is locked (suspending)", locked("suspending")),
        ] {
            assert_eq!(classify_text(text), class, "{text}");
        }
    }
}
