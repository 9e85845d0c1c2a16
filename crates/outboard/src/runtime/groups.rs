//! How many attempts are begun in one task.

use std::time::Duration;

/// At most so many.
const MOST: usize = 256;

/// Groups grow while they take less than this: then what they save is more than what the last of one waits.
const QUICK: Duration = Duration::from_micros(50);

/// Groups that take longer than this become smaller.
const LONG: Duration = Duration::from_micros(100);

/// Who holds the thread for so long would hold up others: each attempt has a task of its own again.
pub(super) const HOLDS_UP: Duration = Duration::from_millis(1);

/// What a group took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    /// How many were begun.
    pub(super) attempts: usize,
    /// Whether the last of them waits for something.
    pub(super) waits: bool,
    /// Whether it ended before all of it were begun.
    pub(super) is_cut: bool,
    /// How long they held the thread.
    pub(super) time: Duration,
}

impl Took {
    /// An attempt in a task of its own.
    pub(super) fn alone(time: Duration) -> Self {
        Self { attempts: 1, waits: false, is_cut: false, time }
    }
}

/// How many attempts are begun in one task: one at first; an eighth more for every group that was quick; one again as
/// soon as a handler waits or takes long.
#[derive(Debug)]
pub(super) struct GroupSize(usize);

impl Default for GroupSize {
    fn default() -> Self {
        Self(1)
    }
}

impl GroupSize {
    pub(super) fn now(&self) -> usize {
        self.0
    }

    /// Learns from a group. One that was smaller than it might have been says nothing of a larger one.
    pub(super) fn saw(&mut self, took: Took) {
        if took.waits || took.time >= HOLDS_UP {
            self.0 = 1;
        } else if took.time > LONG {
            self.0 = (self.0 / 2).max(1);
        } else if took.is_cut {
            // They did as much as a task may do at a time: what is handed back is work done twice.
            self.0 = took.attempts.max(1);
        } else if took.time < QUICK && took.attempts >= self.0 {
            self.0 = (self.0 + (self.0 / 8).max(1)).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(size: usize, waits: bool, time: Duration) -> usize {
        let mut group_size = GroupSize(size);
        group_size.saw(Took { attempts: size, waits, is_cut: false, time });
        group_size.now()
    }

    #[test]
    fn groups_grow_little_by_little_while_they_are_quick() {
        assert_eq!((after(1, false, Duration::ZERO), after(80, false, Duration::ZERO)), (2, 90));
        assert_eq!(after(MOST, false, Duration::ZERO), MOST);
        let mut group_size = GroupSize(5);
        group_size.saw(Took::alone(Duration::ZERO));
        assert_eq!(group_size.now(), 5, "one message says nothing of five");
        group_size = GroupSize(200);
        group_size.saw(Took { attempts: 64, waits: false, is_cut: true, time: Duration::ZERO });
        assert_eq!(group_size.now(), 64, "more do not fit");
    }

    #[test]
    fn what_takes_long_or_waits_runs_alone() {
        assert_eq!(after(20, false, Duration::from_micros(70)), 20);
        assert_eq!(after(20, false, Duration::from_micros(200)), 10);
        assert_eq!(after(1, false, Duration::from_micros(200)), 1);
        assert_eq!(after(20, false, Duration::from_millis(1)), 1);
        assert_eq!(after(20, true, Duration::ZERO), 1);
    }
}
