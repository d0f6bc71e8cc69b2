//! Waiting for a receipt, and saying what it says.

use std::time::Duration;

use authz::{Event, Outcome, Policy, Receipt};
use protocol::api::OrderView;
use protocol::text::printable;
use protocol::{Envelope, HostName, Sha256};
use serde::Serialize;
use tokio::time::Instant;

use super::history::{Shown, prove};
use super::submit::uncertain;
use super::{Context, Session, now, or_interrupt};
use crate::error::{Answer, Failure};
use crate::history::Proof;
use crate::hub::POLL_S;
use crate::judge::{Aftermath, Story, story};
use crate::render;
use crate::resolve::Believed;
use crate::text::{json, utc};

/// Between questions to a hub that does not answer, or that answers at once without news.
const PAUSE: Duration = Duration::from_secs(1);

/// What is waited for.
pub(super) struct Wanted<'a> {
    /// Which order, on which host.
    pub(super) host: &'a Believed,
    /// Its id.
    pub(super) op: &'a Sha256,
    /// The order, if this machine sent it.
    pub(super) sent: Option<&'a Envelope>,
    /// The version at which the submission started; only later receipts are its end.
    pub(super) after: u64,
    /// Of a script that ran, its result too.
    pub(super) result: bool,
    /// Seconds.
    pub(super) timeout_s: u64,
    /// The command that goes on waiting.
    pub(super) resume: &'a str,
}

/// Waits for the end of the submission.
pub(super) async fn for_receipt(
    ctx: &Context,
    session: &Session,
    wanted: &Wanted<'_>,
) -> Result<Story, Failure> {
    let hint = format!("the order is not recalled: resume with `{}`", wanted.resume);
    or_interrupt(&hint, poll(ctx, session, wanted)).await
}

