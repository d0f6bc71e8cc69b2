//! Pure: what the runner's answers say of a script or a session, and how long to wait for them.

use std::time::Duration;

use authz::Outcome;
use protocol::Bytes;
use protocol::runner::RunnerAnswer;

use crate::safe;

/// So long after its own time limit a script is waited for: the runner ends it and seals its output.
pub const SLACK_S: u64 = 120;

/// How long to wait for the end of a script that was handed over at `t0` and is asked for at `now`, both
/// unix seconds. A clock that jumped makes this neither endless nor nothing: after a reboot the runner may
/// need a moment to come up.
pub fn patience(t0: u64, timeout_s: u32, now: u64) -> Duration {
    let whole = u64::from(timeout_s) + SLACK_S;
    Duration::from_secs((t0.saturating_add(whole)).saturating_sub(now).clamp(SLACK_S, whole))
}

/// What was asked about a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To run it.
    Run,
    /// What became of it.
    Outcome,
}

/// How far the runner has said that a script came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// Nothing yet.
    #[default]
    Nothing,
    /// Accepted.
    Committed,
    /// It runs, or ran.
    Started,
}

/// The end of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It ran, and this is its sealed result.
    Ran {
        /// A [`protocol::job::JobResult`] under seal.
        sealed: Bytes,
        /// Milliseconds.
        duration_ms: u64,
    },
    /// The runner accepted it, and it never ran.
    NotStarted(String),
    /// The runner never accepted it, and it never ran.
    NotAccepted(String),
    /// Nobody can say.
    Unknown {
        /// What is known.
        why: String,
        /// The runner said so itself, so it has settled the matter.
        settled: bool,
    },
}

impl Ending {
    /// Whether the runner keeps something about the script until it is told to forget. It must not be told
    /// so in any other case: it may have to remember what it shall refuse.
    pub const fn is_kept_by_runner(&self) -> bool {
        match self {
            Self::Ran { .. } | Self::NotStarted(_) | Self::Unknown { settled: true, .. } => true,
            Self::NotAccepted(_) | Self::Unknown { settled: false, .. } => false,
        }
    }
}

/// What an answer says of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// It is under way.
    More(Heard),
    /// Its end.
    End(Ending),
    /// Nothing that could be relied on; in words.
    Nothing(String),
}

/// What the runner's answer says of a script of which it has `heard` so much before. Nothing that it says
/// leads to a second handover; what contradicts an earlier word is asked about, and at last unknown.
pub fn of_script(asked: Asked, heard: Heard, answer: RunnerAnswer) -> Says {
    match answer {
        RunnerAnswer::Committed {} => Says::More(heard.max(Heard::Committed)),
        RunnerAnswer::Started {} => Says::More(Heard::Started),
        RunnerAnswer::Ended { sealed, duration_ms } => Says::End(Ending::Ran { sealed, duration_ms }),
        RunnerAnswer::Unknown { why } => Says::End(Ending::Unknown { why, settled: true }),
        RunnerAnswer::NotStarted { why } => match (asked, heard) {
            (_, Heard::Nothing | Heard::Committed) => {
                Says::End(Ending::NotStarted(format!("the script was not started: {why}")))
            }
            (Asked::Run, Heard::Started) => Says::Nothing(format!(
                "it said that the script runs, and then that it was not started: {why}"
            )),
            (Asked::Outcome, Heard::Started) => Says::End(Ending::Unknown {
                why: format!(
                    "the runner said that the script runs, and later that it was not started: {why}"
                ),
                settled: true,
            }),
        },
        RunnerAnswer::Refused { code, why } => match (asked, heard) {
            // The runner accepted this order before, so it may have run: the answer is what became of it.
            (Asked::Run, Heard::Nothing) if code == "replay" => {
                Says::Nothing(format!("it accepted this order before ({why})"))
            }
            (Asked::Run, Heard::Nothing) => {
                Says::End(Ending::NotAccepted(format!("the runner refused it ({code}): {why}")))
            }
            // The question was refused, not the script.
            (Asked::Run, Heard::Committed | Heard::Started) | (Asked::Outcome, _) => {
                Says::Nothing(format!("it refuses ({code}): {why}"))
            }
        },
        RunnerAnswer::NotKnown {} => match (asked, heard) {
            (Asked::Outcome, Heard::Nothing) => {
                Says::End(Ending::NotAccepted("the runner never got the script".into()))
            }
            (Asked::Outcome, Heard::Committed | Heard::Started) => Says::End(Ending::Unknown {
                why: "the runner had accepted the script, and does not know it any more".into(),
                settled: false,
            }),
            (Asked::Run, _) => Says::Nothing("it does not know the script that it was just given".into()),
        },
        RunnerAnswer::Status(_)
        | RunnerAnswer::Done {}
        | RunnerAnswer::SessionReady { .. }
        | RunnerAnswer::SessionEnded { .. } => {
            Says::Nothing("it answered something else than it was asked".into())
        }
    }
}

