//! What can be set of a RabbitMQ backend, besides its URL.

use std::time::Duration;

use super::handshake::HEARTBEAT;

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
    /// How often each side gives a sign of life, in whole seconds; a peer is given up after twice this. 5 s by default.
    pub heartbeat: Duration,
    /// How long connecting and signing in may take. 10 s by default.
    pub connect_within: Duration,
    /// The broker's `consumer_timeout`: it closes the channel of who holds a delivery longer. 30 minutes by default, as
    /// there.
    pub ack_timeout: Duration,
    /// So many consumers share a connection, at most. 200 by default.
    pub consumers_per_connection: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: HEARTBEAT,
            connect_within: Duration::from_secs(10),
            ack_timeout: Duration::from_secs(30 * 60),
            consumers_per_connection: 200,
        }
    }
}
