//! Following a task: to its end, and through its log.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::client::Client;
use crate::task::watch::{
    Exit, FOREVER, Observed, Pace, StatusSource, TaskEnd, TaskStatus, classify_exit, watch,
};
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
/// Once there is nothing to wait for but the log: for the rest of it, for its last lines where that was
/// not all (or for what there is when the time is over), and for those that the end quotes. Together as
/// long as one request may take.
const REST_TIMEOUT: Duration = Duration::from_secs(20);
const LAST_TIMEOUT: Duration = Duration::from_secs(5);
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How to follow a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitOptions {
    /// For how long.
    pub limit: Duration,
    /// How many lines of the log are handed on at most; once the task has ended, the last twenty come
    /// even beyond it, and their numbers show the gap.
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
    /// after its end. A log that is slow, lost or cut off changes nothing about the end; it is read for
    /// 35 seconds at most once the task has ended, for five once `limit` is over.
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
            deadline: Instant::now() + options.limit.min(FOREVER),
        };
        let seen = watch(&mut source, Pace::of(upid.task_type()), options.limit).await;
        if matches!(seen, Observed::Ended(_)) {
            source.drain(Instant::now() + REST_TIMEOUT).await;
            source.last_lines(Instant::now() + LAST_TIMEOUT).await;
        } else {
            source.drain(Instant::now() + LAST_TIMEOUT).await;
        }
        self.end(upid, seen).await
    }

    /// Reads the log's end for as long as [`END_TIMEOUT`], where the end needs it.
    async fn end(&self, upid: &Upid, seen: Observed) -> TaskEnd {
        let until = Instant::now() + END_TIMEOUT;
        match seen {
            Observed::Running => TaskEnd::StillRunning { upid: upid.clone() },
            Observed::Lost(why) => TaskEnd::Unknown { why },
            Observed::Ended(exitstatus) => match classify_exit(exitstatus.as_deref()) {
                Exit::Ok => TaskEnd::Ok,
                Exit::Warnings(count) => TaskEnd::Warnings { count, lines: self.warnings(upid, until).await },
                Exit::Failed(text) => {
                    TaskEnd::Failed { text, last_lines: self.last_lines(upid, until).await }
                }
                Exit::Unknown(why) => TaskEnd::Unknown { why },
            },
        }
    }

    /// A part of the log, if it comes in time.
    async fn log_until(&self, upid: &Upid, start: u64, limit: u32, until: Instant) -> Option<TaskLog> {
        timeout_at(until, self.task_log(upid, start, limit)).await.ok()?.ok()
    }

    /// The log's warning lines. A log that cannot be read does not change how the task ended.
    async fn warnings(&self, upid: &Upid, until: Instant) -> Vec<String> {
        let mut found = Vec::new();
        let mut start = 0;
        for _ in 0..MAX_PAGES {
            let Some(page) = self.log_until(upid, start, LOG_PAGE, until).await else { break };
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

    async fn last_lines(&self, upid: &Upid, until: Instant) -> Vec<String> {
        let Some(first) = self.log_until(upid, 0, 1, until).await else { return Vec::new() };
        let start = first.total.saturating_sub(LAST_LINES);
        let end = self.log_until(upid, start, LAST_LINES as u32, until).await;
        let lines = end.into_iter().flat_map(|end| end.lines);
        lines.map(|line| line.text).take(LAST_LINES as usize).collect()
    }
}

struct OneTask<'a> {
    client: &'a Client,
    upid: &'a Upid,
}

impl OneTask<'_> {
    async fn page(&self, start: u64, limit: u32, until: Instant) -> Option<TaskLog> {
        self.client.log_until(self.upid, start, limit, until).await
    }
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
    deadline: Instant,
}

impl<F: FnMut(&LogLine) + Send> StatusSource for Streamed<'_, F> {
    async fn status(&mut self) -> Result<TaskStatus, ApiError> {
        self.task.status().await
    }

    async fn running(&mut self) {
        if self.asked.is_none_or(|asked| asked.elapsed() >= LOG_EVERY) {
            self.drain(self.deadline.min(Instant::now() + LOG_TIMEOUT)).await;
            self.asked = Some(Instant::now());
        }
    }
}

impl<F: FnMut(&LogLine) + Send> Streamed<'_, F> {
    /// Hands on what is new, as far as it may and comes in time. Ends, because each page brings the tail
    /// nearer to its cap and the time runs.
    async fn drain(&mut self, until: Instant) {
        while let Some(start) = self.tail.next() {
            // The next look, if there is one, asks again from the same line.
            let Some(page) = self.task.page(start, LOG_PAGE, until).await else { return };
            if !self.tail.take(&page) {
                return;
            }
        }
    }

    /// The last lines of a log that was not handed on to its end. How long it is by now must be asked:
    /// nobody looked at it since the cap was reached.
    async fn last_lines(&mut self, until: Instant) {
        let Some(now) = self.task.page(self.tail.last, 1, until).await else { return };
        let Some(start) = self.tail.skip_to_the_end(&now) else { return };
        if let Some(page) = self.task.page(start, LAST_LINES as u32, until).await {
            self.tail.take(&page);
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
    fn next(&self) -> Option<u64> {
        (self.left > 0).then_some(self.last)
    }

    /// The index that the last lines begin at, by a page of the whole log; `None` if they were handed on.
    fn skip_to_the_end(&mut self, page: &TaskLog) -> Option<u64> {
        if is_placeholder(page) || page.total <= self.last {
            return None;
        }
        self.total = page.total;
        self.left = LAST_LINES;
        self.last = self.last.max(page.total.saturating_sub(LAST_LINES));
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
        self.last < self.total && self.last > before
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
        assert_eq!(tail.next(), Some(0));
        assert!(tail.take(&page(5, 1..=3)));
        assert_eq!(tail.next(), Some(3));
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
        assert!(tail.take(&page(50, 1..=50)));
        assert_eq!(tail.next(), None);
        // It has grown since.
        assert_eq!(tail.skip_to_the_end(&page(100, 4..=4)), Some(80));
        assert!(!tail.take(&page(100, 81..=100)));
        assert_eq!(tail.skip_to_the_end(&page(100, 100..=100)), None);
        assert_eq!(got, [1, 2, 3].into_iter().chain(81..=100).collect::<Vec<_>>());
    }

    #[test]
    fn last_lines_that_came_already_do_not_come_again() {
        let mut got = Vec::new();
        let mut tail = Tail::new(90, |line: &LogLine| got.push(line.n));
        assert!(tail.take(&page(100, 1..=100)));
        assert_eq!(tail.skip_to_the_end(&page(100, 91..=91)), Some(90));
        tail.take(&page(100, 81..=100));
        assert_eq!(got, (1..=100).collect::<Vec<_>>());
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
