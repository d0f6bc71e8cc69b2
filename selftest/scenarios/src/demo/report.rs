//! What the demo prints: a number, ok or NOT OK, what was tried, what was seen.

use crate::Trouble;

/// Columns of the second part of a line.
const WIDTH: usize = 54;
/// Longest remark; the whole text is in the blocks and logs.
const REMARK: usize = 150;

/// Counts steps and remembers whether all were as expected.
#[derive(Debug, Default)]
pub struct Report {
    steps: usize,
    unexpected: usize,
}

impl Report {
    /// A heading.
    pub fn title(&self, text: &str) {
        println!("\n{text}");
    }

    /// A step that worked.
    pub fn done(&mut self, what: &str, remark: &str) {
        self.check(what, true, remark);
    }

    /// A step that is as expected or not.
    pub fn check(&mut self, what: &str, good: bool, remark: &str) {
        self.steps += 1;
        if !good {
            self.unexpected += 1;
        }
        let remark: String = remark.trim().replace('\n', " ").chars().take(REMARK).collect();
        let mark = if good { "ok" } else { "NOT OK" };
        println!("{:>3}  {mark:<6}  {what:<WIDTH$}  {remark}", self.steps);
    }

    /// Output of a tool, indented.
    pub fn block(&self, text: &str) {
        println!();
        for line in text.trim_end().lines() {
            println!("        {line}");
        }
        println!();
    }

    /// The demo could not go on.
    pub fn broke(&mut self, trouble: &Trouble) {
        self.check("the demo could not go on", false, "");
        println!("        {trouble}");
    }

    /// The last line; true when all steps were as expected.
    pub fn finish(&self) -> bool {
        if self.unexpected == 0 {
            println!("\ndemo: {} steps, all as expected", self.steps);
        } else {
            println!("\ndemo: {} steps, {} NOT as expected", self.steps, self.unexpected);
        }
        self.unexpected == 0
    }
}
