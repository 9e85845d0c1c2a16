//! `outboard up`.

use clap::Args;

use super::ConfigArgs;
use crate::{
    config::Flag,
    output::{Exit, Output},
    telemetry,
};

const EXAMPLES: &str = "\
Examples:
  outboard up
  outboard up --forward http://127.0.0.1:3000/outboard
  OUTBOARD_API__PORT=18085 outboard up --data-dir /var/lib/outboard
  outboard up --config config.yaml --log-level info,outboard_embedded=debug

Flags go over variables (OUTBOARD_, nesting by __: OUTBOARD_API__PORT is api.port), variables over the file, the file
over the defaults. `outboard config print` shows the result. Where the API listens is written to <data-dir>/address.
A directory that another `up` holds is refused with exit code 1.";

/// Arguments of `outboard up`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The address to listen on [default: 127.0.0.1; variable: OUTBOARD_HOST].
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// The port of the API; 0 takes a free one [default: 8085; variable: OUTBOARD_API__PORT].
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// What is logged: a level or a list by module, such as info,outboard_embedded=debug [default: info].
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// Forward every message to this URL, with the worker `forward`.
    #[arg(long, value_name = "URL")]
    forward: Option<String>,
}

/// Runs the server until a signal.
pub(crate) fn run(args: &UpArgs, output: Output) -> Result<(), Exit> {
    let started = std::time::Instant::now();
    let flags = [
        ("host", &args.host, "--host"),
        ("api.port", &args.port, "--port"),
        ("log_level", &args.log_level, "--log-level"),
    ];
    let flags: Vec<Flag> =
        flags.into_iter().filter_map(|(key, value, flag)| Some((key, value.clone()?, flag))).collect();
    let mut config = args.config.load(flags)?;
    if let Some(url) = &args.forward {
        config.add_forward(url)?;
    }
    telemetry::start(&config.log_level, output.json).map_err(Exit::failure)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::failure(format_args!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(crate::up::run(config, started, output));
    // Whatever still runs has been given its deadline; nothing may hold the process.
    runtime.shutdown_background();
    result
}
