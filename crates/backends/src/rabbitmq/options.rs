//! What can be set of a RabbitMQ backend, besides its URL.

use std::time::Duration;

/// How to deal with a broker.
///
/// ```
/// use std::time::Duration;
/// use outboard_backends::rabbitmq::Options;
/// let options = Options { ack_timeout: Duration::from_secs(7_200), ..Options::default() };
/// assert_eq!(options.consumers_per_connection, 200);
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// The broker's `consumer_timeout`: it closes the channel of who holds a delivery longer. 30 minutes by default, as
    /// there.
    pub ack_timeout: Duration,
    /// So many consumers share a connection, at most. 200 by default.
    pub consumers_per_connection: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { ack_timeout: Duration::from_secs(30 * 60), consumers_per_connection: 200 }
    }
}
