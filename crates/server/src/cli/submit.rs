//! `outboard submit`.

use std::io::{BufRead, IsTerminal, stdin};

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ConfigArgs, small_runtime};
use crate::{
    client::{PATIENCE, Server},
    output::{Exit, Output},
};

const EXAMPLES: &str = "\
Examples:
  outboard submit orders/confirm '{\"order_id\":7}'
  outboard submit orders/remind '{\"order_id\":7}' --run-at 2027-01-31T08:00:00Z --header tenant=7
  outboard submit < commands.ndjson      one {\"type\":…,\"payload\":…} a line; prints an id for each

A command is durable when its id is printed. Lines from stdin are sent in batches of up to 1,000, each all or nothing.";

/// Arguments of `outboard submit`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SubmitArgs {
    /// The command's type, such as orders/confirm; without it commands are read from stdin, one JSON object a line.
    #[arg(value_name = "TYPE", requires = "payload")]
    kind: Option<String>,
    /// Its payload, JSON.
    payload: Option<String>,
    /// A header NAME=VALUE that travels with it; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", requires = "kind")]
    headers: Vec<String>,
    /// Not to be handled before this time, RFC 3339.
    #[arg(long, value_name = "TIME", requires = "kind")]
    run_at: Option<String>,
    /// A repetition with the same key gets the first answer.
    #[arg(long, value_name = "KEY", requires = "kind")]
    idempotency_key: Option<String>,
    /// The server, if it is not the one that runs on the data directory.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The most commands and bytes of one batch from stdin.
const BATCH_COMMANDS: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;

#[derive(Debug, Serialize)]
struct Command<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    headers: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<&'a str>,
}

#[derive(Debug, Deserialize, Serialize)]
struct One {
    id: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Many {
    first_id: u64,
    last_id: u64,
    count: u64,
}

/// Sends one command, or all of stdin.
pub(crate) fn run(args: SubmitArgs, output: Output) -> Result<(), Exit> {
    let config = args.config.load(Vec::new())?;
    if args.kind.is_none() && stdin().is_terminal() {
        return Err(Exit::usage(
            "name a type and a payload, or pipe commands in; see `outboard submit --help`",
        ));
    }
    let server = Server::require(args.url.as_deref(), &config)?;
    let runtime = small_runtime()?;
    match (&args.kind, &args.payload) {
        (Some(kind), Some(payload)) => runtime.block_on(one(&server, &args, kind, payload, output)),
        _ => runtime.block_on(lines(&server, output)),
    }
}

async fn one(
    server: &Server,
    args: &SubmitArgs,
    kind: &str,
    payload: &str,
    output: Output,
) -> Result<(), Exit> {
    let payload: &RawValue = serde_json::from_str(payload).map_err(|error| {
        Exit::usage(format_args!(
            "the payload is not JSON: {error}; quote it for the shell, such as '{{\"order_id\":7}}'"
        ))
    })?;
    let mut headers = serde_json::Map::new();
    for header in &args.headers {
        let (name, value) = header
            .split_once('=')
            .ok_or_else(|| Exit::usage(format_args!("--header {header}: write NAME=VALUE")))?;
        headers.insert(name.to_owned(), value.into());
    }
    let command = Command { kind, payload, headers, run_at: args.run_at.as_deref() };
    let body = serde_json::to_vec(&command).map_err(Exit::failure)?;
    let mut headers = HeaderMap::new();
    if let Some(key) = &args.idempotency_key {
        let value = HeaderValue::from_str(key)
            .map_err(|_| Exit::usage("--idempotency-key: write visible ASCII, such as a UUID"))?;
        headers.insert(http::HeaderName::from_static("idempotency-key"), value);
    }
    let answer: One =
        server.post("/commands", "application/json", body.into(), headers, Some(PATIENCE)).await?;
    output.record(&answer, answer.id)?;
    Ok(())
}

async fn lines(server: &Server, output: Output) -> Result<(), Exit> {
    let (mut batch, mut count, mut sent) = (Vec::new(), 0, 0_u64);
    let mut stdin = stdin().lock();
    loop {
        let before = batch.len();
        let read = stdin.read_until(b'\n', &mut batch)?;
        if !batch[before..].trim_ascii().is_empty() {
            count += 1;
        }
        let is_last = read == 0;
        if count > 0 && (is_last || count >= BATCH_COMMANDS || batch.len() >= BATCH_BYTES) {
            let told = |exit: Exit| {
                if sent > 0 {
                    exit.after(format_args!("{sent} commands were taken before this"))
                } else {
                    exit
                }
            };
            let body = Bytes::from(std::mem::take(&mut batch));
            let answer: Result<Many, _> = server
                .post("/commands/batch", "application/x-ndjson", body, HeaderMap::new(), Some(PATIENCE))
                .await;
            let answer = answer.map_err(|refusal| told(refusal.into()))?;
            sent += answer.count;
            count = 0;
            if output.json {
                output.record(&answer, "")?;
            }
            for id in answer.first_id..=answer.last_id {
                output.line(id)?;
            }
        }
        if is_last {
            return Ok(());
        }
    }
}
