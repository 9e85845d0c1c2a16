//! Which keys of a worker have an effect, by where its messages come from.
//!
//! A key without effect is refused: whoever wrote it expects something of it.

use super::{error::ConfigError, source::BrokerUrl, worker::WorkerConfig};

/// Where a worker's messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceKind {
    /// Outboard's own log.
    Log,
    RabbitMq,
    Sidekiq,
    JetStream,
}

impl SourceKind {
    /// Where this worker's come from.
    pub(super) fn of(worker: &WorkerConfig) -> Self {
        let scheme = |source: &BrokerUrl| source.expose().split("://").next().map(str::to_owned);
        match worker.source.as_ref().and_then(scheme).as_deref() {
            None => Self::Log,
            Some("amqp" | "amqps") => Self::RabbitMq,
            Some("nats" | "tls") => Self::JetStream,
            Some(_) => Self::Sidekiq,
        }
    }
}

/// Why a key has no effect with this kind of source, and the mend; `None` for one that has.
fn in_vain(key: &str, kind: SourceKind) -> Option<(&'static str, &'static str)> {
    use SourceKind::{JetStream, Log, RabbitMq, Sidekiq};
    const REMOVE: &str = "remove it";
    Some(match (key, kind) {
        ("types" | "from", Log) => return None,
        (_, Log) => (
            "is for workers with a `source`, and this one takes its messages from the log",
            "add `source:` with the broker's URL, or remove it",
        ),
        ("types", _) => (
            "chooses from the log, and a worker with a `source` takes every message of its queue",
            "remove it, and have only what this worker is to do published to its queue",
        ),
        ("from", _) => (
            "is a place in the log, and a worker with a `source` takes what waits in its queue, oldest first",
            REMOVE,
        ),
        ("queue_type", Sidekiq | JetStream) => ("is for RabbitMQ, and `source` names another broker", REMOVE),
        ("bindings", Sidekiq) => ("are for RabbitMQ: Sidekiq has no exchanges", "remove them"),
        ("bindings", JetStream) => (
            "are for RabbitMQ: NATS has no exchanges",
            "remove them, and publish to subjects below the queue's name, such as `orders.created`",
        ),
        ("id", JetStream) => (
            "has no effect on NATS: every message has an id, its `Nats-Msg-Id` or its place in the stream",
            REMOVE,
        ),
        ("ack_timeout", Sidekiq | JetStream) => {
            ("is RabbitMQ's: on this broker a message is held for as long as its handler takes", REMOVE)
        }
        (_, RabbitMq | Sidekiq | JetStream) => return None,
    })
}

/// Refuses a key that is given and has no effect.
pub(super) fn check(worker: &WorkerConfig, path: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
    let given = [
        ("queue", worker.queue.is_some()),
        ("queue_type", worker.queue_type.is_some()),
        ("create", worker.create.is_some()),
        ("bindings", !worker.bindings.is_empty()),
        ("prefetch", worker.prefetch.is_some()),
        ("id", worker.id.is_some()),
        ("ack_timeout", worker.ack_timeout.is_some()),
        ("long", worker.long),
        ("types", !worker.types.is_empty()),
        ("from", worker.from.is_some()),
    ];
    let kind = SourceKind::of(worker);
    let told = given.into_iter().filter(|(_, is_given)| *is_given);
    let wrong = told.filter_map(|(key, _)| Some((key, in_vain(key, kind)?))).next();
    match wrong {
        None => Ok(()),
        Some((key, (problem, mend))) => Err(ConfigError::new(path(key), problem, mend)),
    }
}

/// Writes down the defaults of the keys that have an effect: they are printed with the others.
pub(super) fn complete(worker: &mut WorkerConfig) {
    let kind = SourceKind::of(worker);
    fn fill<T>(key: &str, kind: SourceKind, place: &mut Option<T>, usual: T) {
        if in_vain(key, kind).is_none() {
            place.get_or_insert(usual);
        }
    }
    fill("from", kind, &mut worker.from, Default::default());
    fill("create", kind, &mut worker.create, true);
    fill("prefetch", kind, &mut worker.prefetch, Default::default());
    fill("id", kind, &mut worker.id, Default::default());
    fill("ack_timeout", kind, &mut worker.ack_timeout, super::source::USUAL_ACK_TIMEOUT);
}
