//! `outboard submit`.

use std::{
    collections::BTreeMap,
    io::{BufRead, IsTerminal, stdin},
};

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ConfigArgs, small_runtime};
use crate::{
    api,
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
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
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
    // What is wrong with the command is told whether a server runs or not.
    let request = match (&args.kind, &args.payload) {
        (Some(kind), Some(payload)) => Some(request(&args, kind, payload)?),
        _ => None,
    };
    let server = Server::require(args.url.as_deref(), &config)?;
    let runtime = small_runtime()?;
    match request {
        Some((body, headers)) => runtime.block_on(one(&server, body, headers, output)),
        None => runtime.block_on(lines(&server, output)),
    }
}

/// The body and the headers that a command is sent with, once its arguments are known to be good.
fn request(args: &SubmitArgs, kind: &str, payload: &str) -> Result<(Bytes, HeaderMap), Exit> {
    api::check_type_name(kind).map_err(|told| Exit::usage(format_args!("the type `{kind}` {told}")))?;
    let payload: &RawValue = serde_json::from_str(payload).map_err(|error| {
        Exit::usage(format_args!(
            "the payload is not JSON: {error}; quote it for the shell, such as '{{\"order_id\":7}}'"
        ))
    })?;
    let headers = headers(&args.headers)?;
    if let Some(time) = &args.run_at {
        api::parse_time(time).map_err(|told| Exit::usage(format_args!("--run-at {time}: {told}")))?;
    }
    let command = Command { kind, payload, headers, run_at: args.run_at.as_deref() };
    let body = serde_json::to_vec(&command).map_err(Exit::failure)?;
    let key = args.idempotency_key.as_deref().map(key).transpose()?;
    Ok((body.into(), key.map(|key| (api::IDEMPOTENCY_KEY, key)).into_iter().collect()))
}

/// The headers that travel with a command.
fn headers(given: &[String]) -> Result<BTreeMap<String, String>, Exit> {
    let mut headers = BTreeMap::new();
    for header in given {
        let (name, value) = header
            .split_once('=')
            .ok_or_else(|| Exit::usage(format_args!("--header {header}: write NAME=VALUE")))?;
        if headers.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Exit::usage(format_args!("--header {name}: is given twice; give it once")));
        }
    }
    api::check_headers(&headers)
        .map_err(|error| Exit::usage(format_args!("--header: {} {}", error.field, error.message)))?;
    Ok(headers)
}

/// The value of the header `Idempotency-Key`.
fn key(text: &str) -> Result<HeaderValue, Exit> {
    let value = HeaderValue::from_str(text).ok();
    // Blanks at the ends do not arrive.
    let good = value.filter(|_| !text.is_empty() && text.len() <= api::MAX_KEY_BYTES && text.trim() == text);
    good.ok_or_else(|| {
        let most = api::MAX_KEY_BYTES;
        Exit::usage(format_args!(
            "--idempotency-key `{text}`: write 1 to {most} visible ASCII characters, such as a UUID"
        ))
    })
}

async fn one(server: &Server, body: Bytes, headers: HeaderMap, output: Output) -> Result<(), Exit> {
    let answer: One = server.post("/commands", "application/json", body, headers, Some(PATIENCE)).await?;
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
