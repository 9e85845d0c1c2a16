//! Forward workers from their configuration.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use outboard::{
    OutagePolicy, Policy, WorkerSpec,
    forward::{Client, ClientConfig, Forward, ForwardConfig},
};
use outboard_core::{backoff::Backoff, ledger::Start};

use crate::config::{Begin, WorkerConfig};

/// The workers that a configuration names; they share one HTTP client.
pub(crate) fn workers(configs: &[WorkerConfig]) -> Result<Vec<WorkerSpec>, String> {
    let together = configs.iter().map(|worker| worker.concurrency as usize).sum();
    let mut client = ClientConfig::default();
    client.connections_per_host = client.connections_per_host.max(together);
    let client = Client::new(client)?;
    configs.iter().map(|config| worker(config, &client)).collect()
}

fn worker(config: &WorkerConfig, client: &Client) -> Result<WorkerSpec, String> {
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
        types: config.types.iter().map(|pattern| pattern.0.clone()).collect(),
        start: match config.from {
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
        source: outboard::Source::Log,
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
