//! What must come out.

/// The durable points of an order, in their order: names of `warden::hold`.
pub(crate) const POINTS: [&str; 11] = [
    "verified",
    "burned",
    "timed",
    "committed",
    "between",
    "starting",
    "called",
    "running",
    "judged",
    "finished",
    "forgotten",
];

/// Of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Before,
    After,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Before, Self::After];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// What Proxmox says of the call after the crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Truth {
    NotStarted,
    Running,
    Ok,
    Failed,
}

impl Truth {
    pub(crate) const ALL: [Self; 4] = [Self::NotStarted, Self::Running, Self::Ok, Self::Failed];
}

/// How the order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Not accepted: the same order may come again.
    Free,
    Aborted,
    Done,
    Failed,
    Unknown,
    /// The guest is as it was before the first of two calls, and the receipt says what was done and undone.
    PutRight,
}

impl End {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Aborted => "aborted",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::PutRight => "put right",
        }
    }
}

/// What is on the disk at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Disk {
    /// No burned nonce.
    Nothing,
    /// Burned; the order's file says VERIFIED.
    Burned,
    /// The first of two calls was made, the second not begun.
    Between,
    /// STARTING: the call may have been made.
    Starting,
    /// RUNNING with the task's name.
    Running,
    /// The end is in the log.
    Ended,
}

pub(crate) fn disk(point: &str, side: Side) -> Disk {
    match (point, side) {
        ("verified", _) | ("burned", Side::Before) => Disk::Nothing,
        ("burned" | "timed" | "committed", _) | ("starting", Side::Before) => Disk::Burned,
        ("between", _) => Disk::Between,
        ("starting" | "called", _) | ("running", Side::Before) => Disk::Starting,
        ("running" | "judged", _) | ("finished", Side::Before) => Disk::Running,
        _ => Disk::Ended,
    }
}

/// Whether Proxmox got the call.
pub(crate) fn was_sent(point: &str, side: Side) -> bool {
    disk(point, side) >= Disk::Running
        || matches!((point, side), ("called", Side::After) | ("running", Side::Before))
}

/// Whether the task has ended when the point is reached.
pub(crate) fn has_ended(point: &str, side: Side) -> bool {
    disk(point, side) == Disk::Ended || matches!((point, side), ("judged" | "finished", _))
}

/// The table of `security.md` 2.7.
pub(crate) fn expected(point: &str, side: Side, truth: Truth) -> End {
    match (disk(point, side), truth) {
        (Disk::Nothing, _) => End::Free,
        (Disk::Burned, _) => End::Aborted,
        // Before: the first of two calls left no trace. After: it is undone.
        (Disk::Between, _) if side == Side::Before => End::Aborted,
        (Disk::Between, _) => End::PutRight,
        (Disk::Starting, Truth::NotStarted) => End::Aborted,
        // What was named and is gone cannot have been "not accepted".
        (Disk::Running, Truth::NotStarted) => End::Unknown,
        (Disk::Starting | Disk::Running, Truth::Running | Truth::Ok) => End::Done,
        (Disk::Starting | Disk::Running | Disk::Ended, Truth::Failed) => End::Failed,
        // Whatever Proxmox says later: the log keeps what was.
        (Disk::Ended, _) => End::Done,
    }
}
