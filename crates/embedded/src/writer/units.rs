//! Units: guards first, then writes.

use std::sync::Arc;

use bytes::Bytes;
use outboard_core::{
    Kind, PortError, Position,
    cursor::Cursor,
    fault::Point,
    ledger::{Guard, KeyWrite, NewDead, Parked, ParkedChange, ParkedState, UnitResult, WorkerName},
};
use rusqlite::params;

use crate::{
    error::Failure,
    inbox,
    queries::{NEVER, key},
    request::PreparedUnit,
    writer::batch::Batch,
};

/// The value that each written key gets in the end; `None` deletes it.
type Values = Vec<(Arc<str>, Option<Bytes>)>;

impl Batch<'_> {
    /// Writes units, each by itself applied, in conflict, refused or fenced; an error when one of them is impossible,
    /// and then none of them is written.
    pub(super) fn commit(
        &mut self,
        units: &mut [PreparedUnit],
    ) -> Result<Result<Vec<UnitResult>, PortError>, Failure> {
        if let Err(error) = self.check_done(units) {
            return Ok(Err(error));
        }
        if self.counts.units == 0 {
            self.reach(Point::CommitBegun)?;
        }
        let mut results = Vec::with_capacity(units.len());
        for unit in units {
            self.counts.units += 1;
            let result = self.unit(unit)?;
            match result {
                UnitResult::Applied(_) => self.counts.applied += 1,
                UnitResult::Conflict => self.counts.in_conflict += 1,
                UnitResult::Refused(_) => self.counts.units_refused += 1,
                UnitResult::Repeated => self.counts.repeated += 1,
                UnitResult::Fenced => self.counts.fenced += 1,
            }
            results.push(result);
            self.reach(Point::UnitWritten)?;
        }
        Ok(Ok(results))
    }

    /// Whether the done marks lie in the log: what they mark would never be delivered otherwise.
    fn check_done(&self, units: &[PreparedUnit]) -> Result<(), PortError> {
        for PreparedUnit { unit, .. } in units {
            if let Some((_, to)) = unit.done.iter().find(|(_, to)| to.0 > self.end.position) {
                let text =
                    format!("worker {} is not done with message {to}: it is not in the log", unit.worker);
                return Err(PortError::new(Kind::Invalid, text));
            }
        }
        Ok(())
    }

    fn unit(&mut self, prepared: &mut PreparedUnit) -> Result<UnitResult, Failure> {
        prepared.is_written = false;
        let unit = &prepared.unit;
        let Some(state) = self.workers.get(&unit.worker) else { return Ok(UnitResult::Fenced) };
        if state.epoch != unit.epoch {
            return Ok(UnitResult::Fenced);
        }
        let worker = state.id;
        let now = self.now.as_millis();
        if let Some(id) = &unit.inbox
            && inbox::contains(self.connection, worker, id, now)?
        {
            return Ok(UnitResult::Repeated);
        }
        if !fits(&state.cursor, &unit.done) {
            // The holder's window moves with all of its units: one before this was in conflict.
            return Ok(UnitResult::Conflict);
        }
        for Guard::Version(name, version) in &unit.guards {
            if key(self.connection, worker, name)?.version != *version {
                return Ok(UnitResult::Conflict);
            }
        }
        if let Some(reason) = &prepared.refusal {
            return Ok(UnitResult::Refused(reason.clone()));
        }
        let values = match self.values(worker, &unit.writes)? {
            Ok(values) => values,
            Err(reason) => return Ok(UnitResult::Refused(reason)),
        };
        self.write_keys(&unit.worker, worker, &values)?;
        if let Some(id) = &unit.inbox {
            self.inbox.insert(self.connection, worker, id, now)?;
        }
        for change in &unit.parked {
            let delta = self.park(worker, change)?;
            self.count_parked(&unit.worker, delta);
        }
        for dead in &unit.dead {
            let added = self.bury(worker, dead)?;
            let state = self.workers.change(&unit.worker).expect("the unit's worker is known");
            state.dead += added as u64;
        }
        if !unit.done.is_empty() {
            let state = self.workers.change(&unit.worker).expect("the unit's worker is known");
            for &(from, to) in &unit.done {
                let fits = state.cursor.mark(from, to);
                assert!(fits, "done marks are checked before their unit is written");
            }
        }
        let first = (!prepared.appends.is_empty()).then_some(Position(self.end.position + 1));
        for message in &mut prepared.appends {
            self.end.insert(&mut self.insert, message)?;
        }
        prepared.is_written = true;
        self.counts.appends += usize::from(first.is_some());
        Ok(UnitResult::Applied(first))
    }

    /// What the written keys become, or why they cannot be written.
    fn values(&self, worker: i64, writes: &[KeyWrite]) -> Result<Result<Values, Arc<str>>, Failure> {
        let mut values: Values = Vec::new();
        for write in writes {
            let (name, value) = match write {
                KeyWrite::Set(name, value) => (name, Some(value.clone())),
                KeyWrite::Delete(name) => (name, None),
                KeyWrite::Add(name, delta) => {
                    let before = match values.iter().rev().find(|(written, _)| written == name) {
                        Some((_, value)) => value.clone(),
                        None => key(self.connection, worker, name)?.value,
                    };
                    let Some(sum) = add(before.as_deref(), *delta) else {
                        let text =
                            format!("nothing can be added to the key `{name}`: it holds no whole number");
                        return Ok(Err(text.into()));
                    };
                    (name, Some(Bytes::from(sum.to_string())))
                }
            };
            values.push((name.clone(), value));
        }
        Ok(Ok(values))
    }

    fn write_keys(&mut self, name: &WorkerName, worker: i64, values: &Values) -> Result<(), Failure> {
        if values.is_empty() {
            return Ok(());
        }
        let state = self.workers.change(name).expect("the unit's worker is known");
        for (key, value) in values {
            let Some(value) = value else {
                let text = "DELETE FROM keys WHERE worker = ?1 AND key = ?2";
                self.connection.prepare_cached(text)?.execute(params![worker, key])?;
                continue;
            };
            state.version += 1;
            let mut statement = self.connection.prepare_cached(
                "INSERT INTO keys (worker, key, value, version) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET value = excluded.value, version = excluded.version",
            )?;
            statement.execute(params![worker, key, &**value, state.version.cast_signed()])?;
        }
        Ok(())
    }

    /// Changes a parked row. Returns by how many rows there are more.
    pub(super) fn park(&self, worker: i64, change: &ParkedChange) -> Result<i64, Failure> {
        let connection = self.connection;
        match change {
            ParkedChange::Put(parked) => self.put(worker, parked),
            ParkedChange::Remove(position) => {
                let text = "DELETE FROM parked WHERE worker = ?1 AND position = ?2";
                let removed =
                    connection.prepare_cached(text)?.execute(params![worker, position.0.cast_signed()])?;
                Ok(-(removed as i64))
            }
            ParkedChange::GiveBack(position, attempts) => {
                let mut statement = connection.prepare_cached(
                    "UPDATE parked SET attempts = max(attempts - ?3, 0), due = ?4
                     WHERE worker = ?1 AND position = ?2 AND state = ?5",
                )?;
                let (position, due) = (position.0.cast_signed(), self.now.as_millis());
                statement.execute(params![worker, position, attempts, due, ParkedState::Retry as i64])?;
                Ok(0)
            }
        }
    }

    fn put(&self, worker: i64, parked: &Parked) -> Result<i64, Failure> {
        let due = match parked.state {
            // Running rows are found by this due time, and by no other.
            ParkedState::Straggler | ParkedState::Suspect => NEVER,
            _ => parked.due.as_millis().min(NEVER - 1),
        };
        let (position, state) = (parked.position.0.cast_signed(), parked.state as i64);
        let values = params![worker, position, state, due, parked.attempts, parked.crashes, parked.reason];
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO parked (worker, position, state, due, attempts, crashes, reason)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        )?;
        if insert.execute(values)? == 1 {
            return Ok(1);
        }
        let mut update = self.connection.prepare_cached(
            "UPDATE parked SET state = ?3, due = ?4, attempts = ?5, crashes = ?6, reason = ?7
             WHERE worker = ?1 AND position = ?2",
        )?;
        update.execute(values)?;
        Ok(0)
    }

    /// Keeps a count beside the rows, so that they are never counted.
    pub(super) fn count_parked(&mut self, name: &WorkerName, delta: i64) {
        if delta != 0 {
            let state = self.workers.change(name).expect("the worker is known");
            state.parked = state.parked.saturating_add_signed(delta);
        }
    }

    /// Adds a dead letter; one that is there already is replaced, which happens when a message runs a second
    /// time.
    fn bury(&self, worker: i64, dead: &NewDead) -> Result<usize, Failure> {
        let (position, at) = (dead.position.0.cast_signed(), self.now.as_millis());
        let values = params![worker, position, dead.reason, dead.attempts, at];
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO dead (worker, position, reason, attempts, at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
        )?;
        let added = insert.execute(values)?;
        if added == 0 {
            let mut update = self.connection.prepare_cached(
                "UPDATE dead SET reason = ?3, attempts = ?4, at = ?5 WHERE worker = ?1 AND position = ?2",
            )?;
            update.execute(values)?;
        }
        Ok(added)
    }
}

/// Whether a cursor's window takes these marks.
fn fits(cursor: &Cursor, done: &[(Position, Position)]) -> bool {
    let limit = cursor.limit();
    if done.iter().all(|(_, to)| *to <= limit) {
        return true;
    }
    let mut moved = cursor.clone();
    done.iter().all(|&(from, to)| moved.mark(from, to))
}

/// A counter's next value; nothing when it holds something else than a number.
fn add(before: Option<&[u8]>, delta: i64) -> Option<i64> {
    let before = before.map_or(Some(0), |bytes| std::str::from_utf8(bytes).ok()?.parse::<i64>().ok())?;
    Some(before.saturating_add(delta))
}
