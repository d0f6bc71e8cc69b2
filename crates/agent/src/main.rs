//! `writ-agent`: the network face of a host. See `writ-agent --help` and the crate's own page.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent::config::AgentConfig;
use agent::selftest::options::{Options, OptionsError, Wanted};
use agent::selftest::task::Limits;
use agent::selftest::{self, Check, Findings, Mode, Verdict, report};
use agent::warden::Warden;
use agent::{enroll, run, sentence, status};
use authz::files;
use clap::{CommandFactory as _, Parser, Subcommand};
use protocol::enroll::EnrollmentCode;
use protocol::text::printable;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

/// Where the configuration lies unless said otherwise.
const CONFIG: &str = "/etc/writ/agent.toml";
/// Longest code file.
const MAX_CODE: u64 = 4096;

/// Reads Proxmox, reports to the hub, plans, and asks the warden. Holds no right to change anything.
#[derive(Parser)]
#[command(name = "writ-agent", version, args_conflicts_with_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration [default: /etc/writ/agent.toml].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    selftest: Options,
    /// Results for machines.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// The service: report, plan, relay orders, for ever.
    Run,
    /// Enroll this host with a code from `writ enroll new`, read from standard input.
    Enroll {
        /// Read the code from this file (mode 0600) instead.
        #[arg(long, value_name = "FILE")]
        code_file: Option<PathBuf>,
    },
    /// Say what this host is enrolled with and whether its parts are there.
    Status,
}

/// What ends the program without success: a sentence, or a usage error of clap's.
enum Failure {
    Sentence(String),
    Usage(clap::Error),
    /// Printed already: something failed.
    Checks,
    /// Printed already: it was not begun.
    Refused,
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Sentence(sentence(&error))
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&format!("the system gives no threads or timers ({error}): try again later"));
        }
    };
    match runtime.block_on(dispatch(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Sentence(text)) => fail(&text),
        Err(Failure::Usage(error)) => usage(&error),
        Err(Failure::Checks) => ExitCode::FAILURE,
        Err(Failure::Refused) => ExitCode::from(2),
    }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("writ-agent: {text}");
    ExitCode::FAILURE
}

fn usage(error: &clap::Error) -> ExitCode {
    // Nowhere to complain when this fails.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

fn wrong_usage(kind: clap::error::ErrorKind, text: &str) -> Failure {
    Failure::Usage(Cli::command().error(kind, text))
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    use clap::error::ErrorKind::{ArgumentConflict, MissingSubcommand};
    let config = |path: Option<&Path>| -> Result<AgentConfig, Failure> {
        Ok(AgentConfig::load(path.unwrap_or(Path::new(CONFIG)))?)
    };
    let path = cli.config.as_deref();
    match (cli.command, cli.selftest.selftest.as_deref()) {
        (Some(_), Some(_)) => {
            Err(wrong_usage(ArgumentConflict, "--selftest stands alone, without a command"))
        }
        (None, None) => Err(wrong_usage(MissingSubcommand, "say run, enroll, status or --selftest")),
        (Some(Command::Run), None) => serve(&config(path)?).await,
        (Some(Command::Enroll { code_file }), None) => {
            let config = config(path)?;
            do_enroll(&config, &read_code(code_file.as_deref())?).await
        }
        (Some(Command::Status), None) => print(&status::status(&config(path)?).await, Mode::Status, cli.json),
        (None, Some(mode)) => test(&cli.selftest, mode, path.unwrap_or(Path::new(CONFIG)), cli.json).await,
    }
}

async fn test(options: &Options, mode: &str, config: &Path, json: bool) -> Result<(), Failure> {
    let wanted = options.wanted(mode, config).map_err(|error| match error {
        OptionsError::Usage(text) => wrong_usage(clap::error::ErrorKind::ValueValidation, &text),
        OptionsError::Setup(text) => Failure::Sentence(text),
    })?;
    let mut findings = Findings::told(
        // A reader that has gone away is no reason to leave a guest half tested.
        move |check| {
            if !json {
                drop(say(&format!("{check}\n")))
            }
        },
        |text| eprintln!("... {}", printable(text)),
    );
    findings.pins_given = !options.pin.is_empty();
    let (mode, verdict) = match wanted {
        Wanted::Hub(config) => return print(&selftest::hub::hub(&config).await, Mode::Hub, json),
        Wanted::Read { proxmox, role, of_agent } => {
            selftest::read::read(&proxmox, role, of_agent, &mut findings).await;
            (Mode::Read, findings.verdict())
        }
        Wanted::Task { proxmox, vmid, allow_stop } => {
            let stop = interrupted()?;
            let limits = Limits::default();
            let verdict = selftest::task::task(&proxmox, vmid, allow_stop, limits, stop, &mut findings).await;
            (Mode::Task, verdict)
        }
    };
    if json {
        say(&findings.json(mode))?;
    }
    match verdict {
        Verdict::Ok => Ok(()),
        Verdict::Failed => Err(Failure::Checks),
        Verdict::Refused => Err(Failure::Refused),
    }
}

/// Ctrl-C or a stop of the system.
fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn print(checks: &[Check], mode: Mode, json: bool) -> Result<(), Failure> {
    let (text, ok) = report::render(mode, checks, json);
    say(&text)?;
    if ok { Ok(()) } else { Err(Failure::Checks) }
}

/// Standard output may be a closed pipe; that is no reason for a panic.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Sentence(format!("cannot write the result ({error})")))
}

