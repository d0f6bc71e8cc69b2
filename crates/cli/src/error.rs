//! The one place where errors become sentences and exit codes.

use std::error::Error;
use std::path::PathBuf;

use authz::enroll::AnswerError;
use authz::files::FileError;
use authz::order::OrderError;
use protocol::HostName;
use protocol::config::ConfigError;
use protocol::text::printable;

use crate::args::Command;
use crate::history::HistoryError;
use crate::hub::HubError;
use crate::judge::JudgeError;
use crate::openssh::OpenSshError;
use crate::policy_file::PolicyInitError;
use crate::prepare::PrepareError;
use crate::resolve::{Distrust, ResolveError};
use crate::result::ResultError;
use crate::script::ScriptError;
use crate::session_dir::SessionDirError;
use crate::signer::SignerError;
use crate::ssh_args::PassedError;
use crate::state::StateError;
use crate::tunnel::RelayError;

/// Exit status of a failure of ours. Usage errors are 2 everywhere (clap's).
///
/// | command | 0 | else |
/// |---|---|---|
/// | run, result | the script ended with 0 | [`protocol::job::JobEnd::exit_code`]; 255 where that is not known |
/// | ssh, cp | as ssh and scp say | the same; 255 for failures of ours, as ssh does |
/// | connect | the session ended | 255 |
/// | verify-case | all accepted | 1 refused, 2 no case |
/// | all others | success | 1; 3 when a host's history is not believed ([`alarm_status`]) |
pub fn failure_status(command: &Command) -> u8 {
    match command {
        Command::Run(_) | Command::Result(_) | Command::Ssh(_) | Command::Cp(_) | Command::Connect(_) => 255,
        Command::Policy(_)
        | Command::Login(_)
        | Command::Enroll(_)
        | Command::Hosts(_)
        | Command::Host(_)
        | Command::Apply(_)
        | Command::Plan(_)
        | Command::Look(_)
        | Command::Op(_)
        | Command::Show { .. }
        | Command::Sign(_)
        | Command::Cosign(_)
        | Command::Submit(_)
        | Command::Orders(_)
        | Command::Order(_)
        | Command::Receipts(_)
        | Command::Audit(_)
        | Command::Sessions(_)
        | Command::VerifyCase(_) => 1,
    }
}

/// Exit status, wherever [`failure_status`] is 1, of the one failure that must never be taken for an
/// ordinary one: a host's history was shortened, forked or forged.
pub fn alarm_status(failure: &Failure) -> Option<u8> {
    matches!(failure, Failure::History(_)).then_some(ALARM)
}

/// The exit status of an alarm.
pub const ALARM: u8 = 3;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A name that means nothing, or something untrue.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A statement that is not believed.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// A receipt that is not believed.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// A history that is not believed.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// No key to sign with.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// No script.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// A result that is not believed.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// The directory of a session.
    #[error(transparent)]
    SessionDir(#[from] SessionDirError),
    /// The connection of a session.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// Arguments that ssh or scp shall not get.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// ssh or scp.
    #[error(transparent)]
    OpenSsh(#[from] OpenSshError),
    /// No order.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// No policy.
    #[error(transparent)]
    PolicyInit(#[from] PolicyInitError),
    /// A host's answer that is not believed.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A TOML file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that exists.
    #[error("{path} exists already: give another name with -o, or replace it with --force", path = .0.display())]
    Exists(PathBuf),
    /// A file that is not an order.
    #[error("{path} is not an order: {why}; {advice}", path = .path.display())]
    NotAnOrder {
        /// Which file.
        path: PathBuf,
        /// In words.
        why: String,
        /// What to do.
        advice: &'static str,
        /// What exactly.
        #[source]
        source: OrderError,
    },
    /// An order for a host key of the past.
    #[error(
        "the order is for another key of host '{host}' than the operator-signed statement names: prepare it again with `writ op`"
    )]
    OtherKey {
        /// The host.
        host: HostName,
    },
    /// No report to take facts from.
    #[error(
        "host '{0}' has not reported yet, so no order can be prepared: is writ-agent running there? See `writ host {0}`"
    )]
    NoReport(HostName),
    /// The operator pressed Ctrl-C.
    #[error("interrupted; {0}")]
    Interrupted(String),
    /// It took too long.
    #[error("{what} after {waited}: {hint}", waited = crate::text::span(*.waited_s))]
    Timeout {
        /// What did not come.
        what: String,
        /// How long it was waited for.
        waited_s: u64,
        /// What to do.
        hint: String,
    },
    /// The order may be carried out or not, and nobody signed which.
    #[error("{why}; {danger}: see `{resume}`")]
    Uncertain {
        /// In words.
        why: String,
        /// What is to be feared of the order, and until when.
        danger: String,
        /// The command that tells.
        resume: String,
        /// What exactly.
        #[source]
        source: Box<HubError>,
    },
    /// No random numbers.
    #[error("the system gives no random numbers ({0}): nothing was done")]
    Random(getrandom::Error),
    /// Anything else that is one sentence with a remedy.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// For one-off sentences.
    pub fn other(sentence: impl Into<String>) -> Self {
        Self::Other(sentence.into())
    }
}

/// What a command gives back: text for stdout, and sentences about what is wrong in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The result.
    pub stdout: String,
    /// Not empty: the exit status is that of a failure.
    pub failures: Vec<String>,
    /// What a script printed.
    pub output: Option<Output>,
    /// What is worth a word and is no failure; to stderr.
    pub notes: Vec<String>,
    /// The failures are of the kind of [`alarm_status`].
    pub alarm: bool,
    /// Exit status of what ran elsewhere, when nothing here failed.
    pub status: u8,
    /// The key to what is printed here: forgotten once it is printed.
    pub forget: Option<PathBuf>,
}

/// What a script printed on a host. Any bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Even a terminal gets them as they are.
    pub raw: bool,
}

impl Answer {
    /// Success.
    pub fn ok(stdout: impl Into<String>) -> Self {
        Self::with(stdout, Vec::new())
    }

    /// A result with what is wrong in it.
    pub fn with(stdout: impl Into<String>, failures: Vec<String>) -> Self {
        Self { stdout: stdout.into(), failures, ..Self::default() }
    }
}

/// A failure as it is printed: one sentence, the causes only where asked for.
pub fn sentence(failure: &Failure, verbose: bool) -> String {
    let mut text = format!("writ: {}", printable(&failure.to_string()));
    if verbose {
        let mut cause = failure.source();
        while let Some(inner) = cause {
            text.push_str(&format!("\n  caused by: {}", printable(&inner.to_string())));
            cause = inner.source();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_and_the_causes_only_where_asked_for() {
        let source = serde_json::from_str::<u32>("\"x\u{9b}\"").unwrap_err();
        let failure = Failure::Hub(HubError::Malformed { what: "a host\u{1b}[2J", source });
        let short = sentence(&failure, false);
        assert_eq!(short.lines().count(), 1);
        let long = sentence(&failure, true);
        assert!(long.contains("caused by: ") && !long.contains(['\u{1b}', '\u{9b}']), "{long}");
    }
}
