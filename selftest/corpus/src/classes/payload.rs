//! The signed bytes: V1, V17 to V19. All of them are signed well.

use authz::RefusalCode::{self, BadOrder, Kind, Size};

use crate::base::{Class, Desk, class};
use crate::forge::Key;

pub(super) fn classes() -> Vec<Class> {
    let desk = Desk::new();
    let good = desk.text();
    let say = |code: RefusalCode, rule: &str, why: &str, bytes: &[u8]| {
        desk.saying(bytes, &[&Key::ed25519()]).refuse(code, rule, why)
    };
    let edits = |name: &str, rule: &str, edits: &[(&str, &str, &str)]| {
        let case = |(why, from, to): &(&str, &str, &str)| {
            assert!(good.contains(from), "the order has {from}");
            say(BadOrder, rule, why, good.replacen(from, to, 1).as_bytes())
        };
        class(&format!("payload-{name}"), edits.iter().map(case).collect())
    };
    let raw = |name: &str, rule: &str, cases: &[(&str, Vec<u8>)]| {
        let case = |(why, bytes): &(&str, Vec<u8>)| say(BadOrder, rule, why, bytes);
        class(&format!("payload-{name}"), cases.iter().map(case).collect())
    };
    let b = |text: &str| text.as_bytes().to_vec();
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(200), close.repeat(200));
    let exp = format!("\"exp\":{}", desk.order.exp);
    let split = |at: &str, bytes: &[u8]| {
        let (front, back) = good.split_once(at).unwrap();
        [front.as_bytes(), bytes, back.as_bytes()].concat()
    };
    let mut missing = Vec::new();
    for (from, to) in fields(&good) {
        let without = format!("{}{}", &good[..from], &good[to..]).replace(",}", "}");
        missing.push(say(
            BadOrder,
            "V19",
            &format!("without {}", &good[from..to.min(from + 12)]),
            without.as_bytes(),
        ));
    }
    vec![
        edits(
            "duplicate-key",
            "V19",
            &[
                ("nbf twice", "\"nbf\":", "\"nbf\":1,\"nbf\":"),
                ("kind twice", "\"kind\":", "\"kind\":\"guest.start\",\"kind\":"),
                ("start twice", "{\"start\":false}", "{\"start\":false,\"start\":true}"),
                ("vmid twice", "\"vmid\":101", "\"vmid\":102,\"vmid\":101"),
            ],
        ),
        edits(
            "unknown-field",
            "V19",
            &[
                ("in the order", "\"nbf\":", "\"sudo\":true,\"nbf\":"),
                ("in the parameters", "{\"start\":false}", "{\"start\":false,\"force\":true}"),
                ("in the guest", "\"vmid\":101", "\"vmid\":101,\"all\":true"),
                ("in the preconditions", "\"pre\":{", "\"pre\":{\"skip\":true,"),
            ],
        ),
        class("payload-missing-field", missing),
        edits(
            "wrong-type",
            "V19",
            &[
                ("a number as text", "\"min_signers\":1", "\"min_signers\":\"1\""),
                ("text as a number", "\"reason\":\"test\"", "\"reason\":7"),
                ("a list as an object", "\"macs\":[", "\"macs\":{},\"x\":["),
                ("a flag as a number", "{\"start\":false}", "{\"start\":0}"),
            ],
        ),
        edits(
            "float",
            "V19",
            &[
                ("1.0", "\"min_signers\":1", "\"min_signers\":1.0"),
                ("half a second", &exp, &format!("{exp}.5")),
                ("a version", "{\"v\":1", "{\"v\":1.0"),
            ],
        ),
        edits(
            "exponent",
            "V19",
            &[
                ("1e0", "\"min_signers\":1", "\"min_signers\":1e0"),
                ("a capital", "\"min_signers\":1", "\"min_signers\":1E0"),
                ("large", &exp, "\"exp\":2e9"),
            ],
        ),
        edits(
            "above-2-53",
            "V19",
            &[
                ("2^53 + 1", &exp, "\"exp\":9007199254740993"),
                ("2^64 - 1", &exp, "\"exp\":18446744073709551615"),
                ("2^64", &exp, "\"exp\":18446744073709551616"),
                ("a snapshot's time", "\"time\":1763700000", "\"time\":9007199254740993"),
            ],
        ),
        edits(
            "negative",
            "V19",
            &[
                ("-1", "\"min_signers\":1", "\"min_signers\":-1"),
                ("-0", "\"min_signers\":1", "\"min_signers\":-0"),
                ("a time before 1970", &exp, "\"exp\":-1"),
            ],
        ),
        raw(
            "deep",
            "V23",
            &[
                ("200 lists", b(&deep("[", "]"))),
                ("200 lists as parameters", b(&good.replacen("{\"start\":false}", &deep("[", "]"), 1))),
                (
                    "200 objects as parameters",
                    b(&good.replacen("{\"start\":false}", &deep("{\"a\":", "}").replacen(":}", ":1}", 1), 1)),
                ),
                ("60,000 open brackets", b(&"[".repeat(60_000))),
            ],
        ),
        class(
            "payload-huge",
            vec![
                say(
                    Size,
                    "V1",
                    "a megabyte of text",
                    good.replacen("\"test\"", &format!("\"{}\"", "x".repeat(1 << 20)), 1).as_bytes(),
                ),
                say(
                    Size,
                    "V1",
                    "a byte more than 64 KiB",
                    &[good.as_bytes(), &vec![b' '; 65_537 - good.len()]].concat(),
                ),
                say(
                    BadOrder,
                    "V19",
                    "60 kB of reason",
                    good.replacen("\"test\"", &format!("\"{}\"", "x".repeat(60_000)), 1).as_bytes(),
                ),
            ],
        ),
        raw(
            "bad-utf8",
            "V19",
            &[
                ("a byte that begins nothing", split("test", b"te\xffst")),
                ("half a letter", split("test", b"te\xc3")),
                ("an overlong slash", split("test", b"te\xc0\xafst")),
            ],
        ),
        edits(
            "lone-surrogate",
            "V19",
            &[
                ("a high one", "\"test\"", "\"te\\ud800st\""),
                ("a low one", "\"test\"", "\"te\\udc00st\""),
                ("in the wrong order", "\"test\"", "\"\\udc00\\ud800\""),
            ],
        ),
        edits(
            "whitespace",
            "V18",
            &[
                ("after the brace", "{\"v\"", "{ \"v\""),
                ("after a colon", "\"v\":1", "\"v\": 1"),
                ("in the parameters", "{\"start\":false}", "{\"start\": false}"),
                ("a line break", ",\"nbf\"", ",\n\"nbf\""),
            ],
        ),
        class("payload-key-order", {
            let nbf = format!("\"nbf\":{}", desk.order.nbf);
            let both = format!("{nbf},{exp}");
            let swapped = |from: &str, to: &str, why: &str| {
                assert!(good.contains(from), "the order has {from}");
                say(BadOrder, "V18", why, good.replacen(from, to, 1).as_bytes())
            };
            let v = "{\"v\":1,\"kind\":\"snapshot.rollback\"";
            vec![
                swapped(&both, &format!("{exp},{nbf}"), "nbf and exp"),
                swapped(v, "{\"kind\":\"snapshot.rollback\",\"v\":1", "v and kind"),
                swapped("\"vmid\":101,\"type\":\"qemu\"", "\"type\":\"qemu\",\"vmid\":101", "vmid and type"),
            ]
        }),
        raw(
            "trailing-bytes",
            "V18",
            &[
                ("a space", b(&format!("{good} "))),
                ("a second newline", b(&format!("{good}\n"))),
                ("a NUL", b(&format!("{good}\0"))),
                ("no newline", b(good.trim_end())),
            ],
        ),
        raw(
            "two-objects",
            "V18",
            &[
                ("the same twice", b(&format!("{good}{good}"))),
                ("another one behind", b(&format!("{good}{{}}\n"))),
                ("in a list", b(&format!("[{}]\n", good.trim_end()))),
            ],
        ),
        raw(
            "bom",
            "V18",
            &[
                ("in front", b(&format!("\u{feff}{good}"))),
                ("of UTF-16", [b"\xff\xfe".as_slice(), good.as_bytes()].concat()),
                ("in a text", split("test", "te\u{feff}st".as_bytes())),
            ],
        ),
        edits(
            "escapes",
            "V18",
            &[
                ("a letter", "\"test\"", "\"\\u0074est\""),
                ("a slash", "\"test\"", "\"te\\/st\""),
                ("in a field's name", "\"nbf\":", "\"\\u006ebf\":"),
                ("in the kind", "snapshot.rollback", "snapshot\\u002erollback"),
            ],
        ),
        edits(
            "invisible",
            "2.1",
            &[
                ("right to left", "\"test\"", "\"te\u{202e}st\""),
                ("zero width", "\"test\"", "\"te\u{200b}st\""),
                ("an escape sequence", "\"test\"", "\"te\\u001b[2Jst\""),
                ("isolated", "\"test\"", "\"te\u{2066}st\""),
            ],
        ),
        edits(
            "version",
            "V19",
            &[
                ("0", "{\"v\":1", "{\"v\":0"),
                ("2", "{\"v\":1", "{\"v\":2"),
                ("none", "{\"v\":1", "{\"v\":null"),
            ],
        ),
        class(
            "payload-unknown-kind",
            ["guest.explode", "Snapshot.Rollback", "", "snapshot.rollback ", "policy"]
                .map(|kind| {
                    let text = good.replacen("snapshot.rollback", kind, 1);
                    say(Kind, "V19", "a kind that is not in the closed list", text.as_bytes())
                })
                .to_vec(),
        ),
        edits(
            "kind-mismatch",
            "V19",
            &[
                ("parameters of a new snapshot", "{\"start\":false}", "{\"snapshot\":\"s1\"}"),
                ("the kind of a new snapshot", "snapshot.rollback", "snapshot.create"),
                ("the kind of tags", "snapshot.rollback", "guest.tag"),
                ("no parameters", "{\"start\":false}", "{}"),
            ],
        ),
    ]
}

/// Where each field of the outermost object begins and ends, with its comma.
fn fields(text: &str) -> Vec<(usize, usize)> {
    let (mut found, mut depth, mut quoted, mut from) = (Vec::new(), 0, false, 1);
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    found.push((from, at));
                }
            }
            ',' if !quoted && depth == 1 => {
                found.push((from, at + 1));
                from = at + 1;
            }
            _ => {}
        }
    }
    found
}
