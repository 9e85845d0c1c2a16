//! NATS JetStream: a queue is a stream with a durable pull consumer for each worker.
//!
//! **Names.** The queue `orders` is the stream `orders` with the subjects `orders` and `orders.>`. It is made as a work
//! queue on files: what is acknowledged is gone, and all workers that consume it share one consumer, so they compete as
//! they would on any broker. A stream that is there already is used as it is, and never changed; when it keeps its
//! messages (`limits`), each worker has a durable consumer of its own name and gets everything. There are no exchanges:
//! bindings are refused, and whoever publishes to `orders.created` reaches the queue without one.
//!
//! **Messages.** The type is the header `Outboard-Type`, else a subject below the queue's own (`orders.created` is
//! `orders/created`), else [`ConsumeSpec::untyped`]. The id is `Nats-Msg-Id`, else the stream's name, the message's
//! position and the nanosecond in which the stream got it (`orders:7:1795316576105537279`), so every message has one, and
//! no other one when the stream is deleted and made again: positions begin anew then. A due time is the header
//! `Outboard-Due` in milliseconds: the server knows no schedule, so the consumer puts the message off until then.
//!
//! **Attempts.** JetStream counts deliveries, whatever ended them. Ours counts failures: the record of a message that
//! failed is written to the stream `outboard-attempts` before the message is put off (nak with delay), and read before
//! it is delivered again. So the message stays the one it is, in its place and with its id, nothing is lost or doubled
//! between a publication and an acknowledgement, other consumers of the stream see no copies, and neither a crash nor
//! a returned message counts. Publishing it again with a counter would have cost all of these.
//!
//! **Dead letters** go to the stream `orders-dead` with reason, attempts, worker and history; the message is terminated
//! when that stream has answered.
//!
//! **Acknowledgements** are confirmed: the server takes those of one connection in their order, so the last one of each
//! batch asks for an answer, and its answer is everybody's. What was not answered when a connection ended is said again.
//! What the server does with it is another matter: it syncs its files every two minutes unless told otherwise, and one that
//! is killed has forgotten the last acknowledgements, confirmed or not: those messages come again, with the id that they
//! had.
//!
//! **Recovery.** Claims outlive a connection: messages are acknowledged by their position, so what workers hold is
//! settled on the next connection, and renewed until then as far as the server waits (`ack_wait`). When the consumer
//! itself is another one, because somebody deleted it or its stream, the old claims are void and the epoch is a new one.
//! A process that is killed gives its messages to others after `ack_wait` (15 s) at the latest, and to itself when it is
//! started again. So does a connection that ends with what the server had sent and we had not read.

mod api;
mod consumer;
mod inspect;
mod letters;
mod link;
mod naming;
mod options;
mod protocol;
mod publish;
mod pulling;
mod stored;
mod topology;
mod url;

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Clock, Consumer, Fut, Health, Kind,
    queue::{
        ConsumeSpec, DeadKeeping, DeadMessage, Declared, MessageIdentity, Outgoing, Payloads, Queue,
        QueueCapabilities, QueueName, QueueSpec, QueueStats, Receipt, RetryDelays, Settling,
    },
};
use tokio::{sync::watch, time::Instant};

pub(crate) use self::naming::check_stream;
use self::{consumer::JetStreamConsumer, link::Link, naming::dead_stream, publish::Publisher};
pub use self::{
    inspect::{Account, Asked, ConsumerFacts, Facts, inspect, inspect_consumers},
    options::Options,
    url::Target,
};

/// How long a request may wait for a connection and its answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The queues of one account on a NATS server.
///
/// ```
/// use std::sync::Arc;
/// use outboard_backends::jetstream::{JetStream, Options};
/// use outboard_core::{queue::Queue, time::SystemClock};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let target = "nats://127.0.0.1:4222".parse().unwrap();
/// let queues = JetStream::open(target, Options::default(), Arc::new(SystemClock));
/// assert_eq!(queues.capabilities().backend, "jetstream");
/// # });
/// ```
#[derive(Debug)]
pub struct JetStream {
    link: Link,
    publisher: Publisher,
    options: Options,
    capabilities: QueueCapabilities,
}

