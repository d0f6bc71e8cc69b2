//! Collecting a whole host (`performance.md` row f): calls and time of the agent's collector, against the same
//! calls by a bare HTTP client, as many at once, and against what the API itself needs for them.

use std::time::{Duration, Instant};

use agent::collect::Collector;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use protocol::report::Known;

use super::{Pve, milliseconds};
use crate::Fallible;
use crate::table::{Table, surroundings};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every contestant once, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many guests the host has
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000])]
    guests: Vec<u32>,
    /// How long the API takes for each call, in milliseconds; a real node takes 2 to 5
    #[arg(long, value_delimiter = ',', default_values_t = [0, 3])]
    delays: Vec<u32>,
}

/// As many as the client allows itself, because a node has three workers.
const AT_ONCE: usize = 2;

const LIMIT: &str = "limit: the API's own delay, two at once";
const BARE: &str = "bare: the same calls, plain HTTP client";
const WRIT: &str = "writ: the agent's collector";

/// Measures and prints.
pub(crate) async fn run(args: &Args) -> Fallible<()> {
    println!("Collecting a host, {} rounds on loopback. {}", args.rounds, surroundings());
    for &delay in &args.delays {
        for &guests in &args.guests {
            let each = Duration::from_millis(delay.into());
            let pve = Pve::start(|config| {
                config.world.populate(guests);
                config.call_delay = each;
            })
            .await?;
            let text = one_host(&pve, guests, each, args.rounds).await;
            pve.sim.stop().await;
            println!("\n{}", text?);
        }
    }
    println!("Afterwards: {}", surroundings());
    Ok(())
}

async fn one_host(pve: &Pve, guests: u32, each: Duration, rounds: u32) -> Fallible<String> {
    let title = format!("{guests} guests, {} ms for each call of the API, ms", each.as_millis());
    let mut time = Table::new(title, "at most 1.2 x bare").against("x bare", BARE, &[WRIT]);
    if !each.is_zero() {
        time = time.against("x limit", LIMIT, &[BARE, WRIT]);
    }
    let collector = Collector::new(pve.client.clone(), None);
    collect(&collector, guests).await?;
    let before = pve.calls("");
    collect(&collector, guests).await?;
    let paths: Vec<String> = pve
        .sim
        .requests()
        .into_iter()
        .skip(before)
        .map(|line| format!("{}{}", pve.sim.url(), line.path))
        .collect();
    // Only the first call counts; another one has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bare = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(pve.sim.ca_pem().as_bytes())?])
        .http1_only()
        .no_proxy()
        .pool_max_idle_per_host(AT_ONCE)
        .build()?;
    let token = format!("PVEAPIToken={}", pve.sim.tokens().1);
    let (bare, token) = (&bare, &token);
    for _ in 0..rounds {
        time.add(LIMIT, milliseconds(each) * paths.len() as f64 / AT_ONCE as f64);
        let start = Instant::now();
        let bodies: Vec<usize> = stream::iter(&paths)
            .map(|path| async move {
                let answer = bare.get(path).header("Authorization", token).send().await?;
                Ok::<_, reqwest::Error>(answer.error_for_status()?.bytes().await?.len())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        time.add(BARE, milliseconds(start.elapsed()));
        if bodies.contains(&0) {
            return Err("an answer was empty".into());
        }
        let start = Instant::now();
        collect(&collector, guests).await?;
        time.add(WRIT, milliseconds(start.elapsed()));
    }
    let calls = paths.len();
    let beyond = calls as f64 / f64::from(guests);
    Ok(format!("{}  {calls} calls, {beyond:.2} for each guest\n", time.render()))
}

async fn collect(collector: &Collector, guests: u32) -> Fallible<()> {
    match collector.collect().await.guests {
        Known::Known(list) if list.len() == guests as usize => Ok(()),
        Known::Known(list) => Err(format!("{} of {guests} guests were collected", list.len()).into()),
        Known::Unknown(why) => Err(format!("the guests were not collected: {why}").into()),
    }
}
