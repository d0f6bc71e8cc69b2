//! Which backups a retention keeps.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::calendar::Date;

/// The intervals, in the order they are served.
const NAMES: [&str; 6] =
    ["keep-last", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly"];

/// A retention: how many backups to keep per interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    counts: BTreeMap<&'static str, u64>,
    all: bool,
}

/// What becomes of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It stays.
    Keep,
    /// It goes.
    Remove,
    /// It is protected and does not count.
    Protected,
    /// Its name is not that of a backup job, so that nobody knows its age.
    Renamed,
}

impl Mark {
    /// The word of the API.
    pub fn word(self) -> &'static str {
        match self {
            Mark::Keep => "keep",
            Mark::Remove => "remove",
            Mark::Protected => "protected",
            Mark::Renamed => "renamed",
        }
    }
}

/// One backup as the retention sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Backups of one group are pruned together: type and VMID.
    pub group: (String, u32),
    /// When it was made; `None` for a renamed one.
    pub ctime: Option<i64>,
    /// Whether it is protected.
    pub protected: bool,
}

impl Keep {
    /// Everything.
    pub fn all() -> Keep {
        Keep { all: true, ..Keep::default() }
    }

    /// Reads `keep-last=1,keep-daily=7`; the error is the text of the schema's refusal.
    pub fn parse(text: &str) -> Result<Keep, String> {
        let mut keep = Keep::default();
        let wrong =
            |key: &str, why: &str| format!("invalid format - format error\nprune-backups.{key}: {why}\n");
        for part in text.split([',', ';']).map(str::trim).filter(|p| !p.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!(
                    "invalid format - value without key, but schema does not define a default key\nvalue: {part}\n"
                ));
            };
            let number = || {
                let n = value
                    .parse::<i64>()
                    .map_err(|_| wrong(key, &format!("type check ('integer') failed - got '{value}'")))?;
                u64::try_from(n).map_err(|_| wrong(key, "value must have a minimum value of 0"))
            };
            match NAMES.into_iter().find(|name| *name == key) {
                Some(name) => {
                    keep.counts.insert(name, number()?);
                }
                None if key == "keep-all" => {
                    keep.all = match value {
                        "1" => true,
                        "0" => false,
                        _ => {
                            return Err(wrong(
                                key,
                                &format!("type check ('boolean') failed - got '{value}'"),
                            ));
                        }
                    };
                }
                None => {
                    return Err(wrong(
                        key,
                        "property is not defined in schema and the schema does not allow additional properties",
                    ));
                }
            }
        }
        if keep.all && keep.counts.values().any(|n| *n > 0) {
            return Err("invalid format - keep-all cannot be set together with other options.\n".to_owned());
        }
        Ok(keep)
    }

    /// Whether nothing would ever be removed.
    pub fn keeps_all(&self) -> bool {
        self.all || self.limit() == 0
    }

    /// The sum of all counts, which is the number of backups a guest can have.
    pub fn limit(&self) -> u64 {
        self.counts.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// `keep-daily=7, keep-last=1`, as the log has it.
    pub fn describe(&self) -> String {
        let words: Vec<String> = self.counts.iter().map(|(name, n)| format!("{name}={n}")).collect();
        if self.all { "keep-all=1".to_owned() } else { words.join(", ") }
    }

    /// `keep-daily=7,keep-last=1`, as the configuration has it.
    pub fn config(&self) -> String {
        self.describe().replace(", ", ",")
    }

    /// The marks of these backups, in their order.
    pub fn mark(&self, backups: &[Candidate]) -> Vec<Mark> {
        let mut marks: Vec<Option<Mark>> = backups
            .iter()
            .map(|b| match b {
                _ if b.protected => Some(Mark::Protected),
                Candidate { ctime: None, .. } => Some(Mark::Renamed),
                _ if self.keeps_all() => Some(Mark::Keep),
                _ => None,
            })
            .collect();
        let groups: BTreeSet<&(String, u32)> = backups.iter().map(|b| &b.group).collect();
        for group in groups {
            let mut members: Vec<(i64, usize)> = backups
                .iter()
                .enumerate()
                .filter(|(i, b)| b.group == *group && marks[*i].is_none())
                .filter_map(|(i, b)| Some((b.ctime?, i)))
                .collect();
            // The newest first; of two with one time the later one counts as newer.
            members.sort_unstable_by(|a, b| b.cmp(a));
            for name in NAMES {
                let wanted = self.counts.get(name).copied().unwrap_or(0);
                serve(name, wanted, &members, &mut marks);
            }
        }
        marks.into_iter().map(|mark| mark.unwrap_or(Mark::Remove)).collect()
    }
}

/// Marks the newest backup of each of the last `wanted` intervals that no earlier rule covers.
fn serve(name: &str, wanted: u64, members: &[(i64, usize)], marks: &mut [Option<Mark>]) {
    let kept = |mark: Option<Mark>| mark == Some(Mark::Keep);
    let covered: BTreeSet<_> =
        members.iter().filter(|(_, i)| kept(marks[*i])).map(|(t, i)| interval(name, *t, *i)).collect();
    let mut taken = BTreeSet::new();
    for (time, index) in members {
        if taken.len() as u64 >= wanted {
            return;
        }
        let id = interval(name, *time, *index);
        if marks[*index].is_none() && !covered.contains(&id) && taken.insert(id) {
            marks[*index] = Some(Mark::Keep);
        }
    }
}

