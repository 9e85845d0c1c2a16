//! Decisions of the consumer that no well-behaved ledger leads to, or only at the edge of a race.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    LogConsumerOptions,
    settling::{COMMIT_BYTES, Sent},
    state::{Held, State, Step},
};
use crate::{
    Kind, Message, Position, Settlement, Time, TypeSet, Verdict,
    consumer::{Delivery, Effects, Tag},
    cursor::Cursor,
    ledger::{Guard, KeyWrite, Opened, UnitResult},
    log::Page,
    time::TokioClock,
};

const TIP: Position = Position(1);

fn message() -> Arc<Message> {
    message_at(TIP)
}

fn message_at(id: Position) -> Arc<Message> {
    Arc::new(Message {
        id,
        name: None,
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
    let clock = Arc::new(TokioClock::starting_at(Time::from_millis(1_800_000_000_000)));
    let options = LogConsumerOptions::new("w", TypeSet::all(), clock);
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
    let held = Held { message: message(), attempts: 3, parked: true, crashes: Some(1), was_due: false };
    let mut state = state(VecDeque::from([held]));
    state.give_back(vec![(Tag { epoch: 1, number: TIP.0 }, 2)]);
    assert_eq!(state.suspects[0].attempts, 1);
}

/// Settles messages with so many bytes of effects each, `None` without effects.
fn settling(bytes: &[Option<usize>]) -> State {
    let mut state = state(VecDeque::new());
    let tip = Position(bytes.len() as u64);
    let messages = (1..=tip.0).map(|id| message_at(Position(id))).collect();
    state.take_page(Position::START, Page { messages, next: tip });
    let Step::Deliver(deliveries) = state.step(bytes.len(), tip, Time::MIN).0 else {
        panic!("there are messages to deliver")
    };
    for (delivery, bytes) in deliveries.iter().zip(bytes) {
        let effects = bytes.map(|bytes| {
            let write = KeyWrite::Set("k".into(), vec![b'1'; bytes].into());
            Box::new(Effects { writes: vec![write], ..Effects::default() })
        });
        settle(&mut state, delivery.tag, effects);
    }
    state
}

/// Commits what is pending, commit by commit: the bytes of each and the ticket that is durable after it.
fn commits(state: &mut State, result: &UnitResult) -> Vec<(usize, u64)> {
    let mut commits = Vec::new();
    while let Some(sent) = state.take_pending() {
        let bytes = sent.iter().map(Sent::bytes).sum();
        let results = sent.iter().map(|sent| match sent.unit.writes[..] {
            [] => UnitResult::Applied(None),
            _ => result.clone(),
        });
        let results = results.collect();
        commits.push((bytes, state.committed(sent, results, Time::MIN)));
    }
    commits
}

#[test]
fn a_commit_has_a_limit_of_bytes() {
    const MIB: usize = 1 << 20;
    let mut state =
        settling(&[Some(MIB), Some(MIB - 64), Some(64), None, Some(COMMIT_BYTES * 4), Some(7), Some(MIB)]);
    let unsettled = state.unsettled();
    let commits = commits(&mut state, &UnitResult::Applied(None));
    // A key has one byte. The done mark of the message without effects is in the first commit, but its ticket is
    // durable only with those before it.
    let expected = [(2 * MIB - 62, 2), (65, 4), (COMMIT_BYTES * 4 + 1, 5), (MIB + 9, 7)];
    assert_eq!((commits, unsettled, state.unsettled()), (expected.to_vec(), 7, 0));
    assert!(state.is_drained());
    assert_eq!(state.cursor.low(), Position(7));
}

#[test]
fn what_a_commit_leaves_is_still_unsettled() {
    let mut state = settling(&[Some(COMMIT_BYTES), None, Some(COMMIT_BYTES)]);
    let sent = state.take_pending().expect("there is something to commit");
    assert_eq!((sent.len(), state.unsettled()), (2, 3));
    let results = vec![UnitResult::Applied(None); 2];
    state.committed(sent, results, Time::MIN);
    assert_eq!((state.unsettled(), state.is_drained()), (1, false));
}

#[test]
fn a_limited_commit_s_ticket_covers_the_dead_letters_of_what_was_refused() {
    let mut state = settling(&[Some(COMMIT_BYTES), Some(COMMIT_BYTES)]);
    let commits = commits(&mut state, &UnitResult::Refused("no".into()));
    // The first one's dead letter is in the second commit, the second one's in the third.
    let tickets: Vec<_> = commits.iter().map(|(_, ticket)| *ticket).collect();
    assert_eq!(tickets, [0, 1, 2]);
}

// Paused, so that no time passes by either clock, however long a step takes.
#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_shows_in_the_status() {
    let mut state = state(VecDeque::new());
    let now = state.options.clock.now();
    for (now, jumps) in [(now, 0), (now + Duration::from_secs(3_600), 1), (now, 2), (now, 2)] {
        state.step(1, Position::START, now);
        assert_eq!(state.status(1).clock_jumps, jumps);
    }
}
