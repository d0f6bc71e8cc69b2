//! `kill -9` at every durable point of an order, and of everything around it. The real warden is held
//! there (`warden::hold`), killed and started again; then the operator's view, the host's log, what
//! Proxmox was asked, and what the same order means afterwards are held to `security.md` 2.7.

use std::time::Duration;

use protocol::Sha256;
use scenarios::process::{DEADLINE, Output, Process};
use scenarios::stand::{Stand, expect};
use scenarios::{Fallible, Trouble};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Fails with everything that helps.
fn hold(good: bool, what: &str, shown: &str) -> Fallible<()> {
    if good { Ok(()) } else { Err(Trouble(format!("not so: {what}\n---\n{shown}"))) }
}

fn taken(process: &mut Option<Process>, name: &str) -> Fallible<Process> {
    process.take().ok_or_else(|| Trouble(format!("there is no {name} on the stand")))
}

/// A stand whose warden was killed at a point and started again, and what the operator saw who had
/// submitted the order and kept waiting through all of it.
struct Crashed {
    stand: Stand,
    op: Sha256,
    seen: Output,
}

impl Crashed {
    async fn at(point: &str, patience: &str) -> Fallible<Self> {
        let mut stand = Stand::enrolled().await?;
        let op = stand.rollback_order("order.json").await?;
        taken(&mut stand.warden, "warden")?.stop().await;
        let mut held = stand.warden_process(&[("WRIT_WARDEN_HOLD_AT", point)]).await?;
        let args = ["submit", "order.json", "--timeout", patience];
        let submit = stand.writ(&args);
        let crash = async {
            held.line_with(&format!("holding at {point}")).await?;
            held.kill().await;
            stand.warden_process(&[]).await
        };
        let (seen, warden) = tokio::join!(submit, crash);
        stand.warden = Some(warden?);
        Ok(Self { seen: seen?, stand, op })
    }

    /// What somebody learns who asks for the order afterwards.
    async fn asked_later(&self) -> Fallible<Output> {
        self.stand.writ(&["order", "web1", &self.op.to_string(), "--wait", "--timeout", "20s"]).await
    }

    /// The host's log says this and nothing else about the order: committed once, ended once.
    async fn log_says(&self, outcome: &str) -> Fallible<()> {
        let log = self.stand.receipts("web1").await?;
        let shown = format!("{log:#?}");
        let about = |entry: &&Value| entry["event"]["op"] == self.op.to_string();
        let committed =
            log.iter().filter(about).filter(|entry| entry["event"]["event"] == "order_committed").count();
        hold(committed == 1, "the log has one order_committed", &shown)?;
        let ends: Vec<&Value> = log
            .iter()
            .filter(about)
            .filter(|entry| entry["event"]["event"] == "order")
            .map(|entry| &entry["event"]["outcome"]["outcome"])
            .filter(|result| **result != "refused")
            .collect();
        hold(ends == [outcome], &format!("the log has one end, {outcome}"), &shown)
    }

    async fn rollbacks(&self, wanted: usize) -> Fallible<()> {
        let found = self.stand.mutations("/rollback").await?;
        hold(found == wanted, &format!("Proxmox was asked for {wanted} rollback(s)"), &found.to_string())
    }

    /// The same order again, refused because its nonce is burned; and Proxmox is not asked again.
    async fn replay_is_refused(&self, says: &str) -> Fallible<()> {
        let before = self.stand.mutations("/rollback").await?;
        let again = self.stand.writ(&["submit", "order.json", "--timeout", "20s"]).await?;
        let text = again.text();
        hold(again.code == Some(1) && text.contains("refused (replay)"), "a replay is refused", &text)?;
        hold(text.contains(says), &format!("the refusal says {says:?}"), &text)?;
        self.rollbacks(before).await
    }

    /// Journal and log on the disk verify.
    async fn state_is_sound(&self) -> Fallible<()> {
        let config = self.stand.text("warden.toml");
        let out = self.stand.run("writ-warden", &["journal", "verify", "--config", &config]).await?;
        hold(out.ok(), "writ-warden journal verify succeeds", &out.text())
    }
}

#[tokio::test]
async fn verified_then_killed_costs_nothing_and_the_same_order_is_accepted() -> Fallible<()> {
    let crashed = Crashed::at("verified", "3s").await?;
    let text = crashed.seen.text();
    hold(crashed.seen.code == Some(1), "no receipt, no success", &text)?;
    hold(text.contains("there is no receipt") && text.contains("--wait"), "it says how to resume", &text)?;
    crashed.rollbacks(0).await?;
    let log = crashed.stand.receipts("web1").await?;
    let about = log.iter().any(|entry| entry["event"]["op"] == crashed.op.to_string());
    hold(!about, "the log knows nothing of the order", &format!("{log:#?}"))?;
    let again = crashed.stand.writ(&["submit", "order.json", "--timeout", "30s"]).await?;
    hold(again.ok() && again.stdout.contains("done:"), "the nonce was not burned", &again.text())?;
    crashed.rollbacks(1).await?;
    crashed.log_says("done").await?;
    crashed.replay_is_refused("was accepted before and has ended").await?;
    crashed.state_is_sound().await
}

