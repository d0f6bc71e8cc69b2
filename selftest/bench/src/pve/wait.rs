//! How long after a task's end `wait_task` returns (`performance.md` row f'), against a loop that asks every
//! second, as other clients do, and against one status call.

use std::time::{Duration, Instant};

use proxmox_client::{GuestKind, SnapshotName, TaskEnd, TaskStatus, Upid, Vmid};

use super::{Pve, milliseconds};
use crate::Fallible;
use crate::table::{Table, surroundings};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every contestant once, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long the tasks run, in milliseconds
    #[arg(long, value_delimiter = ',', default_values_t = [100, 500, 1900, 10_000, 30_000])]
    lengths: Vec<u32>,
}

const LIMIT: &str = "limit: one status call";
const PEER: &str = "peer's way: ask every second";
const WRIT: &str = "writ: wait_task";

/// Measures and prints.
pub(crate) async fn run(args: &Args) -> Fallible<()> {
    println!(
        "From a task's end until its waiter knows, {} rounds on loopback. {}",
        args.rounds,
        surroundings()
    );
    let mut names = 0;
    for &length in &args.lengths {
        let length = Duration::from_millis(length.into());
        let pve = Pve::start(|config| config.task_duration = length).await?;
        let text = one_length(&pve, length, args.rounds, &mut names).await;
        pve.sim.stop().await;
        println!("\n{}", text?);
    }
    println!("Afterwards: {}", surroundings());
    Ok(())
}

async fn one_length(pve: &Pve, length: Duration, rounds: u32, names: &mut u32) -> Fallible<String> {
    let goal = match length.as_secs() {
        0 | 1 => "p50 at most 100 ms",
        _ => "at most 5 % of the task's length",
    };
    let title = format!("A task of {} ms: delay after its end, ms", length.as_millis());
    let mut delay = Table::new(title, goal).against("x peer's way", PEER, &[WRIT]);
    let mut calls = Table::new("  status calls for it", "at most 25 per task-minute, after the start");
    for _ in 0..rounds {
        let (upid, end) = begin(pve, length, names).await?;
        loop {
            if matches!(pve.client.task_status(&upid).await?, TaskStatus::Ended { .. }) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        delay.add(PEER, milliseconds(end.elapsed()));
        calls.add(PEER, status_calls(pve, &upid));

        let (upid, end) = begin(pve, length, names).await?;
        match pve.client.wait_task(&upid, Duration::from_secs(600)).await {
            TaskEnd::Ok => {}
            other => return Err(format!("a snapshot did not end well: {other:?}").into()),
        }
        delay.add(WRIT, milliseconds(end.elapsed()));
        calls.add(WRIT, status_calls(pve, &upid));

        let start = Instant::now();
        pve.client.task_status(&upid).await?;
        delay.add(LIMIT, milliseconds(start.elapsed()));
    }
    Ok(format!("{}{}", delay.render(), calls.render()))
}

/// Starts a task; gives it with its end. The end is counted from the answer to the call that starts it, so
/// delays are too small by as much as that answer took on its way.
async fn begin(pve: &Pve, length: Duration, names: &mut u32) -> Fallible<(Upid, Instant)> {
    *names += 1;
    let name: SnapshotName = format!("bench-{names}").parse()?;
    let upid = pve.client.snapshot_create(GuestKind::Qemu, Vmid::new(101)?, &name, "").await?;
    Ok((upid, Instant::now() + length))
}

fn status_calls(pve: &Pve, upid: &Upid) -> f64 {
    // The path is percent-encoded; process id and start make it the task's own.
    let mark = format!("{:08X}%3A{:08X}", upid.pid(), upid.pstart());
    let mine = pve.sim.requests();
    let mine = mine.iter().filter(|line| line.path.contains(&mark) && line.path.ends_with("/status"));
    mine.count() as f64
}
