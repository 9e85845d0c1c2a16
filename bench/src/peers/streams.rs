//! Redis Streams: XADD, a consumer group, XACK.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Peer, Producers, Redis, resp::Connection};
use crate::order::{KIND, Order, Orders};

/// How many consumers of the group there are, and how many entries each takes at once.
const CONSUMERS: usize = 2;
const TAKE: &[u8] = b"100";

/// The stream and its group.
const STREAM: &[u8] = b"jobs";
const GROUP: &[u8] = b"workers";

/// Redis Streams with a lean pipelining client.
#[derive(Debug)]
pub(crate) struct Streams {
    redis: Redis,
    name: String,
}

impl Streams {
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let redis = Redis::start(directory, "redis-streams")?;
        let name = format!("Redis {} Streams", redis.version);
        Ok(Self { redis, name })
    }
}

impl Peer for Streams {
    fn name(&self) -> &str {
        &self.name
    }

    fn durability(&self) -> &str {
        "appendfsync always on both ends; consumer group, pipeline 100; at least once"
    }

    fn run(&mut self, producers: Producers, jobs: usize) -> Result<Duration> {
        let port = self.redis.port;
        let mut control = Connection::open(port)?;
        control.ask(&[b"DEL", STREAM])?;
        control.ask(&[b"XGROUP", b"CREATE", STREAM, GROUP, b"$", b"MKSTREAM"])?;
        let (count, batch) = producers.shape();
        let (sent, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let orders = Orders::of_kind(KIND);
        let began = Instant::now();
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for _ in 0..count {
                let (sent, orders) = (&sent, orders.clone());
                threads.push(scope.spawn(move || produce(port, orders, batch, jobs, sent)));
            }
            for number in 0..CONSUMERS {
                let done = &done;
                threads.push(scope.spawn(move || consume(port, &format!("consumer-{number}"), jobs, done)));
            }
            threads.into_iter().try_for_each(|thread| thread.join().expect("a client thread does not panic"))
        })?;
        Ok(began.elapsed())
    }
}

fn produce(port: u16, mut orders: Orders, batch: usize, jobs: usize, sent: &AtomicUsize) -> Result<()> {
    let mut connection = Connection::open(port)?;
    loop {
        let first = sent.fetch_add(batch, Relaxed);
        let size = batch.min(jobs.saturating_sub(first));
        if size == 0 {
            return Ok(());
        }
        for _ in 0..size {
            connection.add(&[b"XADD", STREAM, b"*", b"order", &orders.payload()]);
        }
        connection.flush()?;
        for _ in 0..size {
            connection.answer()?;
        }
    }
}

fn consume(port: u16, name: &str, jobs: usize, done: &AtomicUsize) -> Result<()> {
    let mut connection = Connection::open(port)?;
    let read: &[&[u8]] = &[
        b"XREADGROUP",
        b"GROUP",
        GROUP,
        name.as_bytes(),
        b"COUNT",
        TAKE,
        b"BLOCK",
        b"20",
        b"STREAMS",
        STREAM,
        b">",
    ];
    let mut entries = connection.ask(read)?;
    while done.load(Relaxed) < jobs {
        let mut ids = Vec::new();
        for stream in entries.list()? {
            let entries = stream.list()?.pop().context("a stream without entries")?;
            for entry in entries.list()? {
                let mut entry = entry.list()?;
                let payload =
                    entry.pop().context("no fields")?.list()?.pop().context("no payload")?.text()?;
                std::hint::black_box(serde_json::from_slice::<Order>(&payload)?.weight());
                ids.push(entry.pop().context("no id")?.text()?);
            }
        }
        // The acknowledgement of one batch and the request for the next share a round trip.
        if !ids.is_empty() {
            let mut words: Vec<&[u8]> = vec![b"XACK", STREAM, GROUP];
            words.extend(ids.iter().map(Vec::as_slice));
            connection.add(&words);
        }
        connection.add(read);
        connection.flush()?;
        if !ids.is_empty() {
            connection.answer()?;
            done.fetch_add(ids.len(), Relaxed);
        }
        entries = connection.answer()?;
    }
    Ok(())
}
