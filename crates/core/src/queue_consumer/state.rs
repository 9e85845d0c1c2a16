//! What one worker on a queue has in hand.

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;

use super::{suspects::Suspects, tickets::Tickets};
use crate::{
    consumer::{Delivery, Effects, Tag, Ticket},
    error::PortError,
    pattern::TypeSet,
};

/// Changed under one lock, synchronously.
pub(super) struct State {
    types: TypeSet,
    /// May be handed out.
    ready: VecDeque<Delivery>,
    /// Delivered before: the ledger has to say whether they are done.
    unsure: Vec<Delivery>,
    pub(super) suspects: Suspects,
    /// Handed out and not settled.
    pub(super) claimed: FxHashMap<Tag, Delivery>,
    /// Settled with effects that are not committed.
    pub(super) effects: VecDeque<Settled>,
    pub(super) tickets: Tickets,
    /// Why nothing can be delivered any more.
    pub(super) failed: Option<PortError>,
    /// Why the last commit was refused; it is tried again.
    pub(super) trouble: Option<PortError>,
}

/// A delivery that is done once its effects are committed.
pub(super) struct Settled {
    pub(super) delivery: Delivery,
    pub(super) effects: Effects,
    pub(super) ticket: Ticket,
}

impl State {
    pub(super) fn new(types: TypeSet, suspects: Suspects) -> Self {
        Self {
            types,
            ready: VecDeque::new(),
            unsure: Vec::new(),
            suspects,
            claimed: FxHashMap::default(),
            effects: VecDeque::new(),
            tickets: Tickets::default(),
            failed: None,
            trouble: None,
        }
    }

    /// Takes a delivery, or says why it has to be given up.
    pub(super) fn take(&mut self, delivery: Delivery) -> Option<Arc<str>> {
        if !self.types.contains(&delivery.message.kind) {
            return Some(
                format!("this worker handles no messages of type `{}`", delivery.message.kind).into(),
            );
        }
        if delivery.redelivered && delivery.is_identified {
            self.unsure.push(delivery);
            return None;
        }
        self.admit(delivery)
    }

    fn admit(&mut self, delivery: Delivery) -> Option<Arc<str>> {
        match self.suspects.take(delivery) {
            Ok(delivery) => self.ready.extend(delivery),
            Err(reason) => return Some(reason),
        }
        None
    }

    /// Those that the ledger has to be asked about, with their ids.
    pub(super) fn unsure(&self) -> Vec<(Tag, Arc<str>)> {
        let named = |delivery: &Delivery| Some((delivery.tag, delivery.message.name.clone()?));
        self.unsure.iter().filter_map(named).collect()
    }

    /// The ledger's word on one of them; nothing happens when it is not here any more.
    pub(super) fn is_sure(&mut self, tag: Tag, is_done: bool) -> Answered {
        let Some(index) = self.unsure.iter().position(|delivery| delivery.tag == tag) else {
            return Answered::Nothing;
        };
        let delivery = self.unsure.remove(index);
        if is_done {
            return Answered::Done;
        }
        self.admit(delivery).map_or(Answered::Nothing, Answered::Dead)
    }

    /// At most so many that may be handed out; they are claimed from now on.
    pub(super) fn hand_out(&mut self, max: usize) -> Vec<Delivery> {
        let count = self.ready.len().min(max);
        let handed: Vec<Delivery> = self.ready.drain(..count).collect();
        self.claimed.extend(handed.iter().map(|delivery| (delivery.tag, delivery.clone())));
        handed
    }

    /// Everything that is here and not handed out.
    pub(super) fn take_buffered(&mut self) -> Vec<Delivery> {
        let mut buffered = self.suspects.take_waiting();
        buffered.extend(self.ready.drain(..));
        buffered.append(&mut self.unsure);
        buffered
    }

    /// Delivers it once more, as the attempt that it was.
    pub(super) fn again(&mut self, delivery: Delivery) {
        if delivery.suspect {
            self.suspects.again(delivery);
        } else {
            self.ready.push_front(delivery);
        }
    }

    /// The suspect whose note is durable may run.
    pub(super) fn noted(&mut self) {
        self.ready.extend(self.suspects.noted());
    }

    /// Effects that are to be committed before the delivery counts as done.
    pub(super) fn send_effects(&mut self, delivery: Delivery, effects: Effects) -> Ticket {
        let ticket = self.tickets.next(None);
        self.effects.push_back(Settled { delivery, effects, ticket });
        ticket
    }
}

/// What follows the ledger's word on a delivery.
pub(super) enum Answered {
    /// It is done.
    Done,
    /// It has to be given up.
    Dead(Arc<str>),
    /// It is delivered when its time comes.
    Nothing,
}