async fn serve(config: &AgentConfig) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            // Without a handler Ctrl-C ends the process by itself.
            Ok(()) = tokio::signal::ctrl_c() => {}
        }
    };
    Ok(run::run(config, stop).await?)
}

/// Never from the command line: others could read it there.
fn read_code(file: Option<&Path>) -> Result<EnrollmentCode, Failure> {
    let mut text = Zeroizing::new(String::new());
    match file {
        Some(path) => text.push_str(&String::from_utf8_lossy(&files::read_secret(path)?)),
        None => {
            if std::io::stdin().is_terminal() {
                eprint!("Enrollment code (one line, from `writ enroll new`): ");
                std::io::stdin().read_line(&mut text)?;
            } else {
                std::io::stdin().take(MAX_CODE).read_to_string(&mut text)?;
            }
        }
    }
    Ok(text.trim().parse::<EnrollmentCode>()?)
}

async fn do_enroll(config: &AgentConfig, code: &EnrollmentCode) -> Result<(), Failure> {
    files::prepare_state_dir(&config.state_dir)?;
    let seed = Zeroizing::new(run::random::<32>()?);
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let warden = Warden::new(&config.warden_socket);
    let done = enroll::enroll(&config.state_dir, &warden, code, &seed, &hostname).await?;
    let next = if done.approved {
        "An operator has approved this host. Start `writ-agent run`.".to_owned()
    } else {
        format!(
            "Now an operator must approve this host, and compare the host key there:\n  writ enroll approve {}   (or the name it was made for)",
            done.id
        )
    };
    say(&format!(
        "hub       {}\nhost id   {}\nhost key  {}\n{next}\n",
        printable(&done.hub),
        done.host_id,
        done.host_key
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("writ-agent").chain(words.iter().copied()))
    }

    async fn failure(words: &[&str]) -> Failure {
        match parse(words) {
            Err(error) => Failure::Usage(error),
            Ok(cli) => dispatch(cli).await.expect_err("this must not succeed"),
        }
    }

    #[test]
    fn the_documented_lines_parse() {
        Cli::command().debug_assert();
        for words in [
            &["run", "--config", "a.toml"][..],
            &["--config", "a.toml", "enroll", "--code-file", "c"],
            &["status", "--config", "a.toml", "--json"],
            &["--selftest", "--config", "a.toml"],
            &["--selftest=hub", "--config", "a.toml", "--json"],
            &["--selftest=task", "--config", "a.toml", "--token-file", "t", "--vmid", "101", "--allow-stop"],
            &["--selftest", "--role", "act", "--node", "pve1", "--config", "a.toml"],
            &[
                "--selftest=read",
                "--api",
                "https://h",
                "--pin",
                "spki:00",
                "--pin",
                "leaf:00",
                "--token-file",
                "t",
            ],
        ] {
            assert!(parse(words).is_ok(), "{words:?}");
        }
        let parsed = parse(&["--selftest", "--config", "a"]).unwrap();
        assert_eq!(parsed.selftest.selftest.as_deref(), Some("read"));
    }

    #[tokio::test]
    async fn mistakes_are_usage_and_trouble_is_a_sentence() {
        for words in [
            &[][..],
            &["enroll", "writ1-CODE", "--config", "a.toml"],
            &["--selftest=write", "--config", "a.toml"],
            &["--selftest", "run", "--config", "a.toml"],
            &["--selftest=read", "--api", "https://h", "--pin", "spki:00"],
            &["--selftest=read", "--pin", "spki:00"],
            &["--selftest=task", "--config", "a.toml", "--token-file", "t"],
            &["--selftest=task", "--config", "a.toml", "--vmid", "101"],
            &["--vmid", "101", "--config", "a.toml"],
            &["run", "--allow-stop", "--config", "a.toml"],
            &["--selftest=read", "--token-file", "t", "--api", "https://h"],
            &["--selftest=read", "--token-file", "t", "--api", "https://h", "--pin", "spki:xx"],
            &["--selftest=read", "--api", "https://h", "--config", "a.toml"],
            &["deregister"],
        ] {
            assert!(matches!(failure(words).await, Failure::Usage(_)), "{words:?}");
        }
        let none = "/nonexistent/agent.toml";
        for (words, says) in [
            (vec!["run", "--config", none], "does not exist"),
            (vec!["--selftest", "--config", none], "or give --api"),
            (vec!["--selftest=hub", "--config", none], "does not exist"),
        ] {
            let Failure::Sentence(text) = failure(&words).await else { panic!("{words:?}") };
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn codes_come_from_private_files_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("code");
        let code = EnrollmentCode {
            hub: "https://hub:1".to_owned(),
            hub_spki: protocol::Sha256::of(b"s"),
            secret: [1; 16],
            policy: protocol::Sha256::of(b"p"),
            k: [2; 32],
        };
        files::write_atomic(&path, format!("{}\n", code.encode()).as_bytes()).unwrap();
        assert!(read_code(Some(&path)).is_ok_and(|read| read == code));
        files::write_atomic(&path, b"hello").unwrap();
        let Err(Failure::Sentence(text)) = read_code(Some(&path)) else { panic!("not a code") };
        assert!(text.contains("not an enrollment code"), "{text}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let Err(Failure::Sentence(text)) = read_code(Some(&path)) else { panic!("open to others") };
        assert!(text.contains("chmod 600"), "{text}");
    }
}
