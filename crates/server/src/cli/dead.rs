//! `outboard dead`: what was given up, and another life for it.

use clap::{Args, Subcommand};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    operate::{ServerArgs, escape, text, worker_name},
    small_runtime,
};
use crate::{
    client::{Refusal, Server},
    output::{Exit, Output},
};

/// Arguments of `outboard dead`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outboard dead
  outboard dead --worker orders --json
  outboard dead retry 17
  outboard dead retry --all --worker orders

The dead letters of a worker on a broker's queue are the broker's: they are listed with --worker, at most 1,000 of them, and
brought back with the broker's own tools.")]
pub(crate) struct DeadArgs {
    #[command(subcommand)]
    command: Option<DeadCommand>,
    /// Only those of this worker.
    #[arg(long, value_name = "NAME", value_parser = worker_name, global = true)]
    worker: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum DeadCommand {
    /// Give one dead letter, or all, another life, with no attempt counted.
    #[command(after_help = "\
Examples:
  outboard dead retry 17
  outboard dead retry --all
  outboard dead retry --all --worker orders

--all takes the dead letters that are there when it begins: one that dies again meanwhile is not retried twice.")]
    Retry {
        /// The dead letter's own id, the first column of `outboard dead`.
        #[arg(value_parser = dead_id, required_unless_present = "all", conflicts_with = "all")]
        id: Option<u64>,
        /// All of them, or all of --worker.
        #[arg(long)]
        all: bool,
    },
}

fn dead_id(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "an id is a whole number, such as 17, the first column of `outboard dead`")
}

/// A page of the API's list.
#[derive(Debug, Deserialize)]
struct Page {
    dead: Vec<Value>,
    next: Option<u64>,
}

/// What became of all.
#[derive(Debug, Default, Serialize)]
struct Summary {
    retried: u64,
    /// Somebody else retried them meanwhile.
    gone: u64,
}

/// Lists or revives dead letters.
pub(crate) fn run(args: &DeadArgs, output: Output) -> Result<(), Exit> {
    let worker = args.worker.as_deref();
    if let (Some(DeadCommand::Retry { id: Some(id), .. }), Some(_)) = (&args.command, worker) {
        let told = format_args!("--worker goes with --all; the dead letter {id} has one worker anyway");
        return Err(Exit::usage(told));
    }
    let (runtime, server) = (small_runtime()?, args.server.find()?);
    runtime.block_on(async {
        match args.command {
            None => list(&server, worker, output).await,
            Some(DeadCommand::Retry { id: Some(id), .. }) => {
                let answer = retry(&server, id).await?;
                let message = &answer["message_id"];
                Ok(output.record(&answer, format_args!("message {message} will be tried again"))?)
            }
            Some(DeadCommand::Retry { id: None, .. }) => retry_all(&server, worker, output).await,
        }
    })
}

async fn list(server: &Server, worker: Option<&str>, output: Output) -> Result<(), Exit> {
    let mut after = Some(0);
    while let Some(from) = after {
        let page = page(server, worker, from).await?;
        for letter in &page.dead {
            let (worker, reason) = (text(&letter["worker"]), text(&letter["reason"]));
            let id = letter["id"].as_u64().map_or_else(|| "-".to_owned(), |id| id.to_string());
            let message = match &letter["message_id"] {
                Value::Null => "without an id".to_owned(),
                Value::String(id) => id.replace(char::is_control, " "),
                id => id.to_string(),
            };
            let attempts = &letter["attempts"];
            output.record(
                letter,
                format_args!("{id}\tmessage {message}\t{worker}\t{attempts} attempts\t{reason}"),
            )?;
        }
        after = page.next;
    }
    Ok(())
}

/// How often the count is told.
const TOLD_EVERY: usize = 100;

/// Retries what is dead now. The ids are read first, eight bytes for each: a letter that dies again gets a new one.
async fn retry_all(server: &Server, worker: Option<&str>, output: Output) -> Result<(), Exit> {
    let (mut ids, mut after) = (Vec::new(), Some(0));
    while let Some(from) = after {
        let page = page(server, worker, from).await?;
        if page.dead.iter().any(|letter| letter["id"].is_null()) {
            let told = "this worker's dead letters are the broker's, and are brought back with its own tools: README, \
                        \"Work on a broker's queue\", says where they are";
            return Err(Exit::failure(told));
        }
        ids.extend(page.dead.iter().filter_map(|letter| letter["id"].as_u64()));
        after = page.next;
    }
    let mut summary = Summary::default();
    for (done, id) in ids.iter().enumerate() {
        if done > 0 && done.is_multiple_of(TOLD_EVERY) {
            output.line(format_args!("{done} of {}", ids.len()))?;
        }
        match retry(server, *id).await {
            Ok(_) => summary.retried += 1,
            Err(Refusal::Problem { status: StatusCode::NOT_FOUND, .. }) => summary.gone += 1,
            Err(refusal) => {
                let remark = format_args!(
                    "{} of {} dead letters were retried before this",
                    summary.retried,
                    ids.len()
                );
                return Err(Exit::from(refusal).after(remark));
            }
        }
    }
    let Summary { retried, gone } = summary;
    let told = match gone {
        0 => format!("dead letters retried: {retried}"),
        _ => format!("dead letters retried: {retried}; gone already: {gone}"),
    };
    Ok(output.record(&summary, told)?)
}

async fn page(server: &Server, worker: Option<&str>, after: u64) -> Result<Page, Refusal> {
    let worker = worker.map_or_else(String::new, |worker| format!("&worker={}", escape(worker)));
    server.get(&format!("/dead?limit=1000&after={after}{worker}")).await
}

/// Gives one another life; the answer is what it was.
async fn retry(server: &Server, id: u64) -> Result<Value, Refusal> {
    server.post_json(&format!("/dead/{id}/retry"), String::new()).await
}
