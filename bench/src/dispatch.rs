//! How long it takes from the append's return to the handler.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outboard::{App, Context, Done, Outcome, Running, Worker};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::{
    order::Order,
    report::{Report, Row, Target, Unit},
    settings::Settings,
    statistics::{Samples, percentile},
};

/// Between two messages when it is idle: long enough for every thread to sleep.
const IDLE_GAP: Duration = Duration::from_millis(2);

/// How many producers load it, each sending one message in every interval: 20,000 a second together.
const PRODUCERS: usize = 64;
const INTERVAL: Duration = Duration::from_micros(3_200);

/// The most messages of one slice.
const MOST_MESSAGES: usize = 1 << 20;

/// When each message's append returned and when its handler began, in nanoseconds from `began`; 0 is not yet.
#[derive(Debug)]
struct Times {
    began: Instant,
    returned: Vec<AtomicU64>,
    handled: Vec<AtomicU64>,
    next: AtomicU64,
}

impl Times {
    fn new() -> Self {
        let slots = || (0..MOST_MESSAGES).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), returned: slots(), handled: slots(), next: AtomicU64::new(0) }
    }

    fn mark(&self, slots: &[AtomicU64], id: u64) {
        let now = self.began.elapsed().as_nanos() as u64;
        slots[id as usize % MOST_MESSAGES].store(now, Relaxed);
    }

    /// The delays of these messages in nanoseconds; a handler that began before the append returned was not late.
    fn delays(&self, ids: std::ops::Range<u64>) -> Result<Vec<u64>> {
        let mut delays = Vec::new();
        for id in ids {
            let slot = id as usize % MOST_MESSAGES;
            let (returned, handled) = (self.returned[slot].load(Relaxed), self.handled[slot].load(Relaxed));
            ensure!(returned > 0 && handled > 0, "message {id} was not handled");
            delays.push(handled.saturating_sub(returned));
        }
        Ok(delays)
    }
}

async fn handle(cx: Context<Arc<Times>>, order: Order) -> Outcome {
    let times = cx.state();
    times.mark(&times.handled, order.order_id);
    Ok(Done)
}

pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let times = Arc::new(Times::new());
    let worker = Worker::new("clock", "Notes when messages come", times.clone()).on(handle);
    let directory = settings.directory("dispatch")?;
    let start = async move { App::open(directory).await?.worker(worker).start().await };
    let app = Arc::new(runtime.block_on(runtime.spawn(start))??);
    let what = "append's return to the handler";
    for (name, producers, most) in [("idle", 1, 100.0), ("20,000/s", PRODUCERS, 1_000.0)] {
        let (mut middle, mut late) = (Samples::default(), Samples::default());
        for _ in 0..settings.slices {
            let slice = slice(app.clone(), times.clone(), producers, settings.slice);
            let mut delays = runtime.block_on(runtime.spawn(slice))??;
            middle.push(percentile(&mut delays, 0.5) as f64 / 1e3);
            late.push(percentile(&mut delays, 0.99) as f64 / 1e3);
        }
        report.row(Row::new(format!("{what}, {name}, p50"), Unit::Microseconds, middle))?;
        let row = Row::new(format!("{what}, {name}, p99"), Unit::Microseconds, late);
        report.row(row.target(Target::AtMost(most)))?;
    }
    Ok(runtime.block_on(app.shutdown())?)
}

/// Sends for so long, and returns the delays.
async fn slice(app: Arc<Running>, times: Arc<Times>, producers: usize, slice: Duration) -> Result<Vec<u64>> {
    let first = times.next.load(Relaxed);
    let mut tasks = JoinSet::new();
    for index in 0..producers {
        let gap = if producers == 1 { IDLE_GAP } else { INTERVAL };
        // Spread over the interval: a thundering herd would measure itself.
        let offset = gap.mul_f64(index as f64 / producers as f64);
        tasks.spawn(produce(app.clone(), times.clone(), (offset, gap), slice));
    }
    while let Some(produced) = tasks.join_next().await {
        produced??;
    }
    app.idle().await?;
    times.delays(first..times.next.load(Relaxed))
}

async fn produce(
    app: Arc<Running>,
    times: Arc<Times>,
    (offset, gap): (Duration, Duration),
    slice: Duration,
) -> Result<()> {
    let began = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval_at(began + offset, gap);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while began.elapsed() < slice {
        ticks.tick().await;
        let id = times.next.fetch_add(1, Relaxed);
        app.executor().execute(Order::new(id)).await?;
        times.mark(&times.returned, id);
    }
    Ok(())
}
