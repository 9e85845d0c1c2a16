//! The outage machine, event by event.

mod doubt;
mod slow;

use std::sync::Arc;

use bytes::Bytes;
use outboard_core::{Headers, Message, Position, Time};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// An outage machine with its own idea of now.
struct World {
    outage: Outage,
    now: Instant,
}

fn delivery(id: u64) -> Delivery {
    attempt(id, 1)
}

fn attempt(id: u64, attempt: u32) -> Delivery {
    let message = Message {
        id: Position(id),
        name: None,
        kind: "orders/confirm".into(),
        payload: Bytes::new(),
        headers: Headers::default(),
        timestamp: Time::from_millis(0),
        run_at: None,
    };
    Delivery {
        tag: tag(id),
        message: Arc::new(message),
        attempt,
        suspect: false,
        redelivered: false,
        is_identified: true,
    }
}

fn tag(id: u64) -> Tag {
    Tag { epoch: 1, number: id }
}

fn failed(cause: Cause) -> Failed {
    Failed { reason: "503".into(), after: None, cause }
}

/// A failure that came soon.
fn quickly() -> Spent {
    Spent { took: Duration::from_millis(5), is_expired: false }
}

fn sick(reason: &str) -> Event {
    Event::Sick { reason: reason.into(), spent: quickly(), is_said: true }
}

/// Nothing was heard of the target for so long.
fn silent(took: Duration, is_expired: bool) -> Event {
    Event::Sick { reason: "no answer".into(), spent: Spent { took, is_expired }, is_said: false }
}

fn ids<'a>(deliveries: impl IntoIterator<Item = &'a Delivery>) -> Vec<u64> {
    deliveries.into_iter().map(|delivery| delivery.message.id.0).collect()
}

impl World {
    fn new() -> Self {
        Self::with(32, false)
    }

    fn with(concurrency: u32, asks: bool) -> Self {
        let policy = OutagePolicy { failures: 10, distinct: 3, probe_every: SECOND };
        Self { outage: Outage::new(policy, Duration::from_secs(30), concurrency, asks), now: Instant::now() }
    }

    fn on(&mut self, event: Event) -> Reaction {
        self.outage.on(self.now, event)
    }

    fn fails(&mut self, id: u64, cause: Cause) -> Reaction {
        self.on(Event::Failed { delivery: delivery(id), failed: failed(cause), spent: quickly() })
    }

    fn succeeds(&mut self, id: u64, took: Duration) {
        let reaction = self.on(Event::Done { delivery: delivery(id), took });
        assert!(matches!(reaction, Reaction::Nothing));
    }

    /// Ten messages that cannot be delivered, from 1, open an outage.
    fn open(&mut self) -> Opening {
        for id in 1..10 {
            let reaction = self.fails(id, Cause::Unavailable);
            assert!(matches!(reaction, Reaction::Charge(..)), "failure {id} opens nothing");
        }
        match self.fails(10, Cause::Unavailable) {
            Reaction::Open(opening) => opening,
            other => panic!("the tenth failure opens: {other:?}"),
        }
    }

    fn fetch(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            assert!(matches!(self.on(Event::Fetched(delivery(id))), Reaction::Nothing));
        }
    }

    /// The next probe, at once when it is due, else when it is.
    fn probe(&mut self) -> (Option<Delivery>, Duration) {
        self.now = self.now.max(self.outage.probe_due().expect("a probe is due some time"));
        match self.outage.probe(self.now).expect("it is due now") {
            Probe::Message { delivery, limit } => (Some(delivery), limit),
            Probe::Ask { limit } => (None, limit),
        }
    }

    fn probe_message(&mut self) -> Delivery {
        self.probe().0.expect("a message is probed")
    }

    fn probe_fails(&mut self, delivery: Delivery) {
        let failed = failed(Cause::Unavailable);
        let reaction = self.on(Event::ProbeFailed { delivery, failed, spent: quickly() });
        assert!(matches!(reaction, Reaction::Nothing));
    }

    /// Messages are fetched and fail as probes; then another one succeeds, and the outage is over.
    fn ends_after(&mut self, failing: impl IntoIterator<Item = u64>) {
        for id in failing {
            self.fetch([id]);
            let delivery = self.probe_message();
            self.probe_fails(delivery);
        }
        self.fetch([99]);
        self.probe_message();
        self.probe_succeeds();
    }

    fn probe_succeeds(&mut self) -> Closing {
        match self.on(Event::ProbeDone { took: Duration::from_millis(5) }) {
            Reaction::Close(closing) => closing,
            other => panic!("a success ends the outage: {other:?}"),
        }
    }
}

