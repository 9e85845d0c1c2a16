//! All running workers of one process.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use outboard_core::{
    Clock, Consumer, Health, Kind, Ledger, Log, PortError, TypeSet,
    consumer::{Drained, Flow},
    fault::Faults,
    lease::Leases,
    ledger::{Start, WorkerName},
    log_consumer::{LogConsumer, LogConsumerOptions},
    planted::{Bug, is_planted},
    queue::ConsumeSpec,
    queue_consumer::{QueueConsumer, QueueConsumerOptions},
    time::system_clock,
};
use tokio::time::Instant;

use crate::{
    forward::envelope::rfc_3339,
    handler::Handler,
    intake,
    periodic::Periodic,
    policy::Policy,
    runtime::{BY_HAND, Parts, Shared, WorkerHandle, WorkerState, prefetch},
    source::{QueueSource, Source},
};

/// The highest concurrency that is taken.
pub const MAX_CONCURRENCY: u32 = 10_000;

/// Everything that makes a worker.
#[derive(Debug, Clone)]
pub struct WorkerSpec {
    /// Its name; its cursor, parked messages and dead letters go by it.
    pub name: WorkerName,
    /// What it is for, in one sentence.
    pub description: String,
    /// What it handles.
    pub types: TypeSet,
    /// Where it begins, if it was never seen.
    pub start: Start,
    /// How it treats its messages.
    pub policy: Policy,
    /// What it calls for each of them.
    pub handler: Arc<dyn Handler>,
    /// What it does besides.
    pub periodic: Vec<Periodic>,
    /// Where its messages come from.
    pub source: Source,
}

impl WorkerSpec {
    /// Whether it can be run; the error says what to mend.
    fn validate(&self) -> Result<(), PortError> {
        let Self { name, policy, .. } = self;
        let wrong = |text: String| Err(PortError::new(Kind::Invalid, format!("worker `{name}`: {text}")));
        if name.is_empty() {
            return Err(PortError::new(Kind::Invalid, "a worker needs a name"));
        }
        if policy.concurrency == 0 || policy.concurrency > MAX_CONCURRENCY {
            let given = policy.concurrency;
            return wrong(format!("the concurrency is {given}; it must be from 1 to {MAX_CONCURRENCY}"));
        }
        if policy.attempts == 0 {
            return wrong("0 attempts are allowed; there must be at least 1".into());
        }
        if policy.timeout.is_zero() {
            return wrong("the timeout is zero; it must be longer".into());
        }
        if let Some(outage) = &policy.outage
            && (outage.failures == 0 || outage.failures > MAX_CONCURRENCY || outage.probe_every.is_zero())
        {
            let limit = MAX_CONCURRENCY;
            return wrong(format!(
                "an outage needs from 1 to {limit} failures and a time between probes that is not zero"
            ));
        }
        if let Some(periodic) =
            self.periodic.iter().find(|periodic| periodic.every < Duration::from_millis(1))
        {
            return wrong(format!(
                "`{}` is to run every {:?}; 1 ms is the least",
                periodic.name, periodic.every
            ));
        }
        Ok(())
    }
}

/// What all workers of a process have in common.
#[derive(Debug, Clone)]
pub struct WorkersOptions {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where crashes are simulated.
    pub faults: Faults,
    /// Seeds the jitter of retries, so that a simulation replays; random by default.
    pub seed: u64,
    /// With these, each tick of periodic work runs once over all processes that share their store; none by default.
    pub leases: Option<Leases>,
}

impl Default for WorkersOptions {
    fn default() -> Self {
        Self { clock: system_clock(), faults: Faults::none(), seed: fastrand::u64(..), leases: None }
    }
}

