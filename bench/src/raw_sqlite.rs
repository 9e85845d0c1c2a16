//! Raw SQLite: one thread, a prepared insert, the same table, columns, checksum and pragmas as ours.

use std::{path::Path, time::SystemTime};

use anyhow::Result;
use outboard_embedded::{
    Options,
    format::{BEFORE_FIRST, CREATE_MESSAGES, Fields, INSERT_MESSAGE, WRITER_PRAGMAS, checksum},
};
use rusqlite::{Connection, params};

use crate::order::{KIND, Orders};

/// SQLite's page, which its automatic checkpoint counts in.
const PAGE_BYTES: u64 = 4_096;

/// A log that does nothing but keep rows.
#[derive(Debug)]
pub(crate) struct RawSqlite {
    connection: Connection,
    orders: Orders,
    last_id: i64,
    last_checksum: u64,
}

impl RawSqlite {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let connection = Connection::open(directory.join("raw.db"))?;
        connection.execute_batch(WRITER_PRAGMAS)?;
        // SQLite's own way to hold its write-ahead log at the size that ours is held at.
        let pages = Options::default().checkpoint_bytes / PAGE_BYTES;
        connection.execute_batch(&format!("PRAGMA wal_autocheckpoint = {pages}; {CREATE_MESSAGES}"))?;
        Ok(Self { connection, orders: Orders::of_kind(KIND), last_id: 0, last_checksum: BEFORE_FIRST })
    }

    /// One transaction with this many rows, durable when it returns.
    pub(crate) fn append(&mut self, rows: usize) -> Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(INSERT_MESSAGE)?;
            let timestamp = i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?;
            for _ in 0..rows {
                let payload = self.orders.payload();
                let id = self.last_id + 1;
                let (kind, headers, run_at) = (KIND.as_bytes(), None, None);
                let fields = Fields { id, timestamp, kind, headers, payload: &payload, run_at };
                let sum = checksum(self.last_checksum, &fields);
                let (no_headers, no_run_at) = (None::<&str>, None::<i64>);
                insert.execute(params![
                    id,
                    timestamp,
                    KIND,
                    no_headers,
                    &payload[..],
                    no_run_at,
                    sum.cast_signed()
                ])?;
                (self.last_id, self.last_checksum) = (id, sum);
            }
        }
        transaction.commit()?;
        Ok(())
    }
}