#[test]
fn ten_failures_in_a_row_open_and_are_given_back() {
    let mut world = World::new();
    let opening = world.open();
    assert_eq!(opening.last.expect("it is settled first").0.message.id, Position(10));
    assert_eq!(opening.give_back, (1..=10).map(|id| (tag(id), 1)).collect::<Vec<_>>());
    assert!(world.outage.is_open());
}

#[test]
fn a_success_between_them_begins_the_row_anew() {
    let mut world = World::new();
    for id in 1..10 {
        world.fails(id, Cause::Unavailable);
    }
    world.succeeds(99, Duration::ZERO);
    for id in 11..20 {
        assert!(matches!(world.fails(id, Cause::Unavailable), Reaction::Charge(..)));
    }
    assert!(matches!(world.fails(20, Cause::Unavailable), Reaction::Open(_)));
}

#[test]
fn one_message_that_cannot_be_delivered_ten_times_opens() {
    let mut world = World::new();
    for _ in 0..9 {
        assert!(matches!(world.fails(7, Cause::Unavailable), Reaction::Charge(..)));
    }
    let Reaction::Open(opening) = world.fails(7, Cause::Unavailable) else { panic!("the tenth opens") };
    assert_eq!(opening.give_back, [(tag(7), 10)]);
}

#[test]
fn plain_errors_count_only_when_the_ten_cover_three_messages() {
    let mut world = World::new();
    for round in 0..50 {
        assert!(matches!(world.fails(1 + round % 2, Cause::Target), Reaction::Charge(..)));
    }
    assert!(matches!(world.fails(3, Cause::Target), Reaction::Open(_)));
}

#[test]
fn plain_errors_of_one_message_do_not_hide_a_target_out_of_reach() {
    let mut world = World::new();
    for _ in 0..9 {
        assert!(matches!(world.fails(1, Cause::Unavailable), Reaction::Charge(..)));
        assert!(matches!(world.fails(1, Cause::Target), Reaction::Charge(..)));
    }
    let Reaction::Open(opening) = world.fails(1, Cause::Unavailable) else { panic!("the tenth opens") };
    assert_eq!(opening.give_back, [(tag(1), 10)]);
}

#[test]
fn a_message_s_own_failures_say_nothing_of_the_target() {
    let mut world = World::new();
    for id in 1..100 {
        assert!(matches!(world.fails(id, Cause::Message), Reaction::Charge(..)));
    }
    assert!(!world.outage.is_open());
}

#[test]
fn what_is_under_way_and_fails_is_held_uncounted_and_runs_at_the_end() {
    let mut world = World::new();
    world.open();
    for id in 11..=32 {
        assert!(matches!(world.fails(id, Cause::Message), Reaction::Nothing));
    }
    world.fetch([50]);
    assert_eq!(world.probe_message().message.id, Position(50), "untried ones are probed first");
    let closing = world.probe_succeeds();
    assert!(closing.charge.is_empty());
    assert_eq!(ids(&closing.run), (11..=32).collect::<Vec<_>>());
}

#[test]
fn attempts_that_are_given_back_show_in_messages_that_are_under_way_again() {
    let mut world = World::new();
    world.open();
    // Message 3 was in the row, and is under way for the second time when the outage opens.
    let (delivery, failed) = (attempt(3, 2), failed(Cause::Unavailable));
    world.on(Event::Failed { delivery, failed, spent: quickly() });
    assert_eq!(world.probe_message().attempt, 1);
}

