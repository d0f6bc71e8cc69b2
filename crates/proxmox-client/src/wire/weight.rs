//! What an answer would weigh once it is parsed. `{"":0},` is seven bytes on the wire and some seven
//! hundred in memory, so a body is counted before it is parsed: its objects and lists, its values, and
//! how deep they are nested.

/// Bytes of the wire that one object or list may cost in memory, divided by what is allowed: with some
/// 640 bytes for the smallest object, objects stay below four times the cap of the body.
const BYTES_PER_CONTAINER: usize = 160;
/// The same for values: a key, its text and the place for both cost some 150 bytes.
const BYTES_PER_VALUE: usize = 40;
/// Nothing of the API is nested deeper than a tree of ZFS devices.
const MOST_DEPTH: usize = 64;

/// Why a body of at most `limit` bytes must not be parsed; `None` if it may. Looks at no grammar: what
/// is no JSON is refused by the parser, at no higher price.
pub(crate) fn too_heavy(body: &[u8], limit: usize) -> Option<String> {
    let (most_containers, most_values) = (limit / BYTES_PER_CONTAINER, limit / BYTES_PER_VALUE);
    let (mut containers, mut values, mut depth) = (0_usize, 0_usize, 0_usize);
    let (mut in_text, mut escaped) = (false, false);
    for byte in body {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => {
                containers += 1;
                depth += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if containers > most_containers {
            return Some(format!("holds more than {most_containers} rows and objects"));
        }
        if values > most_values {
            return Some(format!("holds more than {most_values} values"));
        }
        if depth > MOST_DEPTH {
            return Some(format!("is nested more than {MOST_DEPTH} deep"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 16 * 1024 * 1024;

    fn list(item: &str, count: usize) -> Vec<u8> {
        format!("{{\"data\":[{}]}}", vec![item; count].join(",")).into_bytes()
    }

    #[test]
    fn hostile_bodies_are_refused_before_they_are_parsed() {
        for (item, word) in [("{\"\":0}", "rows"), ("[]", "rows"), ("0", "values"), ("\"\"", "values")] {
            let body = list(item, (LIMIT - 16) / (item.len() + 1));
            assert!(body.len() <= LIMIT && body.len() > LIMIT - 64);
            assert!(too_heavy(&body, LIMIT).is_some_and(|why| why.contains(word)), "{item}");
        }
        let deep = [vec![b'['; 65], vec![b']'; 65]].concat();
        assert!(too_heavy(&deep, LIMIT).is_some_and(|why| why.contains("deep")));
        // A row may not hide the others in itself.
        let nested = list("[{\"\":0},{\"\":0}]", LIMIT / 200);
        assert!(too_heavy(&nested, LIMIT).is_some());
    }

    #[test]
    fn real_lists_pass_and_texts_weigh_nothing() {
        let row = r#"{"upid":"UPID:pve1:000003A4:000359AB:6B025FB3:qmsnapshot:100:tester@pve!full:","node":"pve1","pid":932,"pstart":219563,"starttime":1795317683,"type":"qmsnapshot","id":"100","user":"tester@pve","tokenid":"full","endtime":1795317684,"status":"OK"}"#;
        assert_eq!(too_heavy(&list(row, 30_000), LIMIT), None);
        assert_eq!(too_heavy(&list(r#"{"n":100000,"t":"a line of a log"}"#, 100_000), LIMIT), None);
        assert_eq!(too_heavy(&list(row, 500), 1024 * 1024), None);
        let text = format!("{{\"data\":\"{}\"}}", "[{\\\"\\\\,".repeat(100_000));
        assert_eq!(too_heavy(text.as_bytes(), 1024 * 1024), None);
        assert_eq!(too_heavy(b"", LIMIT), None);
        assert_eq!(too_heavy(b"]]]]\"", LIMIT), None);
    }

    #[test]
    fn what_passes_is_below_ten_times_its_cap() {
        // The heaviest that passes: as many of the smallest objects as are allowed, in each a key. Counted
        // with the size of a B-tree's leaf, which rows have to themselves: eleven keys, eleven values, and the pointers around them.
        let leaf = 11 * (size_of::<String>() + size_of::<serde_json::Value>()) + 16;
        let containers = LIMIT / BYTES_PER_CONTAINER * (leaf + size_of::<serde_json::Value>());
        // A value within a big object: its share of a half-full leaf, and two texts of their own.
        let values = LIMIT / BYTES_PER_VALUE * (leaf / 6 + 2 * 32);
        assert!(containers + values + LIMIT < 10 * LIMIT, "{containers} {values}");
    }
}
