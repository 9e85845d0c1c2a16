//! The port: queues of one RabbitMQ.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use outboard_core::{
    Consumer, Fut, Health, Kind, PortError,
    queue::{
        ConsumeSpec, DeadKeeping, DeadMessage, Declared, MessageIdentity, Outgoing, Payloads, Prefetch,
        Queue, QueueCapabilities, QueueName, QueueSpec, QueueStats, Receipt, RetryDelays, Settling,
    },
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    consumer::QueueConsumer,
    dead,
    ladder::{self, Ladder},
    link::{Link, Links, Told},
    options::Options,
    outgoing::{Exchanges, MAX_PAYLOAD, publication},
    publisher::{Limits, Publication, Publisher},
    topology,
    url::Target,
};

/// How long a call waits for a connection, and for the broker's answer.
const WITHIN: Duration = Duration::from_secs(10);

/// Queues of one RabbitMQ, over one connection for publishing and one for every so many consumers.
///
/// ```
/// use outboard_backends::rabbitmq::{Options, RabbitMq};
/// use outboard_core::queue::Queue;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// // Nobody has to listen there yet.
/// let queues = RabbitMq::new("amqp://guest:guest@127.0.0.1:1".parse().unwrap(), Options::default());
/// assert_eq!(queues.capabilities().backend, "rabbitmq");
/// assert!(!queues.health().borrow().is_ready());
/// # });
/// ```
#[derive(Debug)]
pub struct RabbitMq {
    capabilities: QueueCapabilities,
    publishing: Link,
    consuming: Links,
    publisher: Arc<Publisher>,
    ladder: Arc<Ladder>,
    exchanges: Exchanges,
    health: watch::Receiver<Health>,
    _watching: AbortOnDropHandle<()>,
    is_closed: AtomicBool,
}

impl RabbitMq {
    /// Begins to connect, and does not wait for it. Must be called within a tokio runtime, which its tasks run on.
    pub fn new(target: Target, options: Options) -> Self {
        let told = Told::default();
        let publishing = Link::start(&target, "publishing", told.clone());
        let publisher = Publisher::start(publishing.connection(), Limits::default());
        let (sender, health) = watch::channel(publishing.health().borrow().clone());
        let watching = watch_health(publishing.health(), publisher.refusing(), sender);
        Self {
            health,
            _watching: AbortOnDropHandle::new(tokio::spawn(watching)),
            capabilities: capabilities(&options),
            exchanges: Exchanges::new(publishing.connection()),
            ladder: Arc::new(Ladder::new(publishing.connection())),
            publisher: Arc::new(publisher),
            consuming: Links::new(target, told, options.consumers_per_connection),
            publishing,
            is_closed: AtomicBool::new(false),
        }
    }

