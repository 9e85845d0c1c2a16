//! Durable workers: commands, an executor, workers with typed handlers, and an app that runs them.

pub mod outcome;

pub mod handler;
pub mod policy;

pub use handler::{Attempt, Handled, Handler};
pub use outboard_core as core;
pub use outcome::{Done, Failure, Outcome};
pub use policy::{OutagePolicy, Policy};
