//! What ssh is told so that it reaches one host through `writ connect` and trusts exactly one key: as
//! options on a command line, or as a block of ssh_config. Pure.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use protocol::{HostName, UserName};

use crate::args::{GrantArgs, ModeArgs};
use crate::script::quote_all;
use crate::session_dir::{SessionDirError, alias, for_ssh, key_file, known_hosts_file};

/// A host as ssh is to see it.
pub struct Route<'a> {
    /// Which.
    pub host: &'a HostName,
    /// As whom.
    pub user: &'a UserName,
    /// Where the session's files are; absolute.
    pub directory: &'a Path,
    /// The ProxyCommand, word by word.
    pub proxy: Vec<OsString>,
}

/// `writ connect …` in words. The state directory and the session's are absolute: ssh may start it anywhere.
pub fn connect_words(
    program: &Path,
    home: &Path,
    host: &HostName,
    grant: &GrantArgs,
    mode: &ModeArgs,
    directory: &Path,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![program.into(), "--quiet".into(), "--home".into(), home.into()];
    let mut add = |name: &str, value: &OsStr| words.extend([name.into(), value.to_owned()]);
    let GrantArgs { user, idle, max, reason, key } = grant;
    let ModeArgs { mode, command, forwards } = mode;
    add("connect", host.as_str().as_ref());
    add("--user", user.as_str().as_ref());
    add("--mode", mode.as_str().as_ref());
    if let Some(command) = command {
        add("--command", command.as_str().as_ref());
    }
    for target in forwards {
        add("--forward", target.as_str().as_ref());
    }
    add("--idle", format!("{idle}s").as_ref());
    add("--max", format!("{max}s").as_ref());
    if !reason.as_str().is_empty() {
        add("--reason", reason.as_str().as_ref());
    }
    if let Some(key) = key {
        add("--key", key.as_ref());
    }
    add("--session-dir", directory.as_ref());
    words
}

impl Route<'_> {
    /// Everything that ssh must not take from elsewhere.
    pub fn settings(&self) -> Result<Vec<(&'static str, String)>, SessionDirError> {
        Ok(vec![
            // Before it: OpenSSH knows it since 8.5.
            ("IgnoreUnknown", "KnownHostsCommand".into()),
            ("ProxyCommand", proxy_command(&self.proxy)?),
            ("User", self.user.to_string()),
            ("IdentityFile", for_ssh(&key_file(self.directory))?),
            ("IdentitiesOnly", "yes".into()),
            ("IdentityAgent", "none".into()),
            ("PreferredAuthentications", "publickey".into()),
            ("PasswordAuthentication", "no".into()),
            ("KbdInteractiveAuthentication", "no".into()),
            ("HostKeyAlias", alias(self.host)),
            ("HostKeyAlgorithms", "ssh-ed25519".into()),
            ("UserKnownHostsFile", for_ssh(&known_hosts_file(self.directory))?),
            ("GlobalKnownHostsFile", "/dev/null".into()),
            ("KnownHostsCommand", "none".into()),
            ("NoHostAuthenticationForLocalhost", "no".into()),
            ("StrictHostKeyChecking", "yes".into()),
            ("CheckHostIP", "no".into()),
            ("VerifyHostKeyDNS", "no".into()),
            ("UpdateHostKeys", "no".into()),
            ("CanonicalizeHostname", "no".into()),
            ("ForwardAgent", "no".into()),
            ("ForwardX11", "no".into()),
            ("PermitLocalCommand", "no".into()),
        ])
    }

    /// For the command line of ssh and scp, where each session stands alone.
    pub fn options(&self) -> Result<Vec<OsString>, SessionDirError> {
        let mut options: Vec<OsString> = vec!["-F".into(), "/dev/null".into()];
        let alone = [("ControlMaster", "no".into()), ("ControlPath", "none".into())];
        for (name, value) in self.settings()?.into_iter().chain(alone) {
            options.extend(["-o".into(), format!("{name}={value}").into()]);
        }
        Ok(options)
    }

    /// A file for `ssh -F`.
    pub fn block(&self) -> Result<String, SessionDirError> {
        let host = self.host;
        let mut text = format!(
            "# By `writ connect --ssh-config {host}`. Use it as it is: ssh -F FILE {host}.writ\n\
             # Or put it at the TOP of ~/.ssh/config: ssh takes the first value that it finds, so what stands above,\n\
             # under `Host *` for example, could turn off the check of the host's key.\n\
             Host {host}.writ\n"
        );
        for (name, value) in self.settings()? {
            text.push_str(&format!("    {name} {value}\n"));
        }
        text.push_str(
            "    # A hub allows each operator one session per host unless it is configured otherwise. To use one for\n    \
             # several ssh at a time, share it:\n    \
             #ControlMaster auto\n    \
             #ControlPath ~/.ssh/writ-%C\n    \
             #ControlPersist 60s\n\
             # What stands below is for every host again.\n\
             Host *\n",
        );
        Ok(text)
    }
}

