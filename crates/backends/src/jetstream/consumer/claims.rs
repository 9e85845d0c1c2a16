//! What a consumer has in hand, message by message.

use std::{sync::Arc, time::Duration};

use outboard_core::consumer::Ticket;
use rustc_hash::FxHashMap;

use super::{delivery::Origin, records::Record};
use crate::jetstream::protocol::frame::Incoming;

/// Claims by their messages' positions in the stream.
pub(super) type Claims = FxHashMap<u64, Claim>;

/// A message that the server has given us and that it has not heard the end of.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) incoming: Incoming,
    pub(super) origin: Origin,
    pub(super) record: Option<Box<Record>>,
    pub(super) stage: Stage,
}

/// How far a claim has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its record is being read: it may have failed before.
    Looking,
    /// May be handed out.
    Ready,
    /// In a worker's hands.
    Handed,
    /// Settled; something has to be stored before the server may hear of it.
    Storing { ticket: Ticket, what: Arc<Storing> },
    /// Settled; the server is to hear of it.
    Answering { ticket: Ticket, answer: Answer, is_written: bool },
}

/// What is stored before a message leaves us.
#[derive(Debug)]
pub(super) enum Storing {
    /// The attempt that failed.
    Attempt(Record),
    /// The dead letter.
    Letter { reason: Arc<str> },
}

/// What the server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    /// Not to be delivered again, and not done either.
    Given,
    /// To be delivered again after this time.
    Later(Duration),
}

impl Claim {
    /// Attempts counted before this delivery.
    pub(super) fn attempts(&self) -> u32 {
        self.record.as_ref().map_or(0, |record| record.attempts)
    }

    /// Whether the server has been told something that makes it deliver the message again.
    pub(super) fn is_put_off(&self) -> bool {
        matches!(self.stage, Stage::Answering { answer: Answer::Later(_), is_written: true, .. })
    }

    /// Whether the server has been told everything.
    pub(super) fn is_written(&self) -> bool {
        matches!(self.stage, Stage::Answering { is_written: true, .. })
    }
}

/// Settlements by their number: which of them are durable, and up to which all are.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    durable: Ticket,
    /// Whether the ones after `durable` are.
    later: std::collections::VecDeque<bool>,
}

impl Tickets {
    /// The next number, not durable yet.
    pub(super) fn issue(&mut self) -> Ticket {
        self.later.push_back(false);
        self.durable + self.later.len() as u64
    }

    /// This one is durable; 0 is nobody's.
    pub(super) fn confirm(&mut self, ticket: Ticket) {
        let Some(index) = ticket.checked_sub(self.durable + 1) else { return };
        if let Some(is_durable) = self.later.get_mut(index as usize) {
            *is_durable = true;
        }
        while self.later.front() == Some(&true) {
            self.later.pop_front();
            self.durable += 1;
        }
    }

    /// Everything up to here is durable.
    pub(super) fn durable(&self) -> Ticket {
        self.durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durable_is_what_has_no_gap_before_it() {
        let mut tickets = Tickets::default();
        let [one, two, three] = [(); 3].map(|()| tickets.issue());
        assert_eq!((one, two, three), (1, 2, 3));
        tickets.confirm(two);
        tickets.confirm(0);
        assert_eq!(tickets.durable(), 0);
        tickets.confirm(one);
        tickets.confirm(one);
        assert_eq!(tickets.durable(), 2);
        tickets.confirm(three);
        assert_eq!((tickets.durable(), tickets.issue()), (3, 4));
    }
}
