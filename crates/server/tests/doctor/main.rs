//! `outboard doctor` against machines and servers that are configured badly on purpose: what it prints, word for word.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod golden;
#[expect(dead_code, reason = "the tests of single features need more of it")]
#[path = "../e2e/harness.rs"]
mod harness;
#[expect(dead_code, reason = "the tests of single features need more of it")]
#[path = "../e2e/http.rs"]
mod http;

mod brokers;
mod machine;
