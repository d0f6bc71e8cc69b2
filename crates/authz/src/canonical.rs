//! One spelling per value: whatever is signed is parsed only if writing it again gives the same
//! bytes (rule V18). That refuses insignificant whitespace, other key orders, duplicate keys,
//! needless escapes, floats and trailing bytes without listing them.

use serde::{Serialize, de::DeserializeOwned};

/// Largest integer that every JSON reader keeps exact (rule V19).
pub const MAX_INTEGER: u64 = 1 << 53;

/// Why signed bytes are not a value.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// Not the JSON of this type.
    #[error("the payload is not a valid {what}: {detail}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// The parser's words: field names and positions, no values.
        detail: String,
    },
    /// Another spelling of a valid value.
    #[error(
        "the payload is not in its one canonical spelling (no spaces, fixed key order, newline at the end): write it with `writ`"
    )]
    NotCanonical,
}

/// Writes the one spelling: JSON without insignificant whitespace, and a newline.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec(value).expect("signed types hold only strings, integers, lists and structs");
    bytes.push(b'\n');
    bytes
}

/// Parses, then demands `encode(parse(bytes)) == bytes`.
pub fn decode<T: Serialize + DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CanonicalError> {
    let value: T = serde_json::from_slice(bytes).map_err(|error| CanonicalError::Malformed {
        what,
        detail: protocol::text::printable(&error.to_string()),
    })?;
    if encode(&value) == bytes { Ok(value) } else { Err(CanonicalError::NotCanonical) }
}
