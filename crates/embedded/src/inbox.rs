//! The inbox: which messages of brokers are done, by worker and message id.

use std::time::Duration;

use rusqlite::{Connection, Result, params};

use crate::{
    expiring::{Expiring, expiry},
    options::Options,
};

/// Messages that are done.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    rows: Expiring,
    keep: Duration,
}

impl Inbox {
    /// Reads how many rows there are.
    pub(crate) fn load(connection: &Connection, options: &Options) -> Result<Self> {
        let rows = Expiring::load(connection, "inbox", options.inbox_ids)?;
        Ok(Self { rows, keep: options.inbox_keep })
    }

    /// How many there are, at most.
    pub(crate) fn count(&self) -> u64 {
        self.rows.count()
    }

    /// Marks a message as done that was not.
    pub(crate) fn insert(&mut self, connection: &Connection, worker: i64, id: &str, now: i64) -> Result<()> {
        let expires = expiry(now, self.keep);
        // Replaces a row that has expired, if it is still there.
        let mut statement = connection.prepare_cached(
            "INSERT OR REPLACE INTO inbox (seq, worker, id, expires) VALUES (?1, ?2, ?3, ?4)",
        )?;
        statement.execute(params![self.rows.next(expires), worker, id, expires])?;
        Ok(())
    }

    /// Deletes a few rows that have expired or are too many. Once per transaction.
    pub(crate) fn trim(&mut self, connection: &Connection, now: i64) -> Result<()> {
        self.rows.trim(connection, now)
    }
}

/// Whether a worker is done with a message.
pub(crate) fn contains(connection: &Connection, worker: i64, id: &str, now: i64) -> Result<bool> {
    let text = "SELECT 1 FROM inbox WHERE worker = ?1 AND id = ?2 AND expires > ?3";
    connection.prepare_cached(text)?.exists(params![worker, id, now])
}
