//! What one channel has delivered, and what became of it. No I/O.

use std::collections::{BTreeMap, VecDeque};

use outboard_core::consumer::Ticket;

use crate::rabbitmq::channel::Content;

/// With so many places behind the oldest unsettled one, that one is kept apart: a handler that takes an hour must not keep
/// a place for everything that came after it.
const MAX_PLACES: usize = 8_192;

/// Deliveries of one channel, by the broker's numbers, which count from 1.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// How many places were taken from the front: the first one has this number plus 1.
    base: u64,
    places: VecDeque<Place>,
    /// Handed out up to this number.
    handed: u64,
    /// Arrived up to this number when it was looked at what waits.
    looked_at: u64,
    /// Unsettled ones with numbers up to `base`; nothing is left of one that is being published elsewhere.
    stragglers: BTreeMap<u64, Option<Arrived>>,
    /// Settled, and not told to the broker.
    unsent: Vec<u64>,
    /// Handed out and not settled.
    claimed: u32,
    /// Settled by being published elsewhere, and not confirmed.
    moving: u32,
}

/// A delivery as it came.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) content: Content,
    pub(super) redelivered: bool,
}

#[derive(Debug)]
enum Place {
    Ready(Arrived),
    Claimed(Arrived),
    /// Being published elsewhere.
    Moving,
    /// To be acknowledged.
    Settled,
    /// The broker knows.
    Gone,
}

/// One acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) number: u64,
    /// With all before it.
    pub(super) multiple: bool,
}

/// What a settled delivery is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Acknowledged.
    Acknowledged,
    /// Published elsewhere, and then acknowledged.
    Moved,
    /// Given back.
    Returned,
}

impl Claims {
    /// Takes what came. Whether its number is the next one, as the protocol says.
    pub(super) fn arrive(&mut self, number: u64, arrived: Arrived) -> bool {
        if number != self.end() + 1 {
            return false;
        }
        self.places.push_back(Place::Ready(arrived));
        while self.places.len() > MAX_PLACES && self.put_aside() {}
        true
    }

    /// The number of the newest one.
    fn end(&self) -> u64 {
        self.base + self.places.len() as u64
    }

    /// Keeps the oldest one apart, if it is claimed.
    fn put_aside(&mut self) -> bool {
        match self.places.pop_front() {
            Some(Place::Claimed(arrived)) => {
                self.base += 1;
                self.stragglers.insert(self.base, Some(arrived));
                true
            }
            Some(Place::Moving) => {
                self.base += 1;
                self.stragglers.insert(self.base, None);
                true
            }
            Some(Place::Gone) => {
                self.base += 1;
                true
            }
            Some(place) => {
                self.places.push_front(place);
                false
            }
            None => false,
        }
    }

    /// Not handed out yet.
    pub(super) fn ready(&self) -> usize {
        usize::try_from(self.end() - self.handed).unwrap_or(usize::MAX)
    }

    /// Whether something was not handed out from the last time that this was asked until now.
    pub(super) fn have_waited(&mut self) -> bool {
        let have_waited = self.handed < self.looked_at;
        self.looked_at = self.end();
        have_waited
    }

    /// Handed out and not settled.
    pub(super) fn claimed(&self) -> u32 {
        self.claimed
    }

    /// Being published elsewhere.
    pub(super) fn moving(&self) -> u32 {
        self.moving
    }

    /// Settled, and not told to the broker.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Hands out at most so many.
    pub(super) fn hand_out(&mut self, max: usize, mut to: impl FnMut(u64, &Arrived)) {
        for _ in 0..max.min(self.ready()) {
            self.handed += 1;
            let place = self.place(self.handed).expect("what is not handed out has a place");
            if let Place::Ready(arrived) = std::mem::replace(place, Place::Gone) {
                to(self.handed, &arrived);
                *self.place(self.handed).expect("it was there above") = Place::Claimed(arrived);
                self.claimed += 1;
            }
        }
    }

