//! The port of a message broker's queues.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use crate::{
    Fut,
    consumer::Consumer,
    error::{Health, PortError},
    ledger::WorkerName,
    message::Headers,
    time::Time,
};

/// A queue's name, as the broker knows it.
pub type QueueName = Arc<str>;

/// Queues of one broker: messages for competing consumers.
///
/// Thread-safe. It is made without connecting, and recovers by itself: connection, channels, topology, consumers, and
/// what was published without an answer. Nothing here waits for ever: a publication that cannot be sent within its
/// time ends in `Unavailable`, one that was sent and not answered in `Unknown`.
pub trait Queue: Send + Sync + fmt::Debug + 'static {
    /// What this backend can promise, and what it cannot.
    fn capabilities(&self) -> &QueueCapabilities;

    /// Whether the broker is reached.
    fn health(&self) -> watch::Receiver<Health>;

    /// Makes a queue and what leads to it, or finds that it is there.
    fn declare(&self, spec: QueueSpec) -> Fut<'_, Declared>;

    /// Publishes messages, durably: each answer comes after the broker's confirm, in the order of the batch.
    ///
    /// `NotFound` for a destination that is not there or leads to no queue; `Unknown` when the broker may have it:
    /// publish again with the same id. A batch has no order guarantee after a failure in its middle.
    fn publish(&self, batch: Vec<Outgoing>) -> Fut<'_, Vec<Result<Receipt, PortError>>>;

    /// Consumes a queue. An error is a mistake in the specification (`Invalid`, `Unsupported`); a broker that is away,
    /// or that refuses us, shows in [`Consumer::status`].
    fn consume(&self, spec: ConsumeSpec) -> Fut<'_, Arc<dyn Consumer>>;

    /// What is in a queue. `NotFound` without it.
    fn stats(&self, queue: QueueName) -> Fut<'_, QueueStats>;

    /// Looks at dead letters without taking them, oldest first, at most `max`.
    fn dead(&self, queue: QueueName, max: usize) -> Fut<'_, Vec<DeadMessage>>;

    /// Ends connections, after what was published has been answered, at the latest at the deadline. Consumers that
    /// were not drained lose their claims to the broker.
    fn close(&self, deadline: Instant) -> Fut<'_, ()>;
}

/// What a backend can promise. Facts, read by the runtime, by the start-up checks and by the conformance suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCapabilities {
    /// What it is called: `rabbitmq`, `sidekiq`, `jetstream`.
    pub backend: &'static str,
    /// How exact the delay of a retry is.
    pub retry: RetryDelays,
    /// What [`Consumer::durable`] says of an acknowledgement.
    pub settle: Settling,
    /// Whether a delivery that is given back counts towards a limit of the broker.
    pub returns_counted: bool,
    /// Whether counted attempts can be taken back ([`Consumer::give_back`]).
    pub gives_back: bool,
    /// How long the broker lets a delivery be unsettled, as far as we know; `None` is for ever.
    pub hold_limit: Option<Duration>,
    /// What a payload may be.
    pub payloads: Payloads,
    /// Whether a publication can name an exchange and a key.
    pub routing: bool,
    /// Whether headers travel with a message.
    pub headers: bool,
    /// What becomes of dead letters.
    pub dead: DeadKeeping,
    /// When every message has an id of its own, whoever published it.
    pub identity: MessageIdentity,
}

/// How exact the delay of a retry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryDelays {
    /// To some milliseconds, or to the interval in which due messages are looked for.
    Exact {
        /// The interval.
        within: Duration,
    },
    /// Rounded up to one of these.
    Tiers(Vec<Duration>),
}

/// What it means that an acknowledgement is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settling {
    /// The broker has said that it has it.
    Confirmed,
    /// It was written to the connection: a crash of the broker or the connection delivers the message again.
    Sent,
}

/// What a payload may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payloads {
    /// Any bytes up to so many.
    Bytes {
        /// The most.
        max: usize,
    },
    /// A JSON array, the arguments of a job; anything else becomes its only argument and comes back as an array.
    JsonArguments {
        /// The most bytes.
        max: usize,
    },
}

/// What becomes of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadKeeping {
    /// They stay until somebody takes them.
    Kept,
    /// The oldest go when there are more than so many, or after a time.
    Trimmed {
        /// At most so many.
        max: u64,
        /// At most so long.
        after: Duration,
    },
}

/// When a message has an id by which its effects happen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageIdentity {
    /// Always: the broker numbers its messages, or every publisher of this format gives one.
    Always,
    /// When its publisher gave one. Without it, effects happen at least once until the first retry, which gives one.
    WhenPublished,
}

/// A queue and what leads to it.
///
/// ```
/// use outboard_core::queue::{QueueKind, QueueSpec};
/// let spec = QueueSpec { kind: QueueKind::Quorum, ..QueueSpec::named("orders") };
/// assert_eq!(&*spec.name, "orders");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Its name.
    pub name: QueueName,
    /// How the broker keeps it, and with it what is made beside it for retries and dead letters. To be named for one that
    /// is there already: the broker tells it only of a queue that is to be made (`create`) and differs in nothing else.
    pub kind: QueueKind,
    /// What leads to it, besides publishing to its name.
    pub bindings: Vec<Binding>,
    /// More of the broker's own arguments, by name.
    pub arguments: BTreeMap<Arc<str>, Argument>,
    /// Whether it is made when it is missing; else its absence is an error that heals when somebody makes it.
    pub create: bool,
}

