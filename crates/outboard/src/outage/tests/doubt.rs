//! Whose failure it is: the message's own, or the target's.

use super::*;

#[test]
fn messages_that_failed_beside_successes_cannot_open_an_outage() {
    let mut world = World::new();
    for id in 1..=9 {
        world.fails(id, Cause::Unavailable);
    }
    world.succeeds(50, Duration::ZERO);
    for _ in 0..25 {
        for id in 1..=9 {
            assert!(matches!(world.fails(id, Cause::Unavailable), Reaction::Charge(..)));
        }
    }
    assert!(!world.outage.is_open(), "nine bad messages alone end as dead letters");
}

#[test]
fn a_target_that_is_not_there_opens_an_outage_whatever_failed_before() {
    let mut world = World::new();
    for id in 1..=9 {
        world.fails(id, Cause::Unavailable);
    }
    world.succeeds(50, Duration::ZERO);
    for id in 1..=9 {
        assert!(matches!(world.fails(id, Cause::Unreachable), Reaction::Charge(..)));
    }
    let Reaction::Open(opening) = world.fails(1, Cause::Unreachable) else { panic!("the tenth opens") };
    assert_eq!(opening.give_back.len(), 9);
}

#[test]
fn a_target_that_flaps_opens_an_outage_each_time() {
    let mut world = World::new();
    for _ in 0..5 {
        for id in 1..=9 {
            assert!(matches!(world.fails(id, Cause::Unreachable), Reaction::Charge(..)));
        }
        assert!(matches!(world.fails(10, Cause::Unreachable), Reaction::Open(_)));
        world.fetch([50]);
        world.probe_message();
        world.probe_succeeds();
        assert!(!world.outage.is_open());
    }
}

#[test]
fn messages_that_opened_a_false_alarm_are_charged_from_then_on() {
    let mut world = World::new();
    world.open();
    world.fails(11, Cause::Unavailable);
    world.fetch([50]);
    world.probe_message();
    world.probe_succeeds();
    for _ in 0..25 {
        for id in 1..=11 {
            assert!(matches!(world.fails(id, Cause::Unavailable), Reaction::Charge(..)));
        }
    }
    for id in 61..=69 {
        assert!(matches!(world.fails(id, Cause::Unavailable), Reaction::Charge(..)));
    }
    assert!(matches!(world.fails(70, Cause::Unavailable), Reaction::Open(_)), "others still can");
}

/// Whether failures of these messages open an outage once more, as no doubtful message's do.
fn opens_again(world: &mut World, ids: impl IntoIterator<Item = u64> + Clone) -> bool {
    let mut reactions = ids.into_iter().map(|id| world.fails(id, Cause::Unavailable));
    reactions.any(|reaction| matches!(reaction, Reaction::Open(_)))
}

#[test]
fn an_outage_in_which_other_messages_fail_too_leaves_no_doubt() {
    for (clean, is_certain) in [(0, false), (2, false), (3, true), (20, true)] {
        let mut world = World::new();
        world.open();
        world.ends_after(50..50 + clean);
        assert_eq!(opens_again(&mut world, 1..=10), is_certain, "{clean} failed as probes");
    }
}

#[test]
fn messages_that_failed_before_are_no_witnesses() {
    let mut world = World::new();
    for id in [51, 52] {
        world.fails(id, Cause::Target);
    }
    world.succeeds(90, Duration::ZERO);
    world.open();
    // Two that are doubtful, one of a later attempt, one that the row is made of.
    let mut old: Vec<_> = [51, 52].map(delivery).into();
    old.extend([attempt(53, 4), delivery(3)]);
    for delivery in old {
        world.on(Event::Fetched(delivery));
        let delivery = world.probe_message();
        world.probe_fails(delivery);
    }
    world.fetch([99]);
    world.probe_message();
    world.probe_succeeds();
    assert!(!opens_again(&mut world, (1..=10).chain([51, 52, 53])));
}

#[test]
fn a_message_that_failed_in_the_outage_and_is_done_in_the_end_leaves_no_doubt() {
    // One of those that opened it, one that failed meanwhile, one that failed as a probe.
    for id in [3, 11, 12] {
        let mut world = World::new();
        world.open();
        world.fails(11, Cause::Unavailable);
        world.fetch([12]);
        let delivery = world.probe_message();
        world.probe_fails(delivery);
        if id == 3 {
            world.fetch([3]);
        }
        while world.probe_message().message.id.0 != id {
            world.on(Event::ProbeSilent);
        }
        world.probe_succeeds();
        assert!(opens_again(&mut world, (1..=13).filter(|other| *other != id)), "{id} is done");
    }
}

#[test]
fn a_target_that_says_that_it_is_sick_leaves_no_doubt() {
    let mut world = World::with(32, true);
    world.fails(1, Cause::Unavailable);
    world.probe();
    assert!(matches!(world.on(sick("down for repairs")), Reaction::Open(_)));
    world.probe();
    world.on(Event::Well);
    assert!(opens_again(&mut world, [1; 10]));
    // An outage that the failures opened, and the target denies.
    let mut world = World::with(32, true);
    world.open();
    world.probe();
    world.on(Event::Well);
    assert!(!opens_again(&mut world, 1..=10));
}

#[test]
fn a_question_that_runs_out_of_time_is_no_word_of_the_target() {
    // An outage that the failures opened, and then the question takes longer than it may, before it is answered.
    let mut world = World::with(32, true);
    world.open();
    let limit = world.probe().1;
    world.on(silent(limit, true));
    world.probe();
    world.on(Event::Well);
    assert!(!opens_again(&mut world, 1..=10));
}

#[test]
fn silence_that_opens_an_outage_clears_nobody() {
    // The whole timeout long, or as long as whoever asks waits by itself.
    for (took, is_expired) in [(30 * SECOND, true), (2 * SECOND, false)] {
        let mut world = World::with(32, true);
        world.fails(1, Cause::Unavailable);
        world.probe();
        assert!(matches!(world.on(silent(took, is_expired)), Reaction::Open(_)));
        world.probe();
        world.on(Event::Well);
        assert!(!opens_again(&mut world, [1; 10]), "silent for {took:?}");
    }
}

#[test]
fn a_message_that_brings_the_target_down_has_its_attempts_given_back_once() {
    let mut world = World::new();
    for round in 0..5 {
        // It gets no answer; the others find nobody there, also those that are tried as probes.
        assert!(matches!(world.fails(1, Cause::Target), Reaction::Charge(..)));
        let mut reactions = (2..=11).map(|id| world.fails(id, Cause::Unreachable));
        let opening = reactions.find_map(|reaction| match reaction {
            Reaction::Open(opening) => Some(opening),
            _ => None,
        });
        let give_back = opening.expect("ten failures open").give_back;
        let is_given_back = give_back.iter().any(|(given_back, _)| *given_back == tag(1));
        assert_eq!(is_given_back, round == 0, "round {round}");
        world.ends_after(50..60);
    }
}

#[test]
fn the_reason_is_what_the_last_probe_said() {
    let mut world = World::with(32, true);
    world.open();
    world.probe();
    world.on(sick("gone fishing"));
    let (reason, probes) = world.outage.open().unwrap();
    assert_eq!((&**reason, probes), ("gone fishing", 1));
}
