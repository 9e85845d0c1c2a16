//! The store on Redis: conditions and versions by scripts, times to live by Redis itself.

mod scripts;
mod tracking;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use outboard_core::{
    Clock, Fut, Health, Kind, PortError,
    store::{
        Change, Entry, Store, StoreCapabilities, StoreKey, Version, When, Write, check_batch, check_key,
        ttl_millis,
    },
    time::system_clock,
};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use self::tracking::Tracking;
use crate::redis::{Connection, Link, Target};

/// The largest value, in bytes.
const MAX_VALUE: usize = 1 << 20;

/// The most bytes of keys and values that one call writes: the server does nothing else meanwhile.
const MAX_WRITE_BYTES: usize = 16 << 20;

/// How long a call waits for a connection that is being made.
const CONNECTION_WITHIN: Duration = Duration::from_secs(2);

/// How a store on Redis is opened.
///
/// ```
/// use outboard_backends::redis_store::RedisStoreOptions;
/// let options = RedisStoreOptions { prefix: "shop:".into(), ..RedisStoreOptions::default() };
/// assert_eq!(RedisStoreOptions::default().prefix, "outboard:");
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
pub struct RedisStoreOptions {
    /// Before all of its keys in the database, so that several apps can share one; `outboard:` by default.
    pub prefix: String,
    /// For the time since when the server is away.
    pub clock: Arc<dyn Clock>,
}

impl Default for RedisStoreOptions {
    fn default() -> Self {
        Self { prefix: "outboard:".to_owned(), clock: system_clock() }
    }
}

/// Keys in a Redis, shared by all processes that name the same database and prefix. Cheap to clone; ends with its last
/// clone.
///
/// A cluster of Redis is not supported. Keys must not be evicted: `maxmemory-policy noeviction`.
///
/// ```no_run
/// # async fn example() -> Result<(), outboard_core::PortError> {
/// use outboard_backends::redis_store::{RedisStore, RedisStoreOptions};
/// use outboard_core::store::Store;
/// let store = RedisStore::open("redis://127.0.0.1:6379/0", RedisStoreOptions::default())?;
/// store.add("visits".into(), 1, None).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RedisStore {
    link: Link,
    tracking: Arc<Tracking>,
    names: Arc<Names>,
    capabilities: Arc<StoreCapabilities>,
}

/// What its keys are called in the database.
#[derive(Debug)]
struct Names {
    /// Before each key.
    prefix: String,
    /// Where the last version is kept; no key of the store is called so.
    version: String,
}

impl RedisStore {
    /// Begins to connect, within a runtime, and returns at once; an outage shows in the health. `Invalid` for a URL that
    /// is none.
    pub fn open(url: &str, options: RedisStoreOptions) -> Result<Self, PortError> {
        let target: Target = url.parse()?;
        let names = Names {
            prefix: format!("{}store:", options.prefix),
            version: format!("{}store-version", options.prefix),
        };
        let tracking = Arc::new(Tracking::new(names.prefix.clone()));
        let link = Link::start(target, options.clock, Some(tracking.clone().on_push()));
        let capabilities = StoreCapabilities { backend: "redis", shared: true, max_value: MAX_VALUE };
        Ok(Self { link, tracking, names: Arc::new(names), capabilities: Arc::new(capabilities) })
    }

    /// Ends the connection for all clones; everything is `Closed` from then on.
    pub fn close(&self) {
        self.link.close();
        self.tracking.close();
    }

    async fn connection(&self) -> Result<Connection, PortError> {
        self.link.connection_by(Instant::now() + CONNECTION_WITHIN).await
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.names.prefix)
    }
}