#[tokio::test]
async fn committed_then_killed_is_aborted_and_never_sent() -> Fallible<()> {
    let crashed = Crashed::at("committed", "20s").await?;
    let text = crashed.seen.text();
    hold(crashed.seen.code == Some(1), "an aborted order is no success", &text)?;
    hold(text.contains("aborted") && text.contains("before Proxmox was called"), "it says why", &text)?;
    hold(text.contains("receipt verified"), "on the host's signature", &text)?;
    crashed.rollbacks(0).await?;
    crashed.log_says("aborted").await?;
    crashed.replay_is_refused("nonce burned").await?;
    crashed.rollbacks(0).await?;
    crashed.state_is_sound().await
}

/// `starting` then killed. Named to be the first to run: it takes as long as all others together.
#[tokio::test]
async fn a_call_that_may_have_been_made_is_waited_for() -> Fallible<()> {
    // The 45 seconds after which Proxmox begins nothing any more, and some.
    let crashed = Crashed::at("starting", "110s").await?;
    let text = crashed.seen.text();
    hold(crashed.seen.code == Some(1), "an aborted order is no success", &text)?;
    hold(text.contains("aborted") && text.contains("Proxmox started no task of it"), "it says why", &text)?;
    crashed.rollbacks(0).await?;
    crashed.log_says("aborted").await?;
    crashed.replay_is_refused("nonce burned").await?;
    crashed.rollbacks(0).await?;
    crashed.state_is_sound().await
}

#[tokio::test]
async fn starting_then_killed_refuses_the_same_order_while_it_is_not_known() -> Fallible<()> {
    let crashed = Crashed::at("starting", "2s").await?;
    hold(crashed.seen.code == Some(1), "no receipt, no success", &crashed.seen.text())?;
    crashed.replay_is_refused("has not ended yet").await?;
    let other = "fresh.json";
    crashed.stand.rollback_order(other).await?;
    let fresh = crashed.stand.writ(&["submit", other, "--timeout", "5s"]).await?;
    let text = fresh.text();
    hold(text.contains("waiting on the host"), "nor is another change of the guest begun", &text)?;
    crashed.rollbacks(0).await
}

/// From `called` on the task runs whether or not anybody watches: it is found, never started again.
async fn ends_done(point: &str) -> Fallible<()> {
    let crashed = Crashed::at(point, "30s").await?;
    let text = crashed.seen.text();
    hold(crashed.seen.ok() && text.contains("done:"), "whoever kept waiting sees it done", &text)?;
    hold(text.contains("UPID:pve1:") && text.contains("receipt verified"), "with task and signature", &text)?;
    let later = crashed.asked_later().await?;
    hold(later.ok() && later.stdout.contains("done:"), "so does who asks later", &later.text())?;
    crashed.rollbacks(1).await?;
    crashed.log_says("done").await?;
    crashed.replay_is_refused("was accepted before and has ended").await?;
    crashed.rollbacks(1).await?;
    crashed.state_is_sound().await
}

#[tokio::test]
async fn called_then_killed_adopts_the_task() -> Fallible<()> {
    ends_done("called").await
}

#[tokio::test]
async fn running_then_killed_follows_the_task() -> Fallible<()> {
    ends_done("running").await
}

#[tokio::test]
async fn finished_then_killed_has_its_receipt() -> Fallible<()> {
    ends_done("finished").await
}

