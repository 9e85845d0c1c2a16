//! How many deliveries may be unsettled: a number, or one that follows the handler's time.

use std::time::Duration;

use outboard_core::queue::Prefetch;
use tokio::time::Instant;

/// What an automatic prefetch begins with.
const FIRST: u16 = 32;

/// What is delivered ahead is enough for so long: a round trip to the broker, with room.
const AHEAD: Duration = Duration::from_millis(50);

/// How often it is looked at whether more is needed: changing it interrupts consuming for a round trip.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The prefetch of one consumer.
#[derive(Debug)]
pub(super) struct Bound {
    now: u16,
    /// The most, when it follows.
    max: Option<u16>,
    since: Instant,
    settled: u64,
    most_claimed: u32,
    /// How often in a row less would have been enough.
    calm: u32,
}

impl Bound {
    pub(super) fn new(prefetch: Prefetch) -> Self {
        let within = |most: u32| u16::try_from(most.max(1)).unwrap_or(u16::MAX);
        let (now, max) = match prefetch {
            Prefetch::Fixed(count) => (within(count), None),
            Prefetch::Auto { max } => (FIRST.min(within(max)), Some(within(max))),
        };
        Self { now, max, since: Instant::now(), settled: 0, most_claimed: 0, calm: 0 }
    }

    pub(super) fn now(&self) -> u16 {
        self.now
    }

    /// Whether it follows anything.
    pub(super) fn is_automatic(&self) -> bool {
        self.max.is_some()
    }

    /// Looks at what was claimed and settled (counted from the beginning). The new bound, if it is to be another one.
    ///
    /// Needed is what the handlers hold at once, which is their rate times their time, and what is delivered ahead so
    /// that they need not wait. It grows at once and shrinks after a while, each time to a power of two.
    pub(super) fn look(&mut self, claimed: u32, settled: u64, now: Instant) -> Option<u16> {
        let max = self.max?;
        self.most_claimed = self.most_claimed.max(claimed);
        let elapsed = now.duration_since(self.since);
        if elapsed < LOOK_EVERY {
            return None;
        }
        let rate = settled.saturating_sub(self.settled) as f64 / elapsed.as_secs_f64();
        let ahead = (rate * AHEAD.as_secs_f64()) as u32;
        let needed = (self.most_claimed + ahead + 1).checked_next_power_of_two().unwrap_or(u32::MAX);
        let needed = u16::try_from(needed).unwrap_or(u16::MAX).min(max);
        (self.since, self.settled, self.most_claimed) = (now, settled, claimed);
        self.calm = if u32::from(needed) * 4 <= u32::from(self.now) { self.calm + 1 } else { 0 };
        if needed > self.now || self.calm >= 10 {
            (self.now, self.calm) = (needed, 0);
            return Some(needed);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_handlers_within_its_bound() {
        let mut bound = Bound::new(Prefetch::Auto { max: 1_000 });
        let mut now = Instant::now();
        assert_eq!(bound.now(), FIRST);
        now += LOOK_EVERY;
        // 10,000 a second, 40 at once: 500 are ahead.
        assert_eq!(bound.look(40, 10_000, now), Some(1_000));
        assert_eq!(bound.look(40, 20_000, now), None, "not twice within a second");
        let mut settled = 20_000;
        let mut changes = Vec::new();
        for _ in 0..20 {
            now += LOOK_EVERY;
            // A handler that takes a second, 10 at once.
            settled += 10;
            changes.extend(bound.look(20, settled, now));
        }
        assert_eq!(changes, [32], "what was delivered ahead is left to others, after a while");
        let mut fixed = Bound::new(Prefetch::Fixed(7));
        assert_eq!((fixed.now(), fixed.look(7, 1_000_000, now)), (7, None));
    }
}