impl Store for RedisStore {
    fn capabilities(&self) -> &StoreCapabilities {
        &self.capabilities
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    fn get(&self, keys: Vec<StoreKey>) -> Fut<'_, Vec<Option<Entry>>> {
        Box::pin(async move {
            self.capabilities.check_keys(keys.iter())?;
            if keys.is_empty() {
                return Ok(Vec::new());
            }
            let connection = self.connection().await?;
            let fill = |script: &mut redis::ScriptInvocation<'_>| {
                for key in &keys {
                    script.key(self.name(key));
                }
            };
            let found: Vec<Option<(Bytes, Version, i64)>> = connection.script(&scripts::GET, fill).await?;
            let entry = |(value, version, left): (Bytes, Version, i64)| {
                let ttl = u64::try_from(left).ok().map(Duration::from_millis);
                Entry { value, version, ttl }
            };
            Ok(found.into_iter().map(|found| found.map(entry)).collect())
        })
    }

    fn write(&self, writes: Vec<Write>) -> Fut<'_, Vec<Result<Version, PortError>>> {
        Box::pin(async move {
            check_batch(writes.len())?;
            let checked: Vec<_> =
                writes.iter().map(|write| self.capabilities.check(write).map(|()| write)).collect();
            let good: Vec<&Write> = checked.iter().filter_map(|write| write.as_ref().ok().copied()).collect();
            let bytes: usize = good.iter().map(|write| bytes_of(write)).sum();
            if bytes > MAX_WRITE_BYTES {
                let text =
                    format!("one call writes at most {MAX_WRITE_BYTES} bytes; this one writes {bytes}");
                return Err(PortError::new(Kind::Invalid, text));
            }
            let mut answers = self.write_checked(&good).await?.into_iter();
            let mut answer = |write: &Write| {
                let (word, version) = answers.next().expect("the script answers each write");
                verdict(&word, key_of(write)).map(|()| version)
            };
            Ok(checked.into_iter().map(|write| write.and_then(&mut answer)).collect())
        })
    }

    fn add(&self, key: StoreKey, delta: i64, ttl: Option<Duration>) -> Fut<'_, i64> {
        Box::pin(async move {
            check_key(&key)?;
            let ttl = millis(ttl)?;
            let connection = self.connection().await?;
            let fill = |script: &mut redis::ScriptInvocation<'_>| {
                script.key(&self.names.version).key(self.name(&key)).arg(delta).arg(ttl);
            };
            let (word, sum): (String, i64) = connection.script(&scripts::ADD, fill).await?;
            let error = |kind, why: &str| {
                Err(PortError::new(kind, format!("{delta} cannot be added to `{key}`: {why}")))
            };
            match word.as_str() {
                "overflow" => error(Kind::Conflict, "the sum would not fit"),
                "text" => error(Kind::Invalid, "it holds no whole number"),
                _ => Ok(sum),
            }
        })
    }

    fn watch(&self, prefix: StoreKey) -> Fut<'_, broadcast::Receiver<Change>> {
        Box::pin(async move { self.tracking.watch(&self.link, prefix, CONNECTION_WITHIN).await })
    }
}

impl RedisStore {
    async fn write_checked(&self, writes: &[&Write]) -> Result<Vec<(String, Version)>, PortError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let connection = self.connection().await?;
        let mut arguments = Vec::with_capacity(writes.len());
        for write in writes {
            arguments.push(match write {
                Write::Set { value, ttl, when, .. } => {
                    ("set", value.clone(), millis(*ttl)?, condition(*when))
                }
                Write::Delete { when, .. } => ("delete", Bytes::new(), String::new(), condition(*when)),
            });
        }
        let fill = |script: &mut redis::ScriptInvocation<'_>| {
            script.key(&self.names.version);
            for (write, (what, value, ttl, condition)) in writes.iter().zip(&arguments) {
                script.key(self.name(key_of(write))).arg(what).arg(&value[..]).arg(ttl).arg(condition);
            }
        };
        connection.script(&scripts::WRITE, fill).await
    }
}

fn key_of(write: &Write) -> &StoreKey {
    match write {
        Write::Set { key, .. } | Write::Delete { key, .. } => key,
    }
}

fn bytes_of(write: &Write) -> usize {
    match write {
        Write::Set { key, value, .. } => key.len() + value.len(),
        Write::Delete { key, .. } => key.len(),
    }
}

/// The milliseconds to live as the scripts take them: nothing for ever.
fn millis(ttl: Option<Duration>) -> Result<String, PortError> {
    Ok(ttl_millis(ttl)?.map(|millis| millis.to_string()).unwrap_or_default())
}

fn condition(when: When) -> String {
    match when {
        When::Always => String::new(),
        When::Absent => "absent".to_owned(),
        When::Version(version) => version.to_string(),
    }
}

/// What a script's word on a write means.
fn verdict(word: &str, key: &str) -> Result<(), PortError> {
    let error = |kind, text: String| Err(PortError::new(kind, text));
    match word {
        "present" => error(Kind::Conflict, format!("`{key}` is there already")),
        "changed" => error(Kind::Conflict, format!("`{key}` has another version")),
        "gone" => error(Kind::Conflict, format!("`{key}` is not there any more")),
        "foreign" => {
            error(Kind::Mismatch, format!("`{key}` is there, but was not written by a store of ours"))
        }
        _ => Ok(()),
    }
}
