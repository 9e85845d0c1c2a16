//! `outboard config`: shows what a configuration comes to.

use clap::{Args, Subcommand};

use super::ConfigArgs;
use crate::output::{Exit, Output};

/// Subcommands of `outboard config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check flags, variables and file, and say what is wrong.
    #[command(after_help = "Examples:\n  outboard config check --config production.yaml")]
    Check(CheckArgs),
    /// Print every key with its value, defaults included; secrets as ***, the queries of URLs as ?….
    #[command(after_help = "\
Examples:
  outboard config print | less
  outboard config print --json | jq .workers

The output is JSON, which is YAML, too. Do not write it over the file that it is read from: the shell empties that
first, and what is printed holds no secrets.")]
    Print(CheckArgs),
}

/// Arguments of both.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs a subcommand.
pub(crate) fn run(command: &ConfigCommand, output: Output) -> Result<(), Exit> {
    match command {
        ConfigCommand::Check(args) => {
            args.config.load(Vec::new())?;
            output.record(&serde_json::json!({"ok": true}), "The configuration is in order.")?;
        }
        ConfigCommand::Print(args) => {
            let config = args.config.load(Vec::new())?;
            let pretty = serde_json::to_string_pretty(&config).map_err(Exit::failure)?;
            output.record(&config, pretty)?;
        }
    }
    Ok(())
}
