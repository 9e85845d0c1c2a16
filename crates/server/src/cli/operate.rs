//! `outboard workers`, and what the commands that ask a running server have in common.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{ConfigArgs, small_runtime};
use crate::{
    api::MAX_REASON_BYTES,
    client::Server,
    output::{Exit, Output},
};

/// Arguments of `outboard workers`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outboard workers
  outboard workers pause orders --reason 'deploy until noon'
  outboard workers resume orders")]
pub(crate) struct WorkersArgs {
    #[command(subcommand)]
    command: Option<WorkersCommand>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum WorkersCommand {
    /// Let nothing new begin, not even after a restart.
    #[command(after_help = "Examples:\n  outboard workers pause orders --reason 'deploy until noon'")]
    Pause {
        /// The worker.
        #[arg(value_parser = worker_name)]
        name: String,
        /// Why, for people; `/readyz?verbose` shows it.
        #[arg(long, value_parser = pause_reason)]
        reason: Option<String>,
    },
    /// Go on.
    #[command(after_help = "Examples:\n  outboard workers resume orders")]
    Resume {
        /// The worker.
        #[arg(value_parser = worker_name)]
        name: String,
    },
}

/// Which server is asked. Global, so that what is written before a subcommand counts for it, too.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// The server, if it is not the one that runs on the data directory.
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl ServerArgs {
    /// The server, which is not asked anything yet.
    pub(super) fn find(&self) -> Result<Server, Exit> {
        Server::require(self.url.as_deref(), &self.config.load(Vec::new())?)
    }
}

/// A worker's name, as far as it can be checked here.
pub(super) fn worker_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("it is empty; `outboard workers` lists the names") } else { Ok(text.to_owned()) }
}

fn pause_reason(text: &str) -> Result<String, String> {
    if text.len() > MAX_REASON_BYTES {
        return Err(format!("it is longer than {MAX_REASON_BYTES} bytes; shorten it"));
    }
    Ok(text.to_owned())
}

/// Lists, pauses or resumes workers.
pub(crate) fn workers(args: &WorkersArgs, output: Output) -> Result<(), Exit> {
    let runtime = small_runtime()?;
    match &args.command {
        None => {
            let answer: Value = runtime.block_on(args.server.find()?.get("/workers"))?;
            list_workers(&answer, output)
        }
        Some(WorkersCommand::Pause { name, reason }) => {
            let body =
                reason.as_ref().map_or_else(String::new, |reason| json!({"reason": reason}).to_string());
            let path = format!("/workers/{}/pause", escape(name));
            let answer: Value = runtime.block_on(args.server.find()?.post_json(&path, body))?;
            Ok(output.record(&answer, format_args!("{name} is paused"))?)
        }
        Some(WorkersCommand::Resume { name }) => {
            let path = format!("/workers/{}/resume", escape(name));
            let answer: Value = runtime.block_on(args.server.find()?.post_json(&path, String::new()))?;
            Ok(output.record(&answer, format_args!("{name} goes on"))?)
        }
    }
}

fn list_workers(answer: &Value, output: Output) -> Result<(), Exit> {
    for worker in answer["workers"].as_array().into_iter().flatten() {
        let (name, state) = (text(&worker["name"]), text(&worker["state"]));
        // A queue's backlog is the broker's to tell.
        let lag = match (&worker["lag"], text(&worker["source"])) {
            (Value::Null, source) => source,
            (lag, source) if source.is_empty() || source == "log" => format!("lag {lag}"),
            (lag, source) => format!("{source}, lag {lag}"),
        };
        let (parked, reason) = (&worker["parked"], text(&worker["reason"]));
        // So are the dead letters, which stay there.
        let dead = worker["dead"].as_u64().map_or_else(|| "-".to_owned(), |dead| dead.to_string());
        let line = format!("{name}\t{state}\t{lag}\tparked {parked}\tdead {dead}\t{reason}");
        output.record(worker, line.trim_end())?;
    }
    Ok(())
}

/// A text for one field of a line: a reason may hold what an application answered, control characters included.
pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace(char::is_control, " ")
}

/// A text as part of a path or a query.
pub(super) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_escaped_is_plain() {
        assert_eq!(super::escape("a-b_c.1"), "a-b_c.1");
        assert_eq!(super::escape("a/b é"), "a%2Fb%20%C3%A9");
    }
}
