//! Our durable append against raw SQLite at the same batch size.

use std::time::{Duration, Instant};

use anyhow::Result;
use outboard::core::Log;
use outboard_embedded::{Embedded, Options};

use crate::{
    order::{KIND, Orders},
    raw_sqlite::RawSqlite,
    report::{Report, Row, Target, Unit},
    settings::Settings,
    statistics::Samples,
};

/// How many rows one transaction has.
const BATCHES: [usize; 2] = [64, 1_000];

/// The least ratio when the answer is awaited: at small batches, what it takes to change threads twice shows.
const AWAITED: f64 = 0.7;

/// Alternates slices of both: what disturbs the machine disturbs both.
pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for batch in BATCHES {
        let mut raw = RawSqlite::open(&settings.directory(&format!("raw-{batch}"))?)?;
        let directory = settings.directory(&format!("append-{batch}"))?;
        let log = runtime.block_on(Embedded::open(&directory, Options::default()))?;
        let mut orders = Orders::of_kind(KIND);
        let (mut blocking, mut awaiting, mut peer) =
            (Samples::default(), Samples::default(), Samples::default());
        for slice in 0..=settings.slices {
            let peer_rows = rows_per_second(settings.slice, batch, || raw.append(batch))?;
            let append = || Ok(log.append_blocking(orders.batch(batch).into()).map(drop)?);
            let blocking_rows = rows_per_second(settings.slice, batch, append)?;
            let awaiting_rows = runtime.block_on(awaiting_slice(&log, &mut orders, settings.slice, batch))?;
            // The first slice of each warms up.
            if slice > 0 {
                peer.push(peer_rows);
                blocking.push(blocking_rows);
                awaiting.push(awaiting_rows);
            }
        }
        runtime.block_on(log.close());
        let row = Row::new(format!("durable append, batches of {batch}"), Unit::PerSecond, blocking)
            .against("raw SQLite", peer.clone())
            .target(Target::RatioAtLeast(0.9))
            .note("one thread on both sides (append_blocking); fsync before every answer");
        report.row(row)?;
        let row = Row::new(format!("durable append, batches of {batch}, awaited"), Unit::PerSecond, awaiting)
            .against("raw SQLite", peer)
            .target(Target::RatioAtLeast(AWAITED))
            .note("the same by a future: the answer comes from the writer's thread, two changes of threads more");
        report.row(row)?;
    }
    Ok(())
}

async fn awaiting_slice(log: &Embedded, orders: &mut Orders, slice: Duration, batch: usize) -> Result<f64> {
    let (began, mut rows) = (Instant::now(), 0);
    while began.elapsed() < slice {
        log.append(orders.batch(batch).into()).await?;
        rows += batch;
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

fn rows_per_second(slice: Duration, batch: usize, mut append: impl FnMut() -> Result<()>) -> Result<f64> {
    let (began, mut rows) = (Instant::now(), 0);
    while began.elapsed() < slice {
        append()?;
        rows += batch;
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}
