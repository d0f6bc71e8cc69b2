//! `writ verify-case`: the conformance protocol. Any other implementation can be run over the corpus, and this one
//! over any other corpus.

use std::path::Path;

use authz::RefusalCode;
use authz::case::{Case, CaseError, Files};
use serde::Serialize;

use crate::args::VerifyCaseArgs;
use crate::error::Answer;

/// For programs.
#[derive(Debug, Serialize)]
struct Decided {
    folder: String,
    /// `accept`, `refuse`, or `error` where the folder is no case.
    decision: &'static str,
    code: Option<RefusalCode>,
    why: Option<String>,
}

pub(super) fn run(args: &VerifyCaseArgs) -> Answer {
    let decided: Vec<Decided> = args.folders.iter().map(|folder| decide(folder)).collect();
    let mut answer = Answer::default();
    for one in &decided {
        let status = match (one.decision, &one.code) {
            ("accept", _) => {
                answer.stdout.push_str("accept\n");
                0
            }
            (_, Some(code)) => {
                answer.stdout.push_str(&format!("refuse {code}\n"));
                1
            }
            (_, None) => {
                // A line for each folder, so that a program that counts them cannot slip by one.
                answer.stdout.push_str("error\n");
                answer.notes.push(format!("{}: {}", one.folder, one.why.as_deref().unwrap_or_default()));
                2
            }
        };
        answer.status = answer.status.max(status);
    }
    if args.json {
        // Strings and codes always become JSON.
        answer.stdout = serde_json::to_string(&decided).unwrap_or_default() + "\n";
    }
    answer
}

fn decide(folder: &Path) -> Decided {
    let judged: Result<_, CaseError> = Files::read(folder).and_then(Case::parse).map(|case| case.judge());
    let (decision, code, why) = match judged {
        Ok(Ok(())) => ("accept", None, None),
        Ok(Err(refusal)) => ("refuse", Some(refusal.code), Some(refusal.why)),
        Err(error) => ("error", None, Some(error.to_string())),
    };
    Decided { folder: folder.display().to_string(), decision, code, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_on(cases: &[&str], json: bool) -> Answer {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../authz/corpus");
        run(&VerifyCaseArgs { folders: cases.iter().map(|case| root.join(case)).collect(), json })
    }

    #[test]
    fn one_line_a_case_and_the_worst_of_them_as_status() {
        let answer = run_on(&["good-keys/1", "good-certificates/1"], false);
        assert_eq!((answer.stdout.as_str(), answer.status), ("accept\naccept\n", 0));
        let answer = run_on(&["good-keys/1", "armor-crlf/1", "semantic-replay/1"], false);
        assert_eq!((answer.stdout.as_str(), answer.status), ("accept\nrefuse malformed\nrefuse replay\n", 1));
        let answer = run_on(&["armor-crlf/1", "armor-crlf"], false);
        assert_eq!((answer.stdout.as_str(), answer.status), ("refuse malformed\nerror\n", 2));
        assert!(answer.notes[0].contains("does not belong into a case"), "{:?}", answer.notes);
    }

    #[test]
    fn programs_get_a_list() {
        let answer = run_on(&["good-keys/1", "armor-crlf/1", "none"], true);
        let list: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!(list[0]["decision"], "accept");
        assert_eq!(list[1]["code"], "malformed");
        assert!(list[1]["why"].as_str().unwrap().contains("armor"));
        assert_eq!((&list[2]["decision"], answer.status), (&"error".into(), 2));
    }
}
