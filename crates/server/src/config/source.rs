//! Where a worker's messages come from, as it is configured: the keys beside `source:`.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use outboard_core::queue::{Binding, ConsumeSpec, Identify, Prefetch, QueueKind, QueueSpec, Routing};
use serde::{Deserialize, Serialize};

use super::{
    error::ConfigError,
    keys::SourceKind,
    units::{MASK, Span, as_text, in_range},
    worker::WorkerConfig,
};

/// A broker's URL. Printed without its password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BrokerUrl(Arc<str>);

impl BrokerUrl {
    /// The whole URL, for the one who connects.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// What stands before the account, the account's parts and what follows it.
    fn parts(&self) -> Option<(&str, &str, &str, &str)> {
        let (scheme, rest) = self.0.split_once("://")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (account, _) = rest[..end].rsplit_once('@')?;
        let (user, password) = account.split_once(':').unwrap_or(("", account));
        Some((scheme, user, password, &rest[account.len()..]))
    }
}

impl FromStr for BrokerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Self(text.trim().into());
        if url.parts().is_some_and(|(_, _, password, _)| password == MASK) {
            return Err("has its password masked, as `config print` does; write the real one".to_owned());
        }
        // The URL itself is not repeated: it holds a password.
        outboard_backends::check_url(&url.0).map_err(|error| {
            format!("{error}; write a URL such as amqp://user:password@host:5672/vhost, sidekiq+redis://host:6379/0?queue=default or nats://host:4222")
        })?;
        Ok(url)
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            None => f.write_str(&self.0),
            Some((scheme, "", _, rest)) => write!(f, "{scheme}://{MASK}{rest}"),
            Some((scheme, user, _, rest)) => write!(f, "{scheme}://{user}:{MASK}{rest}"),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

as_text!(BrokerUrl);

/// How RabbitMQ keeps the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum QueueType {
    /// RabbitMQ's classic queue.
    Classic,
    /// RabbitMQ's replicated queue.
    Quorum,
}

/// A way from an exchange to the queue.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BindingConfig {
    /// The exchange, made when it is missing.
    pub exchange: String,
    /// How it routes.
    #[serde(default, rename = "type")]
    pub routing: RoutingType,
    /// The routing key, which a fanout has no use for.
    #[serde(default)]
    pub key: Option<String>,
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoutingType {
    /// By the whole key.
    Direct,
    /// By words of the key.
    #[default]
    Topic,
    /// To everybody.
    Fanout,
}

/// How many deliveries may be unsettled: a number, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum PrefetchConfig {
    /// Follows the handler's time.
    #[default]
    Auto,
    /// So many.
    Fixed(u32),
}

impl FromStr for PrefetchConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let number = text.trim().parse().ok().filter(|number| (1..=MAX_PREFETCH).contains(number));
        number.map(Self::Fixed).ok_or_else(|| {
            format!("`{text}` is not a prefetch; write auto or a whole number from 1 to {MAX_PREFETCH}")
        })
    }
}

impl fmt::Display for PrefetchConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(number) => number.fmt(f),
        }
    }
}

as_text!(PrefetchConfig);

/// Where a message's id comes from when its publisher gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IdFrom {
    /// From nowhere.
    #[default]
    Publisher,
    /// From its queue, type, timestamp and bytes.
    Content,
}

/// More unsettled deliveries than this help nobody.
const MAX_PREFETCH: u32 = 10_000;

/// What `auto` stays below.
const MAX_AUTO_PREFETCH: u32 = 1_000;

/// How a worker's queue is consumed; for a worker with a source.
pub(crate) fn consume_spec(worker: &WorkerConfig, queue: &str) -> ConsumeSpec {
    let bindings = worker.bindings.iter().map(|binding| Binding {
        exchange: binding.exchange.as_str().into(),
        routing: match binding.routing {
            RoutingType::Direct => Routing::Direct,
            RoutingType::Topic => Routing::Topic,
            RoutingType::Fanout => Routing::Fanout,
        },
        arguments: Default::default(),
        key: binding.key.as_deref().unwrap_or_default().into(),
    });
    let queue = QueueSpec {
        kind: match worker.queue_type {
            None => QueueKind::Usual,
            Some(QueueType::Classic) => QueueKind::Classic,
            Some(QueueType::Quorum) => QueueKind::Quorum,
        },
        bindings: bindings.collect(),
        create: worker.create.unwrap_or(true),
        ..QueueSpec::named(queue)
    };
    ConsumeSpec {
        prefetch: match worker.prefetch.unwrap_or_default() {
            PrefetchConfig::Auto => Prefetch::Auto { max: MAX_AUTO_PREFETCH },
            PrefetchConfig::Fixed(number) => Prefetch::Fixed(number),
        },
        hold: worker.timeout.0,
        identify: match worker.id.unwrap_or_default() {
            IdFrom::Publisher => Identify::ByPublisher,
            IdFrom::Content => Identify::ByContent,
        },
        ..ConsumeSpec::new(worker.name.as_str(), queue)
    }
}

