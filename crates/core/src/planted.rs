//! Bugs that the simulation must catch: proof that each promise has a test that can fail.
//!
//! Without the feature `planted-bugs` every question is answered with a constant `false`. With it, a bug is planted
//! for the current thread; the simulation runs on one.

/// One way to break one promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// An append is acknowledged before its transaction commits.
    AcknowledgeBeforeCommit,
    /// A message counts as done when it is claimed.
    DoneWhenClaimed,
    /// What is settled but not durable does not count against the prefetch.
    ForgetUnsettled,
    /// A handler's effects commit apart from its done mark.
    EffectsApart,
    /// A panic ends the worker.
    PanicEndsWorker,
    /// A failed message is tried again at once.
    RetryAtOnce,
    /// A sick target makes the whole process unready.
    SickTargetUnready,
    /// A worker that failed for good leaves the process ready.
    FailedWorkerReady,
    /// Parked messages have no limit.
    ParkedUnbounded,
    /// What a drain gives back has an attempt counted.
    DrainCountsAttempts,
    /// An outage does not hold the cursor.
    OutageParks,
    /// The attempts that opened an outage stay counted.
    OutageKeepsAttempts,
    /// A suspect runs beside others, without its row.
    SuspectsRunTogether,
    /// Due messages take as many claims as they get.
    DueWithoutShare,
    /// A commit takes whatever is pending, however large.
    CommitUnbounded,
}

#[cfg(feature = "planted-bugs")]
mod planting {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted on this thread.
    pub fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Plants a bug on this thread until the guard is dropped.
    pub fn plant(bug: Bug) -> Planted {
        PLANTED.set(Some(bug));
        Planted(())
    }

    /// Removes the planted bug when dropped.
    #[derive(Debug)]
    pub struct Planted(());

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}

#[cfg(feature = "planted-bugs")]
pub use planting::{Planted, is_planted, plant};

/// Whether this bug is planted: never, in this build.
#[cfg(not(feature = "planted-bugs"))]
pub const fn is_planted(_bug: Bug) -> bool {
    false
}
