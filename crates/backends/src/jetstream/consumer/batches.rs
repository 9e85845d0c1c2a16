//! Answers that were written, and of which the server has not said yet that it heard them.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// A message's position, and which delivery of it was answered.
pub(super) type Answered = (u64, u64);

/// Batches of answers in the order in which they were written: the server hears them in this order, too.
#[derive(Debug, Default)]
pub(super) struct Batches {
    waiting: VecDeque<Batch>,
}

#[derive(Debug)]
struct Batch {
    number: u64,
    written: Instant,
    /// Whether its answers were written once more, in a later batch.
    is_repeated: bool,
    answers: Vec<Answered>,
}

/// How long the oldest batch has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lateness {
    /// Not too long.
    InTime,
    /// A word was lost, ours or the server's: everything is to be said again.
    Once,
    /// It was said again, and nothing came either.
    Twice,
}

impl Batches {
    pub(super) fn push(&mut self, number: u64, answers: Vec<Answered>) {
        self.waiting.push_back(Batch { number, written: Instant::now(), is_repeated: false, answers });
    }

    /// The next of the batches up to this number.
    pub(super) fn pop_through(&mut self, number: u64) -> Option<Vec<Answered>> {
        let is_heard = self.waiting.front().is_some_and(|first| first.number <= number);
        if is_heard { self.waiting.pop_front().map(|batch| batch.answers) } else { None }
    }

    /// Whether a confirmation should have come. `Once` is said one time of what waits now: who is told says it again.
    pub(super) fn lateness(&mut self, limit: Duration) -> Lateness {
        let Some(first) = self.waiting.front() else { return Lateness::InTime };
        let waited = first.written.elapsed();
        match first.is_repeated {
            true if waited >= 2 * limit => Lateness::Twice,
            false if waited >= limit => {
                self.waiting.iter_mut().for_each(|batch| batch.is_repeated = true);
                Lateness::Once
            }
            _ => Lateness::InTime,
        }
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_confirmed_is_said_again_once_and_then_given_up() {
        let limit = Duration::from_secs(3);
        let mut batches = Batches::default();
        batches.push(1, vec![(7, 1)]);
        assert_eq!(batches.lateness(limit), Lateness::InTime);
        tokio::time::advance(limit).await;
        assert_eq!(batches.lateness(limit), Lateness::Once);
        batches.push(2, vec![(7, 1)]);
        assert_eq!(batches.lateness(limit), Lateness::InTime, "it was just said again");
        tokio::time::advance(limit).await;
        assert_eq!(batches.lateness(limit), Lateness::Twice);
        // A late word counts all the same.
        assert_eq!(batches.pop_through(1), Some(vec![(7, 1)]));
        assert_eq!((batches.pop_through(1), batches.lateness(Duration::MAX)), (None, Lateness::InTime));
    }
}
