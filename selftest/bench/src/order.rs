//! What an order costs over the bare call that it makes (issue "the warden"): a signed `guest.tag`, from the
//! moment the warden has it on its socket until its receipt is there, against the one PUT of the API, and against
//! the PUT with the reads before and after that anybody careful makes. Besides: how many calls of the API and how
//! many fsyncs one order takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use authz::order::{Order, Preconditions, TagParams};
use authz::world::{GuestNow, World};
use authz::{Outcome, Params};
use local_socket::Framed;
use protocol::ask::{Look, Question, Reply};
use protocol::local::{WardenAnswer, WardenRequest};
use protocol::report::Known;
use protocol::{GuestRef, Tag, Vmid};
use proxmox_client::{Client, GuestKind, PinSet};
use tokio::net::UnixStream;

use crate::Fallible;
use crate::ground::Ground;
use crate::job::syncs::Counter;
use crate::table::{Table, surroundings};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every contestant once, in turn
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Changes of a round, one after the other
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    orders: u32,
}

const BARE: &str = "limit: the one PUT, its digest known";
const CAREFUL: &str = "by hand: config, state, snapshots, PUT, and these three again";
const WRIT: &str = "writ: verify, burn, look, look again, PUT, look, receipt";

const VMID: u32 = 101;
const KIND: GuestKind = GuestKind::Qemu;

/// Measures and prints.
pub(crate) async fn run(args: &Args) -> Fallible<()> {
    println!("One change of a guest's tags, {} rounds of {}. {}", args.rounds, args.orders, surroundings());
    let ground = Ground::ready().await?;
    let measured = contest(args, &ground).await;
    ground.stop().await;
    println!("{}\nAfterwards: {}", measured?, surroundings());
    Ok(())
}

async fn contest(args: &Args, ground: &Ground) -> Fallible<String> {
    let pve = client(ground)?;
    let mut table = Table::new("Milliseconds a change", "")
        .against("x limit", BARE, &[CAREFUL, WRIT])
        .against("x by hand", CAREFUL, &[WRIT]);
    let mut number = 0;
    ours(ground, &mut number).await?;
    for _ in 0..args.rounds {
        let mut spent = [Duration::ZERO; 3];
        for _ in 0..args.orders {
            spent[0] += bare(&pve, &mut number).await?;
            spent[1] += careful(&pve, &mut number).await?;
            spent[2] += ours(ground, &mut number).await?;
        }
        for (name, spent) in [BARE, CAREFUL, WRIT].into_iter().zip(spent) {
            table.add(name, spent.as_secs_f64() * 1e3 / f64::from(args.orders));
        }
    }
    let before = requests(ground).await?;
    ours(ground, &mut number).await?;
    // The question before the order is the bench's own.
    let asked = look(ground).await.map(drop);
    let after = requests(ground).await?;
    asked?;
    let question = requests_of_a_look(ground).await?;
    let calls = after.saturating_sub(before).saturating_sub(2 * question);
    let syncs = syncs(ground, &mut number).await.unwrap_or_else(|why| format!("not counted: {why}"));
    Ok(format!(
        "\n{}\nAPI calls for one order: {calls} (one of them changes something)\nfsync and fdatasync for one order: {syncs}",
        table.render()
    ))
}

fn client(ground: &Ground) -> Fallible<Client> {
    let warden = ground.stand.read("warden.toml")?;
    let value = |key: &str| -> Fallible<String> {
        let line = warden.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='));
        let value = line.ok_or_else(|| format!("warden.toml has no {key}"))?;
        Ok(value.trim().trim_matches(['[', ']', '"']).to_owned())
    };
    let pins = PinSet::new(vec![value("pins")?.parse()?])?;
    let token = std::fs::read_to_string(value("token_file")?)?;
    Ok(Client::new(value("api")?.parse()?, pins, token.trim().parse()?)?)
}

fn tag(number: &mut u32) -> Tag {
    *number += 1;
    format!("bench{number}").parse().expect("letters and digits")
}

fn vmid() -> proxmox_client::Vmid {
    proxmox_client::Vmid::new(VMID).expect("a constant")
}

