//! Several at once, and other bad luck.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use scenarios::{Fallible, Trouble, evil_hub};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::rig::{End, Job, Rig, so, taken, until};

const RAN_ON: &str = "the runner ended while the script ran, and its output is lost";

/// All four, with nobody left to see the others go.
async fn kill_all(rig: &mut Rig) -> Fallible<()> {
    let stand = &mut rig.stand;
    let all = [
        taken(&mut stand.hub, "hub")?,
        taken(&mut stand.agent, "agent")?,
        taken(&mut stand.warden, "warden")?,
        taken(&mut stand.runner, "runner")?,
    ];
    for process in &all {
        process.signal(Signal::STOP);
    }
    for process in all {
        process.kill().await;
    }
    Ok(())
}

async fn start_all(rig: &mut Rig) -> Fallible<()> {
    rig.stand.start_agent().await?;
    rig.stand.start_warden(&[]).await?;
    rig.stand.start_runner(&[]).await?;
    rig.stand.start_hub().await
}

#[tokio::test]
async fn all_four_at_once() -> Fallible<()> {
    let mut rig = Rig::new().await?;

    let job = rig.send("all-running").await?;
    rig.running(&job).await?;
    kill_all(&mut rig).await?;
    start_all(&mut rig).await?;
    rig.ends(job, End::Unknown(RAN_ON), 1).await?;

    let job = rig.send("all-waiting").await?;
    rig.running(&job).await?;
    rig.wire.down();
    rig.go(&job.name)?;
    rig.result_waits(&job).await?;
    kill_all(&mut rig).await?;
    rig.wire.release();
    start_all(&mut rig).await?;
    rig.ends(job, End::Ran, 1).await?;

    rig.wire.down();
    let job = rig.send("all-at-the-hub").await?;
    kill_all(&mut rig).await?;
    rig.wire.release();
    rig.go(&job.name)?;
    start_all(&mut rig).await?;
    rig.ends(job, End::Ran, 1).await?;
    rig.finish().await
}

/// A process that the runner wrote down for a script that runs.
fn written_down(rig: &Rig, job: &Job, which: &str) -> Option<Pid> {
    let state = rig.at_runner(job)?;
    Pid::from_raw(i32::try_from(state["leftover"][which]["pid"].as_i64()?).ok()?)
}

/// Nobody is left who could see that the runner is gone; what the script started is found all the same.
#[tokio::test]
async fn the_runner_and_who_watches_the_script() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    for (name, also) in [("supervisor", None), ("interpreter", Some("main"))] {
        let job = rig.send(name).await?;
        rig.running(&job).await?;
        let supervisor = until("the supervisor", || written_down(&rig, &job, "supervisor")).await?;
        let shot = |pid: Pid, signal| {
            kill_process(pid, signal).map_err(|error| Trouble::new("a process of the script", error))
        };
        shot(supervisor, Signal::STOP)?;
        taken(&mut rig.stand.runner, "runner")?.kill().await;
        shot(supervisor, Signal::KILL)?;
        if let Some(also) = also {
            let main = written_down(&rig, &job, also);
            let main = main.ok_or_else(|| Trouble("there is no interpreter".into()))?;
            // It dies with its parent, the supervisor, and may be gone already.
            match kill_process(main, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(Trouble::new("the interpreter", error)),
            }
        }
        let orphans = rig.processes(&job.name);
        so(orphans.len() >= 2, "it runs on, otherwise this shows nothing", &format!("{orphans:?}"))?;
        rig.stand.start_runner(&[]).await?;
        let left = rig.processes(&job.name);
        so(left.is_empty(), "a runner that is ready has seen to it", &format!("{left:?}"))?;
        rig.ends(job, End::Unknown("of it still ran and were killed"), 1).await?;
    }
    rig.finish().await
}

#[tokio::test]
async fn a_runner_that_is_not_there() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    taken(&mut rig.stand.runner, "runner")?.kill().await;
    let before = rig.sound("before").await?;
    let burned = |said: &str| said.lines().find(|line| line.contains("burned")).map(str::to_owned);
    let mut job = rig.send("absent").await?;
    rig.refused(&mut job, "runner").await?;
    let after = rig.sound("after").await?;
    so(burned(&before).is_some() && burned(&before) == burned(&after), "no nonce was burned", &after)?;
    rig.stand.start_runner(&[]).await?;
    rig.works_now(job).await?;
    rig.finish().await
}

#[tokio::test]
async fn a_runner_that_could_not_be_told_to_forget() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    // It has told the end, if there was time for that, and is gone before the warden has read it.
    let job = rig.send("told").await?;
    rig.running(&job).await?;
    let warden = taken(&mut rig.stand.warden, "warden")?;
    warden.signal(Signal::STOP);
    rig.go(&job.name)?;
    rig.ended_at_runner(&job).await?;
    rig.sound("told").await?;
    taken(&mut rig.stand.runner, "runner")?.kill().await;
    warden.signal(Signal::CONT);
    let missed = "runner.sock (nobody listens there)";
    until("the warden misses the runner", || warden.output().contains(missed).then_some(())).await?;
    rig.stand.warden = Some(warden);
    rig.stand.start_runner(&[]).await?;
    rig.ends(job, End::Ran, 1).await?;

    // An end that is none of the script's, and a warden that is gone before it lets the runner forget.
    let mut held = rig.warden_at("finished").await?;
    let job = rig.send("forgotten").await?;
    rig.running(&job).await?;
    taken(&mut rig.stand.runner, "runner")?.kill().await;
    rig.stand.start_runner(&[]).await?;
    held.line_with("holding at finished").await?;
    held.kill().await;
    rig.stand.start_warden(&[]).await?;
    rig.ends(job, End::Unknown(RAN_ON), 1).await?;
    rig.finish().await
}

