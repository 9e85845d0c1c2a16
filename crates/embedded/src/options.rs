//! What an embedded log is opened with.

use std::{sync::Arc, time::Duration};

use outboard_core::{Clock, fault::Faults, time::system_clock};

/// Clock, faults and limits of an embedded log.
///
/// ```
/// use outboard_embedded::Options;
/// let options = Options { reserve_bytes: 256 << 20, ..Options::default() };
/// assert_eq!(options.wal_bytes, 16 << 20);
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// Where timestamps and due times come from.
    pub clock: Arc<dyn Clock>,
    /// Simulated crashes; none in production.
    pub faults: Faults,
    /// At most this many messages wait for the writer; further appends are refused as `Full` at once, because
    /// an append takes its place in the order before it returns. What units append may wait twice as much.
    pub queue_messages: usize,
    /// At most this many bytes of messages and of durable keys wait for the writer, as for `queue_messages`. Into
    /// an empty queue any request is taken.
    pub queue_bytes: usize,
    /// At most this many requests of any kind wait for the writer; further ones are refused as `Full`.
    pub queue_requests: usize,
    /// The largest append, in messages.
    pub append_messages: usize,
    /// The largest append, in bytes; that of one unit likewise.
    pub append_bytes: usize,
    /// A transaction takes no further request once it has this many messages.
    pub batch_messages: usize,
    /// A transaction takes no further request once it has this many bytes.
    pub batch_bytes: usize,
    /// How many messages the in-memory tail holds.
    pub tail_messages: usize,
    /// How many bytes the in-memory tail holds.
    pub tail_bytes: usize,
    /// Appends are refused when the disk has less than this left, so that settling still commits.
    pub reserve_bytes: u64,
    /// The write-ahead log is checkpointed when it is larger than this, in bytes.
    pub checkpoint_bytes: u64,
    /// Readers are held up for a checkpoint when the write-ahead log would grow over this, in bytes. One
    /// transaction may still end above it.
    pub wal_bytes: u64,
    /// At most this many idempotency keys are kept; the oldest go first.
    pub idempotency_keys: u64,
    /// How long a broker's message that is done is remembered, so that its effects do not happen again when it is
    /// delivered again.
    pub inbox_keep: Duration,
    /// At most this many of them are remembered; the oldest go first.
    pub inbox_ids: u64,
    /// At most this many connections read at the same time.
    pub readers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: system_clock(),
            faults: Faults::none(),
            queue_messages: 65_536,
            queue_bytes: 32 << 20,
            queue_requests: 16_384,
            append_messages: 65_536,
            append_bytes: 16 << 20,
            batch_messages: 8_192,
            batch_bytes: 2 << 20,
            tail_messages: 16_384,
            tail_bytes: 4 << 20,
            reserve_bytes: 64 << 20,
            checkpoint_bytes: 7 << 20,
            wal_bytes: 16 << 20,
            idempotency_keys: 10_000_000,
            inbox_keep: Duration::from_secs(7 * 24 * 3_600),
            inbox_ids: 10_000_000,
            readers: 4,
        }
    }
}
