//! Whether the wall clock jumped: it is held against the monotonic one at every look.
//!
//! It was set then, or the machine was suspended: the monotonic clock stands still meanwhile. The two look the same.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::{ledger::WorkerName, time::Time};

/// Less than this is no jump: the two clocks are read one after the other, and a thread may be held up in between.
const TOLERANCE: Duration = Duration::from_secs(1);

/// A clock that is put right slowly gains or loses less than this part of the time that passes.
const SLEW: u32 = 1_000;

/// Both clocks when they were last looked at, and how often they had parted.
#[derive(Debug)]
pub(super) struct Jumps {
    wall: Time,
    steady: Instant,
    count: u64,
}

impl Jumps {
    /// None yet.
    pub(super) fn new(wall: Time, steady: Instant) -> Self {
        Self { wall, steady, count: 0 }
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Looks at both clocks. How the wall clock has jumped since the last look, if it has.
    pub(super) fn look(&mut self, wall: Time, steady: Instant) -> Option<Jump> {
        let passed = steady.saturating_duration_since(self.steady);
        let expected = self.wall + passed;
        let jump = Jump { forward: wall.since(expected), back: expected.since(wall) };
        (self.wall, self.steady) = (wall, steady);
        let has_jumped = jump.forward.max(jump.back) > TOLERANCE + passed / SLEW;
        self.count += u64::from(has_jumped);
        has_jumped.then_some(jump)
    }

    /// Looks, and tells the log of a jump.
    pub(super) fn look_and_tell(&mut self, worker: &WorkerName, wall: Time, steady: Instant) {
        if let Some(jump) = self.look(wall, steady) {
            tracing::warn!(
                %worker,
                "the wall clock jumped by {jump} (it was set, or the machine was suspended); \
                 due times go by the new time"
            );
        }
    }
}

/// How far the wall clock went in no time; one of the two is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Jump {
    forward: Duration,
    back: Duration,
}

/// `+3600.0 s`, `-90.0 s`.
impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, size) = if self.forward > self.back { ('+', self.forward) } else { ('-', self.back) };
        write!(f, "{sign}{:.1} s", size.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const NOON: Time = Time::from_millis(1_800_000_000_000);

    #[test]
    fn a_clock_that_is_set_is_counted_once_in_either_direction() {
        let start = Instant::now();
        let mut jumps = Jumps::new(NOON, start);
        let mut told = |wall, after| jumps.look(wall, start + after).map(|jump| jump.to_string());
        let half_a_minute = Duration::from_secs(30);
        assert_eq!(told(NOON + HOUR, half_a_minute).as_deref(), Some("+3570.0 s"));
        assert_eq!(told(NOON + HOUR + HOUR, half_a_minute + HOUR), None, "it goes on from there");
        assert_eq!(told(NOON, half_a_minute + HOUR).as_deref(), Some("-7200.0 s"));
        assert_eq!(jumps.count(), 2);
    }

    #[test]
    fn a_slow_look_and_a_clock_that_is_put_right_slowly_are_no_jumps() {
        let start = Instant::now();
        let mut jumps = Jumps::new(NOON, start);
        assert_eq!(jumps.look(NOON + Duration::from_millis(900), start), None);
        assert_eq!(jumps.look(NOON + HOUR * 24 + Duration::from_secs(40), start + HOUR * 24), None);
        assert_eq!(jumps.count(), 0);
    }
}
