//! RabbitMQ over AMQP 0-9-1.

mod channel;
mod codec;
mod connection;
mod handshake;
mod publisher;
mod tls;
mod topology;
mod url;

pub use codec::table::{Table, Value};
pub use topology::inspect::{Facts, QueueFacts, inspect};
pub use url::Target;

#[cfg(test)]
mod tests;
