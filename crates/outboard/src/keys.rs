//! Durable keys of a worker, as one attempt sees and changes them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use outboard_core::{
    Ledger, NewMessage, PortError,
    consumer::Effects,
    ledger::{Guard, KeyWrite, Versioned, WorkerName},
};
use serde::{Serialize, de::DeserializeOwned};

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// The largest value, in bytes of JSON.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// At most so many keys are read or changed by one attempt.
pub const MAX_KEYS: usize = 10_000;

/// At most so many messages are appended by one attempt.
pub const MAX_APPENDS: usize = 10_000;

/// At most so many bytes are written by one attempt: payloads of appended messages, keys and values.
pub const MAX_EFFECT_BYTES: usize = 8 << 20;

/// A worker's durable keys: JSON values that change exactly when the message is done.
///
/// Changes are buffered and commit together with the done mark; a retry, a timeout or a crash drops them. What was
/// read is guarded: if another attempt changes it before this one commits, this one runs again from the start, so
/// that read-and-set never loses an update. A plain [`Keys::add`] reads nothing and never runs into that. An attempt
/// sees its own changes.
///
/// ```
/// use outboard::{App, Context, Done, Outcome, Worker};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(outboard::Command, Serialize, Deserialize)]
/// # #[command(name = "orders/confirm")]
/// # struct ConfirmOrder { order_id: u64 }
/// async fn confirm(cx: Context<()>, order: ConfirmOrder) -> Outcome {
///     let last: Option<u64> = cx.keys().get("last-order").await?;
///     cx.keys().set("last-order", &last.unwrap_or(0).max(order.order_id))?;
///     cx.keys().add("confirmed", 1)?;
///     Ok(Done)
/// }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let running = App::memory().await?.worker(Worker::new("orders", "Confirms", ()).on(confirm)).start().await?;
/// running.executor().execute(ConfirmOrder { order_id: 7 }).await?;
/// running.idle().await?;
/// assert_eq!(running.key::<u64>("orders", "confirmed").await?, Some(1));
/// # running.shutdown().await?;
/// # anyhow::Ok(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub(crate) ledger: &'a dyn Ledger,
    pub(crate) worker: &'a WorkerName,
    pub(crate) buffer: &'a Buffer,
}

/// Why a key could not be read or changed; `?` makes it a retry.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyError {
    /// The storage did not answer.
    #[error("the key `{key}` cannot be read: {error}")]
    Port {
        /// The key.
        key: String,
        /// What the storage said.
        error: PortError,
    },
    /// What is stored is not of the type asked for, or a counter is not a whole number.
    #[error("the key `{key}` holds something else than was asked for: {error}")]
    Type {
        /// The key.
        key: String,
        /// What does not fit.
        error: String,
    },
    /// A key, a value, the number of keys or everything that is to be written together is too large.
    #[error("{0}")]
    Limit(String),
}

impl Keys<'_> {
    /// The value under `key`, this attempt's own change included.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, KeyError> {
        let Some(json) = self.value(key).await? else { return Ok(None) };
        serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| KeyError::Type { key: key.to_string(), error: error.to_string() })
    }

    /// Sets `key` to the JSON of `value`.
    pub fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<(), KeyError> {
        let json = serde_json::to_vec(value)
            .map_err(|error| KeyError::Type { key: key.to_string(), error: error.to_string() })?;
        if json.len() > MAX_VALUE_BYTES {
            let text =
                format!("the value of `{key}` has {} bytes; at most {MAX_VALUE_BYTES} fit", json.len());
            return Err(KeyError::Limit(text));
        }
        self.buffer.lock().change(key, Change::Set(json.into()))
    }

    /// Removes `key`.
    pub fn delete(&self, key: &str) -> Result<(), KeyError> {
        self.buffer.lock().change(key, Change::Delete)
    }

    /// Adds to the whole number under `key`, which is 0 when absent; saturates. Concurrent additions never conflict.
    ///
    /// It reads nothing: when something else than a whole number turns out to be stored, nothing of the attempt is
    /// written and its message becomes a dead letter.
    pub fn add(&self, key: &str, delta: i64) -> Result<(), KeyError> {
        let mut buffer = self.buffer.lock();
        let change = match &buffer.entry(key)?.change {
            None => Change::Add(delta),
            Some(Change::Add(before)) => Change::Add(before.saturating_add(delta)),
            Some(Change::Delete) => Change::Set(number(delta)),
            Some(Change::Set(json)) => Change::Set(number(parsed(key, json)?.saturating_add(delta))),
        };
        buffer.change(key, change)
    }

    async fn value(&self, key: &str) -> Result<Option<Bytes>, KeyError> {
        if let Some(known) = self.buffer.lock().entry(key)?.value(key)? {
            return Ok(known);
        }
        let found = self
            .ledger
            .keys(self.worker.clone(), vec![key.into()])
            .await
            .map_err(|error| KeyError::Port { key: key.to_string(), error })?;
        let read = found.into_iter().next().unwrap_or_default();
        let mut buffer = self.buffer.lock();
        let entry = buffer.entry(key)?;
        // The first read stays: what an attempt sees does not change under its hands.
        entry.read.get_or_insert(read);
        Ok(entry.value(key)?.flatten())
    }
}

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("worker", self.worker).finish_non_exhaustive()
    }
}

/// What one attempt has read and wants to change.
#[derive(Default)]
pub(crate) struct Buffer(Mutex<Buffered>);

#[derive(Default)]
struct Buffered {
    keys: BTreeMap<Arc<str>, Entry>,
    appends: Vec<NewMessage>,
    /// Bytes of payload in `appends`, and of changed keys and their values.
    bytes: usize,
}