async fn put(pve: &Client, digest: &str, tag: &Tag) -> Fallible<()> {
    let changes = BTreeMap::from([("tags", tag.as_str().to_owned())]);
    Ok(pve.set_guest_config(KIND, vmid(), changes, digest).await?)
}

async fn bare(pve: &Client, number: &mut u32) -> Fallible<Duration> {
    let digest = pve.guest_config(KIND, vmid()).await?.digest;
    let tag = tag(number);
    let start = Instant::now();
    put(pve, &digest, &tag).await?;
    Ok(start.elapsed())
}

async fn careful(pve: &Client, number: &mut u32) -> Fallible<Duration> {
    let tag = tag(number);
    let start = Instant::now();
    let digest = observe(pve).await?;
    put(pve, &digest, &tag).await?;
    observe(pve).await?;
    Ok(start.elapsed())
}

async fn observe(pve: &Client) -> Fallible<String> {
    let digest = pve.guest_config(KIND, vmid()).await?.digest;
    pve.guest_status(KIND, vmid()).await?;
    pve.snapshots(KIND, vmid()).await?;
    Ok(digest)
}

async fn ask(ground: &Ground, request: &WardenRequest) -> Fallible<WardenAnswer> {
    let mut peer = Framed::from(UnixStream::connect(ground.stand.at("warden.sock")).await?);
    peer.send(request).await?;
    loop {
        match peer.receive().await?.ok_or("the warden left")? {
            WardenAnswer::Progress(_) => {}
            answer => return Ok(answer),
        }
    }
}

async fn look(ground: &Ground) -> Fallible<GuestNow> {
    let guest = Some(Vmid::try_from(VMID)?);
    let question = Question::Look(Look { guest, ..Look::default() });
    let WardenAnswer::Answered { reply: Reply::World { json } } =
        ask(ground, &WardenRequest::Ask { question }).await?
    else {
        return Err("the warden did not look".into());
    };
    match serde_json::from_slice::<World>(&json.0)?.guest {
        Known::Known(guest) => Ok(guest),
        Known::Unknown(why) => Err(why.into()),
    }
}

async fn ours(ground: &Ground, number: &mut u32) -> Fallible<Duration> {
    let now = look(ground).await?;
    let order = ground.fresh(ground.courier.session(0));
    let order = Order {
        params: Params::GuestTag(TagParams { tags: vec![tag(number)] }),
        guest: Some(GuestRef {
            vmid: Vmid::try_from(VMID)?,
            kind: now.kind,
            name: now.name,
            identity: now.identity,
        }),
        pre: Preconditions { digest: Some(now.digest.parse()?), ..Preconditions::default() },
        ..order
    };
    let envelope = ground.courier.signed(&order, &ground.courier.alice);
    let start = Instant::now();
    let answer = ask(ground, &WardenRequest::Order { envelope }).await?;
    let spent = start.elapsed();
    let WardenAnswer::Receipt(signed) = answer else { return Err(format!("no receipt: {answer:?}").into()) };
    match ground.courier.receipt(&signed)?.event {
        authz::Event::Order { outcome: Outcome::Done { .. }, .. } => Ok(spent),
        event => Err(format!("not done: {}", event.words().1).into()),
    }
}

async fn requests(ground: &Ground) -> Fallible<usize> {
    let list = ground.stand.sim_get("requests").await?;
    Ok(list.as_array().or_else(|| list["data"].as_array()).map_or(0, Vec::len))
}

async fn requests_of_a_look(ground: &Ground) -> Fallible<usize> {
    let before = requests(ground).await?;
    look(ground).await?;
    Ok(requests(ground).await?.saturating_sub(before))
}

/// Slows everything down, so it comes after what is measured.
async fn syncs(ground: &Ground, number: &mut u32) -> Fallible<String> {
    const ORDERS: usize = 5;
    let counter = Counter::start(ground).await?;
    for _ in 0..ORDERS {
        ours(ground, number).await?;
    }
    let counts = counter.stop().await?;
    let warden = counts.iter().find(|(name, _)| *name == "warden").map_or(0, |(_, count)| *count);
    Ok(format!("{:.1} (the warden's, mean of {ORDERS})", warden as f64 / ORDERS as f64))
}