#[tokio::test]
async fn a_result_outlives_its_hub_and_waits_for_who_asks() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    let mut job = rig.send("later").await?;
    rig.running(&job).await?;
    rig.interrupt(&mut job).await?;
    rig.go(&job.name)?;
    rig.view_when(&job, "the hub has the result", |view| view.result.is_some()).await?;
    let kept = rig.file("warden/results", &job);
    until("the warden has forgotten it", || (!kept.exists()).then_some(())).await?;
    taken(&mut rig.stand.hub, "hub")?.kill().await;
    rig.stand.start_hub().await?;
    rig.fetched(job).await?;

    // It comes while there is no hub at all.
    let mut job = rig.send("without-hub").await?;
    rig.running(&job).await?;
    rig.interrupt(&mut job).await?;
    taken(&mut rig.stand.hub, "hub")?.kill().await;
    rig.go(&job.name)?;
    rig.result_waits(&job).await?;
    rig.stand.start_hub().await?;
    rig.fetched(job).await?;
    rig.finish().await
}

/// The hub keeps the receipt; the result is lost on its disk, and comes again.
#[tokio::test]
async fn a_receipt_without_its_result() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    let job = rig.send("receipt-first").await?;
    rig.running(&job).await?;
    let full = "CREATE TRIGGER full BEFORE INSERT ON job_results BEGIN SELECT RAISE(FAIL, 'x'); END";
    let mut database = database(&rig).await?;
    execute(&mut database, full).await?;
    rig.go(&job.name)?;
    rig.view_when(&job, "the hub has the receipt", |view| view.receipts.len() > 1).await?;
    let hub = rig.stand.hub.as_mut().ok_or_else(|| Trouble("there is no hub".into()))?;
    hub.line_with("a channel met a failing database").await?;
    let op = job.op.to_string();
    let result = rig.stand.writ(&["result", "web1", &op, "--timeout", "1s"]).await?;
    let says = "the script ran on host 'web1', but its result has not reached the hub";
    so(result.code == Some(255) && result.text().contains(says), says, &result.text())?;
    // The agent was told to come back much later.
    taken(&mut rig.stand.hub, "hub")?.kill().await;
    taken(&mut rig.stand.agent, "agent")?.kill().await;
    execute(&mut database, "DROP TRIGGER full").await?;
    rig.stand.start_hub().await?;
    rig.stand.start_agent().await?;
    rig.ends(job, End::Ran, 1).await?;
    rig.finish().await
}

async fn database(rig: &Rig) -> Fallible<SqliteConnection> {
    let file = SqliteConnectOptions::new().filename(rig.stand.at("hub/state/hub.sqlite"));
    file.connect().await.map_err(|error| Trouble::new("the hub's database", error))
}

async fn execute(database: &mut SqliteConnection, statement: &'static str) -> Fallible<()> {
    let done = sqlx::query(statement).execute(database).await;
    done.map(drop).map_err(|error| Trouble::new("the hub's database", error))
}

/// The hub is killed after it has sent the order and before it has booked that, so it sends it again.
async fn sent_and_not_booked(rig: &mut Rig, job: &Job) -> Fallible<()> {
    taken(&mut rig.stand.hub, "hub")?.kill().await;
    evil_hub::deliver_again(&mut rig.stand, job.op).await
}

#[tokio::test]
async fn an_order_that_comes_twice() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    // To the agent that has it in its hands.
    let job = rig.send("twice-same-agent").await?;
    rig.running(&job).await?;
    sent_and_not_booked(&mut rig, &job).await?;
    rig.view_when(&job, "it is delivered again", |view| view.delivered && view.online).await?;
    rig.go(&job.name)?;
    rig.ends(job, End::Ran, 1).await?;

    // To one that knows nothing of it, after its end.
    let job = rig.send("twice-ended").await?;
    rig.running(&job).await?;
    rig.wire.down();
    rig.go(&job.name)?;
    rig.result_waits(&job).await?;
    taken(&mut rig.stand.agent, "agent")?.kill().await;
    rig.wire.release();
    sent_and_not_booked(&mut rig, &job).await?;
    rig.stand.start_agent().await?;
    rig.ends(job, End::Ran, 1).await?;
    rig.finish().await
}

/// To an agent that knows nothing of it, while the script runs.
#[tokio::test]
async fn an_order_that_comes_twice_while_it_runs() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    let job = rig.send("twice-new-agent").await?;
    rig.running(&job).await?;
    taken(&mut rig.stand.agent, "agent")?.kill().await;
    sent_and_not_booked(&mut rig, &job).await?;
    rig.stand.start_agent().await?;
    rig.view_when(&job, "the copy is refused", |view| view.receipts.len() > 1).await?;
    // As `writ run` does that waits still.
    let wait = ["order", "web1", &job.op.to_string(), "--wait", "--timeout", "1s"];
    let waited = rig.stand.writ(&wait).await?.text();
    so(waited.contains("there is no receipt"), "the script runs, so nothing is its end", &waited)?;
    rig.go(&job.name)?;
    rig.ends(job, End::Ran, 1).await?;
    rig.finish().await
}