/// What an answer says of a session that is not ready yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// More follows.
    More,
    /// It is ready, with this SSH host key.
    Ready(protocol::Ed25519Key),
    /// There will be none; nobody was ever connected. In words.
    Failed(String),
}

/// The runner's answers until a session is ready.
pub fn of_opening(answer: RunnerAnswer) -> Opening {
    match answer {
        RunnerAnswer::Committed {} => Opening::More,
        RunnerAnswer::SessionReady { host_key } => Opening::Ready(host_key),
        RunnerAnswer::Refused { code, why } => {
            Opening::Failed(format!("the runner refused it ({code}): {why}"))
        }
        RunnerAnswer::NotStarted { why } => Opening::Failed(format!("the session was not started: {why}")),
        RunnerAnswer::SessionEnded { why, .. } => {
            Opening::Failed(format!("the session ended before it was ready: {why}"))
        }
        RunnerAnswer::Status(_)
        | RunnerAnswer::Done {}
        | RunnerAnswer::Started {}
        | RunnerAnswer::Ended { .. }
        | RunnerAnswer::Unknown { .. }
        | RunnerAnswer::NotKnown {} => {
            Opening::Failed("the runner answered something else than it was asked".into())
        }
    }
}

/// The last that was heard of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastWord {
    /// It ended, in the runner's words.
    Ended {
        /// How.
        why: String,
        /// How long it lasted, milliseconds.
        duration_ms: u64,
    },
    /// The runner said nothing in time, or the connection broke; in words.
    None(String),
}

/// How a session that was ready ended. `ours` is why this side ended it, if it did.
pub fn of_session(ours: Option<&str>, last: LastWord) -> Outcome {
    match last {
        LastWord::Ended { why, duration_ms } => {
            let lasted = format!("{}.{} s", duration_ms / 1000, duration_ms % 1000 / 100);
            let how = match ours {
                Some(ours) => format!("{ours} (the runner: {why})"),
                None => why,
            };
            let seen = format!("the session lasted {lasted} and ended: {how}");
            Outcome::Done { upid: None, seen: safe(&seen) }
        }
        LastWord::None(trouble) => {
            let began = match ours {
                Some(ours) => format!("the session was ended here ({ours})"),
                None => "the session was open".into(),
            };
            let why =
                format!("{began}, and the runner has not said that nothing of it runs any more: {trouble}");
            Outcome::Unknown { upid: None, why: safe(&why) }
        }
    }
}

