//! Rows that are kept for a time, numbered in the order in which they were written.

use rusqlite::{Connection, OptionalExtension, Result};

/// How many old rows may be deleted for each new one: the table shrinks, no transaction pays for many.
const DELETES_PER_INSERT: usize = 4;

/// The range of rows that exist in a table with the columns `seq` and `expires`, so that they are never counted.
#[derive(Debug, Clone)]
pub(crate) struct Expiring {
    delete: String,
    find_first: String,
    /// The oldest row's number; greater than `last` when there is none.
    first: i64,
    last: i64,
    /// When the oldest row expires.
    first_expires: i64,
    max: u64,
    /// How many rows this transaction may still delete.
    deletes: usize,
}

impl Expiring {
    /// Reads the range; two rows at most. At most `max` rows are kept.
    pub(crate) fn load(connection: &Connection, table: &'static str, max: u64) -> Result<Self> {
        let newest = format!("SELECT max(seq) FROM {table}");
        let last: Option<i64> = connection.query_row(&newest, [], |row| row.get(0))?;
        let mut expiring = Self {
            delete: format!("DELETE FROM {table} WHERE seq = ?1"),
            find_first: format!("SELECT seq, expires FROM {table} WHERE seq > ?1 ORDER BY seq LIMIT 1"),
            first: 0,
            last: last.unwrap_or(0),
            first_expires: i64::MAX,
            max,
            deletes: 0,
        };
        expiring.find_first(connection)?;
        Ok(expiring)
    }

    /// How many rows there are, at most.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.last - self.first + 1).unwrap_or(0)
    }

    /// The number of a row that is about to be inserted, and expires then.
    pub(crate) fn next(&mut self, expires: i64) -> i64 {
        self.last += 1;
        if self.count() == 1 {
            self.first_expires = expires;
        }
        self.deletes += DELETES_PER_INSERT;
        self.last
    }

    /// Deletes a few rows that have expired or are too many. Once per transaction.
    pub(crate) fn trim(&mut self, connection: &Connection, now: i64) -> Result<()> {
        while self.deletes > 0 && self.count() > 0 && (self.first_expires <= now || self.count() > self.max) {
            self.deletes -= 1;
            connection.prepare_cached(&self.delete)?.execute([self.first])?;
            self.find_first(connection)?;
        }
        self.deletes = 0;
        Ok(())
    }

    /// Finds the oldest row after the one that was.
    fn find_first(&mut self, connection: &Connection) -> Result<()> {
        let mut statement = connection.prepare_cached(&self.find_first)?;
        let found = statement.query_row([self.first], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        (self.first, self.first_expires) = found.unwrap_or((self.last + 1, i64::MAX));
        Ok(())
    }
}

/// When something expires that is kept for so long.
pub(crate) fn expiry(now: i64, keep: std::time::Duration) -> i64 {
    now.saturating_add(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX))
}
