//! The command line: what can be asked, and the exit codes.

mod config;
mod dead;
mod doctor;
mod operate;
mod submit;
mod up;
mod verify;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{Config, ConfigError, Flag, env},
    output::{Exit, FAILURE, Output, USAGE, finish},
};

const EXAMPLES: &str = "\
Examples:
  outboard up                                        start; an API on http://127.0.0.1:8085, data in ./outboard-data
  outboard up --forward http://127.0.0.1:3000/hook   deliver every command to one URL
  outboard submit orders/confirm '{\"order_id\":7}'    append one command and print its id
  outboard log verify                                check every checksum of the log

Exit codes: 0 done, 1 failed, 64 wrong usage or configuration, 130 stopped by a second signal.";

/// Takes over the message work of the application beside it: durable commands, delivered, retried, never lost.
#[derive(Debug, Parser)]
#[command(name = "outboard", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Print JSON instead of text for people; `up` logs JSON, as it always does without a terminal.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run: take commands over HTTP and deliver them to the workers.
    Up(up::UpArgs),
    /// Append commands to the running server and print their ids.
    Submit(submit::SubmitArgs),
    /// List the workers of the running server, pause or resume one.
    Workers(operate::WorkersArgs),
    /// List the dead letters of the running server, retry one or all.
    Dead(dead::DeadArgs),
    /// Look at the machine and at every configured backend, and say what is wrong and how to mend it.
    Doctor(doctor::DoctorArgs),
    /// Look at the message log.
    #[command(subcommand)]
    Log(verify::LogCommand),
    /// Measure, and make data to measure with.
    Bench(crate::bench::BenchArgs),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Flags that every command takes which must know the configuration.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file [default: config.yaml, if it exists; variable: OUTBOARD_CONFIG].
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Where everything durable lives [default: outboard-data; variable: OUTBOARD_DATA_DIR].
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<String>,
}

impl ConfigArgs {
    /// The configuration with these and further flags laid over it.
    pub(crate) fn load(&self, further: Vec<Flag>) -> Result<Config, ConfigError> {
        let mut flags = further;
        flags.extend(self.data_dir.clone().map(|value| ("data_dir", value, "--data-dir")));
        crate::config::load(self.config.as_deref(), &env::variables()?, &flags)
    }
}

/// Runs what the arguments ask for.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version were asked for; everything else is a mistake.
            let code = if error.exit_code() == 0 { 0 } else { USAGE };
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::from(FAILURE) };
        }
    };
    let output = Output { json: cli.json };
    let result = match cli.command {
        Command::Up(args) => up::run(&args, output),
        Command::Submit(args) => submit::run(args, output),
        Command::Workers(args) => operate::workers(&args, output),
        Command::Dead(args) => dead::run(&args, output),
        Command::Doctor(args) => doctor::run(&args, output),
        Command::Log(command) => verify::run(&command, output),
        Command::Bench(args) => crate::bench::run(args, output),
        Command::Config(command) => config::run(&command, output),
    };
    finish(result)
}

/// A runtime for commands that only ask a server.
fn small_runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::failure(format_args!("cannot start the runtime: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let is_group = command.is_subcommand_required_set() && command.has_subcommands();
            assert!(is_group || help.contains("Examples:"), "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&super::Cli::command());
    }
}
