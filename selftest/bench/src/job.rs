//! A signed script that does nothing (`performance.md` row b): from submitting it until its result and its
//! receipt are stored at the hub, which is after they were stored on the host. Against starting `sh -c true`
//! through a bare hub and a bare agent, without and with files that are made durable on the way, and against
//! starting it right here.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here the script's bare counterpart"
)]

pub(crate) mod bare;
pub(crate) mod syncs;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use authz::Outcome;
use protocol::api::{OrderAccepted, OrderView};
use tokio::task::JoinSet;

use crate::ground::{AT_ONCE, Ground};
use crate::table::{Latency, Table, surroundings};
use crate::{Fallible, tls};
use bare::Bare;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every contestant once, in turn
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Jobs of a round, one after the other
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Jobs at once, where several are measured (the warden refuses more than 8)
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=i64::from(AT_ONCE)))]
    in_flight: u32,
}

const PLAIN: &str = "limit: fork and exec of sh -c true, right here";
const FLOOR: &str = "floor: the same through a bare TLS hub, agent, unix socket";
const DURABLE: &str = "durable floor: the same with 4 fdatasyncs on the way";
const WRIT: &str = "writ: signed script, result and receipt durable";

/// What every script here is.
const SCRIPT: &[u8] = b"true\n";

/// Measures and prints.
pub(crate) async fn run(args: &Args) -> Fallible<()> {
    println!("A job that does nothing, {} rounds on loopback. {}", args.rounds, surroundings());
    let dir = tempfile::Builder::new().prefix("writ-bare-").tempdir()?;
    tls::make(dir.path())?;
    let ground = Arc::new(Ground::ready().await?);
    let measured = contest(args, &ground, dir.path()).await;
    if let Some(ground) = Arc::into_inner(ground) {
        ground.stop().await;
    }
    println!("{}\nAfterwards: {}", measured?, surroundings());
    Ok(())
}

async fn contest(args: &Args, ground: &Arc<Ground>, dir: &std::path::Path) -> Fallible<String> {
    let mut floor = Bare::start("floor", dir, args.in_flight, false).await?;
    let mut durable = Bare::start("durable", dir, args.in_flight, true).await?;
    let against = |table: Table| {
        table.against("x durable floor", DURABLE, &[FLOOR, WRIT]).against(
            "x limit",
            PLAIN,
            &[FLOOR, DURABLE, WRIT],
        )
    };
    let goals = ["at most 1.3 x durable floor", ""];
    let mut serial = Latency::new("One after the other", goals, against);
    let mut together = Latency::new(&format!("{} at once, each", args.in_flight), ["", ""], |table| {
        table.against("x durable floor", DURABLE, &[FLOOR, WRIT])
    });
    let goal = "at least 5000 at 64 at once, no reply lost";
    let mut rate = Table::new(format!("{} at once, jobs/s", args.in_flight), goal).against(
        "x durable floor",
        DURABLE,
        &[FLOOR, WRIT],
    );
    for floor in [&mut floor, &mut durable] {
        floor.serial(3).await?;
    }
    jobs(ground, 3).await?;
    let each = args.jobs.div_ceil(args.in_flight);
    for _ in 0..args.rounds {
        serial.add(PLAIN, &mut (0..args.jobs).map(|_| plain()).collect::<Fallible<Vec<_>>>()?);
        serial.add(FLOOR, &mut floor.serial(args.jobs).await?);
        serial.add(DURABLE, &mut durable.serial(args.jobs).await?);
        serial.add(WRIT, &mut jobs(ground, args.jobs).await?);
        for (name, floor) in [(FLOOR, &mut floor), (DURABLE, &mut durable)] {
            let start = Instant::now();
            let mut samples = floor.together(each).await?;
            rate.add(name, samples.len() as f64 / start.elapsed().as_secs_f64());
            together.add(name, &mut samples);
        }
        let start = Instant::now();
        let mut samples = all(ground, args.in_flight, each).await?;
        rate.add(WRIT, samples.len() as f64 / start.elapsed().as_secs_f64());
        together.add(WRIT, &mut samples);
    }
    let syncs = count_syncs(ground).await.unwrap_or_else(|why| format!("not counted: {why}"));
    let syncs = format!("fsync and fdatasync for one job of ours: {syncs}");
    Ok(format!("\n{}\n{}\n{}\n{syncs}", serial.render(), together.render(), rate.render()))
}

/// In words. Slows everything down, so it comes after what is measured.
async fn count_syncs(ground: &Ground) -> Fallible<String> {
    const JOBS: u32 = 10;
    let counter = syncs::Counter::start(ground).await?;
    jobs(ground, JOBS).await?;
    // What the last job does after it was answered may be missing.
    let counts = counter.stop().await?;
    let each = |count: usize| count as f64 / f64::from(JOBS);
    let total = each(counts.iter().map(|(_, count)| count).sum());
    let parts: Vec<String> =
        counts.iter().map(|(name, count)| format!("{name} {:.1}", each(*count))).collect();
    Ok(format!("{total:.1} ({}), of {JOBS} jobs, seen by strace", parts.join(", ")))
}

fn plain() -> Fallible<Duration> {
    let start = Instant::now();
    let status = Command::new("sh").args(["-c", "true"]).status()?;
    if status.success() { Ok(start.elapsed()) } else { Err("sh -c true failed".into()) }
}

async fn all(ground: &Arc<Ground>, in_flight: u32, each: u32) -> Fallible<Vec<Duration>> {
    let mut running = JoinSet::new();
    for _ in 0..in_flight {
        let ground = ground.clone();
        running.spawn(async move { jobs(&ground, each).await });
    }
    let mut samples = Vec::new();
    while let Some(done) = running.join_next().await {
        samples.extend(done??);
    }
    Ok(samples)
}

async fn jobs(ground: &Ground, count: u32) -> Fallible<Vec<Duration>> {
    let mut samples = Vec::new();
    for _ in 0..count {
        samples.push(job(ground).await?);
    }
    Ok(samples)
}

/// One signed script. Signing is the operator's business and not counted.
async fn job(ground: &Ground) -> Fallible<Duration> {
    let courier = &ground.courier;
    let order = ground.fresh(courier.job(SCRIPT, 0));
    let envelope = courier.signed_job(&order, &courier.alice, SCRIPT)?;
    let orders = format!("/api/v1/hosts/{}/orders", courier.host());
    let start = Instant::now();
    let accepted: OrderAccepted = said(courier.post(&orders, &envelope).await?)?;
    let mut version = accepted.version;
    loop {
        let path = format!("{orders}/{}?after={version}&wait_s=20", accepted.op);
        let view: OrderView = said(courier.get(&path).await?)?;
        let took = start.elapsed();
        if let Some(problem) = view.problem {
            return Err(format!("a job came to nothing: {problem}").into());
        }
        // The receipt of the commit comes first and says nothing of the end.
        for receipt in &view.receipts {
            match courier.receipt(&receipt.receipt)?.order_outcome() {
                Some((_, Outcome::Ran { .. })) if view.result.is_some() => return Ok(took),
                Some((_, Outcome::Ran { .. })) | None => {}
                Some((_, other)) => return Err(format!("a job did not run: {other}").into()),
            }
        }
        if view.version == version {
            return Err("a job has no result and no receipt after 20 s".into());
        }
        version = view.version;
    }
}

fn said<T>(answer: Result<T, protocol::api::ApiFailure>) -> Fallible<T> {
    answer.map_err(|failure| format!("the hub refused ({}): {}", failure.code, failure.message).into())
}
