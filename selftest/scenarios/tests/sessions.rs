//! Sessions as operators have them: OpenSSH's own ssh, scp and sftp, rsync and ssh-agent, all of them real,
//! through `writ connect`, the hub, the agent and the runner's `sshd -i`.

use std::time::Duration;

use scenarios::client::{has_terminals, hold};
use scenarios::process::{DEADLINE, Process};
use scenarios::stand::{Stand, expect};
use scenarios::{Fallible, Trouble};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// The last session's files go a moment after it.
async fn no_key_stays(stand: &Stand) -> Fallible<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !stand.session_keys().is_empty() {
        hold(Instant::now() < end, "no key stays", &format!("{:?}", stand.session_keys()))?;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn ssh_passes_streams_exit_codes_and_every_byte() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    let user = stand.user().await?;
    stand.ssh_config("ssh_config", &[]).await?;
    // The same through either door.
    let doors = ["ssh -F ssh_config web1.writ".to_owned(), format!("writ ssh --user {user} web1")];
    // Every value of a byte, and longer than any buffer on the way.
    let bytes: Vec<u8> = (0..700_000u32).map(|n| (n ^ (n >> 8) ^ (n >> 13)) as u8).collect();
    stand.write_work("bytes", &bytes)?;
    for door in &doors {
        let out = stand.sh(&format!("{door} 'echo to stdout; echo to stderr >&2; exit 3'")).await?;
        hold(out.code == Some(3), "exit code 3 passes", &out.text())?;
        hold(out.stdout == "to stdout\n", "nothing but the command's own on stdout", &out.stdout)?;
        let line = out.stderr.lines().any(|line| line == "to stderr");
        hold(line && !out.stderr.contains("stdout"), "stderr apart from it", &out.stderr)?;

        // ssh(1): 255 when a signal ended the command. It must not look like a failure of ours.
        for signal in ["KILL", "TERM"] {
            let out = stand.sh(&format!("{door} 'echo begun; kill -{signal} $$; echo not here'")).await?;
            hold(out.code == Some(255) && out.stdout == "begun\n", "a signal ends it", &out.text())?;
            hold(!out.stderr.contains("writ: "), "writ has nothing to complain of", &out.stderr)?;
        }

        let out = stand.sh(&format!("printf 'a\\nb\\n' | {door} 'sed s/^/got:/; cat; echo end'")).await?;
        hold(out.ok() && out.stdout == "got:a\ngot:b\nend\n", "stdin arrives, and its end", &out.text())?;
        let out = stand.sh(&format!("{door} 'cat; echo end' </dev/null")).await?;
        hold(out.ok() && out.stdout == "end\n", "an empty stdin is one", &out.text())?;

        let out = stand.sh(&format!("{door} 'tee there' <bytes >back")).await?;
        hold(out.ok() && stand.read_work("back")? == bytes, "binary data, there and back", &out.text())?;

        let out = stand.sh(&format!("{door} -- 'id -un; tty'")).await?;
        hold(out.stdout == format!("{user}\nnot a tty\n"), "as whom", &out.text())?;
    }
    if has_terminals() {
        let out = stand.sh("ssh -tt -F ssh_config web1.writ 'tty; stty size' </dev/null").await?;
        hold(out.ok() && out.stdout.starts_with("/dev/pts/"), "a terminal where one is wanted", &out.text())?;
    }

    who_is_let_in(&stand, &user).await?;
    no_key_stays(&stand).await
}

/// A grant is for one user.
async fn who_is_let_in(stand: &Stand, user: &str) -> Fallible<()> {
    let other = if user == "root" { "daemon" } else { "root" };
    let out = stand.sh(&format!("ssh -F ssh_config -l {other} web1.writ id")).await?;
    let refused = out.code == Some(255) && out.stderr.contains("Permission denied");
    hold(refused && out.stdout.is_empty(), "another login name than the grant's", &out.text())?;

    let out = stand.writ(&["ssh", "--user", "nobody-of-that-name", "web1", "id"]).await?;
    let says = "there is no user nobody-of-that-name on this host";
    hold(out.code == Some(255) && out.stderr.contains(says), "a user that is not there", &out.text())?;
    if user != "root" {
        let out = stand.writ(&["ssh", "--user", "root", "web1", "id"]).await?;
        hold(
            out.code == Some(255) && out.stderr.contains("(user)"),
            "only oneself without root",
            &out.text(),
        )?;
    }
    let out = stand.writ(&["ssh", "--user", user, "web2", "id"]).await?;
    hold(out.code == Some(255) && out.stderr.contains("web2"), "a host that is not there", &out.text())
}

