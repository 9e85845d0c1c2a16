//! How many deliveries may be unsettled: a number, or one that follows the handler's time.

use std::time::Duration;

use outboard_core::queue::Prefetch;
use tokio::time::Instant;

/// What an automatic prefetch begins with at most; less when less is asked for.
const FIRST: u16 = 32;

/// What is delivered ahead is enough for so long: a round trip to the broker, with room.
const AHEAD: Duration = Duration::from_millis(50);

/// How often it is looked at whether more is needed: changing it interrupts consuming for a round trip.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The prefetch of one consumer.
#[derive(Debug)]
pub(super) struct Bound {
    now: u16,
    most: u16,
    /// Whether it follows the handlers.
    is_automatic: bool,
    has_begun: bool,
    /// A message that was delivered ahead waits between once and twice this time before it is given back.
    patience: Duration,
    /// Since something was given back because it had waited too long: nothing is delivered ahead.
    narrow: Option<Narrow>,
    since: Instant,
    settled: u64,
    most_claimed: u32,
    /// How often in a row less would have been enough.
    calm: u32,
}

/// From when on it is measured whether the handlers are quick enough for something to be delivered ahead.
#[derive(Debug, Clone, Copy)]
struct Narrow {
    since: Instant,
    settled: u64,
}

/// How often it is looked for what waits, with a broker that lets a delivery be unsettled for `ack_timeout` and a handler
/// that keeps it for `hold`: what waits twice as long can still be handled in time, or at least half of that time is left.
/// Not too often, however long the handler takes: quorum queues count what is given back.
pub(super) fn patience(ack_timeout: Duration, hold: Duration) -> Duration {
    (ack_timeout.saturating_sub(hold) / 2).clamp(ack_timeout / 40, ack_timeout / 4)
}

fn within(most: u32) -> u16 {
    u16::try_from(most.max(1)).unwrap_or(u16::MAX)
}

impl Bound {
    pub(super) fn new(prefetch: Prefetch, patience: Duration) -> Self {
        let (now, most, is_automatic) = match prefetch {
            Prefetch::Fixed(count) => (within(count), within(count), false),
            Prefetch::Auto { max } => (FIRST.min(within(max)), within(max), true),
        };
        let (since, settled, most_claimed, calm) = (Instant::now(), 0, 0, 0);
        let (has_begun, narrow) = (false, None);
        Self { now, most, is_automatic, has_begun, patience, narrow, since, settled, most_claimed, calm }
    }