/// Quoted for the shell that ssh starts it with, with ssh's own percent signs doubled.
fn proxy_command(words: &[OsString]) -> Result<String, SessionDirError> {
    for word in words {
        let bad = match word.to_str() {
            Some(text) => text.chars().find(|c| c.is_control()),
            None => Some('\u{fffd}'),
        };
        if let Some(character) = bad {
            return Err(SessionDirError::Path { path: word.into(), character });
        }
    }
    let line = quote_all(words.iter().map(OsString::as_os_str));
    // Quoting puts only ASCII around words that are UTF-8.
    Ok(String::from_utf8_lossy(&line).replace('%', "%%"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::args::Mode;
    use crate::testing::name;

    pub(crate) fn grant() -> GrantArgs {
        GrantArgs {
            user: "www-data".parse().unwrap(),
            idle: 600,
            max: 28_800,
            reason: "it's 100% needed".parse().unwrap(),
            key: Some("/keys/id.pub".into()),
        }
    }

    pub(crate) fn mode() -> ModeArgs {
        let forwards = vec!["[::1]:22".parse().unwrap()];
        ModeArgs { mode: Mode::Exec, command: Some("echo $HOME".parse().unwrap()), forwards }
    }

    fn words(home: &str) -> Vec<OsString> {
        let (program, directory) = (Path::new("/usr/bin/writ"), Path::new("/s"));
        connect_words(program, Path::new(home), &name("web1"), &grant(), &mode(), directory)
    }

    #[test]
    fn the_proxy_command_is_the_same_order_again() {
        use clap::Parser as _;
        let parsed = crate::args::Cli::try_parse_from(words("/h")).unwrap();
        let crate::args::Command::Connect(args) = parsed.command else { panic!("not connect") };
        assert_eq!((args.grant.user, args.grant.idle, args.grant.max), (grant().user, 600, 28_800));
        assert_eq!((args.grant.reason, args.grant.key), (grant().reason, grant().key));
        assert_eq!((args.mode.mode, args.mode.command), (Mode::Exec, mode().command));
        assert_eq!((args.mode.forwards, args.session_dir), (mode().forwards, Some("/s".into())));
        assert!(parsed.quiet && parsed.home == Some("/h".into()));
    }

    #[test]
    fn ssh_is_told_everything_and_expands_nothing() {
        let (host, user) = (name("web1"), "root".parse().unwrap());
        let route =
            |home| Route { host: &host, user: &user, directory: Path::new("/s d"), proxy: words(home) };
        let block = route("/h").block().unwrap();
        for line in [
            "Host web1.writ",
            "    IdentityFile \"/s d/id_ed25519\"",
            "    UserKnownHostsFile \"/s d/known_hosts\"",
            "    HostKeyAlias writ-web1",
            "    StrictHostKeyChecking yes",
            "    KnownHostsCommand none",
            "    ForwardAgent no",
            "    #ControlMaster auto",
        ] {
            assert!(block.lines().any(|l| l == line), "{line:?} is missing in\n{block}");
        }
        // Where it may stand is said before anything else, and it takes nothing from what stands below it.
        let comment: String = block.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(
            comment.contains("ssh -F FILE web1.writ") && comment.contains("TOP of ~/.ssh/config"),
            "{block}"
        );
        assert!(block.ends_with("\nHost *\n"), "{block}");
        let place = |name: &str| block.find(&format!("    {name} ")).unwrap();
        assert!(place("IgnoreUnknown") < place("KnownHostsCommand"));
        let proxy = block.lines().find(|line| line.contains("ProxyCommand")).unwrap();
        assert!(proxy.contains("'it'\\''s 100%% needed' '--key' '/keys/id.pub'"), "{proxy}");
        assert!(
            proxy.starts_with("    ProxyCommand '/usr/bin/writ' '--quiet' '--home' '/h' 'connect' 'web1'")
        );
        let options = route("/h").options().unwrap();
        assert_eq!(options[..2], ["-F", "/dev/null"]);
        assert!(options.contains(&"ControlPath=none".into()));
        assert!(route("/h\nProxyCommand evil").block().is_err());
    }
}
