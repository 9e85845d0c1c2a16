//! What the ledger reads: parked messages, keys, dead letters, workers and fates.

use std::sync::Arc;

use bytes::Bytes;
use outboard_core::{
    Position, Time,
    cursor::Cursor,
    ledger::{
        DeadLetter, DeadPage, DeadQuery, DuePage, Fate, Parked, ParkedState, Versioned, WorkerName, WorkerRow,
    },
};
use rusqlite::{Connection, OptionalExtension, Result, Row, params, types::ValueRef};

use crate::inbox;

/// The most rows that one query returns.
const MAX_ROWS: usize = 1_000;

/// The most due rows that one query returns: more than any worker has in hand, since those are among them.
const MAX_DUE_ROWS: usize = 32_768;

/// The due time of running rows: never.
pub(crate) const NEVER: i64 = i64::MAX;

/// The columns that [`parked_row`] reads.
pub(crate) const PARKED_COLUMNS: &str = "position, state, due, attempts, crashes, reason";

/// The columns that [`dead_row`] reads, from `dead` joined with `workers`.
const DEAD_COLUMNS: &str = "dead.id, dead.position, workers.name, dead.reason, dead.attempts, dead.at";

/// The number behind a worker's name.
fn worker_id(connection: &Connection, worker: &str) -> Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM workers WHERE name = ?1")?;
    statement.query_row([worker], |row| row.get(0)).optional()
}

/// A parked message from [`PARKED_COLUMNS`].
pub(crate) fn parked_row(row: &Row<'_>) -> Result<Parked> {
    Ok(Parked {
        position: position(row, 0)?,
        state: parked_state(row.get(1)?)?,
        due: Time::from_millis(row.get(2)?),
        attempts: row.get(3)?,
        crashes: row.get(4)?,
        reason: text(row, 5)?,
    })
}

fn parked_state(number: i64) -> Result<ParkedState> {
    use ParkedState::{Retry, Scheduled, Snoozed, Straggler, Suspect};
    let states = [Scheduled, Retry, Snoozed, Straggler, Suspect];
    let known = states.into_iter().find(|state| *state as i64 == number);
    known.ok_or(rusqlite::Error::IntegralValueOutOfRange(1, number))
}

/// A dead letter from [`DEAD_COLUMNS`].
fn dead_row(row: &Row<'_>) -> Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        message_id: position(row, 1)?,
        worker: text(row, 2)?,
        reason: text(row, 3)?,
        attempts: row.get(4)?,
        at: Time::from_millis(row.get(5)?),
    })
}

/// A column as a position.
pub(crate) fn position(row: &Row<'_>, column: usize) -> Result<Position> {
    Ok(Position(row.get::<_, i64>(column)?.cast_unsigned()))
}

/// A column as a shared string.
pub(crate) fn text(row: &Row<'_>, column: usize) -> Result<Arc<str>> {
    Ok(row.get_ref(column)?.as_str()?.into())
}

/// A cursor from its low-water mark and its bitmap, which is NULL when it is empty.
pub(crate) fn cursor(row: &Row<'_>, low: usize, done: usize) -> Result<Cursor> {
    let bitmap = row.get_ref(done)?.as_bytes_or_null()?.unwrap_or_default();
    Ok(Cursor::restore(position(row, low)?, bitmap))
}

/// Parked messages due at or before `until`.
pub(crate) fn due(connection: &Connection, worker: &str, until: Time, max: usize) -> Result<DuePage> {
    let Some(worker) = worker_id(connection, worker)? else { return Ok(DuePage::default()) };
    let max = max.min(MAX_DUE_ROWS);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {PARKED_COLUMNS} FROM parked WHERE worker = ?1 AND due < {NEVER}
         ORDER BY due, position LIMIT ?2"
    ))?;
    let mut rows = statement.query(params![worker, max as i64 + 1])?;
    let mut page = DuePage::default();
    while let Some(row) = rows.next()? {
        let parked = parked_row(row)?;
        if page.rows.len() == max || parked.due > until {
            page.next = Some(parked.due);
            break;
        }
        page.rows.push(parked);
    }
    Ok(page)
}

/// When a worker's first parked message is due.
pub(crate) fn next_due(connection: &Connection, worker: i64) -> Result<Option<Time>> {
    let text = format!("SELECT due FROM parked WHERE worker = ?1 AND due < {NEVER} ORDER BY due LIMIT 1");
    let mut statement = connection.prepare_cached(&text)?;
    statement.query_row([worker], |row| Ok(Time::from_millis(row.get(0)?))).optional()
}

/// A worker's rows in state straggler or suspect.
pub(crate) fn running(connection: &Connection, worker: i64) -> Result<Vec<Parked>> {
    let text =
        format!("SELECT {PARKED_COLUMNS} FROM parked WHERE worker = ?1 AND due = {NEVER} ORDER BY position");
    let mut statement = connection.prepare_cached(&text)?;
    statement.query_map([worker], parked_row)?.collect()
}

/// One key of a worker.
pub(crate) fn key(connection: &Connection, worker: i64, key: &str) -> Result<Versioned> {
    let mut statement =
        connection.prepare_cached("SELECT value, version FROM keys WHERE worker = ?1 AND key = ?2")?;
    let found = statement.query_row(params![worker, key], |row| {
        let value = Some(Bytes::copy_from_slice(row.get_ref(0)?.as_bytes()?));
        Ok(Versioned { value, version: row.get::<_, i64>(1)?.cast_unsigned() })
    });
    Ok(found.optional()?.unwrap_or_default())
}

