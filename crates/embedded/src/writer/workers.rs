//! What the writer knows of every worker: it is read once, and written once per transaction.

use std::{collections::HashMap, sync::Arc};

use outboard_core::{
    Position,
    cursor::Cursor,
    ledger::{Epoch, WorkerName},
};
use rusqlite::{Connection, Result, params};
use tokio::sync::watch;

use crate::queries::{cursor, position, text};

/// One worker's row, and what belongs to it in memory.
#[derive(Debug)]
pub(crate) struct WorkerState {
    pub(crate) id: i64,
    pub(crate) epoch: Epoch,
    pub(crate) cursor: Cursor,
    /// Whether the stored row has a bitmap.
    pub(crate) has_bitmap: bool,
    pub(crate) claims: u32,
    pub(crate) clean: bool,
    pub(crate) paused: Option<Arc<str>>,
    pub(crate) parked: u64,
    pub(crate) dead: u64,
    /// The version of the last key write; versions of a worker's keys never repeat.
    pub(crate) version: u64,
    /// Changes when a dead letter was revived.
    pub(crate) revived: watch::Sender<u64>,
    /// Whether the row must be written in this transaction.
    pub(crate) is_dirty: bool,
}

/// All workers by name.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    states: HashMap<WorkerName, WorkerState>,
    dirty: Vec<WorkerName>,
}

impl Workers {
    /// Reads all rows again, as after a transaction that was rolled back. Returns how many there are.
    pub(crate) fn load(&mut self, connection: &Connection) -> Result<usize> {
        let mut before = std::mem::take(&mut self.states);
        self.dirty.clear();
        let mut statement = connection.prepare_cached(
            "SELECT name, id, epoch, low, done, claims, clean, paused, parked, dead, version FROM workers",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name = text(row, 0)?;
            let revived = before.remove(&name).map_or_else(|| watch::Sender::new(0), |state| state.revived);
            let state = WorkerState {
                id: row.get(1)?,
                epoch: position(row, 2)?.0,
                cursor: cursor(row, 3, 4)?,
                has_bitmap: row.get_ref(4)?.as_bytes_or_null()?.is_some(),
                claims: row.get(5)?,
                clean: row.get(6)?,
                paused: row.get::<_, Option<String>>(7)?.map(Arc::from),
                parked: position(row, 8)?.0,
                dead: position(row, 9)?.0,
                version: position(row, 10)?.0,
                revived,
                is_dirty: false,
            };
            self.states.insert(name, state);
        }
        Ok(self.states.len())
    }

    /// A worker that was opened once.
    pub(crate) fn get(&self, name: &str) -> Option<&WorkerState> {
        self.states.get(name)
    }

    /// A worker whose row will be written in this transaction.
    pub(crate) fn change(&mut self, name: &WorkerName) -> Option<&mut WorkerState> {
        let state = self.states.get_mut(name)?;
        if !state.is_dirty {
            state.is_dirty = true;
            self.dirty.push(name.clone());
        }
        Some(state)
    }

    /// Adds a worker that was never seen, with everything up to `low` as not its own.
    pub(crate) fn add(&mut self, connection: &Connection, name: &WorkerName, low: Position) -> Result<()> {
        let mut statement = connection.prepare_cached(
            "INSERT INTO workers (name, epoch, low, began_after, claims, clean, parked, dead, version)
             VALUES (?1, 0, ?2, ?2, 0, 1, 0, 0, 0)",
        )?;
        let id = statement.insert(params![name, low.0.cast_signed()])?;
        let state = WorkerState {
            id,
            epoch: 0,
            cursor: Cursor::at(low),
            has_bitmap: false,
            claims: 0,
            clean: true,
            paused: None,
            parked: 0,
            dead: 0,
            version: 0,
            revived: watch::Sender::new(0),
            is_dirty: false,
        };
        self.states.insert(name.clone(), state);
        Ok(())
    }

    /// The highest low-water mark, with its worker.
    pub(crate) fn furthest(&self) -> Option<(&WorkerName, Position)> {
        self.states
            .iter()
            .map(|(name, state)| (name, state.cursor.highest()))
            .max_by_key(|(_, highest)| *highest)
    }

    /// Writes the rows that changed, one statement each.
    pub(crate) fn flush(&mut self, connection: &Connection) -> Result<()> {
        for name in self.dirty.drain(..) {
            let state = self.states.get_mut(&name).expect("a dirty worker is known");
            state.is_dirty = false;
            state.write(connection)?;
        }
        Ok(())
    }
}

impl WorkerState {
    fn write(&mut self, connection: &Connection) -> Result<()> {
        let bitmap = self.cursor.bitmap();
        // Most rows have no bitmap before and after: then the column is not touched.
        let text = if bitmap.is_empty() && !self.has_bitmap {
            "UPDATE workers SET epoch = ?2, low = ?3, claims = ?4, clean = ?5, paused = ?6, parked = ?7,
                 dead = ?8, version = ?9 WHERE id = ?1"
        } else {
            "UPDATE workers SET epoch = ?2, low = ?3, claims = ?4, clean = ?5, paused = ?6, parked = ?7,
                 dead = ?8, version = ?9, done = ?10 WHERE id = ?1"
        };
        let mut statement = connection.prepare_cached(text)?;
        statement.raw_bind_parameter(1, self.id)?;
        statement.raw_bind_parameter(2, self.epoch.cast_signed())?;
        statement.raw_bind_parameter(3, self.cursor.low().0.cast_signed())?;
        statement.raw_bind_parameter(4, self.claims)?;
        statement.raw_bind_parameter(5, self.clean)?;
        statement.raw_bind_parameter(6, self.paused.as_deref())?;
        statement.raw_bind_parameter(7, self.parked.cast_signed())?;
        statement.raw_bind_parameter(8, self.dead.cast_signed())?;
        statement.raw_bind_parameter(9, self.version.cast_signed())?;
        if !bitmap.is_empty() {
            statement.raw_bind_parameter(10, &bitmap)?;
        }
        if !bitmap.is_empty() || self.has_bitmap {
            self.has_bitmap = !bitmap.is_empty();
        }
        statement.raw_execute()?;
        Ok(())
    }
}
