//! The port of the ordered, durable, append-only log.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};

use crate::{
    Fut,
    error::Health,
    message::{Message, NewMessage, Position},
    pattern::TypeSet,
};

/// An ordered, durable, append-only sequence of messages.
///
/// Thread-safe. Positions are dense and start at 1; timestamps never decrease. What a call returned as appended
/// survives `kill -9` and power loss.
pub trait Log: Send + Sync + fmt::Debug + 'static {
    /// The last durable position; changes when a batch has become durable.
    fn tip(&self) -> watch::Receiver<Position>;

    /// Appends all messages or none, and answers after the fsync.
    ///
    /// The append is enqueued before this returns: two calls made one after the other append in that order. Dropping
    /// the future does not take the append back. Errors: `Full` (queue or disk; nothing happened), `Mismatch` (the
    /// idempotency key came with another body), `Unknown` (it may have happened), `Invalid`, `Closed`.
    fn append(&self, append: Append) -> Fut<'static, Appended>;

    /// The messages at these positions; `None` where there is none.
    fn get(&self, at: Vec<Position>) -> Fut<'_, Vec<Option<Arc<Message>>>>;

    /// Messages after a position whose type is in the set, in order. Returns at once, with an empty page at the tip.
    ///
    /// A page scans at most [`Limit::scan`] positions, so that a rare type never turns into an unbounded scan:
    /// follow [`Page::next`].
    fn read(&self, after: Position, types: TypeSet, limit: Limit) -> Fut<'_, Page>;

    /// Wakes a reader: at once when a batch holds one of its types, and at most once a second when only others came,
    /// so that it can pass them.
    fn subscribe(&self, types: TypeSet) -> Subscription;

    /// Whether appends are taken.
    fn health(&self) -> watch::Receiver<Health>;
}

/// One append: all of its messages or none.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// What to append, in order.
    pub messages: Vec<NewMessage>,
    /// Makes a repetition answer as the first time did.
    pub idempotency: Option<Idempotency>,
}

impl From<Vec<NewMessage>> for Append {
    fn from(messages: Vec<NewMessage>) -> Self {
        Self { messages, idempotency: None }
    }
}

/// A key that makes a repeated append answer as the first time did. Callers hash what the user gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    /// The hash of the key and of where it was used.
    pub key: [u8; 16],
    /// The hash of what was sent.
    pub body: [u8; 16],
    /// How long it is kept.
    pub keep: Duration,
}

/// What an append got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The first message's position; the others follow without a gap.
    pub first: Position,
    /// How many messages.
    pub count: u32,
    /// Whether this is the answer of an earlier append with the same idempotency key.
    pub repeated: bool,
}

impl Appended {
    /// The last message's position.
    pub fn last(&self) -> Position {
        Position(self.first.0 + u64::from(self.count) - 1)
    }
}

/// How much one read may take.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// At most this many messages.
    pub messages: usize,
    /// At most this many payload bytes; the first message is returned whatever its size.
    pub bytes: usize,
    /// At most this many positions looked at.
    pub scan: usize,
}

impl Limit {
    /// At most `messages` messages, 4 MiB, 10,000 positions.
    pub fn messages(messages: usize) -> Self {
        Self { messages, bytes: 4 << 20, scan: 10_000 }
    }
}

/// What a read found.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The messages, in order.
    pub messages: Vec<Arc<Message>>,
    /// Everything up to here was looked at: read on after it. Equal to the request's `after` when there was nothing.
    pub next: Position,
}

/// A reader's wake-up call. Dropping it ends the subscription.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// What the log notifies.
    pub wake: Arc<Notify>,
}
