//! Streams and durable consumers: made when they are missing, used as they are when they are there.

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Kind, PortError,
    queue::{Argument, Declared, QueueKind, QueueSpec},
};
use serde_json::{Value, json};

use super::{
    api::{self, ConsumerInfo, StreamInfo},
    naming::{ATTEMPTS, check_stream},
    protocol::connection::Connection,
    pulling::Pulling,
};

/// How long the server remembers ids, so that what is published again within it is kept once.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Records of attempts go after this time: their message has long been settled.
const ATTEMPTS_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Fields of a stream's configuration that a queue's arguments may set, by the server's names.
const ARGUMENTS: &[&str] = &[
    "retention",
    "storage",
    "num_replicas",
    "discard",
    "max_msgs",
    "max_bytes",
    "max_age",
    "max_msg_size",
    "duplicate_window",
];

/// Error numbers for a consumer that a work queue does not take beside the one it has.
const ONE_CONSUMER_ONLY: [&str; 2] = ["(10099)", "(10100)"];

/// The configuration that a stream for this queue is made with.
///
/// `Unsupported` for bindings and for RabbitMQ's kinds of queue, `Invalid` for a name or argument that no stream has.
pub(crate) fn stream_config(spec: &QueueSpec) -> Result<Value, PortError> {
    check_stream(&spec.name)?;
    if spec.kind != QueueKind::Usual {
        let text =
            format!("the queue {}: classic and quorum queues are RabbitMQ's; leave the kind out", spec.name);
        return Err(PortError::new(Kind::Unsupported, text));
    }
    if !spec.bindings.is_empty() {
        let text = format!(
            "the queue {}: NATS has no exchanges to bind to; publish to subjects below `{}.`",
            spec.name, spec.name
        );
        return Err(PortError::new(Kind::Unsupported, text));
    }
    let mut config = json!({
        "name": &*spec.name,
        "subjects": [&*spec.name, format!("{}.>", spec.name)],
        "retention": "workqueue", "storage": "file", "discard": "new", "num_replicas": 1, "allow_direct": true,
        "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msg_size": -1,
        "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
    });
    for (name, value) in &spec.arguments {
        if !ARGUMENTS.contains(&&**name) {
            let text =
                format!("the queue {}: {name} is no argument of a stream; {ARGUMENTS:?} are", spec.name);
            return Err(PortError::new(Kind::Invalid, text));
        }
        config[&**name] = match value {
            Argument::Text(text) => (&**text).into(),
            Argument::Number(number) => (*number).into(),
            Argument::Flag(flag) => (*flag).into(),
        };
    }
    Ok(config)
}

/// Makes the stream or finds it, and says what differs.
pub(crate) async fn declare(
    connection: &Connection,
    spec: &QueueSpec,
) -> Result<(StreamInfo, Declared), PortError> {
    let config = stream_config(spec)?;
    let info = match api::stream_info(connection, &spec.name).await {
        Err(error) if error.kind == Kind::NotFound && spec.create => {
            api::create_stream(connection, &spec.name, &config).await?
        }
        Err(error) if error.kind == Kind::NotFound => {
            let text = format!("there is no stream {}; make it, or let it be made", spec.name);
            return Err(PortError::new(Kind::NotFound, text));
        }
        found => found?,
    };
    let declared = differences(spec, &config, &info.config);
    Ok((info, declared))
}

fn differences(spec: &QueueSpec, wanted: &Value, found: &Value) -> Declared {
    let named = |name: &str| spec.arguments.contains_key(name);
    let differs: Vec<String> = ARGUMENTS
        .iter()
        .filter(|name| named(name) || matches!(**name, "retention" | "storage" | "num_replicas"))
        .filter(|name| wanted[**name] != found[**name])
        .map(|name| format!("{name} is {}, not {}", found[*name], wanted[*name]))
        .collect();
    if differs.is_empty() {
        return Declared::Same;
    }
    Declared::Differs(format!("the stream {} is used as it is: {}", spec.name, differs.join("; ")).into())
}

