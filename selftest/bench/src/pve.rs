//! A simulated Proxmox VE in this process, and the client that the host's programs use.

pub(crate) mod collect;
pub(crate) mod wait;

use std::time::Duration;

use proxmox_client::{Client, PinSet};
use pve_sim::{Sim, SimConfig};

use crate::Fallible;

/// The simulator, and a client with its acting token.
struct Pve {
    sim: Sim,
    client: Client,
}

impl Pve {
    async fn start(change: impl FnOnce(&mut SimConfig)) -> Fallible<Self> {
        let mut config = SimConfig::demo();
        change(&mut config);
        let sim = Sim::start(config).await?;
        let pins = PinSet::new(vec![format!("spki:{}", sim.pins().spki).parse()?])?;
        let client = Client::new(sim.url().parse()?, pins, sim.tokens().1.parse()?)?;
        Ok(Self { sim, client })
    }

    /// How many requests were seen whose path holds this.
    fn calls(&self, part: &str) -> usize {
        self.sim.requests().iter().filter(|line| line.path.contains(part)).count()
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
