//! Durable job systems that run beside us, each in its own processes, on a free port, in its own directory.

mod bullmq;
mod redis;
mod resp;
mod sidekiq;
mod streams;

use std::{path::Path, time::Duration};

use anyhow::Result;

pub(crate) use self::{bullmq::BullMq, redis::Redis, sidekiq::Sidekiq, streams::Streams};

/// How producers hand jobs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Producers {
    /// A few, each with many jobs in one request.
    Batching,
    /// 64, each awaiting the acknowledgement of one job before the next.
    Awaiting,
}

impl Producers {
    /// How many there are, and how many jobs each sends at once.
    pub(crate) fn shape(self) -> (usize, usize) {
        match self {
            Self::Batching => (4, 100),
            Self::Awaiting => (64, 1),
        }
    }
}

/// A job system: takes jobs durably, hands each to a handler that decodes it, marks it done.
pub(crate) trait Peer {
    /// Name and version.
    fn name(&self) -> &str;

    /// What it has kept when it acknowledges, and when it marks done.
    fn durability(&self) -> &str;

    /// Hands in so many jobs and has them handled; the time from the first hand-in to the last done mark.
    fn run(&mut self, producers: Producers, jobs: usize) -> Result<Duration>;
}

/// A peer, or why it is not here.
type Found = Result<Box<dyn Peer>, (&'static str, String)>;

/// Every peer, started; `cache` is where packages are kept between runs.
pub(crate) fn all(directory: &Path, cache: &Path) -> Vec<Found> {
    vec![
        Streams::start(directory).map(boxed).map_err(|error| ("Redis Streams", format!("{error:#}"))),
        BullMq::start(directory, cache).map(boxed).map_err(|error| ("BullMQ", format!("{error:#}"))),
        Sidekiq::start(directory).map(boxed).map_err(|error| ("Sidekiq", format!("{error:#}"))),
    ]
}

fn boxed<P: Peer + 'static>(peer: P) -> Box<dyn Peer> {
    Box::new(peer)
}
