//! What a selftest found, as lines for a person or as one object for a machine.

use std::fmt;

use protocol::text::printable;
use serde::Serialize;

/// Which selftest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Proxmox, reading only.
    Read,
    /// The hub.
    Hub,
    /// A snapshot of one guest, there and back.
    Task,
    /// Not a test: what is there (`writ-agent status`).
    Status,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Hub => "hub",
            Self::Task => "task",
            Self::Status => "status",
        })
    }
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warn,
    /// Something that is needed does not work.
    Fail,
}

/// How a selftest ended; decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing failed: 0.
    Ok,
    /// Something did: 1.
    Failed,
    /// It was not begun, because the guest or the command line do not allow it: 2.
    Refused,
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What to do, a line each; absent when all is well or `detail` says it already.
    pub remedy: Option<String>,
}

/// Where the details begin in a line; the longest name has to fit.
const INDENT: usize = 19;

impl Check {
    fn new(name: &'static str, state: State, detail: impl Into<String>) -> Self {
        Self { name, state, detail: detail.into(), remedy: None }
    }

    /// All is well.
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, State::Ok, detail)
    }

    /// It works, but.
    pub fn warn(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, State::Warn, detail)
    }

    /// Something is wrong, and `detail` says what and what to do.
    pub fn fail(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, State::Fail, detail)
    }

    /// Something is wrong.
    pub fn fail_with(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::fail(name, detail).with(remedy)
    }

    /// Whether it did not fail.
    pub fn passed(&self) -> bool {
        self.state != State::Fail
    }

    /// The same check, with what to do.
    #[must_use]
    pub fn with(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

/// One line, `ok   node          pve1, …`, and below it what to do.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
        };
        write!(f, "{mark:<4} {:<13} {}", self.name, printable(&self.detail))?;
        for line in self.remedy.iter().flat_map(|remedy| remedy.lines()) {
            write!(f, "\n{:INDENT$}{}", "", printable(line))?;
        }
        Ok(())
    }
}

type Told<'a, T> = Option<Box<dyn FnMut(&T) + Send + 'a>>;

/// Everything a selftest found, as it finds it.
#[derive(Default)]
pub struct Findings<'a> {
    checks: Vec<Check>,
    /// The node that was looked at, once it is known.
    pub node: Option<String>,
    /// The version of its Proxmox VE, once it is known.
    pub version: Option<String>,
    listener: Told<'a, Check>,
    progress: Told<'a, str>,
    /// The pins came with the command line, so there is no configuration to put a new one in.
    pub pins_given: bool,
}

impl<'a> Findings<'a> {
    /// Each check is told to `listener` at once, and what takes long to `progress`.
    pub fn told(listener: impl FnMut(&Check) + Send + 'a, progress: impl FnMut(&str) + Send + 'a) -> Self {
        Self { listener: Some(Box::new(listener)), progress: Some(Box::new(progress)), ..Self::default() }
    }

    /// One more check.
    pub fn push(&mut self, check: Check) {
        if let Some(listener) = &mut self.listener {
            listener(&check);
        }
        self.checks.push(check);
    }

    /// Something takes long.
    pub fn progress(&mut self, text: &str) {
        if let Some(progress) = &mut self.progress {
            progress(text);
        }
    }

    /// All checks so far, in order.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Whether there is a check and none failed.
    pub fn ok(&self) -> bool {
        is_ok(&self.checks)
    }

    /// The same as a verdict.
    pub fn verdict(&self) -> Verdict {
        if self.ok() { Verdict::Ok } else { Verdict::Failed }
    }

    /// The machine form, one object and a newline.
    pub fn json(&self, mode: Mode) -> String {
        to_json(mode, self.node.as_deref(), self.version.as_deref(), &self.checks)
    }
}

/// No check at all is not well.
fn is_ok(checks: &[Check]) -> bool {
    !checks.is_empty() && checks.iter().all(Check::passed)
}

/// The machine form of a selftest.
#[derive(Serialize)]
struct Results<'a> {
    selftest: String,
    node: Option<&'a str>,
    version: Option<&'a str>,
    checks: &'a [Check],
    ok: bool,
}

