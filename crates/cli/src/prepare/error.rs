//! Why no order can be prepared: the cause, and what to do.

use authz::Kind;
use protocol::text::printable;
use protocol::{HostName, RunState, SnapshotName, Vmid};

/// Most names that a sentence lists.
const LISTED: usize = 8;

/// Why no order can be prepared. Nothing was signed or sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// A fact that the order must name is missing.
    #[error(
        "host '{host}' does not tell {what} ({why}), and an order must name it: try again, or see `writ host {host}`"
    )]
    Unknown {
        /// The host.
        host: HostName,
        /// Which fact, and of what.
        what: String,
        /// Why it is missing.
        why: String,
    },
    /// A word that could make the order look like another one.
    #[error(
        "the {what} of guest {vmid} contains characters that could disguise what is signed ({shown}): rename it on the host first"
    )]
    Disguised {
        /// The guest.
        vmid: Vmid,
        /// Which fact.
        what: &'static str,
        /// Made safe.
        shown: String,
    },
    /// A name that Proxmox has and no order can have.
    #[error(
        "the {what} '{shown}' is of a form that no order can name: rename or remove it on the host first"
    )]
    Unnameable {
        /// Which fact.
        what: &'static str,
        /// Made safe.
        shown: String,
    },
    /// Not there, with the nearest that is.
    #[error("{of} has no {what} '{asked}'{hint}")]
    NotThere {
        /// Where it was looked for.
        of: String,
        /// What kind of thing.
        what: &'static str,
        /// As asked for.
        asked: String,
        /// The nearest, or which there are.
        hint: String,
    },
    /// The name is taken.
    #[error("guest {vmid} already has a snapshot '{snapshot}': choose another name")]
    SnapshotExists {
        /// The guest.
        vmid: Vmid,
        /// As asked for.
        snapshot: SnapshotName,
    },
    /// The guest does not run, or does.
    #[error("guest {vmid} is {state}: {remedy}")]
    State {
        /// The guest.
        vmid: Vmid,
        /// As it is now.
        state: RunState,
        /// What it should be, and how it becomes that.
        remedy: &'static str,
    },
    /// The number alone does not say what the guest was.
    #[error(
        "the host reports no guest {0}, so it is not known what its backups are of: say it with --type qemu or --type lxc"
    )]
    WhoseBackups(Vmid),
    /// It is so already, or cannot be so.
    #[error("{0}")]
    Pointless(String),
    /// What the host itself would say of the order now.
    #[error("the host would refuse this order now: {0}")]
    Refused(String),
    /// Nobody may order it.
    #[error("your policy has no rule for {0}: the host would refuse the order")]
    NoRule(Kind),
    /// A plan would be needed, and nobody makes one for this kind.
    #[error(
        "your policy does not let {0} stand without a plan, and there are no plans for it: the host would refuse the order; let it stand in the policy (`writ policy next`)"
    )]
    NeedsPlan(Kind),
    /// More signatures than one person can give.
    #[error(
        "your policy wants {threshold} signers for {kind}, and this command signs with one key: the host would refuse the order"
    )]
    Signers {
        /// The kind.
        kind: Kind,
        /// The policy's.
        threshold: u32,
    },
    /// A number or a list that no order may have.
    #[error("no order can be made of this: {0}")]
    Range(String),
    /// Too long.
    #[error("your policy lets {kind} be valid for at most {max_s} s, not {asked_s} s: use a shorter --valid")]
    Validity {
        /// The kind.
        kind: Kind,
        /// The policy's.
        max_s: u64,
        /// As asked for.
        asked_s: u64,
    },
}

impl PrepareError {
    /// What was asked for is not there. Of the names only a few are shown, and made safe.
    pub(super) fn not_there<'a>(
        of: impl Into<String>,
        what: &'static str,
        asked: &str,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self::NotThere { of: of.into(), what, asked: printable(asked), hint: hint(asked, names) }
    }
}

/// The nearest of the names, or which there are.
fn hint<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    // As long as nothing that can be asked for is, and the comparison takes the product of both lengths.
    let names: Vec<&str> = names.into_iter().filter(|name| name.len() <= 512).collect();
    match protocol::config::nearest(asked, &names) {
        Some(best) => format!(": did you mean '{}'?", printable(best)),
        None if names.is_empty() => ": it has none".to_owned(),
        None => format!(" (there are: {})", list(&names)),
    }
}

/// Names in a sentence, made safe; long lists are cut.
pub(super) fn list(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| printable(name.as_ref())).collect();
    match names.len().checked_sub(LISTED) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
}
