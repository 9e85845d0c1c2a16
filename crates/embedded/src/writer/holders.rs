//! Who holds a worker: open, release, pause, and dead letters that come back.

use std::sync::Arc;

use outboard_core::{
    Kind, PortError, Position,
    ledger::{
        DeadId, DeadLetter, Epoch, OpenWorker, Opened, Parked, ParkedChange, ParkedState, Start, WorkerName,
    },
};
use rusqlite::params;

use crate::{
    error::Failure,
    queries::{NEVER, dead_letter, next_due, running},
    writer::batch::Batch,
};

impl Batch<'_> {
    /// Gives a worker to a new holder.
    pub(super) fn open(&mut self, open: &OpenWorker) -> Result<Opened, Failure> {
        if self.workers.get(&open.worker).is_none() {
            let low = match open.start {
                Start::Beginning => Position::START,
                Start::End => Position(self.end.position),
            };
            self.workers.add(self.connection, &open.worker, low)?;
        }
        let state = self.workers.change(&open.worker).expect("the worker was added");
        let (clean, claims, worker) = (state.clean, state.claims, state.id);
        state.epoch += 1;
        state.clean = false;
        state.claims = open.claims;
        let mut opened = Opened {
            epoch: state.epoch,
            cursor: state.cursor.clone(),
            clean,
            claims,
            running: Vec::new(),
            paused: state.paused.clone(),
            next_due: None,
            parked: state.parked,
            revived: state.revived.subscribe(),
        };
        if !clean {
            let mut charge = self.connection.prepare_cached(&format!(
                "UPDATE parked SET crashes = crashes + 1 WHERE worker = ?1 AND due = {NEVER} AND state = ?2"
            ))?;
            charge.execute(params![worker, ParkedState::Suspect as i64])?;
        }
        opened.running = running(self.connection, worker)?;
        opened.next_due = next_due(self.connection, worker)?;
        self.counts.rows_read += opened.running.len() + usize::from(opened.next_due.is_some());
        Ok(opened)
    }

    /// Marks a worker as cleanly stopped.
    pub(super) fn release(&mut self, worker: &WorkerName, epoch: Epoch) -> Result<(), PortError> {
        let state = self.workers.get(worker).ok_or_else(|| unknown_worker(worker))?;
        if state.epoch != epoch {
            return Err(PortError::new(Kind::Fenced, format!("a newer holder has worker {worker}")));
        }
        self.workers.change(worker).expect("it was found").clean = true;
        Ok(())
    }

    /// Pauses or resumes a worker.
    pub(super) fn pause(&mut self, worker: &WorkerName, reason: Option<Arc<str>>) -> Result<(), PortError> {
        self.workers.change(worker).ok_or_else(|| unknown_worker(worker))?.paused = reason;
        Ok(())
    }

    /// Makes a dead letter a parked message, due now.
    pub(super) fn revive(&mut self, id: DeadId) -> Result<Result<DeadLetter, PortError>, Failure> {
        let Some(letter) = dead_letter(self.connection, id)? else {
            return Ok(Err(PortError::new(Kind::NotFound, format!("there is no dead letter {id}"))));
        };
        self.connection.prepare_cached("DELETE FROM dead WHERE id = ?1")?.execute([id.cast_signed()])?;
        let state = self.workers.change(&letter.worker).expect("a dead letter's worker is known");
        state.dead = state.dead.saturating_sub(1);
        let worker = state.id;
        let parked = Parked {
            position: letter.message_id,
            state: ParkedState::Retry,
            due: self.now,
            attempts: 0,
            crashes: 0,
            reason: letter.reason.clone(),
        };
        let delta = self.park(worker, &ParkedChange::Put(parked))?;
        self.count_parked(&letter.worker, delta);
        self.revived.push(letter.worker.clone());
        Ok(Ok(letter))
    }
}

fn unknown_worker(worker: &str) -> PortError {
    PortError::new(Kind::NotFound, format!("there is no worker {worker}"))
}
