//! Periodic work of a worker.

mod slots;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use outboard_core::{Clock, lease::Leases, ledger::WorkerName};
use serde::Serialize;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::slots::Slots;
use crate::{handler::BoxFuture, runtime::verdict::panic_text};

/// What periodic work calls.
pub type PeriodicWork = Arc<dyn Fn() -> BoxFuture<Result<(), String>> + Send + Sync>;

/// Work that a worker does again and again, with or without messages.
///
/// It first runs after one interval and never overlaps itself: what a long run misses is skipped. An error or a panic
/// is logged and counted, and the next interval runs it again. It rests while the worker is paused or stopping.
///
/// With leases ([`WorkersOptions::leases`](crate::WorkersOptions::leases)) this holds over all processes that share the
/// store: time is cut into slots of one interval by the wall clock, each slot is one tick, and each tick is run by one
/// process, at most once. It is taken in the store before it runs: whoever is killed in between has lost it, and the next
/// tick is run by somebody else. A tick that nobody took at its beginning, for nobody was there, runs late within its
/// slot. No tick runs beside another: a run is cancelled at its next `.await` when its lease is lost, and one that was
/// killed holds up the next for as long as a lease lasts.
///
/// ```
/// use std::time::Duration;
/// use outboard::periodic::Periodic;
/// let sweep = Periodic::new("sweep", Duration::from_secs(60), || async { Ok(()) });
/// assert_eq!(&*sweep.name, "sweep");
/// ```
#[derive(Clone)]
pub struct Periodic {
    /// What it is called, in logs and in the worker's info.
    pub name: Arc<str>,
    /// From one start to the next; more than zero.
    pub every: Duration,
    /// The work; an error is one sentence for people.
    pub work: PeriodicWork,
}

impl Periodic {
    /// Work to be done `every` so often.
    pub fn new<F>(
        name: impl Into<Arc<str>>,
        every: Duration,
        work: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name: name.into(), every, work: Arc::new(move || Box::pin(work())) }
    }
}

impl fmt::Debug for Periodic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Periodic")
            .field("name", &self.name)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

/// How a worker's periodic work goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeriodicInfo {
    /// What it is called.
    pub name: String,
    /// From one start to the next, in milliseconds.
    pub every_ms: u64,
    /// How often it ran, failures included.
    pub runs: u64,
    /// How often it failed or panicked.
    pub failures: u64,
    /// Whether it runs now.
    pub is_running: bool,
    /// What the last failure said.
    pub last_error: Option<String>,
}

/// The counters of one piece of periodic work.
struct Tally {
    runs: AtomicU64,
    failures: AtomicU64,
    is_running: AtomicBool,
    last_error: Mutex<Option<String>>,
}

/// Periodic work that has been started. Dropping it aborts it.
pub(crate) struct PeriodicTask {
    periodic: Periodic,
    tally: Arc<Tally>,
    task: JoinHandle<()>,
}

impl PeriodicTask {
    /// Starts it; it ends when `stop` is cancelled, after the run that is under way. `rests` says whether a run is
    /// to be left out.
    pub(crate) fn start(
        worker: WorkerName,
        periodic: Periodic,
        stop: CancellationToken,
        sharing: (Option<Leases>, Arc<dyn Clock>),
        rests: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let tally = Arc::new(Tally {
            runs: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_running: AtomicBool::new(false),
            last_error: Mutex::new(None),
        });
        let rests = Box::new(rests);
        let job = Job { worker, periodic: periodic.clone(), tally: tally.clone(), stop, rests };
        let task = match sharing {
            (None, _) => tokio::spawn(job.repeat()),
            (Some(leases), clock) => tokio::spawn(Slots::new(leases, clock, &job).repeat(job)),
        };
        Self { periodic, tally, task }
    }

    pub(crate) fn info(&self) -> PeriodicInfo {
        PeriodicInfo {
            name: self.periodic.name.to_string(),
            every_ms: u64::try_from(self.periodic.every.as_millis()).unwrap_or(u64::MAX),
            runs: self.tally.runs.load(Ordering::Relaxed),
            failures: self.tally.failures.load(Ordering::Relaxed),
            is_running: self.tally.is_running.load(Ordering::Relaxed),
            last_error: self.tally.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Waits for the end of a stopped one, at the latest until the deadline.
    pub(crate) async fn finish(&mut self, deadline: Instant) {
        if tokio::time::timeout_at(deadline, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for PeriodicTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is repeated.
struct Job {
    worker: WorkerName,
    periodic: Periodic,
    tally: Arc<Tally>,
    stop: CancellationToken,
    rests: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Job {
    /// Repeats it in this process, whatever others do.
    async fn repeat(self) {
        let every = self.periodic.every;
        let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if !(self.rests)() {
                self.run(std::future::pending()).await;
            }
        }
    }

    /// Runs it once; it is cancelled when `lost` returns.
    async fn run(&self, lost: impl Future<Output = ()>) {
        let Self { worker, periodic, tally, .. } = self;
        tally.is_running.store(true, Ordering::Relaxed);
        let work = AssertUnwindSafe(async { (periodic.work)().await }).catch_unwind();
        let run = tokio::select! {
            run = work => run,
            () = lost => Ok(Err("cancelled: its lease was lost, another process may run it".to_owned())),
        };
        tally.is_running.store(false, Ordering::Relaxed);
        tally.runs.fetch_add(1, Ordering::Relaxed);
        let error = match run {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(payload) => format!("panicked: {}", panic_text(&*payload)),
        };
        tracing::warn!(%worker, periodic = %periodic.name, %error, "periodic work failed");
        tally.failures.fetch_add(1, Ordering::Relaxed);
        self.note(error);
    }

    fn note(&self, error: String) {
        *self.tally.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}
