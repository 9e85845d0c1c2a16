//! What an embedded log promises.

mod support;

mod append;
mod ledger;
