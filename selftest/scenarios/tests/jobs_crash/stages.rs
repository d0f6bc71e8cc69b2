//! One of the four is killed while something of the script is on its way.

use rustix::process::Signal;
use scenarios::process::Process;
use scenarios::{Fallible, Trouble};

use crate::rig::{End, Job, Rig, so, taken, until};
use crate::wire::Way;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agent,
    Hub,
    Warden,
    Runner,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The script runs.
    Running,
    /// The warden keeps the result; the agent has no way to the hub.
    Waiting,
    /// The agent has sent the result; the hub has not got it.
    Sent,
    /// The hub keeps the result; nobody told the agent.
    Stored,
}

const STAGES: [Stage; 4] = [Stage::Running, Stage::Waiting, Stage::Sent, Stage::Stored];

impl Victim {
    fn process(self, rig: &mut Rig) -> Fallible<Process> {
        match self {
            Self::Agent => taken(&mut rig.stand.agent, "agent"),
            Self::Hub => taken(&mut rig.stand.hub, "hub"),
            Self::Warden => taken(&mut rig.stand.warden, "warden"),
            Self::Runner => taken(&mut rig.stand.runner, "runner"),
        }
    }

    async fn start(self, rig: &mut Rig) -> Fallible<()> {
        match self {
            Self::Agent => rig.stand.start_agent().await,
            Self::Hub => rig.stand.start_hub().await,
            Self::Warden => rig.stand.start_warden(&[]).await,
            Self::Runner => rig.stand.start_runner(&[]).await,
        }
    }

    /// Killed and started again, with what is on the wire lost if it was his.
    async fn crash(self, rig: &mut Rig) -> Fallible<()> {
        self.process(rig)?.kill().await;
        match self {
            Self::Agent | Self::Hub => rig.wire.cut(),
            Self::Warden | Self::Runner => rig.wire.release(),
        }
        self.start(rig).await
    }
}

impl Stage {
    /// Brings a running script there.
    async fn reach(self, rig: &Rig, job: &Job) -> Fallible<()> {
        match self {
            Self::Running => return Ok(()),
            Self::Waiting => rig.wire.down(),
            Self::Sent | Self::Stored => rig.wire.catch_result(),
        }
        rig.go(&job.name)?;
        rig.result_waits(job).await?;
        if self != Self::Waiting {
            until("the result on the wire", || rig.wire.holds(Way::ToHub).then_some(())).await?;
        }
        if self == Self::Stored {
            rig.wire.hold(Way::ToAgent);
            let what = "the hub has the result";
            rig.view_when(job, what, |view| view.result.is_some()).await?;
            let kept = rig.file("warden/results", job).exists();
            so(kept, "the warden keeps it until it is told", "")?;
        }
        Ok(())
    }
}

async fn at_every_stage(victims: [Victim; 2]) -> Fallible<()> {
    let mut rig = Rig::new().await?;
    for victim in victims {
        for stage in STAGES {
            let job = rig.send(&format!("{victim:?}-{stage:?}").to_lowercase()).await?;
            rig.running(&job).await?;
            stage.reach(&rig, &job).await?;
            victim.crash(&mut rig).await?;
            rig.go(&job.name)?;
            let end = match (victim, stage) {
                (Victim::Runner, Stage::Running) => {
                    End::Unknown("the runner ended while the script ran, and its output is lost")
                }
                _ => End::Ran,
            };
            rig.ends(job, end, 1).await?;
        }
    }
    rig.finish().await
}

#[tokio::test]
async fn the_agent_or_the_hub_at_every_stage() -> Fallible<()> {
    at_every_stage([Victim::Agent, Victim::Hub]).await
}

#[tokio::test]
async fn the_warden_or_the_runner_at_every_stage() -> Fallible<()> {
    at_every_stage([Victim::Warden, Victim::Runner]).await
}

/// The hub has sent the order, and it never arrived: it is sent again.
#[tokio::test]
async fn an_order_that_was_delivered_and_not_handed_over() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    for victim in [Victim::Agent, Victim::Hub] {
        rig.wire.hold(Way::ToAgent);
        let job = rig.send(&format!("{victim:?}-delivered").to_lowercase()).await?;
        rig.view_when(&job, "it is delivered", |view| view.delivered).await?;
        victim.crash(&mut rig).await?;
        rig.go(&job.name)?;
        rig.ends(job, End::Ran, 1).await?;
    }

    // At the hub, and the host away.
    taken(&mut rig.stand.agent, "agent")?.kill().await;
    let job = rig.send("hub-undelivered").await?;
    Victim::Hub.crash(&mut rig).await?;
    rig.go(&job.name)?;
    rig.stand.start_agent().await?;
    rig.ends(job, End::Ran, 1).await?;

    // In the warden's hands, who has not looked at it.
    let warden = taken(&mut rig.stand.warden, "warden")?;
    warden.signal(Signal::STOP);
    let job = rig.send("warden-delivered").await?;
    handed_over(&mut rig, &job).await?;
    warden.kill().await;
    rig.stand.start_warden(&[]).await?;
    rig.view_when(&job, "the agent says that it does not know", |view| view.problem.is_some()).await?;
    rig.never_came(job, "It is not known whether the order was carried out").await?;

    // The same, and the agent leaves instead: the order is in the warden's hands all the same.
    let warden = taken(&mut rig.stand.warden, "warden")?;
    warden.signal(Signal::STOP);
    let job = rig.send("agent-handed").await?;
    handed_over(&mut rig, &job).await?;
    taken(&mut rig.stand.agent, "agent")?.kill().await;
    warden.signal(Signal::CONT);
    rig.stand.warden = Some(warden);
    rig.running(&job).await?;
    rig.stand.start_agent().await?;
    rig.go(&job.name)?;
    rig.ends(job, End::Ran, 1).await?;
    rig.finish().await
}

async fn handed_over(rig: &mut Rig, job: &Job) -> Fallible<()> {
    let agent = rig.stand.agent.as_mut().ok_or_else(|| Trouble("there is no agent".into()))?;
    agent.line_with(&format!("order handed to the warden op={}", job.op)).await.map(drop)
}

/// The hub has said that it keeps the result, and the warden has not read that. Whether the agent had come
/// so far as to say it is left open: it may not matter.
#[tokio::test]
async fn a_result_that_was_acknowledged_and_not_forgotten() -> Fallible<()> {
    let mut rig = Rig::new().await?;
    for victim in [Victim::Agent, Victim::Warden] {
        let job = rig.send(&format!("{victim:?}-acknowledged").to_lowercase()).await?;
        rig.running(&job).await?;
        Stage::Stored.reach(&rig, &job).await?;
        let warden = taken(&mut rig.stand.warden, "warden")?;
        warden.signal(Signal::STOP);
        rig.wire.release();
        match victim {
            Victim::Agent => {
                taken(&mut rig.stand.agent, "agent")?.kill().await;
                warden.signal(Signal::CONT);
                rig.stand.warden = Some(warden);
                rig.stand.start_agent().await?;
            }
            _ => {
                warden.kill().await;
                rig.stand.start_warden(&[]).await?;
            }
        }
        rig.ends(job, End::Ran, 1).await?;
    }
    rig.finish().await
}
