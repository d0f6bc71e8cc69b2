//! What differs from run to run and says nothing.

use serde_json::Value;

/// Makes text comparable. These are replaced by a word, and nothing else is:
///
/// * UPIDs by `UPID(TYPE:ID:USER)`, so that who does what is still compared;
/// * points in time (`2026-11-22 03:16:21`, `2026_11_22-03_16_21`), and how long something took
///   (`00:00:02`, `in 3s`, `<1 seconds`);
/// * UUIDs, digests and hardware addresses, by their form;
/// * numbers with a unit of size or rate behind them (`51.2 MiB`, `682.7 KiB/s`, `24KB`, `52429K`),
///   sizes in bytes, and process ids in names of temporary files.
pub(crate) fn tame(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some((word, length)) = token(rest, out.chars().next_back()) {
            out.push_str(&word);
            rest = &rest[length..];
            continue;
        }
        let c = rest.chars().next().unwrap();
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// The word for what `text` begins with, and how long that is.
fn token(text: &str, before: Option<char>) -> Option<(String, usize)> {
    if let Some(upid) = text.strip_prefix("UPID:") {
        let fields: Vec<&str> = upid.splitn(8, ':').collect();
        if let [_, _, _, _, kind, id, user, _] = fields[..] {
            let length = 5 + fields[..7].iter().map(|f| f.len() + 1).sum::<usize>();
            return Some((format!("UPID({kind}:{id}:{user})"), length));
        }
    }
    if before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.') {
        return None;
    }
    // The longest first: a UUID begins like a number.
    const FORMS: [(&str, &str); 9] = [
        ("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "UUID"),
        ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "DIGEST"),
        ("dddd-dd-dd dd:dd:dd", "TIME"),
        ("dddd_dd_dd-dd_dd_dd", "TIME"),
        ("xx:xx:xx:xx:xx:xx", "MAC"),
        ("(dd:dd:dd)", "(LONG)"),
        ("in <d seconds", "LONG"),
        ("in ds", "LONG"),
        ("<d seconds", "LONG"),
    ];
    for (form, word) in FORMS {
        if matches(text, form) && !text[form.len()..].starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Some((word.to_owned(), form.len()));
        }
    }
    for prefix in ["size=", "ctime=", "vzdumptmp", "bytes written: ", "bytes read: ", "size: ", "rate: "] {
        if let Some(after) = text.strip_prefix(prefix) {
            let number = digits(after);
            if number > 0 {
                let unit = after[number..].len()
                    - after[number..].trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
                return Some((format!("{prefix}N"), prefix.len() + number + unit));
            }
        }
    }
    let number = digits(text);
    let (spaced, unit) = match text[number..].strip_prefix(' ') {
        Some(after) => (1, after),
        None => (0, &text[number..]),
    };
    let unit_length =
        unit.len() - unit.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '/').len();
    let units =
        ["B", "KB", "K", "M", "G", "MB", "KiB", "MiB", "GiB", "B/s", "KiB/s", "MiB/s", "GiB/s", "bytes"];
    (number > 0 && units.contains(&&unit[..unit_length]))
        .then(|| ("SIZE".to_owned(), number + spaced + unit_length))
}

fn digits(text: &str) -> usize {
    let body = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if text.starts_with(|c: char| c.is_ascii_digit()) { text.len() - body.len() } else { 0 }
}

/// `d` is a digit, `x` one of a hexadecimal number.
fn matches(text: &str, form: &str) -> bool {
    text.len() >= form.len()
        && text.bytes().zip(form.bytes()).all(|(c, f)| match f {
            b'd' => c.is_ascii_digit(),
            b'x' => c.is_ascii_hexdigit(),
            other => c == other,
        })
}

/// The lines of a log without what depends on the node it ran on, not on the API: whether a mail
/// could be sent, progress between beginning and end, and rates of the tools that pack.
pub(crate) fn log(lines: &[String]) -> Vec<String> {
    let noise = |line: &str| {
        let mail = line.contains("`mail-to-root`") || line.contains("does not have a configured email");
        let progress = line.starts_with("progress ") && !line.starts_with("progress 100%")
            || line.starts_with("INFO:   ") && line.contains("% (");
        mail || progress || line.starts_with("transferred ") && line.ends_with("%)")
    };
    let cut = [
        "Total bytes read",
        "INFO: Total bytes written",
        "INFO: started backup task",
        "space reduction",
        "total bytes read",
    ];
    lines
        .iter()
        .filter(|line| !noise(line))
        .map(|line| match cut.iter().find(|c| line.starts_with(**c)) {
            Some(start) => (*start).to_owned(),
            None => sorted_words(&tame(line)),
        })
        .collect()
}

/// The first line of a backup's log names its options in random order.
fn sorted_words(line: &str) -> String {
    match line.strip_prefix("INFO: starting new backup job: ") {
        Some(words) => {
            let mut options: Vec<&str> = words.split(" --").collect();
            options[1..].sort_unstable();
            format!("INFO: starting new backup job: {}", options.join(" --"))
        }
        None => line.to_owned(),
    }
}

/// Every text in a value, tamed; without `saved`, which the real node sends as 1, "1" or "0" for no
/// reason, and `digest`.
pub(crate) fn value(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(tame(text)),
        Value::Array(rows) => rows.iter().map(self::value).collect(),
        Value::Object(map) => {
            map.iter().filter(|(k, _)| *k != "saved").map(|(k, v)| (k.clone(), self::value(v))).collect()
        }
        other => other.clone(),
    }
}

#[test]
fn only_noise_is_tamed() {
    let pairs = [
        ("UPID:pve1:0000016B:0002B38C:6B025E0A:vzcreate:200:a@pve!t:", "UPID(vzcreate:200:a@pve!t)"),
        ("vm-100-disk-0.qcow2", "vm-100-disk-0.qcow2"),
        ("at 2026-11-22 03:16:21", "at TIME"),
        ("vzdump-lxc-200-2026_11_22-03_15_29.tar.zst", "vzdump-lxc-200-TIME.tar.zst"),
        ("Finished Backup of VM 100 (00:00:01)", "Finished Backup of VM 100 (LONG)"),
        ("(51.2 MiB of 51.2 MiB) in 0s", "(SIZE of SIZE) LONG"),
        ("uuid=1575a37c-cbc2-44a6-8cba-f4e510bb5d49", "uuid=UUID"),
        ("VM 100 already running", "VM 100 already running"),
        ("x,size=52429K", "x,size=N"),
        ("limited to 5 on", "limited to 5 on"),
    ];
    for (text, wanted) in pairs {
        assert_eq!(tame(text), wanted);
    }
}