/// Starts, watches and stops the workers of one process.
///
/// Dropping it stops them at once, as a crash would; [`Workers::drain`] stops them properly.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::{sync::Arc, time::Duration};
/// use outboard::{Attempt, Done, Handled, Handler, Policy, Source, WorkerSpec, Workers, WorkersOptions, handler::BoxFuture};
/// use outboard::core::{Log, NewMessage, TypeSet, ledger::Start};
/// use outboard_embedded::{Embedded, MemoryDisk, Options};
///
/// #[derive(Debug)]
/// struct Print;
/// impl Handler for Print {
///     fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
///         Box::pin(async move {
///             assert_eq!(&*attempt.message.kind, "orders/confirm");
///             Ok(Done).into()
///         })
///     }
/// }
///
/// let storage = Embedded::memory(&MemoryDisk::new().unwrap(), Options::default()).await.unwrap();
/// let (log, ledger) = (Arc::new(storage.clone()), Arc::new(storage.clone()));
/// let workers = Workers::new(log, ledger, WorkersOptions::default());
/// let worker = workers.start(WorkerSpec {
///     name: "orders".into(),
///     description: "Prints orders".into(),
///     types: TypeSet::all(),
///     start: Start::End,
///     policy: Policy::default(),
///     handler: Arc::new(Print),
///     periodic: Vec::new(),
///     source: Source::Log,
/// }).await?;
/// storage.append(vec![NewMessage::new("orders/confirm", "{}")].into()).await?;
/// while worker.info().counters.handled == 0 {
///     tokio::task::yield_now().await;
/// }
/// workers.drain(tokio::time::Instant::now() + Duration::from_secs(25)).await;
/// # Ok::<(), outboard::core::PortError>(()) }).unwrap();
/// ```
pub struct Workers {
    log: Arc<dyn Log>,
    ledger: Arc<dyn Ledger>,
    options: WorkersOptions,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    /// By name; `None` while a worker is being opened.
    workers: BTreeMap<WorkerName, Option<WorkerHandle>>,
    /// Nothing starts any more.
    is_draining: bool,
}

/// How the workers are, in short.
#[derive(Debug, Clone)]
pub struct WorkersHealth {
    /// `Failed` when a worker will not work again in this process, `Recovering` when one should consume and does not,
    /// else `Ready`. A pause is not a reason, nor is a sick target.
    pub health: Health,
    /// Workers that do not deliver normally, with the reason; they do not make the process unready.
    pub degraded: Vec<Degraded>,
}

/// A worker that does not deliver normally.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Degraded {
    /// Which.
    pub worker: String,
    /// Why, for people.
    pub reason: String,
}

/// How the stop of one worker ended.
pub type DrainResult = (WorkerName, Result<Drained, PortError>);

impl Workers {
    /// No worker yet, on this log and ledger.
    pub fn new(log: Arc<dyn Log>, ledger: Arc<dyn Ledger>, options: WorkersOptions) -> Self {
        Self { log, ledger, options, running: Mutex::default() }
    }

    /// Opens a worker and lets it work. `Invalid` for a specification that cannot run, and for a name that is taken
    /// by a worker that has not stopped; `Closed` once [`Workers::drain`] was called; else the ledger's errors.
    ///
    /// A [`QueueSource::long`] worker is opened together with the one that takes its messages into the log.
    pub async fn start(&self, spec: WorkerSpec) -> Result<WorkerHandle, PortError> {
        match &spec.source {
            Source::Queue(source) if source.is_long => {
                let (intake, handling) = intake::split(spec);
                let handle = self.start_one(handling).await?;
                handle.fed_by(self.start_one(intake).await?).await?;
                Ok(handle)
            }
            _ => self.start_one(spec).await,
        }
    }

    async fn start_one(&self, spec: WorkerSpec) -> Result<WorkerHandle, PortError> {
        spec.validate()?;
        let place = self.reserve(&spec.name)?;
        let handle = self.open(spec).await?;
        if place.fill(&handle) {
            return Ok(handle);
        }
        // The drain began while the worker was being opened, and did not see it.
        handle.drain(Instant::now()).await?;
        Err(draining())
    }

