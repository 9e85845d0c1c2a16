//! `outboard doctor`.

use clap::Args;

use super::{ConfigArgs, small_runtime};
use crate::{
    doctor::{self, Status},
    output::{self, Exit, Output},
};

const EXAMPLES: &str = "\
Examples:
  outboard doctor
  outboard doctor --config production.yaml
  outboard doctor --json | jq '.groups[].checks[] | select(.status != \"ok\")'

√ is in order, ! will hurt one day, × does not work or loses messages, - cannot be seen from here. Nothing is changed or
made but a scratch file where the data directory is. Exit code 1 when there is a ×. It takes 10 s at most.";

/// Arguments of `outboard doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Looks at everything and tells it.
pub(crate) fn run(args: &DoctorArgs, output: Output) -> Result<(), Exit> {
    let config = args.config.load(Vec::new())?;
    let runtime = small_runtime()?;
    let report = runtime.block_on(doctor::examine(&config));
    // A disk that hangs holds its thread.
    runtime.shutdown_background();
    output.record(&report, report.lines(output::has_colours()))?;
    match (report.count(Status::Problem), report.count(Status::Warning)) {
        (0, _) => Ok(()),
        (1, warnings) => Err(Exit::failure(format_args!("1 problem, {}", counted(warnings)))),
        (problems, warnings) => {
            Err(Exit::failure(format_args!("{problems} problems, {}", counted(warnings))))
        }
    }
}

fn counted(warnings: usize) -> String {
    if warnings == 1 { "1 warning".to_owned() } else { format!("{warnings} warnings") }
}
