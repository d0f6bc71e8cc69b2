//! A program that ends early: what is put right then, and the words. A receipt has room for so many bytes: what
//! was put right, and how many calls were made, is never what is cut off.

use authz::Order;
use protocol::text::SafeText;

use super::{look, same};
use crate::ops::{Action, Call, Judged};
use crate::warden::Warden;

/// Most bytes of what was put right, and least of the calls that were made.
const RIGHT: usize = 160;
const MADE: usize = 140;
/// Bytes at the end of a sentence that say whom or what it is about.
const TAIL: usize = 48;

/// Harmless whenever it comes, so a lost answer is followed by a look and nothing else. Not to another guest
/// that has the number by now.
pub(super) async fn put_right(
    warden: &Warden,
    order: Option<&Order>,
    action: &Action,
    undo: &Call,
) -> String {
    if let Some(order) = order
        && let Err(why) = same::still_meant(warden, order, action).await
    {
        return format!("NOT put right ({why}), {} was not sent", undo.line());
    }
    let sent = undo.send(&warden.client).await;
    match (look(warden, undo, None).await, sent) {
        (Ok(Judged::Done(seen)), _) => format!("put right: {seen}"),
        (Ok(judged), Err(error)) => format!("NOT put right ({error}): {}", judged.seen()),
        (Ok(judged), Ok(_)) => format!("NOT put right: {}", judged.seen()),
        (Err(_), Err(error)) => format!("NOT put right ({error}), {} was not done", undo.line()),
        (Err(error), Ok(_)) => format!("{} was sent, and could not be looked at ({error})", undo.line()),
    }
}

/// Why it ended; after how many of its calls, and what those were; what was put right.
pub(super) fn words(why: &str, made: usize, all: usize, seen: &[String], right: &[String]) -> String {
    let then = match right {
        [] => String::new(),
        right => format!(". Then: {}", squeezed(&right.join("; "), RIGHT)),
    };
    let before = match made {
        0 => String::new(),
        made => format!(". Before that, {made} of {all} calls were made: {}", seen.join("; ")),
    };
    let room = SafeText::MAX - then.len();
    let why = squeezed(why, room - before.len().min(MADE));
    let before = squeezed(&before, room - why.len());
    format!("{why}{before}{then}")
}

/// At most so many bytes: the middle goes, because what a sentence is about stands at its ends.
fn squeezed(text: &str, most: usize) -> String {
    const GAP: &str = " … ";
    if text.len() <= most {
        return text.to_owned();
    }
    let tail = text.ceil_char_boundary(text.len() - TAIL.min(most / 3));
    let head = text.floor_char_boundary(most.saturating_sub(text.len() - tail + GAP.len()));
    format!("{}{GAP}{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_told_whole() {
        let seen = ["the guest is stopped".to_owned()];
        let right = ["put right: protection is 1 (of qemu/101)".to_owned()];
        assert_eq!(words("no", 0, 2, &[], &[]), "no");
        assert_eq!(
            words("no", 1, 2, &seen, &right),
            "no. Before that, 1 of 2 calls were made: the guest is stopped. Then: put right: protection is 1 (of qemu/101)"
        );
    }

    #[test]
    fn what_does_not_fit_loses_its_middle_and_nothing_else() {
        for letter in ["x", "ü", "…", "😀"] {
            for size in [100, 200, 400, 4000] {
                let long = format!("BEGIN {} END", letter.repeat(size));
                for seen in [vec![], vec![long.clone(); 5]] {
                    for right in [vec![], vec![long.clone()]] {
                        let text = words(&long, seen.len(), 7, &seen, &right);
                        assert!(text.len() <= SafeText::MAX, "{}", text.len());
                        assert!(text.starts_with("BEGIN ") && text.ends_with(" END"), "{text}");
                        assert_eq!(text.contains(". Then: BEGIN "), !right.is_empty(), "{text}");
                        assert_eq!(
                            text.contains(". Before that, 5 of 7 calls were made: BEGIN"),
                            !seen.is_empty()
                        );
                    }
                }
            }
        }
    }
}
