//! Child processes. A [`Process`] is ended when it is dropped, so nothing outlives a scenario.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; this is its one door for services and tools"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::{Fallible, Trouble};

/// How long anything here may take before it counts as stuck.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A service that runs until it is stopped, killed or dropped. Its output goes to a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where in the log this run began: a restarted service goes on in the same file.
    begin: usize,
}

/// What a finished tool left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it said that it succeeded.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Both streams in one, for messages.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Process {
    /// Starts a service.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
        logs: &Path,
    ) -> Fallible<Self> {
        Self::spawn(name, program, args, env, logs, Stdio::null())
    }

    /// Starts something that reads what [`Self::type_line`] writes, until [`Self::hang_up`].
    pub fn start_typing(
        name: &str,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
        logs: &Path,
    ) -> Fallible<Self> {
        Self::spawn(name, program, args, env, logs, Stdio::piped())
    }

    fn spawn(
        name: &str,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
        logs: &Path,
        stdin: Stdio,
    ) -> Fallible<Self> {
        let log = logs.join(format!("{name}.log"));
        let begin = std::fs::metadata(&log).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0));
        let fail = |error: std::io::Error| Trouble::new(format!("cannot start {name}"), error);
        let out = File::options().create(true).append(true).open(&log).map_err(fail)?;
        let err = out.try_clone().map_err(fail)?;
        let child = Command::new(program)
            .args(args)
            .envs(env.iter().copied())
            .env("NO_COLOR", "1")
            .stdin(stdin)
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .map_err(fail)?;
        Ok(Self { name: name.to_owned(), child, log, begin })
    }

    /// Its number; none once it has been waited for.
    pub fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|id| i32::try_from(id).ok())
    }

    /// Writes a line to its standard input.
    pub async fn type_line(&mut self, line: &str) -> Fallible<()> {
        let name = &self.name;
        let pipe = self.child.stdin.as_mut();
        let pipe = pipe.ok_or_else(|| Trouble(format!("{name} has no standard input to write to")))?;
        let written = pipe.write_all(format!("{line}\n").as_bytes()).await;
        written.map_err(|error| Trouble::new(format!("cannot write to {name}"), error))
    }

    /// Closes its standard input.
    pub fn hang_up(&mut self) {
        drop(self.child.stdin.take());
    }

    /// What this run wrote so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.begin..).unwrap_or_default()).into_owned()
    }

    /// Waits until a line contains `text`, and gives the line.
    pub async fn line_with(&mut self, text: &str) -> Fallible<String> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(line) = self.output().lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Trouble(format!("{} ended ({status}): {}", self.name, self.output().trim())));
            }
            if Instant::now() > end {
                return Err(Trouble(format!("{} did not say {text:?}: {}", self.name, self.output().trim())));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks it to end, and insists after five seconds.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        if timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(mut self) {
        let _ = self.child.kill().await;
    }

    /// Waits for its own end.
    pub async fn ended(&mut self) -> Fallible<Option<i32>> {
        match timeout(DEADLINE, self.child.wait()).await {
            Ok(Ok(status)) => Ok(status.code()),
            Ok(Err(error)) => Err(Trouble::new(&self.name, error)),
            Err(_) => Err(Trouble(format!("{} did not end", self.name))),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Runs a tool to its end.
pub async fn run(
    program: &Path,
    args: &[&str],
    env: &[(&str, &str)],
    directory: &Path,
    stdin: &[u8],
) -> Fallible<Output> {
    let name = program.display().to_string();
    let fail = |error: std::io::Error| Trouble::new(format!("cannot run {name}"), error);
    let mut child = Command::new(program)
        .args(args)
        .envs(env.iter().copied())
        .env("NO_COLOR", "1")
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(fail)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A tool that does not read its input is no failure of ours.
        let _ = pipe.write_all(stdin).await;
    }
    let output = timeout(2 * DEADLINE, child.wait_with_output())
        .await
        .map_err(|_| Trouble(format!("{name} {} did not end", args.join(" "))))?
        .map_err(fail)?;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
