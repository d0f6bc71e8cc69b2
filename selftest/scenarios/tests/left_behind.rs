//! A session ends: normally, or because something of it is killed. Whatever it was, nothing of the session
//! is left on either side, what is said about its end is true, and the next session works.

use std::time::Duration;

use rustix::process::Signal;
use scenarios::client::{has_terminals, hold};
use scenarios::process::{DEADLINE, Process};
use scenarios::processes::{self, Found, files_below};
use scenarios::stand::{Stand, expect};
use scenarios::{Fallible, Trouble};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Everything of a session is gone within this time after its end began. The busiest machine needs some of it.
const GONE: Duration = Duration::from_secs(20);

/// An open session with a shell, on a terminal where there can be one, and what was started in it to be left behind.
struct Session {
    shell: Process,
    /// Stands in the command line of everything that was started.
    mark: String,
    /// The hub's number.
    tunnel: String,
    /// The order.
    op: String,
    /// Everything below the runner.
    inside: Vec<Found>,
}

impl Drop for Session {
    /// A test that fails leaves nothing behind either.
    fn drop(&mut self) {
        self.inside.iter().for_each(Found::kill);
    }
}

fn terminal() -> &'static str {
    if has_terminals() { "-tt" } else { "-T" }
}

fn pid(process: Option<&Process>, name: &str) -> Fallible<i32> {
    process.and_then(Process::pid).ok_or_else(|| Trouble(format!("{name} does not run")))
}

fn taken(process: &mut Option<Process>, name: &str) -> Fallible<Process> {
    process.take().ok_or_else(|| Trouble(format!("there is no {name} on the stand")))
}

impl Session {
    async fn open(stand: &Stand, name: &str, options: &[&str]) -> Fallible<Self> {
        stand.ssh_config("ssh_config", options).await?;
        let config = stand.text("work/ssh_config");
        Self::over(stand, name, stand.typing(name, "ssh", &[terminal(), "-F", &config, "web1.writ", "sh"])?)
            .await
    }

    async fn over(stand: &Stand, name: &str, mut shell: Process) -> Fallible<Self> {
        // sleep takes any number of decimals.
        let unique = protocol::Sha256::of(format!("{name} {}", stand.path().display()).as_bytes());
        let digits: String = unique.as_bytes()[..6].iter().map(|byte| format!("{byte:03}")).collect();
        let mark = format!("98765.{digits}");
        for line in [
            format!("nohup setsid sleep {mark}1 >/dev/null 2>&1 &"),
            format!("(trap '' HUP TERM INT; exec sleep {mark}2) >/dev/null 2>&1 &"),
            format!("sleep {mark}3 >/dev/null 2>&1 & echo be''gun"),
        ] {
            shell.type_line(&line).await?;
        }
        shell.line_with("begun").await?;
        let end = Instant::now() + DEADLINE;
        while processes::mentioning(&format!("sleep {mark}"))
            .iter()
            .filter(|one| one.line.starts_with("sleep"))
            .count()
            < 3
        {
            hold(Instant::now() < end, "three are started to be left behind", &shell.output())?;
            sleep(Duration::from_millis(20)).await;
        }
        let inside = processes::below(pid(stand.runner.as_ref(), "the runner")?);
        let lines: Vec<_> = inside.iter().map(|one| one.line.as_str()).collect();
        let there =
            ["writ-runner", "sshd", "sleep"].iter().all(|word| lines.iter().any(|line| line.contains(word)));
        let sleeping = lines.iter().filter(|line| line.starts_with(&format!("sleep {mark}"))).count();
        hold(there && sleeping == 3, "what runs in the session is seen", &format!("{lines:#?}"))?;
        hold(!files_below(&stand.at("sessions")).is_empty(), "so are its files on the host", name)?;
        let open = tunnels(stand).await?.into_iter().find(|view| view["closed_at"].is_null());
        let open = open.ok_or_else(|| Trouble("the hub shows no open session".into()))?;
        let text = |field: &str| open[field].as_str().unwrap_or_default().to_owned();
        Ok(Self { shell, mark, tunnel: text("id"), op: text("op"), inside })
    }

