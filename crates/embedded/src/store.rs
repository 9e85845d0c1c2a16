//! The store on the embedded file: writes go through the one writer, reads to the readers.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use outboard_core::{
    Fut, Health, Kind, PortError,
    store::{
        Change, Entry, Store, StoreCapabilities, StoreKey, Version, Write, check_batch, check_key, ttl_millis,
    },
};
use rusqlite::{Connection, OptionalExtension, Result, params};
use tokio::sync::{broadcast, watch};

use crate::{
    embedded::{Embedded, fail},
    request::{AddRequest, Request, WriteRequest},
};

/// The largest value, in bytes.
const MAX_VALUE: usize = 1 << 20;

static CAPABILITIES: LazyLock<StoreCapabilities> =
    LazyLock::new(|| StoreCapabilities { backend: "embedded", shared: false, max_value: MAX_VALUE });

/// A stored row, as far as it has not expired.
pub(crate) struct Row {
    pub(crate) value: Bytes,
    pub(crate) version: Version,
    /// In milliseconds since the Unix epoch.
    pub(crate) expires: Option<i64>,
}

/// Reads a key; one that expires now or before is not there.
pub(crate) fn find(connection: &Connection, key: &str, now: i64) -> Result<Option<Row>> {
    let mut statement = connection.prepare_cached(
        "SELECT value, version, expires FROM store WHERE key = ?1 AND (expires IS NULL OR expires > ?2)",
    )?;
    let found = statement.query_row(params![key, now], |row| {
        let value = Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?);
        Ok(Row { value, version: row.get::<_, i64>(1)?.cast_unsigned(), expires: row.get(2)? })
    });
    found.optional()
}

fn entries(connection: &Connection, keys: &[StoreKey], now: i64) -> Result<Vec<Option<Entry>>> {
    // All keys as they were at one instant.
    let snapshot = connection.unchecked_transaction()?;
    let entry = |key: &StoreKey| {
        let found = find(&snapshot, key, now)?;
        Ok(found.map(|Row { value, version, expires }| {
            let left = |expires: i64| Duration::from_millis(expires.saturating_sub(now).cast_unsigned());
            Entry { value, version, ttl: expires.map(left) }
        }))
    };
    keys.iter().map(entry).collect()
}

fn bytes_of(write: &Write) -> usize {
    match write {
        Write::Set { key, value, .. } => key.len() + value.len(),
        Write::Delete { key, .. } => key.len(),
    }
}

impl Store for Embedded {
    fn capabilities(&self) -> &StoreCapabilities {
        &CAPABILITIES
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared().health.subscribe()
    }

    fn get(&self, keys: Vec<StoreKey>) -> Fut<'_, Vec<Option<Entry>>> {
        if let Err(error) = CAPABILITIES.check_keys(keys.iter()) {
            return fail(error);
        }
        let now = self.shared().options.clock.now().as_millis();
        self.query(move |connection| entries(connection, &keys, now))
    }

    fn write(&self, writes: Vec<Write>) -> Fut<'_, Vec<Result<Version, PortError>>> {
        if let Err(error) = check_batch(writes.len()) {
            return fail(error);
        }
        let mut bytes = 0;
        let mut checked = Vec::with_capacity(writes.len());
        for write in writes {
            let write = CAPABILITIES.check(&write).map(|()| write);
            bytes += write.as_ref().map_or(0, bytes_of);
            checked.push(write);
        }
        let limit = self.shared().options.append_bytes;
        if bytes > limit {
            let text = format!("one call writes at most {limit} bytes; this one writes {bytes}");
            return fail(PortError::new(Kind::Invalid, text));
        }
        self.request(|reply| Request::Write(WriteRequest { writes: checked, bytes, reply }))
    }

    fn add(&self, key: StoreKey, delta: i64, ttl: Option<Duration>) -> Fut<'_, i64> {
        match check_key(&key).and_then(|()| ttl_millis(ttl)) {
            Ok(ttl_millis) => {
                self.request(|reply| Request::Add(AddRequest { key, delta, ttl_millis, reply }))
            }
            Err(error) => fail(error),
        }
    }

    fn watch(&self, prefix: StoreKey) -> Fut<'_, broadcast::Receiver<Change>> {
        let receiver = self.shared().watchers.add(prefix);
        Box::pin(std::future::ready(receiver))
    }
}
