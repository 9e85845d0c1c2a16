//! `/livez`, `/readyz` and `/health`: the one place that says whether this process takes work.

use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use outboard::Workers;
use outboard_core::{Health, Log};
use serde::Serialize;

/// Whether the process is on its way out. Set once.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    draining: AtomicBool,
}

impl Phase {
    /// From now on `/readyz` says no, while requests are still answered.
    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the process drains.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}

/// What `/readyz?verbose` and `/health` say.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// `ready`, `degraded` (takes work, but something needs somebody) or `unready`.
    pub status: &'static str,
    /// Why it is not `ready`.
    pub reasons: Vec<Reason>,
    /// The version that runs.
    pub version: &'static str,
}

/// One reason.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    /// `process`, `log`, or `worker NAME`.
    pub part: String,
    /// What is the matter, for people.
    pub reason: String,
}

impl Report {
    /// Looks at everything that can be wrong.
    pub(crate) fn of(phase: &Phase, log: &dyn Log, workers: &Workers) -> Self {
        let mut unready = Vec::new();
        let mut reason = |part: &str, reason: String| unready.push(Reason { part: part.to_owned(), reason });
        if phase.is_draining() {
            reason("process", "shutting down".to_owned());
        }
        match &*log.health().borrow() {
            Health::Ready => {}
            Health::Recovering { attempt, error, .. } => {
                reason("log", format!("recovering, attempt {attempt}: {error}"))
            }
            Health::Refusing(error) => reason("log", format!("takes nothing new: {error}")),
            Health::Failed(error) => reason("log", format!("failed for good: {error}")),
        }
        let workers = workers.health();
        match workers.health {
            Health::Failed(error) => reason("workers", format!("one has failed for good: {error}")),
            Health::Recovering { attempt, error, .. } => {
                reason("workers", format!("one should consume and does not, attempt {attempt}: {error}"));
            }
            Health::Refusing(error) => reason("workers", format!("one should consume and does not: {error}")),
            Health::Ready => {}
        }
        let degraded: Vec<_> = workers
            .degraded
            .into_iter()
            .map(|worker| Reason { part: format!("worker {}", worker.worker), reason: worker.reason })
            .collect();
        let status = match (unready.is_empty(), degraded.is_empty()) {
            (true, true) => "ready",
            (true, false) => "degraded",
            (false, _) => "unready",
        };
        unready.extend(degraded);
        Self { status, reasons: unready, version: env!("CARGO_PKG_VERSION") }
    }

    /// The status that load balancers look at: degraded is ready.
    pub(crate) fn http_status(&self) -> StatusCode {
        if self.status == "unready" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }
}
