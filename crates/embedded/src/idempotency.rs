//! Idempotency keys: rows in the append's transaction, numbered in the order in which they expire.

use outboard_core::{Position, log::Idempotency};
use rusqlite::{Connection, OptionalExtension, Result, params};

/// How many old keys may be deleted for each new one: the table shrinks, no append pays for many.
const DELETES_PER_INSERT: usize = 4;

/// The range of rows that exist, so that they are never counted.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The oldest row's number; greater than `last` when there is none.
    first: i64,
    last: i64,
    /// When the oldest row expires.
    first_expires: i64,
    max: u64,
    /// How many rows this transaction may still delete.
    deletes: usize,
}

/// What an earlier append with the same key got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub(crate) body: [u8; 16],
    pub(crate) first: Position,
    pub(crate) count: u32,
}

impl Keys {
    /// Reads the range; two rows at most. At most `max` keys are kept.
    pub(crate) fn load(connection: &Connection, max: u64) -> Result<Self> {
        let last: Option<i64> =
            connection.query_row("SELECT max(seq) FROM idempotency", [], |row| row.get(0))?;
        let last = last.unwrap_or(0);
        let mut keys = Self { first: 0, last, first_expires: i64::MAX, max, deletes: 0 };
        keys.find_first(connection)?;
        Ok(keys)
    }

    /// How many rows there are, at most.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.last - self.first + 1).unwrap_or(0)
    }

    /// What an earlier append got; an expired key counts as absent.
    pub(crate) fn find(&self, connection: &Connection, key: &[u8; 16], now: i64) -> Result<Option<Earlier>> {
        let mut statement = connection
            .prepare_cached("SELECT body, first, count FROM idempotency WHERE key = ?1 AND expires > ?2")?;
        let found = statement.query_row(params![key, now], |row| {
            let first = Position(row.get::<_, i64>(1)?.cast_unsigned());
            Ok(Earlier { body: row.get(0)?, first, count: row.get(2)? })
        });
        found.optional()
    }

    /// Keeps what an append got.
    pub(crate) fn insert(
        &mut self,
        connection: &Connection,
        idempotency: &Idempotency,
        got: (Position, u32),
        now: i64,
    ) -> Result<()> {
        let keep = i64::try_from(idempotency.keep.as_millis()).unwrap_or(i64::MAX);
        let expires = now.saturating_add(keep);
        // Replaces the row of an expired key, if it is still there.
        let mut statement = connection.prepare_cached(
            "INSERT OR REPLACE INTO idempotency (seq, key, body, first, count, expires)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        self.last += 1;
        let (first, count) = (got.0.0.cast_signed(), got.1);
        statement.execute(params![self.last, idempotency.key, idempotency.body, first, count, expires])?;
        if self.count() == 1 {
            self.first_expires = expires;
        }
        self.deletes += DELETES_PER_INSERT;
        Ok(())
    }

    /// Deletes a few rows that have expired or are too many. Once per transaction.
    pub(crate) fn trim(&mut self, connection: &Connection, now: i64) -> Result<()> {
        while self.deletes > 0 && self.count() > 0 && (self.first_expires <= now || self.count() > self.max) {
            self.deletes -= 1;
            connection.prepare_cached("DELETE FROM idempotency WHERE seq = ?1")?.execute([self.first])?;
            self.find_first(connection)?;
        }
        self.deletes = 0;
        Ok(())
    }

    /// Finds the oldest row after the one that was.
    fn find_first(&mut self, connection: &Connection) -> Result<()> {
        let mut statement = connection
            .prepare_cached("SELECT seq, expires FROM idempotency WHERE seq > ?1 ORDER BY seq LIMIT 1")?;
        let found = statement.query_row([self.first], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        (self.first, self.first_expires) = found.unwrap_or((self.last + 1, i64::MAX));
        Ok(())
    }
}
