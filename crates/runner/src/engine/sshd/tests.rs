use std::time::Duration;

use authz::SecretKey;

use super::*;
use crate::engine::wire::Token;

fn spec(mode: SessionMode, forwards: &[&str]) -> SessionSpec {
    SessionSpec {
        user: "anna".parse().unwrap(),
        client_key: SecretKey::from_seed(&[7; 32]).public(),
        mode,
        forwards: forwards.iter().map(|target| target.parse().unwrap()).collect(),
        idle: Duration::from_secs(300),
        max: Duration::from_secs(3600),
        not_after: 1_763_770_000,
    }
}

fn exec(command: &str) -> SessionMode {
    SessionMode::Exec { command: command.parse().unwrap() }
}

fn configured(mode: SessionMode, forwards: &[&str], option: &str) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let dir = SessionDir::create(root.path(), &Token::random().unwrap()).unwrap();
    let text = config(&spec(mode, forwards), &dir, true, false);
    let lines =
        text.lines().filter_map(|line| line.strip_prefix(option)?.strip_prefix(' ').map(str::to_owned));
    lines.collect()
}

#[test]
fn each_mode_permits_what_it_says() {
    let full = || SessionMode::Full {};
    let sftp = || SessionMode::Sftp {};
    let forward = || SessionMode::Forward {};
    let target = ["127.0.0.1:8006", "[::1]:22"];
    for (mode, forwards, option, wanted) in [
        (full(), &[][..], "PermitTTY", &["yes"][..]),
        (full(), &[], "MaxSessions", &["10"]),
        (full(), &[], "Subsystem", &["sftp internal-sftp"]),
        (full(), &[], "ForceCommand", &[]),
        (full(), &[], "DisableForwarding", &["yes"]),
        (full(), &[], "PermitOpen", &["none"]),
        (full(), &[], "AllowTcpForwarding", &["no"]),
        (full(), &target, "AllowTcpForwarding", &["local"]),
        (full(), &target, "PermitOpen", &["127.0.0.1:8006 [::1]:22"]),
        (full(), &target, "PermitListen", &["none"]),
        (full(), &target, "DisableForwarding", &[]),
        (exec("id"), &[], "PermitTTY", &["no"]),
        (exec("id"), &[], "MaxSessions", &["1"]),
        (exec("id"), &[], "Subsystem", &[]),
        (sftp(), &[], "ForceCommand", &["internal-sftp"]),
        (sftp(), &[], "PermitTTY", &["no"]),
        (forward(), &target, "MaxSessions", &["0"]),
        (forward(), &target, "Subsystem", &[]),
        (forward(), &target, "PermitTTY", &["no"]),
        (full(), &[], "ChannelTimeout", &["*=300s"]),
        (full(), &[], "UnusedConnectionTimeout", &["300s"]),
        (full(), &[], "AllowUsers", &["anna"]),
        (full(), &[], "PermitRootLogin", &["no"]),
    ] {
        assert_eq!(configured(mode.clone(), forwards, option), wanted, "{mode} {option}");
    }
}

#[test]
fn no_option_stands_twice_and_nothing_is_included() {
    for mode in [SessionMode::Full {}, exec("id"), SessionMode::Sftp {}, SessionMode::Forward {}] {
        let root = tempfile::tempdir().unwrap();
        let dir = SessionDir::create(root.path(), &Token::random().unwrap()).unwrap();
        let text = config(&spec(mode, &["127.0.0.1:1"]), &dir, false, true);
        let mut options: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        let count = options.len();
        options.sort_unstable();
        options.dedup();
        // sshd takes the first of two, so a second one would be a lie to the reader.
        assert_eq!(options.len(), count, "{text}");
        assert!(!options.contains(&"Include") && !options.contains(&"Match"));
        let mark = format!("SetEnv WRIT_SESSION={}\n", dir.path().file_name().unwrap().to_str().unwrap());
        assert!(text.contains(&mark), "{text}");
        assert!(text.contains("PermitRootLogin prohibit-password\n") && text.contains("UsePAM no\n"));
    }
}

