//! What an embedded log promises beyond the suites of core's ports.

mod support;

mod append;
mod blocking;
mod commit;
mod crash;
mod idempotency;
mod inbox;
mod ledger;
mod readers;
mod store;
mod wake;

mod directory;
mod full;
mod spoiled;
