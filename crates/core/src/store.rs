//! The port of keys with a time to live, counters and compare-and-set.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use crate::{
    Fut,
    error::{Health, Kind, PortError},
};

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// How many keys one call names at most.
pub const MAX_BATCH: usize = 1_000;

/// A longer time to live is cut to this: a hundred years.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A key of a store.
pub type StoreKey = Arc<str>;

/// Grows with every write of its key, also over a deletion: a version that was seen never comes again.
pub type Version = u64;

/// Keys that several processes share, as far as the backend is shared.
///
/// Thread-safe. Each write takes effect at one instant or fails; `Unknown` when it may have happened. A write is as
/// durable as the backend's setting: the embedded one after an fsync, Redis as its `appendfsync` says.
///
/// `Invalid` for a key that is empty or longer than [`MAX_KEY_BYTES`], a value above the backend's limit, a time to live
/// of zero, and more than [`MAX_BATCH`] keys in one call.
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

    /// Tells of changes of keys that begin so, by whomever. Told after the change; who lags is told `Lagged`, which means
    /// the same as [`Change::Lost`]: [`next_change`] makes one of the two. `Full` when too many prefixes are watched.
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

impl StoreCapabilities {
    /// Whether these keys can be asked for in one call; the error says what is wrong.
    pub fn check_keys<'a>(&self, keys: impl ExactSizeIterator<Item = &'a StoreKey>) -> Result<(), PortError> {
        check_batch(keys.len())?;
        keys.into_iter().try_for_each(|key| check_key(key))
    }

    /// Whether this write can be stored; the error says what is wrong.
    pub fn check(&self, write: &Write) -> Result<(), PortError> {
        match write {
            Write::Set { key, value, ttl, .. } => {
                check_key(key)?;
                ttl_millis(*ttl)?;
                let (limit, given) = (self.max_value, value.len());
                if given > limit {
                    let text = format!("a value has at most {limit} bytes; that of `{key}` has {given}");
                    return Err(PortError::new(Kind::Invalid, text));
                }
                Ok(())
            }
            Write::Delete { key, .. } => check_key(key),
        }
    }
}

/// Whether a call may name so many keys.
pub fn check_batch(count: usize) -> Result<(), PortError> {
    if count > MAX_BATCH {
        let text = format!("one call names at most {MAX_BATCH} keys; this one names {count}");
        return Err(PortError::new(Kind::Invalid, text));
    }
    Ok(())
}

/// Whether a key can be stored.
pub fn check_key(key: &str) -> Result<(), PortError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let found = key.len();
        let text = format!("a key has 1 to {MAX_KEY_BYTES} bytes; this one has {found}");
        return Err(PortError::new(Kind::Invalid, text));
    }
    Ok(())
}

/// A time to live in whole milliseconds, rounded up and at most [`MAX_TTL`]. `Invalid` for zero.
///
/// ```
/// use std::time::Duration;
/// use outboard_core::store::ttl_millis;
/// assert_eq!(ttl_millis(Some(Duration::from_micros(1_200))).unwrap(), Some(2));
/// assert_eq!(ttl_millis(None).unwrap(), None);
/// assert!(ttl_millis(Some(Duration::ZERO)).is_err());
/// ```
pub fn ttl_millis(ttl: Option<Duration>) -> Result<Option<i64>, PortError> {
    let Some(ttl) = ttl else { return Ok(None) };
    if ttl.is_zero() {
        return Err(PortError::new(Kind::Invalid, "a time to live of zero: delete the key instead"));
    }
    let millis = ttl.min(MAX_TTL).as_nanos().div_ceil(1_000_000);
    Ok(Some(i64::try_from(millis).expect("a hundred years fit")))
}

/// The number in a counter's value: what [`Store::add`] takes for one. Nothing for other text, `01` and `+1` included.
pub fn whole_number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}

/// The next change, with a receiver's lag told as [`Change::Lost`]; nothing when the store is closed.
pub async fn next_change(changes: &mut broadcast::Receiver<Change>) -> Option<Change> {
    match changes.recv().await {
        Ok(change) => Some(change),
        Err(broadcast::error::RecvError::Lagged(_)) => Some(Change::Lost),
        Err(broadcast::error::RecvError::Closed) => None,
    }
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
