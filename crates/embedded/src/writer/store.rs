//! The store's part of a transaction: conditions, counters, and what has expired.

use std::time::Duration;

use outboard_core::{
    Kind, PortError, Time,
    store::{StoreKey, Version, When, Write, ttl_millis, whole_number},
    watchers::Watchers,
};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::time::Instant;

use crate::{
    error::Failure,
    request::AddRequest,
    store::{Row, find},
};

/// How many expired rows one transaction deletes: none is ever held up by many.
const SLICE: usize = 256;

/// After this the wall clock is looked at again, in case it was set or the machine was suspended.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How long rows wait that could not be deleted, or whose time has come and the clock says not.
const REST: Duration = Duration::from_millis(100);

/// What the writer knows of the store between transactions.
#[derive(Debug, Default)]
pub(crate) struct StoreEnd {
    /// The latest version of any key: kept apart from the keys, so that it survives them.
    version: Version,
    /// When the first row expires, in milliseconds since the Unix epoch.
    first_expires: Option<i64>,
    /// When to look at what has expired.
    look_at: Option<Instant>,
    /// What this transaction changed.
    changed: Vec<StoreKey>,
    is_dirty: bool,
}

impl StoreEnd {
    /// Reads where the store stands; two rows at most.
    pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached("SELECT version FROM store_version")?;
        let version = statement.query_row([], |row| row.get::<_, i64>(0)).optional()?;
        let mut end = Self { version: version.unwrap_or(0).cast_unsigned(), ..Self::default() };
        end.find_first(connection)?;
        // What expired while nobody had the directory open goes at once.
        end.look_at = end.first_expires.map(|_| Instant::now());
        Ok(end)
    }

    /// Reads it again, as after a transaction that was rolled back.
    pub(super) fn reload(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        *self = Self::load(connection)?;
        self.look_at = self.look_at.map(|at| at + REST);
        Ok(())
    }

    /// When the writer has something to do here though nobody asks.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether rows are to be deleted; if not, the next look is put off.
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        if self.look_at.is_none_or(|at| at > Instant::now()) {
            return false;
        }
        let has_expired = self.has_expired(now);
        if !has_expired {
            self.look_later(now);
        }
        has_expired
    }

    fn has_expired(&self, now: Time) -> bool {
        self.first_expires.is_some_and(|first| first <= now.as_millis())
    }

    fn look_later(&mut self, now: Time) {
        let wait = |first: i64| {
            let left = first.saturating_sub(now.as_millis());
            Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(LOOK_AGAIN)
        };
        self.look_at = self.first_expires.map(|first| Instant::now() + wait(first));
    }

    /// Does each write or says why not.
    pub(super) fn write(
        &mut self,
        connection: &Connection,
        writes: &[Result<Write, PortError>],
        now: Time,
        refusal: Option<&PortError>,
    ) -> Result<Vec<Result<Version, PortError>>, Failure> {
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            results.push(match write {
                Ok(Write::Set { key, value, ttl, when }) => {
                    let millis = ttl_millis(*ttl);
                    let expires = millis.map(|millis| expires_at(now, millis));
                    match expires {
                        Ok(expires) => self.set(connection, key, (value, expires), *when, now, refusal)?,
                        Err(error) => Err(error),
                    }
                }
                Ok(Write::Delete { key, when }) => self.delete(connection, key, *when, now)?,
                Err(error) => Err(error.clone()),
            });
        }
        Ok(results)
    }

    fn set(
        &mut self,
        connection: &Connection,
        key: &StoreKey,
        (value, expires): (&[u8], Option<i64>),
        when: When,
        now: Time,
        refusal: Option<&PortError>,
    ) -> Result<Result<Version, PortError>, Failure> {
        let found = find(connection, key, now.as_millis())?;
        if let Err(conflict) = holds(when, found.as_ref(), key) {
            return Ok(Err(conflict));
        }
        // What takes no more room than before is still written: leases are renewed on a disk that is nearly full.
        let room = found.map_or(0, |row| row.value.len());
        if let Some(refusal) = refusal.filter(|_| value.len() > room || room == 0) {
            return Ok(Err(refusal.clone()));
        }
        self.put(connection, key, value, expires)?;
        Ok(Ok(self.version))
    }

    fn put(
        &mut self,
        connection: &Connection,
        key: &StoreKey,
        value: &[u8],
        expires: Option<i64>,
    ) -> rusqlite::Result<()> {
        self.grow(key);
        let mut statement = connection.prepare_cached(
            "INSERT INTO store (key, value, version, expires) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
             SET value = excluded.value, version = excluded.version, expires = excluded.expires",
        )?;
        statement.execute(params![key, value, self.version.cast_signed(), expires])?;
        Ok(())
    }

    fn delete(
        &mut self,
        connection: &Connection,
        key: &StoreKey,
        when: When,
        now: Time,
    ) -> Result<Result<Version, PortError>, Failure> {
        let found = find(connection, key, now.as_millis())?;
        if let Err(conflict) = holds(when, found.as_ref(), key) {
            return Ok(Err(conflict));
        }
        if found.is_some() {
            self.grow(key);
            connection.prepare_cached("DELETE FROM store WHERE key = ?1")?.execute([key])?;
        }
        Ok(Ok(self.version))
    }

    /// Adds to a counter, and gives the sum.
    pub(super) fn add(
        &mut self,
        connection: &Connection,
        request: &AddRequest,
        now: Time,
        refusal: Option<&PortError>,
    ) -> Result<Result<i64, PortError>, Failure> {
        let AddRequest { key, delta, ttl_millis, .. } = request;
        let found = find(connection, key, now.as_millis())?;
        if let (None, Some(refusal)) = (&found, refusal) {
            return Ok(Err(refusal.clone()));
        }
        let before = found.as_ref().map_or(Some(0), |row| whole_number(&row.value));
        let Some(before) = before else {
            let text = format!("nothing can be added to `{key}`: it holds no whole number");
            return Ok(Err(PortError::new(Kind::Invalid, text)));
        };
        let Some(sum) = before.checked_add(*delta) else {
            let text = format!("{delta} cannot be added to `{key}`: the sum would not fit");
            return Ok(Err(PortError::new(Kind::Conflict, text)));
        };
        let before = found.and_then(|row| row.expires);
        let expires = ttl_millis.map_or(before, |_| expires_at(now, *ttl_millis));
        self.put(connection, key, sum.to_string().as_bytes(), expires)?;
        Ok(Ok(sum))
    }

    /// A key gets the next version.
    fn grow(&mut self, key: &StoreKey) {
        self.version += 1;
        self.is_dirty = true;
        self.changed.push(key.clone());
    }

    /// The last word of a transaction: deletes some of what has expired, and keeps the version.
    pub(super) fn flush(&mut self, connection: &Connection, now: Time) -> Result<(), Failure> {
        if self.is_dirty {
            let text = "INSERT OR REPLACE INTO store_version (id, version) VALUES (1, ?1)";
            connection.prepare_cached(text)?.execute([self.version.cast_signed()])?;
        }
        let has_expired = self.has_expired(now);
        if has_expired {
            let mut statement = connection.prepare_cached(
                "DELETE FROM store WHERE rowid IN
                 (SELECT rowid FROM store WHERE expires <= ?1 ORDER BY expires LIMIT ?2) RETURNING key",
            )?;
            let mut rows = statement.query(params![now.as_millis(), SLICE as i64])?;
            while let Some(row) = rows.next()? {
                self.changed.push(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?.into());
            }
        }
        if has_expired || self.is_dirty {
            self.find_first(connection)?;
        }
        self.is_dirty = false;
        Ok(())
    }

    fn find_first(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let text = "SELECT min(expires) FROM store WHERE expires IS NOT NULL";
        self.first_expires = connection.prepare_cached(text)?.query_row([], |row| row.get(0))?;
        Ok(())
    }

    /// Tells of what the transaction changed, once that is durable.
    pub(super) fn tell(&mut self, watchers: &Watchers, now: Time) {
        if !self.changed.is_empty() {
            watchers.tell(self.changed.drain(..));
            self.look_later(now);
        }
    }
}

fn expires_at(now: Time, ttl_millis: Option<i64>) -> Option<i64> {
    ttl_millis.map(|millis| now.as_millis().saturating_add(millis))
}

/// Whether the condition of a write holds for what is there.
fn holds(when: When, found: Option<&Row>, key: &str) -> Result<(), PortError> {
    let text = match (when, found) {
        (When::Always, _) | (When::Absent, None) => return Ok(()),
        (When::Version(version), Some(row)) if row.version == version => return Ok(()),
        (When::Absent, Some(_)) => format!("`{key}` is there already"),
        (When::Version(version), Some(_)) => format!("`{key}` has another version than {version}"),
        (When::Version(_), None) => format!("`{key}` is not there any more"),
    };
    Err(PortError::new(Kind::Conflict, text))
}