#[derive(Default)]
struct Entry {
    read: Option<Versioned>,
    change: Option<Change>,
}

enum Change {
    Set(Bytes),
    Delete,
    Add(i64),
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Buffered> {
        // Changed by short sections that do not panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Buffers a message; false when there are too many.
    pub(crate) fn append(&self, message: NewMessage) -> bool {
        let mut buffer = self.lock();
        let bytes = buffer.bytes + message.payload.len();
        let fits = buffer.appends.len() < MAX_APPENDS && bytes <= MAX_EFFECT_BYTES;
        if fits {
            buffer.bytes = bytes;
            buffer.appends.push(message);
        }
        fits
    }

    /// What is to commit with the done mark, if anything. Guards alone are nothing: a message that only read may be
    /// done whatever happened since.
    pub(crate) fn take(&self) -> Option<Box<Effects>> {
        let Buffered { keys, appends, .. } = std::mem::take(&mut *self.lock());
        let mut effects = Effects { appends, ..Effects::default() };
        let mut guards = Vec::new();
        for (key, Entry { read, change }) in keys {
            if let Some(read) = read {
                guards.push(Guard::Version(key.clone(), read.version));
            }
            effects.writes.extend(change.map(|change| match change {
                Change::Set(json) => KeyWrite::Set(key, json),
                Change::Delete => KeyWrite::Delete(key),
                Change::Add(delta) => KeyWrite::Add(key, delta),
            }));
        }
        if effects.is_empty() {
            return None;
        }
        effects.guards = guards;
        Some(Box::new(effects))
    }
}

impl Buffered {
    fn entry(&mut self, key: &str) -> Result<&mut Entry, KeyError> {
        if !self.keys.contains_key(key) {
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                let text = format!("a key has 1 to {MAX_KEY_BYTES} bytes; this one has {}", key.len());
                return Err(KeyError::Limit(text));
            }
            if self.keys.len() >= MAX_KEYS {
                return Err(KeyError::Limit(format!("one attempt uses at most {MAX_KEYS} keys")));
            }
        }
        Ok(self.keys.entry(key.into()).or_default())
    }

    /// Buffers a change in the place of an earlier one; an error when it does not fit beside the others.
    fn change(&mut self, key: &str, change: Change) -> Result<(), KeyError> {
        let before = self.entry(key)?.change.as_ref().map_or(0, |change| key.len() + change.bytes());
        let bytes = self.bytes - before + key.len() + change.bytes();
        if bytes > MAX_EFFECT_BYTES {
            let mend = "split the work into several messages, or keep the data elsewhere";
            return Err(KeyError::Limit(format!(
                "with the change of `{key}` this attempt writes {bytes} bytes of keys and appended messages; \
                 at most {MAX_EFFECT_BYTES} fit: {mend}"
            )));
        }
        self.bytes = bytes;
        self.entry(key)?.change = Some(change);
        Ok(())
    }
}

impl Change {
    /// Bytes of its value.
    fn bytes(&self) -> usize {
        match self {
            Self::Set(json) => json.len(),
            Self::Delete | Self::Add(_) => 0,
        }
    }
}

impl Entry {
    /// The value as the attempt sees it; the outer `None` means that it must be read first.
    fn value(&self, key: &str) -> Result<Option<Option<Bytes>>, KeyError> {
        Ok(match (&self.change, &self.read) {
            (Some(Change::Set(json)), _) => Some(Some(json.clone())),
            (Some(Change::Delete), _) => Some(None),
            (None, Some(read)) => Some(read.value.clone()),
            (Some(Change::Add(delta)), Some(read)) => {
                let base = read.value.as_ref().map_or(Ok(0), |json| parsed(key, json))?;
                Some(Some(number(base.saturating_add(*delta))))
            }
            (_, None) => None,
        })
    }
}

fn number(value: i64) -> Bytes {
    value.to_string().into()
}

fn parsed(key: &str, json: &[u8]) -> Result<i64, KeyError> {
    serde_json::from_slice(json)
        .map_err(|_| KeyError::Type { key: key.to_string(), error: "it is not a whole number".to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_are_limited_in_bytes_so_that_their_unit_can_commit() {
        let buffer = Buffer::default();
        let message = || NewMessage::new("orders/confirm", vec![b'1'; MAX_EFFECT_BYTES / 2]);
        assert!(buffer.append(message()) && buffer.append(message()));
        assert!(!buffer.append(NewMessage::new("orders/confirm", "1")));
        assert_eq!(buffer.take().expect("two messages are buffered").appends.len(), 2);
    }

    #[test]
    fn key_changes_are_limited_in_bytes_together_with_appends() {
        let buffer = Buffer::default();
        let change = |key: &str, bytes| buffer.lock().change(key, Change::Set(vec![b'1'; bytes].into()));
        let half = MAX_EFFECT_BYTES / 2;
        change("a", half).expect("it fits");
        change("a", half).expect("it takes the place of the first");
        assert!(buffer.append(NewMessage::new("orders/confirm", vec![b'1'; half - 1])));
        assert!(!buffer.append(NewMessage::new("orders/confirm", "1")), "keys count, too");
        let error = change("b", 0).expect_err("the key's name does not fit any more").to_string();
        assert!(error.contains(&MAX_EFFECT_BYTES.to_string()) && error.contains("split the work"), "{error}");
        change("a", 1).expect("a smaller value makes room");
        change("b", half - 10).expect("there is room again");
        assert_eq!(buffer.take().expect("changes are buffered").writes.len(), 2);
    }
}
