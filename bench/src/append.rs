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

/// Within a slice, each has so many turns: the speed of a disk drifts within seconds.
const TURNS: u32 = 20;

/// Alternates slices of all: what disturbs the machine disturbs each.
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
            let mut rates = [Rate::default(); 3];
            for _ in 0..TURNS {
                let turn = settings.slice / TURNS;
                rates[0].add(turn, batch, || raw.append(batch))?;
                rates[1]
                    .add(turn, batch, || Ok(log.append_blocking(orders.batch(batch).into()).map(drop)?))?;
                let awaited = || Ok(runtime.block_on(log.append(orders.batch(batch).into())).map(drop)?);
                rates[2].add(turn, batch, awaited)?;
            }
            // The first slice of each warms up.
            if slice > 0 {
                let samples = [&mut peer, &mut blocking, &mut awaiting];
                samples.into_iter().zip(rates).for_each(|(samples, rate)| samples.push(rate.per_second()));
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

/// Rows, and the time that they took.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    rows: usize,
    time: Duration,
}

impl Rate {
    /// Appends batches for about this long.
    fn add(&mut self, turn: Duration, batch: usize, mut append: impl FnMut() -> Result<()>) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < turn {
            append()?;
            self.rows += batch;
        }
        self.time += began.elapsed();
        Ok(())
    }

    fn per_second(self) -> f64 {
        self.rows as f64 / self.time.as_secs_f64()
    }
}
