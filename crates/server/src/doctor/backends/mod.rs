//! Every backend that the configuration names.

mod jetstream;
mod rabbitmq;
mod reach;
mod redis;

use std::time::Duration;

use outboard_core::{
    Kind, PortError,
    queue::{QueueName, QueueSpec},
};
use tokio::{task::JoinSet, time::timeout};

use super::report::{Check, Group};
use crate::config::{
    Config,
    source::{PrefetchConfig, consume_spec},
};

/// What to do with a server that is there and does not answer.
const SILENT: &str = "see its log: it is overloaded, stuck, or not what the URL says";

/// How long one backend may take for everything.
const WITHIN: Duration = Duration::from_secs(8);

/// A backend and the workers that take their messages from it.
#[derive(Debug, Clone)]
struct Backend {
    /// The URL, with its password.
    url: String,
    /// The URL as it is shown.
    shown: String,
    consumers: Vec<Consumer>,
}

/// A worker as far as its backend goes.
#[derive(Debug, Clone)]
struct Consumer {
    worker: String,
    queue: QueueSpec,
    timeout: Duration,
    /// At most so many messages at once.
    concurrency: u32,
    /// At most so many are held, unless that follows the handler.
    prefetch: Option<u32>,
    /// What the configuration says of RabbitMQ's.
    ack_timeout: Duration,
    /// Whether its messages are taken into the log first.
    long: bool,
}

impl Consumer {
    /// The stream, and the worker that consumes it: with `long`, that is the one which takes in.
    fn durable(&self) -> (QueueName, String) {
        let worker = if self.long { format!("{}.intake", self.worker) } else { self.worker.clone() };
        (self.queue.name.clone(), worker)
    }
}

/// Looks at all of them at the same time.
pub(super) async fn examine(config: &Config) -> Vec<Group> {
    let mut looking = JoinSet::new();
    for (index, backend) in backends(config).into_iter().enumerate() {
        looking.spawn(async move { (index, look(backend).await) });
    }
    let mut groups = looking.join_all().await;
    groups.sort_by_key(|(index, _)| *index);
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The backends in the order of the configuration, each once.
fn backends(config: &Config) -> Vec<Backend> {
    let mut found: Vec<Backend> = Vec::new();
    for worker in &config.workers {
        let Some((source, queue)) = worker.source.as_ref().zip(worker.queue_name()) else { continue };
        let consumer = Consumer {
            worker: worker.name.clone(),
            queue: consume_spec(worker, &queue).queue,
            timeout: worker.timeout.0,
            concurrency: worker.concurrency,
            prefetch: match worker.prefetch.unwrap_or_default() {
                PrefetchConfig::Auto => None,
                PrefetchConfig::Fixed(prefetch) => Some(prefetch),
            },
            ack_timeout: worker.ack_timeout().0,
            long: worker.long,
        };
        let url = source.expose();
        match found.iter_mut().find(|backend| backend.url == url) {
            Some(backend) => backend.consumers.push(consumer),
            None => {
                let (url, shown) = (url.to_owned(), source.to_string());
                found.push(Backend { url, shown, consumers: vec![consumer] });
            }
        }
    }
    found
}

async fn look(backend: Backend) -> Group {
    let name = backend.shown.clone();
    let checks = match timeout(WITHIN, checks(&backend)).await {
        Ok(checks) => checks,
        Err(_) => {
            let text = format!("it takes connections and did not answer within {WITHIN:?}");
            vec![Check::problem("answer", text, SILENT)]
        }
    };
    Group { name, checks }
}

async fn checks(backend: &Backend) -> Vec<Check> {
    let reached = match reach::reach(&backend.url).await {
        Ok(reached) => reached,
        Err(problem) => return vec![problem],
    };
    let asked = match backend.url.split_once("://").map(|(scheme, _)| scheme) {
        Some("amqp" | "amqps") => rabbitmq::checks(backend).await,
        Some("nats" | "tls") => jetstream::checks(backend).await,
        _ => redis::checks(backend).await,
    };
    let mut checks = vec![reached];
    match asked {
        Ok(asked) => checks.extend(asked),
        Err(error) => checks.push(refused(&error)),
    }
    checks
}

/// A server that is reached and does not let us in. What it says names the mend.
fn refused(error: &PortError) -> Check {
    let tells = |words: &str| error.message.contains(words);
    let (name, mend) = match error.kind {
        Kind::Denied if tells("certificate") || tells("TLS") => ("tls", ""),
        Kind::Invalid if tells("CA file") => {
            ("tls", "name a file with certificates in PEM that this user can read")
        }
        Kind::Denied | Kind::NotFound => ("sign-in", ""),
        Kind::Unavailable => ("answer", SILENT),
        _ => ("answer", ""),
    };
    Check::problem(name, error.to_string(), mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_of_several_workers_is_looked_at_once() {
        let mut config = Config::default();
        for (name, source) in [("a", "amqp://u:hunter2@mq"), ("b", "nats://h"), ("c", "amqp://u:hunter2@mq")]
        {
            config.add_forward("http://127.0.0.1/").unwrap();
            let worker = config.workers.last_mut().unwrap();
            (worker.name, worker.queue) = (name.to_owned(), Some(format!("{name}-queue")));
            worker.types.clear();
            worker.source = Some(source.parse().unwrap());
        }
        config.add_forward("http://127.0.0.1/").unwrap();
        let found = backends(&config);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(
            found[0].consumers.iter().map(|one| &*one.queue.name).collect::<Vec<_>>(),
            ["a-queue", "c-queue"]
        );
        assert!(!found[0].shown.contains("hunter2"));
    }
}
