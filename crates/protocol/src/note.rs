//! Signed notes (C2SP `signed-note`): a few lines of text and the signatures over them. A host's
//! checkpoints travel as such notes, and other tools than ours can read them.
//!
//! Here is only what a courier must know: how long one may be and that it is plain text. What it says,
//! and who signed it, is judged in `authz`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signed note: at most [`Note::MAX`] bytes of UTF-8, no control characters but newlines, and a newline
/// at the end (C2SP signed-note, "Format").
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Note(String);

/// Why text is no note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a signed note is at most {max} bytes of text that ends with a newline and has no other control characters",
    max = Note::MAX
)]
pub struct NoteError;

impl Note {
    /// Longest note in bytes; a checkpoint of ours with one signature has about 300.
    pub const MAX: usize = 4096;

    /// Its text and signatures.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Note {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let fits = text.len() <= Self::MAX
            && text.ends_with('\n')
            && text.chars().all(|c| c == '\n' || !c.is_control());
        if fits { Ok(Self(text.to_owned())) } else { Err(NoteError) }
    }
}

impl TryFrom<String> for Note {
    type Error = NoteError;
    fn try_from(text: String) -> Result<Self, NoteError> {
        text.parse()
    }
}

impl From<Note> for String {
    fn from(note: Note) -> Self {
        note.0
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Note({:?})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_plain_text_is_a_note() {
        assert_eq!("a\n\n— b c\n".parse::<Note>().unwrap().as_str(), "a\n\n— b c\n");
        assert!("x".repeat(Note::MAX - 1).parse::<Note>().is_err(), "no newline");
        assert!(format!("{}\n", "x".repeat(Note::MAX - 1)).parse::<Note>().is_ok());
        for bad in ["", "a", "a\r\n", "a\0\n", "\u{1b}[2J\n", "a\tb\n", "\u{85}\n"] {
            assert!(bad.parse::<Note>().is_err(), "{bad:?}");
        }
        assert!(format!("{}\n", "x".repeat(Note::MAX)).parse::<Note>().is_err());
        assert!(serde_json::from_str::<Note>("\"a\\u0007\\n\"").is_err());
        assert!(serde_json::from_str::<Note>("7").is_err());
    }
}
