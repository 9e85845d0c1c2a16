//! Where a worker's messages come from, as it is configured: the keys beside `source:`.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use outboard_core::queue::{Binding, ConsumeSpec, Identify, Prefetch, QueueKind, QueueSpec, Routing};
use serde::{Deserialize, Serialize};

use super::{
    error::ConfigError,
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

/// How the broker keeps the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum QueueType {
    /// As the broker does by itself.
    #[default]
    Usual,
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
    /// The routing key.
    #[serde(default)]
    pub key: String,
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
        key: binding.key.as_str().into(),
    });
    let queue = QueueSpec {
        kind: match worker.queue_type {
            QueueType::Usual => QueueKind::Usual,
            QueueType::Classic => QueueKind::Classic,
            QueueType::Quorum => QueueKind::Quorum,
        },
        bindings: bindings.collect(),
        create: worker.create,
        ..QueueSpec::named(queue)
    };
    ConsumeSpec {
        prefetch: match worker.prefetch {
            PrefetchConfig::Auto => Prefetch::Auto { max: MAX_AUTO_PREFETCH },
            PrefetchConfig::Fixed(number) => Prefetch::Fixed(number),
        },
        hold: worker.timeout.0,
        identify: match worker.id {
            IdFrom::Publisher => Identify::ByPublisher,
            IdFrom::Content => Identify::ByContent,
        },
        ..ConsumeSpec::new(worker.name.as_str(), queue)
    }
}

/// The keys beside `source:` of one worker.
pub(super) fn validate(worker: &WorkerConfig, path: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
    let Some(source) = &worker.source else {
        let of_queue = [
            ("queue", worker.queue.is_some()),
            ("queue_type", worker.queue_type != QueueType::Usual),
            ("bindings", !worker.bindings.is_empty()),
            ("prefetch", worker.prefetch != PrefetchConfig::Auto),
            ("long", worker.long),
        ];
        if let Some((key, _)) = of_queue.iter().find(|(_, is_given)| *is_given) {
            let problem = "is for workers with a `source`, and this one takes its messages from the log";
            return Err(ConfigError::new(
                path(key),
                problem,
                "add `source:` with the broker's URL, or remove it",
            ));
        }
        return Ok(());
    };
    if worker.queue_name().is_none() {
        let mend = format!("add `queue:` with the name of the queue at {source}");
        return Err(ConfigError::new(path("queue"), "is missing", mend));
    }
    if worker.bindings.len() > 100 {
        return Err(ConfigError::new(path("bindings"), "are more than 100", "bind fewer"));
    }
    in_range(&path("ack_timeout"), worker.ack_timeout, Span::seconds(1), Span::seconds(30 * 86_400))?;
    let is_rabbitmq = source.expose().starts_with("amqp");
    if is_rabbitmq && !worker.long && worker.timeout >= worker.ack_timeout {
        let problem = format!(
            "is not below the broker's ack timeout ({}), which takes a delivery back from who holds it longer",
            worker.ack_timeout
        );
        let mend = "set `long: true`, or raise the broker's `consumer_timeout` and `ack_timeout` here";
        return Err(ConfigError::new(path("timeout"), problem, mend).given(worker.timeout));
    }
    Ok(())
}

/// RabbitMQ's default.
pub(super) const fn default_ack_timeout() -> Span {
    Span(Duration::from_secs(30 * 60))
}

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