    /// What is left of it.
    fn left(&mut self, stand: &Stand) -> Vec<String> {
        let dead = "gone, and still there: ";
        let mut left: Vec<String> =
            self.inside.iter().filter(|one| one.is_alive()).map(|one| format!("{dead}{one:?}")).collect();
        let places =
            [format!("sleep {}", self.mark), stand.text("sessions"), stand.text("operator/sessions")];
        left.extend(
            places.iter().flat_map(|place| processes::mentioning(place)).map(|one| format!("{one:?}")),
        );
        left.extend(files_below(&stand.at("sessions")));
        left.extend(stand.session_keys());
        left.extend(self.shell.is_running().then(|| "the client".to_owned()));
        left
    }

    async fn is_gone(&mut self, stand: &Stand, what: &str) -> Fallible<()> {
        let (begin, end) = (Instant::now(), Instant::now() + GONE);
        loop {
            let left = self.left(stand);
            if left.is_empty() {
                println!("{what}: nothing left after {:.1} s", begin.elapsed().as_secs_f64());
                return Ok(());
            }
            hold(Instant::now() < end, &format!("{what}: nothing is left"), &format!("{left:#?}"))?;
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn tunnels(stand: &Stand) -> Fallible<Vec<Value>> {
    let out = stand.writ(&["sessions", "web1", "--json"]).await?;
    expect("writ sessions", &out)?;
    let list: Value =
        serde_json::from_str(&out.stdout).map_err(|error| Trouble::new("writ sessions", error))?;
    Ok(list.as_array().cloned().unwrap_or_default())
}

/// How a session that ended in some way is to be told of.
struct Told {
    /// By the hub.
    hub: &'static [&'static str],
    /// In the host's log: what kind of end it is.
    outcome: &'static str,
    /// And in which words, any of them.
    host: &'static [&'static str],
}

/// What is told of a session, and whether the next one works.
async fn afterwards(stand: &Stand, session: &Session, what: &str, told: &Told) -> Fallible<()> {
    stand.wait_online("web1").await?;
    let end = Instant::now() + DEADLINE;
    let (view, outcome) = loop {
        let views = tunnels(stand).await?;
        let view = views.into_iter().find(|view| view["id"] == session.tunnel.as_str()).unwrap_or_default();
        let log = stand.receipts("web1").await?;
        let ended: Vec<Value> = log
            .iter()
            .filter(|entry| entry["event"]["event"] == "order" && entry["event"]["op"] == session.op.as_str())
            .map(|entry| entry["event"]["outcome"].clone())
            // While the one before was about to end.
            .filter(|outcome| outcome["code"] != "sessions")
            .collect();
        if let ([outcome], false) = (&ended[..], view["closed_at"].is_null()) {
            break (view, outcome.clone());
        }
        hold(
            Instant::now() < end,
            &format!("{what}: the end is told, once"),
            &format!("{view:#}\n{ended:#?}"),
        )?;
        sleep(Duration::from_millis(100)).await;
    };
    let why = view["why"].as_str().unwrap_or_default();
    println!("{what}: the hub: {why}\n{what}: the host: {outcome}");
    hold(told.hub.iter().any(|words| why.contains(words)), &format!("{what}: the hub's words"), why)?;
    let kind = outcome["outcome"] == told.outcome;
    let words = ["seen", "why"].map(|field| outcome[field].as_str().unwrap_or_default()).concat();
    let right = kind && told.host.iter().any(|part| words.contains(part));
    hold(right, &format!("{what}: the host's words"), &format!("{outcome:#}"))?;

    let out = stand.sh("ssh -F ssh_config web1.writ 'echo the next one'").await?;
    hold(out.ok() && out.stdout == "the next one\n", &format!("{what}: the next session works"), &out.text())
}

/// The ends of a session notice the end of the other one, and which of them the hub hears first is a race.
const AN_END: &[&str] = &["the host", "the operator"];
/// The same on the host.
const BY_CLIENT: Told =
    Told { hub: AN_END, outcome: "done", host: &["the client left", "the agent closed its connection"] };

#[tokio::test]
async fn the_client_leaves_or_dies() -> Fallible<()> {
    let stand = Stand::enrolled().await?;
    // The look for keys can fail.
    let folder = stand.at("operator/sessions/web1-1");
    std::fs::create_dir(&folder).map_err(|error| Trouble::new("a session directory", error))?;
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&folder, closed).map_err(|error| Trouble::new("its mode", error))?;
    stand.write("operator/sessions/web1-1/id_ed25519", "")?;
    hold(stand.session_keys() == ["web1-1/id_ed25519"], "a key is seen", &folder.display().to_string())?;
    std::fs::remove_dir_all(&folder).map_err(|error| Trouble::new("the session directory", error))?;