fn to_json(mode: Mode, node: Option<&str>, version: Option<&str>, checks: &[Check]) -> String {
    let results = Results { selftest: mode.to_string(), node, version, checks, ok: is_ok(checks) };
    let text = serde_json::to_string_pretty(&results).expect("checks are made of strings");
    format!("{text}\n")
}

/// The text to print for checks that are all made, and whether all is well.
pub fn render(mode: Mode, checks: &[Check], json: bool) -> (String, bool) {
    let text = match json {
        true => to_json(mode, None, None, checks),
        false => checks.iter().map(|check| format!("{check}\n")).collect(),
    };
    (text, is_ok(checks))
}

/// The day of an instant, in UTC: `2028-02-29`.
pub(crate) fn day(unix: u64) -> String {
    // Gregorian eras of 400 years that begin in March, so that the leap day comes last.
    let days = unix / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + u64::from(month >= 10), (month + 2) % 12 + 1);
    format!("{year:04}-{month:02}-{date:02}")
}

/// `31.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// Whole percent, rounded up: 99.1 % full is not 99.
pub(crate) fn percent(used: u64, total: u64) -> Option<u64> {
    let percent = (u128::from(used) * 100).checked_add(u128::from(total.checked_sub(1)?))?;
    u64::try_from(percent / u128::from(total)).ok()
}

/// `1 snapshot`, `2 snapshots`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The first few of a list, and how many more there are.
pub(crate) fn some_of(words: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = words.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if words.len() > SHOWN {
        text.push_str(&format!(" and {} more", words.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_check_and_the_same_for_machines() {
        let checks = [
            Check::ok("node", "pve1"),
            Check::warn("clock", "6 s"),
            Check::fail_with("permissions", "a\nb\u{1b}[2J", "look\nagain\u{7}"),
        ];
        let (text, ok) = render(Mode::Read, &checks, false);
        assert!(!ok);
        assert_eq!(
            text,
            "ok   node          pve1\nwarn clock         6 s\nfail permissions   a?b?[2J\n                   look\n                   again?\n"
        );
        let mut findings = Findings { node: Some("pve1".to_owned()), ..Findings::default() };
        assert_eq!(findings.verdict(), Verdict::Failed, "nothing was checked");
        checks[..2].iter().cloned().for_each(|check| findings.push(check));
        assert!(findings.ok(), "a warning is no failure");
        let value: serde_json::Value = serde_json::from_str(&findings.json(Mode::Task)).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"selftest": "task", "node": "pve1", "version": null, "ok": true, "checks": [
                {"name": "node", "state": "ok", "detail": "pve1", "remedy": null},
                {"name": "clock", "state": "warn", "detail": "6 s", "remedy": null}
            ]})
        );
        assert!(!render(Mode::Read, &[], true).1);
    }

    #[test]
    fn what_is_found_is_told_at_once() {
        let (told, heard) = std::sync::mpsc::channel();
        let other = told.clone();
        let listener = move |check: &Check| told.send(check.detail.clone()).unwrap();
        let mut findings = Findings::told(listener, move |text| other.send(text.to_owned()).unwrap());
        findings.push(Check::ok("a", "one"));
        findings.progress("two");
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn days_sizes_and_percent() {
        for (unix, text) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_317_258, "2026-11-22"),
            (1_709_251_199, "2024-02-29"),
            (1_709_251_200, "2024-03-01"),
            (4_102_444_799, "2099-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(day(unix), text);
        }
        for (bytes, text) in
            [(0, "0 B"), (1024, "1.0 KiB"), (270_553_174_016, "251.9 GiB"), (u64::MAX, "16383.9 PiB")]
        {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((percent(991, 1000), percent(0, 5), percent(1, 0)), (Some(100), Some(0), None));
        assert_eq!(percent(u64::MAX, u64::MAX), Some(100));
        assert_eq!([0, 1, 2].map(|n| count(n, "node")), ["0 nodes", "1 node", "2 nodes"]);
        let words: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(some_of(&words), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}
