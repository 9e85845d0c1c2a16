//! What the project promises, shown on the real binary: under `kill -9`, with a host app in another language that is
//! sick, slow or broken, and with handlers that fail in every way they can.
//!
//! `OUTBOARD_TEST_SCALE` says with which numbers.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

#[expect(dead_code, reason = "the tests of single features need more of it")]
#[path = "../e2e/harness.rs"]
mod harness;
#[expect(dead_code, reason = "the tests of single features need more of it")]
#[path = "../e2e/http.rs"]
mod http;

mod posters;
mod receiver;
#[path = "../e2e/scale.rs"]
mod scale;

mod crashes;
mod failures;
mod outages;
mod poison;
mod restarts;
