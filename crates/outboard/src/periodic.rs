//! Periodic work of a worker.

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
use outboard_core::ledger::WorkerName;
use serde::Serialize;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{handler::BoxFuture, runtime::verdict::panic_text};

/// What periodic work calls.
pub type PeriodicWork = Arc<dyn Fn() -> BoxFuture<Result<(), String>> + Send + Sync>;

/// Work that a worker does again and again, with or without messages.
///
/// It first runs after one interval and never overlaps itself: what a long run misses is skipped. An error or a panic
/// is logged and counted, and the next interval runs it again. It rests while the worker is paused or stopping.
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
        rests: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let tally = Arc::new(Tally {
            runs: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_running: AtomicBool::new(false),
            last_error: Mutex::new(None),
        });
        let task = tokio::spawn(repeat(worker, periodic.clone(), tally.clone(), stop, rests));
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

async fn repeat(
    worker: WorkerName,
    periodic: Periodic,
    tally: Arc<Tally>,
    stop: CancellationToken,
    rests: impl Fn() -> bool + Send,
) {
    let mut ticks = tokio::time::interval_at(Instant::now() + periodic.every, periodic.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if rests() {
            continue;
        }
        tally.is_running.store(true, Ordering::Relaxed);
        let run = AssertUnwindSafe(async { (periodic.work)().await }).catch_unwind().await;
        tally.is_running.store(false, Ordering::Relaxed);
        tally.runs.fetch_add(1, Ordering::Relaxed);
        let error = match run {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(payload) => format!("panicked: {}", panic_text(&*payload)),
        };
        tracing::warn!(%worker, periodic = %periodic.name, %error, "periodic work failed");
        tally.failures.fetch_add(1, Ordering::Relaxed);
        *tally.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}
