//! Idempotency keys: rows in the append's transaction.

use outboard_core::{Position, log::Idempotency};
use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::expiring::{Expiring, expiry};

/// The keys that are remembered.
#[derive(Debug, Clone)]
pub(crate) struct Keys(Expiring);

/// What an earlier append with the same key got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub(crate) body: [u8; 16],
    pub(crate) first: Position,
    pub(crate) count: u32,
}

impl Keys {
    /// At most `max` keys are kept.
    pub(crate) fn load(connection: &Connection, max: u64) -> Result<Self> {
        Expiring::load(connection, "idempotency", max).map(Self)
    }

    /// How many there are, at most.
    pub(crate) fn count(&self) -> u64 {
        self.0.count()
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
        let expires = expiry(now, idempotency.keep);
        // Replaces the row of an expired key, if it is still there.
        let mut statement = connection.prepare_cached(
            "INSERT OR REPLACE INTO idempotency (seq, key, body, first, count, expires)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let (seq, first, count) = (self.0.next(expires), got.0.0.cast_signed(), got.1);
        statement.execute(params![seq, idempotency.key, idempotency.body, first, count, expires])?;
        Ok(())
    }

    /// Deletes a few rows that have expired or are too many. Once per transaction.
    pub(crate) fn trim(&mut self, connection: &Connection, now: i64) -> Result<()> {
        self.0.trim(connection, now)
    }
}
