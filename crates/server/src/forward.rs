//! Forward workers from their configuration.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use outboard::{
    OutagePolicy, Policy, QueueSource, Source, WorkerSpec,
    forward::{Client, ClientConfig, Forward, ForwardConfig},
};
use outboard_backends::OpenOptions;
use outboard_core::{Queue, TypeSet, backoff::Backoff, ledger::Start, time::system_clock};

use crate::config::{Begin, WorkerConfig, source::consume_spec};

/// The workers that a configuration names; they share one HTTP client, and one set of connections to each broker.
pub(crate) fn workers(configs: &[WorkerConfig]) -> Result<Vec<WorkerSpec>, String> {
    let together = configs.iter().map(|worker| worker.concurrency as usize).sum();
    let mut client = ClientConfig::default();
    client.connections_per_host = client.connections_per_host.max(together);
    let client = Client::new(client)?;
    let mut brokers = Brokers::default();
    configs.iter().map(|config| worker(config, &client, &mut brokers)).collect()
}

/// The brokers that are open, by URL and ack timeout.
#[derive(Default)]
struct Brokers(BTreeMap<(String, Duration), Arc<dyn Queue>>);

impl Brokers {
    /// Where a worker's messages come from.
    fn source(&mut self, config: &WorkerConfig) -> Result<Source, String> {
        let Some((url, queue)) = config.source.as_ref().zip(config.queue_name()) else {
            return Ok(Source::Log);
        };
        let options = OpenOptions { ack_timeout: config.ack_timeout().0 };
        let broker = match self.0.entry((url.expose().to_owned(), options.ack_timeout)) {
            Entry::Occupied(open) => open.get().clone(),
            Entry::Vacant(place) => {
                let broker = outboard_backends::open(url.expose(), options, system_clock());
                place.insert(broker.map_err(|error| error.to_string())?).clone()
            }
        };
        let source = QueueSource::new(broker, consume_spec(config, &queue));
        Ok(Source::Queue(if config.long { source.long() } else { source }))
    }
}

fn worker(config: &WorkerConfig, client: &Client, brokers: &mut Brokers) -> Result<WorkerSpec, String> {
    let told = |problem: String| format!("worker `{}`: {problem}", config.name);
    let secret = config.secret.as_ref().map(|secret| secret.expose().parse());
    let forward = ForwardConfig {
        url: config.url.0.clone(),
        probe: config.probe.as_ref().map(|probe| probe.0.clone()),
        secrets: secret
            .transpose()
            .map_err(|error: outboard_http::webhook::SecretError| told(error.to_string()))?
            .into_iter()
            .collect(),
        headers: headers(config).map_err(told)?,
    };
    let handler = Forward::new(client.clone(), forward).map_err(|error| told(error.to_string()))?;
    let description = match config.description.as_str() {
        "" => format!("Forwards to {}", config.url.0.origin()),
        given => given.to_owned(),
    };
    Ok(WorkerSpec {
        name: config.name.as_str().into(),
        description,
        types: match config.types.as_slice() {
            // A queue's messages are all its own.
            [] => TypeSet::everything(),
            types => types.iter().map(|pattern| pattern.0.clone()).collect(),
        },
        start: match config.from.unwrap_or_default() {
            Begin::Beginning => Start::Beginning,
            Begin::End => Start::End,
        },
        policy: Policy {
            concurrency: config.concurrency,
            timeout: config.timeout.0,
            backoff: Backoff { first: config.backoff.first.0, max: config.backoff.max.0 },
            attempts: config.attempts,
            outage: Some(OutagePolicy::default()),
        },
        handler: Arc::new(handler),
        periodic: Vec::new(),
        source: brokers.source(config).map_err(told)?,
    })
}

fn headers(config: &WorkerConfig) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let parsed = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value.expose()).ok());
        let (name, mut value) = parsed.ok_or_else(|| format!("the header `{name}` cannot be sent"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use outboard_core::queue::MessageIdentity;

    use super::*;
    use crate::config::Config;

    /// Its start line said that effects of messages without an id happen at least once.
    #[tokio::test]
    async fn a_worker_on_sidekiq_is_not_told_of_messages_without_an_id() {
        let mut config = Config::default();
        config.add_forward("http://127.0.0.1/").unwrap();
        config.workers[0].source = Some("sidekiq+redis://127.0.0.1:1/0?queue=default".parse().unwrap());
        let specs = workers(&config.workers).unwrap();
        let Source::Queue(source) = &specs[0].source else { panic!("a queue") };
        assert_eq!(source.queue().capabilities().identity, MessageIdentity::Always);
    }
}
