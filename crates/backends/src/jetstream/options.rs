//! What can be set for this backend.

use std::time::Duration;

/// How a port behaves towards its server; the defaults are meant for production.
///
/// ```
/// use std::time::Duration;
/// use outboard_backends::jetstream::Options;
/// let options = Options { ack_wait: Duration::from_secs(10), ..Options::default() };
/// assert_eq!(options.heartbeat, Duration::from_secs(5));
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a message stays ours after the last sign of life, for consumers that are made: this long after a
    /// crash, and what was on its way when a connection ended, it is delivered again. What workers hold is renewed at a
    /// third of the time.
    pub ack_wait: Duration,
    /// After twice this without a byte from the server, the connection is lost.
    pub heartbeat: Duration,
    /// How long a publication may take before it is `Unavailable` or `Unknown`.
    pub publish_within: Duration,
    /// The most bytes of a payload that is published. The server's own limit counts headers, too.
    pub max_payload: usize,
}

impl Default for Options {
    /// 15 s to acknowledge, a heartbeat of 5 s, 10 s to publish, and 16 KiB less than what
    /// a server takes that was not told otherwise (1 MiB).
    fn default() -> Self {
        Self {
            ack_wait: Duration::from_secs(15),
            heartbeat: Duration::from_secs(5),
            publish_within: Duration::from_secs(10),
            max_payload: (1 << 20) - (16 << 10),
        }
    }
}
