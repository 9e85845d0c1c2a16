//! Durable workers: commands, an executor, workers with typed handlers, and an app that runs them.

extern crate self as outboard;

pub mod command;
pub mod validate;

pub mod registry;
pub mod replay;

pub mod executor;
pub mod outcome;

pub mod context;
pub mod handler;
pub mod keys;
pub mod policy;

pub mod app;
pub mod worker;

mod outage;
pub mod periodic;
pub mod runtime;
pub mod workers;

pub mod forward;

pub use app::{App, AppError, Running};
pub use command::Command;
pub use context::{Context, Tick};
pub use executor::{AppState, ExecuteError, Executor};
pub use handler::{Attempt, Handled, Handler};
pub use outboard_core as core;
pub use outboard_derive::Command;
pub use outcome::{Done, Failure, Outcome};
pub use periodic::Periodic;
pub use policy::{OutagePolicy, Policy};
pub use registry::{Registry, Rejected};
pub use replay::replay;
pub use runtime::{WorkerHandle, WorkerInfo, WorkerState};
pub use validate::{Checks, FieldError, Invalid};
pub use worker::Worker;
pub use workers::{WorkerSpec, Workers, WorkersOptions};
