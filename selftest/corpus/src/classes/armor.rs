//! Armor: V1, V2.

use authz::RefusalCode::{Malformed, Size};
use data_encoding::BASE64;

use crate::base::{Case, Class, Desk, class};
use crate::forge::{Key, enarmor_columns};

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const END: &str = "-----END SSH SIGNATURE-----\n";

pub(super) fn classes() -> Vec<Class> {
    let (desk, key) = (Desk::new(), Key::ed25519());
    let payload = desk.payload();
    let good = String::from_utf8(key.sign(&payload)).unwrap();
    let body = good.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).unwrap().to_owned();
    let other = String::from_utf8(Key::seeded(0xb0).sign(&payload)).unwrap();
    let v2 = |name: &str, variants: &[(&str, Vec<u8>)]| {
        let case = |(why, sig): &(&str, Vec<u8>)| desk.one(sig.clone()).refuse(Malformed, "V2", why);
        class(&format!("armor-{name}"), variants.iter().map(case).collect())
    };
    let b = |text: &str| text.as_bytes().to_vec();
    let swap = |from: &str, to: &str| b(&good.replacen(from, to, 1));
    let blob = key.parts(&payload).blob();
    let middle = body.len() / 2;
    let insert = |at: usize, what: &str| b(&format!("{BEGIN}{}{what}{}{END}", &body[..at], &body[at..]));
    let huge = {
        let mut blob = blob.clone();
        blob.resize(13_000, b'x');
        crate::forge::enarmor(&blob)
    };
    let size = |why: &str, sig: Vec<u8>| desk.one(sig).refuse(Size, "V1", why);
    vec![
        v2(
            "leading-text",
            &[
                ("a letter in front", b(&format!("x{good}"))),
                ("a blank line in front", b(&format!("\n{good}"))),
                ("a comment in front", b(&format!("Comment: signed by alice\n{good}"))),
                ("a space in front", b(&format!(" {good}"))),
            ],
        ),
        v2(
            "trailing-text",
            &[
                ("a letter behind", b(&format!("{good}x"))),
                ("a second newline", b(&format!("{good}\n"))),
                ("a space behind the footer", swap(END, &END.replace('\n', " \n"))),
                ("a comment behind", b(&format!("{good}# alice\n"))),
            ],
        ),
        v2(
            "two-blocks",
            &[
                ("the same twice", b(&format!("{good}{good}"))),
                ("two signers in one file", b(&format!("{good}{other}"))),
                ("one inside the other", b(&format!("{BEGIN}{good}{body}{END}"))),
            ],
        ),
        v2(
            "wrong-label",
            &[
                ("PGP", b(&good.replace("SSH", "PGP"))),
                ("lower case", b(&good.replace("SSH SIGNATURE", "ssh signature"))),
                ("plural", b(&good.replace("SIGNATURE", "SIGNATURES"))),
                ("header and footer differ", swap("BEGIN SSH", "BEGIN OPENSSH")),
            ],
        ),
        v2(
            "no-footer",
            &[
                ("cut off", b(&format!("{BEGIN}{body}"))),
                ("half a footer", swap(END, "-----END SSH")),
                ("a footer without dashes", swap(END, "END SSH SIGNATURE\n")),
            ],
        ),
        v2(
            "no-header",
            &[
                ("cut off", b(&format!("{body}{END}"))),
                ("half a header", b(&good[10..])),
                ("no newline after the header", swap("SIGNATURE-----\n", "SIGNATURE-----")),
            ],
        ),
        v2(
            "crlf",
            &[
                ("everywhere", b(&good.replace('\n', "\r\n"))),
                ("after the header", swap("\n", "\r\n")),
                ("at the end", b(&format!("{}\r\n", good.trim_end()))),
            ],
        ),
        v2(
            "lone-cr",
            &[
                ("everywhere", b(&good.replace('\n', "\r"))),
                ("in the middle", insert(middle, "\r")),
                ("before the footer", swap("\n-----END", "\r\n-----END")),
            ],
        ),
        v2(
            "long-line",
            &[
                ("one line", enarmor_columns(&blob, 10_000)),
                ("71 columns", enarmor_columns(&blob, 71)),
                ("76 columns, as MIME", enarmor_columns(&blob, 76)),
            ],
        ),
        v2(
            "short-lines",
            &[
                ("1 column", enarmor_columns(&blob, 1)),
                ("64 columns, as PEM", enarmor_columns(&blob, 64)),
                ("69 columns", enarmor_columns(&blob, 69)),
            ],
        ),
        v2(
            "inner-space",
            &[
                ("a space", insert(middle, " ")),
                ("a tab at the start of a line", insert(0, "\t")),
                ("a space at the end of a line", swap("\n-----END", " \n-----END")),
                ("a blank line", insert(71, "\n")),
            ],
        ),
        v2(
            "bad-character",
            &[
                ("an exclamation mark", b(&format!("{BEGIN}!{}{END}", &body[1..]))),
                ("the alphabet of URLs", b(&format!("{BEGIN}-_{}{END}", &body[2..]))),
                ("not ASCII", insert(middle, "é")),
                ("not even text", [good.as_bytes(), b"\xff\xfe"].concat()),
            ],
        ),
        class(
            "armor-missing-pad",
            pads(|b64| {
                let bare = b64.trim_end_matches('=');
                vec![bare.to_owned(), format!("{b64}=")]
            }),
        ),
        class(
            "armor-pad-bits",
            pads(|b64| {
                const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
                let bare = b64.trim_end_matches('=');
                let (front, last) = bare.split_at(bare.len() - 1);
                let at = ALPHABET.iter().position(|letter| last.as_bytes() == [*letter]).unwrap();
                let other = char::from(ALPHABET[at + 1]);
                vec![format!("{front}{other}{}", &b64[bare.len()..])]
            }),
        ),
        v2(
            "empty",
            &[
                ("nothing", vec![]),
                ("a newline", b("\n")),
                ("no body", b(&format!("{BEGIN}{END}"))),
                ("an empty line as body", b(&format!("{BEGIN}\n{END}"))),
            ],
        ),
        class(
            "armor-too-large",
            vec![
                size("17 KiB of spaces behind", b(&format!("{good}{}", " ".repeat(17 * 1024)))),
                size("a blob of 13 kB, well armored", huge),
                size("64 KiB of letters", vec![b'A'; 64 * 1024]),
            ],
        ),
        v2(
            "nul",
            &[
                ("in the middle", insert(middle, "\0")),
                ("at the end", b(&format!("{good}\0"))),
                ("at the start", b(&format!("\0{good}"))),
            ],
        ),
        v2(
            "bom",
            &[
                ("in front", b(&format!("\u{feff}{good}"))),
                ("in the body", insert(0, "\u{feff}")),
                ("at the end", b(&format!("{good}\u{feff}"))),
            ],
        ),
    ]
}

/// Changes of the last characters of signatures whose base64 ends in `=`.
fn pads(change: impl Fn(&str) -> Vec<String>) -> Vec<Case> {
    let mut cases = Vec::new();
    for key in Key::every() {
        let desk = Desk::of(&key);
        let b64 = BASE64.encode(&key.parts(&desk.payload()).blob());
        if !b64.ends_with('=') {
            continue;
        }
        for changed in change(&b64) {
            let lines = changed.as_bytes().chunks(70).collect::<Vec<_>>().join(&b'\n');
            let sig = [BEGIN.as_bytes(), &lines, b"\n", END.as_bytes()].concat();
            cases.push(desk.one(sig).refuse(Malformed, "V2", "base64 that its blob is not written as"));
        }
    }
    cases
}
