//! The built-in worker: with nothing configured there is still something that handles a command.

use std::sync::Arc;

use outboard::{Attempt, Done, Handled, Handler, Outcome, Policy, WorkerSpec, handler::BoxFuture};
use outboard_core::ledger::Start;

/// The type that it handles.
pub(crate) const TYPE: &str = "outboard/echo";

/// Handles a message by doing nothing but logging it, at level debug.
#[derive(Debug)]
struct Echo;

impl Handler for Echo {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        tracing::debug!(id = attempt.message.id.0, bytes = attempt.message.payload.len(), "echo");
        Box::pin(std::future::ready(Handled::from(Outcome::Ok(Done))))
    }
}

/// The worker `echo`.
pub(crate) fn worker() -> WorkerSpec {
    WorkerSpec {
        name: "echo".into(),
        description: "Built in: answers `outboard/echo` when no worker is configured".into(),
        types: [TYPE.parse().expect("the name of a type is a pattern")].into_iter().collect(),
        start: Start::End,
        // It does nothing, so that only the fsync of its done marks bounds it: many share one.
        policy: Policy { concurrency: 1_024, ..Policy::default() },
        handler: Arc::new(Echo),
        periodic: Vec::new(),
        source: outboard::Source::Log,
    }
}
