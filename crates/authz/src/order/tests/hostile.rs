//! The hostile table, driven by the golden orders: each place of each order is spoiled in each way, and
//! the result is refused, or (in the closed list [`LEGAL`]) is another order.

use super::golden::files;
use super::*;

/// JSON that keeps what serde_json's own value loses: the order of keys.
#[derive(Clone)]
enum Json {
    Scalar(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

impl Json {
    fn parse(bytes: &[u8]) -> Self {
        let raw: Box<RawValue> = serde_json::from_slice(bytes).unwrap();
        Self::of(raw.get())
    }

    fn of(text: &str) -> Self {
        match text.as_bytes()[0] {
            b'{' => {
                // The value's own map is sorted, so the keys' places in the text decide.
                let map: std::collections::BTreeMap<String, Box<RawValue>> =
                    serde_json::from_str(text).unwrap();
                let mut fields: Vec<_> = map.into_iter().map(|(k, v)| (position(text, &k), k, v)).collect();
                fields.sort_by_key(|(at, ..)| *at);
                Self::Map(fields.into_iter().map(|(_, k, v)| (k, Self::of(v.get()))).collect())
            }
            b'[' => {
                let items: Vec<Box<RawValue>> = serde_json::from_str(text).unwrap();
                Self::List(items.iter().map(|item| Self::of(item.get())).collect())
            }
            _ => Self::Scalar(text.to_owned()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Scalar(text) => text.clone(),
            Self::List(items) => {
                format!("[{}]", items.iter().map(Self::text).collect::<Vec<_>>().join(","))
            }
            Self::Map(fields) => {
                let fields: Vec<_> = fields.iter().map(|(k, v)| format!("\"{k}\":{}", v.text())).collect();
                format!("{{{}}}", fields.join(","))
            }
        }
    }

    fn at(&mut self, path: &[usize]) -> &mut Json {
        path.iter().fold(self, |json, at| match json {
            Self::Map(fields) => &mut fields[*at].1,
            Self::List(items) => &mut items[*at],
            Self::Scalar(_) => unreachable!("a scalar has no parts"),
        })
    }

    /// Every place: its indices, and how a person names it (`pre.backups[].size`).
    fn places(&self) -> Vec<(Vec<usize>, String)> {
        fn walk(json: &Json, path: &[usize], name: &str, into: &mut Vec<(Vec<usize>, String)>) {
            let mut go = |at: usize, child: &Json, name: String| {
                let path = [path, &[at]].concat();
                into.push((path.clone(), name.clone()));
                walk(child, &path, &name, into);
            };
            match json {
                Json::Scalar(_) => {}
                Json::List(items) => {
                    for (at, item) in items.iter().enumerate() {
                        go(at, item, format!("{name}[]"));
                    }
                }
                Json::Map(fields) => {
                    for (at, (key, child)) in fields.iter().enumerate() {
                        let dot = if name.is_empty() { "" } else { "." };
                        go(at, child, format!("{name}{dot}{key}"));
                    }
                }
            }
        }
        let mut places = Vec::new();
        walk(self, &[], "", &mut places);
        places
    }
}

/// Where a key of this very object stands: at depth one, outside strings.
fn position(text: &str, key: &str) -> usize {
    let wanted = format!("\"{key}\":");
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        if quoted {
            (quoted, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        match c {
            '"' if depth == 1 && text[at..].starts_with(&wanted) => return at,
            '"' => quoted = true,
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
    }
    unreachable!("the key was parsed from this text")
}

/// Changes after which the bytes are an order still, and another one. Everything else is refused.
/// `*` stands for any kind.
const LEGAL: &[(&str, &str, &str, &str)] = &[
    // kind, place, change, why
    ("*", "host.cluster", "to text", "a cluster's id; a host in none refuses it (other_host)"),
    ("*", "ticket", "to text", "a ticket is for people, and there may be none"),
    (
        "*",
        "guest.identity.smbios_uuid",
        "to null",
        "containers have none; MAC addresses still tell the guest",
    ),
    ("*", "guest.identity.smbios_uuid", "to text", "the same, the other way round"),
    ("*", "guest.identity.vmgenid", "to null", "containers have none"),
    ("*", "guest.identity.vmgenid", "to text", "the same, the other way round"),
    ("*", "guest.identity.meta_ctime", "to null", "containers have none"),
    ("*", "guest.identity.meta_ctime", "to number", "the same, the other way round"),
    (
        "*",
        "guest.identity.macs",
        "to empty list",
        "a guest without network; its UUID or volumes still tell it",
    ),
    ("*", "guest.identity.volids", "to empty list", "a guest without disks; its UUID or MACs still tell it"),
    ("*", "guest.identity.macs[]", "without item", "one network device less, compared with the guest"),
    ("*", "guest.identity.volids[]", "without item", "one volume less, compared with the guest"),
    ("*", "pre.state", "to null", "benign kinds and disk.detach may leave it out"),
    ("*", "pre.digest", "to null", "benign kinds that change no option may leave it out"),
    ("*", "pre.config_sha256", "to null", "it may be left out wherever it may stand"),
    ("*", "pre.snapshot.parent", "to text", "a parent's name, compared with the snapshot"),
    ("*", "pre.snapshots[].parent", "to text", "the same"),
    ("*", "pre.snapshots[].parent", "to null", "a first snapshot has none, compared with the guest"),
    ("*", "pre.snapshots", "to empty list", "no snapshots, compared with the guest"),
    ("*", "pre.snapshots[]", "without item", "one snapshot less, compared with the guest"),
    ("*", "pre.replication", "to empty list", "no replication, compared with the guest"),
    ("*", "pre.replication[]", "without item", "the same"),
    ("*", "pre.disk.wwn", "to null", "many USB disks have none, compared with the disk"),
    ("guest.tag", "params.tags", "to empty list", "no tags at all is a wish"),
    ("guest.tag", "params.tags[]", "without item", "fewer tags"),
    ("guest.create", "params.tags", "to empty list", "no tags"),
    ("guest.create", "params.tags[]", "without item", "no tags"),
    ("guest.create", "params.net", "to null", "no network"),
    ("guest.create", "params.net.vlan", "to null", "no VLAN"),
    ("guest.create", "params.pool", "to null", "no pool"),
    ("guest.config", "params.changes[]", "without item", "fewer changes"),
    ("guest.config", "params.changes[].old", "to null", "it was not set, compared with the guest"),
    ("guest.config", "params.changes[].old", "to text", "it was another value, compared with the guest"),
    ("guest.config", "params.changes[].new", "to null", "the option is unset"),
    ("guest.resize", "params.cores", "to null", "not changed; the memory still is"),
    ("guest.resize", "params.memory_mib", "to null", "not changed; the cores still are"),
    ("guest.resize", "params.cores.old", "to null", "it was not set, compared with the guest"),
    ("guest.resize", "params.memory_mib.old", "to null", "it was not set, compared with the guest"),
    ("storage.add", "params.content[]", "without item", "fewer sorts of content"),
    ("log.reanchor", "params.last", "to null", "nobody knows any place in the old log"),
    ("*", "reason", "to empty text", "nobody has to give one"),
    ("*", "guest.name", "to empty text", "a container may have none, compared with the guest"),
    ("backup.create", "params.notes", "to empty text", "no notes"),
    ("guest.config", "params.changes[].old", "to empty text", "it was empty, compared with the guest"),
    ("job.run", "params.args[]", "to empty text", "an empty argument is one"),
    ("job.run", "params.env[].value", "to empty text", "an empty variable is one"),
    ("job.run", "params.args", "to empty list", "a script without arguments"),
    ("job.run", "params.args[]", "without item", "a script without arguments"),
    ("job.run", "params.args[]", "twice", "an argument can be given twice"),
    ("job.run", "params.env", "to empty list", "a script without variables"),
    ("job.run", "params.env[]", "without item", "a script without variables"),
    ("session.open", "params.forwards", "to empty list", "a session without forwards"),
    ("session.open", "params.forwards[]", "without item", "a session without forwards"),
    (
        "*",
        "plan",
        "to null",
        "whether a plan is needed is the policy's affair (needs_plan), but of plan.approve",
    ),
];

fn is_legal(kind: &str, place: &str, change: &str) -> bool {
    LEGAL.iter().any(|(k, p, c, _)| (*k == "*" || *k == kind) && *p == place && *c == change)
}

struct Table {
    refused: usize,
    other: Vec<(String, String, String)>,
    wrong: Vec<String>,
}

impl Table {
    /// The bytes are refused, or legal and another order.
    fn case(&mut self, kind: &str, place: &str, change: &str, bytes: &[u8], original: &Order) {
        match Order::decode(bytes) {
            Err(_) => self.refused += 1,
            Ok(order) if !is_legal(kind, place, change) => {
                self.wrong.push(format!("{kind}: {place} {change} was accepted: {:?}", order.params));
            }
            Ok(order) => {
                assert_ne!(order, *original, "{kind}: {place} {change} changed nothing");
                assert_eq!(order.encode(), bytes, "{kind}: {place} {change}");
                self.other.push((kind.to_owned(), place.to_owned(), change.to_owned()));
            }
        }
    }
}

/// Values that no number of any order may have.
const NUMBERS: [(&str, &str); 9] = [
    ("negative", "-1"),
    ("minus zero", "-0"),
    ("2^53 + 1", "9007199254740993"),
    ("2^64", "18446744073709551616"),
    ("huge exponent", "1e400"),
    ("hexadecimal", "0x10"),
    ("leading zero", "01"),
    ("plus", "+1"),
    ("no number", "NaN"),
];

/// What no string of any order may hold.
const STRINGS: [(&str, &str); 13] = [
    ("escape", "\u{1b}[2J"),
    ("line break", "\n"),
    ("escaped line break", "\\n"),
    ("zero byte", "\\u0000"),
    ("C1 control", "\u{9b}"),
    ("right-to-left override", "\u{202e}"),
    ("isolate", "\u{2066}"),
    ("zero width space", "\u{200b}"),
    ("zero width joiner", "\u{200d}"),
    ("byte order mark", "\u{feff}"),
    ("soft hyphen", "\u{ad}"),
    ("lone surrogate", "\\ud800"),
    ("tag character", "\u{e0041}"),
];

#[test]
fn every_place_of_every_order_is_guarded() {
    let mut table = Table { refused: 0, other: Vec::new(), wrong: Vec::new() };
    for (kind, bytes) in files() {
        let order = Order::decode(&bytes).unwrap();
        let good = Json::parse(&bytes);
        assert_eq!(format!("{}\n", good.text()).as_bytes(), bytes, "the table's own reader is true");
        for (path, place) in good.places() {
            let mut case = |change: &str, json: Json| {
                table.case(&kind, &place, change, format!("{}\n", json.text()).as_bytes(), &order);
            };
            let with = |value: &str| {
                let mut json = good.clone();
                *json.at(&path) = Json::Scalar(value.to_owned());
                json
            };
            structure(&good, &path, &mut case);
            let now = good.clone().at(&path).text();
            let scalar = match now.as_bytes()[0] {
                b'"' => "text",
                b'{' => "map",
                b'[' => "list",
                b't' | b'f' => "flag",
                b'n' => "null",
                _ => "number",
            };
            for (change, value, own) in [
                ("to null", "null", "null"),
                ("to flag", "true", "flag"),
                ("to number", "7", "number"),
                ("to text", "\"x\"", "text"),
                ("to empty list", "[]", "list"),
                ("to empty map", "{}", "map"),
                ("to list of null", "[null]", ""),
            ] {
                if own != scalar || (own == "list" && now != "[]") {
                    case(change, with(value));
                }
            }
            match scalar {
                "number" => {
                    for (change, value) in NUMBERS {
                        case(change, with(value));
                    }
                    for value in
                        [format!("{now}.0"), format!("{now}e0"), format!("{now}.5"), format!("\"{now}\"")]
                    {
                        case(&value, with(&value));
                    }
                }
                "text" => {
                    let inner = &now[1..now.len() - 1];
                    for (change, poison) in STRINGS {
                        case(change, with(&format!("\"{inner}{poison}\"")));
                        case(change, with(&format!("\"{poison}{inner}\"")));
                    }
                    if !inner.is_empty() {
                        case("to empty text", with("\"\""));
                    }
                    case("too long", with(&format!("\"{inner}{}\"", "x".repeat(1100))));
                    if let Some(first) = inner.chars().next().filter(|c| c.is_ascii() && *c != '\\') {
                        let escaped = format!("\"\\u{:04x}{}\"", u32::from(first), &inner[1..]);
                        case("needless escape", with(&escaped));
                    }
                    case("needless slash", with(&format!("\"{inner}\\/\"")));
                }
                "flag" => {
                    for value in ["1", "\"true\"", "True"] {
                        case(value, with(value));
                    }
                }
                _ => {}
            }
        }
    }
    assert!(table.wrong.is_empty(), "{} accepted:\n{}", table.wrong.len(), table.wrong.join("\n"));
    assert!(table.refused > 20_000, "only {} cases were refused", table.refused);
    // The list is closed both ways: an entry that never happens is a mistake in the list.
    let happened = |kind: &str, place: &str, change: &str| {
        table.other.iter().any(|(k, p, c)| (kind == "*" || k == kind) && p == place && c == change)
    };
    let idle: Vec<_> =
        LEGAL.iter().filter(|(kind, place, change, _)| !happened(kind, place, change)).collect();
    assert!(idle.is_empty(), "never gave an order: {idle:#?}");
}

/// Parts removed, doubled, added, in another order.
fn structure(good: &Json, path: &[usize], case: &mut impl FnMut(&str, Json)) {
    let (last, parent) = path.split_last().expect("the root is no place");
    let mut edit = |change: &str, edit: &dyn Fn(&mut Json)| {
        let mut json = good.clone();
        edit(json.at(parent));
        case(change, json);
    };
    edit("without item", &|json| match json {
        Json::Map(fields) => drop(fields.remove(*last)),
        Json::List(items) => drop(items.remove(*last)),
        Json::Scalar(_) => unreachable!("a parent has parts"),
    });
    edit("twice", &|json| match json {
        Json::Map(fields) => fields.insert(*last, fields[*last].clone()),
        Json::List(items) => items.insert(*last, items[*last].clone()),
        Json::Scalar(_) => unreachable!("a parent has parts"),
    });
    let is_map = matches!(good.clone().at(parent), Json::Map(_));
    if is_map {
        for (change, name) in [("unknown key", "sudo"), ("unknown empty key", ""), ("unknown like key", "V")]
        {
            edit(change, &|json| {
                if let Json::Map(fields) = json {
                    fields.insert(*last, (name.to_owned(), Json::Scalar("true".into())));
                }
            });
        }
        edit("moved to the end", &|json| {
            if let Json::Map(fields) = json {
                let field = fields.remove(*last);
                if *last == fields.len() {
                    fields.insert(0, field);
                } else {
                    fields.push(field);
                }
                // An object of one field has one order only: double it instead.
                if fields.len() == 1 {
                    fields.push(fields[0].clone());
                }
            }
        });
        edit("key in another spelling", &|json| {
            if let Json::Map(fields) = json {
                fields[*last].0 =
                    format!("\\u{:04x}{}", u32::from(fields[*last].0.as_bytes()[0]), &fields[*last].0[1..]);
            }
        });
        edit("key in upper case", &|json| {
            if let Json::Map(fields) = json {
                fields[*last].0 = fields[*last].0.to_uppercase();
            }
        });
    }
}

/// The frame around each order: whitespace at every gap, bytes before, after and in between.
#[test]
fn every_order_has_one_spelling() {
    for (kind, bytes) in files() {
        let good = String::from_utf8(bytes.clone()).unwrap();
        let refuse = |what: &str, bad: &[u8]| assert!(Order::decode(bad).is_err(), "{kind}: {what}");
        let mut quoted = false;
        for (at, c) in good.char_indices() {
            refuse("cut", &bytes[..at]);
            quoted ^= c == '"';
            if !quoted && matches!(c, '{' | '}' | '[' | ']' | ':' | ',') {
                for gap in [" ", "\n", "\t", "\r\n", "\u{a0}", "/**/"] {
                    refuse("whitespace", format!("{}{gap}{}", &good[..=at], &good[at + 1..]).as_bytes());
                }
            }
        }
        refuse("byte order mark", format!("\u{feff}{good}").as_bytes());
        refuse("trailing space", format!("{good} ").as_bytes());
        refuse("trailing line", format!("{good}\n").as_bytes());
        refuse("trailing zero", format!("{good}\0").as_bytes());
        refuse("carriage return", good.replace('\n', "\r\n").as_bytes());
        refuse("no line break", good.trim_end().as_bytes());
        refuse("two orders", format!("{good}{good}").as_bytes());
        refuse("a list of it", format!("[{}]\n", good.trim_end()).as_bytes());
        refuse("UTF-16", &good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
        for at in [0, bytes.len() / 2, bytes.len()] {
            refuse("bad UTF-8", &[&bytes[..at], b"\xff\xfe", &bytes[at..]].concat());
            refuse("overlong UTF-8", &[&bytes[..at], b"\xc0\xaf", &bytes[at..]].concat());
        }
        for (what, value) in [
            ("depth 200", format!("{}{}", "[".repeat(200), "]".repeat(200))),
            ("depth of maps", format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200))),
            ("a mebibyte", format!("\"{}\"", "x".repeat(1 << 20))),
            ("lone surrogate", "\"\\udc00\"".to_owned()),
        ] {
            refuse(what, good.replacen("\"reason\":\"test\"", &format!("\"reason\":{value}"), 1).as_bytes());
            refuse(
                what,
                good.replacen("\"params\":{", &format!("\"params\":{{\"x\":{value},"), 1).as_bytes(),
            );
        }
    }
}

/// No order's parameters fit another kind, but where both have the very same ones.
#[test]
fn parameters_of_another_kind_are_refused() {
    let files = files();
    for (kind, bytes) in &files {
        let good = String::from_utf8(bytes.clone()).unwrap();
        for other in Kind::ALL.iter().filter(|other| other.as_str() != kind) {
            let swapped = good.replacen(&format!("\"kind\":\"{kind}\""), &format!("\"kind\":\"{other}\""), 1);
            match Order::decode(swapped.as_bytes()) {
                Err(_) => {}
                // Without parameters only the name says what is done; the signature is over the name.
                Ok(order) => assert!(
                    good.contains("\"params\":{},") && order.kind() == *other,
                    "the parameters of {kind} were taken for {other}"
                ),
            }
        }
    }
}

/// Single bytes changed, dropped and doubled, at places from a seed: no panic, and never the same order.
#[test]
fn no_other_bytes_are_the_same_order() {
    let mut state = 0x0005_eed0_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let (mut refused, mut other) = (0, 0);
    for (kind, bytes) in files() {
        let order = Order::decode(&bytes).unwrap();
        for _ in 0..400 {
            let at = next(bytes.len());
            let mut bad = bytes.clone();
            match next(4) {
                0 => bad[at] ^= 1 << next(8),
                1 => drop(bad.remove(at)),
                2 => bad.insert(at, bytes[at]),
                _ => bad[at] = b"{}[]\",:0129aA-.e \n\\"[next(19)],
            }
            if bad == bytes {
                continue;
            }
            match Order::decode(&bad) {
                Err(_) => refused += 1,
                Ok(read) => {
                    assert_ne!(read, order, "{kind}: other bytes, the same order");
                    assert_eq!(read.encode(), bad, "{kind}");
                    other += 1;
                }
            }
        }
    }
    assert!(refused > 8_000 && other > 500, "{refused} refused, {other} other orders");
}
