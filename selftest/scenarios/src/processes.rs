//! What runs on this machine, as `/proc` tells it. A process is known by its number and the moment of its
//! start, so that a later one with the same number is never taken for it, nor sent a signal.

use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its command line, words separated by spaces.
    pub line: String,
    start: u64,
    zombie: bool,
}

impl Found {
    /// The one with this number; none where there is none.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses is the process's own choice and may contain anything.
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = String::from_utf8_lossy(stat.get(close + 1..)?).into_owned();
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            zombie: matches!(*fields.first()?, "Z" | "X"),
            line,
        })
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.start == self.start && !now.zombie)
    }

    /// `kill -9`, of this very process.
    pub fn kill(&self) {
        if let Some(handle) =
            Pid::from_raw(self.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            && self.is_alive()
        {
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }
}

/// All that run.
pub fn all() -> Vec<Found> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Found::of).filter(|found| !found.zombie).collect()
}

/// Those that descend from one.
pub fn below(pid: i32) -> Vec<Found> {
    let mut rest = all();
    let mut found: Vec<Found> = Vec::new();
    loop {
        let (children, others): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|one| one.parent == pid || found.iter().any(|above| above.pid == one.parent));
        if children.is_empty() {
            return found;
        }
        found.extend(children);
        rest = others;
    }
}

/// Those whose command line mentions this.
pub fn mentioning(text: &str) -> Vec<Found> {
    all().into_iter().filter(|found| found.line.contains(text)).collect()
}

/// Everything in a directory, by path below it.
pub fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            // A link is a file here.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path.clone());
            }
            let name = path.strip_prefix(directory).unwrap_or(&path);
            found.push(name.display().to_string());
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_and_no_later_one_of_its_number() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let me = Found::of(pid).unwrap();
        assert!(me.is_alive() && all().contains(&me));
        assert!(below(me.parent).contains(&me) && !below(pid).contains(&me));
        assert!(mentioning(&me.line).contains(&me));
        let other = Found { start: me.start + 1, ..me };
        assert!(!other.is_alive());
        // Surviving this is the test.
        other.kill();
    }
}
