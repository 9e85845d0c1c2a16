//! Workers on real brokers: killed, cut, silenced, deleted, refused, and drained under load.
//!
//! `OUTBOARD_TEST_SCALE` says with which numbers.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.
#![allow(clippy::print_stdout)] // What was seen belongs to what is shown.

#[expect(dead_code, reason = "the tests of single features need more of it")]
#[path = "../e2e/harness.rs"]
mod harness;
#[expect(dead_code, reason = "the tests of single features need more of it")]
#[path = "../e2e/http.rs"]
mod http;
#[path = "../e2e/receiver.rs"]
mod receiver;
#[path = "../e2e/scale.rs"]
mod scale;

mod broker;
mod counting;

mod crashes;
mod dead;
mod drains;
mod faults;
mod long;
mod many;
mod refusals;
