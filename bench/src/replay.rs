//! One pass over a log that is there: read, checksums verified, decoded.

use std::time::Instant;

use anyhow::{Result, ensure};
use outboard::core::{Log, Position, TypeSet};
use outboard_embedded::{Embedded, Options};

use crate::{
    order::{KIND, Order, Orders},
    report::{Report, Row, Target, Unit},
    settings::Settings,
    statistics::Samples,
};

/// How many messages the log has.
const MESSAGES: usize = 1_000_000;

/// With `--smoke`.
const FEW_MESSAGES: usize = 100_000;

/// How many are appended at once while it is filled.
const BATCH: usize = 2_000;

pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let directory = settings.directory("replay")?;
    let messages = if settings.is_smoke { FEW_MESSAGES } else { MESSAGES };
    let log = runtime.block_on(async {
        let log = Embedded::open(&directory, Options::default()).await?;
        let mut orders = Orders::of_kind(KIND);
        for _ in 0..messages / BATCH {
            log.append(orders.batch(BATCH).into()).await?;
        }
        anyhow::Ok(log)
    })?;
    let mut per_second = Samples::default();
    for slice in 0..=settings.slices {
        let log = log.clone();
        let rate = runtime.block_on(runtime.spawn(pass(log, messages as u64)))??;
        // The first pass warms up.
        if slice > 0 {
            per_second.push(rate);
        }
    }
    runtime.block_on(log.close());
    let row = Row::new(format!("replay of {messages} messages"), Unit::PerSecond, per_second)
        .target(Target::AtLeast(1e6))
        .note("read from SQLite, checksums verified, five fields decoded; the file is in the page cache");
    Ok(report.row(row)?)
}

async fn pass(log: Embedded, messages: u64) -> Result<f64> {
    let (began, mut weight, mut broken) = (Instant::now(), 0, 0);
    let end = Position(messages);
    let count =
        outboard::replay(
            &log,
            TypeSet::all(),
            Position::START,
            end,
            |message| match serde_json::from_slice::<Order>(&message.payload) {
                Ok(order) => weight ^= order.weight(),
                Err(_) => broken += 1,
            },
        )
        .await?;
    std::hint::black_box(weight);
    ensure!(count == messages && broken == 0, "{count} of {messages} were replayed, {broken} did not decode");
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