/// Copies a tree and says how it differs: names, kinds, modes, link targets, times and contents.
const COMPARE: &str = r#"
facts() { (cd "$1" && find . -printf '%P %y %m %l\n' | sort
    find . ! -type d ! -type l -printf '%P %Ts\n' | sort; find . -type f -exec sha256sum {} + | sort -k 2); }
same() { facts "$1" >facts.1; facts "$2" >facts.2; diff facts.1 facts.2; }
"#;

#[tokio::test]
async fn files_travel_with_scp_and_sftp() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    let user = stand.user().await?;
    stand.ssh_config("ssh_config", &[]).await?;
    let far = stand.text("far");
    let made = stand
        .sh("mkdir -p ../far tree/sub; seq 200000 >big; printf x >'tree/with space'; : >tree/sub/empty
             chmod 640 big; chmod 755 'tree/with space'; touch -d 2001-02-03 big tree/sub/empty")
        .await?;
    expect("making files", &made)?;

    let scp = format!(
        "set -e{COMPARE}scp -q -p -F ssh_config big web1.writ:{far}/by-scp
         scp -q -p -r -F ssh_config tree web1.writ:{far}/tree
         scp -q -p -r -F ssh_config web1.writ:{far}/tree web1.writ:{far}/by-scp .back-by-scp/ 2>/dev/null || {{
             mkdir back-by-scp; scp -q -p -r -F ssh_config web1.writ:{far}/tree back-by-scp/
             scp -q -p -F ssh_config web1.writ:{far}/by-scp back-by-scp/big; }}
         same tree {far}/tree; same tree back-by-scp/tree; cmp big back-by-scp/big
         test \"$(stat -c %a:%Y big)\" = \"$(stat -c %a:%Y back-by-scp/big)\""
    );
    let out = stand.sh(&scp).await?;
    hold(out.ok(), "scp, both ways", &out.text())?;

    let writ_cp = format!(
        "set -e{COMPARE}writ cp --user {user} -p big web1:{far}/by-cp
         writ cp --user {user} -r -p tree web1:{far}/tree-by-cp
         mkdir back-by-cp; writ cp --user {user} -r -p web1:{far}/tree-by-cp back-by-cp/
         writ cp --user {user} web1:{far}/by-cp back-by-cp/big
         same tree {far}/tree-by-cp; same tree back-by-cp/tree-by-cp; cmp big back-by-cp/big"
    );
    let out = stand.sh(&writ_cp).await?;
    hold(out.ok(), "writ cp, both ways", &out.text())?;
    let out = stand.sh(&format!("writ cp --user {user} web1:{far}/none .")).await?;
    hold(out.code == Some(1) && out.stderr.contains("No such file"), "what is not there", &out.text())?;

    let batch = format!(
        "mkdir {far}/made\nput big {far}/made/one\nrename {far}/made/one {far}/made/two\n\
         chmod 600 {far}/made/two\nls -l {far}/made\nget {far}/made/two back-by-sftp\nrm {far}/made/two\nrmdir {far}/made\n"
    );
    stand.write_work("batch", batch.as_bytes())?;
    let out = stand.sh("sftp -q -F ssh_config -b batch web1.writ && cmp big back-by-sftp").await?;
    let listed = out.stdout.contains("-rw-------");
    hold(out.ok() && listed && !stand.at("far/made").exists(), "an sftp batch", &out.text())?;
    stand.write_work("batch", format!("rm {far}/none\nput big {far}/not-any-more\n").as_bytes())?;
    let out = stand.sh("sftp -q -F ssh_config -b batch web1.writ").await?;
    let stopped = out.code == Some(1) && !stand.at("far/not-any-more").exists();
    hold(stopped, "a batch stops at its first failure", &out.text())?;
    no_key_stays(&stand).await
}

