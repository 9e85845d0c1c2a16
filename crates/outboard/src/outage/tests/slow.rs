//! How long a probe may take: a slow target, a hanging one, and how they are told apart.

use super::*;
use crate::outage::patience::{LONG, QUICK_BETWEEN};

const TIMEOUT: Duration = Duration::from_secs(30);

impl World {
    /// Ten messages that ran out of their whole time open an outage.
    fn open_hanging(&mut self) {
        for id in 1..=10 {
            let spent = Spent { took: TIMEOUT, is_expired: true };
            self.on(Event::Failed { delivery: delivery(id), failed: failed(Cause::Unavailable), spent });
        }
        assert!(self.outage.is_open());
    }

    /// Runs the next probe until its time is up; gives that time.
    fn probe_expires(&mut self) -> Duration {
        let (delivery, limit) = self.probe();
        self.now += limit;
        match delivery {
            Some(delivery) => {
                let spent = Spent { took: limit, is_expired: true };
                self.on(Event::ProbeFailed { delivery, failed: failed(Cause::Unavailable), spent })
            }
            None => self.on(silent(limit, true)),
        };
        limit
    }

    fn expiring(&mut self, count: u32) -> Vec<u64> {
        (0..count).map(|_| self.probe_expires().as_secs()).collect()
    }
}

#[test]
fn a_probe_gets_four_times_what_the_target_needed_of_late_within_the_timeout() {
    for (took_ms, expected_ms) in [(5, 1_000), (400, 1_600), (20_000, 30_000)] {
        let mut world = World::new();
        world.succeeds(99, Duration::from_millis(took_ms));
        world.open();
        world.fetch([11]);
        assert_eq!(world.probe().1, Duration::from_millis(expected_ms));
    }
}

#[test]
fn a_slow_success_is_forgotten_after_many_fast_ones() {
    let mut world = World::new();
    world.succeeds(1, Duration::from_secs(7));
    for id in 2..300 {
        world.succeeds(id, Duration::from_millis(5));
    }
    world.open();
    world.fetch([301]);
    assert_eq!(world.probe().1, SECOND);
}

#[test]
fn a_target_that_refused_and_then_lets_probes_wait_gets_twice_the_time_each_time() {
    let mut world = World::new();
    world.open();
    world.fetch([11]);
    assert_eq!(world.expiring(6), [1, 2, 4, 8, 16, 30]);
    assert_eq!(world.expiring(3), [1, 1, 1], "it had its whole time: it hangs");
}

#[test]
fn a_probe_that_fails_soon_begins_the_doubling_anew() {
    let mut world = World::new();
    world.open_hanging();
    world.fetch([11]);
    assert_eq!(world.expiring(2), [1, 1]);
    let delivery = world.probe_message();
    world.probe_fails(delivery);
    assert_eq!(world.expiring(3), [1, 2, 4]);
    let delivery = world.probe_message();
    world.probe_fails(delivery);
    assert_eq!(world.expiring(2), [1, 2]);
}

#[test]
fn a_target_that_hangs_and_was_never_seen_well_gets_its_whole_time_once_a_minute() {
    let mut world = World::new();
    world.open_hanging();
    world.fetch([11]);
    for _ in 0..10 {
        assert_eq!(world.expiring(QUICK_BETWEEN), [1; QUICK_BETWEEN as usize]);
        assert_eq!(world.probe_expires(), TIMEOUT);
    }
}

#[test]
fn a_target_whose_pace_is_known_and_that_hangs_is_not_kept_waiting_for_ever() {
    let mut world = World::new();
    world.succeeds(99, Duration::from_millis(5));
    world.open_hanging();
    world.fetch([11]);
    assert_eq!(world.expiring(LONG), [1; LONG as usize]);
    for _ in 0..10 {
        assert_eq!(world.probe_expires(), TIMEOUT);
        assert_eq!(world.expiring(QUICK_BETWEEN), [1; QUICK_BETWEEN as usize]);
    }
}

#[test]
fn a_failure_that_takes_long_is_a_target_that_hangs() {
    // Such as a connection that does not come about: the client gives it up after five seconds.
    let mut world = World::new();
    world.open();
    world.fetch([11]);
    assert_eq!(world.expiring(3), [1, 2, 4]);
    let (delivery, limit) = world.probe();
    assert_eq!(limit, 8 * SECOND);
    let spent = Spent { took: 5 * SECOND, is_expired: false };
    world.on(Event::ProbeFailed {
        delivery: delivery.expect("a message is probed"),
        failed: failed(Cause::Unreachable),
        spent,
    });
    assert_eq!(world.expiring(3), [1, 1, 1]);
}

#[test]
fn asking_may_take_longer_each_time_and_begins_with_the_whole_time_while_messages_run() {
    let mut world = World::with(32, true);
    world.succeeds(1, Duration::from_millis(5));
    world.fails(2, Cause::Unavailable);
    assert_eq!(world.probe().1, TIMEOUT);
    world.on(sick("down for repairs"));
    assert!(world.outage.is_open());
    assert_eq!(world.expiring(4), [1, 2, 4, 8]);
    world.probe();
    let spent = Spent { took: 15 * SECOND, is_expired: false };
    world.on(Event::Sick { reason: "still".into(), spent, is_said: true });
    assert_eq!(world.expiring(2), [1, 2]);
}
