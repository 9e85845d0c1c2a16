//! RabbitMQ over AMQP 0-9-1.

mod channel;
mod codec;
mod connection;
mod consumer;
mod dead;
mod handshake;
mod ladder;
mod link;
mod options;
mod outgoing;
mod publisher;
mod queue;
mod room;
mod topology;
mod url;

pub use codec::table::{Table, Value};
pub use options::Options;
pub use queue::RabbitMq;
pub(crate) use queue::check_name;
pub use topology::inspect::{Facts, QueueFacts, inspect};
pub use url::Target;

#[cfg(test)]
mod tests;