/// Makes the stream of attempts, which one account needs once.
pub(crate) async fn attempts_stream(
    connection: &Connection,
    stream: &str,
    durable: &str,
    replicas: &Value,
) -> Result<StreamInfo, PortError> {
    let ours = json!({ "subjects_filter": format!("{ATTEMPTS}.{stream}.{durable}.>") });
    let subject = format!("$JS.API.STREAM.INFO.{ATTEMPTS}");
    match api::call::<StreamInfo>(connection, &subject, &ours).await {
        Err(error) if error.kind == Kind::NotFound => {}
        found => return found,
    }
    let config = json!({
        "name": ATTEMPTS, "subjects": [format!("{ATTEMPTS}.>")], "retention": "limits", "storage": "file",
        "discard": "old", "max_msgs_per_subject": 1, "allow_direct": true, "num_replicas": replicas,
        "max_age": nanoseconds(ATTEMPTS_KEPT), "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
    });
    api::create_stream(connection, ATTEMPTS, &config).await
}

/// Makes the stream of dead letters.
pub(crate) async fn make_dead_stream(
    connection: &Connection,
    name: &str,
    replicas: &Value,
) -> Result<(), PortError> {
    let config = json!({
        "name": name, "subjects": [name], "retention": "limits", "storage": "file", "discard": "new",
        "num_replicas": replicas, "allow_direct": true, "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
    });
    api::create_stream(connection, name, &config).await.map(drop)
}

/// A durable consumer that is there, and whether it was made just now.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) info: ConsumerInfo,
    pub(crate) is_new: bool,
    pub(crate) ack_wait: Duration,
    pub(super) pulling: Pulling,
}

/// Finds the worker's durable consumer or makes it.
///
/// A stream that is a work queue has one consumer without a filter: a worker that comes second joins it, as two
/// workers on one queue of any broker compete.
pub(crate) async fn consumer(
    connection: &Connection,
    stream: &str,
    durable: &str,
    ack_wait: Duration,
) -> Result<Found, PortError> {
    match api::consumer_info(connection, stream, durable).await {
        Err(error) if error.kind == Kind::NotFound => {}
        found => return checked(stream, found?, false),
    }
    let body = json!({ "stream_name": stream, "config": {
        "durable_name": durable, "deliver_policy": "all", "ack_policy": "explicit", "replay_policy": "instant",
        "ack_wait": nanoseconds(ack_wait), "max_deliver": -1, "max_ack_pending": -1,
        "description": "made by Outboard",
    }});
    let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{durable}");
    match api::call::<ConsumerInfo>(connection, &subject, &body).await {
        Ok(info) => checked(stream, info, true),
        Err(error) if ONE_CONSUMER_ONLY.iter().any(|number| error.message.contains(number)) => {
            let Some(other) = joined(api::consumers(connection, stream).await?) else { return Err(error) };
            tracing::info!(stream, durable = other.name, "joined the consumer that this work queue has");
            checked(stream, other, false)
        }
        Err(error) => Err(error),
    }
}

/// The one of a work queue's consumers that a worker joins.
pub(crate) fn joined(others: Vec<ConsumerInfo>) -> Option<ConsumerInfo> {
    others.into_iter().find(|other| other.config["filter_subject"].is_null())
}

/// How long a consumer waits for a sign of life; 30 s unless it says otherwise.
pub(crate) fn ack_wait(info: &ConsumerInfo) -> Duration {
    Duration::from_nanos(info.config["ack_wait"].as_u64().unwrap_or(30_000_000_000))
}

/// What a consumer must be to be ours.
fn checked(stream: &str, info: ConsumerInfo, is_new: bool) -> Result<Found, PortError> {
    let name = &info.name;
    let config = &info.config;
    if config["ack_policy"] != "explicit" || config["deliver_subject"].is_string() {
        let text = format!(
            "the consumer {name} of the stream {stream} is none that is pulled and acknowledged; delete it, or name another one"
        );
        return Err(PortError::new(Kind::Mismatch, text));
    }
    if config["max_deliver"].as_i64().is_some_and(|most| most > 0) {
        tracing::warn!(
            stream,
            consumer = name,
            max_deliver = %config["max_deliver"],
            "this consumer drops messages after some deliveries, counted or not; set its max_deliver to -1"
        );
    }
    let ack_wait = ack_wait(&info);
    let pulling = Pulling::of(config).map_err(|error| {
        let text = format!("the consumer {name} of the stream {stream} is of no use: {}", error.message);
        PortError::new(error.kind, text)
    })?;
    Ok(Found { ack_wait: ack_wait.max(Duration::from_millis(100)), pulling, info, is_new })
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(i64::MAX as u64).min(i64::MAX as u64)
}

/// The name of the durable consumer of a worker on this queue.
pub(crate) fn durable_name(worker: &str, tag: Option<&Arc<str>>) -> Result<String, PortError> {
    super::naming::durable(tag.map_or(worker, |tag| &**tag))
}
