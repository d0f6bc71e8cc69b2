//! Looking for texts in bytes of any origin: as they are, in hexadecimal, in base64 wherever its bytes begin,
//! and in whatever base64 there decodes to, three deep. What is encrypted or compressed is not looked into.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::{BASE64_NOPAD, HEXLOWER, HEXUPPER};

/// Shorter runs of base64 hold no text that is worth finding.
const RUN: usize = 16;
/// JSON in JSON in JSON.
const DEPTH: usize = 3;
/// Shorter encoded pieces could be there by chance.
const PIECE: usize = 8;

/// Texts to look for, each with a name.
#[derive(Debug, Default, Clone)]
pub struct Search {
    forms: Vec<Form>,
    /// Which of them begin with these two bytes: one pass finds all.
    by_start: BTreeMap<[u8; 2], Vec<usize>>,
}

#[derive(Debug, Clone)]
struct Form {
    name: String,
    form: &'static str,
    needle: Vec<u8>,
}

/// In which form the text is in there; empty when it is not.
pub fn find(bytes: &[u8], text: &str) -> Vec<String> {
    let mut search = Search::default();
    search.add("", text.as_bytes());
    search.find(bytes).into_values().flatten().collect()
}

impl Search {
    /// Adds one, of two bytes at least.
    pub fn add(&mut self, name: &str, text: &[u8]) {
        for (form, needle) in forms(text) {
            let Some(start) = needle.first_chunk() else { continue };
            self.by_start.entry(*start).or_default().push(self.forms.len());
            self.forms.push(Form { name: name.to_owned(), form, needle });
        }
    }

    /// The names of all.
    pub fn names(&self) -> BTreeSet<&str> {
        self.forms.iter().map(|form| form.name.as_str()).collect()
    }

    /// Those that are in there, by name, and in which forms.
    pub fn find(&self, bytes: &[u8]) -> BTreeMap<&str, BTreeSet<String>> {
        let mut found = BTreeMap::new();
        let mut starts = vec![false; 1 << 16];
        for start in self.by_start.keys() {
            starts[usize::from(u16::from_be_bytes(*start))] = true;
        }
        self.look(bytes, &starts, DEPTH, &mut found);
        found
    }

    fn look<'a>(
        &'a self,
        bytes: &[u8],
        starts: &[bool],
        depth: usize,
        found: &mut BTreeMap<&'a str, BTreeSet<String>>,
    ) {
        for (at, pair) in bytes.array_windows().enumerate() {
            if !starts[usize::from(u16::from_be_bytes(*pair))] {
                continue;
            }
            let here = self.by_start.get(pair).into_iter().flatten().map(|index| &self.forms[*index]);
            for Form { name, form, .. } in here.filter(|form| bytes[at..].starts_with(&form.needle)) {
                let inside = " in base64".repeat(DEPTH - depth);
                found.entry(name.as_str()).or_default().insert(format!("{form}{inside}"));
            }
        }
        if depth == 0 {
            return;
        }
        for run in bytes.split(|byte| symbol(*byte).is_none()).filter(|run| run.len() >= RUN) {
            let symbols: Vec<u8> = run.iter().filter_map(|byte| symbol(*byte)).collect();
            // It may begin before what looks like its beginning, as after the `n` of a line's end in JSON.
            for start in 0..4 {
                self.look(&decode(&symbols[start..]), starts, depth - 1, found);
            }
        }
    }
}

/// Of both alphabets.
fn symbol(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => Some(byte),
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        _ => None,
    }
}

/// As much as is whole.
fn decode(symbols: &[u8]) -> Vec<u8> {
    let whole = symbols.len() / 4 * 4;
    // A rest of two or three symbols holds a byte or two, if its last bits are zero.
    let rest = BASE64_NOPAD.decode(&symbols[whole..]).unwrap_or_default();
    let mut decoded = BASE64_NOPAD.decode(&symbols[..whole]).unwrap_or_default();
    decoded.extend(rest);
    decoded
}

fn forms(text: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = vec![
        ("plain", text.to_vec()),
        ("backwards", text.iter().rev().copied().collect()),
        ("hex", HEXLOWER.encode(text).into_bytes()),
        ("HEX", HEXUPPER.encode(text).into_bytes()),
    ];
    for (name, skip) in [("base64", 0), ("base64, one further", 2), ("base64, two further", 1)] {
        // Only whole groups of three look the same whatever stands around them.
        let inner = &text[skip.min(text.len())..];
        let encoded = BASE64_NOPAD.encode(&inner[..inner.len() / 3 * 3]);
        let other = encoded.replace('+', "-").replace('/', "_");
        forms.extend((other != encoded).then(|| (name, other.into_bytes())));
        forms.push((name, encoded.into_bytes()));
    }
    forms.retain(|(form, needle)| *form == "plain" || needle.len() >= PIECE);
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::{BASE64, BASE64URL};

    const TEXT: &str = "marker-0123456789?>~";

    fn is_found(bytes: &[u8]) -> bool {
        !find(bytes, TEXT).is_empty()
    }

    #[test]
    fn every_form_is_found_wherever_it_begins() {
        for before in 0..7 {
            for after in 0..7 {
                let plain = [&vec![b' '; before], TEXT.as_bytes(), &vec![b'!'; after]].concat();
                let in_json = format!("{{\"a\":\"{}\"}}", BASE64.encode(&plain)).into_bytes();
                let lines = format!("x\\n{}\\nAB", BASE64.encode(&plain)).into_bytes();
                for bytes in [
                    plain.clone(),
                    HEXLOWER.encode(&plain).into_bytes(),
                    HEXUPPER.encode(&plain).into_bytes(),
                    BASE64URL.encode(&plain).into_bytes(),
                    BASE64.encode(&in_json).into_bytes(),
                    in_json,
                    lines,
                ] {
                    assert!(is_found(&bytes), "{}", String::from_utf8_lossy(&bytes));
                }
            }
        }
        assert_eq!(find(TEXT.as_bytes(), TEXT), ["plain"]);
        assert_eq!(find(b"in a short text", "a short"), ["plain"]);
        let mut both = Search::default();
        both.add("one", b"first-marker");
        both.add("two", b"first-milestone");
        both.add("three", b"absent-marker");
        let found = both.find(b"first-marker and Zmlyc3QtbWlsZXN0b25l");
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(both.names().len(), 3);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let other: String = TEXT.chars().rev().map(|c| if c == 'k' { 'K' } else { c }).collect();
        for bytes in [&b""[..], b"marker-012345678", other.as_bytes(), &[0xff; 100], &[b'A'; 1000]] {
            assert!(!is_found(bytes), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
