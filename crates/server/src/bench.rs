//! `outboard bench`.

mod fill;

use clap::{Args, Subcommand};

use crate::output::{Exit, Output};

/// Arguments of `outboard bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Fill a data directory, through the writer, to measure starts and sizes with.
    Fill(fill::FillArgs),
}

/// Runs a subcommand.
pub(crate) fn run(args: BenchArgs, output: Output) -> Result<(), Exit> {
    match args.command {
        BenchCommand::Fill(fill) => fill::run(&fill, output),
    }
}