/// Durable keys of a worker, in the order asked.
pub(crate) fn keys(connection: &Connection, worker: &str, keys: &[Arc<str>]) -> Result<Vec<Versioned>> {
    let _one_snapshot = connection.unchecked_transaction()?;
    let worker = worker_id(connection, worker)?;
    let read =
        |name: &Arc<str>| worker.map_or(Ok(Versioned::default()), |worker| key(connection, worker, name));
    keys.iter().map(read).collect()
}

/// Which of these messages a worker is done with.
pub(crate) fn inbox(connection: &Connection, worker: &str, ids: &[Arc<str>], now: Time) -> Result<Vec<bool>> {
    let _one_snapshot = connection.unchecked_transaction()?;
    let Some(worker) = worker_id(connection, worker)? else { return Ok(vec![false; ids.len()]) };
    ids.iter().map(|id| inbox::contains(connection, worker, id, now.as_millis())).collect()
}

/// Dead letters by id.
pub(crate) fn dead(connection: &Connection, query: &DeadQuery) -> Result<DeadPage> {
    let max = query.max.min(MAX_ROWS);
    let after = query.after.cast_signed();
    let from = format!("SELECT {DEAD_COLUMNS} FROM dead JOIN workers ON workers.id = dead.worker");
    let mut letters: Vec<DeadLetter> = match &query.worker {
        None => {
            let text = format!("{from} WHERE dead.id > ?1 ORDER BY dead.id LIMIT ?2");
            let mut statement = connection.prepare_cached(&text)?;
            statement.query_map(params![after, max as i64 + 1], dead_row)?.collect::<Result<_>>()?
        }
        Some(worker) => {
            let Some(worker) = worker_id(connection, worker)? else { return Ok(DeadPage::default()) };
            let text = format!("{from} WHERE dead.worker = ?3 AND dead.id > ?1 ORDER BY dead.id LIMIT ?2");
            let mut statement = connection.prepare_cached(&text)?;
            statement.query_map(params![after, max as i64 + 1, worker], dead_row)?.collect::<Result<_>>()?
        }
    };
    let has_more = letters.len() > max;
    letters.truncate(max);
    let next = if has_more { letters.last().map(|letter| letter.id) } else { None };
    Ok(DeadPage { letters, next })
}

/// One dead letter.
pub(crate) fn dead_letter(connection: &Connection, id: u64) -> Result<Option<DeadLetter>> {
    let text = format!(
        "SELECT {DEAD_COLUMNS} FROM dead JOIN workers ON workers.id = dead.worker WHERE dead.id = ?1"
    );
    connection.prepare_cached(&text)?.query_row([id.cast_signed()], dead_row).optional()
}

/// Every worker, by name.
pub(crate) fn workers(connection: &Connection) -> Result<Vec<WorkerRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT name, epoch, low, done, began_after, parked, dead, paused FROM workers ORDER BY name",
    )?;
    let rows = statement.query_map([], |row| {
        let cursor = cursor(row, 2, 3)?;
        let paused = match row.get_ref(7)? {
            ValueRef::Null => None,
            reason => Some(reason.as_str()?.into()),
        };
        Ok(WorkerRow {
            name: text(row, 0)?,
            epoch: row.get::<_, i64>(1)?.cast_unsigned(),
            low: cursor.low(),
            done_above: cursor.done_above(),
            began_after: position(row, 4)?,
            parked: row.get::<_, i64>(5)?.cast_unsigned(),
            dead: row.get::<_, i64>(6)?.cast_unsigned(),
            paused,
        })
    })?;
    rows.collect()
}

/// What every worker has done with a message, by name.
pub(crate) fn fates(connection: &Connection, at: Position) -> Result<Vec<(WorkerName, Fate)>> {
    let _one_snapshot = connection.unchecked_transaction()?;
    let mut statement =
        connection.prepare_cached("SELECT id, name, low, done, began_after FROM workers ORDER BY name")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let fate = fate(connection, row.get(0)?, at)?;
        let (cursor, began_after) = (cursor(row, 2, 3)?, position(row, 4)?);
        let fate = fate.unwrap_or(match () {
            () if at <= began_after => Fate::Before,
            () if cursor.is_done(at) => Fate::Done,
            () => Fate::Pending,
        });
        found.push((text(row, 1)?, fate));
    }
    Ok(found)
}

/// What a worker's rows say of a message, if there are any.
fn fate(connection: &Connection, worker: i64, at: Position) -> Result<Option<Fate>> {
    let at = at.0.cast_signed();
    let text = format!("SELECT {PARKED_COLUMNS} FROM parked WHERE worker = ?1 AND position = ?2");
    let parked = connection.prepare_cached(&text)?.query_row([worker, at], parked_row).optional()?;
    if let Some(parked) = parked {
        return Ok(Some(Fate::Parked(parked)));
    }
    let text = format!(
        "SELECT {DEAD_COLUMNS} FROM dead JOIN workers ON workers.id = dead.worker
         WHERE dead.position = ?2 AND dead.worker = ?1"
    );
    let dead = connection.prepare_cached(&text)?.query_row([worker, at], dead_row).optional()?;
    Ok(dead.map(Fate::Dead))
}