    fn place(&mut self, number: u64) -> Option<&mut Place> {
        let index = number.checked_sub(self.base + 1)?;
        self.places.get_mut(usize::try_from(index).ok()?)
    }

    /// Settles a claim. What it was; nothing if it is not claimed (any more).
    pub(super) fn settle(&mut self, number: u64, fate: Fate) -> Option<Arrived> {
        if let Some(straggler) = self.stragglers.get_mut(&number) {
            let arrived = straggler.take()?;
            if fate != Fate::Moved {
                self.stragglers.remove(&number);
            }
            self.count(number, fate);
            return Some(arrived);
        }
        let place = self.place(number)?;
        if !matches!(place, Place::Claimed(_)) {
            return None;
        }
        let settled = match fate {
            Fate::Acknowledged => Place::Settled,
            Fate::Moved => Place::Moving,
            Fate::Returned => Place::Gone,
        };
        let Place::Claimed(arrived) = std::mem::replace(place, settled) else { return None };
        self.count(number, fate);
        Some(arrived)
    }

    fn count(&mut self, number: u64, fate: Fate) {
        self.claimed -= 1;
        match fate {
            Fate::Acknowledged => self.unsent.push(number),
            Fate::Moved => self.moving += 1,
            Fate::Returned => {}
        }
    }

    /// What was settled as [`Fate::Moved`] has arrived where it was to go.
    pub(super) fn moved(&mut self, number: u64) {
        self.moving -= 1;
        self.stragglers.remove(&number);
        if let Some(place) = self.place(number) {
            *place = Place::Settled;
        }
        self.unsent.push(number);
    }

    /// Everything that is to be acknowledged now, in as few words as possible.
    pub(super) fn acks(&mut self, to: &mut Vec<Ack>) {
        let whole = self.acks_in_a_row(to);
        let mut unsent = std::mem::take(&mut self.unsent);
        for number in unsent.drain(..).filter(|&number| whole.is_none_or(|whole| number > whole)) {
            if let Some(place) = self.place(number) {
                *place = Place::Gone;
            }
            to.push(Ack { number, multiple: false });
        }
        self.unsent = unsent;
    }

    /// What one word can say: everything up to the oldest one that is unsettled. What was settled out of turn waits for
    /// those before it, which are soon settled, too.
    pub(super) fn acks_up_to_the_oldest(&mut self, to: &mut Vec<Ack>) {
        if let Some(whole) = self.acks_in_a_row(to) {
            self.unsent.retain(|number| *number > whole);
        }
    }

    /// One word for those at the front, up to the number that it names.
    fn acks_in_a_row(&mut self, to: &mut Vec<Ack>) -> Option<u64> {
        let mut last = None;
        while let Some(Place::Settled | Place::Gone) = self.places.front() {
            self.base += 1;
            if let Some(Place::Settled) = self.places.pop_front() {
                last = Some(self.base);
            }
        }
        // "With all before it" would take in an older one that is still unsettled.
        let number = last.filter(|_| self.stragglers.is_empty())?;
        let multiple = self.unsent.iter().any(|&unsent| unsent < number);
        to.push(Ack { number, multiple });
        Some(number)
    }

    /// The number of the oldest one that is unsettled, as far as there are places.
    pub(super) fn oldest(&self) -> u64 {
        self.base + 1
    }

    /// Gives up everything that is not handed out.
    pub(super) fn give_up_ready(&mut self, to: &mut Vec<u64>) {
        while self.handed < self.end() {
            self.handed += 1;
            let number = self.handed;
            if let Some(place) = self.place(number) {
                *place = Place::Gone;
            }
            to.push(number);
        }
    }

