//! Between two durable writes of the runner, and of the warden.

use scenarios::Fallible;

use crate::rig::{End, Job, Rig, so, taken};

const NEVER_GOT: End = End::Aborted("the runner never got the script");
const NOT_STARTED: End = End::Aborted(
    "the script was not started: the runner ended after it had accepted the order and before it started the script",
);
const STARTING: End = End::Unknown("the runner ended while it started the script");
const RAN_ON: End = End::Unknown("the runner ended while the script ran, and its output is lost");

/// Every point of the runner: whether the script has to end before it is reached, what is told afterwards,
/// and how often it ran.
const RUNNER: [(&str, bool, End, usize); 7] = [
    ("verified", false, NEVER_GOT, 0),
    ("accepted", false, NEVER_GOT, 0),
    ("committed", false, NOT_STARTED, 0),
    ("starting", false, STARTING, 0),
    ("started", false, RAN_ON, 1),
    ("ended", true, RAN_ON, 1),
    ("stored", true, End::Ran, 1),
];

#[tokio::test]
async fn the_runner_at_every_point() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    for (point, to_the_end, end, runs) in RUNNER {
        let job = held_runner(&mut rig, point, to_the_end).await?;
        rig.stand.start_runner(&[]).await?;
        rig.ends(job, end, runs).await?;
    }
    rig.finish().await
}

/// The warden that handed the script over is killed with it, so that nobody remembers what the runner said.
#[tokio::test]
async fn the_runner_at_every_point_and_the_warden_with_it() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    for (n, (point, to_the_end, end, runs)) in RUNNER.into_iter().enumerate() {
        let held = rig.warden_at("handed").await?;
        let job = held_runner(&mut rig, point, to_the_end).await?;
        held.kill().await;
        // Either may be back first.
        if n % 2 == 0 {
            rig.stand.start_warden(&[]).await?;
            rig.stand.start_runner(&[]).await?;
        } else {
            rig.stand.start_runner(&[]).await?;
            rig.stand.start_warden(&[]).await?;
        }
        rig.ends(job, end, runs).await?;
    }
    rig.finish().await
}

/// Killed at a point, and not started again.
async fn held_runner(rig: &mut Rig, point: &str, to_the_end: bool) -> Fallible<Job> {
    let name = format!("runner-{point}");
    if to_the_end {
        rig.go(&name)?;
    }
    taken(&mut rig.stand.runner, "runner")?.stop().await;
    let mut held = rig.stand.runner_process(&[("WRIT_RUNNER_HOLD_AT", point)]).await?;
    let job = rig.send(&name).await?;
    held.line_with(&format!("holding at {point}")).await?;
    if point == "started" {
        rig.running(&job).await?;
    }
    held.kill().await;
    rig.sound(&name).await?;
    Ok(job)
}

#[tokio::test]
async fn the_warden_at_every_point() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    let mut held = rig.warden_at("verified").await?;
    let job = rig.send("warden-verified").await?;
    held.line_with("holding at verified").await?;
    held.kill().await;
    rig.stand.start_warden(&[]).await?;
    let trouble = "It is not known whether the order was carried out; it will not be handed over again";
    rig.view_when(&job, "the agent says that it does not know", |view| view.problem.is_some()).await?;
    rig.never_came(job, trouble).await?;
    for (point, to_the_end, end, runs) in [
        (
            "committed",
            false,
            End::Aborted("the warden ended after the nonce was burned and before the script was handed over"),
            0,
        ),
        ("handing", false, NEVER_GOT, 0),
        ("handed", false, End::Ran, 1),
        ("handed", true, End::Ran, 1),
        ("ended", true, End::Ran, 1),
        ("stored", true, End::Ran, 1),
        ("finished", true, End::Ran, 1),
    ] {
        let name = format!("warden-{point}{}", if to_the_end { "-ended" } else { "" });
        if to_the_end {
            rig.go(&name)?;
        }
        let mut held = rig.warden_at(point).await?;
        let job = rig.send(&name).await?;
        held.line_with(&format!("holding at {point}")).await?;
        match (point, to_the_end) {
            ("handed", false) => rig.running(&job).await?,
            ("handed", true) => rig.ended_at_runner(&job).await?,
            _ => {}
        }
        held.kill().await;
        rig.sound(&name).await?;
        rig.stand.start_warden(&[]).await?;
        rig.go(&name)?;
        rig.ends(job, end, runs).await?;
    }
    rig.finish().await
}

#[tokio::test]
async fn of_what_may_have_run_nobody_says_that_it_was_not_carried_out() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    let job = held_runner(&mut rig, "started", false).await?;
    let name = job.name.clone();
    rig.stand.start_runner(&[]).await?;
    rig.ends(job, RAN_ON, 1).await?;
    let said = rig.said(&name);
    so(!said.contains("not carried out"), "it ran, as the next words say", &said)?;
    rig.finish().await
}
