//! The sealed result of a script: whether it is the one that the host signed for, what it says, and how a
//! terminal may see it. Pure.

use authz::{Outcome, SecretKey};
use protocol::Sha256;
use protocol::job::{JobEnd, JobResult, MAX_SEALED_RESULT};
use protocol::text::printable;
use sealed::OpenError;

/// Why a result is not believed or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// The hub shows other bytes.
    #[error(
        "the hub shows another result ({found}) than the one that the host signed for ({expected}): the hub is wrong or lying, and the result is not known"
    )]
    Altered {
        /// From the receipt.
        expected: Sha256,
        /// Of what the hub shows.
        found: Sha256,
    },
    /// Larger than any result.
    #[error("the result is {0} bytes long, more than any script's can be: it was not opened")]
    TooLarge(usize),
    /// The seal does not open.
    #[error("the result cannot be opened with the key that was made for it: {0}")]
    Sealed(#[from] OpenError),
    /// Opened, and not a result.
    #[error("the opened result cannot be read: are host and writ of the same version?")]
    Malformed(#[source] serde_json::Error),
    /// Another format.
    #[error("the result has format version {0}: use a newer writ")]
    Version(u32),
    /// A result of another script.
    #[error("the result is that of order {found}, not of order {expected}: do not believe it")]
    OtherOrder {
        /// Asked for.
        expected: Sha256,
        /// What it is about.
        found: Sha256,
    },
}

/// Opens what the hub shows as the result of order `op`, when it is what the receipt `expected` names.
pub fn open(
    sealed: &[u8],
    expected: &Sha256,
    key: &SecretKey,
    op: &Sha256,
) -> Result<JobResult, ResultError> {
    if sealed.len() > MAX_SEALED_RESULT {
        return Err(ResultError::TooLarge(sealed.len()));
    }
    let found = Sha256::of(sealed);
    if found != *expected {
        return Err(ResultError::Altered { expected: *expected, found });
    }
    let opened = sealed::open(&key.seed(), sealed, MAX_SEALED_RESULT)?;
    let result: JobResult = serde_json::from_slice(&opened).map_err(ResultError::Malformed)?;
    if result.v != 1 {
        return Err(ResultError::Version(result.v));
    }
    // A host that mixes up two scripts of one operator would be believed otherwise.
    if result.op != *op {
        return Err(ResultError::OtherOrder { expected: *op, found: result.op });
    }
    Ok(result)
}

/// The hash that a receipt names, if the script ran.
pub fn named_by(outcome: &Outcome) -> Option<&Sha256> {
    match outcome {
        Outcome::Ran { result, .. } => Some(result),
        Outcome::Refused { .. }
        | Outcome::Aborted { .. }
        | Outcome::Done { .. }
        | Outcome::Warnings { .. }
        | Outcome::Failed { .. }
        | Outcome::Unknown { .. } => None,
    }
}

/// Our exit status for this end. A code that no process can have counts as unknown.
pub fn status(end: &JobEnd) -> u8 {
    match end {
        JobEnd::Signaled { signal } if !(1..=126).contains(signal) => 255,
        end => u8::try_from(end.exit_code()).unwrap_or(255),
    }
}

/// What the output alone does not say, in sentences without a full stop.
pub fn notes(result: &JobResult, max_output: Option<u32>) -> Vec<String> {
    let mut notes = Vec::new();
    match &result.end {
        JobEnd::Exited { code } if !(0..=255).contains(code) => {
            notes.push(format!("the host says that the script ended with {code}, which no process can"));
        }
        JobEnd::Exited { .. } => {}
        JobEnd::TimedOut {} => {
            notes.push("the script was killed at its time limit: see --timeout".to_owned())
        }
        end @ (JobEnd::Signaled { .. } | JobEnd::Cancelled { .. }) => {
            notes.push(format!("the script was {end}"))
        }
    }
    if result.truncated {
        let limit = max_output.map(|bytes| format!(" {}", crate::text::bytes(bytes.into())));
        notes.push(format!(
            "there was more output than the order let keep{}, the rest was dropped: see --max-output",
            limit.unwrap_or_default()
        ));
    }
    match result.leftovers_killed {
        0 => {}
        1 => notes.push("1 process that the script left behind was killed".to_owned()),
        n => notes.push(format!("{n} processes that the script left behind were killed")),
    }
    notes
}

/// Bytes from a host as a terminal may have them: text, line ends and tabs as they are; what could move the
/// cursor, recolour or reorder is shown instead of done.
pub fn for_terminal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\t' => text.push(c),
                '\u{0}'..='\u{1f}' | '\u{7f}' => {
                    text.push('^');
                    text.push(char::from(u32::from(c) as u8 ^ 0x40));
                }
                c if c == '?' || printable(c.encode_utf8(&mut [0; 4])) != "?" => text.push(c),
                c => text.push_str(&format!("<U+{:04X}>", u32::from(c))),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mallory, result_key, sealed_to};

    fn result(op: Sha256) -> JobResult {
        JobResult {
            v: 1,
            op,
            end: JobEnd::Exited { code: 3 },
            stdout: b"out".to_vec().into(),
            stderr: vec![].into(),
            truncated: false,
            duration_ms: 12,
            leftovers_killed: 0,
        }
    }

    fn seal(value: &impl serde::Serialize) -> (Vec<u8>, Sha256) {
        let sealed = sealed_to(&result_key(), &serde_json::to_vec(value).unwrap());
        let hash = Sha256::of(&sealed);
        (sealed, hash)
    }

    #[test]
    fn only_the_result_that_the_host_signed_for_is_opened() {
        let op = Sha256::of(b"op");
        let (sealed, hash) = seal(&result(op));
        assert_eq!(open(&sealed, &hash, &result_key(), &op).unwrap(), result(op));
        let fail = |sealed: &[u8], hash: &Sha256, key: &SecretKey| open(sealed, hash, key, &op).unwrap_err();

        let (other, _) = seal(&JobResult { end: JobEnd::Exited { code: 0 }, ..result(op) });
        assert!(matches!(fail(&other, &hash, &result_key()), ResultError::Altered { .. }));
        let mut flipped = sealed.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(matches!(fail(&flipped, &hash, &result_key()), ResultError::Altered { .. }));
        // Even when the host signs for it.
        assert!(matches!(fail(&flipped, &Sha256::of(&flipped), &result_key()), ResultError::Sealed(_)));
        assert!(matches!(fail(&sealed, &hash, &mallory()), ResultError::Sealed(OpenError::OtherKey { .. })));
        let huge = vec![0; MAX_SEALED_RESULT + 1];
        assert!(matches!(fail(&huge, &Sha256::of(&huge), &result_key()), ResultError::TooLarge(_)));

        let (swapped, hash) = seal(&result(Sha256::of(b"another")));
        assert!(matches!(fail(&swapped, &hash, &result_key()), ResultError::OtherOrder { .. }));
        let (newer, hash) = seal(&JobResult { v: 2, ..result(op) });
        assert!(matches!(fail(&newer, &hash, &result_key()), ResultError::Version(2)));
        let (junk, hash) = seal(&"junk");
        assert!(matches!(fail(&junk, &hash, &result_key()), ResultError::Malformed(_)));
    }

    #[test]
    fn ends_have_an_exit_status_and_a_word() {
        let op = Sha256::of(b"op");
        for (end, wanted, says) in [
            (JobEnd::Exited { code: 0 }, 0, ""),
            (JobEnd::Exited { code: 7 }, 7, ""),
            (JobEnd::Exited { code: 256 }, 255, "which no process can"),
            (JobEnd::Exited { code: -1 }, 255, "which no process can"),
            (JobEnd::Signaled { signal: 9 }, 137, "killed by signal 9"),
            (JobEnd::Signaled { signal: i32::MAX }, 255, "killed by signal"),
            (JobEnd::Signaled { signal: -128 }, 255, "killed by signal"),
            (JobEnd::TimedOut {}, 124, "--timeout"),
            (JobEnd::Cancelled { why: "the host shut down".into() }, 125, "the host shut down"),
        ] {
            let said = notes(&JobResult { end: end.clone(), ..result(op) }, None).join("; ");
            assert_eq!(status(&end), wanted, "{end:?}");
            assert!(said.contains(says) && said.is_empty() == says.is_empty(), "{said}");
        }
        let messy = JobResult { truncated: true, leftovers_killed: 2, ..result(op) };
        let said = notes(&messy, Some(1 << 20)).join("; ");
        assert!(said.contains("let keep 1.0 MiB") && said.contains("2 processes"), "{said}");
    }

    #[test]
    fn a_terminal_sees_text_and_no_orders() {
        assert_eq!(for_terminal("a\tb\nZürich?".as_bytes()), "a\tb\nZürich?");
        let evil = b"\x1b]0;title\x07\r\x08\x7f\x00 \xc2\x9b31m \xe2\x80\xae \xff\xfe";
        let shown = for_terminal(evil);
        assert_eq!(shown, "^[]0;title^G^M^H^?^@ <U+009B>31m <U+202E> \\xff\\xfe");
        assert!(!shown.contains(char::is_control));
    }
}
