//! A crash at every fault point between claim and commit.

use std::collections::BTreeMap;

use outboard::core::fault::Point;

use crate::{plan::Plan, world::World};

#[test]
fn a_crash_at_every_fault_point_keeps_every_promise() {
    let mut hits: BTreeMap<Point, u64> = BTreeMap::new();
    let mut crashes: BTreeMap<Point, u64> = BTreeMap::new();
    for &point in Point::ALL {
        for nth in [1, 2, 3, 7, 20] {
            let mut world = World::new(Plan::crashing_at(point, nth));
            world.run();
            for (point, count) in world.hits() {
                *hits.entry(*point).or_default() += count;
            }
            let (broken, journal) = world.finish();
            assert!(
                broken.is_empty(),
                "a crash at {} ({nth}) broke:\n  {}",
                point.name(),
                broken.join("\n  ")
            );
            *crashes.entry(point).or_default() += journal.crashes();
        }
    }
    for &point in Point::ALL {
        println!("{:28} {:6} hits, {} crashes", point.name(), hits[&point], crashes[&point]);
        assert!(crashes[&point] > 0, "no run crashed at {}", point.name());
    }
}
