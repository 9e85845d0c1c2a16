//! Outboard in this process: an app with one typed worker, measured as the peers are.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use outboard::{App, Context, Done, Outcome, Running, Worker, core::Position};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    order::{KIND, Order, Orders},
    peers::{Peer, Producers},
};

/// The worker's name.
const WORKER: &str = "orders";

/// How often the cursor is looked at; what it says is durable.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Adds up what the handler read, so that nothing of it can be left out.
#[derive(Debug, Default)]
struct Weight(AtomicU64);

async fn handle(cx: Context<Weight>, order: Order) -> Outcome {
    cx.state().0.fetch_add(order.weight(), Relaxed);
    Ok(Done)
}

/// An app on a data directory of its own.
#[derive(Debug)]
pub(crate) struct Own {
    runtime: Runtime,
    app: Arc<Running>,
    name: String,
}

impl Own {
    pub(crate) fn start(directory: PathBuf, concurrency: u32) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let worker =
            Worker::new(WORKER, "Weighs orders", Weight::default()).on(handle).concurrency(concurrency);
        let start = async move { App::open(directory).await?.worker(worker).start().await };
        let app = runtime.block_on(runtime.spawn(start))??;
        let name = format!("Outboard, concurrency {concurrency}");
        Ok(Self { runtime, app: Arc::new(app), name })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Its data goes away with the run: a stop that fails harms nobody.
        let _ = self.runtime.block_on(self.app.shutdown());
    }
}

impl Peer for Own {
    fn name(&self) -> &str {
        &self.name
    }

    fn durability(&self) -> &str {
        "fsync before every answer, done marks synced; at least once, own effects exactly once"
    }

    fn run(&mut self, producers: Producers, jobs: usize) -> Result<Duration> {
        let (count, batch) = producers.shape();
        let last = Position(self.app.log().tip().borrow().0 + jobs as u64);
        let sent = Arc::new(AtomicUsize::new(0));
        let orders = Orders::of_kind(KIND);
        let began = Instant::now();
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..count {
                let (app, orders, sent) = (self.app.clone(), orders.clone(), sent.clone());
                tasks.spawn(produce(app, orders, batch, jobs, sent));
            }
            while let Some(produced) = tasks.join_next().await {
                produced??;
            }
            done_up_to(&self.app, last).await
        })?;
        Ok(began.elapsed())
    }
}

async fn produce(
    app: Arc<Running>,
    mut orders: Orders,
    batch: usize,
    jobs: usize,
    sent: Arc<AtomicUsize>,
) -> Result<()> {
    loop {
        let first = sent.fetch_add(batch, Relaxed);
        let size = batch.min(jobs.saturating_sub(first));
        if size == 0 {
            return Ok(());
        }
        app.executor().append(orders.batch(size).into()).await?;
    }
}

/// Waits until everything up to there is durably done.
async fn done_up_to(app: &Running, last: Position) -> Result<()> {
    let worker = app.workers().get(WORKER).context("the worker is gone")?;
    while worker.info().consumer.low < last {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
