//! Decisions of the consumer that no well-behaved ledger leads to, or only at the edge of a race.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::watch;

use super::{
    LogConsumerOptions,
    state::{Held, State, Step},
};
use crate::{
    Kind, Message, Position, Settlement, Time, TypeSet, Verdict,
    consumer::{Delivery, Effects, Tag},
    cursor::Cursor,
    ledger::{Guard, Opened, UnitResult},
    log::Page,
    time::system_clock,
};

const TIP: Position = Position(1);

fn message() -> Arc<Message> {
    Arc::new(Message {
        id: TIP,
        kind: "a/a".into(),
        payload: "{}".into(),
        headers: Default::default(),
        timestamp: Time::MIN,
        run_at: None,
    })
}

fn state(suspects: VecDeque<Held>) -> State {
    let opened = Opened {
        epoch: 1,
        cursor: Cursor::at(Position::START),
        clean: true,
        claims: 8,
        running: Vec::new(),
        paused: None,
        next_due: None,
        parked: suspects.len() as u64,
        revived: watch::Sender::new(0).subscribe(),
    };
    let options = LogConsumerOptions::new("w", TypeSet::all(), system_clock());
    State::new(options, &opened, suspects, VecDeque::new())
}

fn delivered(state: &mut State) -> Delivery {
    match state.step(8, TIP, Time::MIN).0 {
        Step::Deliver(mut deliveries) => deliveries.remove(0),
        _ => panic!("there is a message to deliver"),
    }
}

/// One message, read and delivered.
fn delivering() -> (State, Tag) {
    let mut state = state(VecDeque::new());
    state.take_page(Position::START, Page { messages: vec![message()], next: TIP });
    let tag = delivered(&mut state).tag;
    (state, tag)
}

fn settle(state: &mut State, tag: Tag, effects: Option<Box<Effects>>) {
    state.settle(Settlement { tag, verdict: Verdict::Done, effects }, Time::MIN);
}

fn guarded() -> Option<Box<Effects>> {
    Some(Box::new(Effects { guards: vec![Guard::Version("k".into(), 7)], ..Effects::default() }))
}

#[test]
fn progress_that_is_not_taken_ends_the_consumer() {
    for result in [UnitResult::Conflict, UnitResult::Refused("no".into())] {
        let (mut state, tag) = delivering();
        settle(&mut state, tag, None);
        let sent = state.take_pending().expect("the done mark is pending");
        state.committed(sent, vec![result], Time::MIN);
        assert_eq!(state.failed.as_ref().map(|error| error.kind), Some(Kind::Corrupt));
    }
}

#[test]
fn attempts_given_back_during_a_commit_are_taken_from_what_conflicts() {
    let (mut state, tag) = delivering();
    state.claims.get_mut(&TIP).expect("it is claimed").attempts = 3;
    settle(&mut state, tag, guarded());
    state.give_back(vec![(tag, 1)]);
    let sent = state.take_pending().expect("the effects are pending");
    state.give_back(vec![(tag, 1)]);
    let results = sent.iter().map(|sent| match sent.unit.guards[..] {
        [] => UnitResult::Applied(None),
        _ => UnitResult::Conflict,
    });
    let results = results.collect();
    state.committed(sent, results, Time::MIN);
    assert_eq!(state.returned[0].attempts, 1);
}

#[test]
fn attempts_of_a_waiting_suspect_can_be_given_back() {
    let held = Held { message: message(), attempts: 3, parked: true, crashes: Some(1) };
    let mut state = state(VecDeque::from([held]));
    state.give_back(vec![(Tag { epoch: 1, number: TIP.0 }, 2)]);
    assert_eq!(state.suspects[0].attempts, 1);
}