#[tokio::test]
async fn rsync_keeps_a_tree_and_sends_only_what_changed() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    stand.ssh_config("ssh_config", &[]).await?;
    let far = stand.text("far");
    let rsync = "rsync -a --out-format=%n -e 'ssh -F ssh_config'";
    let made = stand
        .sh("umask 022; mkdir -p ../far tree/a/b tree/empty; seq 100000 >tree/a/big; printf x >tree/a/b/small
             printf '#!/bin/sh\\n' >tree/run; chmod 755 tree/run; printf y >tree/secret; chmod 600 tree/secret
             printf z >tree/readonly; chmod 444 tree/readonly; chmod 700 tree/empty
             ln -s a/big tree/link; ln -s nowhere/at-all tree/dangling; ln -s a tree/to-a
             printf n >\"tree/name with space and 'quotes' and \u{fc}\"
             touch -d 2001-02-03 tree/a/big; touch -h -d 2002-03-04 tree/link")
        .await?;
    expect("making a tree", &made)?;
    for (from, to) in
        [("tree/", format!("web1.writ:{far}/tree/")), (&format!("web1.writ:{far}/tree/"), "back/".into())]
    {
        let out = stand.sh(&format!("{rsync} {from} {to}")).await?;
        hold(out.ok() && out.stdout.lines().any(|line| line == "a/big"), "rsync -a", &out.text())?;
        let again = stand.sh(&format!("{rsync} {from} {to}")).await?;
        hold(again.ok() && again.stdout.is_empty(), "nothing to do the second time", &again.text())?;
    }
    for copy in [far.clone() + "/tree", "back".to_owned()] {
        let out = stand.sh(&format!("{COMPARE}same tree {copy}")).await?;
        hold(out.ok(), "the copy is the same", &out.text())?;
    }
    // And the comparison sees a difference.
    let changed = stand
        .sh(&format!("chmod 750 tree/run; echo more >>tree/a/big; rm tree/secret; {COMPARE}same tree back"))
        .await?;
    let seen = ["run f 75", "secret", "a/big"].iter().all(|word| changed.stdout.contains(word));
    hold(!changed.ok() && seen, "a change is seen", &changed.text())?;
    let out = stand
        .sh(&format!("{rsync} --delete tree/ web1.writ:{far}/tree/; {COMPARE}same tree {far}/tree"))
        .await?;
    let lines: Vec<&str> = out.stdout.lines().collect();
    let only = ["./", "a/big", "deleting secret", "run"];
    let sent = lines.iter().all(|line| only.contains(line)) && lines.contains(&"a/big");
    hold(out.ok() && sent, "only what changed is sent", &out.text())
}

/// Gives back whatever comes, and counts who comes.
async fn echo_server() -> Fallible<(u16, std::sync::Arc<std::sync::atomic::AtomicUsize>)> {
    let trouble = |error: std::io::Error| Trouble::new("an echo server", error);
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(trouble)?;
    let port = listener.local_addr().map_err(trouble)?.port();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let visitors = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            visitors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Ok((port, count))
}

