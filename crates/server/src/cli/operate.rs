//! `outboard workers` and `outboard dead`: what people look at and decide while the server runs.

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
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Go on.
    #[command(after_help = "Examples:\n  outboard workers resume orders")]
    Resume {
        /// The worker.
        #[arg(value_parser = worker_name)]
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Arguments of `outboard dead`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outboard dead
  outboard dead --worker orders --json
  outboard dead retry 17")]
pub(crate) struct DeadArgs {
    #[command(subcommand)]
    command: Option<DeadCommand>,
    /// Only those of this worker.
    #[arg(long, value_name = "NAME", value_parser = worker_name)]
    worker: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum DeadCommand {
    /// Give a dead letter another life, with no attempt counted.
    #[command(after_help = "Examples:\n  outboard dead retry 17")]
    Retry {
        /// The dead letter's own id, the first column of `outboard dead`.
        #[arg(value_parser = dead_id)]
        id: u64,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Which server is asked.
#[derive(Debug, Args)]
struct ServerArgs {
    /// The server, if it is not the one that runs on the data directory.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl ServerArgs {
    fn find(&self) -> Result<Server, Exit> {
        Server::require(self.url.as_deref(), &self.config.load(Vec::new())?)
    }
}

fn worker_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("it is empty; `outboard workers` lists the names") } else { Ok(text.to_owned()) }
}

fn pause_reason(text: &str) -> Result<String, String> {
    if text.len() > MAX_REASON_BYTES {
        return Err(format!("it is longer than {MAX_REASON_BYTES} bytes; shorten it"));
    }
    Ok(text.to_owned())
}

fn dead_id(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "an id is a whole number, such as 17, the first column of `outboard dead`")
}

/// Lists, pauses or resumes workers.
pub(crate) fn workers(args: &WorkersArgs, output: Output) -> Result<(), Exit> {
    let runtime = small_runtime()?;
    match &args.command {
        None => {
            let answer: Value = runtime.block_on(args.server.find()?.get("/workers"))?;
            list_workers(&answer, output)
        }
        Some(WorkersCommand::Pause { name, reason, server }) => {
            let body =
                reason.as_ref().map_or_else(String::new, |reason| json!({"reason": reason}).to_string());
            let path = format!("/workers/{}/pause", escape(name));
            let answer: Value = runtime.block_on(server.find()?.post_json(&path, body))?;
            Ok(output.record(&answer, format_args!("{name} is paused"))?)
        }
        Some(WorkersCommand::Resume { name, server }) => {
            let path = format!("/workers/{}/resume", escape(name));
            let answer: Value = runtime.block_on(server.find()?.post_json(&path, String::new()))?;
            Ok(output.record(&answer, format_args!("{name} goes on"))?)
        }
    }
}

/// Lists or revives dead letters.
pub(crate) fn dead(args: &DeadArgs, output: Output) -> Result<(), Exit> {
    let runtime = small_runtime()?;
    if let Some(DeadCommand::Retry { id, server }) = &args.command {
        let answer: Value =
            runtime.block_on(server.find()?.post_json(&format!("/dead/{id}/retry"), String::new()))?;
        let message = &answer["message_id"];
        return Ok(output.record(&answer, format_args!("message {message} will be tried again"))?);
    }
    let server = args.server.find()?;
    let worker =
        args.worker.as_ref().map_or_else(String::new, |worker| format!("&worker={}", escape(worker)));
    let mut after = 0;
    loop {
        let path = format!("/dead?limit=1000&after={after}{worker}");
        let page: Value = runtime.block_on(server.get(&path))?;
        for letter in page["dead"].as_array().into_iter().flatten() {
            let (id, message, worker) = (&letter["id"], &letter["message_id"], text(&letter["worker"]));
            let (attempts, reason) = (&letter["attempts"], text(&letter["reason"]));
            output.record(
                letter,
                format_args!("{id}\tmessage {message}\t{worker}\t{attempts} attempts\t{reason}"),
            )?;
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

fn list_workers(answer: &Value, output: Output) -> Result<(), Exit> {
    for worker in answer["workers"].as_array().into_iter().flatten() {
        let (name, state, lag) = (text(&worker["name"]), text(&worker["state"]), &worker["lag"]);
        let (parked, dead, reason) = (&worker["parked"], &worker["dead"], text(&worker["reason"]));
        let line = format!("{name}\t{state}\tlag {lag}\tparked {parked}\tdead {dead}\t{reason}");
        output.record(worker, line.trim_end())?;
    }
    Ok(())
}

/// A text for one field of a line: a reason may hold what an application answered, control characters included.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace(char::is_control, " ")
}

/// A text as part of a path or a query.
fn escape(text: &str) -> String {
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
