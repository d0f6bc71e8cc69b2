//! How long to wait before connecting again: doubling from one second to a minute, jittered so
//! that a thousand agents do not return to a restarted hub in the same second.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

/// Waiting times between attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The next wait: between half and all of the step, placed by `random`; never less than what
    /// the hub asked for (`at_least`).
    pub fn wait(&mut self, random: u32, at_least: Duration) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LAST);
        let half = step / 2;
        let jittered = half + half.mul_f64(f64::from(random) / f64::from(u32::MAX));
        jittered.max(at_least)
    }

    /// The hub took us: the next trouble starts small again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute_and_obey_the_hub() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> =
            (0..8).map(|_| backoff.wait(u32::MAX, Duration::ZERO).as_secs_f64().round() as u64).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.wait(0, Duration::ZERO), Duration::from_secs(30));
        assert_eq!(backoff.wait(0, Duration::from_secs(300)), Duration::from_secs(300));
        backoff.reset();
        assert!(backoff.wait(u32::MAX / 2, Duration::ZERO) <= Duration::from_secs(1));
    }
}
