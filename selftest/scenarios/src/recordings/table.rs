//! The table: a line for each call, then whatever was not understood, then the sum.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Counts;
use super::judge::Verdict;

#[derive(Debug, Default)]
struct Row {
    counts: Counts,
    seen: BTreeSet<String>,
}

/// Collects verdicts.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<String, Row>,
    notes: Vec<String>,
}

impl Table {
    pub(super) fn add(&mut self, call: &str, place: &str, verdict: &Verdict, seen: &str) {
        let row = self.rows.entry(call.to_owned()).or_default();
        row.counts.exchanges += 1;
        row.seen.extend((!seen.is_empty()).then(|| seen.to_owned()));
        let (count, note) = match verdict {
            Verdict::Understood => (&mut row.counts.understood, None),
            Verdict::Unknown(why) => (&mut row.counts.unknown, Some(("unknown", why))),
            Verdict::Wrong(why) => (&mut row.counts.wrong, Some(("wrong", why))),
        };
        *count += 1;
        if let Some((word, why)) = note {
            let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
            self.notes.push(format!("{word:<8} {place} ({call}): {why}"));
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.rows.values().fold(Counts::default(), |sum, row| Counts {
            exchanges: sum.exchanges + row.counts.exchanges,
            understood: sum.understood + row.counts.understood,
            unknown: sum.unknown + row.counts.unknown,
            wrong: sum.wrong + row.counts.wrong,
        })
    }

    pub(super) fn render(&self) -> String {
        let width = self.rows.keys().map(|call| call.chars().count()).max().unwrap_or(0).max(4);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<width$}  {:>9}  {:>10}  {:>7}  {:>5}  read as",
            "call", "exchanges", "understood", "unknown", "wrong"
        );
        for (call, Row { counts, seen }) in &self.rows {
            let seen = seen.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "{call:<width$}  {:>9}  {:>10}  {:>7}  {:>5}  {seen}",
                counts.exchanges, counts.understood, counts.unknown, counts.wrong
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        let Counts { exchanges, understood, unknown, wrong } = self.counts();
        let _ = writeln!(
            text,
            "{exchanges} exchanges, {understood} understood, {unknown} unknown, {wrong} wrong"
        );
        text
    }
}