impl JetStream {
    /// Begins to connect, on the current tokio runtime, and goes on until [`Queue::close`] or its drop.
    pub fn open(target: Target, options: Options, clock: Arc<dyn Clock>) -> Self {
        let link = Link::open(target, clock, options.heartbeat);
        let capabilities = QueueCapabilities {
            backend: "jetstream",
            retry: RetryDelays::Exact { within: Duration::from_millis(50) },
            settle: Settling::Confirmed,
            returns_counted: false,
            gives_back: false,
            hold_limit: None,
            payloads: Payloads::Bytes { max: options.max_payload },
            routing: false,
            headers: true,
            dead: DeadKeeping::Kept,
            identity: MessageIdentity::Always,
        };
        Self { publisher: Publisher::new(link.clone(), options.max_payload), link, options, capabilities }
    }
}

impl Queue for JetStream {
    fn capabilities(&self) -> &QueueCapabilities {
        &self.capabilities
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    fn declare(&self, spec: QueueSpec) -> Fut<'_, Declared> {
        Box::pin(async move {
            topology::stream_config(&spec)?;
            let connection = self.link.connected_by(Instant::now() + ANSWER_WITHIN).await?;
            topology::declare(&connection, &spec).await.map(|(_, declared)| declared)
        })
    }

    fn publish(&self, batch: Vec<Outgoing>) -> Fut<'_, Vec<Result<Receipt, outboard_core::PortError>>> {
        let deadline = Instant::now() + self.options.publish_within;
        Box::pin(async move { Ok(self.publisher.publish(batch, deadline).await) })
    }

    fn consume(&self, spec: ConsumeSpec) -> Fut<'_, Arc<dyn Consumer>> {
        Box::pin(async move {
            let consumer = JetStreamConsumer::open(&self.link, spec, self.options.clone())?;
            Ok(Arc::new(consumer) as Arc<dyn Consumer>)
        })
    }

    fn stats(&self, queue: QueueName) -> Fut<'_, QueueStats> {
        Box::pin(async move {
            naming::check_stream(&queue)?;
            let deadline = Instant::now() + ANSWER_WITHIN;
            let connection = self.link.connected_by(deadline).await?;
            let stream = api::stream_info(&connection, &queue).await?;
            let consumers = api::consumers(&connection, &queue).await?;
            let dead = match api::stream_info(&connection, &dead_stream(&queue)).await {
                Ok(info) => info.state.messages,
                Err(error) if error.kind == Kind::NotFound => 0,
                Err(error) => return Err(error),
            };
            let unsettled = consumers.iter().map(|consumer| consumer.num_ack_pending).sum();
            let behind = consumers.iter().map(|consumer| consumer.num_pending).max();
            let ready = behind.unwrap_or(stream.state.messages);
            let delivered = consumers.iter().map(|consumer| consumer.delivered.stream_seq).min();
            let from = delivered.map_or(stream.state.first_seq, |delivered| delivered + 1);
            let oldest =
                if ready > 0 { letters::oldest(&connection, &queue, from, deadline).await? } else { None };
            Ok(QueueStats {
                ready: Some(ready),
                // The server does not tell what waits for its time from what is being worked on.
                unsettled: Some(unsettled),
                parked: None,
                dead: Some(dead),
                oldest: oldest.map(|since| self.link.clock().now().since(since)),
                consumers: Some(stream.state.consumer_count),
            })
        })
    }

    fn dead(&self, queue: QueueName, max: usize) -> Fut<'_, Vec<DeadMessage>> {
        Box::pin(async move {
            naming::check_stream(&queue)?;
            let deadline = Instant::now() + ANSWER_WITHIN;
            let connection = self.link.connected_by(deadline).await?;
            letters::list(&connection, &queue, max, deadline).await
        })
    }

    fn close(&self, deadline: Instant) -> Fut<'_, ()> {
        Box::pin(async move {
            self.publisher.finish(deadline).await;
            self.link.close(deadline).await;
            Ok(())
        })
    }
}

impl Drop for JetStream {
    fn drop(&mut self) {
        self.link.abandon();
    }
}
