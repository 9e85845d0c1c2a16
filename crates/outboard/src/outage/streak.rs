//! Failures in a row.

use std::collections::VecDeque;

use outboard_core::{Position, consumer::Tag};

use crate::{outcome::Cause, policy::OutagePolicy};

/// The last failures since the last success that may speak of the target.
#[derive(Debug)]
pub(super) struct Streak {
    failures: usize,
    distinct: usize,
    /// The last ones of any cause.
    all: VecDeque<Seen>,
    /// The last ones that say by themselves that the target cannot be reached.
    unreachable: VecDeque<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    tag: Tag,
    id: Position,
    cause: Cause,
}

impl Streak {
    pub(super) fn new(policy: &OutagePolicy) -> Self {
        Self {
            failures: policy.failures.max(1) as usize,
            distinct: policy.distinct as usize,
            all: VecDeque::new(),
            unreachable: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn reset(&mut self) {
        self.all.clear();
        self.unreachable.clear();
    }

    /// Adds a failure. When the row is full, the attempts in it are returned, to be given back.
    pub(super) fn push(&mut self, tag: Tag, id: Position, cause: Cause) -> Option<Vec<(Tag, u32)>> {
        let seen = Seen { tag, id, cause };
        push_bounded(&mut self.all, seen, self.failures);
        if matches!(cause, Cause::Unavailable | Cause::Unreachable) {
            push_bounded(&mut self.unreachable, seen, self.failures);
        }
        if self.unreachable.len() == self.failures {
            return Some(attempts_of(&self.unreachable));
        }
        let is_wide = self.all.len() == self.failures && self.covered() >= self.distinct;
        is_wide.then(|| attempts_of(&self.all))
    }

    /// The messages of the last failures.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.all.iter().map(|seen| seen.id.0)
    }

    /// Those of them that reached the target and got an error, or no answer at all: one may be what brought the target
    /// down.
    pub(super) fn answered(&self) -> Vec<u64> {
        self.all.iter().filter(|seen| seen.cause == Cause::Target).map(|seen| seen.id.0).collect()
    }

    /// The counted attempts of the last failures.
    pub(super) fn attempts(&self) -> Vec<(Tag, u32)> {
        attempts_of(&self.all)
    }

    /// How many messages the last failures cover.
    fn covered(&self) -> usize {
        let mut ids: Vec<Position> = self.all.iter().map(|seen| seen.id).collect();
        ids.sort();
        ids.dedup();
        ids.len()
    }
}

fn push_bounded(row: &mut VecDeque<Seen>, seen: Seen, max: usize) {
    if row.len() == max {
        row.pop_front();
    }
    row.push_back(seen);
}

/// Each message once, with how often it is in the row.
fn attempts_of(row: &VecDeque<Seen>) -> Vec<(Tag, u32)> {
    let mut attempts: Vec<(Tag, u32)> = Vec::with_capacity(row.len());
    for seen in row {
        match attempts.iter_mut().find(|(tag, _)| *tag == seen.tag) {
            Some((_, count)) => *count += 1,
            None => attempts.push((seen.tag, 1)),
        }
    }
    attempts
}
