//! `writ-agent --selftest`: does it work, and if not, what to do. Never changes anything.
//!
//! `read` reads from Proxmox whatever a report needs; `hub` makes one round trip of a report.

pub mod hub;
pub mod read;

use std::fmt;

use protocol::text::printable;
use serde::Serialize;

/// Which selftest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Proxmox.
    Read,
    /// The hub.
    Hub,
    /// Not a test: what is there (`writ-agent status`).
    Status,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Hub => "hub",
            Self::Status => "status",
        })
    }
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub check: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub seen: String,
    /// What to do; absent when all is well or `seen` says it already.
    pub todo: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, ok: true, seen: seen.into(), todo: None }
    }

    /// Something is wrong, and `seen` says what and what to do.
    pub fn fail(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, ok: false, seen: seen.into(), todo: None }
    }

    /// Something is wrong.
    pub fn fail_with(check: &'static str, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check, ok: false, seen: seen.into(), todo: Some(todo.into()) }
    }
}

/// One line: `ok   node: pve1, …`.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.ok { "ok  " } else { "FAIL" };
        write!(f, "{mark} {}: {}", self.check, printable(&self.seen))?;
        match &self.todo {
            Some(todo) => write!(f, "; to do: {}", printable(todo)),
            None => Ok(()),
        }
    }
}

/// The machine form of a selftest.
#[derive(Debug, Serialize)]
pub struct Results<'a> {
    /// Which.
    pub selftest: String,
    /// Whether every check is ok.
    pub ok: bool,
    /// All checks, in the order in which they were made.
    pub checks: &'a [Check],
}

/// The text to print, and whether all is well. No check at all is not well.
pub fn render(mode: Mode, checks: &[Check], json: bool) -> (String, bool) {
    let ok = !checks.is_empty() && checks.iter().all(|check| check.ok);
    if json {
        let results = Results { selftest: mode.to_string(), ok, checks };
        let text = serde_json::to_string_pretty(&results).expect("checks are made of strings");
        return (format!("{text}\n"), ok);
    }
    (checks.iter().map(|check| format!("{check}\n")).collect(), ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_check_and_the_same_for_machines() {
        let checks = [Check::ok("node", "pve1"), Check::fail_with("guests", "a\nb\u{1b}[2J", "look")];
        let (text, ok) = render(Mode::Read, &checks, false);
        assert!(!ok);
        assert_eq!(text, "ok   node: pve1\nFAIL guests: a?b?[2J; to do: look\n");
        let (json, ok) = render(Mode::Hub, &checks[..1], true);
        assert!(ok);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"selftest": "hub", "ok": true, "checks": [
                {"check": "node", "ok": true, "seen": "pve1", "todo": null}
            ]})
        );
        assert!(!render(Mode::Read, &[], false).1);
    }
}
