//! The outside of a running worker.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use outboard_core::{
    Clock, Consumer, Health, Kind, Ledger, PortError, TypeSet, consumer::Drained, fault::Faults,
    lease::Leases, ledger::WorkerName,
};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Control, Runtime,
    drain::Drain,
    info::{RunningPositions, Tally, WorkerInfo, WorkerState},
    probing::can_ask,
    verdict::panic_text,
};
use crate::{
    handler::Handler,
    periodic::{Periodic, PeriodicTask},
    policy::Policy,
    source::Source,
};

/// Calls that wait for the worker's loop.
const CONTROLS: usize = 16;

/// The reason of a pause that nobody gave one for.
pub(crate) const BY_HAND: &str = "paused by hand";

/// How long to wait before a pause that was refused is written again.
const PAUSE_AGAIN: Duration = Duration::from_secs(1);

/// What a runtime needs besides its [`Shared`].
pub(crate) struct Parts {
    pub(crate) consumer: Arc<dyn Consumer>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) policy: Policy,
    /// How many messages are claimed beside those that run.
    pub(crate) ahead: u32,
    pub(crate) faults: Faults,
    /// Of the jitter.
    pub(crate) seed: u64,
}

/// What a worker's loop and its handles share.
pub(crate) struct Shared {
    pub(crate) name: WorkerName,
    pub(crate) description: Arc<str>,
    pub(crate) types: TypeSet,
    pub(crate) source: Source,
    pub(crate) concurrency: u32,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    /// One pause or resume at a time, so that what is durable and what is done agree.
    pausing: AsyncMutex<()>,
    is_paused: AtomicBool,
    condition: Mutex<Condition>,
    /// The worker that takes this one's messages into the log, if they come from a queue that way.
    intake: OnceLock<WorkerHandle>,
    pub(super) positions: Arc<RunningPositions>,
    pub(super) tally: Tally,
}

/// What [`WorkerState`] is made of; the first that applies is shown.
#[derive(Default)]
struct Condition {
    end: Option<WorkerState>,
    failure: Option<PortError>,
    paused: Option<String>,
    outage: Option<WorkerState>,
}

impl Shared {
    pub(crate) fn new(
        (name, description): (WorkerName, Arc<str>),
        types: TypeSet,
        source: Source,
        concurrency: u32,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
        paused: Option<Arc<str>>,
    ) -> Self {
        Self {
            name,
            description,
            types,
            source,
            concurrency,
            ledger,
            clock,
            pausing: AsyncMutex::new(()),
            is_paused: AtomicBool::new(paused.is_some()),
            condition: Mutex::new(Condition {
                paused: paused.map(|reason| reason.to_string()),
                ..Condition::default()
            }),
            intake: OnceLock::new(),
            positions: Arc::new(RunningPositions::new(concurrency as usize + 1)),
            tally: Tally::default(),
        }
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.condition().end.is_some()
    }

    pub(super) fn paused(&self, reason: Arc<str>) {
        self.is_paused.store(true, Ordering::Relaxed);
        self.condition().paused = Some(reason.to_string());
    }

    pub(super) fn resumed(&self) {
        self.is_paused.store(false, Ordering::Relaxed);
        self.condition().paused = None;
    }

    pub(super) fn outage_opened(&self, reason: Arc<str>) {
        self.condition().outage =
            Some(WorkerState::Outage { since: self.clock.now(), reason: reason.to_string(), probes: 0 });
    }

    pub(super) fn probed(&self, so_often: u64) {
        if let Some(WorkerState::Outage { probes, .. }) = &mut self.condition().outage {
            *probes = so_often;
        }
    }

    pub(super) fn outage_closed(&self) {
        self.condition().outage = None;
    }

    pub(super) fn draining(&self) {
        self.condition().end = Some(WorkerState::Draining);
    }

    pub(super) fn stopped(&self) {
        self.condition().end = Some(WorkerState::Stopped);
    }

    pub(super) fn failed(&self, error: PortError) {
        let mut condition = self.condition();
        condition.end = Some(WorkerState::Failed { reason: error.to_string() });
        condition.failure = Some(error);
    }

    fn state(&self) -> WorkerState {
        let condition = self.condition();
        let paused = condition.paused.clone().map(|reason| WorkerState::Paused { reason });
        condition.end.clone().or(paused).or_else(|| condition.outage.clone()).unwrap_or(WorkerState::Running)
    }