    async fn open(&self, spec: WorkerSpec) -> Result<WorkerHandle, PortError> {
        let WorkersOptions { clock, faults, seed, leases } = &self.options;
        let consumer = self.consumer(&spec).await?;
        let is_paused = consumer.status().flow == Flow::Paused;
        let paused = if is_paused { Some(self.pause_reason(&spec.name).await?) } else { None };
        let ahead = match &spec.source {
            Source::Log => spec.policy.concurrency,
            Source::Queue(source) => source.ahead(spec.policy.concurrency, spec.policy.timeout),
        };
        let shared = Arc::new(Shared::new(
            (spec.name.clone(), spec.description.into()),
            spec.types,
            spec.source,
            spec.policy.concurrency,
            self.ledger.clone(),
            clock.clone(),
            paused,
        ));
        let parts = Parts {
            consumer,
            handler: spec.handler,
            policy: spec.policy,
            ahead,
            faults: faults.clone(),
            seed: seed_of(*seed, &spec.name),
        };
        tracing::info!(worker = %spec.name, "the worker starts");
        Ok(WorkerHandle::start(shared, parts, spec.periodic, leases.clone()))
    }

    /// The one place that knows where deliveries come from.
    async fn consumer(&self, spec: &WorkerSpec) -> Result<Arc<dyn Consumer>, PortError> {
        match &spec.source {
            Source::Log => self.log_consumer(spec).await,
            Source::Queue(source) => self.queue_consumer(spec, source).await,
        }
    }

    async fn queue_consumer(
        &self,
        spec: &WorkerSpec,
        source: &QueueSource,
    ) -> Result<Arc<dyn Consumer>, PortError> {
        source.check(&spec.name)?;
        let consume =
            ConsumeSpec { worker: spec.name.clone(), hold: spec.policy.timeout, ..source.consume.clone() };
        let queue = source.queue.consume(consume).await?;
        let options = QueueConsumerOptions {
            worker: spec.name.clone(),
            types: spec.types.clone(),
            claims: source.claims(),
        };
        Ok(QueueConsumer::open(queue, self.ledger.clone(), options).await?)
    }

    async fn log_consumer(&self, spec: &WorkerSpec) -> Result<Arc<dyn Consumer>, PortError> {
        let options = LogConsumerOptions {
            start: spec.start,
            prefetch: prefetch(spec.policy.concurrency),
            faults: self.options.faults.clone(),
            ..LogConsumerOptions::new(spec.name.clone(), spec.types.clone(), self.options.clock.clone())
        };
        Ok(LogConsumer::open(self.log.clone(), self.ledger.clone(), options).await?)
    }

    async fn pause_reason(&self, name: &WorkerName) -> Result<Arc<str>, PortError> {
        let rows = self.ledger.workers().await?;
        let paused = rows.into_iter().find(|row| row.name == *name).and_then(|row| row.paused);
        Ok(paused.unwrap_or_else(|| "paused".into()))
    }

