//! Judging a corpus on disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use authz::case::{Case, Files};

use crate::base::Expect;

/// What every verification should stay under (V22), and what no machine may take.
pub const BUDGET: Duration = Duration::from_millis(50);
/// Far above: a slow machine alone never fails a corpus.
pub const LIMIT: Duration = Duration::from_millis(500);

/// What judging came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Folders of cases.
    pub classes: usize,
    /// Cases in them.
    pub cases: usize,
    /// Accepted among them.
    pub accepted: usize,
    /// The slowest decision, and which.
    pub slowest: (Duration, PathBuf),
    /// What is not as expected, a sentence each.
    pub wrong: Vec<String>,
}

/// Judges `root/<class>/<n>/`.
///
/// # Errors
/// A folder that cannot be listed.
pub fn check(root: &Path) -> std::io::Result<Report> {
    let mut report = Report::default();
    for class in folders(root)? {
        report.classes += 1;
        let cases = folders(&class)?;
        if cases.len() < 3 {
            report.wrong.push(format!("{}: {} cases, at least 3 are wanted", class.display(), cases.len()));
        }
        for case in cases {
            report.cases += 1;
            if let Err(why) = one(&case, &mut report) {
                report.wrong.push(format!("{}: {why}", case.display()));
            }
        }
    }
    Ok(report)
}

fn one(folder: &Path, report: &mut Report) -> Result<(), String> {
    let expected = std::fs::read(folder.join("expect.json")).map_err(|error| error.to_string())?;
    let expected: Expect = serde_json::from_slice(&expected).map_err(|error| error.to_string())?;
    let case = Files::read(folder).and_then(Case::parse).map_err(|error| format!("is no case: {error}"))?;
    let begin = Instant::now();
    let decided = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.judge()));
    let took = begin.elapsed();
    if took > report.slowest.0 {
        report.slowest = (took, folder.to_owned());
    }
    let decided = decided.map_err(|_| "panicked".to_owned())?;
    report.accepted += usize::from(decided.is_ok());
    let wanted = match (expected.decision.as_str(), expected.code) {
        ("accept", None) => None,
        ("refuse", Some(code)) => Some(code),
        _ => return Err("expect.json is neither accept nor refuse with a code".into()),
    };
    if decided.as_ref().err().map(|refusal| refusal.code) != wanted {
        let got = decided
            .map_or_else(|refusal| format!("refuse {} ({refusal})", refusal.code), |()| "accept".into());
        let wanted = wanted.map_or_else(|| "accept".to_owned(), |code| format!("refuse {code}"));
        return Err(format!("{got}; expected {wanted}: {}", expected.why));
    }
    if took > LIMIT {
        return Err(format!("took {took:?}"));
    }
    Ok(())
}

/// Folders in a folder, in order; `1`, `2`, … `10` by number.
fn folders(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort_by_key(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        (name.parse::<u64>().ok(), name)
    });
    Ok(found)
}
