//! Sessions as an operator has them: OpenSSH's own clients, with `writ connect` as their only way.

use std::path::Path;

use crate::process::{Output, Process, run};
use crate::processes::files_below;
use crate::stand::{Stand, expect};
use crate::{Fallible, Trouble};

impl Stand {
    /// Puts what `writ connect --ssh-config` prints for `web1` and the stand's user into a file of the work
    /// directory, for `ssh -F FILE web1.writ`.
    pub async fn ssh_config(&self, file: &str, options: &[&str]) -> Fallible<()> {
        let user = self.user().await?;
        let args = [&["connect", "--ssh-config", "--user", &user], options, &["web1"]].concat();
        let out = self.writ(&args).await?;
        expect("writ connect --ssh-config", &out)?;
        self.write_work(file, out.stdout.as_bytes())
    }

    /// `writ ssh` as the stand's user; `args` are options, the host, and what is for ssh.
    pub async fn writ_ssh(&self, args: &[&str]) -> Fallible<Output> {
        let user = self.user().await?;
        self.writ(&[&["ssh", "--user", &user], args].concat()).await
    }

    /// A tool that starts `writ`, or has something to do with it, with some standard input.
    pub async fn client(&self, program: &str, args: &[&str], stdin: &[u8]) -> Fallible<Output> {
        let (home, path) = self.operators_environment()?;
        let env = [("WRIT_HOME", home.as_str()), ("PATH", path.as_str())];
        run(Path::new(program), args, &env, &self.at("work"), stdin).await
    }

    /// A script for `sh`, where `writ` is on the path and belongs to alice.
    pub async fn sh(&self, script: &str) -> Fallible<Output> {
        self.client("sh", &["-c", script], b"").await
    }

    /// A client that stays: what it reads is typed, what it prints goes to `logs/NAME.log`.
    pub fn typing(&self, name: &str, program: &str, args: &[&str]) -> Fallible<Process> {
        let (home, path) = self.operators_environment()?;
        let env = [("WRIT_HOME", home.as_str()), ("PATH", path.as_str())];
        Process::start_typing(name, Path::new(program), args, &env, &self.at("logs"))
    }

    /// What a session puts into the operator's session directories and must not leave there: its key, and whom to
    /// take for the host. The key of an ssh_config block's own directory stays (ssh reads it before our part of
    /// the next session begins) and opens nothing without a new grant.
    pub fn session_keys(&self) -> Vec<String> {
        let all = files_below(&self.at("operator/sessions"));
        let of_session =
            |path: &String| ["id_ed25519", ".pub", "known_hosts"].iter().any(|end| path.ends_with(end));
        let shared = |path: &String| matches!(path.as_str(), "web1/id_ed25519" | "web1/id_ed25519.pub");
        all.into_iter().filter(|path| of_session(path) && !shared(path)).collect()
    }

    fn operators_environment(&self) -> Fallible<(String, String)> {
        let path = std::env::var("PATH").map_err(|error| Trouble::new("PATH", error))?;
        let bin = self.bin("writ");
        let folder = bin.parent().unwrap_or(Path::new("/")).display();
        Ok((self.text("operator"), format!("{folder}:{path}")))
    }
}

/// Whether a session of this user's can have a terminal. An ordinary user's sshd cannot give it to the group
/// `tty` and gives up, unless it is mounted so already, as Debian does.
pub fn has_terminals() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut options = mounts.lines().filter(|line| line.split(' ').nth(1) == Some("/dev/pts"));
    let possible = rustix::process::geteuid().is_root()
        || options.next_back().is_some_and(|line| line.contains("gid=") && line.contains("mode=620"));
    if !possible {
        println!(
            "NOT CHECKED: a session with a terminal needs root, or /dev/pts mounted with gid=5,mode=620"
        );
    }
    possible
}

/// Fails with everything that helps.
pub fn hold(good: bool, what: &str, shown: &str) -> Fallible<()> {
    if good { Ok(()) } else { Err(Trouble(format!("not so: {what}\n---\n{shown}"))) }
}
