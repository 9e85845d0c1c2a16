//! What the outside world saw; no crash of the process takes it back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use outboard::core::{Position, Time};

/// One attempt that a handler began.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    pub(crate) worker: String,
    pub(crate) position: Position,
    pub(crate) attempt: u32,
    pub(crate) began: Time,
    /// Which life of the process, from 0.
    pub(crate) life: usize,
    pub(crate) end: Option<End>,
}

/// How an attempt ended, as far as the outside saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Done,
    Failed,
    /// The target was sick.
    Refused,
    Snoozed,
    Dead,
}

/// How one life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LifeEnd {
    Crashed,
    Drained,
    Idle,
}

#[derive(Debug, Default)]
struct Record {
    runs: Vec<Run>,
    /// The client's number of a message → the position that was acknowledged.
    accepted: BTreeMap<u64, Position>,
    lives: Vec<LifeEnd>,
    notes: Vec<String>,
    broken: Vec<String>,
}

/// Shared by the world, the handlers and the client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Record>>);

impl Journal {
    fn with<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        change(&mut self.0.lock().expect("nobody panics while writing the journal"))
    }

    /// Notes that an attempt began; returns its number for [`Journal::end`].
    pub(crate) fn begin(&self, run: Run) -> usize {
        self.with(|record| {
            record.runs.push(run);
            record.runs.len() - 1
        })
    }

    pub(crate) fn end(&self, run: usize, end: End) {
        self.with(|record| record.runs[run].end = Some(end));
    }

    pub(crate) fn accept(&self, number: u64, position: Position) {
        let before = self.with(|record| record.accepted.insert(number, position));
        if before.is_some_and(|before| before != position) {
            self.broken(format!("promise 1: message {number} was accepted at {before:?} and at {position}"));
        }
    }

    pub(crate) fn end_life(&self, end: LifeEnd) {
        self.with(|record| record.lives.push(end));
    }

    pub(crate) fn note(&self, note: String) {
        self.with(|record| record.notes.push(note));
    }

    pub(crate) fn broken(&self, what: String) {
        self.with(|record| record.broken.push(what));
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.with(|record| record.runs.clone())
    }

    pub(crate) fn accepted(&self) -> BTreeMap<u64, Position> {
        self.with(|record| record.accepted.clone())
    }

    pub(crate) fn lives(&self) -> Vec<LifeEnd> {
        self.with(|record| record.lives.clone())
    }

    pub(crate) fn all_broken(&self) -> Vec<String> {
        self.with(|record| record.broken.clone())
    }

    pub(crate) fn crashes(&self) -> u64 {
        self.with(|record| record.lives.iter().filter(|end| **end == LifeEnd::Crashed).count() as u64)
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.with(|record| {
            let runs = record.runs.iter().map(|run| {
                let Run { worker, position, attempt, began, life, end } = run;
                format!("life {life} at {began}: {worker} runs {position}, attempt {attempt}: {end:?}")
            });
            let accepted = record.accepted.iter().map(|(number, position)| format!("{number} is {position}"));
            runs.chain(accepted).chain(record.notes.iter().cloned()).collect()
        })
    }
}
