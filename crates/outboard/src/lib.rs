//! Durable workers: commands, an executor, workers with typed handlers, and an app that runs them.

pub mod outcome;

pub mod handler;
pub mod policy;

mod outage;
pub mod periodic;
pub mod runtime;
pub mod workers;

pub mod forward;

pub use handler::{Attempt, Handled, Handler};
pub use outboard_core as core;
pub use outcome::{Done, Failure, Outcome};
pub use periodic::Periodic;
pub use policy::{OutagePolicy, Policy};
pub use runtime::{WorkerHandle, WorkerInfo, WorkerState};
pub use workers::{WorkerSpec, Workers, WorkersOptions};
