//! `./run demo`: the walking skeleton, seen from outside. One aligned line a step; every step that is
//! not as expected is shown as such and makes the demo fail.

mod end;
mod refusals;
mod report;
mod sessions;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};

pub use report::Report;

use crate::stand::Stand;
use crate::{Fallible, Trouble};

/// The guest that is rolled back: a stopped virtual machine of the simulated node.
pub(crate) const VMID: &str = "101";
/// Its snapshot.
pub(crate) const SNAPSHOT: &str = "before-update";

/// How the demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every step was as expected.
    AsExpected,
    /// At least one was not.
    NotAsExpected,
    /// Somebody stopped it.
    Stopped,
}

/// Runs the demo. With `once` it ends by itself; without, it stays up until a signal comes.
pub async fn run(once: bool) -> Fallible<Ending> {
    let signals = async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [mut interrupt, mut terminate, mut hangup] = kinds.map(signal);
        let (Ok(interrupt), Ok(terminate), Ok(hangup)) = (&mut interrupt, &mut terminate, &mut hangup) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {},
            _ = terminate.recv() => {},
            _ = hangup.recv() => {},
        }
    };
    // Dropping the stand on any way out ends its processes and removes its directory.
    tokio::select! {
        () = signals => {
            println!("\ndemo: stopped; its processes and its directory are gone");
            Ok(Ending::Stopped)
        }
        result = play(once) => result,
    }
}

async fn play(once: bool) -> Fallible<Ending> {
    println!("building what is missing (the first time takes some minutes) …");
    let mut stand = Stand::new().await?;
    println!(
        "everything lives in {} and runs as this user, so checks of user ids mean nothing here\n",
        stand.path().display()
    );
    let mut report = Report::default();
    let result = steps(&mut stand, &mut report).await;
    if let Err(trouble) = &result {
        report.broke(trouble);
    }
    let good = report.finish();
    if good && !once {
        stay(&stand).await;
    }
    stand.stop().await;
    Ok(if good { Ending::AsExpected } else { Ending::NotAsExpected })
}

async fn steps(stand: &mut Stand, report: &mut Report) -> Fallible<()> {
    report.title("One host, enrolled by its operator");
    stand.start_sim().await?;
    report.done("a simulated Proxmox VE, its own CA and certificate", &stand.pve_url());
    stand.init_hub().await?;
    stand.start_hub().await?;
    report
        .done("the hub, pinned by its public key", &format!("{} {}…", stand.hub_url(), &stand.hub_pin[..12]));
    let policy = stand.make_policy().await?;
    report.done("alice's policy for her hosts", last_word_line(&policy.text()));
    stand.login().await?;
    report.done("alice logs in by signing the hub's challenge", "no password anywhere");
    stand.write_host_configs()?;
    stand.start_runner(&[]).await?;
    report.done("the runner, pinned to that policy's hash", "verifies everything itself, once more");
    stand.start_warden(&[]).await?;
    report.done("the warden, the only writer on the host", "acting token, journal, host key");
    let [_, host, _] = stand.enroll("web1").await?;
    let key = host.stdout.lines().find(|line| line.contains("SHA256:")).unwrap_or_default();
    report.done("writ-agent enroll, with the code on standard input", key);
    report.done("alice checks the host's proof and signs its name", "web1 means this host key");
    stand.start_agent().await?;
    stand.wait_online("web1").await?;
    report.done("the agent, with a reading token only", "connected to the hub");

    report.title("The first HostReport");
    let shown = stand.writ(&["host", "web1"]).await?;
    report.check("writ host web1", shown.ok(), "unsigned, as the hub carries it");
    report.block(&shown.stdout);

    report.title("Desired state, unsigned, inside the policy's bounds");
    stand.write_work("hosts.toml", DESIRED.as_bytes())?;
    let applied = stand.writ(&["apply", "hosts.toml", "--wait", "60s"]).await?;
    report.check("writ apply hosts.toml", applied.ok(), "a snapshot, tags and a running guest");
    report.block(&applied.stdout);
    let plan = stand.host_when("web1", "converged", |host| {
        host["plan"]["plan"]["generation"] == 1
            && host["plan"]["plan"]["steps"].as_array().is_some_and(Vec::is_empty)
            && host["plan"]["plan"]["waiting"].as_array().is_some_and(Vec::is_empty)
    });
    report.check("the second plan", plan.await.is_ok(), "empty: nothing to do, nothing waits");
    let starts = stand.mutations("/status/start").await?;
    report.check("Proxmox was asked to start guests", starts == 1, &format!("{starts} time(s)"));

    report.title("One signed order: roll a guest back");
    a_careless_change(stand, report).await?;
    rollback(stand, report).await?;
    end::play(stand, report).await?;
    sessions::play(stand, report).await?;
    refusals::play(stand, report).await?;

    report.title("What really happened");
    let rollbacks = stand.mutations("/rollback").await?;
    report.check("rollbacks that Proxmox was asked for, in all", rollbacks == 1, &format!("{rollbacks}"));
    let log = stand.writ(&["receipts", "web1"]).await?;
    report.check("writ receipts web1", log.ok(), "the host's whole log, every signature and link checked");
    report.block(&log.stdout);
    Ok(())
}

