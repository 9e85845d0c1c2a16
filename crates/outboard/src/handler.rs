//! What the runtime calls for each message.

use std::{fmt, pin::Pin, sync::Arc};

use outboard_core::{Message, consumer::Effects, ledger::WorkerName};

use crate::outcome::Outcome;

/// A boxed future without borrows.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// One attempt at one message.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Who handles it.
    pub worker: WorkerName,
    /// The message.
    pub message: Arc<Message>,
    /// 1 for the first attempt.
    pub number: u32,
}

/// What an attempt ended with.
#[derive(Debug)]
pub struct Handled {
    /// The handler's word.
    pub outcome: Outcome,
    /// Commits with the done mark; dropped when the outcome is a failure.
    pub effects: Option<Box<Effects>>,
}

impl From<Outcome> for Handled {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, effects: None }
    }
}

/// Handles messages of any type: the seam under typed workers and forward workers.
///
/// The runtime bounds the time of the future and catches its panics; dropping it cancels the attempt. Neither the call nor
/// the future may hold the thread for long: others wait for it, and no timeout ends it. Work that computes or blocks
/// belongs into [`tokio::task::spawn_blocking`].
pub trait Handler: Send + Sync + fmt::Debug + 'static {
    /// Begins an attempt.
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled>;

    /// Asks the target whether it is well, apart from any message. `None` when there is nothing to ask: then the
    /// messages themselves are the probes.
    fn probe(&self) -> Option<BoxFuture<Result<(), Unwell>>> {
        None
    }
}

/// Why a target that was asked does not count as well, in words.
///
/// ```
/// use outboard::Unwell;
/// let unwell = Unwell::Said("the probe answered 503".into());
/// assert_ne!(unwell, Unwell::Silent("the probe answered 503".into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwell {
    /// The target said so, or is not there: messages that failed beside it are free of blame.
    Said(String),
    /// Nothing was heard of it. It may be slow, or busy with a bad message, so this clears no message.
    Silent(String),
}
