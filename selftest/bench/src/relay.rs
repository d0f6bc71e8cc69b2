//! A session's bytes through hub and agent (`performance.md` rows c and c'): throughput both ways, and the
//! time that one byte takes there and back, alone and beside a stream that takes all it can get.

pub(crate) mod bare;
mod direct;
pub(crate) mod far;
mod near;
mod ours;
mod rathole;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use crate::ground::{AT_ONCE, Ground};
use crate::table::{Latency, Table, surroundings};
use crate::{Fallible, tls};
use near::{Near, Way};

/// What is read and written at once, everywhere here.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Bytes that are not all the same.
pub(crate) fn noise(count: usize) -> Vec<u8> {
    let mut state: u32 = 0x9e37_79b9;
    let next = || {
        // xorshift32: quality does not matter, being no run of equal bytes does.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every contestant once, in turn
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// MiB that each contestant moves each way in a round
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65536))]
    mib: u64,
    /// Echoes of a round: so many idle, so many beside a busy stream
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    echoes: u64,
    /// Streams at once, where several are measured
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=32))]
    streams: u8,
    /// Measures only contestants whose line contains this, to look at one with a profiler
    #[arg(long)]
    only: Option<String>,
}

const FLOOR: &str = "floor: two bare TLS hops, no process behind them";
const PAIR: &str = "floor 2: its far end a process behind a socket pair";
const RAW: &str = "writ: hub and agent, raw stream";
const SSH: &str = "writ: ssh through writ connect, hub, agent, sshd";
const RATHOLE: &str = "peer: rathole, one TLS hop between plain TCP";
const DIRECT: &str = "peer: ssh straight to an sshd of our own";

struct Contestant {
    name: &'static str,
    /// At least two.
    streams: Vec<Near>,
}

/// Measures and prints.
pub(crate) async fn run(args: &Args) -> Fallible<()> {
    println!("A session's bytes, {} rounds on loopback. {}", args.rounds, surroundings());
    let dir = tempfile::Builder::new().prefix("writ-bare-").tempdir()?;
    tls::make(dir.path())?;
    debug_assert!(u32::from(args.streams) < AT_ONCE);
    let ground = Ground::ready().await?;
    let measured = contest(args, &ground, dir.path()).await;
    ground.stop().await;
    println!("{}\nAfterwards: {}", measured?, surroundings());
    Ok(())
}

async fn contest(args: &Args, ground: &Ground, dir: &std::path::Path) -> Fallible<String> {
    let (_floor, floor) = bare::open("floor", dir, args.streams, false).await?;
    let (_pair, pair) = bare::open("pair", dir, args.streams, true).await?;
    let (_server, direct) = direct::open(&ground.stand, 2).await?;
    let raw = ours::open_raw(ground, args.streams).await?;
    let ssh = ours::open_ssh(ground, 2).await?;
    let rathole = match rathole::find() {
        Some(program) => Some(rathole::open(&program, dir, args.streams).await?),
        None => None,
    };
    let (_rathole, rathole) = rathole.unzip();
    let all = [(FLOOR, floor), (PAIR, pair), (RAW, raw), (SSH, ssh)].into_iter();
    let all = all.chain(rathole.map(|streams| (RATHOLE, streams))).chain([(DIRECT, direct)]);
    let mut contestants: Vec<Contestant> = all.map(|(name, streams)| Contestant { name, streams }).collect();
    if let Some(only) = &args.only {
        contestants.retain(|contestant| contestant.name.contains(only.as_str()));
    }
    let mut tables = Tables::new(args);
    let mut warm_up = Tables::new(args);
    let streams = usize::from(args.streams);
    let small = Sizes { streams, bytes: 4 << 20, echoes: 10 };
    for contestant in &mut contestants {
        measure(contestant, &mut warm_up, &small).await?;
    }
    let sizes = Sizes { streams, bytes: args.mib << 20, echoes: args.echoes };
    for round in 0..args.rounds {
        for contestant in &mut contestants {
            measure(contestant, &mut tables, &sizes)
                .await
                .map_err(|error| format!("{} in round {}: {error}", contestant.name, round + 1))?;
        }
    }
    let missing = "\nrathole was not found on PATH; not measured\n";
    Ok(tables.render() + if rathole::find().is_none() { missing } else { "" })
}

struct Sizes {
    /// Who has so many is measured with all of them at once, too.
    streams: usize,
    bytes: u64,
    echoes: u64,
}

