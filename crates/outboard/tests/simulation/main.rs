//! The whole runtime on `:memory:` with paused time and faults: every promise, for many seeds, and proof that each
//! check can fail.
//!
//! A seed decides everything: what is appended, how handlers behave, when the process crashes, when the target is
//! sick. `OUTBOARD_TEST_SEED=17 cargo test -p outboard --test simulation one_seed` runs one seed and prints its journal.

#![expect(clippy::print_stdout, reason = "a simulation tells which seed it ran")]

mod check;
mod handler;
mod journal;
mod plan;
mod points;
mod promises;
mod sick;
mod world;

use std::hash::{DefaultHasher, Hash, Hasher};

use plan::Plan;
use world::World;

/// Runs a seed to its end and returns what was broken, with the journal.
fn run(seed: u64) -> (Vec<String>, journal::Journal) {
    let mut world = World::new(Plan::of(seed));
    world.run();
    world.finish()
}

fn fingerprint(journal: &journal::Journal) -> u64 {
    let mut hasher = DefaultHasher::new();
    journal.lines().hash(&mut hasher);
    hasher.finish()
}

#[test]
fn two_hundred_seeds_keep_every_promise() {
    let mut crashes = 0;
    for seed in 0..200 {
        let (broken, journal) = run(seed);
        assert!(broken.is_empty(), "seed {seed} broke:\n  {}", broken.join("\n  "));
        crashes += journal.crashes();
    }
    println!("200 seeds, {crashes} crashes");
    assert!(crashes >= 200, "the seeds crash: {crashes}");
}

#[test]
fn a_seed_replays() {
    for seed in [3, 11, 42] {
        let (first, second) = (run(seed).1, run(seed).1);
        assert_eq!(fingerprint(&first), fingerprint(&second), "seed {seed} must do the same again");
    }
}

#[test]
fn one_seed() {
    let seed = std::env::var("OUTBOARD_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (broken, journal) = run(seed);
    for line in journal.lines() {
        println!("{line}");
    }
    assert!(broken.is_empty(), "seed {seed} broke:\n  {}", broken.join("\n  "));
}