    /// Gives up everything that is claimed.
    pub(super) fn give_up_claimed(&mut self, to: &mut Vec<u64>) {
        let apart = std::mem::take(&mut self.stragglers);
        to.extend(apart.into_iter().filter_map(|(number, arrived)| arrived.map(|_| number)));
        for (number, place) in (self.base + 1..).zip(&mut self.places) {
            if matches!(place, Place::Claimed(_)) {
                *place = Place::Gone;
                to.push(number);
            }
        }
        self.claimed = 0;
    }
}

/// Up to which ticket everything has been told to the broker.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    issued: Ticket,
    /// Of what is being published elsewhere.
    open: std::collections::BTreeSet<Ticket>,
}

impl Tickets {
    pub(super) fn issue(&mut self) -> Ticket {
        self.issued += 1;
        self.issued
    }

    pub(super) fn issued(&self) -> Ticket {
        self.issued
    }

    /// This one takes longer than those after it.
    pub(super) fn keep_open(&mut self, ticket: Ticket) {
        self.open.insert(ticket);
    }

    pub(super) fn close(&mut self, ticket: Ticket) {
        self.open.remove(&ticket);
    }

    /// Nothing more can be done about any of them.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    /// Everything up to here is settled, once what waits has been sent.
    pub(super) fn settled(&self) -> Ticket {
        self.open.first().map_or(self.issued, |first| first - 1)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn arrive(claims: &mut Claims, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            let content = Content { properties: Bytes::new(), body: Bytes::new() };
            assert!(claims.arrive(number, Arrived { content, redelivered: false }));
        }
    }

    fn claimed(count: u64) -> Claims {
        let mut claims = Claims::default();
        arrive(&mut claims, 1..=count);
        claims.hand_out(usize::MAX, |_, _| {});
        claims
    }