/// How a session ended in which the warden ended: with its connections, as everything behind them. `open`
/// is how many sessions the runner has open now.
pub fn of_lost_session(ready: bool, open: Result<u32, String>) -> Outcome {
    if !ready {
        let why = "the warden ended before the session was ready, so nobody was ever connected to it";
        return Outcome::Aborted { why: safe(why) };
    }
    let ended = "the warden ended while the session was ready or open, and a session ends with it";
    match open {
        Ok(0) => {
            let seen = format!(
                "{ended}: the runner has none open now; whether and how long it was used is not known"
            );
            Outcome::Done { upid: None, seen: safe(&seen) }
        }
        Ok(count) => {
            let why = format!("{ended}; but the runner has {count} open now, and this may be one of them");
            Outcome::Unknown { upid: None, why: safe(&why) }
        }
        Err(trouble) => {
            let why = format!("{ended}; but that was not seen: {trouble}");
            Outcome::Unknown { upid: None, why: safe(&why) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended() -> RunnerAnswer {
        RunnerAnswer::Ended { sealed: vec![1].into(), duration_ms: 5 }
    }

    fn refused() -> RunnerAnswer {
        RunnerAnswer::Refused { code: "user".into(), why: "no such account".into() }
    }

    fn not_started() -> RunnerAnswer {
        RunnerAnswer::NotStarted { why: "no fork".into() }
    }

    fn unknown() -> RunnerAnswer {
        RunnerAnswer::Unknown { why: "power was lost".into() }
    }

    fn ready() -> RunnerAnswer {
        RunnerAnswer::SessionReady { host_key: protocol::Ed25519Key::from_bytes([1; 32]) }
    }

    /// Every answer to either question, after everything that could have been heard before.
    #[test]
    fn a_script_is_called_aborted_only_when_it_cannot_have_run() {
        use Asked::{Outcome, Run};
        use Heard::{Committed, Nothing, Started};
        let short = |asked, heard, answer| match of_script(asked, heard, answer) {
            Says::More(Committed) => "committed",
            Says::More(_) => "started",
            Says::End(Ending::Ran { .. }) => "ran",
            Says::End(Ending::NotStarted(_)) => "not started",
            Says::End(Ending::NotAccepted(_)) => "not accepted",
            Says::End(Ending::Unknown { settled: true, .. }) => "unknown",
            Says::End(Ending::Unknown { settled: false, .. }) => "unsettled",
            Says::Nothing(_) => "ask",
        };
        type Row = (fn() -> RunnerAnswer, [&'static str; 6]);
        let rows: [Row; 10] = [
            (
                || RunnerAnswer::Committed {},
                ["committed", "committed", "started", "committed", "committed", "started"],
            ),
            (|| RunnerAnswer::Started {}, ["started"; 6]),
            (ended, ["ran"; 6]),
            (unknown, ["unknown"; 6]),
            (not_started, ["not started", "not started", "ask", "not started", "not started", "unknown"]),
            (refused, ["not accepted", "ask", "ask", "ask", "ask", "ask"]),
            (|| RunnerAnswer::NotKnown {}, ["ask", "ask", "ask", "not accepted", "unsettled", "unsettled"]),
            (|| RunnerAnswer::Refused { code: "replay".into(), why: "used".into() }, ["ask"; 6]),
            (|| RunnerAnswer::Done {}, ["ask"; 6]),
            (ready, ["ask"; 6]),
        ];
        for (answer, expected) in rows {
            let cases = [Run, Outcome]
                .into_iter()
                .flat_map(|asked| [Nothing, Committed, Started].into_iter().map(move |heard| (asked, heard)));
            for ((asked, heard), expected) in cases.zip(expected) {
                assert_eq!(short(asked, heard, answer()), expected, "{asked:?} {heard:?} {:?}", answer());
            }
        }
    }

    #[test]
    fn waiting_is_bounded_whatever_the_clock_does() {
        let seconds = |t0, timeout, now| patience(t0, timeout, now).as_secs();
        assert_eq!(seconds(1000, 60, 1000), 180);
        assert_eq!(seconds(1000, 60, 1030), 150);
        assert_eq!(seconds(1000, 60, 9_000_000), SLACK_S, "the host was off for long");
        assert_eq!(seconds(1000, 60, 5), 180, "the clock went back");
        assert_eq!(seconds(u64::MAX, u32::MAX, 0), u64::from(u32::MAX) + SLACK_S);
    }

    #[test]
    fn a_session_opens_only_with_its_key() {
        assert_eq!(of_opening(RunnerAnswer::Committed {}), Opening::More);
        assert!(matches!(of_opening(ready()), Opening::Ready(_)));
        let over = RunnerAnswer::SessionEnded { why: "no sshd".into(), duration_ms: 0 };
        for (answer, says) in [
            (refused(), "no such account"),
            (not_started(), "no fork"),
            (over, "no sshd"),
            (ended(), "something else"),
            (unknown(), "something else"),
            (RunnerAnswer::Done {}, "something else"),
            (RunnerAnswer::NotKnown {}, "something else"),
            (RunnerAnswer::Started {}, "something else"),
        ] {
            let Opening::Failed(why) = of_opening(answer) else { panic!("{says}") };
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn sessions_end_in_true_words() {
        let last = LastWord::Ended { why: "the client left".into(), duration_ms: 61_250 };
        let text = of_session(None, last.clone()).to_string();
        assert_eq!(text, "done: the session lasted 61.2 s and ended: the client left");
        let text = of_session(Some("the agent left"), last).to_string();
        assert!(text.ends_with("ended: the agent left (the runner: the client left)"), "{text}");
        let none = || LastWord::None("it did not answer within 30 s".into());
        for ours in [None, Some("the agent left")] {
            let outcome = of_session(ours, none());
            assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome}");
            assert!(outcome.to_string().contains("it did not answer"), "{outcome}");
        }
        assert!(matches!(of_lost_session(false, Err(String::new())), Outcome::Aborted { .. }));
        assert!(matches!(of_lost_session(true, Ok(0)), Outcome::Done { .. }));
        assert!(of_lost_session(true, Ok(2)).to_string().starts_with("unknown: "));
        assert!(of_lost_session(true, Err("nobody listens".into())).to_string().contains("nobody listens"));
    }
}
