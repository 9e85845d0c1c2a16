//! Durable workers for Rust: typed commands in an embedded log, handlers that are retried until they are done.
//!
//! A [`Command`] is a type with a name. An [`Executor`] validates commands, appends them to the log and answers when
//! they are on disk. A [`Worker`] handles them, with retries, timeouts, dead letters and durable keys; an [`App`] runs
//! workers over one data directory.
//!
//! ```
//! use outboard::{App, Command, Context, Done, Outcome, Worker};
//! use serde::{Deserialize, Serialize};
//!
//! /// Confirms an order.
//! #[derive(Command, Serialize, Deserialize)]
//! #[command(name = "orders/confirm")]
//! struct ConfirmOrder {
//!     #[command(min_value = 1)]
//!     order_id: u64,
//! }
//!
//! /// What the worker needs: clients, pools, caches.
//! struct Shop {
//!     greeting: String,
//! }
//!
//! async fn confirm(cx: Context<Shop>, order: ConfirmOrder) -> Outcome {
//!     // A mail would be sent here; any error becomes a retry through `?`.
//!     let _mail = format!("{}: order {}", cx.state().greeting, order.order_id);
//!     // Commits together with the done mark, so that it happens exactly once.
//!     cx.keys().add("confirmed", 1)?;
//!     Ok(Done)
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> anyhow::Result<()> {
//!     let shop = Shop { greeting: "Hello".to_string() };
//!     // In production: `App::open("shop-data").await?`, and `.run().await?` instead of `.start().await?`.
//!     let running = App::memory()
//!         .await?
//!         .worker(Worker::new("orders", "Confirms orders", shop).on(confirm))
//!         .start()
//!         .await?;
//!
//!     running.executor().execute(ConfirmOrder { order_id: 7 }).await?;
//!     running.idle().await?;
//!     assert_eq!(running.key::<u64>("orders", "confirmed").await?, Some(1));
//!
//!     running.shutdown().await?;
//!     Ok(())
//! }
//! ```
//!
//! What it promises: at-least-once delivery, exactly-once effect on Outboard's own state; durable, not highly
//! available. A crash repeats at most what was running and not yet marked as done.
//!
//! | what you keep | where | after a restart |
//! |---|---|---|
//! | what commands are judged by | [`AppState`] | built from the log by its `apply` functions |
//! | a worker's clients, caches, counts | the worker's own state, [`Context::state`] | rebuilt by [`Worker::on_replay`] |
//! | what must change exactly once per message | [`Context::keys`] | still there |

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

mod intake;
mod outage;
pub mod periodic;
pub mod runtime;
pub mod source;
pub mod workers;

pub mod forward;

pub use app::{App, AppError, Running};
pub use command::Command;
pub use context::{Context, Tick};
pub use executor::{AppState, ExecuteError, Executor};
pub use handler::{Attempt, Handled, Handler, Unwell};
pub use keys::{KeyError, Keys};
pub use outboard_core as core;
pub use outboard_derive::Command;
pub use outcome::{Done, Failure, Outcome};
pub use periodic::Periodic;
pub use policy::{OutagePolicy, Policy};
pub use registry::{Registry, Rejected};
pub use replay::replay;
pub use runtime::{WorkerHandle, WorkerInfo, WorkerState};
pub use source::{QueueSource, Source};
pub use validate::{Checks, FieldError, Invalid};
pub use worker::Worker;
pub use workers::{WorkerSpec, Workers, WorkersOptions};
