//! The port of keys with a time to live, counters and compare-and-set.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use crate::{
    Fut,
    error::{Health, PortError},
};

/// A key of a store.
pub type StoreKey = Arc<str>;

/// Grows with every write of its key, also over a deletion: a version that was seen never comes again.
pub type Version = u64;

/// Keys that several processes share, as far as the backend is shared.
///
/// Thread-safe. Each call takes effect at one instant or fails; `Unknown` when it may have happened. A write is as
/// durable as the backend's setting: the embedded one after an fsync, Redis as its `appendfsync` says.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// What this backend can promise.
    fn capabilities(&self) -> &StoreCapabilities;

    /// Whether it answers.
    fn health(&self) -> watch::Receiver<Health>;

    /// The values of these keys, in the order asked; `None` for an absent or expired one.
    fn get(&self, keys: Vec<StoreKey>) -> Fut<'_, Vec<Option<Entry>>>;

    /// Writes, each by itself done or refused, in order. `Conflict` where the condition did not hold.
    fn write(&self, writes: Vec<Write>) -> Fut<'_, Vec<Result<Version, PortError>>>;

    /// Adds to a whole number, absent counting as 0, and gives the sum; a `ttl` starts anew. `Invalid` when something
    /// else than a whole number is stored; `Conflict` when the sum would not fit.
    fn add(&self, key: StoreKey, delta: i64, ttl: Option<Duration>) -> Fut<'_, i64>;

    /// Tells of changes of keys that begin so, by whomever. Told after the change; who lags is told [`Change::Lost`].
    fn watch(&self, prefix: StoreKey) -> Fut<'_, broadcast::Receiver<Change>>;
}

/// What a store can promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreCapabilities {
    /// What it is called: `embedded`, `redis`.
    pub backend: &'static str,
    /// Whether several processes see the same keys.
    pub shared: bool,
    /// Largest value, in bytes.
    pub max_value: usize,
}

/// A value as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Its version.
    pub version: Version,
    /// How long it still lives; for ever when absent.
    pub ttl: Option<Duration>,
}

/// One write.
///
/// ```
/// use std::time::Duration;
/// use outboard_core::store::{When, Write};
/// let write = Write::Set {
///     key: "greeting".into(), value: "hello".into(), ttl: Some(Duration::from_secs(60)), when: When::Absent,
/// };
/// assert!(matches!(write, Write::Set { when: When::Absent, .. }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Set {
        /// Which.
        key: StoreKey,
        /// To what.
        value: Bytes,
        /// How long it lives; for ever when absent.
        ttl: Option<Duration>,
        /// On which condition.
        when: When,
    },
    /// Removes a key; one that is absent counts as removed, unless the condition is a version.
    Delete {
        /// Which.
        key: StoreKey,
        /// On which condition.
        when: When,
    },
}

/// The condition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// None.
    #[default]
    Always,
    /// The key is not there.
    Absent,
    /// The key has this version.
    Version(Version),
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This key has changed, expired or gone.
    Key(StoreKey),
    /// Some changes may have been missed: anything may have changed.
    Lost,
}