    fn reserve(&self, name: &WorkerName) -> Result<Place<'_>, PortError> {
        let mut running = self.running();
        if running.is_draining {
            return Err(draining());
        }
        let is_free = match running.workers.get(name) {
            None => true,
            Some(None) => false,
            Some(Some(handle)) => {
                matches!(handle.state(), WorkerState::Stopped | WorkerState::Failed { .. })
            }
        };
        if !is_free {
            return Err(PortError::new(Kind::Invalid, format!("there is a worker `{name}` already")));
        }
        running.workers.insert(name.clone(), None);
        Ok(Place { workers: self, name: Some(name.clone()) })
    }

    /// All workers, by name.
    pub fn handles(&self) -> Vec<WorkerHandle> {
        self.running().workers.values().flatten().cloned().collect()
    }

    /// One worker.
    pub fn get(&self, name: &str) -> Option<WorkerHandle> {
        self.running().workers.get(name).cloned().flatten()
    }

    /// Pauses a worker as [`WorkerHandle::pause`] does, also one that does not run in this process; its errors, and
    /// `NotFound` for a worker never opened.
    pub async fn pause(&self, name: &str, reason: Option<String>) -> Result<(), PortError> {
        match self.get(name) {
            Some(handle) => handle.pause(reason).await,
            None => self.set_absent(name, Some(reason.unwrap_or_else(|| BY_HAND.into()).into())).await,
        }
    }

    /// Resumes a worker as [`WorkerHandle::resume`] does, also one that does not run in this process; its errors, and
    /// `NotFound` for a worker never opened.
    pub async fn resume(&self, name: &str) -> Result<(), PortError> {
        match self.get(name) {
            Some(handle) => handle.resume().await,
            None => self.set_absent(name, None).await,
        }
    }

    /// What a worker was is not known any more: it may have had an intake. That comes first, so that the worker shows it
    /// when only half was done.
    async fn set_absent(&self, name: &str, reason: Option<Arc<str>>) -> Result<(), PortError> {
        let intake = intake::name_of(name);
        if self.get(&intake).is_none() {
            match self.ledger.pause(intake, reason.clone()).await {
                Err(error) if error.kind == Kind::NotFound => {}
                set => set?,
            }
        }
        self.ledger.pause(name.into(), reason).await
    }

    /// Stops all workers at once: nothing new begins, what runs may finish until the deadline, the rest is given back
    /// uncounted. A worker that has stopped or failed before is left out. No worker can be started afterwards.
    pub async fn drain(&self, deadline: Instant) -> Vec<DrainResult> {
        self.running().is_draining = true;
        let handles = self.handles();
        let drains = handles.iter().map(|handle| async move {
            match handle.drain(deadline).await {
                Err(error) if error.kind == Kind::Closed => None,
                result => Some((handle.name().clone(), result)),
            }
        });
        join_all(drains).await.into_iter().flatten().collect()
    }

    /// How they are.
    pub fn health(&self) -> WorkersHealth {
        let handles = self.handles();
        let sick = handles.iter().any(|handle| matches!(handle.state(), WorkerState::Outage { .. }));
        if sick && is_planted(Bug::SickTargetUnready) {
            let error = PortError::new(Kind::Unavailable, "planted");
            return WorkersHealth { degraded: Vec::new(), health: Health::Failed(error) };
        }
        let failure = handles.iter().find_map(WorkerHandle::failure);
        let failure = failure.filter(|_| !is_planted(Bug::FailedWorkerReady));
        let degraded = handles.iter().filter_map(|handle| {
            Some(Degraded { worker: handle.name().to_string(), reason: degradation(handle)? })
        });
        let health =
            failure.map(Health::Failed).or_else(|| handles.iter().find_map(WorkerHandle::recovering));
        WorkersHealth { degraded: degraded.collect(), health: health.unwrap_or(Health::Ready) }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("running", &self.handles()).finish_non_exhaustive()
    }
}

/// A name that is taken while its worker is being opened, and free again if that fails.
struct Place<'a> {
    workers: &'a Workers,
    name: Option<WorkerName>,
}

impl Place<'_> {
    /// Gives the place to its worker. False when nothing is to start any more.
    fn fill(mut self, handle: &WorkerHandle) -> bool {
        let mut running = self.workers.running();
        if running.is_draining {
            return false;
        }
        running.workers.insert(handle.name().clone(), Some(handle.clone()));
        self.name = None;
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.workers.running().workers.remove(name);
        }
    }
}

fn draining() -> PortError {
    PortError::new(Kind::Closed, "the workers are being stopped; none can be started")
}

/// Why a worker does not deliver normally.
fn degradation(handle: &WorkerHandle) -> Option<String> {
    match handle.state() {
        WorkerState::Paused { reason } => Some(format!("paused: {reason}")),
        WorkerState::Outage { since, reason, probes } => {
            Some(format!("outage since {}, {probes} probes: {reason}", rfc_3339(since)))
        }
        WorkerState::Failed { reason } => Some(format!("failed: {reason}")),
        WorkerState::Running => handle.trouble().map(|error| error.to_string()),
        WorkerState::Draining | WorkerState::Stopped => None,
    }
}

/// Each worker has a jitter of its own, which does not depend on the order in which they start (FNV-1a of the name).
fn seed_of(seed: u64, name: &str) -> u64 {
    name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
