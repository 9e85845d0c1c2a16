//! The port on Sidekiq's queues.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use outboard_core::{
    Clock, Consumer, Fut, Health, Kind, PortError,
    queue::{
        ConsumeSpec, DeadKeeping, DeadMessage, Declared, MessageIdentity, Outgoing, Payloads, Queue,
        QueueCapabilities, QueueKind, QueueName, QueueSpec, QueueStats, Receipt, RetryDelays, Settling,
    },
};
use redis::cmd;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    consumer::{DEAD_FOR, JobConsumer, MOST_DEAD, Signs},
    job::MAX_PAYLOAD,
    keys, look, publish, schedule,
    url::{Address, Jobs, checked_name},
};
use crate::redis::{Connection, Link};

/// How long a question may wait for a connection.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// Sidekiq's queues on one Redis.
///
/// ```no_run
/// use std::sync::Arc;
/// use outboard_backends::sidekiq::Sidekiq;
/// use outboard_core::queue::{Destination, Outgoing, Queue};
/// # async fn example() -> Result<(), outboard_core::PortError> {
/// let sidekiq = Sidekiq::open("sidekiq+redis://127.0.0.1/0".parse()?, outboard_core::time::system_clock());
/// let job = Outgoing::new(Destination::queue("default"), "CreateChatJob", "[7, 1]");
/// let answers = sidekiq.publish(vec![job]).await?;
/// # Ok(()) }
/// ```
pub struct Sidekiq {
    link: Link,
    jobs: Jobs,
    clock: Arc<dyn Clock>,
    capabilities: QueueCapabilities,
    /// The queues that are consumed here.
    queues: schedule::Queues,
    consumers: Mutex<Vec<Weak<JobConsumer>>>,
    scheduler: AbortOnDropHandle<()>,
}

impl Sidekiq {
    /// Begins to connect, within a runtime; returns at once.
    pub fn open(address: Address, clock: Arc<dyn Clock>) -> Self {
        let link = Link::start(address.target, clock.clone(), None);
        let queues: schedule::Queues = Arc::new(Mutex::new(BTreeSet::new()));
        let scheduler = tokio::spawn(schedule::run(link.clone(), queues.clone(), clock.clone()));
        Self {
            link,
            jobs: address.jobs,
            clock,
            capabilities: capabilities(),
            queues,
            consumers: Mutex::default(),
            scheduler: AbortOnDropHandle::new(scheduler),
        }
    }

    async fn connection(&self) -> Result<Connection, PortError> {
        self.link.connection_by(Instant::now() + ASK_WITHIN).await
    }

    fn living(&self) -> Vec<Arc<JobConsumer>> {
        let consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        consumers.iter().filter_map(Weak::upgrade).collect()
    }
}

fn capabilities() -> QueueCapabilities {
    QueueCapabilities {
        backend: "sidekiq",
        retry: RetryDelays::Exact { within: schedule::WITHIN },
        // As durable as its configuration makes it: with `appendfsync always`, it is on disk.
        settle: Settling::Confirmed,
        returns_counted: false,
        gives_back: false,
        hold_limit: None,
        payloads: Payloads::JsonArguments { max: MAX_PAYLOAD },
        routing: false,
        headers: true,
        dead: DeadKeeping::Trimmed { max: MOST_DEAD, after: DEAD_FOR },
        // Sidekiq gives every job its `jid`.
        identity: MessageIdentity::Always,
    }
}

/// Whether this is something that Sidekiq has.
fn check(spec: &QueueSpec) -> Result<(), PortError> {
    checked_name(&spec.name)?;
    let unsupported = |text: &str| Err(PortError::new(Kind::Unsupported, text));
    if spec.kind != QueueKind::Usual {
        return unsupported("Sidekiq has one kind of queue: leave out `kind`");
    }
    if !spec.bindings.is_empty() {
        return unsupported("Sidekiq has no exchanges: leave out the bindings");
    }
    if !spec.arguments.is_empty() {
        return unsupported("Sidekiq's queues take no arguments: leave them out");
    }
    Ok(())
}

impl Queue for Sidekiq {
    fn capabilities(&self) -> &QueueCapabilities {
        &self.capabilities
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    fn declare(&self, spec: QueueSpec) -> Fut<'_, Declared> {
        Box::pin(async move {
            check(&spec)?;
            let connection = self.connection().await?;
            if spec.create {
                connection.query::<()>(cmd("SADD").arg(keys::QUEUES).arg(&*spec.name)).await?;
            } else if !connection.query::<bool>(cmd("SISMEMBER").arg(keys::QUEUES).arg(&*spec.name)).await? {
                return Err(PortError::new(Kind::NotFound, format!("Sidekiq has no queue `{}`", spec.name)));
            }
            Ok(Declared::Same)
        })
    }

    fn publish(&self, batch: Vec<Outgoing>) -> Fut<'_, Vec<Result<Receipt, PortError>>> {
        Box::pin(async move { Ok(publish::publish(&self.link, batch, self.jobs, self.clock.now()).await) })
    }

    fn consume(&self, spec: ConsumeSpec) -> Fut<'_, Arc<dyn Consumer>> {
        Box::pin(async move {
            check(&spec.queue)?;
            self.queues.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.queue.name.clone());
            let consumer = JobConsumer::start(self.link.clone(), spec, self.clock.clone(), Signs::USUAL);
            let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
            consumers.retain(|consumer| consumer.strong_count() > 0);
            consumers.push(Arc::downgrade(&consumer));
            let consumer: Arc<dyn Consumer> = consumer;
            Ok(consumer)
        })
    }

    fn stats(&self, queue: QueueName) -> Fut<'_, QueueStats> {
        Box::pin(async move { look::stats(&self.connection().await?, &queue, self.clock.now()).await })
    }

    fn dead(&self, queue: QueueName, max: usize) -> Fut<'_, Vec<DeadMessage>> {
        Box::pin(async move { look::dead(&self.connection().await?, &queue, max).await })
    }

    fn close(&self, deadline: Instant) -> Fut<'_, ()> {
        Box::pin(async move {
            self.scheduler.abort();
            for consumer in self.living() {
                let _ = tokio::time::timeout_at(deadline, consumer.abandon()).await;
            }
            self.link.close();
            Ok(())
        })
    }
}

impl fmt::Debug for Sidekiq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sidekiq").field("target", self.link.target()).finish_non_exhaustive()
    }
}
