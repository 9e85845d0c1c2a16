//! One entry of `workers:`, a forward worker.

use std::collections::{BTreeMap, BTreeSet};

use outboard::forward::RESERVED_HEADERS;
use outboard_core::queue::QueueName;
use serde::{Deserialize, Serialize};

use super::{
    error::ConfigError,
    keys,
    source::{self, BindingConfig, BrokerUrl, IdFrom, PrefetchConfig, QueueType},
    units::{Pattern, Secret, Span, Url, in_range, whole},
};

/// A worker that forwards messages to a URL.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkerConfig {
    /// Its name: its cursor is kept under it.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// What it handles of the log, such as `orders/*`. With a source it is everything.
    #[serde(default)]
    pub types: Vec<Pattern>,
    /// Where messages are POSTed to.
    pub url: Url,
    /// At most so many requests at once.
    #[serde(default = "default_concurrency", deserialize_with = "whole::<1, 4_096, _>")]
    pub concurrency: u32,
    /// How long one request may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// After so many counted attempts a message is a dead letter.
    #[serde(default = "default_attempts", deserialize_with = "whole::<1, 10_000, _>")]
    pub attempts: u32,
    /// The wait between attempts.
    #[serde(default)]
    pub backoff: BackoffConfig,
    /// Signs the requests by the Standard Webhooks rules.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// A URL that answers 2xx while the app is well.
    #[serde(default)]
    pub probe: Option<Url>,
    /// Where in the log a worker that was never seen begins; at the end by default.
    #[serde(default)]
    pub from: Option<Begin>,
    /// Sent with every request.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// A broker's URL: the messages come from there instead of the log. The other keys below go with it.
    #[serde(default)]
    pub source: Option<BrokerUrl>,
    /// The queue's name.
    #[serde(default)]
    pub queue: Option<String>,
    /// How RabbitMQ keeps the queue, if not as it does by itself, and with it those for retries and dead letters. To be named
    /// for one that is there already: the broker tells it only of a queue that may be made (`create`) and differs in nothing
    /// else.
    #[serde(default)]
    pub queue_type: Option<QueueType>,
    /// Whether the queue is made when it is missing; it is by default.
    #[serde(default)]
    pub create: Option<bool>,
    /// What leads to the queue, besides its name.
    #[serde(default)]
    pub bindings: Vec<BindingConfig>,
    /// How many deliveries may be unsettled.
    #[serde(default)]
    pub prefetch: Option<PrefetchConfig>,
    /// Where a message's id comes from when its publisher gave none.
    #[serde(default)]
    pub id: Option<IdFrom>,
    /// How long RabbitMQ lets a delivery be unsettled; 30 minutes by default.
    #[serde(default)]
    pub ack_timeout: Option<Span>,
    /// Takes each message into the log first, so that a handler may take longer than the broker waits.
    #[serde(default)]
    pub long: bool,
}

/// The wait between attempts.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BackoffConfig {
    /// After the first failure.
    pub first: Span,
    /// At most.
    pub max: Span,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { first: Span::millis(200), max: Span::seconds(60) }
    }
}

/// Where a worker that was never seen begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Begin {
    /// With the first message of the log.
    Beginning,
    /// With what is appended from now on.
    #[default]
    End,
}

const fn default_concurrency() -> u32 {
    32
}

const fn default_timeout() -> Span {
    Span::seconds(30)
}

const fn default_attempts() -> u32 {
    25
}

impl WorkerConfig {
    /// What `--forward URL` means: everything to one URL.
    pub(crate) fn forward_all(url: Url) -> Self {
        let everything = "*".parse().expect("a star is a pattern");
        Self {
            name: "forward".into(),
            description: format!("Forwards every message to {url}"),
            types: vec![Pattern(everything)],
            url,
            concurrency: default_concurrency(),
            timeout: default_timeout(),
            attempts: default_attempts(),
            backoff: BackoffConfig::default(),
            secret: None,
            probe: None,
            from: None,
            headers: BTreeMap::new(),
            source: None,
            queue: None,
            queue_type: None,
            create: None,
            bindings: Vec::new(),
            prefetch: None,
            id: None,
            ack_timeout: None,
            long: false,
        }
    }

    /// The queue that it consumes, from its own key or from the URL.
    pub(crate) fn queue_name(&self) -> Option<QueueName> {
        let of_url = || outboard_backends::queue_of_url(self.source.as_ref()?.expose());
        self.queue.as_deref().map(Into::into).or_else(of_url)
    }

