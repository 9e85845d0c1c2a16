//! Whether the wall clock was set: it is held against the monotonic one at every look.

use std::time::Duration;

use tokio::time::Instant;

use crate::time::Time;

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

    /// Looks at both clocks. Whether the wall clock has jumped since the last look, in either direction.
    pub(super) fn look(&mut self, wall: Time, steady: Instant) -> bool {
        let passed = steady.saturating_duration_since(self.steady);
        let expected = self.wall + passed;
        let apart = wall.since(expected).max(expected.since(wall));
        (self.wall, self.steady) = (wall, steady);
        let has_jumped = apart > TOLERANCE + passed / SLEW;
        self.count += u64::from(has_jumped);
        has_jumped
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
        assert!(jumps.look(NOON + HOUR, start + Duration::from_secs(30)), "forward");
        assert!(
            !jumps.look(NOON + HOUR + HOUR, start + Duration::from_secs(30) + HOUR),
            "it goes on from there"
        );
        assert!(jumps.look(NOON, start + Duration::from_secs(31) + HOUR), "back");
        assert_eq!(jumps.count(), 2);
    }

    #[test]
    fn a_slow_look_and_a_clock_that_is_put_right_slowly_are_no_jumps() {
        let start = Instant::now();
        let mut jumps = Jumps::new(NOON, start);
        assert!(!jumps.look(NOON + Duration::from_millis(900), start));
        assert!(!jumps.look(NOON + HOUR * 24 + Duration::from_secs(40), start + HOUR * 24));
        assert_eq!(jumps.count(), 0);
    }
}