impl QueueSpec {
    /// A durable queue of the broker's usual kind, made when it is missing.
    pub fn named(name: impl Into<QueueName>) -> Self {
        let (bindings, arguments) = (Vec::new(), BTreeMap::new());
        Self { name: name.into(), kind: QueueKind::Usual, bindings, arguments, create: true }
    }
}

/// How a broker keeps a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueKind {
    /// As it does without being told.
    #[default]
    Usual,
    /// RabbitMQ's classic queue.
    Classic,
    /// RabbitMQ's replicated queue.
    Quorum,
}

/// A way from an exchange to a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The exchange, made durable when it is missing.
    pub exchange: Arc<str>,
    /// How it routes.
    pub routing: Routing,
    /// Arguments of the exchange, if it has to be made.
    pub arguments: BTreeMap<Arc<str>, Argument>,
    /// The routing key.
    pub key: Arc<str>,
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// By the whole key.
    Direct,
    /// By words of the key.
    Topic,
    /// To everybody.
    Fanout,
}

/// A value of a broker's own argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(Arc<str>),
    /// A whole number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

/// What a declaration found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declared {
    /// Made now, or there already and the same.
    Same,
    /// There already, with other arguments: it is used as it is. The text says what differs, as the broker tells it.
    Differs(Arc<str>),
}

/// A message to be published.
///
/// ```
/// use outboard_core::queue::{Destination, Outgoing};
/// let message = Outgoing::new(Destination::queue("orders"), "orders/confirm", r#"{"order_id":7}"#);
/// assert_eq!(message.id, None);
/// ```
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where to.
    pub to: Destination,
    /// Its id, the same when it is published again; made up when absent.
    pub id: Option<Arc<str>>,
    /// Its type, such as `orders/confirm`; a job's class on Sidekiq.
    pub kind: Arc<str>,
    /// The payload's bytes, JSON by convention.
    pub payload: Bytes,
    /// What travels with it.
    pub headers: Headers,
    /// Not to be delivered before this time.
    pub run_at: Option<Time>,
}

impl Outgoing {
    /// A message of a type with a payload, to be delivered at once.
    pub fn new(to: Destination, kind: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        let (kind, payload, headers) = (kind.into(), payload.into(), Headers::default());
        Self { to, id: None, kind, payload, headers, run_at: None }
    }
}

/// Where a message is published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A queue by its name.
    Queue(QueueName),
    /// Whatever an exchange leads to.
    Exchange {
        /// Its name.
        exchange: Arc<str>,
        /// The routing key.
        key: Arc<str>,
    },
}

impl Destination {
    /// A queue by its name.
    pub fn queue(name: impl Into<QueueName>) -> Self {
        Self::Queue(name.into())
    }
}

/// The broker has a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id.
    pub id: Arc<str>,
}

/// How a queue is consumed.
///
/// ```
/// use outboard_core::queue::{ConsumeSpec, Prefetch, QueueSpec};
/// let spec = ConsumeSpec::new("orders", QueueSpec::named("orders"));
/// assert_eq!(spec.prefetch, Prefetch::Auto { max: 1_000 });
/// ```
#[derive(Debug, Clone)]
pub struct ConsumeSpec {
    /// For whom; in consumer tags, dead letters and log lines.
    pub worker: WorkerName,
    /// The queue, declared again after every loss.
    pub queue: QueueSpec,
    /// How many deliveries may be unsettled.
    pub prefetch: Prefetch,
    /// The longest that the handler keeps a delivery.
    pub hold: Duration,
    /// The type of messages that name none; the queue's name by default.
    pub untyped: Arc<str>,
    /// Where an id comes from that the publisher did not give.
    pub identify: Identify,
    /// The broker's name for this consumer, if it has to be a certain one.
    pub tag: Option<Arc<str>>,
}

impl ConsumeSpec {
    /// With a prefetch that follows the handler's time, and a minute to hold a delivery.
    pub fn new(worker: impl Into<WorkerName>, queue: QueueSpec) -> Self {
        Self {
            worker: worker.into(),
            untyped: queue.name.clone(),
            queue,
            prefetch: Prefetch::Auto { max: 1_000 },
            hold: Duration::from_secs(60),
            identify: Identify::ByPublisher,
            tag: None,
        }
    }
}

/// How many deliveries may be unsettled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefetch {
    /// So many.
    Fixed(u32),
    /// Enough to keep the handlers busy: follows their time.
    Auto {
        /// Never more than this.
        max: u32,
    },
}

/// Where a message's id comes from when its publisher gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identify {
    /// From nowhere: such a message is a new one each time it comes.
    #[default]
    ByPublisher,
    /// From its queue, type, timestamp and bytes: two messages that are alike in all of these count as one.
    ByContent,
}

/// What is in a queue. What is not known is `None`, which is not 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Waiting to be delivered.
    pub ready: Option<u64>,
    /// Delivered and not settled.
    pub unsettled: Option<u64>,
    /// Waiting for their time.
    pub parked: Option<u64>,
    /// Dead letters. Right after [`Queue::dead`] has looked at them they may be fewer for a moment.
    pub dead: Option<u64>,
    /// The age of the oldest one that is ready.
    pub oldest: Option<Duration>,
    /// How many consumers it has.
    pub consumers: Option<u64>,
}

/// A dead letter as the broker keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadMessage {
    /// The message's id, if it has one.
    pub id: Option<Arc<str>>,
    /// Its type.
    pub kind: Arc<str>,
    /// Its payload.
    pub payload: Bytes,
    /// Why it was given up.
    pub reason: Arc<str>,
    /// Attempts counted.
    pub attempts: u32,
    /// When it was given up.
    pub at: Option<Time>,
    /// What the attempts said, oldest first, as far as it is kept.
    pub history: Vec<Arc<str>>,
}
