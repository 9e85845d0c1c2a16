//! Named points at which a crash can be simulated.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use crate::error::{Kind, PortError};

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A place between a message's claim and the commit of what its handler did.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Point { $($(#[$doc])* $name,)* }

        impl Point {
            /// Every point, in the order in which a message passes them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name, as it is printed.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

points! {
    /// An append's rows are written, its transaction is open.
    AppendWritten = "append.written",
    /// An append's transaction is durable, nobody knows it yet.
    AppendCommitted = "append.committed",
    /// A suspect's running row is about to be committed.
    SuspectRow = "consumer.suspect-row",
    /// A delivery is claimed, its handler has not begun.
    Claimed = "consumer.claimed",
    /// The handler is about to be called.
    HandlerBegins = "runtime.handler-begins",
    /// The handler has returned, its outcome is not settled.
    HandlerEnds = "runtime.handler-ends",
    /// The outcome is settled in memory.
    Settled = "consumer.settled",
    /// The settlements are built into units.
    UnitsBuilt = "consumer.units-built",
    /// The units' transaction is open, nothing is written.
    CommitBegun = "ledger.commit-begun",
    /// One unit is written.
    UnitWritten = "ledger.unit-written",
    /// The cursors are written, the transaction is open.
    CursorsWritten = "ledger.cursors-written",
    /// The units' transaction is durable, nobody knows it yet.
    Committed = "ledger.committed",
    /// The consumer has seen the commit.
    Acknowledged = "consumer.acknowledged",
}

/// Counts the points that are reached, and brings the process down at one of them. Free when it is not used.
///
/// ```
/// use outboard_core::fault::{Faults, Point};
/// let faults = Faults::crash_at(Point::Committed, 2);
/// assert!(faults.reach(Point::Committed).is_ok());
/// assert!(faults.reach(Point::Committed).is_err());
/// assert!(faults.reach(Point::Claimed).is_err(), "nothing happens after the crash");
/// ```
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Inner>>);

struct Inner {
    hits: Vec<AtomicU64>,
    crash: Option<(Point, u64)>,
    down: AtomicBool,
    crashed: watch::Sender<bool>,
}

impl Faults {
    /// No fault, nothing counted: production.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Counts the points and crashes only when told to.
    pub fn counting() -> Self {
        Self::with(None)
    }

    /// Crashes when `point` is reached for the `nth` time, from 1.
    pub fn crash_at(point: Point, nth: u64) -> Self {
        Self::with(Some((point, nth)))
    }

    fn with(crash: Option<(Point, u64)>) -> Self {
        let hits = Point::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        let crashed = watch::Sender::new(false);
        Self(Some(Arc::new(Inner { hits, crash, down: AtomicBool::new(false), crashed })))
    }

    /// Passes a point: an error means that the process is down, and that nothing may be done any more.
    pub fn reach(&self, point: Point) -> Result<(), PortError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let hits = inner.hits[point as usize].fetch_add(1, Ordering::SeqCst) + 1;
        if inner.crash == Some((point, hits)) {
            self.crash();
        }
        if self.is_down() {
            Err(PortError::new(Kind::Closed, "the simulated process is down"))
        } else {
            Ok(())
        }
    }

    /// Brings the process down now.
    pub fn crash(&self) {
        if let Some(inner) = &self.0 {
            inner.down.store(true, Ordering::SeqCst);
            inner.crashed.send_replace(true);
        }
    }

    /// Whether the process is down.
    pub fn is_down(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.down.load(Ordering::SeqCst))
    }

    /// Returns once the process is down; never without faults.
    pub async fn crashed(&self) {
        match &self.0 {
            Some(inner) => {
                // The sender lives in `inner`, so this ends with the crash only.
                let _ = inner.crashed.subscribe().wait_for(|down| *down).await;
            }
            None => std::future::pending().await,
        }
    }

    /// How often each point was reached.
    pub fn hits(&self) -> Vec<(Point, u64)> {
        let Some(inner) = &self.0 else { return Vec::new() };
        Point::ALL.iter().map(|&point| (point, inner.hits[point as usize].load(Ordering::SeqCst))).collect()
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("down", &self.is_down()).finish_non_exhaustive()
    }
}