#[test]
fn the_one_key_says_it_again() {
    let key = SecretKey::from_seed(&[7; 32]).public();
    let line = |mode, forwards: &[&str]| authorized_key(&spec(mode, forwards)).unwrap();
    let until = "expiry-time=\"20251122000640Z\"";
    assert_eq!(line(SessionMode::Full {}, &[]), format!("restrict,pty,{until} {key}\n"));
    assert_eq!(line(SessionMode::Sftp {}, &[]), format!("restrict,{until} {key}\n"));
    assert_eq!(
        line(SessionMode::Forward {}, &["127.0.0.1:8006", "[::1]:22"]),
        format!(
            "restrict,port-forwarding,permitopen=\"127.0.0.1:8006\",permitopen=\"[::1]:22\",{until} {key}\n"
        )
    );
    assert_eq!(
        line(exec(r#"echo "a\"b" \\ 'c'"#), &[]),
        format!(r#"restrict,command="echo \"a\\"b\" \\ 'c'",{until} {key}"#) + "\n"
    );
}

/// opt_dequote of OpenSSH's misc.c (auth-options): only `\"` stands for something else.
fn dequote(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.strip_prefix('"').unwrap().chars().peekable();
    loop {
        match chars.next().unwrap() {
            '"' => return out,
            '\\' if chars.peek() == Some(&'"') => out.push(chars.next().unwrap()),
            other => out.push(other),
        }
    }
}

#[test]
fn any_command_comes_out_as_it_went_in() {
    for command in
        [r#"a"#, r#"""#, r#"\""#, r#"\\""#, r#"\\\\"x\y"#, r#"",pty,command="id"#, "#x", "é ' $(x) "]
    {
        let line = authorized_key(&spec(exec(command), &[])).unwrap();
        let quoted = line.split_once("command=").unwrap().1;
        assert_eq!(dequote(quoted), command);
    }
    for bad in ["\\", "echo \\", "echo \\\\"] {
        assert_eq!(authorized_key(&spec(exec(bad), &[])), Err(SshdError::Command), "{bad}");
    }
}

#[test]
fn times_that_sshd_cannot_read_are_refused() {
    assert_eq!(expiry(0).unwrap(), "19700101000000Z");
    assert_eq!(expiry(951_782_399).unwrap(), "20000228235959Z");
    assert_eq!(expiry(253_402_300_799).unwrap(), "99991231235959Z");
    for bad in [253_402_300_800, u64::MAX, i64::MAX as u64] {
        assert_eq!(expiry(bad), Err(SshdError::NotAfter), "{bad}");
    }
}

/// Each directive is one that the installed sshd knows, with a value that it takes.
#[test]
fn the_installed_sshd_takes_it() {
    if !Path::new(DEFAULT).exists() {
        eprintln!("the_installed_sshd_takes_it: skipped, there is no {DEFAULT}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for mode in [SessionMode::Full {}, exec("id"), SessionMode::Sftp {}, SessionMode::Forward {}] {
        let root = tempfile::tempdir().unwrap();
        let dir = SessionDir::create(root.path(), &Token::random().unwrap()).unwrap();
        dir.write(HOST_KEY, 0o600, &SecretKey::from_seed(&[9; 32]).to_openssh("x").unwrap()).unwrap();
        let spec = spec(mode, &["127.0.0.1:1", "[fe80::1]:2", "a.b-c:3"]);
        dir.write(crate::engine::dir::CONFIG, 0o600, &config(&spec, &dir, false, false)).unwrap();
        let config = dir.file(crate::engine::dir::CONFIG);
        runtime.block_on(check(Path::new(DEFAULT), &config)).unwrap();
        std::fs::write(&config, "ChannelTimout *=1s\n").unwrap();
        let refused = runtime.block_on(check(Path::new(DEFAULT), &config)).unwrap_err();
        assert!(refused.to_string().contains("Bad configuration option: ChannelTimout"), "{refused}");
    }
}