/// Submits an order whose task takes four seconds, does something once it runs, and wants `done`.
async fn while_it_runs(what: impl AsyncFnOnce(&mut Stand) -> Fallible<()>) -> Fallible<()> {
    let mut stand = Stand::enrolled().await?;
    let op = stand.rollback_order("order.json").await?.to_string();
    stand.sim_post("task-duration", json!({"ms": 4000})).await?;
    // Cut off at once: who waits through this is asked below.
    let cut = stand.writ(&["submit", "order.json", "--timeout", "1s"]).await?;
    hold(cut.code == Some(1) && cut.text().contains("resume with"), "it says how to resume", &cut.text())?;
    let end = Instant::now() + DEADLINE;
    while stand.mutations("/rollback").await? == 0 {
        hold(Instant::now() < end, "the task is started in time", &cut.text())?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    what(&mut stand).await?;
    let end = stand.writ(&["order", "web1", &op, "--wait", "--timeout", "40s"]).await?;
    hold(end.ok() && end.stdout.contains("done:"), "the receipt arrives", &end.text())?;
    hold(stand.mutations("/rollback").await? == 1, "one call in all", &end.text())?;
    let again = stand.writ(&["submit", "order.json", "--timeout", "20s"]).await?;
    hold(again.text().contains("refused (replay)"), "a replay is refused", &again.text())
}

#[tokio::test]
async fn the_agent_killed_while_an_order_runs() -> Fallible<()> {
    while_it_runs(async |stand| {
        taken(&mut stand.agent, "agent")?.kill().await;
        stand.start_agent().await
    })
    .await
}

#[tokio::test]
async fn the_hub_killed_while_an_order_runs() -> Fallible<()> {
    while_it_runs(async |stand| {
        taken(&mut stand.hub, "hub")?.kill().await;
        stand.start_hub().await
    })
    .await
}

#[tokio::test]
async fn the_warden_asked_to_stop_while_an_order_runs() -> Fallible<()> {
    while_it_runs(async |stand| {
        taken(&mut stand.warden, "warden")?.stop().await;
        stand.start_warden(&[]).await
    })
    .await
}

#[tokio::test]
async fn a_hub_that_forgot_everything_does_not_break_the_host() -> Fallible<()> {
    let mut stand = Stand::enrolled().await?;
    taken(&mut stand.hub, "hub")?.kill().await;
    let state = stand.at("hub/state");
    let gone = |error: std::io::Error| Trouble::new("the hub's state", error);
    for entry in std::fs::read_dir(&state).map_err(gone)? {
        let path = entry.map_err(gone)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("hub.sqlite")) {
            std::fs::remove_file(&path).map_err(gone)?;
        }
    }
    stand.start_hub().await?;
    let agent = stand.agent.as_mut().ok_or_else(|| Trouble("there is no agent".into()))?;
    let line = agent.line_with("device key is not known").await?;
    hold(line.contains("writ-agent enroll"), "the agent's log says what to do", &line)?;
    hold(agent.is_running(), "the agent goes on", &agent.output())?;
    hold(!agent.output().contains("panicked"), "no panic", &agent.output())?;
    // The operator's session is gone with the database, and that is said too.
    let hosts = stand.writ(&["hosts"]).await?;
    hold(hosts.code == Some(1) && hosts.text().contains("writ login"), "log in again", &hosts.text())?;
    // A new code brings the same host back, under the key and the log it had.
    expect("writ login", &stand.writ(&["login"]).await?)?;
    // This machine remembers which host was web1, and gives the name to another only when told to.
    expect("writ hosts --forget", &stand.writ(&["hosts", "--forget", "web1"]).await?)?;
    stand.enroll("web1").await?;
    stand.wait_online("web1").await?;
    let log = stand.receipts("web1").await?;
    hold(log.first().is_some_and(|entry| entry["event"]["event"] == "enrolled"), "its log is whole", "")
}

#[tokio::test]
async fn an_enrollment_can_be_repeated_at_every_stage() -> Fallible<()> {
    let mut stand = Stand::new().await?;
    stand.start_sim().await?;
    stand.init_hub().await?;
    stand.start_hub().await?;
    stand.make_policy().await?;
    stand.login().await?;
    stand.write_host_configs()?;
    let args = ["enroll", "new", "--name", "web1", "--site", "berlin", "--code-only"];
    let code = stand.writ(&args).await?;
    expect("writ enroll new", &code)?;
    // No warden: the agent has made its key and gets no further.
    let cut = stand.agent_enroll(&code.stdout).await?;
    hold(cut.code == Some(1) && cut.stderr.contains("cannot reach the warden"), "it says so", &cut.text())?;
    stand.start_warden(&[]).await?;
    let key = |out: &Output| {
        out.stdout.lines().find(|line| line.starts_with("host key")).unwrap_or_default().to_owned()
    };
    let first = stand.agent_enroll(&code.stdout).await?;
    expect("writ-agent enroll", &first)?;
    hold(key(&first).contains("SHA256:"), "the host key is shown", &first.text())?;
    let warden = taken(&mut stand.warden, "warden")?;
    warden.kill().await;
    stand.start_warden(&[]).await?;
    let second = stand.agent_enroll(&code.stdout).await?;
    expect("writ-agent enroll again", &second)?;
    hold(key(&first) == key(&second), "the same host key", &second.text())?;
    expect("writ enroll approve", &stand.writ(&["enroll", "approve", "web1"]).await?)?;
    let third = stand.agent_enroll(&code.stdout).await?;
    expect("writ-agent enroll after the approval", &third)?;
    hold(third.stdout.contains("has approved"), "it says that all is done", &third.text())?;
    // The code is good for this host only.
    let other = stand.text("agent2");
    let config = stand.read("agent.toml")?.replace(&stand.text("agent"), &other);
    stand.write("agent2.toml", &config)?;
    let (binary, toml) = (stand.bin("writ-agent"), stand.text("agent2.toml"));
    let args = ["enroll", "--config", &toml];
    let stolen =
        scenarios::process::run(&binary, &args, &[], &stand.at("work"), code.stdout.as_bytes()).await?;
    hold(stolen.code == Some(1) && stolen.stderr.contains("used"), "a used code is refused", &stolen.text())?;
    stand.start_agent().await?;
    stand.wait_online("web1").await?;
    let log = stand.receipts("web1").await?;
    hold(log.len() == 1, "the host's log has one enrollment", &format!("{log:#?}"))
}
