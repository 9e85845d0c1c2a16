//! Sidekiq's format on Redis: our worker beside Sidekiq itself and BullMQ, jobs end to end.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use outboard::core::{queue::QueueSpec, time::system_clock};
use outboard_backends::sidekiq::{Address, Sidekiq as Queues};

use super::workshop::{Consuming, Workshop};
use crate::{
    jobs::{self, Contender},
    order::{KIND, Order, Orders},
    peers::{BullMq, Peer, Producers, Redis, Sidekiq},
    report::Report,
    settings::Settings,
};

/// The queue, as the peer's.
const QUEUE: &str = "default";

/// How many jobs our worker has in hand, and how many it runs at once.
const PREFETCH: u32 = 1_000;
const CONCURRENCY: u32 = 500;

/// Measures us and them, each on a Redis of its own.
pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let own = match Own::start(settings.data.path(), &settings.directory("sidekiq")?) {
        Ok(own) => own,
        Err(error) => return Ok(report.skipped("Sidekiq's format", &format!("{error:#}"))?),
    };
    let mut contenders = vec![Contender::new(Box::new(own))];
    if !settings.is_alone {
        let (data, cache) = (settings.data.path(), settings.cache()?);
        match Sidekiq::start(data) {
            Ok(peer) => contenders.push(Contender::new(Box::new(peer))),
            Err(error) => report.skipped("Sidekiq", &format!("{error:#}"))?,
        }
        match BullMq::start(data, &cache) {
            Ok(peer) => contenders.push(Contender::new(Box::new(peer))),
            Err(error) => report.skipped("BullMQ", &format!("{error:#}"))?,
        }
    }
    for producers in [Producers::Batching, Producers::Awaiting] {
        jobs::measure(&mut contenders, producers, settings)?;
        let (own, peers) = contenders.split_first().expect("we are the first");
        report.row(own.row(producers))?;
        for peer in peers {
            report.row(own.beside(peer, producers))?;
        }
    }
    Ok(())
}

/// Our worker and our publisher.
struct Own {
    workshop: Workshop,
    orders: Orders,
    name: String,
    /// After the workshop that is connected to it.
    _redis: Redis,
}

impl Own {
    fn start(data: &Path, directory: &Path) -> Result<Self> {
        let redis = Redis::start(data, "redis-own")?;
        let address: Address =
            format!("sidekiq+redis://127.0.0.1:{}/0?queue={QUEUE}&jobs=plain", redis.port).parse()?;
        let workshop = Workshop::open(directory, || Ok(Arc::new(Queues::open(address, system_clock()))))?;
        // A job's payload is the list of its arguments.
        let wrap = |payload: &bytes::Bytes| [b"[", &payload[..], b"]"].concat().into();
        let name = format!("worker in Sidekiq's format, Redis {}", redis.version);
        Ok(Self { workshop, orders: Orders::of_kind(KIND).wrapped(wrap), name, _redis: redis })
    }
}

impl Peer for Own {
    fn name(&self) -> &str {
        &self.name
    }

    fn durability(&self) -> &str {
        "appendfsync always on both ends; at least once: a job in hand outlives the process"
    }

    fn run(&mut self, producers: Producers, jobs: usize) -> Result<Duration> {
        let how = Consuming { prefetch: PREFETCH, concurrency: CONCURRENCY, workers: 1, weigh };
        let worker = self.workshop.begin(QueueSpec::named(QUEUE), jobs, how)?;
        let began = Instant::now();
        self.workshop.publish(QUEUE, jobs, producers.shape(), &self.orders)?;
        self.workshop.finish(worker)?;
        Ok(began.elapsed())
    }
}

/// Decodes the arguments and reads every field, as the peers' handlers do.
fn weigh(payload: &[u8]) -> u64 {
    let arguments: Result<[Order; 1], _> = serde_json::from_slice(payload);
    arguments.map(|[order]| order.weight()).expect("what was published is an order")
}