    let what = "exit";
    let mut session = Session::open(&stand, what, &[]).await?;
    session.shell.type_line("exit 6").await?;
    let code = session.shell.ended().await?;
    hold(code == Some(6), "the shell's own exit code", &format!("{code:?} {}", session.shell.output()))?;
    session.is_gone(&stand, what).await?;
    afterwards(&stand, &session, what, &BY_CLIENT).await?;

    let what = "ssh killed";
    let mut session = Session::open(&stand, what, &[]).await?;
    session.shell.signal(Signal::KILL);
    session.is_gone(&stand, what).await?;
    afterwards(&stand, &session, what, &BY_CLIENT).await?;

    let what = "writ connect killed";
    let mut session = Session::open(&stand, what, &[]).await?;
    let all = processes::below(pid(Some(&session.shell), "ssh")?);
    let connect = all.iter().find(|one| one.line.contains("connect web1"));
    connect.ok_or_else(|| Trouble(format!("no writ connect in {all:#?}")))?.kill();
    // Nobody is left who could remove its files, unless the one before still did. They open nothing: the
    // session is over.
    let files = only_keys_stay(&stand, &mut session).await?;
    hold(files.len() <= 3, what, &format!("{files:#?}"))?;
    afterwards(&stand, &session, what, &BY_CLIENT).await?;
    let end = Instant::now() + GONE;
    while !stand.session_keys().is_empty() {
        let left = format!("{:#?}", stand.session_keys());
        hold(Instant::now() < end, "the next session of that directory removes them", &left)?;
        sleep(Duration::from_millis(50)).await;
    }

    let what = "writ ssh and all below killed";
    let user = stand.user().await?;
    let shell = stand.typing(what, "writ", &["ssh", "--user", &user, "web1", terminal(), "sh"])?;
    let mut session = Session::over(&stand, what, shell).await?;
    let mut all = processes::below(pid(Some(&session.shell), "writ ssh")?);
    hold(all.len() >= 2, "ssh and writ connect", &format!("{all:#?}"))?;
    all.extend(Found::of(pid(Some(&session.shell), "writ ssh")?));
    all.iter().rev().for_each(Found::kill);
    only_keys_stay(&stand, &mut session).await?;
    afterwards(&stand, &session, what, &BY_CLIENT).await
}