/// One round of one contestant.
async fn measure(contestant: &mut Contestant, tables: &mut Tables, sizes: &Sizes) -> Fallible<()> {
    let name = contestant.name;
    for (way, table) in [(Way::Up, &mut tables.up), (Way::Down, &mut tables.down)] {
        let took = contestant.streams[0].bulk(way, sizes.bytes).await?;
        table.add(name, rate(sizes.bytes, took));
    }
    if contestant.streams.len() == sizes.streams {
        for (way, table) in [(Way::Up, &mut tables.many_up), (Way::Down, &mut tables.many_down)] {
            table.add(name, many(&mut contestant.streams, way, sizes.bytes).await?);
        }
    }
    tables.idle.add(name, &mut contestant.streams[0].echo(sizes.echoes).await?);
    let busy = [
        (Way::Up, &mut tables.busy_up, &mut tables.beside_up),
        (Way::Down, &mut tables.busy_down, &mut tables.beside_down),
    ];
    for (way, latency, table) in busy {
        let stop = Arc::new(AtomicBool::new(false));
        let mut busy = contestant.streams.pop().ok_or("no second stream")?;
        let told = stop.clone();
        let load = tokio::spawn(async move {
            let moved = busy.load(way, &told).await;
            (busy, moved)
        });
        let echoed = contestant.streams[0].echo(sizes.echoes).await;
        stop.store(true, Ordering::Relaxed);
        let (busy, moved) = load.await?;
        contestant.streams.push(busy);
        latency.add(name, &mut echoed?);
        let (bytes, took) = moved?;
        table.add(name, rate(bytes, took));
    }
    Ok(())
}

/// All streams at once; gives the sum of what they moved by the time that the last was done.
async fn many(streams: &mut Vec<Near>, way: Way, bytes: u64) -> Fallible<f64> {
    let share = bytes / streams.len() as u64;
    let start = std::time::Instant::now();
    let mut moving = JoinSet::new();
    for mut stream in streams.drain(..) {
        moving.spawn(async move {
            let moved = stream.bulk(way, share).await;
            (stream, moved)
        });
    }
    while let Some(done) = moving.join_next().await {
        let (stream, moved) = done?;
        moved?;
        streams.push(stream);
    }
    Ok(rate(share * streams.len() as u64, start.elapsed()))
}

/// Millions of bytes a second.
fn rate(bytes: u64, took: std::time::Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

struct Tables {
    up: Table,
    down: Table,
    many_up: Table,
    many_down: Table,
    idle: Latency,
    busy_up: Latency,
    busy_down: Latency,
    beside_up: Table,
    beside_down: Table,
}

impl Tables {
    fn new(args: &Args) -> Self {
        let dress = |table: Table| {
            table
                .against("x floor", FLOOR, &[PAIR, RAW, SSH, RATHOLE])
                .against("x floor 2", PAIR, &[RAW, SSH, RATHOLE])
                .against("x rathole", RATHOLE, &[RAW, SSH])
                .against("x direct ssh", DIRECT, &[SSH])
        };
        let speed = |what: &str| {
            let goal =
                "the raw stream at least 0.90 x floor and 1.0 x rathole; ssh inside costs its own crypto";
            dress(Table::new(format!("{what}, {} MiB, MB/s", args.mib), goal))
        };
        let beside = |what: &str| dress(Table::new(format!("The busy stream meanwhile, {what}, MB/s"), ""));
        let busy = "the raw stream at most 1.0 x rathole";
        Self {
            up: speed("One stream to the host"),
            down: speed("One stream from the host"),
            many_up: speed(&format!("{} streams to the host together", args.streams)),
            many_down: speed(&format!("{} streams from the host together", args.streams)),
            idle: Latency::new("Echo, nothing else", ["the raw stream at most 1.3 x floor", ""], dress),
            busy_up: Latency::new("Echo beside a stream that fills the way to the host", [busy, busy], dress),
            busy_down: Latency::new(
                "Echo beside a stream that fills the way from the host",
                [busy, busy],
                dress,
            ),
            beside_up: beside("to the host"),
            beside_down: beside("from the host"),
        }
    }

    fn render(&self) -> String {
        [
            self.up.render(),
            self.down.render(),
            self.many_up.render(),
            self.many_down.render(),
            self.idle.render(),
            self.busy_up.render(),
            self.beside_up.render(),
            self.busy_down.render(),
            self.beside_down.render(),
        ]
        .map(|text| format!("\n{text}"))
        .concat()
    }
}
