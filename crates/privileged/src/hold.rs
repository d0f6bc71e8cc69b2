//! A way for crash tests to stop the real binary at a durable point: when `WRIT_PRIVILEGED_HOLD_AT` names the
//! point, it writes one line to standard error and waits there for ever, to be killed. Exists in debug builds
//! only; a release build ignores the variable.

/// Points between two durable writes, or between one and a step that cannot be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// All checks passed; nothing is written.
    Verified,
    /// The order's file is there; the nonce is not burned.
    Accepted,
    /// The nonce is burned; nothing was started.
    Committed,
    /// The file says that it is being started; it was not.
    Starting,
    /// The programs ended; that is not written down.
    Ended,
    /// The end is durable; nobody was told.
    Stored,
}

impl Point {
    #[cfg(debug_assertions)]
    const fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Accepted => "accepted",
            Self::Committed => "committed",
            Self::Starting => "starting",
            Self::Ended => "ended",
            Self::Stored => "stored",
        }
    }
}

/// Waits for ever if a test asked for it.
#[cfg(debug_assertions)]
pub async fn at(point: Point) {
    if std::env::var("WRIT_PRIVILEGED_HOLD_AT").is_ok_and(|wanted| wanted == point.name()) {
        eprintln!("writ-privileged: holding at {}", point.name());
        std::future::pending::<()>().await;
    }
}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
pub async fn at(_point: Point) {}
