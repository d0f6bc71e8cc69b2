//! What sshd says on its standard error, and what it tells about the session's end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use protocol::UserName;
use protocol::text::printable;

/// So many last lines are kept, each cut at so many bytes.
const LINES: usize = 6;
const LINE: usize = 256;
/// A client whose last channel was closed says goodbye within so long.
const GOODBYE: Duration = Duration::from_secs(2);

/// Reads line by line, in constant space.
#[derive(Debug)]
pub(crate) struct Log {
    accepted: String,
    line: Vec<u8>,
    tail: VecDeque<String>,
    /// Somebody logged in.
    pub(crate) authenticated: bool,
    idle: Option<Instant>,
}

impl Log {
    pub(crate) fn of(user: &UserName) -> Self {
        Self {
            // A line begins with what sshd's own code says; a client's words only ever follow, escaped.
            accepted: format!("Accepted publickey for {user} from "),
            line: Vec::new(),
            tail: VecDeque::new(),
            authenticated: false,
            idle: None,
        }
    }

    /// What was said, and when.
    pub(crate) fn take(&mut self, bytes: &[u8], now: Instant) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.end_line(now);
            } else if self.line.len() < LINE {
                self.line.push(*byte);
            }
        }
    }

    /// Whether a session that ended then ended because nothing happened in it.
    pub(crate) fn idle(&self, ended: Instant) -> bool {
        self.idle.is_some_and(|closed| ended.saturating_duration_since(closed) <= GOODBYE)
    }

    /// The last lines, the last of all included even when it was not finished.
    pub(crate) fn last_words(mut self) -> String {
        self.end_line(Instant::now());
        Vec::from(self.tail).join("; ")
    }

    fn end_line(&mut self, now: Instant) {
        let line = printable(&String::from_utf8_lossy(&std::mem::take(&mut self.line)));
        if line.is_empty() {
            return;
        }
        self.authenticated |= line.starts_with(&self.accepted);
        let closes_idle = line.starts_with("terminating inactive connection ")
            || (line.starts_with("channel ") && line.ends_with(" of inactivity"));
        if closes_idle {
            self.idle = Some(now);
        } else if line.starts_with("Starting session: ") {
            self.idle = None;
        }
        if self.tail.len() == LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str], now: Instant) -> Log {
        let mut log = Log::of(&"anna".parse().unwrap());
        for line in lines {
            log.take(line.as_bytes(), now);
            log.take(b"\r\n", now);
        }
        log
    }

    const IN: &str = "Accepted publickey for anna from UNKNOWN port 65535 ssh2: ED25519 SHA256:x";

    #[test]
    fn a_login_is_what_sshd_says_at_the_start_of_a_line() {
        let now = Instant::now();
        assert!(log(&[IN], now).authenticated);
        for other in [
            "Invalid user Accepted publickey for anna from UNKNOWN",
            "Accepted publickey for annabel from UNKNOWN port 65535 ssh2",
            "Accepted password for anna from UNKNOWN port 65535 ssh2",
            "Accepted key ED25519 SHA256:x found at /x:1",
        ] {
            assert!(!log(&[other], now).authenticated, "{other}");
        }
    }

    #[test]
    fn idleness_counts_when_it_was_the_last_thing() {
        let now = Instant::now();
        let closed = "channel 0: closing after 2 seconds of inactivity";
        let bye = ["Close session: user anna from UNKNOWN", "Received disconnect from UNKNOWN: 11"];
        assert!(log(&[IN, closed, bye[0], bye[1]], now).idle(now + Duration::from_millis(1500)));
        assert!(!log(&[IN, closed, bye[0], bye[1]], now).idle(now + Duration::from_millis(2500)));
        assert!(log(&[IN, "terminating inactive connection from user anna UNKNOWN"], now).idle(now));
        assert!(!log(&[IN, closed, "Starting session: shell for anna", bye[1]], now).idle(now));
        assert!(!log(&[IN, bye[1]], now).idle(now));
    }

    #[test]
    fn any_amount_of_words_costs_little_and_is_printable() {
        let now = Instant::now();
        let mut log = log(&["first"; 100], now);
        log.take(&[0x1b; 100_000], now);
        log.take(b"\nunfinished", now);
        let words = log.last_words();
        assert!(words.len() < (LINES + 1) * (LINE + 2) && !words.contains('\u{1b}'), "{words}");
        assert!(words.ends_with("; unfinished"));
    }
}
