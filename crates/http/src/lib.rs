//! HTTP for the whole house: the one client, webhooks, problem reports and the checks that every request passes.
//!
//! Nothing here knows a message or a worker.

pub mod target;

pub mod client;

pub mod retry_after;
pub mod webhook;

pub mod body;
pub mod json;
pub mod problem;
pub mod trace;

pub use client::{Answer, Call, Client, ClientConfig, ClientError};
pub use problem::Problem;
pub use target::{Target, UrlPolicy};
pub use trace::TraceContext;
pub use webhook::Secret;
