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