/// Connects as soon as somebody listens there.
async fn connect(port: u16, client: &mut Process) -> Fallible<TcpStream> {
    let end = Instant::now() + DEADLINE;
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end || !client.is_running() => {
                return Err(Trouble::new(
                    format!("nobody listens for the forward: {}", client.output()),
                    error,
                ));
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Sends bytes and the end, and gives what comes back.
async fn there_and_back(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut back = Vec::new();
    let (mut from, mut to) = stream.split();
    let send = async {
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
    };
    let ((), _) = tokio::join!(send, timeout(DEADLINE, from.read_to_end(&mut back)));
    back
}

fn free_port() -> Fallible<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0");
    let port = listener.and_then(|listener| listener.local_addr()).map(|address| address.port());
    port.map_err(|error| Trouble::new("a free port", error))
}

#[tokio::test]
async fn forwards_reach_what_the_grant_lists_and_nothing_else() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    let user = stand.user().await?;
    let (listed, visitors) = echo_server().await?;
    let (unlisted, strangers) = echo_server().await?;
    let target = format!("127.0.0.1:{listed}");
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let config = stand.text("work/ssh_config");
    for mode in ["full", "forward"] {
        stand.ssh_config("ssh_config", &["--mode", mode, "--forward", &target]).await?;
        let (good, bad) = (free_port()?, free_port()?);
        let forwards = [format!("{good}:{target}"), format!("{bad}:127.0.0.1:{unlisted}")];
        let args = ["-F", &config, "-N", "-L", &forwards[0], "-L", &forwards[1], "web1.writ"];
        let mut ssh = stand.typing("forward", "ssh", &args)?;
        for _ in 0..2 {
            let back = there_and_back(connect(good, &mut ssh).await?, &bytes).await;
            hold(back == bytes, &format!("{mode}: a listed target echoes"), &ssh.output())?;
        }
        let back = there_and_back(connect(bad, &mut ssh).await?, b"hello").await;
        hold(back.is_empty(), &format!("{mode}: an unlisted one does not"), &ssh.output())?;
        ssh.line_with("administratively prohibited").await?;
        ssh.stop().await;
    }
    // `writ ssh` signs for what -L names.
    let port = free_port()?;
    let forward = format!("{port}:{target}");
    let args = ["ssh", "--user", &user, "--mode", "forward", "web1", "-N", "-L", &forward];
    let mut ssh = stand.typing("writ-ssh", "writ", &args)?;
    let back = there_and_back(connect(port, &mut ssh).await?, &bytes).await;
    hold(back == bytes, "writ ssh -L", &ssh.output())?;
    // The last with that configuration: forwards only.
    ssh.stop().await;
    let out = stand.sh("ssh -F ssh_config web1.writ 'echo a shell'").await?;
    hold(!out.ok() && !out.stdout.contains("a shell"), "--mode forward is no shell", &out.text())?;
    stand.ssh_config("ssh_config", &[]).await?;
    let out = stand.sh(&format!("ssh -F ssh_config -W {target} web1.writ </dev/null")).await?;
    hold(!out.ok() && out.stderr.contains("prohibited"), "a grant that lists nothing", &out.text())?;
    let count = |of: &std::sync::atomic::AtomicUsize| of.load(std::sync::atomic::Ordering::Relaxed);
    hold(count(&visitors) == 5 && count(&strangers) == 0, "who came", &format!("{visitors:?} {strangers:?}"))
}

#[tokio::test]
async fn a_mode_allows_what_it_says() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    let witness = stand.text("witness");
    let try_to = format!("touch {witness}");

    for ask in [&["web1", try_to.as_str()][..], &["web1"]] {
        let out = stand.writ_ssh(&[&["--mode", "sftp"], ask].concat()).await?;
        hold(
            !out.ok() && out.text().contains("sftp connections only"),
            "--mode sftp is no shell",
            &out.text(),
        )?;
    }
    stand.ssh_config("sftp_only", &["--mode", "sftp"]).await?;
    stand.write_work("batch", b"ls /\n")?;
    let out = stand.sh("sftp -q -F sftp_only -b batch web1.writ").await?;
    hold(out.ok() && out.stdout.contains("/proc"), "it is sftp", &out.text())?;

    let command = "printf '%s|' \"it's exactly\" \"$HOME\" \"\\\"quoted\\\"\"; echo; exit 5";
    let home = stand.sh("printf %s \"$HOME\"").await?.stdout;
    let wanted = format!("it's exactly|{home}|\"quoted\"|\n");
    for ask in [&["web1", try_to.as_str()][..], &["web1"], &["web1", "sh", "-c", try_to.as_str()]] {
        let out = stand.writ_ssh(&[&["--mode", "exec", "--command", command], ask].concat()).await?;
        hold(out.code == Some(5) && out.stdout == wanted, "--mode exec runs exactly that", &out.text())?;
    }
    stand.ssh_config("exec_only", &["--mode", "exec", "--command", command]).await?;
    let out = stand.sh("sftp -q -F exec_only -b batch web1.writ").await?;
    hold(!out.ok() && !out.stdout.contains("/proc"), "nor is it sftp", &out.text())?;
    let out = stand.sh("ssh -F exec_only -tt web1.writ </dev/null").await?;
    let refused = out.stderr.contains("PTY allocation request failed");
    hold(refused && !out.stdout.contains("/dev/pts"), "nor is there a terminal", &out.text())?;
    hold(!stand.at("witness").exists(), "nothing else ever ran", &witness)
}

