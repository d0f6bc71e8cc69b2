//! How things are written for people and for machines: times, durations, tables, JSON. Pure.
//!
//! No colours are used at all, so `NO_COLOR` needs no special case.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use protocol::text::printable;
use serde::Serialize;

/// Unix seconds as `2026-11-22 05:03:58Z`.
pub fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    match time {
        Some(t) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        ),
        // A host or hub can send any number; it must not end the program.
        None => format!("no such time ({seconds} s)"),
    }
}

/// How long ago `then` was, in words. Clocks of other machines can be ahead.
pub fn age(then: u64, now: u64) -> String {
    match now.checked_sub(then) {
        Some(seconds) => format!("{} ago", span(seconds)),
        None => format!("{} in the future by this machine's clock", span(then - now)),
    }
}

/// Seconds as people say them.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Bytes as people say them, in powers of 1024.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut whole, mut rest, mut unit) = (count, 0, "B");
    for next in UNITS {
        if whole < 1024 {
            break;
        }
        (rest, whole, unit) = (whole % 1024 * 10 / 1024, whole / 1024, next);
    }
    if unit == "B" || whole >= 100 { format!("{whole} {unit}") } else { format!("{whole}.{rest} {unit}") }
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a whole number and a unit, such as 90s, 10m, 24h or 7d")]
pub struct DurationError;

/// A duration such as `90s`, `10m`, `24h` or `7d`, in seconds.
pub fn parse_duration(text: &str) -> Result<u64, DurationError> {
    let unit = text.chars().next_back().ok_or(DurationError)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(DurationError),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(DurationError);
    }
    let number: u64 = digits.parse().map_err(|_| DurationError)?;
    // Ten years: nothing here waits or is valid longer, and sums with the clock cannot overflow.
    number.checked_mul(factor).filter(|seconds| *seconds <= 3_650 * 86_400).ok_or(DurationError)
}

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a size is a whole number of bytes, or one with a unit, such as 64KiB or 1MiB")]
pub struct SizeError;

/// A size such as `1000`, `64KiB` or `1MiB`, in bytes.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let (digits, factor) = match text.strip_suffix("KiB") {
        Some(digits) => (digits, 1024),
        None => text.strip_suffix("MiB").map_or((text, 1), |digits| (digits, 1024 * 1024)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SizeError);
    }
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or(SizeError)
}

/// Aligned columns without frames. Every cell is made safe for the terminal here, so that nobody
/// can forget it.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|title| Cell::new(title).set_alignment(CellAlignment::Left)));
    for row in rows {
        table.add_row(row.iter().map(|cell| Cell::new(printable(cell))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `  label   value` lines, values made safe for the terminal and aligned.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in rows {
        let _ = writeln!(text, "  {label:width$}  {}", printable(value));
    }
    text
}

/// Pretty JSON. Characters that could act on a terminal are written as `\u` escapes, which any
/// JSON reader turns back: they can only stand inside strings.
pub fn json<T: Serialize>(value: &T) -> String {
    let plain = serde_json::to_string_pretty(value)
        .expect("our own views hold only strings, numbers, lists and structs");
    let mut text = String::with_capacity(plain.len() + 1);
    for c in plain.chars() {
        if c == '\n' || printable(c.encode_utf8(&mut [0; 4])) != "?" || c == '?' {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_the_same_everywhere() {
        assert_eq!(utc(1_795_323_838), "2026-11-22 05:03:58Z");
        assert_eq!(utc(0), "1970-01-01 00:00:00Z");
        assert!(utc(u64::MAX).starts_with("no such time"));
        assert_eq!(age(100, 112), "12 s ago");
        assert!(age(200, 100).contains("in the future"));
        assert_eq!([span(119), span(7199), span(7200), span(200_000)], ["119 s", "119 min", "2 h", "2 days"]);
        assert_eq!([bytes(0), bytes(1536), bytes(u64::MAX)], ["0 B", "1.5 KiB", "16383 PiB"]);
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(90));
        assert_eq!(parse_duration("10m"), Ok(600));
        assert_eq!(parse_duration("24h"), Ok(86_400));
        assert_eq!(parse_duration("7d"), Ok(604_800));
        for bad in ["", "10", "m", "-1s", "1.5h", " 1s", "1 s", "99999999999999999999s", "4000d", "1ü"] {
            assert_eq!(parse_duration(bad), Err(DurationError), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        assert_eq!(
            [parse_size("0"), parse_size("64KiB"), parse_size("2MiB")],
            [Ok(0), Ok(65_536), Ok(2 << 20)]
        );
        for bad in ["", "KiB", "1K", "1MB", "1.5MiB", "-1", " 1", "1 KiB", "0x10", "99999999999999999999MiB"]
        {
            assert_eq!(parse_size(bad), Err(SizeError), "{bad:?}");
        }
    }

    #[test]
    fn escapes_from_outside_never_reach_the_terminal() {
        let evil = "web\u{1b}[2Jfake\u{202e}\u{9b}31m\r\nok".to_owned();
        for text in [
            table(&["name", "x"], &[vec![evil.clone(), "1".into()]]),
            fields(&[("name", evil.clone())]),
            json(&vec![evil.clone()]),
        ] {
            assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{9b}', '\r']), "{text:?}");
        }
        let back: Vec<String> = serde_json::from_str(&json(&vec![evil.clone()])).unwrap();
        assert_eq!(back, [evil]);
        // One row stays one line, whatever is in it.
        assert_eq!(table(&["name"], &[vec!["a\nb".into()]]).lines().count(), 2);
    }

    #[test]
    fn columns_are_aligned() {
        let text =
            table(&["NAME", "STATE"], &[vec!["a".into(), "x".into()], vec!["long".into(), "y".into()]]);
        assert_eq!(text, "NAME  STATE\na     x\nlong  y\n");
    }
}
