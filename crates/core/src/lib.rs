//! Outboard's ports and types, and the rules by which messages are delivered.
//!
//! Nothing here does I/O: a backend implements [`Log`] and [`Ledger`], [`LogConsumer`] turns the two into the one
//! consuming port, [`Consumer`], and the worker runtime stands on that.

pub mod error;
pub mod time;

pub mod message;
pub mod pattern;

pub mod cursor;
pub mod ledger;
pub mod log;

pub mod consumer;
pub mod log_consumer;

pub mod queue;
pub mod queue_consumer;
pub mod store;
pub mod watchers;

pub mod lease;

pub mod backoff;
pub mod fault;
pub mod lifecycle;
pub mod planted;
pub mod recovery;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use consumer::{Consumer, Delivery, Settlement, Verdict};
pub use error::{Health, Kind, PortError};
pub use ledger::Ledger;
pub use log::Log;
pub use log_consumer::LogConsumer;
pub use message::{Headers, Message, MessageId, NewMessage, Position};
pub use pattern::{TypePattern, TypeSet};
pub use queue::Queue;
pub use queue_consumer::QueueConsumer;
pub use store::Store;
pub use time::{Clock, Time};

/// What every asynchronous port method returns: a boxed future, so that ports are object-safe.
pub type Fut<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, PortError>> + Send + 'a>>;
