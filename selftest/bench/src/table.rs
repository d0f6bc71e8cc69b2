//! Samples of each round, their ratios, and how they are printed.

use std::time::Duration;

/// One quantity, measured of every contestant in every round.
pub(crate) struct Table {
    title: String,
    /// With the goal that it is held against.
    goal: &'static str,
    rows: Vec<Row>,
    references: Vec<Reference>,
}

struct Row {
    name: &'static str,
    /// One a round.
    samples: Vec<f64>,
}

/// A column of ratios: some rows in terms of another.
struct Reference {
    heading: &'static str,
    of: &'static str,
    rows: Vec<&'static str>,
}

impl Table {
    /// An empty one; the unit stands in the title.
    pub(crate) fn new(title: impl Into<String>, goal: &'static str) -> Self {
        Self { title: title.into(), goal, rows: Vec::new(), references: Vec::new() }
    }

    /// Adds a column: each of `rows` divided by `of`, round by round.
    pub(crate) fn against(mut self, heading: &'static str, of: &'static str, rows: &[&'static str]) -> Self {
        self.references.push(Reference { heading, of, rows: rows.to_vec() });
        self
    }

    /// Adds what one round gave.
    pub(crate) fn add(&mut self, name: &'static str, sample: f64) {
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { name, samples: vec![sample] }),
        }
    }

    fn samples(&self, name: &str) -> Option<&[f64]> {
        self.rows.iter().find(|row| row.name == name).map(|row| row.samples.as_slice())
    }

    /// The text.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("{}\n", self.title);
        if !self.goal.is_empty() {
            text.push_str(&format!("goal: {}\n", self.goal));
        }
        let widest = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default();
        text.push_str(&format!("  {:<widest$} {:>8} {:>8} {:>8}", "", "median", "min", "max"));
        for reference in &self.references {
            text.push_str(&format!("   {:<RATIO$}", reference.heading));
        }
        text = text.trim_end().to_owned() + "\n";
        for row in &self.rows {
            let mut line = format!("  {:<widest$}", row.name);
            for value in spread(&row.samples) {
                line.push_str(&format!(" {value:>8.1}"));
            }
            for reference in &self.references {
                let other = self.samples(reference.of).filter(|_| reference.rows.contains(&row.name));
                let ratio = other.map(|other| ratio(&row.samples, other)).unwrap_or_default();
                line.push_str(&format!("   {ratio:<RATIO$}"));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Width of a column of ratios.
const RATIO: usize = 16;

/// Rounds are compared with themselves only: the machine may be another one in the next.
fn ratio(ours: &[f64], other: &[f64]) -> String {
    let ratios: Vec<f64> = ours.iter().zip(other).map(|(ours, other)| ours / other).collect();
    let [median, min, max] = spread(&ratios);
    format!("{median:.2} ({min:.2}-{max:.2})")
}

/// Median, least, greatest.
fn spread(samples: &[f64]) -> [f64; 3] {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    [at(sorted.len() / 2), at(0), at(sorted.len().saturating_sub(1))]
}

/// Two tables of the same latency: the middle and the tail of each round, in microseconds.
pub(crate) struct Latency {
    /// Of each round's samples.
    pub(crate) p50: Table,
    /// Of each round's samples.
    pub(crate) p99: Table,
}

impl Latency {
    /// The same columns for both.
    pub(crate) fn new(title: &str, goals: [&'static str; 2], dress: impl Fn(Table) -> Table) -> Self {
        let table =
            |which: &str, goal| dress(Table::new(format!("{title}, {which} of each round, µs"), goal));
        Self { p50: table("p50", goals[0]), p99: table("p99", goals[1]) }
    }

    /// Adds what one round gave.
    pub(crate) fn add(&mut self, name: &'static str, samples: &mut [Duration]) {
        samples.sort();
        let at = |share: usize| {
            let sample = samples.get(samples.len() * share / 100).or(samples.last());
            sample.map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e6)
        };
        self.p50.add(name, at(50));
        self.p99.add(name, at(99));
    }

    /// The text of both.
    pub(crate) fn render(&self) -> String {
        format!("{}\n{}", self.p50.render(), self.p99.render())
    }
}

/// How busy this machine is besides.
pub(crate) fn surroundings() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!("{cores} cores, load average {}", load.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_with_themselves() {
        let mut table = Table::new("Speed, MB/s", "none").against("x floor", "floor", &["ours"]);
        for (floor, ours) in [(100.0, 50.0), (10.0, 20.0), (40.0, 40.0)] {
            table.add("floor", floor);
            table.add("ours", ours);
        }
        let text = table.render();
        let line = |name: &str| text.lines().find(|line| line.trim().starts_with(name)).unwrap();
        let words = |name: &str| line(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words("floor "), ["floor", "40.0", "10.0", "100.0"]);
        assert_eq!(words("ours "), ["ours", "40.0", "20.0", "50.0", "1.00", "(0.50-2.00)"]);
        assert!(line("median").ends_with("x floor"));
    }

    #[test]
    fn latencies_have_a_middle_and_a_tail() {
        let mut latency = Latency::new("Echo", ["", ""], |table| table);
        let mut samples: Vec<Duration> = (1..=200).rev().map(Duration::from_micros).collect();
        latency.add("ours", &mut samples);
        assert_eq!(latency.p50.samples("ours"), Some(&[101.0][..]));
        assert_eq!(latency.p99.samples("ours"), Some(&[199.0][..]));
    }
}