#[tokio::test]
async fn a_key_in_ssh_agent_signs_for_everything() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    let (user, socket) = (stand.user().await?, stand.text("agent.sock"));
    // In the foreground, so that its number is known and it ends with this test.
    let agent = Process::start(
        "ssh-agent",
        std::path::Path::new("ssh-agent"),
        &["-D", "-a", &socket],
        &[],
        &stand.at("logs"),
    )?;
    let end = Instant::now() + DEADLINE;
    while !stand.at("agent.sock").exists() {
        hold(Instant::now() < end, "ssh-agent listens", &agent.output())?;
        sleep(Duration::from_millis(20)).await;
    }
    let (hub, pin) = (stand.hub_url(), stand.hub_pin.clone());
    let with_agent = format!("export SSH_AUTH_SOCK={socket} WRIT_HOME={}; ", stand.text("other-home"));
    let login = format!("writ login --hub {hub} --pin {pin} --key ../keys/alice.pub --policy policy.json");
    let run = format!("writ run web1 --user {user} --key ../keys/alice.pub -- echo signed by the agent");
    let ssh = format!("writ ssh --user {user} --key ../keys/alice.pub web1 'echo signed by the agent'");

    // Beside its public half the private key would be found.
    let out = stand.sh(&format!("mv ../keys/alice ../keys/away; {with_agent}{login}")).await?;
    let says = out.stderr.contains("ssh-agent does not hold its private half");
    hold(out.code == Some(1) && says, "an agent without the key", &out.text())?;
    let out = stand.sh(&format!("{with_agent}ssh-add -q ../keys/away")).await?;
    expect("ssh-add", &out)?;
    let out = stand.sh(&format!("{with_agent}{login}")).await?;
    hold(out.ok(), "writ login", &out.text())?;
    let out = stand.sh(&format!("{with_agent}{run}")).await?;
    hold(out.ok() && out.stdout == "signed by the agent\n", "writ run", &out.text())?;
    let out = stand.sh(&format!("{with_agent}{ssh}")).await?;
    hold(out.ok() && out.stdout == "signed by the agent\n", "writ ssh", &out.text())?;
    // The agent stays here, also where somebody forwards it out of habit.
    let config =
        format!("writ connect --ssh-config --user {user} --key ../keys/alice.pub web1 >agent_config");
    let ask = "ssh -A -F agent_config web1.writ 'echo ${SSH_AUTH_SOCK:-no agent here}'";
    let out = stand.sh(&format!("{with_agent}{config} && {ask}")).await?;
    hold(out.ok() && out.stdout == "no agent here\n", "ssh -A", &out.text())?;
    // What the login remembers is enough from here on.
    let out = stand.sh(&format!("{with_agent}cd /; writ ssh --user {user} web1 'exit 4'")).await?;
    hold(out.code == Some(4), "writ ssh with the login's key", &out.text())?;

    let out = stand.sh(&format!("{with_agent}ssh-add -q -D; {run}; {ssh}")).await?;
    hold(!out.ok() && out.stdout.is_empty(), "without the key there is nothing", &out.text())?;
    agent.stop().await;
    let out = stand.sh(&format!("{with_agent}{ssh}")).await?;
    hold(out.code == Some(255) && out.stderr.contains("ssh-agent"), "nor without the agent", &out.text())
}

/// `seq 1000000000 2000000000 | head -c 1073741824 | sha256sum`
const COUNTED: &str = "f00cedd46017224ab849c144fcdae46a8c8cb029c1462d88f7d9efcefb0a8594";

#[tokio::test]
async fn a_gibibyte_arrives_unchanged_both_ways() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    stand.ssh_config("ssh_config", &[]).await?;
    let count = "seq 1000000000 2000000000 | head -c 1073741824";
    for (way, script) in [
        ("to the host", format!("{count} | ssh -F ssh_config web1.writ sha256sum")),
        ("from the host", format!("ssh -F ssh_config web1.writ '{count}' | sha256sum")),
    ] {
        let start = Instant::now();
        let out = stand.sh(&script).await?;
        let took = start.elapsed();
        hold(out.ok() && out.stdout.starts_with(COUNTED), &format!("1 GiB {way}"), &out.text())?;
        let rate = 1073.741824 / took.as_secs_f64();
        println!("1 GiB {way}, in a debug build: {:.1} s, {rate:.0} MB/s", took.as_secs_f64());
    }
    let out = stand.writ(&["sessions", "web1"]).await?;
    hold(out.ok() && out.stdout.matches("1.0 GiB").count() == 2, "the hub counted it", &out.text())
}