#[test]
fn there_is_one_probe_at_a_time_and_one_a_second() {
    let mut world = World::new();
    world.open();
    world.fetch([11, 12, 13]);
    assert_eq!(world.outage.probe_due(), Some(world.now), "the first one begins at once");
    let first = world.probe_message();
    assert_eq!(world.outage.probe_due(), None, "no second one beside it");
    assert!(world.outage.probe(world.now + SECOND * 100).is_none());
    let began = world.now;
    world.now += SECOND / 10;
    world.probe_fails(first);
    assert_eq!(world.outage.probe_due(), Some(began + SECOND));
    assert!(world.outage.probe(began + SECOND * 9 / 10).is_none(), "not before its time");
    let second = world.probe_message();
    assert_eq!(world.now, began + SECOND);
    // One that takes its whole second is followed at once.
    world.now += SECOND;
    world.probe_fails(second);
    assert_eq!(world.outage.probe_due(), Some(world.now));
}

#[test]
fn probes_rotate_through_what_is_held() {
    let mut world = World::new();
    world.open();
    world.fetch([11, 12]);
    world.fails(13, Cause::Unavailable);
    let mut probed = Vec::new();
    for _ in 0..7 {
        let delivery = world.probe_message();
        probed.push(delivery.message.id.0);
        world.probe_fails(delivery);
    }
    assert_eq!(probed, [11, 12, 13, 11, 12, 13, 11]);
}

#[test]
fn a_message_is_fetched_for_each_probe_until_the_bound() {
    let mut world = World::with(1, false);
    world.open();
    for id in 11..11 + 64 {
        assert!(world.outage.wants_message(), "message {id} has room");
        world.fetch([id]);
        assert!(!world.outage.wants_message(), "one in hand is enough");
        let delivery = world.probe_message();
        assert_eq!(delivery.message.id.0, id, "the new one is probed before old ones");
        world.probe_fails(delivery);
    }
    assert!(!world.outage.wants_message(), "64 are held");
    let again = world.probe_message();
    assert_eq!(again.message.id.0, 11);
    assert!(!world.outage.wants_message(), "the one that is out counts as held");
}

#[test]
fn what_failed_as_a_probe_is_charged_once() {
    let mut world = World::new();
    world.open();
    world.fetch([11, 12]);
    for _ in 0..20 {
        let delivery = world.probe_message();
        world.probe_fails(delivery);
    }
    world.fetch([13, 14]);
    assert_eq!(world.probe_message().message.id, Position(13));
    let closing = world.probe_succeeds();
    let charged = closing.charge.iter().map(|(delivery, _)| delivery);
    assert_eq!(ids(charged), [11, 12]);
    assert_eq!(ids(&closing.run), [14]);
    assert!(!world.outage.is_open());
}

#[test]
fn a_probe_that_succeeds_after_it_failed_is_not_charged() {
    let mut world = World::new();
    world.open();
    world.fetch([11]);
    let delivery = world.probe_message();
    world.probe_fails(delivery);
    world.probe_message();
    let closing = world.probe_succeeds();
    assert!(closing.charge.is_empty() && closing.run.is_empty());
}

#[test]
fn a_success_from_before_the_outage_does_not_end_it_but_asks_for_a_probe() {
    let mut world = World::new();
    world.open();
    world.fetch([11]);
    let delivery = world.probe_message();
    world.probe_fails(delivery);
    world.succeeds(20, SECOND);
    assert!(world.outage.is_open(), "the target may finish old work and refuse new");
    assert_eq!(world.outage.probe_due(), Some(world.now));
}

#[test]
fn an_answer_that_is_no_success_shows_that_the_target_is_there() {
    let mut world = World::new();
    world.open();
    world.fetch([11, 12]);
    world.probe_message();
    let Reaction::Close(closing) = world.on(Event::ProbeAnswered) else { panic!("it ends the outage") };
    assert_eq!(ids(&closing.run), [12]);
}

#[test]
fn a_snoozed_probe_says_nothing() {
    let mut world = World::new();
    world.open();
    world.fetch([11, 12]);
    world.probe_message();
    assert!(matches!(world.on(Event::ProbeSilent), Reaction::Nothing));
    assert!(world.outage.is_open());
    assert_eq!(world.probe_message().message.id, Position(12));
}

