//! Following a task: to its end, and through its log.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::client::Client;
use crate::task::watch::{Exit, Observed, Pace, StatusSource, TaskEnd, TaskStatus, classify_exit, watch};
use crate::task::{LogLine, TaskLog};
use crate::value::upid::Upid;
use crate::wire::error::ApiError;

/// How much of a log an end shows.
const LAST_LINES: u64 = 20;
const MAX_WARNINGS: usize = 50;
const LOG_PAGE: u32 = 500;
const MAX_PAGES: u32 = 20;
/// Log calls come on top of the status calls, so they are made less often while the task is new.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// A log that hangs must not hide the task's end.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);

/// How to follow a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitOptions {
    /// For how long.
    pub limit: Duration,
    /// How many lines of the log are handed on at most; the last twenty come even beyond it, and
    /// their numbers show the gap.
    pub most_lines: u64,
}

impl WaitOptions {
    /// That long, and ten thousand lines.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self { limit, most_lines: 10_000 }
    }
}

impl Client {
    /// Follows a task for at most `limit`. Cannot fail: trouble on the way is survived for a while
    /// (restarting daemons, an unreachable node, a paused token) and then becomes
    /// [`TaskEnd::Unknown`].
    pub async fn wait_task(&self, upid: &Upid, limit: Duration) -> TaskEnd {
        let mut source = OneTask { client: self, upid };
        let seen = watch(&mut source, Pace::of(upid.task_type()), limit).await;
        self.end(upid, seen).await
    }

    /// The same, handing on the task's log: each line once and in order while the task runs, the rest
    /// after its end. A log that is slow, lost or cut off changes nothing about the end.
    pub async fn wait_task_with(
        &self,
        upid: &Upid,
        options: WaitOptions,
        on_line: impl FnMut(&LogLine) + Send,
    ) -> TaskEnd {
        let mut source = Streamed {
            task: OneTask { client: self, upid },
            tail: Tail::new(options.most_lines, on_line),
            asked: None,
        };
        let seen = watch(&mut source, Pace::of(upid.task_type()), options.limit).await;
        source.drain(matches!(seen, Observed::Ended(_))).await;
        self.end(upid, seen).await
    }

    async fn end(&self, upid: &Upid, seen: Observed) -> TaskEnd {
        match seen {
            Observed::Running => TaskEnd::StillRunning { upid: upid.clone() },
            Observed::Lost(why) => TaskEnd::Unknown { why },
            Observed::Ended(exitstatus) => match classify_exit(exitstatus.as_deref()) {
                Exit::Ok => TaskEnd::Ok,
                Exit::Warnings(count) => TaskEnd::Warnings { count, lines: self.warnings(upid).await },
                Exit::Failed(text) => TaskEnd::Failed { text, last_lines: self.last_lines(upid).await },
                Exit::Unknown(why) => TaskEnd::Unknown { why },
            },
        }
    }

    /// The log's warning lines. A log that cannot be read does not change how the task ended.
    async fn warnings(&self, upid: &Upid) -> Vec<String> {
        let mut found = Vec::new();
        let mut start = 0;
        for _ in 0..MAX_PAGES {
            let Ok(page) = self.task_log(upid, start, LOG_PAGE).await else { break };
            let count = page.lines.len() as u64;
            found
                .extend(page.lines.into_iter().map(|line| line.text).filter(|text| text.starts_with("WARN")));
            start += count;
            if count == 0 || start >= page.total || found.len() >= MAX_WARNINGS {
                break;
            }
        }
        found.truncate(MAX_WARNINGS);
        found
    }

    async fn last_lines(&self, upid: &Upid) -> Vec<String> {
        let Ok(first) = self.task_log(upid, 0, 1).await else { return Vec::new() };
        let start = first.total.saturating_sub(LAST_LINES);
        let Ok(end) = self.task_log(upid, start, LAST_LINES as u32).await else { return Vec::new() };
        end.lines.into_iter().map(|line| line.text).collect()
    }
}

struct OneTask<'a> {
    client: &'a Client,
    upid: &'a Upid,
}

impl StatusSource for OneTask<'_> {
    async fn status(&mut self) -> Result<TaskStatus, ApiError> {
        self.client.task_status(self.upid).await
    }
}

struct Streamed<'a, F> {
    task: OneTask<'a>,
    tail: Tail<F>,
    asked: Option<Instant>,
}