    fn check_open(&self) -> Result<(), PortError> {
        let closed = || PortError::new(Kind::Closed, "the connection to RabbitMQ is closed");
        if self.is_closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    fn check(&self, spec: &ConsumeSpec) -> Result<(), PortError> {
        let invalid = |text: String| Err(PortError::new(Kind::Invalid, text));
        let queue = &spec.queue.name;
        check_name(queue)?;
        if spec.tag.as_ref().is_some_and(|tag| tag.len() > 255) {
            return invalid("a consumer tag has at most 255 bytes".to_owned());
        }
        let (Prefetch::Fixed(prefetch) | Prefetch::Auto { max: prefetch }) = spec.prefetch;
        if prefetch == 0 || prefetch > u32::from(u16::MAX) {
            return invalid(format!("a prefetch is 1 to {}, not {prefetch}", u16::MAX));
        }
        let limit = self.capabilities.hold_limit.unwrap_or(Duration::MAX);
        if spec.hold > limit {
            return invalid(format!(
                "the worker `{}` may keep a message of `{queue}` for {:?}, and RabbitMQ takes it away after {limit:?} \
                 (`consumer_timeout`): set `long: true`, so that messages are first taken into the log, or raise both \
                 the broker's `consumer_timeout` and the source's `ack_timeout`",
                spec.worker, spec.hold,
            ));
        }
        Ok(())
    }

    async fn publish_all(&self, batch: Vec<Outgoing>) -> Vec<Result<Receipt, PortError>> {
        let mut answers: Vec<Result<Receipt, PortError>> = Vec::with_capacity(batch.len());
        let mut publications: Vec<Publication> = Vec::with_capacity(batch.len());
        for message in batch {
            match publication(message, &self.ladder, &self.exchanges).await {
                Ok((id, publication)) => {
                    answers.push(Ok(Receipt { id }));
                    publications.push(publication);
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        let exchanges: Vec<_> = publications.iter().map(|publication| publication.exchange.clone()).collect();
        let mut confirmed = exchanges.into_iter().zip(self.publisher.publish(publications).await);
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            if let Some((exchange, Err(error))) = confirmed.next() {
                if error.kind == Kind::NotFound {
                    self.exchanges.forget(exchange.as_str());
                }
                *answer = Err(error);
            }
        }
        answers
    }

    async fn stats_of(&self, queue: QueueName) -> Result<QueueStats, PortError> {
        let connection = self.publishing.live(WITHIN).await?;
        let found = topology::look(&connection, &queue).await?;
        let ready = async |name: &str| match topology::look(&connection, name).await {
            Ok(found) => Ok(u64::from(found.ready)),
            Err(error) if error.kind == Kind::NotFound => Ok(0),
            Err(error) => Err(error),
        };
        let mut parked = None;
        for name in self.ladder.used(&queue) {
            parked = Some(parked.unwrap_or(0) + ready(&name).await?);
        }
        Ok(QueueStats {
            ready: Some(found.ready.into()),
            parked,
            dead: Some(ready(&ladder::dead_name(&queue)).await?),
            consumers: Some(found.consumers.into()),
            // The protocol tells neither how many are unsettled nor how old the oldest is.
            unsettled: None,
            oldest: None,
        })
    }
}

/// Checks a queue's name: those of its retries and dead letters are longer, and have to fit, too.
pub(crate) fn check_name(queue: &str) -> Result<(), PortError> {
    if queue.is_empty() || queue.len() > 200 {
        let text = format!("a queue's name has 1 to 200 bytes; `{queue}` has {}", queue.len());
        return Err(PortError::new(Kind::Invalid, text));
    }
    Ok(())
}

/// Away, or there and taking nothing.
async fn watch_health(
    mut link: watch::Receiver<Health>,
    mut refusing: watch::Receiver<Option<PortError>>,
    health: watch::Sender<Health>,
) {
    loop {
        let reached = link.borrow_and_update().clone();
        let refusal = refusing.borrow_and_update().clone();
        health.send_replace(match (reached, refusal) {
            (Health::Ready, Some(error)) => Health::Refusing(error),
            (reached, _) => reached,
        });
        let changed =
            tokio::select! { changed = link.changed() => changed, changed = refusing.changed() => changed };
        if changed.is_err() {
            let closed = PortError::new(Kind::Closed, "the connection to RabbitMQ is closed");
            health.send_replace(Health::Failed(closed));
            return;
        }
    }
}

fn capabilities(options: &Options) -> QueueCapabilities {
    QueueCapabilities {
        backend: "rabbitmq",
        retry: RetryDelays::Tiers(ladder::steps()),
        settle: Settling::Sent,
        // Quorum queues count every return towards their `x-delivery-limit`: 20 by default from 4.0 on.
        returns_counted: true,
        gives_back: false,
        hold_limit: Some(options.ack_timeout),
        payloads: Payloads::Bytes { max: MAX_PAYLOAD },
        routing: true,
        headers: true,
        dead: DeadKeeping::Kept,
        identity: MessageIdentity::WhenPublished,
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, PortError>>) -> Result<T, PortError> {
    let late = || PortError::new(Kind::Unavailable, "the broker does not answer");
    timeout(WITHIN, call).await.unwrap_or_else(|_| Err(late()))
}

impl Queue for RabbitMq {
    fn capabilities(&self) -> &QueueCapabilities {
        &self.capabilities
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    fn declare(&self, spec: QueueSpec) -> Fut<'_, Declared> {
        Box::pin(async move {
            self.check_open()?;
            let connection = self.publishing.live(WITHIN).await?;
            let declared = in_time(topology::ensure(&connection, &spec)).await?;
            self.ladder.learn(&spec);
            self.ladder.found(&spec.name, &declared);
            Ok(declared)
        })
    }

    fn publish(&self, batch: Vec<Outgoing>) -> Fut<'_, Vec<Result<Receipt, PortError>>> {
        Box::pin(async move {
            self.check_open()?;
            Ok(self.publish_all(batch).await)
        })
    }

    fn consume(&self, spec: ConsumeSpec) -> Fut<'_, Arc<dyn Consumer>> {
        Box::pin(async move {
            self.check_open()?;
            self.check(&spec)?;
            self.ladder.learn(&spec.queue);
            let (ladder, publisher) = (self.ladder.clone(), self.publisher.clone());
            let limit = self.capabilities.hold_limit.unwrap_or(Duration::MAX);
            let consumer = QueueConsumer::start(spec, self.consuming.seat(), ladder, publisher, limit);
            Ok(Arc::new(consumer) as Arc<dyn Consumer>)
        })
    }

    fn stats(&self, queue: QueueName) -> Fut<'_, QueueStats> {
        Box::pin(async move {
            self.check_open()?;
            in_time(self.stats_of(queue)).await
        })
    }

    fn dead(&self, queue: QueueName, max: usize) -> Fut<'_, Vec<DeadMessage>> {
        Box::pin(async move {
            self.check_open()?;
            let connection = self.publishing.live(WITHIN).await?;
            dead::letters(&connection, &queue, max).await
        })
    }

    fn close(&self, deadline: Instant) -> Fut<'_, ()> {
        Box::pin(async move {
            if !self.is_closed.swap(true, Ordering::AcqRel) {
                self.publisher.close(deadline).await;
                self.consuming.close(deadline).await;
                self.publishing.close(deadline).await;
            }
            Ok(())
        })
    }
}