    /// Pauses or resumes the intake, if there is one.
    async fn set_intake(&self, reason: Option<Arc<str>>) -> Result<(), PortError> {
        let Some(intake) = self.intake.get() else { return Ok(()) };
        let _one_at_a_time = intake.0.shared.pausing.lock().await;
        intake.set_alone(reason).await
    }

    /// Writes down a pause that the loop has begun, through refusals, unless somebody resumes the worker first.
    pub(super) async fn write_pause(self: Arc<Self>, reason: Arc<str>) {
        loop {
            {
                let _one_at_a_time = self.pausing.lock().await;
                if !self.is_paused() {
                    return;
                }
                let written = self.ledger.pause(self.name.clone(), Some(reason.clone())).await;
                let written = match written {
                    Ok(()) => self.set_intake(Some(reason.clone())).await,
                    Err(error) => Err(error),
                };
                match written {
                    Ok(()) => return,
                    Err(error) if error.is_transient() => {
                        tracing::warn!(worker = %self.name, %error, "the pause is not written down yet");
                    }
                    Err(error) => {
                        tracing::error!(worker = %self.name, %error, "the pause is not durable");
                        return;
                    }
                }
            }
            tokio::time::sleep(PAUSE_AGAIN).await;
        }
    }
}

/// A running worker: to look at, to pause, to resume, to drain. Cheap to clone; the worker stops at once when its
/// [`Workers`](crate::workers::Workers) and all handles are gone.
#[derive(Clone)]
pub struct WorkerHandle(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    consumer: Arc<dyn Consumer>,
    control: mpsc::Sender<Control>,
    task: JoinHandle<()>,
    stop_periodic: CancellationToken,
    /// Taken out when the worker is drained.
    periodic: Mutex<Vec<PeriodicTask>>,
}

impl WorkerHandle {
    /// Starts a worker's loop and its periodic work.
    pub(crate) fn start(
        shared: Arc<Shared>,
        parts: Parts,
        periodic: Vec<Periodic>,
        leases: Option<Leases>,
    ) -> Self {
        let (control, controls) = mpsc::channel(CONTROLS);
        let consumer = parts.consumer.clone();
        let asks = parts.policy.outage.is_some() && can_ask(&*parts.handler);
        let runtime = Runtime::new(shared.clone(), parts, asks);
        let stop_periodic = CancellationToken::new();
        let task = tokio::spawn(supervise(shared.clone(), runtime.run(controls), stop_periodic.clone()));
        let periodic = periodic.into_iter().map(|periodic| {
            let of = shared.clone();
            let (stop, sharing) = (stop_periodic.clone(), (leases.clone(), shared.clock.clone()));
            PeriodicTask::start(shared.name.clone(), periodic, stop, sharing, move || of.is_paused())
        });
        let periodic = Mutex::new(periodic.collect());
        Self(Arc::new(Inner { shared, consumer, control, task, stop_periodic, periodic }))
    }

    /// Its name.
    pub fn name(&self) -> &WorkerName {
        &self.0.shared.name
    }

    /// What it handles.
    pub fn types(&self) -> &TypeSet {
        &self.0.shared.types
    }

    /// Where its messages come from.
    pub fn source(&self) -> &Source {
        &self.0.shared.source
    }

    /// Why it does not consume although it should, if it does not.
    pub(crate) fn recovering(&self) -> Option<Health> {
        let rests = !matches!(self.state(), WorkerState::Running | WorkerState::Outage { .. });
        let health = self.0.consumer.status().health;
        let is_away = match (&health, &self.0.shared.source) {
            (Health::Recovering { .. }, _) => true,
            // On a queue nothing comes meanwhile; on the log, what was claimed goes on.
            (Health::Refusing(_), Source::Queue(_)) => true,
            _ => false,
        };
        (!rests && is_away).then_some(health)
    }

    /// Says which worker takes this one's messages into the log. It is paused and resumed together with this one, and
    /// is paused now if this one is.
    pub(crate) async fn fed_by(&self, intake: WorkerHandle) -> Result<(), PortError> {
        let shared = &self.0.shared;
        let _one_at_a_time = shared.pausing.lock().await;
        let is_paused = shared.intake.get_or_init(|| intake).0.shared.is_paused();
        match self.state() {
            WorkerState::Paused { reason } if !is_paused => shared.set_intake(Some(reason.into())).await,
            _ => Ok(()),
        }
    }