#[test]
fn a_success_clears_a_message_of_doubt() {
    let mut world = World::new();
    world.fails(1, Cause::Unavailable);
    world.succeeds(2, Duration::ZERO);
    world.succeeds(1, Duration::ZERO);
    for _ in 0..9 {
        world.fails(1, Cause::Unavailable);
    }
    assert!(matches!(world.fails(1, Cause::Unavailable), Reaction::Open(_)));
}

#[test]
fn pausing_takes_everything_out_of_its_hands_and_the_outage_goes_on() {
    let mut world = World::new();
    world.open();
    world.fetch([11, 12]);
    world.fails(13, Cause::Unavailable);
    let delivery = world.probe_message();
    world.probe_fails(delivery);
    let mut taken = ids(&world.outage.take_held());
    taken.sort();
    assert_eq!(taken, [11, 12, 13]);
    assert!(world.outage.is_open());
    assert_eq!(world.outage.probe_due(), None, "there is nothing to probe with");
    assert!(world.outage.wants_message());
    world.fetch([14]);
    world.probe_message();
    world.probe_succeeds();
}

#[test]
fn a_target_that_can_be_asked_is_asked_only_while_failures_stand() {
    let mut world = World::with(32, true);
    world.succeeds(1, Duration::ZERO);
    assert_eq!(world.outage.probe_due(), None, "nobody asks while all is well");
    world.fails(2, Cause::Unavailable);
    assert_eq!(world.outage.probe_due(), Some(world.now));
    assert!(world.probe().0.is_none(), "no message is tried");
    assert!(matches!(world.on(Event::Well), Reaction::Nothing));
    assert_eq!(world.outage.probe_due(), None, "it waits for the next failure");
    world.fails(3, Cause::Unavailable);
    assert_eq!(world.outage.probe_due(), Some(world.now + SECOND), "not more often than once a second");
    world.succeeds(4, Duration::ZERO);
    assert_eq!(world.outage.probe_due(), None);
}

#[test]
fn a_failing_answer_opens_and_a_good_one_ends() {
    let mut world = World::with(32, true);
    world.fails(1, Cause::Target);
    world.fails(2, Cause::Target);
    world.probe();
    let Reaction::Open(opening) = world.on(sick("down for repairs")) else {
        panic!("a failing answer opens")
    };
    assert!(opening.last.is_none());
    assert_eq!(opening.give_back, [(tag(1), 1), (tag(2), 1)]);
    assert_eq!(world.outage.open().map(|(reason, _)| &**reason), Some("down for repairs"));
    world.fails(3, Cause::Unavailable);
    assert!(!world.outage.wants_message(), "messages are not needed as probes");
    for _ in 0..600 {
        let began = world.now;
        assert!(world.probe().0.is_none());
        assert!(world.now <= began + SECOND);
        assert!(matches!(world.on(sick("still")), Reaction::Nothing));
    }
    world.probe();
    let Reaction::Close(closing) = world.on(Event::Well) else { panic!("a good answer ends") };
    assert_eq!(ids(&closing.run), [3]);
    assert!(closing.charge.is_empty());
}

#[test]
fn an_answer_that_comes_after_a_success_opens_nothing() {
    let mut world = World::with(32, true);
    world.fails(1, Cause::Unavailable);
    world.probe();
    world.succeeds(2, Duration::ZERO);
    assert!(matches!(world.on(sick("late")), Reaction::Nothing));
    assert!(!world.outage.is_open());
}

#[test]
fn what_was_in_hand_when_it_opened_is_probed_first_and_runs_at_the_end() {
    let mut world = World::new();
    world.open();
    let mut hand: VecDeque<Delivery> = [delivery(11), attempt(4, 2)].into();
    world.outage.adopt(&mut hand);
    assert!(hand.is_empty());
    assert_eq!(world.probe_message().message.id, Position(11));
    let closing = world.probe_succeeds();
    assert_eq!(ids(&closing.run), [4]);
    assert_eq!(closing.run[0].attempt, 1, "its counted attempt was given back");
}

#[test]
fn doubt_is_bounded() {
    let mut world = World::new();
    for id in 1..3 * MAX_DOUBTFUL as u64 {
        world.fails(id, Cause::Target);
        world.succeeds(id + 1_000_000, Duration::ZERO);
    }
    assert!(world.outage.doubtful.len() <= MAX_DOUBTFUL);
}