/// The keys beside `source:` of one worker.
pub(super) fn validate(worker: &WorkerConfig, path: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
    let Some(source) = &worker.source else { return Ok(()) };
    let Some(queue) = worker.queue_name() else {
        let mend = format!("add `queue:` with the name of the queue at {source}");
        return Err(ConfigError::new(path("queue"), "is missing", mend));
    };
    if let Err(error) = outboard_backends::check_queue(source.expose(), &queue) {
        // The backend's word holds the mend already.
        return Err(<ConfigError as serde::de::Error>::custom(error.message).under_key(&path("queue")));
    }
    if let Some(of_url) = outboard_backends::queue_of_url(source.expose()).filter(|of_url| *of_url != queue) {
        let problem = format!("is not the queue that the URL of `source` names (`{of_url}`)");
        return Err(ConfigError::new(path("queue"), problem, "name it once").given(queue));
    }
    if worker.bindings.len() > 100 {
        return Err(ConfigError::new(path("bindings"), "are more than 100", "bind fewer"));
    }
    for (index, binding) in worker.bindings.iter().enumerate() {
        binding.validate(&|key| path(&format!("bindings[{index}].{key}")))?;
    }
    let ack_timeout = worker.ack_timeout();
    in_range(&path("ack_timeout"), ack_timeout, Span::seconds(1), Span::seconds(30 * 86_400))?;
    if SourceKind::of(worker) == SourceKind::RabbitMq && !worker.long && worker.timeout >= ack_timeout {
        let problem = format!(
            "is not below the broker's ack timeout ({ack_timeout}), which takes a delivery back from who holds it longer"
        );
        let mend = "set `long: true`, or raise the broker's `consumer_timeout` and `ack_timeout` here";
        return Err(ConfigError::new(path("timeout"), problem, mend).given(worker.timeout));
    }
    Ok(())
}

impl BindingConfig {
    fn validate(&self, path: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: &str, mend: &str| Err(ConfigError::new(path(key), problem, mend));
        if self.exchange.is_empty() {
            let problem =
                "is empty: to the default exchange every queue is bound by its name, and in no other way";
            return wrong("exchange", problem, "name another exchange, or remove the binding");
        }
        let is_long = |text: &str| text.len() > MAX_SHORT_BYTES;
        if is_long(&self.exchange) || self.key.as_deref().is_some_and(is_long) {
            let key = if is_long(&self.exchange) { "exchange" } else { "key" };
            return wrong(key, "is longer than RabbitMQ takes", "write at most 255 bytes");
        }
        match (self.routing, &self.key) {
            (RoutingType::Fanout, Some(_)) => wrong(
                "key",
                "has no effect: an exchange of the type fanout sends everything to every queue",
                "remove it, or bind to an exchange of the type direct or topic",
            ),
            (RoutingType::Topic, None) => {
                wrong("key", "is missing", "add it, such as \"orders.*\", or \"#\" for everything")
            }
            (RoutingType::Direct, None) => {
                wrong("key", "is missing", "add the routing key that messages are published with")
            }
            _ => Ok(()),
        }
    }
}

/// The longest name of an exchange, and the longest routing key.
const MAX_SHORT_BYTES: usize = 255;

/// RabbitMQ's default.
pub(super) const USUAL_ACK_TIMEOUT: Span = Span(Duration::from_secs(30 * 60));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_s_password_is_never_printed_and_its_mask_never_read() {
        for (url, shown) in [
            ("amqp://shop:hunter2@mq:5672/orders?heartbeat=5", "amqp://shop:***@mq:5672/orders?heartbeat=5"),
            ("nats://token-hunter2@mq", "nats://***@mq"),
            ("sidekiq+redis://:hunter2@cache:6379/0?queue=q", "sidekiq+redis://***@cache:6379/0?queue=q"),
            ("amqp://mq/a@b", "amqp://mq/a@b"),
        ] {
            let parsed: BrokerUrl = url.parse().unwrap();
            assert_eq!((parsed.to_string(), format!("{parsed:?}")), (shown.to_owned(), shown.to_owned()));
            assert_eq!(parsed.expose(), url);
            if shown.contains(MASK) {
                assert!(shown.parse::<BrokerUrl>().unwrap_err().contains("masked"));
            }
        }
        for bad in ["http://mq", "amqp://", "", "amqp://u:hunter2@h:port/"] {
            let error = bad.parse::<BrokerUrl>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
