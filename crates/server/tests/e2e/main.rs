//! The real binary, from outside: what a user, a host app and a signal see.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod harness;
mod http;
mod receiver;
mod scale;

mod api;
mod bad_input;
mod bad_usage;
mod commands;
mod connections;
mod readme;
mod shutdown;
mod snapshots;
mod starts;
mod workers;
