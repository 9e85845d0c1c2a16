//! How long a probe may take.

use std::time::Duration;

/// Once patience is due, so many probes at the usual pace come between two that may take as long as any attempt.
pub(super) const QUICK_BETWEEN: u32 = 60;

/// After so many probes in a row that ran out of time (ten and a half minutes, one every 900 ms), patience is due even
/// with a target whose pace is known. Until then it gets at least one probe a second.
pub(super) const LONG: u32 = 700;

/// What a failed attempt or probe did with its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    /// How long it took.
    pub(crate) took: Duration,
    /// Whether it ran out of time.
    pub(crate) is_expired: bool,
}

/// What is known of the time that a probe needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Enough for a target that is as fast as it was, and short enough for one probe a second.
    pub(super) usual: Duration,
    /// The longest time for any attempt.
    pub(super) timeout: Duration,
    /// Whether `usual` comes from the target's successes; else it is a guess.
    pub(super) is_known: bool,
}

/// Tells a slow target from one that hangs, neither of which answers within the usual time.
///
/// A target that was seen to refuse or to fail quickly, and then lets probes run out of time, is probably back and slow:
/// each such probe doubles the next one's time, up to the worker's timeout. So one that needs the time `t` gets a probe
/// that is long enough within `2t` of its return, and is at work within `3t` and one probe's pace.
///
/// A target that had an attempt's whole time and did not answer hangs: doubling would only keep its return from being
/// seen. It gets probes at the usual pace, and one with the whole time after every [`QUICK_BETWEEN`]. Where the usual
/// pace is known from successes there is no need for that before [`LONG`]: a target that is restarted in between closes
/// the connection of the probe that waits, or refuses the next one, and is not one that hangs any more.
#[derive(Debug, Default)]
pub(super) struct Patience {
    hangs: bool,
    /// Probes in a row that ran out of time.
    expired: u32,
    /// Those of them that came after the last one that had the whole time.
    quick: u32,
}

impl Patience {
    /// At the begin of an outage, from the failure that opened it.
    pub(super) fn after(pace: Pace, spent: Spent) -> Self {
        Self { hangs: spent.took > pace.usual, ..Self::default() }
    }

    /// The next probe's time.
    pub(super) fn limit(&self, pace: Pace) -> Duration {
        if !self.hangs {
            return pace.usual.saturating_mul(1 << self.quick.min(20)).min(pace.timeout);
        }
        let is_due = self.quick >= QUICK_BETWEEN && (!pace.is_known || self.expired >= LONG);
        if is_due { pace.timeout } else { pace.usual }
    }

    /// Learns from a probe that failed.
    pub(super) fn failed(&mut self, pace: Pace, spent: Spent) {
        if spent.is_expired && spent.took < pace.timeout {
            self.expired = self.expired.saturating_add(1);
            self.quick = self.quick.saturating_add(1);
        } else if spent.is_expired || spent.took > pace.usual {
            // It had all the time that there is; or its handler gave it up by itself, such as a connection that does
            // not come about.
            *self = Self { hangs: true, expired: self.expired.saturating_add(1), quick: 0 };
        } else {
            *self = Self::default();
        }
    }
}