async fn poll(ctx: &Context, session: &Session, wanted: &Wanted<'_>) -> Result<Story, Failure> {
    let Wanted { host, op, sent, after, result, timeout_s, resume } = *wanted;
    let deadline = Instant::now() + Duration::from_secs(timeout_s);
    let mut known = after;
    // The first question only asks how things stand.
    let mut wait_s = 0;
    let (mut told, mut ended, mut unproven) = (String::new(), false, false);
    loop {
        let asked = Instant::now();
        match session.hub.order(host.id(), op, known, wait_s).await {
            Ok(view) => {
                let mut story = story(&view, after, host, op)?;
                ended = story.end.is_some();
                let mut missing = None;
                if let Some(end) = story.end.as_ref().filter(|_| !(result && story.lacks_result())) {
                    match prove(ctx, session, host, end).await {
                        Ok(Some(Shown::NotYet(why))) => missing = Some(why),
                        Ok(Some(Shown::Proof(proof))) => story.proof = Some(proof),
                        Ok(None) => {}
                        Err(Failure::Hub(error)) if error.is_passing() => missing = Some(error.to_string()),
                        Err(error) => {
                            // The alarm must not hide what the host did sign.
                            if let Some((_, outcome)) = end.order_outcome() {
                                ctx.note(&format!("the host signed that the order ended: {outcome}; but"));
                            }
                            return Err(error);
                        }
                    }
                    if missing.is_none() {
                        return Ok(story);
                    }
                }
                unproven = missing.is_some();
                let place = match missing {
                    Some(why) => {
                        format!("the host signed how it ended; waiting for the proof in its log ({why})")
                    }
                    None => progress(&view, host.name(), Stage::of_story(&story)),
                };
                tell(ctx, &mut told, place);
                let news = view.version > known;
                known = known.max(view.version);
                if !news && wait_s > 0 && asked.elapsed() < PAUSE {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            // The order is at the hub and the host; only we are cut off.
            Err(error) if error.is_passing() => {
                tell(ctx, &mut told, format!("{error}; trying again"));
                tokio::time::sleep(PAUSE).await;
            }
            // Nor does a hub that knows nothing of it any more take the order back.
            Err(error) => {
                let open = sent.filter(|_| !ended);
                return Err(match open {
                    Some(sent) => uncertain(error, sent, resume),
                    None => error.into(),
                });
            }
        }
        let left = deadline.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 {
            return Err(Failure::Timeout {
                what: if unproven {
                    format!(
                        "there is no proof that the receipt of host '{}' is in its log ({told})",
                        host.name()
                    )
                } else if ended {
                    format!(
                        "the script ran on host '{}', but its result has not reached the hub",
                        host.name()
                    )
                } else {
                    format!("there is no receipt from host '{}' ({told})", host.name())
                },
                waited_s: timeout_s,
                hint: format!("the order is not recalled, resume with `{resume}`"),
            });
        }
        wait_s = left.min(POLL_S);
        if unproven {
            // A newer checkpoint is no news of the order, so the hub would not wake us for it.
            tokio::time::sleep(PAUSE).await;
            wait_s = 0;
        }
    }
}

fn tell(ctx: &Context, told: &mut String, words: String) {
    if *told != words {
        ctx.note(&words);
        *told = words;
    }
}

/// How far the host's signed word goes that is no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has said nothing.
    Nothing,
    /// The nonce is burned.
    Committed,
    /// The session is open.
    Ready,
    /// The script ran; only its result is missing.
    Ran,
}

impl Stage {
    /// By receipts that are believed.
    pub(super) fn of(receipts: &[Receipt]) -> Self {
        if receipts.iter().any(|receipt| matches!(receipt.event, Event::SessionReady { .. })) {
            Self::Ready
        } else if receipts.is_empty() {
            Self::Nothing
        } else {
            Self::Committed
        }
    }

    fn of_story(story: &Story) -> Self {
        match story {
            Story { end: Some(_), .. } => Self::Ran,
            Story { ready: true, .. } => Self::Ready,
            Story { committed: true, .. } => Self::Committed,
            _ => Self::Nothing,
        }
    }
}

/// Where an order is, in the hub's and the agent's words.
pub(super) fn progress(view: &OrderView, host: &HostName, stage: Stage) -> String {
    let place = match &view.progress {
        _ if stage == Stage::Ran => "the script ran, its result is on the way to the hub".to_owned(),
        _ if stage == Stage::Ready => "the session is open".to_owned(),
        Some(progress) => progress.state.to_string(),
        None if stage == Stage::Committed => "committed, nonce burned".to_owned(),
        None if view.delivered => "delivered to the host".to_owned(),
        None if !view.online => format!("host '{host}' is offline, the order waits at the hub"),
        None => "on its way to the host".to_owned(),
    };
    match &view.problem {
        Some(problem) => format!("{place}; problem: {problem}"),
        None => place,
    }
}

/// The end of an order for programs.
#[derive(Serialize)]
struct Ended<'a> {
    op: &'a Sha256,
    host: &'a HostName,
    success: bool,
    outcome: &'a Outcome,
    receipt: &'a Receipt,
    /// That the receipt is in the host's log; none for a refusal outside it, which is signed and no more.
    proof: Option<Proof>,
    /// A successful end of the same order before this submission.
    earlier: Option<&'a Receipt>,
    /// After a refusal: it can be delivered again and be carried out.
    still_valid: bool,
    /// Until then, unix seconds; none when the order cannot be read.
    valid_until: Option<u64>,
    /// What the refusal leaves open, in words.
    warnings: &'a [String],
}

