//! A way for crash tests to stop the real binary at a durable point: when `WRIT_WARDEN_HOLD_AT` names
//! the point, the warden writes one line to standard error and waits there for ever, to be killed.
//! Exists in debug builds only; a release build ignores the variable.

/// Points between two durable writes, or between one and a word to Proxmox, the runner or the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The order is written down as verified; the nonce is not burned.
    Verified,
    /// The nonce is burned and logged.
    Committed,
    /// STARTING is written down; Proxmox was not called.
    Starting,
    /// Proxmox answered with a task; it is not written down.
    Called,
    /// RUNNING is written down.
    Running,
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
}

impl Point {
    #[cfg(debug_assertions)]
    const fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Committed => "committed",
            Self::Starting => "starting",
            Self::Called => "called",
            Self::Running => "running",
            Self::Handing => "handing",
            Self::Handed => "handed",
            Self::Ended => "ended",
            Self::Stored => "stored",
            Self::Ready => "ready",
            Self::Finished => "finished",
        }
    }
}

/// Waits for ever if a test asked for it.
#[cfg(debug_assertions)]
pub async fn at(point: Point) {
    if std::env::var("WRIT_WARDEN_HOLD_AT").is_ok_and(|wanted| wanted == point.name()) {
        eprintln!("writ-warden: holding at {}", point.name());
        std::future::pending::<()>().await;
    }
}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub async fn at(_point: Point) {}