impl<F: FnMut(&LogLine) + Send> StatusSource for Streamed<'_, F> {
    async fn status(&mut self) -> Result<TaskStatus, ApiError> {
        self.task.status().await
    }

    async fn running(&mut self) {
        if self.asked.is_none_or(|asked| asked.elapsed() >= LOG_EVERY) {
            self.drain(false).await;
            self.asked = Some(Instant::now());
        }
    }
}

impl<F: FnMut(&LogLine) + Send> Streamed<'_, F> {
    /// Hands on what is new; with `to_the_end` also the last lines of a log longer than the cap.
    async fn drain(&mut self, to_the_end: bool) {
        for _ in 0..=MAX_PAGES {
            let Some(start) = self.tail.next(to_the_end) else { return };
            let page = self.task.client.task_log(self.task.upid, start, LOG_PAGE);
            match timeout(LOG_TIMEOUT, page).await {
                Ok(Ok(page)) => {
                    if !self.tail.take(&page) {
                        return;
                    }
                }
                // The next look, if there is one, asks again from the same line.
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}

/// Which lines were handed on.
struct Tail<F> {
    on_line: F,
    /// The number of the last line that was.
    last: u64,
    total: u64,
    left: u64,
}

impl<F: FnMut(&LogLine)> Tail<F> {
    const fn new(most: u64, on_line: F) -> Self {
        Self { on_line, last: 0, total: 0, left: most }
    }

    /// The index to ask from; `None` if nothing more may be handed on.
    fn next(&mut self, to_the_end: bool) -> Option<u64> {
        if self.left > 0 {
            return Some(self.last);
        }
        let end = self.total.saturating_sub(LAST_LINES);
        if !to_the_end || self.total <= self.last {
            return None;
        }
        self.left = LAST_LINES;
        self.last = self.last.max(end);
        Some(self.last)
    }

    /// Whether there is more to ask for.
    fn take(&mut self, page: &TaskLog) -> bool {
        if is_placeholder(page) {
            return false;
        }
        self.total = self.total.max(page.total);
        let before = self.last;
        for line in &page.lines {
            if line.n <= self.last {
                continue;
            }
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.last = line.n;
            (self.on_line)(line);
        }
        self.last < self.total && (self.last > before || self.left == 0)
    }
}

/// An empty log and a missing one are shown as one line that says so (`pve/facts.md` 4.6); it is none
/// of the task's.
fn is_placeholder(page: &TaskLog) -> bool {
    matches!(page.lines.as_slice(), [only] if page.total <= 1
        && (only.text == "no content" || only.text.starts_with("unable to open file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(total: u64, numbers: std::ops::RangeInclusive<u64>) -> TaskLog {
        let lines = numbers.map(|n| LogLine { n, text: format!("line {n}") }).collect();
        TaskLog { total, lines }
    }

    #[test]
    fn lines_come_once_and_in_order() {
        let mut got = Vec::new();
        let mut tail = Tail::new(100, |line: &LogLine| got.push(line.n));
        assert_eq!(tail.next(false), Some(0));
        assert!(tail.take(&page(5, 1..=3)));
        assert_eq!(tail.next(false), Some(3));
        // The server may answer more than was asked for, or the same again.
        assert!(!tail.take(&page(5, 2..=5)));
        assert!(!tail.take(&page(5, 1..=5)));
        assert!(!tail.take(&TaskLog { total: 9, lines: Vec::new() }), "an empty page ends the asking");
        assert_eq!(got, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_cap_holds_and_the_last_lines_come_all_the_same() {
        let mut got = Vec::new();
        let mut tail = Tail::new(3, |line: &LogLine| got.push(line.n));
        assert!(tail.take(&page(100, 1..=50)));
        assert_eq!(tail.next(false), None);
        assert_eq!(tail.next(true), Some(80));
        assert!(!tail.take(&page(100, 81..=100)));
        assert_eq!(tail.next(true), None);
        assert_eq!(got, [1, 2, 3].into_iter().chain(81..=100).collect::<Vec<_>>());
    }

    #[test]
    fn placeholders_are_no_lines() {
        let mut got = 0;
        let mut tail = Tail::new(100, |_: &LogLine| got += 1);
        for text in ["no content", "unable to open file - No such file or directory"] {
            let lines = vec![LogLine { n: 1, text: text.to_owned() }];
            assert!(!tail.take(&TaskLog { total: 1, lines }));
        }
        assert!(!tail.take(&page(1, 1..=1)));
        assert_eq!(got, 1);
    }
}
