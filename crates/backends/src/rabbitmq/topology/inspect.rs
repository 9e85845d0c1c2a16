//! A look at a broker and its queues that changes nothing.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use outboard_core::{
    Kind, PortError,
    queue::{Declared, QueueName, QueueSpec},
};
use tokio::time::timeout;

use super::{Found, Steps, explain, queue_arguments, short};
use crate::rabbitmq::{
    codec::{
        method::{Method, flags},
        table::Table,
    },
    connection::Connection,
    url::Target,
};

/// How long the broker may take to let us in, and to tell of one queue.
const WITHIN: Duration = Duration::from_secs(5);

/// What a broker says of itself and of some queues.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `RabbitMQ`, as a rule.
    pub product: Arc<str>,
    /// Such as `3.13.7`; empty when it does not say.
    pub version: Arc<str>,
    /// How long a delivery may be unsettled. AMQP has no way to ask: `None`, and the configuration has to say.
    pub ack_timeout: Option<Duration>,
    /// In the order of the question.
    pub queues: Vec<QueueFacts>,
}

/// So many queues are asked for at once.
const AT_ONCE: usize = 16;

/// What a broker says of one queue.
#[derive(Debug, Clone)]
pub struct QueueFacts {
    /// Its name.
    pub name: QueueName,
    /// Whether it is there and as it is specified, or why it cannot be used. `NotFound` for one that is missing.
    pub declared: Result<Declared, PortError>,
    /// Messages that wait to be delivered, if it is there.
    pub ready: Option<u64>,
    /// Its consumers, if it is there.
    pub consumers: Option<u64>,
}

/// Asks a broker what it is, and looks at queues without making one.
///
/// Errors as when connecting: `Unavailable`, `Denied`, `Invalid`, `Unsupported`. What is wrong with a queue stands in its
/// own facts.
///
/// ```
/// use outboard_backends::rabbitmq::{Target, inspect};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let nowhere: Target = "amqp://127.0.0.1:1".parse().unwrap();
/// let error = inspect(&nowhere, &[]).await.unwrap_err();
/// assert_eq!(error.kind, outboard_core::Kind::Unavailable);
/// # });
/// ```
pub async fn inspect(target: &Target, queues: &[QueueSpec]) -> Result<Facts, PortError> {
    let connection = Connection::open(&target.named("outboard doctor"), WITHIN).await?;
    let asking: Vec<_> = queues.iter().map(|spec| inspect_in_time(&connection, spec)).collect();
    // Several at once: those without a leader keep nobody from the answers of the others.
    let facts = stream::iter(asking).buffered(AT_ONCE).collect().await;
    let server = connection.server();
    let (product, version) = (server.product.clone(), server.version.clone());
    connection.close().await;
    Ok(Facts { product, version, ack_timeout: None, queues: facts })
}

async fn inspect_in_time(connection: &Connection, spec: &QueueSpec) -> QueueFacts {
    timeout(WITHIN, inspect_queue(connection, spec)).await.unwrap_or_else(|_| silent(spec))
}

/// A queue without a leader is asked in vain, while the connection lives.
fn silent(spec: &QueueSpec) -> QueueFacts {
    let text =
        format!("the broker does not answer for the queue `{}`: look whether it has a leader", spec.name);
    let declared = Err(PortError::new(Kind::Unavailable, text));
    QueueFacts { name: spec.name.clone(), declared, ready: None, consumers: None }
}

async fn inspect_queue(connection: &Connection, spec: &QueueSpec) -> QueueFacts {
    let mut steps = Steps::new(connection);
    let name = spec.name.clone();
    let found = steps.look(&spec.name).await;
    let count = |count: fn(&Found) -> u32| found.as_ref().ok().map(|found| count(found).into());
    let (ready, consumers) = (count(|found| found.ready), count(|found| found.consumers));
    let exchanges = if spec.create { steps.compare_exchanges(spec).await } else { Ok(Vec::new()) };
    let declared = match found {
        _ if !matches!(&exchanges, Ok(same) if same.is_empty()) => {
            exchanges.map(|differences| Declared::Differs(differences.join("; ").into()))
        }
        // It is there: declaring it only compares, and makes nothing.
        Ok(_) if spec.create => steps.compare(spec).await,
        Ok(_) => Ok(Declared::Same),
        Err(error) if error.kind == Kind::NotFound && spec.create => {
            Err(PortError::new(Kind::NotFound, format!("{error} yet: its worker makes it when it starts")))
        }
        Err(error) => Err(error),
    };
    steps.end().await;
    QueueFacts { name, declared, ready, consumers }
}

impl Steps<'_> {
    /// What differs of the exchanges that are there; one that is missing would be made by a comparison.
    async fn compare_exchanges(&mut self, spec: &QueueSpec) -> Result<Vec<Arc<str>>, PortError> {
        let mut differences = Vec::new();
        for binding in &spec.bindings {
            match self.look_at_exchange(&binding.exchange).await {
                Ok(()) => {}
                Err(error) if error.kind == Kind::NotFound => continue,
                Err(error) => return Err(error),
            }
            if let Declared::Differs(what) = self.exchange(binding).await? {
                differences.push(what);
            }
        }
        Ok(differences)
    }

    async fn look_at_exchange(&mut self, name: &str) -> Result<(), PortError> {
        let declare = Method::ExchangeDeclare {
            reserved1: 0,
            exchange: short("an exchange", name)?,
            kind: short("an exchange's kind", "direct")?,
            flags: flags::PASSIVE,
            arguments: Table::default(),
        };
        self.call(&declare).await.map(drop).map_err(|error| explain(&format!("the exchange `{name}`"), error))
    }

    async fn compare(&mut self, spec: &QueueSpec) -> Result<Declared, PortError> {
        self.queue(&spec.name, queue_arguments(spec)?).await
    }
}
