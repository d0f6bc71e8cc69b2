//! Text that a person will read on a terminal. Orders, reasons and everything that comes from a
//! host or a hub passes through here before it is shown (`security.md` 2.1, display safety).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text cannot be carried in a signed payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// More than [`SafeText::MAX`] bytes.
    #[error("text is {0} bytes long; at most {max} are allowed: shorten it", max = SafeText::MAX)]
    TooLong(usize),
    /// A character that could make the text look like something else.
    #[error("text contains the character U+{0:04X}, which could disguise what is signed: remove it")]
    Unsafe(u32),
}

/// At most 512 bytes of text without control, bidirectional or zero-width characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SafeText(String);

impl SafeText {
    /// Longest text, in bytes.
    pub const MAX: usize = 512;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes any text safe: what is refused by parsing becomes `?`, and the rest is cut.
    pub fn sanitize(text: &str) -> Self {
        let mut safe = String::with_capacity(text.len().min(Self::MAX));
        for c in text.chars().map(|c| if is_safe(c) { c } else { '?' }) {
            if safe.len() + c.len_utf8() > Self::MAX {
                break;
            }
            safe.push(c);
        }
        Self(safe)
    }
}

/// Replaces every character that could move the cursor, recolour or reorder a terminal line.
/// For tables and messages made from a host's, a guest's or a hub's words.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_safe(c) { c } else { '?' }).collect()
}

fn is_safe(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{00AD}'                   // soft hyphen
            | '\u{034F}'                 // combining grapheme joiner
            | '\u{061C}'                 // Arabic letter mark
            | '\u{115F}' | '\u{1160}' | '\u{3164}' | '\u{FFA0}' // Hangul fillers
            | '\u{180B}'..='\u{180F}'    // Mongolian selectors and vowel separator
            | '\u{200B}'..='\u{200F}'    // zero width, direction marks
            | '\u{2028}'..='\u{202E}'    // separators, bidirectional embedding
            | '\u{2060}'..='\u{206F}'    // joiners, isolates, deprecated format characters
            | '\u{FE00}'..='\u{FE0F}'    // variation selectors
            | '\u{FEFF}'                 // byte order mark
            | '\u{FFF9}'..='\u{FFFB}'    // interlinear annotation
            | '\u{E0000}'..='\u{E0FFF}'  // tags, variation selectors supplement
        ))
}

impl FromStr for SafeText {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.len() > Self::MAX {
            return Err(TextError::TooLong(text.len()));
        }
        match text.chars().find(|c| !is_safe(*c)) {
            Some(c) => Err(TextError::Unsafe(u32::from(c))),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for SafeText {
    type Error = TextError;
    fn try_from(text: String) -> Result<Self, TextError> {
        text.parse()
    }
}

impl From<SafeText> for String {
    fn from(text: SafeText) -> String {
        text.0
    }
}

impl fmt::Display for SafeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disguises_are_refused() {
        for c in
            ['\u{1b}', '\n', '\u{202e}', '\u{2066}', '\u{200b}', '\u{9b}', '\u{feff}', '\u{ad}', '\u{e0041}']
        {
            let text = format!("a{c}b");
            assert_eq!(text.parse::<SafeText>(), Err(TextError::Unsafe(u32::from(c))));
            assert_eq!(printable(&text), "a?b");
        }
        assert!("decommission, ticket 118 (Zürich)".parse::<SafeText>().is_ok());
        assert_eq!("x".repeat(513).parse::<SafeText>(), Err(TextError::TooLong(513)));
        assert_eq!(SafeText::sanitize(&"ü".repeat(400)).as_str().len(), 512);
    }
}
