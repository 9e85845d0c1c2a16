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

/// Alternates slices of both: what disturbs the machine disturbs both.
pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for batch in BATCHES {
        let mut raw = RawSqlite::open(&settings.directory(&format!("raw-{batch}"))?)?;
        let directory = settings.directory(&format!("append-{batch}"))?;
        let log = runtime.block_on(Embedded::open(&directory, Options::default()))?;
        let mut orders = Orders::of_kind(KIND);
        let (mut own, mut peer) = (Samples::default(), Samples::default());
        for slice in 0..=settings.slices {
            let raw_rows = rows_per_second(settings.slice, batch, || raw.append(batch))?;
            let own_rows = runtime.block_on(slice_of_ours(&log, &mut orders, settings.slice, batch))?;
            // The first slice of each warms up.
            if slice > 0 {
                peer.push(raw_rows);
                own.push(own_rows);
            }
        }
        runtime.block_on(log.close());
        let row = Row::new(format!("durable append, batches of {batch}"), Unit::PerSecond, own)
            .against("raw SQLite", peer)
            .target(Target::RatioAtLeast(0.9))
            .note("one producer on a thread of its own that awaits each batch; fsync before every answer on both sides");
        report.row(row)?;
    }
    Ok(())
}

async fn slice_of_ours(log: &Embedded, orders: &mut Orders, slice: Duration, batch: usize) -> Result<f64> {
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