const DESIRED: &str = r#"# What alice wants of web1. The name is a guard: VMIDs are reused.
[[host.web1.guest]]
vmid = 101
name = "db"
tags = ["managed", "prod"]
snapshots = ["before-update"]

[[host.web1.guest]]
vmid = 201
name = "mail"
running = true
"#;

/// Something to undo, and then hands off: what is not mentioned is not touched.
async fn a_careless_change(stand: &Stand, report: &mut Report) -> Fallible<()> {
    let careless = DESIRED.replace(r#"tags = ["managed", "prod"]"#, r#"tags = ["oops"]"#);
    stand.write_work("hosts.toml", careless.as_bytes())?;
    let applied = stand.writ(&["apply", "hosts.toml", "--wait", "60s"]).await?;
    let hands_off = careless.replace(r#"tags = ["oops"]"#, "");
    stand.write_work("hosts.toml", hands_off.as_bytes())?;
    let released = stand.writ(&["apply", "hosts.toml", "--wait", "60s"]).await?;
    let tags = has_tags(stand, &["oops"]).await;
    report.check(
        "a careless change: guest 101 is tagged oops",
        applied.ok() && released.ok() && tags,
        "after the snapshot",
    );
    Ok(())
}

/// Whether a report shows these tags within the deadline.
async fn has_tags(stand: &Stand, wanted: &[&str]) -> bool {
    let shows = |report: &serde_json::Value| {
        let guests = report["guests"]["known"].as_array().cloned().unwrap_or_default();
        guests.iter().any(|guest| {
            guest["vmid"] == 101 && guest["config"]["known"]["tags"] == serde_json::json!(wanted)
        })
    };
    stand.report_when("web1", "tagged as wanted", shows).await.is_ok()
}

/// Prepare, sign with plain OpenSSH, submit, verify the receipt.
async fn rollback(stand: &Stand, report: &mut Report) -> Fallible<()> {
    prepare(stand, "order.json").await?;
    report.done(
        "writ op snapshot.rollback web1 101 before-update",
        "order.json, bound to a plan that the host signed",
    );
    stand.ssh_sign("alice", "order.json").await?;
    report.done("ssh-keygen -Y sign -n op.v1@writ order.json", "plain OpenSSH is a complete signer");
    let out = stand.writ(&["submit", "order.json"]).await?;
    report.check("writ submit order.json", out.ok(), "done; the host's signed receipt verified");
    report.block(&out.stdout);
    let back = has_tags(stand, &["managed", "prod"]).await;
    report.check(
        "guest 101 has its tags of the snapshot again",
        back,
        "managed, prod, as the next report says",
    );
    Ok(())
}

/// Prepares an order for the guest as it is now.
pub(crate) async fn prepare(stand: &Stand, file: &str) -> Fallible<()> {
    let args = [
        "op",
        "snapshot.rollback",
        "web1",
        VMID,
        SNAPSHOT,
        "--reason",
        "undo the update",
        "--force",
        "-o",
        file,
    ];
    let out = stand.writ(&args).await?;
    crate::stand::expect("writ op", &out)
}

/// Seconds since 1970: an expired order must lie in the past of the real clock.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn stay(stand: &Stand) {
    println!("\nThe demo stays up. In another terminal:\n");
    println!("  export WRIT_HOME={}", stand.text("operator"));
    println!("  export PATH={}:$PATH", stand.bin("").display().to_string().trim_end_matches('/'));
    println!("  cd {}\n", stand.text("work"));
    println!("  writ hosts");
    println!("  writ host web1");
    println!("  writ plan web1");
    println!("  writ look web1 101");
    println!("  writ receipts web1");
    println!("  writ run web1 --user $(id -un) -- uptime");
    println!("  writ ssh --user $(id -un) web1 uptime");
    println!("  writ op snapshot.rollback web1 101 before-update -o try.json");
    println!("  writ show try.json");
    println!("  ssh-keygen -Y sign -f {} -n op.v1@writ try.json", stand.text("keys/alice"));
    println!("  writ submit try.json");
    println!("  writ-warden status --config {}", stand.text("warden.toml"));
    println!("  writ-agent --selftest --config {}", stand.text("agent.toml"));
    println!("  writ-warden journal verify --config {}\n", stand.text("warden.toml"));
    println!("Ctrl-C ends it and removes everything.");
    loop {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}

fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim()
}

fn last_word_line(text: &str) -> &str {
    text.lines()
        .find(|line| line.contains("sha256") || line.contains("SHA-256"))
        .unwrap_or_else(|| first_line(text))
        .trim()
}

impl From<&Trouble> for String {
    fn from(trouble: &Trouble) -> Self {
        trouble.0.clone()
    }
}