    /// How it is now; cheap.
    pub fn info(&self) -> WorkerInfo {
        let shared = &self.0.shared;
        // What a message is called while it is in the log is nobody's business.
        let (types, source) = match shared.intake.get() {
            Some(intake) => (intake.types(), format!("{} through the log", intake.source())),
            None => (&shared.types, shared.source.to_string()),
        };
        WorkerInfo {
            name: shared.name.to_string(),
            description: shared.description.to_string(),
            types: types.patterns().iter().map(ToString::to_string).collect(),
            source,
            concurrency: shared.concurrency,
            state: shared.state(),
            running: shared.positions.read(),
            consumer: self.0.consumer.status().into(),
            counters: shared.tally.read(),
            periodic: self.periodic().iter().map(PeriodicTask::info).collect(),
        }
    }

    /// What it is doing.
    pub fn state(&self) -> WorkerState {
        self.0.shared.state()
    }

    /// Why it will not work again in this process, if it will not.
    pub fn failure(&self) -> Option<PortError> {
        self.0.shared.condition().failure.clone()
    }

    /// What keeps its consumer from delivering at the moment, if something does.
    pub fn trouble(&self) -> Option<PortError> {
        self.0.consumer.status().health.error().cloned()
    }

    /// Pauses it durably: when this returns, nothing new begins, not even after a restart. What runs goes on to its
    /// end. Without a reason, `paused by hand` is given. A long worker's intake is paused with it. Errors are the
    /// ledger's; then nothing was paused, but for `Unknown`, or a long worker whose intake goes on.
    pub async fn pause(&self, reason: Option<String>) -> Result<(), PortError> {
        let shared = &self.0.shared;
        let reason: Arc<str> = reason.unwrap_or_else(|| BY_HAND.into()).into();
        let _one_at_a_time = shared.pausing.lock().await;
        self.set_alone(Some(reason.clone())).await?;
        shared.set_intake(Some(reason)).await
    }

    /// Resumes it durably, and a long worker's intake with it. Errors are the ledger's; then nothing was resumed, but
    /// for `Unknown`, or a long worker's intake.
    pub async fn resume(&self) -> Result<(), PortError> {
        let shared = &self.0.shared;
        let _one_at_a_time = shared.pausing.lock().await;
        // First: an intake that alone stayed paused would not be resumed at the next start.
        shared.set_intake(None).await?;
        self.set_alone(None).await
    }

    /// Pauses it for a reason, or resumes it; for whoever has the lock.
    async fn set_alone(&self, reason: Option<Arc<str>>) -> Result<(), PortError> {
        let shared = &self.0.shared;
        shared.ledger.pause(shared.name.clone(), reason.clone()).await?;
        match reason {
            Some(reason) => self.call(|paused| Control::Pause(reason, paused)).await,
            None => self.call(Control::Resume).await,
        }
        Ok(())
    }

    /// Stops it for good: nothing new begins, what runs may finish until the deadline, the rest is given back
    /// uncounted, and the worker is released. `Closed` when it has stopped or failed before.
    pub async fn drain(&self, deadline: Instant) -> Result<Drained, PortError> {
        self.0.stop_periodic.cancel();
        let (drained, answer) = oneshot::channel();
        let sent = self.0.control.send(Control::Drain(Drain { deadline, drained })).await;
        let mut periodic = std::mem::take(&mut *self.periodic());
        for task in &mut periodic {
            task.finish(deadline).await;
        }
        let gone = || PortError::new(Kind::Closed, format!("worker `{}` does not run any more", self.name()));
        sent.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Calls the loop and waits for its answer. One that has ended needs no call.
    async fn call(&self, control: impl FnOnce(oneshot::Sender<()>) -> Control) {
        let (done, answer) = oneshot::channel();
        if self.0.control.send(control(done)).await.is_ok() {
            // An error means that the loop ended meanwhile.
            let _ = answer.await;
        }
    }

    fn periodic(&self) -> MutexGuard<'_, Vec<PeriodicTask>> {
        self.0.periodic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle").field("name", self.name()).field("state", &self.state()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs the loop; a panic in it is a failure of this worker only.
async fn supervise(shared: Arc<Shared>, run: impl Future<Output = ()>, stop_periodic: CancellationToken) {
    if let Err(payload) = AssertUnwindSafe(run).catch_unwind().await {
        let text = format!("the worker's loop panicked: {}", panic_text(&*payload));
        tracing::error!(worker = %shared.name, "{text}");
        shared.failed(PortError::new(Kind::Unknown, text));
    }
    stop_periodic.cancel();
}
