//! What a host may believe about the time (`security.md` 2.8). Pure.
//!
//! The host's clock alone decides nothing for good: it may stand in 1970 or jump by years. The **floor** is the
//! newest time that somebody trusted ever signed (a policy's `issued_at`, an accepted order's `nbf`); it never
//! comes from the clock or from a hub. One signed time in the far future must not make the host refuse all
//! that comes after, so the floor advances by no more than the time that has passed since it last did, by the
//! kernel's clock that no one sets, and two days.

use serde::{Deserialize, Serialize};

pub mod store;

/// So far may the clock be behind the floor, seconds.
pub const BEHIND_S: u64 = 600;
/// So far may the clock be ahead of the floor, seconds: 400 days.
pub const AHEAD_S: u64 = 400 * 24 * 3_600;
/// So much may one signed time move the floor beyond what has passed, seconds: two days.
pub const STEP_S: u64 = 48 * 3_600;

/// Whether the clock can be used for what needs it: orders without a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As far as can be told it is right.
    Trusted,
    /// It is behind what was signed.
    Behind,
    /// It is far ahead of everything that was ever signed, or the system says that it is not synchronised.
    Suspect,
}

impl State {
    /// Why orders without a plan are refused; none while they are not.
    pub const fn problem(self) -> Option<&'static str> {
        match self {
            Self::Trusted => None,
            Self::Behind => Some(
                "this host's clock is behind times that operators signed, so an order without a plan cannot be judged: set the clock",
            ),
            Self::Suspect => Some(
                "this host's clock is not synchronised, or is over 400 days ahead of everything that operators ever signed, so an order without a plan cannot be judged: check the clock, then sign a policy or a plan-bound order",
            ),
        }
    }
}

/// The signed floor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// Unix seconds.
    at: u64,
    /// Seconds since boot when it last advanced (CLOCK_BOOTTIME).
    since: u64,
    /// Of this boot.
    boot_id: String,
}

impl Floor {
    /// Begins at a signed time. `boottime` is CLOCK_BOOTTIME in seconds.
    pub fn new(signed: u64, boottime: u64, boot_id: &str) -> Self {
        Self { at: signed, since: boottime, boot_id: boot_id.to_owned() }
    }

    /// Unix seconds: it is certainly not earlier than this.
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// Never below this time again: for what is known otherwise, as the expiries that a journal forgot.
    #[must_use]
    pub fn at_least(self, time: u64) -> Self {
        Self { at: self.at.max(time), ..self }
    }

    /// Takes a signed time in. True when the floor moved.
    pub fn advance(&mut self, signed: u64, boottime: u64, boot_id: &str) -> bool {
        // After a reboot nobody knows how long the host was off: only the step is allowed.
        let passed = if boot_id == self.boot_id { boottime.saturating_sub(self.since) } else { 0 };
        let limit = self.at.saturating_add(passed).saturating_add(STEP_S);
        let to = signed.min(limit);
        if to <= self.at {
            return false;
        }
        *self = Self::new(to, boottime, boot_id);
        true
    }

    /// What the host's clock is worth. `synchronised` is what the system says of it; none where it says nothing.
    pub fn judge(&self, now: u64, synchronised: Option<bool>) -> State {
        if now.saturating_add(BEHIND_S) < self.at {
            State::Behind
        } else if now > self.at.saturating_add(AHEAD_S) || synchronised == Some(false) {
            State::Suspect
        } else {
            State::Trusted
        }
    }

    /// The later of floor and clock: for what must not be fooled by a clock that was set back.
    pub fn not_before(&self, now: u64) -> u64 {
        now.max(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: u64 = 1_763_770_000;
    const YEAR: u64 = 365 * 24 * 3_600;

    fn floor() -> Floor {
        Floor::new(F, 1_000, "boot-a")
    }

    /// `security.md` 4.6, what of it the floor decides.
    #[test]
    fn clocks() {
        for (what, now, synchronised, expected) in [
            ("right", F + 60, None, State::Trusted),
            ("right, synchronised", F + 60, Some(true), State::Trusted),
            ("an hour ahead", F + 3_600, None, State::Trusted),
            ("an hour behind", F - 3_600, None, State::Behind),
            ("ten minutes behind", F - BEHIND_S, None, State::Trusted),
            ("a second more", F - BEHIND_S - 1, None, State::Behind),
            ("ten years ahead", F + 10 * YEAR, None, State::Suspect),
            ("ten years behind", F - 10 * YEAR, None, State::Behind),
            ("1970", 0, None, State::Behind),
            ("400 days ahead", F + AHEAD_S, None, State::Trusted),
            ("and a second", F + AHEAD_S + 1, None, State::Suspect),
            ("the end of time", u64::MAX, None, State::Suspect),
            ("not synchronised", F + 60, Some(false), State::Suspect),
            ("behind and not synchronised", F - YEAR, Some(false), State::Behind),
        ] {
            assert_eq!(floor().judge(now, synchronised), expected, "{what}");
            assert_eq!(expected.problem().is_none(), expected == State::Trusted, "{what}");
        }
    }

    #[test]
    fn one_signed_time_in_the_far_future_is_no_poison() {
        let mut floor = floor();
        assert!(floor.advance(F + 100 * YEAR, 1_060, "boot-a"));
        assert_eq!(floor.at(), F + 60 + STEP_S);
        // Again and again: two days each, which is what the limit is worth; but never without a signature.
        assert!(floor.advance(u64::MAX, 1_060, "boot-a"));
        assert_eq!(floor.at(), F + 60 + 2 * STEP_S);
    }

    #[test]
    fn it_never_goes_back_and_knows_boots_apart() {
        let mut floor = floor();
        assert!(!floor.advance(F, 5_000, "boot-a"));
        assert!(!floor.advance(0, 5_000, "boot-a"));
        assert_eq!(floor, self::floor(), "nothing signed, nothing moved");
        // Eight hours asleep count: CLOCK_BOOTTIME runs on.
        assert!(floor.advance(F + YEAR, 1_000 + 8 * 3_600, "boot-a"));
        assert_eq!(floor.at(), F + 8 * 3_600 + STEP_S);
        // Another boot: its boottime says nothing about the time between.
        let mut rebooted = self::floor();
        assert!(rebooted.advance(F + YEAR, 900_000, "boot-b"));
        assert_eq!(rebooted.at(), F + STEP_S);
        // A boottime that goes back is a lie, and worth nothing.
        let mut back = self::floor();
        assert!(back.advance(F + YEAR, 1, "boot-a"));
        assert_eq!(back.at(), F + STEP_S);
        assert_eq!(floor.not_before(7), floor.at());
        assert_eq!(floor.not_before(u64::MAX), u64::MAX);
    }

    #[test]
    fn what_is_stored_is_read_strictly() {
        let stored = serde_json::to_string(&floor()).unwrap();
        assert_eq!(serde_json::from_str::<Floor>(&stored).unwrap(), floor());
        for bad in [
            "{}",
            "null",
            &stored.replace("at", "et"),
            &stored.replace(":1000", ":-1"),
            &stored.replace('}', ",\"x\":1}"),
        ] {
            assert!(serde_json::from_str::<Floor>(bad).is_err(), "{bad}");
        }
    }
}
