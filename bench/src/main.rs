//! Measures Outboard beside its peers: the same work, in one run, in turn, on one machine.
//!
//! A claim is a ratio against a peer in the same run; an absolute figure says as much about the machine. Nothing here
//! is a timed test: with `--smoke` only half of each ratio is asserted.

mod append;
mod brokers;
mod dispatch;
mod forward;
mod http;
mod jobs;
mod load;
mod machine;
mod order;
mod own;
mod peers;
mod post;
mod process;
mod raw_sqlite;
mod receiver;
mod replay;
mod report;
mod server;
mod settings;
mod start;
mod statistics;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::{machine::Machine, report::Report, settings::Settings};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Everything below.
    All,
    /// Our durable append against raw SQLite, at batches of 64 and 1,000.
    Append,
    /// Durable jobs end to end, against Redis Streams, BullMQ and Sidekiq.
    Jobs,
    /// One worker through a log that is there.
    Replay,
    /// From the append's return to the handler, idle and loaded.
    Dispatch,
    /// POST /commands to the released program.
    Post,
    /// The released program to a fast receiver.
    Forward,
    /// Workers and publishers on RabbitMQ, against clients in Go, Python and JavaScript.
    Rabbitmq,
    /// A worker on JetStream, against the bare client.
    Jetstream,
    /// Jobs in Sidekiq's format, against Sidekiq and BullMQ.
    Sidekiq,
    /// The peers of `jobs` alone.
    Peers,
    /// The start after a kill, on a large data directory.
    Start,
    /// No measurement: the receiver that `forward` sends to.
    Receiver,
}

/// Measures Outboard beside its peers, and prints a table.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure.
    #[arg(value_enum)]
    measure: Measure,
    /// How long one slice lasts.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How many slices of each, in turn; the figure is their median.
    #[arg(long, default_value_t = 9)]
    slices: usize,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Small numbers; fails when a ratio is below half of its target.
    #[arg(long)]
    smoke: bool,
    /// The data directory of `start`: 1 is ten million messages, 100,000 parked and a million idempotency keys.
    #[arg(long, default_value_t = 1.0)]
    fill: f64,
    /// Measure `jobs` and brokers without the peers.
    #[arg(long)]
    alone: bool,
    /// How many attempts our worker of `jobs` runs at once; a crash repeats at most twice as many.
    #[arg(long, default_value_t = 512)]
    concurrency: u32,
    /// Where the data is written and removed again; by default below `target`.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The program to measure, instead of building it.
    #[arg(long)]
    outboard: Option<PathBuf>,
}

/// What `all` is made of.
const EACH: &[Measure] = &[
    Measure::Append,
    Measure::Jobs,
    Measure::Replay,
    Measure::Dispatch,
    Measure::Post,
    Measure::Forward,
    Measure::Start,
    Measure::Rabbitmq,
    Measure::Jetstream,
    Measure::Sidekiq,
];

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.measure == Measure::Receiver {
        receiver::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    let (seconds, slices, fill) =
        if arguments.smoke { (0.2, 5, 0.001) } else { (arguments.seconds, arguments.slices, arguments.fill) };
    let slice = Duration::from_secs_f64(seconds);
    let mut settings = Settings {
        slice,
        slices,
        is_smoke: arguments.smoke,
        fill,
        is_alone: arguments.alone,
        concurrency: arguments.concurrency,
        data: settings::data(arguments.data)?,
        // It is run from other directories.
        program: arguments.outboard.map(std::path::absolute).transpose()?,
    };
    let mut report = Report::new(arguments.json);
    report.machine(&Machine::look(settings.data.path())?)?;
    measure(arguments.measure, &mut settings, &mut report)?;
    report.verdict()?;
    Ok(if arguments.smoke && report.is_broken() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure(measure: Measure, settings: &mut Settings, report: &mut Report) -> Result<()> {
    match measure {
        Measure::All => EACH.iter().try_for_each(|each| self::measure(*each, settings, report)),
        Measure::Append => append::run(settings, report),
        Measure::Jobs => jobs::run(settings, report),
        Measure::Peers => jobs::run_peers(settings, report),
        Measure::Replay => replay::run(settings, report),
        Measure::Dispatch => dispatch::run(settings, report),
        Measure::Post => post::run(settings, report),
        Measure::Forward => forward::run(settings, report),
        Measure::Start => start::run(settings, report),
        Measure::Rabbitmq => brokers::rabbitmq(settings, report),
        Measure::Jetstream => brokers::jetstream(settings, report),
        Measure::Sidekiq => brokers::sidekiq(settings, report),
        Measure::Receiver => receiver::serve(),
    }
}