    fn settle(claims: &mut Claims, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            assert!(claims.settle(number, Fate::Acknowledged).is_some(), "{number}");
        }
    }

    fn acks(claims: &mut Claims) -> Vec<(u64, bool)> {
        let mut acks = Vec::new();
        claims.acks(&mut acks);
        acks.into_iter().map(|ack| (ack.number, ack.multiple)).collect()
    }

    #[test]
    fn what_is_settled_in_a_row_is_one_word() {
        let mut claims = claimed(10);
        settle(&mut claims, [2, 1, 3, 4]);
        assert_eq!(acks(&mut claims), [(4, true)]);
        settle(&mut claims, [5]);
        assert_eq!(acks(&mut claims), [(5, false)]);
        assert_eq!(acks(&mut claims), []);
    }

    fn acks_up_to_the_oldest(claims: &mut Claims) -> Vec<(u64, bool)> {
        let mut acks = Vec::new();
        claims.acks_up_to_the_oldest(&mut acks);
        acks.into_iter().map(|ack| (ack.number, ack.multiple)).collect()
    }

    #[test]
    fn what_is_settled_out_of_turn_needs_no_word_when_those_before_it_are_settled_soon() {
        let mut claims = claimed(6);
        settle(&mut claims, [2, 3]);
        assert_eq!(acks_up_to_the_oldest(&mut claims), []);
        settle(&mut claims, [1]);
        assert_eq!((acks_up_to_the_oldest(&mut claims), claims.oldest()), (vec![(3, true)], 4));
        settle(&mut claims, [4, 6]);
        assert_eq!(acks_up_to_the_oldest(&mut claims), [(4, false)]);
        assert_eq!((claims.unsent(), claims.oldest()), (1, 5));
        settle(&mut claims, [5]);
        assert_eq!(acks_up_to_the_oldest(&mut claims), [(6, true)]);
        assert_eq!(claims.unsent(), 0);
    }

    #[test]
    fn nothing_unsettled_is_taken_in() {
        let mut claims = claimed(6);
        settle(&mut claims, [1, 2, 4, 6]);
        assert_eq!(acks(&mut claims), [(2, true), (4, false), (6, false)]);
        settle(&mut claims, [3]);
        assert_eq!(acks(&mut claims), [(3, false)]);
        settle(&mut claims, [5]);
        assert_eq!(acks(&mut claims), [(5, false)]);
        assert!(claims.settle(5, Fate::Acknowledged).is_none(), "once is enough");
    }

    #[test]
    fn what_moves_is_acknowledged_when_it_has_arrived() {
        let mut claims = claimed(4);
        claims.settle(2, Fate::Moved).unwrap();
        settle(&mut claims, [1, 3, 4]);
        assert_eq!(acks(&mut claims), [(1, false), (3, false), (4, false)]);
        claims.moved(2);
        assert_eq!(acks(&mut claims), [(2, false)]);
        assert_eq!((claims.moving(), claims.claimed(), claims.unsent()), (0, 0, 0));
    }

    #[test]
    fn a_returned_one_is_left_out() {
        let mut claims = claimed(3);
        claims.settle(3, Fate::Returned).unwrap();
        settle(&mut claims, [1, 2]);
        assert_eq!(acks(&mut claims), [(2, true)]);
    }

    #[test]
    fn one_that_takes_an_hour_keeps_no_place_for_the_others() {
        let mut claims = Claims::default();
        for number in 1..=3 * MAX_PLACES as u64 {
            arrive(&mut claims, number..=number);
            claims.hand_out(1, |_, _| {});
            if number > 1 {
                settle(&mut claims, [number]);
            }
            acks(&mut claims);
        }
        assert!(claims.places.len() <= MAX_PLACES);
        arrive(&mut claims, 3 * MAX_PLACES as u64 + 1..=3 * MAX_PLACES as u64 + 2);
        claims.hand_out(2, |_, _| {});
        settle(&mut claims, [3 * MAX_PLACES as u64 + 1, 3 * MAX_PLACES as u64 + 2]);
        assert!(acks(&mut claims).iter().all(|(_, multiple)| !multiple), "1 is not settled");
        settle(&mut claims, [1]);
        assert_eq!(acks(&mut claims), [(1, false)]);
    }

    #[test]
    fn what_is_not_handed_out_is_given_up_apart_from_what_is_claimed() {
        let mut claims = Claims::default();
        arrive(&mut claims, 1..=5);
        claims.hand_out(2, |_, _| {});
        let mut given_up = Vec::new();
        claims.give_up_ready(&mut given_up);
        assert_eq!((given_up, claims.ready(), claims.claimed()), (vec![3, 4, 5], 0, 2));
        arrive(&mut claims, 6..=6);
        assert_eq!(claims.ready(), 1);
        let mut given_up = Vec::new();
        claims.give_up_claimed(&mut given_up);
        assert_eq!(given_up, [1, 2]);
    }

    #[test]
    fn what_is_handed_out_between_two_looks_has_not_waited() {
        let mut claims = Claims::default();
        arrive(&mut claims, 1..=3);
        assert!(!claims.have_waited(), "it has just come");
        claims.hand_out(3, |_, _| {});
        arrive(&mut claims, 4..=5);
        assert!(!claims.have_waited());
        claims.hand_out(1, |_, _| {});
        assert!(claims.have_waited(), "5 is still there");
        claims.give_up_ready(&mut Vec::new());
        assert!(!claims.have_waited());
    }

    #[test]
    fn a_number_that_is_not_the_next_one_is_refused() {
        let mut claims = claimed(2);
        let content = Content { properties: Bytes::new(), body: Bytes::new() };
        assert!(!claims.arrive(4, Arrived { content, redelivered: false }));
    }

    #[test]
    fn a_ticket_that_takes_longer_holds_back_those_after_it() {
        let mut tickets = Tickets::default();
        let (first, second) = (tickets.issue(), tickets.issue());
        assert_eq!(tickets.settled(), second);
        tickets.keep_open(first);
        assert_eq!(tickets.settled(), 0);
        tickets.close(first);
        assert_eq!(tickets.settled(), second);
    }
}