/// The end of an order, in words; success only when a verified receipt says so.
/// `mine` is the order as this machine sent it.
pub(super) fn answer(
    story: &Story,
    host: &Believed,
    op: &Sha256,
    mine: Option<&Envelope>,
    policy: &Policy,
    as_json: bool,
) -> Answer {
    let Some((receipt, (_, outcome))) =
        story.end.as_ref().and_then(|receipt| receipt.order_outcome().map(|end| (receipt, end)))
    else {
        let none = format!("there is no receipt yet: wait with `writ order {} {op} --wait`", host.name());
        return Answer::with("", vec![none]);
    };
    // Nobody gets here with an unproven success; if somebody does, it is none.
    let unproven = outcome.is_success() && story.proof.is_none();
    let success = outcome.is_success() && !unproven;
    let earlier = story.earlier_success.as_ref().filter(|_| matches!(outcome, Outcome::Refused { .. }));
    let envelope = mine.or(story.envelope.as_ref());
    let aftermath = Aftermath::of(outcome, op, envelope, policy, earlier.is_some());
    let warnings = aftermath.sentences(host.name(), now());
    let mut failures = Vec::new();
    if unproven {
        failures
            .push(format!("the host signed a success, but nothing proves that it is in its log: {outcome}"));
    } else if !success {
        let mut sentence = match outcome {
            Outcome::Unknown { .. } => format!("nobody knows what became of the order: {outcome}"),
            Outcome::Failed { .. } => format!("the order was carried out and did not succeed: {outcome}"),
            Outcome::Refused { .. }
            | Outcome::Aborted { .. }
            | Outcome::Done { .. }
            | Outcome::Warnings { .. }
            | Outcome::Ran { .. } => format!("the order was not carried out now: {outcome}"),
        };
        for warning in &warnings {
            sentence.push_str("; ");
            sentence.push_str(warning);
        }
        failures.push(sentence);
    }
    if as_json {
        let page = Ended {
            op,
            host: host.name(),
            success,
            outcome,
            receipt,
            proof: story.proof,
            earlier,
            still_valid: aftermath.still_valid,
            valid_until: aftermath.valid_until.filter(|_| aftermath.still_valid),
            warnings: &warnings,
        };
        return Answer::with(json(&page), failures);
    }
    let place = receipt.entry.map_or_else(
        || "outside its log, as a repeated refusal or one of an order that nobody known signed".to_owned(),
        |entry| format!("entry {} of its log", entry.seq),
    );
    let mut stdout = format!(
        "Order {op} on {}\n  {}\n  receipt verified: signed by the host's key {} on {}, {place}\n",
        host.name(),
        render::outcome(outcome),
        host.key.fingerprint(),
        utc(receipt.time)
    );
    if let Some(Proof { size, root, .. }) = &story.proof {
        stdout.push_str(&format!(
            "  proven to be in the log of {size} entries that the host signed (root {root})\n"
        ));
    }
    for warning in &warnings {
        stdout.push_str(&format!("  {}\n", printable(warning)));
    }
    if let Some((earlier, (_, outcome))) = earlier.and_then(|r| r.order_outcome().map(|end| (r, end))) {
        stdout.push_str(&format!(
            "  This order was carried out before, on {}: {}\n  An order can be used once: prepare a new one with `writ op`.\n",
            utc(earlier.time),
            render::outcome(outcome)
        ));
    }
    Answer::with(stdout, failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::believe;
    use crate::testing::{believed, done, ended, policy, receipt};
    use authz::RefusalCode;

    fn story_of(outcome: Outcome, earlier: bool) -> Story {
        let (host, op) = (believed(1, "web1"), Sha256::of(b"o"));
        let make = |outcome| believe(&receipt(1, None, ended(op, outcome)), &host).unwrap();
        let earlier_success = earlier.then(|| make(done()));
        let proof = Some(Proof { entry: 3, size: 4, root: op });
        Story { end: Some(make(outcome)), committed: true, earlier_success, proof, ..Story::default() }
    }

    fn say(story: &Story, as_json: bool) -> Answer {
        answer(story, &believed(1, "web1"), &Sha256::of(b"o"), None, &policy(), as_json)
    }

    #[test]
    fn only_a_successful_outcome_is_success() {
        let good = say(&story_of(done(), false), false);
        assert!(good.failures.is_empty() && good.stdout.contains("receipt verified"), "{good:?}");
        let words: protocol::text::SafeText = "because".parse().unwrap();
        for bad in [
            Outcome::Refused { code: RefusalCode::BadSignature, why: words.clone() },
            Outcome::Aborted { why: words.clone() },
            Outcome::Failed { upid: None, why: words.clone() },
            Outcome::Unknown { upid: None, why: words },
        ] {
            for as_json in [false, true] {
                let answer = say(&story_of(bad.clone(), false), as_json);
                assert_eq!(answer.failures.len(), 1, "{answer:?}");
            }
        }
        assert_eq!(say(&Story::default(), false).failures.len(), 1);
    }

    #[test]
    fn a_success_that_is_not_proven_is_none() {
        let story = Story { proof: None, ..story_of(done(), false) };
        for as_json in [false, true] {
            let answer = say(&story, as_json);
            assert!(answer.failures[0].contains("nothing proves"), "{answer:?}");
            assert!(!as_json || answer.stdout.contains("\"success\": false"), "{answer:?}");
        }
    }

    #[test]
    fn a_replay_says_that_it_was_carried_out_before() {
        let refused = Outcome::Refused { code: RefusalCode::Replay, why: "used".parse().unwrap() };
        let answer = say(&story_of(refused.clone(), true), false);
        assert!(answer.stdout.contains("refused (replay)"), "{}", answer.stdout);
        assert!(answer.stdout.contains("carried out before"), "{}", answer.stdout);
        assert_eq!(answer.failures.len(), 1);
        let unknown = say(&story_of(refused, false), false);
        assert!(!unknown.stdout.contains("carried out before"), "{unknown:?}");
        assert!(unknown.stdout.contains("it was used before; its end is in the host's log"), "{unknown:?}");
        assert!(!unknown.stdout.contains("STILL VALID"), "{unknown:?}");
    }
}
