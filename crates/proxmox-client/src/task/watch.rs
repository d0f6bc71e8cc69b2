//! Following a task to its end. The loop is pure but for its clock: it asks a [`StatusSource`].

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::value::upid::Upid;
use crate::wire::classify::ErrorClass;
use crate::wire::error::ApiError;

/// How a task ended, or that it did not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd {
    /// `OK`.
    Ok,
    /// Done, with warnings to show.
    Warnings {
        /// As the task counted them.
        count: u32,
        /// The log lines that warn; may be fewer than `count`, or empty if the log was not readable.
        lines: Vec<String>,
    },
    /// The task says it failed.
    Failed {
        /// Its own words; [`crate::classify_text`] sorts them.
        text: String,
        /// The end of its log.
        last_lines: Vec<String>,
    },
    /// The task ended, or is gone, without a result. Re-read the object's state.
    Unknown {
        /// Why.
        why: String,
    },
    /// Still running when the time given was over. Not a failure: keep the UPID and ask again.
    StillRunning {
        /// The task.
        upid: Upid,
    },
}

/// `GET .../tasks/{upid}/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
    /// Not done.
    Running,
    /// Done.
    Ended {
        /// `OK`, `WARNINGS: n`, or the error's text.
        exitstatus: Option<String>,
    },
}

/// What an exit status means, before the log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok,
    Warnings(u32),
    Failed(String),
    Unknown(String),
}

/// `pve/facts.md` 4.5.
pub(crate) fn classify_exit(exitstatus: Option<&str>) -> Exit {
    let text = exitstatus.unwrap_or_default().trim();
    if text == "OK" {
        return Exit::Ok;
    }
    let count = text.strip_prefix("WARNINGS: ");
    if let Some(count) = count.filter(|c| !c.is_empty() && c.bytes().all(|b| b.is_ascii_digit())) {
        // All digits, so what does not fit is too many.
        return Exit::Warnings(count.parse().unwrap_or(u32::MAX));
    }
    if text.is_empty()
        || text == "unexpected status"
        || text.starts_with("unable to get last line from task log")
    {
        let said = if text.is_empty() { "no exit status" } else { text };
        return Exit::Unknown(format!(
            "the task ended without a result ({said}): it was killed, ran out of memory, or the host restarted; re-read the guest's state, and look for a leftover lock"
        ));
    }
    Exit::Failed(text.to_owned())
}

/// What the loop saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observed {
    Ended(Option<String>),
    Running,
    Lost(String),
}

/// Where the loop asks.
pub(crate) trait StatusSource {
    fn status(&mut self) -> impl Future<Output = Result<TaskStatus, ApiError>> + Send;

    /// Called after each look that found the task running.
    fn running(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// How often to look at something that takes its time: about every twentieth of the time that has
/// passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    most: Duration,
}

impl Pace {
    pub(crate) const USUAL: Self = Self { most: Duration::from_secs(2) };
    /// For what copies a whole guest.
    pub(crate) const LONG: Self = Self { most: Duration::from_secs(10) };

    pub(crate) fn of(task_type: &str) -> Self {
        match task_type {
            "vzdump" | "qmrestore" | "vzrestore" | "qmigrate" | "vzmigrate" | "hamigrate" => Self::LONG,
            _ => Self::USUAL,
        }
    }

    /// The pause after `elapsed`.
    pub(crate) fn pause(self, elapsed: Duration) -> Duration {
        let pause = (elapsed / 20).clamp(FIRST_PAUSE, self.most);
        // Twenty-five calls a minute are what one task may cost a node once it is past its start.
        if elapsed < START { pause } else { pause.max(START / 25) }
    }
}

/// `no such task` is seen briefly after a POST through a proxy (`pve/facts.md` 4.7).
const MISSING_LIMIT: Duration = Duration::from_secs(5);
/// Longer than the circuit breaker's pause and than a restart of the daemons.
const TROUBLE_LIMIT: Duration = Duration::from_secs(120);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// While a task is new, its end is worth more calls.
const START: Duration = Duration::from_secs(60);
/// Far enough to be never, near enough to add to any instant.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Polls until the task ends, is lost, or `limit` is over. Short tasks are noticed within 50 ms,
/// long ones cost at most a twentieth of their time in delay.
pub(crate) async fn watch(source: &mut impl StatusSource, pace: Pace, limit: Duration) -> Observed {
    let started = Instant::now();
    let deadline = started + limit.min(FOREVER);
    let mut missing: Option<Instant> = None;
    let mut trouble: Option<Instant> = None;
    loop {
        let last_error = match source.status().await {
            Ok(TaskStatus::Ended { exitstatus }) => return Observed::Ended(exitstatus),
            Ok(TaskStatus::Running) => {
                (missing, trouble) = (None, None);
                source.running().await;
                None
            }
            Err(error) => {
                let now = Instant::now();
                let (since, allowed) = match verdict(&error) {
                    // Only a look that succeeds starts these anew: two kinds of trouble that take turns
                    // are trouble all the same.
                    Verdict::Missing => (*missing.get_or_insert(now), MISSING_LIMIT),
                    Verdict::Transient => (*trouble.get_or_insert(now), TROUBLE_LIMIT),
                    Verdict::Final => return Observed::Lost(cannot_follow(&error)),
                };
                if now.duration_since(since) >= allowed {
                    return Observed::Lost(cannot_follow(&error));
                }
                Some(error)
            }
        };
        let now = Instant::now();
        if now >= deadline {
            return last_error.map_or(Observed::Running, |error| Observed::Lost(cannot_follow(&error)));
        }
        tokio::time::sleep_until(deadline.min(now + pace.pause(now.duration_since(started)))).await;
    }
}

fn cannot_follow(error: &ApiError) -> String {
    format!("the task could not be followed ({error}); re-read the guest's state and the node's task list")
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Missing,
    Transient,
    Final,
}

fn verdict(error: &ApiError) -> Verdict {
    match error.class() {
        // A 400 that says `no such task`. A 500 "does not exist" is about something else, for example a
        // name server that does not answer just now (`hostname lookup 'pve2' failed`).
        ErrorClass::NotFound if error.status() == Some(400) => Verdict::Missing,
        ErrorClass::NotFound
        | ErrorClass::Auth
        | ErrorClass::NodeUnreachable
        | ErrorClass::Ambiguous
        | ErrorClass::Busy
        | ErrorClass::NoQuorum
        | ErrorClass::Other => Verdict::Transient,
        ErrorClass::Untrusted
        | ErrorClass::Permission { .. }
        | ErrorClass::Parameter
        | ErrorClass::NoSuchMethod
        | ErrorClass::Locked { .. }
        | ErrorClass::DigestMismatch => Verdict::Final,
    }
}

#[cfg(test)]
mod tests;