    /// How long RabbitMQ lets a delivery be unsettled.
    pub(crate) fn ack_timeout(&self) -> Span {
        self.ack_timeout.unwrap_or(source::USUAL_ACK_TIMEOUT)
    }

    /// Writes down the defaults that depend on where its messages come from.
    pub(super) fn complete(&mut self) {
        keys::complete(self);
    }
}

pub(super) fn validate(workers: &[WorkerConfig]) -> Result<(), ConfigError> {
    if workers.len() > 1_000 {
        return Err(
            ConfigError::new("workers", "are more than 1,000", "configure fewer").given(workers.len())
        );
    }
    let mut names = BTreeSet::new();
    for (index, worker) in workers.iter().enumerate() {
        let path = |key: &str| format!("workers[{index}].{key}");
        check_name(&path("name"), &worker.name)?;
        if !names.insert(&worker.name) {
            let mend = "give each worker its own name";
            return Err(
                ConfigError::new(path("name"), "is another worker's name, too", mend).given(&worker.name)
            );
        }
        keys::check(worker, &path)?;
        if (worker.types.is_empty() && worker.source.is_none()) || worker.types.len() > 1_000 {
            let mend = "name 1 to 1,000 types, such as [\"orders/*\"]";
            return Err(ConfigError::new(path("types"), "names no type, or too many", mend));
        }
        in_range(&path("timeout"), worker.timeout, Span::millis(1), Span::seconds(3_600))?;
        in_range(&path("backoff.first"), worker.backoff.first, Span::millis(1), worker.backoff.max)?;
        in_range(&path("backoff.max"), worker.backoff.max, Span::millis(1), Span::seconds(86_400))?;
        if let Some(secret) = &worker.secret {
            check_secret(&path("secret"), secret)?;
        }
        check_headers(&path("headers"), &worker.headers)?;
        source::validate(worker, &path)?;
    }
    match workers.iter().position(|worker| workers.iter().any(|long| takes_in_as(long, &worker.name))) {
        None => Ok(()),
        Some(index) => {
            let problem = "is the name of what takes in for the worker that is `long: true`";
            let path = format!("workers[{index}].name");
            Err(ConfigError::new(path, problem, "give it another name").given(&workers[index].name))
        }
    }
}

/// Whether the worker is long, and this is the name of its intake.
fn takes_in_as(worker: &WorkerConfig, name: &str) -> bool {
    worker.long && name.strip_suffix(".intake") == Some(&worker.name)
}

/// Whether a text can name a worker; the API's paths hold it.
fn check_name(path: &str, name: &str) -> Result<(), ConfigError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        let mend = "write 1 to 64 letters, digits, dashes, underscores or dots";
        return Err(ConfigError::new(path, "cannot name a worker", mend).given(name));
    }
    Ok(())
}

/// Refuses what `config print` shows for a secret: it would sign, or be sent, like any other text.
fn check_mask(path: &str, secret: &Secret) -> Result<(), ConfigError> {
    if secret.is_mask() {
        let problem = "is masked, as `config print` masks secrets";
        return Err(ConfigError::new(path, problem, "write the real one"));
    }
    Ok(())
}

fn check_secret(path: &str, secret: &Secret) -> Result<(), ConfigError> {
    check_mask(path, secret)?;
    // The secret itself is not repeated in the error.
    let mend = "write `whsec_` and 24 to 64 random bytes in base64";
    let parsed = secret.expose().parse::<outboard_http::Secret>();
    parsed.map(drop).map_err(|error| ConfigError::new(path, error.to_string(), mend))
}

fn check_headers(path: &str, headers: &BTreeMap<String, Secret>) -> Result<(), ConfigError> {
    if headers.len() > 64 {
        return Err(ConfigError::new(path, "are more than 64", "send fewer headers").given(headers.len()));
    }
    for (name, value) in headers {
        let path = format!("{path}.{name}");
        let Ok(name) = name.parse::<http::HeaderName>() else {
            return Err(ConfigError::new(path, "is not a header name", "write one such as x-api-key"));
        };
        if RESERVED_HEADERS.contains(&name) {
            return Err(ConfigError::new(path, "is set by Outboard itself", "remove it"));
        }
        check_mask(&path, value)?;
        if http::HeaderValue::from_str(value.expose()).is_err() {
            return Err(ConfigError::new(
                path,
                "has a value that no header can carry",
                "write visible ASCII in one line",
            ));
        }
    }
    Ok(())
}
