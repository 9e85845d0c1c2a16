//! `outboard log verify`.

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::HeaderMap;

use super::{ConfigArgs, small_runtime};
use crate::{
    client::{Refusal, Server},
    output::{Exit, Output},
    verify::{self, Report},
};

/// Subcommands of `outboard log`.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Read every message, and check that each is what was written and none is missing.
    #[command(after_help = "\
Examples:
  outboard log verify
  outboard log verify --data-dir /var/lib/outboard --json

A running server is asked to do it; a stopped one's directory is opened. Exit code 1 when something is wrong.")]
    Verify(VerifyArgs),
}

/// Arguments of `outboard log verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The server, if it is not the one that runs on the data directory.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs a subcommand.
pub(crate) fn run(command: &LogCommand, output: Output) -> Result<(), Exit> {
    let LogCommand::Verify(args) = command;
    let config = args.config.load(Vec::new())?;
    let runtime = small_runtime()?;
    let report = runtime.block_on(async {
        if let Some(server) = Server::find(args.url.as_deref(), &config)? {
            let answer =
                server.post("/log/verify", "application/json", Bytes::new(), HeaderMap::new(), None).await;
            match answer {
                // A server that crashed has left its address behind.
                Err(Refusal::Absent(_)) if args.url.is_none() => {}
                answer => return Ok(answer?),
            }
        }
        verify::stopped(&config.data_dir).map_err(Exit::failure)
    })?;
    tell(&report, output)
}

fn tell(report: &Report, output: Output) -> Result<(), Exit> {
    for problem in &report.problems {
        output.line(problem)?;
    }
    let (messages, workers, count) = (report.messages, report.workers, report.problem_count);
    if report.clean || output.json {
        let text = format_args!("messages: {messages}, workers: {workers}; all is as it was written");
        output.record(report, text)?;
    }
    if report.clean {
        return Ok(());
    }
    let told = format_args!("{count} problems in {messages} messages; restore the directory from a backup");
    Err(Exit::failure(told))
}
