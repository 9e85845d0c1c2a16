//! SQLite for every port of Outboard: [`outboard_core::Log`], [`outboard_core::Ledger`] and
//! [`outboard_core::store::Store`] on one file.
//!
//! One writer joins everything that waits into one transaction with one fsync, and answers after it. Readers
//! at the tip are served from memory, the others by a few connections of their own.

mod embedded;
mod error;
mod memory;
mod open;
mod options;

mod expiring;
mod idempotency;
mod inbox;
mod queue;
mod request;
mod seat;
mod shared;
mod writer;

mod page;
mod queries;
mod readers;
mod store;
mod subscribers;
mod tail;

mod checksum;
mod lock;
mod schema;
mod stats;
mod tip_file;
mod verify;

pub use embedded::Embedded;
pub use error::OpenError;
pub use lock::holder;
pub use memory::MemoryDisk;
pub use options::Options;
pub use stats::{Durations, Stats};
pub use verify::{VerifyReport, verify};

/// The stored form of the log, for what measures it against SQLite alone.
pub mod format {
    pub use crate::{
        checksum::{BEFORE_FIRST, Fields, checksum},
        schema::{CREATE_MESSAGES, DATABASE, FORMAT, INSERT_MESSAGE, WRITER_PRAGMAS},
    };
}