/// What tells one interval from another.
fn interval(name: &str, time: i64, index: usize) -> (i64, i64, i64, i64) {
    let d = Date::at(time);
    match name {
        "keep-hourly" => (d.year, d.month, d.day, d.hour),
        "keep-daily" => (d.year, d.month, d.day, 0),
        "keep-weekly" => {
            let (year, week) = d.iso_week();
            (year, week, 0, 0)
        }
        "keep-monthly" => (d.year, d.month, 0, 0),
        "keep-yearly" => (d.year, 0, 0, 0),
        // Every backup is an interval of its own, even if two were made in one second.
        _ => (time, i64::try_from(index).unwrap_or(i64::MAX), 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(name: &str) -> Candidate {
        Candidate { group: ("qemu".to_owned(), 100), ctime: Date::parse_name(name), protected: false }
    }

    /// The indices kept.
    fn kept(rule: &str, backups: &[Candidate]) -> Vec<usize> {
        let marks = Keep::parse(rule).unwrap().mark(backups);
        marks.iter().enumerate().filter(|(_, m)| **m == Mark::Keep).map(|(i, _)| i).collect()
    }

    #[test]
    fn last_and_all() {
        let list = ["2026_01_01-00_00_00", "2026_01_02-00_00_00", "2026_01_03-00_00_00"].map(backup);
        assert_eq!(kept("keep-last=1", &list), [2]);
        assert_eq!(kept("keep-last=2", &list), [1, 2]);
        assert_eq!(kept("keep-last=9", &list), [0, 1, 2]);
        for all in ["keep-all=1", "", "keep-last=0", "keep-all=0"] {
            assert_eq!(kept(all, &list), [0, 1, 2], "{all:?} removes nothing");
        }
        let same = [backup("2026_01_01-00_00_00"), backup("2026_01_01-00_00_00")];
        assert_eq!(kept("keep-last=1", &same).len(), 1);
    }

    #[test]
    fn intervals_keep_their_newest() {
        let list = [
            "2025_12_30-10_00_00",
            "2025_12_31-10_00_00",
            "2026_01_01-09_00_00",
            "2026_01_01-10_10_00",
            "2026_01_01-10_50_00",
        ]
        .map(backup);
        assert_eq!(kept("keep-hourly=1", &list), [4]);
        assert_eq!(kept("keep-hourly=2", &list), [2, 4]);
        assert_eq!(kept("keep-daily=2", &list), [1, 4]);
        assert_eq!(kept("keep-monthly=1", &list), [4]);
        assert_eq!(kept("keep-monthly=5", &list), [1, 4]);
        assert_eq!(kept("keep-yearly=2", &list), [1, 4]);
        // The 30th of December 2025 to the 1st of January 2026 is one ISO week.
        assert_eq!(kept("keep-weekly=3", &list), [4]);
    }

    #[test]
    fn a_later_rule_skips_intervals_that_an_earlier_one_covers() {
        let list: Vec<Candidate> = (1..=6).map(|day| backup(&format!("2026_03_{day:02}-12_00_00"))).collect();
        // The last one covers the 6th; two more days come from the daily rule.
        assert_eq!(kept("keep-last=1,keep-daily=2", &list), [3, 4, 5]);
        assert_eq!(kept("keep-last=1,keep-yearly=1", &list), [5], "the year is covered");
    }

    #[test]
    fn protected_and_renamed_do_not_count() {
        let mut list: Vec<Candidate> =
            (1..=3).map(|day| backup(&format!("2026_03_{day:02}-12_00_00"))).collect();
        list[2].protected = true;
        list.push(Candidate { ctime: None, ..list[0].clone() });
        let marks = Keep::parse("keep-last=1").unwrap().mark(&list);
        assert_eq!(marks, [Mark::Remove, Mark::Keep, Mark::Protected, Mark::Renamed]);
    }

    #[test]
    fn groups_are_separate() {
        let mut list: Vec<Candidate> =
            (1..=4).map(|day| backup(&format!("2026_03_{day:02}-12_00_00"))).collect();
        list[0].group.1 = 101;
        list[1].group.0 = "lxc".to_owned();
        assert_eq!(kept("keep-last=1", &list), [0, 1, 3]);
    }

    #[test]
    fn never_removes_more_than_it_may() {
        // The newest backup survives every retention that is one.
        let list: Vec<Candidate> = (0..200)
            .map(|n| Candidate { ctime: Some(n * 40_000), ..backup("2026_03_01-00_00_00") })
            .collect();
        for name in NAMES {
            for count in 1..4 {
                let found = kept(&format!("{name}={count}"), &list);
                assert_eq!(found.last(), Some(&199), "{name}={count}");
                assert!(found.len() as u64 <= count, "{name}={count}");
            }
        }
    }

    #[test]
    fn hostile_rules() {
        for (bad, part) in [
            ("keep-last", "value without key"),
            ("keep-last=x", "type check ('integer')"),
            ("keep-last=-1", "minimum value of 0"),
            ("keep-foo=1", "prune-backups.keep-foo: property is not defined"),
            ("keep-all=2", "type check ('boolean')"),
            ("keep-all=1,keep-last=1", "cannot be set together"),
        ] {
            assert!(Keep::parse(bad).unwrap_err().contains(part), "{bad}");
        }
        let huge = Keep::parse("keep-last=9223372036854775807,keep-daily=9223372036854775807").unwrap();
        assert_eq!(huge.limit(), u64::MAX - 1);
        assert_eq!(Keep::parse("keep-last=1,keep-daily=2").unwrap().describe(), "keep-daily=2, keep-last=1");
    }
}