/// As Ansible does it, and anybody with a loop: the next one begins while the last one still ends.
#[tokio::test]
async fn one_comes_right_after_the_other() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    let user = stand.user().await?;
    stand.ssh_config("ssh_config", &[]).await?;
    let script = format!(
        "set -e; for n in 1 2 3 4 5 6 7 8 9 10 11 12; do ssh -F ssh_config web1.writ \"echo $n\"; done
         for n in 1 2 3 4; do writ --quiet ssh --user {user} web1 \"echo $n\"; done"
    );
    let out = stand.sh(&script).await?;
    let lines: Vec<&str> = out.stdout.lines().collect();
    hold(out.ok() && lines.len() == 16 && out.stderr.is_empty(), "sixteen in a row", &out.text())?;
    no_key_stays(&stand).await
}

#[tokio::test]
async fn an_operator_has_one_session_on_a_host() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    stand.ssh_config("ssh_config", &[]).await?;
    let config = stand.text("work/ssh_config");
    let open = async || {
        let mut ssh = stand.typing("first", "ssh", &["-F", &config, "web1.writ"])?;
        ssh.type_line("echo be''gun").await?;
        ssh.line_with("begun").await?;
        Fallible::Ok(ssh)
    };
    let mut first = open().await?;

    let second = stand.writ_ssh(&["web1", "echo second"]).await?;
    let text = second.text();
    hold(second.code == Some(255) && second.stdout.is_empty(), "a second one is refused", &text)?;
    let words =
        ["session_exists", "as many sessions open on this host as the hub allows", "writ sessions web1"];
    hold(words.iter().all(|words| text.contains(words)), "in words that help", &text)?;
    let hint = "writ sessions close ";
    let close =
        text.match_indices(hint).map(|(at, _)| &text[at + hint.len()..]).find_map(|rest| rest.get(..32));
    let id = close.filter(|id| id.chars().all(|c| c.is_ascii_hexdigit()));
    let id = id.ok_or_else(|| Trouble(format!("no number to close: {text}")))?;
    // The same through the session directory of the first one, which goes on.
    let same = stand.sh("ssh -F ssh_config web1.writ 'echo second'").await?;
    hold(same.code == Some(255) && same.stderr.contains(words[0]), "nor with the same files", &same.text())?;
    first.type_line("echo still''here").await?;
    first.line_with("stillhere").await?;

    // It ends while the next one asks: that one waits a moment and gets its place.
    let (third, _) = tokio::join!(stand.writ_ssh(&["web1", "echo third"]), async {
        sleep(Duration::from_millis(300)).await;
        first.hang_up();
        first.ended().await
    });
    let third = third?;
    hold(
        third.ok() && third.stdout == "third\n",
        "when the first has ended, the next one works",
        &third.text(),
    )?;
    let gone = stand.writ(&["sessions", "close", id]).await?;
    hold(gone.ok() && gone.stdout.contains("is closed"), "closing what is closed", &gone.text())?;

    // And as the words say: with `writ sessions close`.
    let mut first = open().await?;
    let list = stand.writ(&["sessions", "web1", "--json"]).await?;
    let list: serde_json::Value =
        serde_json::from_str(&list.stdout).map_err(|error| Trouble::new("writ sessions --json", error))?;
    let open_now = list.as_array().into_iter().flatten().find(|view| view["closed_at"].is_null());
    let id = open_now.and_then(|view| view["id"].as_str()).unwrap_or_default();
    expect("writ sessions close", &stand.writ(&["sessions", "close", id]).await?)?;
    let ended = first.ended().await?;
    hold(ended == Some(255), "the client sees it", &first.output())?;
    let out = stand.writ_ssh(&["web1", "echo fourth"]).await?;
    hold(out.ok() && out.stdout == "fourth\n", "the next one works at once", &out.text())
}