    pub(super) fn now(&self) -> u16 {
        self.now
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// For a new channel, when so many messages are asked for, which is twice what is handled at once.
    pub(super) fn begin(&mut self, asked: u32) -> u16 {
        if !std::mem::replace(&mut self.has_begun, true) && self.is_automatic && asked > 0 {
            self.now = self.now.min(within(asked));
        }
        self.now
    }

    /// Whether it follows anything.
    pub(super) fn is_following(&self) -> bool {
        self.is_automatic || self.narrow.is_some()
    }

    /// Whether nothing is delivered ahead.
    pub(super) fn is_narrow(&self) -> bool {
        self.narrow.is_some()
    }

    /// What was delivered ahead has waited too long: from now on only what is [asked for](Self::demand) is delivered, until
    /// the handlers have been quick enough for a while.
    pub(super) fn narrow(&mut self, settled: u64, now: Instant) {
        self.narrow = Some(Narrow { since: now, settled });
        self.now = 1;
    }

    /// So many are claimed and asked for. The new bound, if nothing is delivered ahead and more is needed.
    pub(super) fn demand(&mut self, wanted: u32) -> Option<u16> {
        let wanted = within(wanted).min(self.most);
        (self.narrow.is_some() && wanted > self.now).then(|| {
            self.now = wanted;
            wanted
        })
    }

    /// Whether all that would be delivered ahead could be begun in time, as the handlers were of late.
    fn widen(&mut self, narrow: Narrow, settled: u64, now: Instant) -> Option<u16> {
        let elapsed = now.duration_since(narrow.since);
        if elapsed < self.patience {
            return None;
        }
        let begun = settled.saturating_sub(narrow.settled) as f64 / elapsed.as_secs_f64()
            * self.patience.as_secs_f64();
        let next = if self.is_automatic { self.now.saturating_mul(2).min(self.most) } else { self.most };
        self.narrow = Some(Narrow { since: now, settled });
        if begun < f64::from(next) {
            return None;
        }
        (self.narrow, self.now) = (None, next);
        (self.since, self.settled, self.most_claimed) = (now, settled, 0);
        Some(next)
    }

    /// Looks at what was claimed and settled (counted from the beginning). The new bound, if it is to be another one.
    ///
    /// Needed is what the handlers hold at once, which is their rate times their time, and what is delivered ahead so
    /// that they need not wait. It grows at once and shrinks after a while, each time to a power of two.
    pub(super) fn look(&mut self, claimed: u32, settled: u64, now: Instant) -> Option<u16> {
        if let Some(narrow) = self.narrow {
            return self.widen(narrow, settled, now);
        }
        if !self.is_automatic {
            return None;
        }
        self.most_claimed = self.most_claimed.max(claimed);
        let elapsed = now.duration_since(self.since);
        if elapsed < LOOK_EVERY {
            return None;
        }
        let rate = settled.saturating_sub(self.settled) as f64 / elapsed.as_secs_f64();
        let ahead = (rate * AHEAD.as_secs_f64()) as u32;
        let needed = (self.most_claimed + ahead + 1).checked_next_power_of_two().unwrap_or(u32::MAX);
        let needed = u16::try_from(needed).unwrap_or(u16::MAX).min(self.most);
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

    const PATIENCE: Duration = Duration::from_secs(100);

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_handlers_within_its_bound() {
        let mut bound = Bound::new(Prefetch::Auto { max: 1_000 }, PATIENCE);
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
        let mut fixed = Bound::new(Prefetch::Fixed(7), PATIENCE);
        assert_eq!((fixed.now(), fixed.look(7, 1_000_000, now)), (7, None));
    }

    #[tokio::test(start_paused = true)]
    async fn it_begins_with_what_is_asked_for() {
        let begin = |prefetch, asked| Bound::new(prefetch, PATIENCE).begin(asked);
        let auto = Prefetch::Auto { max: 1_000 };
        assert_eq!([begin(auto, 4), begin(auto, 400), begin(auto, 0)], [4, FIRST, FIRST]);
        assert_eq!((begin(Prefetch::Fixed(50), 4), begin(Prefetch::Auto { max: 3 }, 4)), (50, 3));
        let mut bound = Bound::new(auto, PATIENCE);
        assert_eq!(
            (bound.begin(4), bound.begin(2)),
            (4, 4),
            "the next channel goes on as the last one ended"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn slow_handlers_get_what_they_ask_for_until_they_have_been_quick_for_a_while() {
        let mut now = Instant::now();
        let mut bound = Bound::new(Prefetch::Fixed(50), PATIENCE);
        assert_eq!(bound.demand(60), None, "there is enough");
        bound.narrow(0, now);
        assert_eq!(
            [bound.demand(4), bound.demand(3), bound.demand(6), bound.demand(60)],
            [Some(4), None, Some(6), Some(50)]
        );
        now += PATIENCE / 2;
        assert_eq!(bound.look(6, 1_000, now), None, "a burst may be an exception");
        now += PATIENCE;
        assert_eq!(bound.look(6, 60, now), None, "40 in that time, and 50 would wait");
        now += PATIENCE;
        assert_eq!((bound.look(6, 110, now), bound.is_following()), (Some(50), false));
        let mut bound = Bound::new(Prefetch::Auto { max: 1_000 }, PATIENCE);
        bound.narrow(0, now);
        bound.demand(8);
        now += PATIENCE;
        assert_eq!(bound.look(8, 16, now), Some(16));
    }

    #[test]
    fn what_waits_can_still_be_handled_in_time() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert_eq!(patience(minutes(30), minutes(1)), minutes(15) / 2);
        assert_eq!(patience(minutes(30), minutes(20)), minutes(5));
        assert_eq!(patience(minutes(30), minutes(30)), Duration::from_secs(45), "and never in a hot loop");
    }
}
