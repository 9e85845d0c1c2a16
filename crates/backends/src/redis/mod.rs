//! Redis: one connection to one server, recovered for ever, for whatever speaks over it.

mod link;

mod connection;
mod dial;
mod inspect;
mod refusal;
mod target;

pub(crate) use connection::{Connection, OnPush};
pub use inspect::{Facts, inspect};
pub(crate) use link::Link;
pub use target::Target;

#[cfg(test)]
mod tests;
