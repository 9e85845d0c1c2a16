//! What a worker tells about itself.

use std::sync::atomic::{AtomicU64, Ordering};

use outboard_core::{
    Position, Time,
    consumer::{Flow, Status},
};
use serde::Serialize;

use crate::periodic::PeriodicInfo;

/// At most so many running messages are named in a [`WorkerInfo`].
pub const MAX_RUNNING_SHOWN: usize = 100;

/// A worker at one moment; plain data, made for answers and consoles.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerInfo {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The type patterns that it handles.
    pub types: Vec<String>,
    /// `log`, or the broker and its queue, through the log or not.
    pub source: String,
    /// At most so many attempts at once.
    pub concurrency: u32,
    /// What it is doing.
    pub state: WorkerState,
    /// What runs now, at most [`MAX_RUNNING_SHOWN`], by position.
    pub running: Vec<Position>,
    /// Where its consumer stands.
    pub consumer: ConsumerInfo,
    /// What it has done since it was started.
    pub counters: Counters,
    /// Its periodic work.
    pub periodic: Vec<PeriodicInfo>,
}

/// What a worker is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum WorkerState {
    /// It takes messages.
    Running,
    /// It takes none until it is resumed.
    Paused {
        /// Why.
        reason: String,
    },
    /// Its target is sick: it takes only probes.
    Outage {
        /// Since when.
        since: Time,
        /// What the failure that opened it said.
        reason: String,
        /// How many probes there were.
        probes: u64,
    },
    /// It takes nothing new and waits for what runs.
    Draining,
    /// It was drained.
    Stopped,
    /// Its consumer will not work again in this process.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Where a worker's consumer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsumerInfo {
    /// The holder's epoch.
    pub epoch: u64,
    /// Everything up to here is done, on the log; 0 on a queue.
    pub low: Position,
    /// Claimed and not durably settled.
    pub unsettled: u32,
    /// At most so many of them; `None` while it delivers nothing.
    pub prefetch: Option<u32>,
    /// Parked messages.
    pub parked: u64,
    /// Suspects that still have to run alone.
    pub suspects: u32,
    /// When it last delivered or committed something.
    pub last_progress: Time,
    /// How often the wall clock was seen to jump: it was set, or the machine was suspended.
    pub clock_jumps: u64,
    /// Whether its broker is there, or the log takes what it commits. Says nothing of a pause.
    pub is_ready: bool,
    /// Why it does not deliver, if something is wrong.
    pub error: Option<String>,
}

impl From<Status> for ConsumerInfo {
    fn from(status: Status) -> Self {
        Self {
            epoch: status.epoch,
            low: status.low,
            unsettled: status.unsettled,
            prefetch: match status.flow {
                Flow::Paused => None,
                Flow::Running { prefetch } => Some(prefetch),
            },
            parked: status.parked,
            suspects: status.suspects,
            last_progress: status.last_progress,
            clock_jumps: status.clock_jumps,
            is_ready: status.health.is_ready(),
            error: status.health.error().map(ToString::to_string),
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a worker has done since it was started.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        /// [`Counters`] that grow.
        #[derive(Debug, Default)]
        pub(super) struct Tally { $(pub(super) $name: AtomicU64,)* }

        impl Tally {
            pub(super) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Messages handled.
    handled,
    /// Attempts that failed, by whatever cause; probes included.
    failed,
    /// Failures after which another attempt was planned and counted.
    retried,
    /// Messages given up as dead letters.
    dead,
    /// Messages given up on purpose.
    cancelled,
    /// Messages put off by their handler.
    snoozed,
    /// Failed attempts that panicked.
    panicked,
    /// Failed attempts that took too long.
    timed_out,
    /// Messages given back uncounted.
    returned,
    /// Outages that began.
    outages,
    /// Probes made.
    probes,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The positions of the first slots' messages, readable from anywhere. 0 stands for none.
#[derive(Debug)]
pub(super) struct RunningPositions(Box<[AtomicU64]>);

impl RunningPositions {
    pub(super) fn new(slots: usize) -> Self {
        Self((0..slots.min(MAX_RUNNING_SHOWN)).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn set(&self, slot: usize, position: Position) {
        if let Some(shown) = self.0.get(slot) {
            shown.store(position.0, Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&self, slot: usize) {
        self.set(slot, Position::START);
    }

    pub(super) fn read(&self) -> Vec<Position> {
        let mut positions: Vec<_> = self
            .0
            .iter()
            .map(|shown| Position(shown.load(Ordering::Relaxed)))
            .filter(|at| at.0 > 0)
            .collect();
        positions.sort();
        positions
    }
}
