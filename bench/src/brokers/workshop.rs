//! Our side: a broker's queue in this process, and whole workers on it.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use outboard::{
    Attempt, Done, Handled, Handler, Policy, QueueSource, Source, WorkerHandle, WorkerSpec, Workers,
    WorkersOptions,
    core::{
        Queue, TypeSet,
        ledger::Start,
        queue::{ConsumeSpec, Destination, Outgoing, Prefetch, QueueName, QueueSpec},
    },
    handler::BoxFuture,
};
use outboard_embedded::{Embedded, Options};
use tokio::{
    runtime::{Handle, Runtime},
    sync::Notify,
    task::JoinSet,
};

use crate::order::{KIND, Orders};

/// How long one slice may take; one that is stuck ends the run instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a handler looks at in a payload: something of it, so that it cannot be left out.
pub(super) type Weigh = fn(&[u8]) -> u64;

/// A broker's queues and an embedded ledger, as the program has them.
#[derive(Clone)]
pub(super) struct Workshop {
    // Before the runtime that they need.
    workers: Arc<Workers>,
    /// The last number that was given out.
    last: Arc<AtomicUsize>,
    pub(super) queue: Arc<dyn Queue>,
    runtime: Arc<Runtime>,
}

/// How workers consume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consuming {
    /// How many deliveries each may have unsettled.
    pub(super) prefetch: u32,
    /// How many attempts each runs at once.
    pub(super) concurrency: u32,
    /// How many workers share the queue.
    pub(super) workers: usize,
    pub(super) weigh: Weigh,
}

impl Workshop {
    /// Opens the queues of a broker, and a ledger in this directory.
    pub(super) fn open(directory: &Path, open: impl FnOnce() -> Result<Arc<dyn Queue>>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let storage = runtime.block_on(Embedded::open(directory, Options::default()))?;
        let queue = runtime.block_on(async { open() })?;
        let workers = Workers::new(Arc::new(storage.clone()), Arc::new(storage), WorkersOptions::default());
        Ok(Self { workers: Arc::new(workers), last: Arc::default(), queue, runtime: Arc::new(runtime) })
    }

    /// A number that was not given out before.
    pub(super) fn number(&self) -> usize {
        self.last.fetch_add(1, Relaxed)
    }

    /// Where its tasks run.
    pub(super) fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Consumes everything, and says how long that took from the first message until everything was acknowledged and
    /// the workers were released.
    pub(super) fn consume(&self, queue: QueueSpec, messages: usize, how: Consuming) -> Result<Handling> {
        let began = self.begin(queue, messages, how)?;
        self.finish(began)
    }

    /// Starts workers that will handle so many messages together.
    pub(super) fn begin(&self, queue: QueueSpec, messages: usize, how: Consuming) -> Result<Begun> {
        let tally =
            Arc::new(Tally { left: AtomicUsize::new(messages), first: OnceLock::new(), all: Notify::new() });
        let mut counters = Vec::new();
        let mut handles = Vec::new();
        for number in 0..how.workers {
            let counter =
                Arc::new(Counter { tally: tally.clone(), handled: AtomicUsize::new(0), weigh: how.weigh });
            counters.push(counter.clone());
            let spec = self.worker(format!("bench-{number}"), queue.clone(), counter, how);
            handles.push(self.block_on(self.workers.start(spec))?);
        }
        Ok(Begun { tally, counters, handles })
    }

    /// Waits until they have.
    pub(super) fn finish(&self, Begun { tally, counters, handles }: Begun) -> Result<Handling> {
        self.block_on(async {
            let all = tokio::time::timeout(PATIENCE, tally.all.notified()).await;
            all.with_context(|| format!("{} messages never came", tally.left.load(Relaxed)))?;
            for handle in &handles {
                let drained = handle.drain(tokio::time::Instant::now() + PATIENCE).await?;
                ensure!(drained.returned == 0, "{} messages were given back", drained.returned);
            }
            let first = tally.first.get().context("a message came")?;
            let shares = counters.iter().map(|counter| counter.handled.load(Relaxed)).collect();
            Ok(Handling { took: first.elapsed(), shares })
        })
    }

    fn worker(&self, name: String, queue: QueueSpec, counter: Arc<Counter>, how: Consuming) -> WorkerSpec {
        let consume =
            ConsumeSpec { prefetch: Prefetch::Fixed(how.prefetch), ..ConsumeSpec::new(name.as_str(), queue) };
        WorkerSpec {
            name: name.into(),
            description: "Counts orders".into(),
            types: TypeSet::all(),
            start: Start::End,
            policy: Policy { concurrency: how.concurrency, ..Policy::default() },
            handler: counter,
            periodic: Vec::new(),
            source: Source::Queue(QueueSource::new(self.queue.clone(), consume)),
        }
    }

    /// Publishes so many orders: so many tasks, each with a batch of this size under way.
    pub(super) fn publish(
        &self,
        queue: &str,
        messages: usize,
        (tasks, batch): (usize, usize),
        orders: &Orders,
    ) -> Result<Duration> {
        let left = Arc::new(AtomicUsize::new(messages));
        let began = Instant::now();
        self.block_on(async {
            let mut publishing = JoinSet::new();
            for _ in 0..tasks {
                let (broker, orders, left) = (self.queue.clone(), orders.clone(), left.clone());
                publishing.spawn(publish(broker, queue.into(), orders, left, batch));
            }
            while let Some(published) = publishing.join_next().await {
                published??;
            }
            anyhow::Ok(())
        })?;
        Ok(began.elapsed())
    }
}

/// Workers that were started.
pub(super) struct Begun {
    tally: Arc<Tally>,
    counters: Vec<Arc<Counter>>,
    handles: Vec<WorkerHandle>,
}

/// What workers did.
#[derive(Debug)]
pub(super) struct Handling {
    /// From the first message until everything was acknowledged.
    pub(super) took: Duration,
    /// How many messages each worker handled.
    pub(super) shares: Vec<usize>,
}

/// What the handlers of one slice share.
#[derive(Debug)]
struct Tally {
    left: AtomicUsize,
    first: OnceLock<Instant>,
    all: Notify,
}

/// A handler without effects.
#[derive(Debug)]
struct Counter {
    tally: Arc<Tally>,
    handled: AtomicUsize,
    weigh: Weigh,
}

impl Handler for Counter {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        self.tally.first.get_or_init(Instant::now);
        std::hint::black_box((self.weigh)(&attempt.message.payload));
        self.handled.fetch_add(1, Relaxed);
        if self.tally.left.fetch_sub(1, Relaxed) == 1 {
            self.tally.all.notify_one();
        }
        Box::pin(std::future::ready(Ok(Done).into()))
    }
}

async fn publish(
    broker: Arc<dyn Queue>,
    queue: QueueName,
    mut orders: Orders,
    left: Arc<AtomicUsize>,
    batch: usize,
) -> Result<()> {
    let kind: Arc<str> = KIND.into();
    loop {
        let taken =
            left.fetch_update(Relaxed, Relaxed, |left| (left > 0).then(|| left.saturating_sub(batch)));
        let Ok(left) = taken else { return Ok(()) };
        let to = || Destination::queue(queue.clone());
        let messages =
            (0..batch.min(left)).map(|_| Outgoing::new(to(), kind.clone(), orders.payload())).collect();
        for receipt in broker.publish(messages).await? {
            receipt?;
        }
    }
}
