//! A way for crash tests to stop the real binary at a durable point: when `WRIT_WARDEN_HOLD_AT` names
//! the point, the warden writes one line to standard error and waits there for ever, to be killed.
//! `before-` and the point's name is the moment right before it, `:2` after it the second time that it is reached.
//! Exists in debug builds only; a release build ignores the variable.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU32, Ordering};

/// Points between two durable writes, or between one and a word to Proxmox, the runner or the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The order is written down as verified; the nonce is not burned.
    Verified,
    /// The nonce is burned; nothing tells of it but the order's file.
    Burned,
    /// The clock's signed floor is moved.
    Timed,
    /// The nonce is burned and logged.
    Committed,
    /// STARTING is written down; Proxmox was not called.
    Starting,
    /// Proxmox answered with a task; it is not written down.
    Called,
    /// RUNNING is written down.
    Running,
    /// A call of several is done, and the next one is not begun.
    Between,
    /// What became of all calls is known; nothing of that is written down.
    Judged,
    /// The script or session is about to be handed to the runner; that is written down.
    Handing,
    /// The runner was asked; it has not answered.
    Handed,
    /// The runner told how the script ended; nothing of that is written down.
    Ended,
    /// The result of the script is stored; the receipt is not in the log.
    Stored,
    /// The session's readiness is in the log; the agent was not told.
    Ready,
    /// The receipt is in the log; the open order is not removed.
    Finished,
    /// The open order is removed.
    Forgotten,
}

impl Point {
    #[cfg(debug_assertions)]
    const fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Burned => "burned",
            Self::Timed => "timed",
            Self::Committed => "committed",
            Self::Starting => "starting",
            Self::Called => "called",
            Self::Running => "running",
            Self::Between => "between",
            Self::Judged => "judged",
            Self::Handing => "handing",
            Self::Handed => "handed",
            Self::Ended => "ended",
            Self::Stored => "stored",
            Self::Ready => "ready",
            Self::Finished => "finished",
            Self::Forgotten => "forgotten",
        }
    }
}

/// Waits for ever if a test asked for it.
#[cfg(debug_assertions)]
pub async fn at(point: Point) {
    if is_wanted("", point) {
        std::future::pending::<()>().await;
    }
}

/// The same right before the point.
#[cfg(debug_assertions)]
pub async fn before(point: Point) {
    if is_wanted("before-", point) {
        std::future::pending::<()>().await;
    }
}

/// [`at`] where nobody can be waited for, a lock in hand.
#[cfg(debug_assertions)]
pub fn block_at(point: Point) {
    if is_wanted("", point) {
        for_ever();
    }
}

/// [`before`] where nobody can be waited for, a lock in hand.
#[cfg(debug_assertions)]
pub fn block_before(point: Point) {
    if is_wanted("before-", point) {
        for_ever();
    }
}

#[cfg(debug_assertions)]
fn for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

#[cfg(debug_assertions)]
fn is_wanted(side: &str, point: Point) -> bool {
    static REACHED: AtomicU32 = AtomicU32::new(0);

    let name = point.name();
    let Ok(wanted) = std::env::var("WRIT_WARDEN_HOLD_AT") else { return false };
    let (wanted, time) = wanted.rsplit_once(':').unwrap_or((&wanted, "1"));
    if wanted.strip_prefix(side) != Some(name) {
        return false;
    }
    let reached = REACHED.fetch_add(1, Ordering::Relaxed) + 1;
    let wanted = time.parse() == Ok(reached);
    if wanted {
        eprintln!("writ-warden: holding at {side}{name}");
    }
    wanted
}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub async fn at(_point: Point) {}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub async fn before(_point: Point) {}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub fn block_at(_point: Point) {}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub fn block_before(_point: Point) {}