/// What a killed `writ connect` leaves: the keys of a session that is over, and nothing else.
async fn only_keys_stay(stand: &Stand, session: &mut Session) -> Fallible<Vec<String>> {
    let end = Instant::now() + GONE;
    loop {
        let (left, keys) = (session.left(stand), stand.session_keys());
        if left == keys {
            return Ok(keys);
        }
        hold(Instant::now() < end, "only the keys stay", &format!("{left:#?}"))?;
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_part_of_the_host_dies() -> Fallible<()> {
    let mut stand = Stand::enrolled().await?;

    let what = "agent killed";
    let mut session = Session::open(&stand, what, &[]).await?;
    taken(&mut stand.agent, "agent")?.kill().await;
    session.is_gone(&stand, what).await?;
    stand.start_agent().await?;
    let told = Told { hub: AN_END, outcome: "done", host: &["the agent closed its connection"] };
    afterwards(&stand, &session, what, &told).await?;

    let what = "agent stopped";
    let mut session = Session::open(&stand, what, &[]).await?;
    taken(&mut stand.agent, "agent")?.stop().await;
    session.is_gone(&stand, what).await?;
    stand.start_agent().await?;
    afterwards(&stand, &session, what, &told).await?;

    let what = "warden killed";
    let mut session = Session::open(&stand, what, &[]).await?;
    taken(&mut stand.warden, "warden")?.kill().await;
    session.is_gone(&stand, what).await?;
    stand.start_warden(&[]).await?;
    let told = Told {
        hub: AN_END,
        outcome: "done",
        host: &["the warden ended while the session was ready or open"],
    };
    afterwards(&stand, &session, what, &told).await?;

    let what = "runner killed";
    let mut session = Session::open(&stand, what, &[]).await?;
    taken(&mut stand.runner, "runner")?.kill().await;
    session.is_gone(&stand, what).await?;
    stand.start_runner(&[]).await?;
    let told = Told {
        hub: AN_END,
        outcome: "unknown",
        host: &["the runner has not said that nothing of it runs any more"],
    };
    afterwards(&stand, &session, what, &told).await?;

    let what = "supervisor killed";
    let mut session = Session::open(&stand, what, &[]).await?;
    let runner = pid(stand.runner.as_ref(), "the runner")?;
    let supervisor = session.inside.iter().find(|one| one.parent == runner);
    supervisor.ok_or_else(|| Trouble("there is no supervisor".into()))?.kill();
    session.is_gone(&stand, what).await?;
    let told = Told { hub: AN_END, outcome: "done", host: &["nobody knows how the session ended"] };
    afterwards(&stand, &session, what, &told).await?;

    let what = "warden stopped";
    let mut session = Session::open(&stand, what, &[]).await?;
    taken(&mut stand.warden, "warden")?.stop().await;
    session.is_gone(&stand, what).await?;
    stand.start_warden(&[]).await?;
    let told = Told { hub: AN_END, outcome: "done", host: &["the warden"] };
    afterwards(&stand, &session, what, &told).await?;

    let what = "runner stopped";
    let mut session = Session::open(&stand, what, &[]).await?;
    taken(&mut stand.runner, "runner")?.stop().await;
    session.is_gone(&stand, what).await?;
    stand.start_runner(&[]).await?;
    let told = Told { hub: AN_END, outcome: "done", host: &["the runner was stopped"] };
    afterwards(&stand, &session, what, &told).await
}

#[tokio::test]
async fn the_hub_dies() -> Fallible<()> {
    let mut stand = Stand::enrolled().await?;
    let told = Told { hub: &["hub"], outcome: "done", host: &["the agent closed its connection"] };

    let what = "hub killed";
    let mut session = Session::open(&stand, what, &[]).await?;
    taken(&mut stand.hub, "hub")?.kill().await;
    session.is_gone(&stand, what).await?;
    stand.start_hub().await?;
    afterwards(&stand, &session, what, &told).await?;

    let what = "hub stopped";
    let mut session = Session::open(&stand, what, &[]).await?;
    taken(&mut stand.hub, "hub")?.stop().await;
    session.is_gone(&stand, what).await?;
    stand.start_hub().await?;
    afterwards(&stand, &session, what, &told).await
}

#[tokio::test]
async fn its_time_is_over() -> Fallible<()> {
    let stand = Stand::enrolled().await?;

    let what = "longest time";
    let mut session = Session::open(&stand, what, &["--max", "5s"]).await?;
    session.is_gone(&stand, what).await?;
    let told = Told { hub: AN_END, outcome: "done", host: &["the session's longest time was over"] };
    afterwards(&stand, &session, what, &told).await?;

    let what = "idle";
    let mut session = Session::open(&stand, what, &["--idle", "5s"]).await?;
    session.is_gone(&stand, what).await?;
    let told = Told { hub: AN_END, outcome: "done", host: &["idle time", "the agent closed its connection"] };
    afterwards(&stand, &session, what, &told).await
}

#[tokio::test]
async fn somebody_ends_it() -> Fallible<()> {
    let stand = Stand::enrolled().await?;

    let what = "closed by name";
    let mut session = Session::open(&stand, what, &[]).await?;
    let closed = stand.writ(&["sessions", "close", &session.tunnel]).await?;
    hold(closed.ok() && closed.stdout.contains("is closed"), what, &closed.text())?;
    session.is_gone(&stand, what).await?;
    let told =
        Told { hub: &["closed by alice"], outcome: "done", host: &["the agent closed", "the client left"] };
    afterwards(&stand, &session, what, &told).await?;

    let what = "operator removed";
    let mut session = Session::open(&stand, what, &[]).await?;
    let operators = stand.read("hub/operators")?;
    let without: String = operators
        .lines()
        .filter(|line| !line.starts_with("alice "))
        .map(|line| format!("{line}\n"))
        .collect();
    stand.write("hub/operators", &without)?;
    session.is_gone(&stand, what).await?;
    let out = stand.sh("ssh -F ssh_config web1.writ 'echo the next one'").await?;
    hold(!out.ok() && out.stdout.is_empty(), "and no new one opens", &out.text())?;
    stand.write("hub/operators", &operators)?;
    stand.login().await?;
    let told = Told {
        hub: &["taken from the hub's operators file"],
        outcome: "done",
        host: &["the agent closed", "the client left"],
    };
    afterwards(&stand, &session, what, &told).await
}
