//! Our tickets and those of the broker's consumer: effects are acknowledged later than they are settled.

use std::collections::VecDeque;

use crate::consumer::Ticket;

/// Tickets that are not durable yet, in order.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// The last one that is durable.
    durable: Ticket,
    /// The broker's ticket for each one after it; none while its effects are not committed.
    pending: VecDeque<Option<Ticket>>,
}

impl Tickets {
    /// The last one that was given.
    pub(super) fn last(&self) -> Ticket {
        self.durable + self.pending.len() as u64
    }

    /// Gives the next one, with the broker's if there is one already.
    pub(super) fn next(&mut self, of_queue: Option<Ticket>) -> Ticket {
        self.pending.push_back(of_queue);
        self.last()
    }

    /// The broker's ticket for one that had none.
    pub(super) fn acknowledged(&mut self, ticket: Ticket, of_queue: Ticket) {
        let index = ticket.checked_sub(self.durable + 1).and_then(|index| usize::try_from(index).ok());
        if let Some(pending) = index.and_then(|index| self.pending.get_mut(index)) {
            *pending = Some(of_queue);
        }
    }

    /// Nobody asks: what the broker's consumer has been told counts as durable.
    pub(super) fn forget(&mut self) {
        self.durable(Ticket::MAX);
    }

    /// Up to which one everything is durable when the broker's are up to `of_queue`.
    pub(super) fn durable(&mut self, of_queue: Ticket) -> Ticket {
        while let Some(Some(ticket)) = self.pending.front()
            && *ticket <= of_queue
        {
            self.pending.pop_front();
            self.durable += 1;
        }
        self.durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_durable_when_all_before_it_are() {
        let mut tickets = Tickets::default();
        assert_eq!([tickets.next(Some(1)), tickets.next(None), tickets.next(Some(2))], [1, 2, 3]);
        assert_eq!(tickets.durable(2), 1, "the second has effects that are not committed");
        tickets.acknowledged(2, 3);
        assert_eq!(tickets.durable(2), 1, "its acknowledgement is not durable");
        assert_eq!(tickets.durable(3), 3);
        assert_eq!((tickets.last(), tickets.next(Some(4))), (3, 4));
    }
}
