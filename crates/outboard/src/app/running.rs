//! An app that runs.

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Clock, Kind, Ledger, Log, PortError, Time,
    lease::{Lease, Leases},
    log::Limit,
};
use outboard_embedded::Embedded;
use serde::de::DeserializeOwned;
use tokio::{sync::Mutex, time::Instant};

use super::AppError;
use crate::{
    context::{NO_LOCKS, lock_name},
    executor::Executor,
    runtime::{WorkerHandle, WorkerState},
    source::Source,
    workers::Workers,
};

/// How often [`Running::idle`] looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// An app that was started. Dropping it stops it as a crash would; [`Running::shutdown`] stops it properly.
pub struct Running {
    log: Arc<dyn Log>,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    executor: Executor,
    workers: Workers,
    drain: Duration,
    leases: Option<Leases>,
    /// Taken by the first shutdown; the second waits for it.
    store: Mutex<Option<Embedded>>,
}

impl Running {
    pub(super) fn new(
        (log, ledger): (Arc<dyn Log>, Arc<dyn Ledger>),
        clock: Arc<dyn Clock>,
        (store, leases): (Option<Embedded>, Option<Leases>),
        executor: Executor,
        workers: Workers,
        drain: Duration,
    ) -> Self {
        Self { log, ledger, clock, executor, workers, drain, leases, store: Mutex::new(store) }
    }

    /// Takes commands.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The workers: to look at, to pause, to start more.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The log.
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    /// Cursors, parked messages, dead letters and durable keys.
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.ledger
    }

    /// The lock that handlers get by [`Context::lock`](crate::Context::lock). Waits until nobody else has it. Errors: the
    /// store's, and `Unsupported` for an app without one.
    pub async fn lock(&self, name: &str) -> Result<Lease, PortError> {
        let no_locks = || PortError::new(Kind::Unsupported, NO_LOCKS);
        self.leases.as_ref().ok_or_else(no_locks)?.wait(&lock_name(name)).await
    }

    /// A durable key of a worker, as last committed. Errors: the storage's, and `Invalid` when the value is of
    /// another type.
    pub async fn key<T: DeserializeOwned>(&self, worker: &str, key: &str) -> Result<Option<T>, PortError> {
        let found = self.ledger.keys(worker.into(), vec![key.into()]).await?;
        let Some(json) = found.into_iter().next().and_then(|versioned| versioned.value) else {
            return Ok(None);
        };
        let wrong =
            |error| PortError::new(Kind::Invalid, format!("the key `{key}` is of another type: {error}"));
        serde_json::from_slice(&json).map(Some).map_err(wrong)
    }

    /// Returns when there is nothing left to do now: every worker is done with everything up to the log's tip, and
    /// nothing parked is due. What waits for a later time is left waiting; paused workers are left out. For tests.
    ///
    /// Errors: a worker or the storage has failed.
    pub async fn idle(&self) -> Result<(), PortError> {
        while !self.is_idle().await? {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// As [`Running::idle`], and nothing waits for a later time either: retries, snoozes and schedules come to their
    /// end first. With paused time that takes none. For tests.
    pub async fn finished(&self) -> Result<(), PortError> {
        loop {
            self.idle().await?;
            let Some(due) = self.next_due().await? else { return Ok(()) };
            // A wall clock that is behind tokio's is looked at again soon.
            tokio::time::sleep(due.since(self.clock.now()).max(LOOK_AGAIN)).await;
        }
    }

    /// When the first parked message of a worker that is not paused is due.
    async fn next_due(&self) -> Result<Option<Time>, PortError> {
        let mut first = None;
        for worker in self.workers.handles() {
            if rests(&worker.state()) {
                continue;
            }
            let page = self.ledger.due(worker.name().clone(), Time::MAX, 1).await?;
            let due = page.rows.first().map(|row| row.due);
            first = [first, due].into_iter().flatten().min();
        }
        Ok(first)
    }

    async fn is_idle(&self) -> Result<bool, PortError> {
        let tip = self.log.tip();
        let before = *tip.borrow();
        for handle in self.workers.handles() {
            if !self.has_nothing_to_do(&handle).await? {
                return Ok(false);
            }
        }
        // A worker that was looked at first may have got something from one that was looked at later.
        Ok(*tip.borrow() == before)
    }

    async fn has_nothing_to_do(&self, worker: &WorkerHandle) -> Result<bool, PortError> {
        if let Some(error) = worker.failure() {
            return Err(error);
        }
        let info = worker.info();
        if rests(&info.state) {
            return Ok(true);
        }
        if info.consumer.unsettled > 0 || info.consumer.suspects > 0 {
            return Ok(false);
        }
        if !self.ledger.due(worker.name().clone(), self.clock.now(), 1).await?.rows.is_empty() {
            return Ok(false);
        }
        if let Source::Queue(source) = worker.source() {
            let stats = source.queue().stats(source.queue_name().clone()).await?;
            return Ok(stats.ready.unwrap_or(0) == 0 && stats.unsettled.unwrap_or(0) == 0);
        }
        // Messages of other types are passed at leisure; only the worker's own ones are work.
        let mut after = info.consumer.low;
        loop {
            let page = self.log.read(after, worker.types().clone(), Limit::messages(1)).await?;
            if !page.messages.is_empty() {
                return Ok(false);
            }
            if page.next <= after {
                return Ok(true);
            }
            after = page.next;
        }
    }

    /// Stops: nothing new begins, what runs may finish within the drain time, the rest is given back uncounted, and
    /// the data directory is closed. Calling it again changes nothing.
    pub async fn shutdown(&self) -> Result<(), AppError> {
        let mut store = self.store.lock().await;
        let drained = self.workers.drain(Instant::now() + self.drain).await;
        if let Some(store) = store.take() {
            store.close().await;
        }
        for (_, result) in drained {
            result?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// Whether a worker takes nothing whatever there is.
fn rests(state: &WorkerState) -> bool {
    matches!(state, WorkerState::Paused { .. } | WorkerState::Draining | WorkerState::Stopped)
}

/// Returns on ctrl-c, or on SIGTERM where there is such a thing.
pub(super) async fn asked_to_stop() -> Result<(), PortError> {
    let deaf = |error: std::io::Error| {
        PortError::new(Kind::Unsupported, format!("signals cannot be listened to: {error}"))
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(deaf)?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result.map_err(deaf),
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(deaf)
}
