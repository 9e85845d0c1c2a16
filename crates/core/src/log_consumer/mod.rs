//! The consuming port on a log: a cursor, parked messages and dead letters make one worker's deliveries.
//!
//! All decisions are taken in `State`, synchronously and under one lock; this file moves its wishes to the
//! log and the ledger and its deliveries to the runtime. One background task, the flusher, commits settlements: what
//! is settled while a commit runs joins the next one.

mod flush;
mod jumps;
mod open;
mod settling;
mod state;
mod status;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};

use self::state::{State, Step};
use crate::{
    Fut,
    consumer::{Consumer, Delivery, Drained, Flow, Settlement, Status, Tag, Ticket, Verdict},
    error::{Kind, PortError},
    fault::{Faults, Point},
    ledger::{Ledger, Parked, Start, WorkerName},
    log::{Limit, Log, Subscription},
    message::{Message, Position},
    pattern::TypeSet,
    time::{Clock, Time},
};

/// Three consecutive crashes of the process bury the message that ran alone each time.
pub const CRASHES_TO_BURY: u32 = 3;

/// The longest sleep before the wall clock is looked at again, so that a clock jump cannot hold a due message back.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// How long after a drain's deadline a last commit may take.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// How a [`LogConsumer`] consumes.
#[derive(Debug, Clone)]
pub struct LogConsumerOptions {
    /// The worker's name; its cursor, parked messages and dead letters go by it.
    pub worker: WorkerName,
    /// What it handles.
    pub types: TypeSet,
    /// Where it begins, if it was never seen.
    pub start: Start,
    /// At most so many messages claimed and not durably settled: the most that a crash repeats.
    pub prefetch: u32,
    /// The highest prefetch that [`Consumer::flow`] can set later, if it is higher than `prefetch`. After a crash so
    /// many messages are suspects: whichever of them were running, they are among these.
    pub claims: u32,
    /// At most so many parked messages; a full table stops claiming from the log.
    pub max_parked: u64,
    /// The wall clock for due times.
    pub clock: Arc<dyn Clock>,
    /// Where crashes are simulated.
    pub faults: Faults,
}

impl LogConsumerOptions {
    /// A worker that begins at the end, with 64 claims and a million parked messages at most.
    pub fn new(worker: impl Into<WorkerName>, types: TypeSet, clock: Arc<dyn Clock>) -> Self {
        Self {
            worker: worker.into(),
            types,
            start: Start::End,
            prefetch: 64,
            claims: 64,
            max_parked: 1_000_000,
            clock,
            faults: Faults::none(),
        }
    }

    /// The largest number of messages that are ever claimed at the same time.
    fn most_claims(&self) -> u32 {
        self.prefetch.max(self.claims)
    }
}

/// [`Consumer`] over a [`Log`] and a [`Ledger`].
pub struct LogConsumer {
    shared: Arc<Shared>,
    flusher: AbortHandle,
}

/// What the consumer and its flusher share.
struct Shared {
    log: Arc<dyn Log>,
    ledger: Arc<dyn Ledger>,
    options: LogConsumerOptions,
    epoch: u64,
    state: Mutex<State>,
    tip: watch::Receiver<Position>,
    /// Wakes `next`: new messages, room, due rows, resumed flow.
    wake: Subscription,
    /// Wakes the flusher.
    flush: Notify,
    durable: watch::Sender<Ticket>,
    /// Wakes `drain` whenever something was settled or committed.
    settled: Notify,
}

impl LogConsumer {
    /// Opens the worker, fencing an earlier holder, and begins to commit for it.
    ///
    /// After an unclean stop what may have been running becomes suspect, and a suspect that brought the process down
    /// three times in a row is buried before this returns. Needs a tokio runtime.
    pub async fn open(
        log: Arc<dyn Log>,
        ledger: Arc<dyn Ledger>,
        options: LogConsumerOptions,
    ) -> Result<Arc<Self>, PortError> {
        // Subscribed before the cursor is read: what is appended meanwhile wakes the first `next`.
        let wake = log.subscribe(options.types.clone());
        let opening = open::open(&*log, &*ledger, &options).await?;
        let shared = Arc::new(Shared {
            tip: log.tip(),
            log,
            ledger,
            options,
            epoch: opening.epoch,
            state: Mutex::new(opening.state),
            wake,
            flush: Notify::new(),
            durable: watch::Sender::new(0),
            settled: Notify::new(),
        });
        let flusher = tokio::spawn(flush::run(shared.clone(), opening.revived)).abort_handle();
        Ok(Arc::new(Self { shared, flusher }))
    }

    async fn deliveries(&self, max: usize) -> Result<Vec<Delivery>, PortError> {
        let shared = &*self.shared;
        loop {
            // What comes back at once, again and again, must leave the thread to others, too.
            tokio::task::coop::consume_budget().await;
            let (step, wants_flush) =
                shared.lock().step(max, *shared.tip.borrow(), shared.options.clock.now());
            if wants_flush {
                shared.flush.notify_one();
            }
            match step {
                Step::Deliver(deliveries) => {
                    shared.options.faults.reach(Point::Claimed)?;
                    return Ok(deliveries);
                }
                Step::Read { after, limit } => {
                    let page = shared.log.read(after, shared.options.types.clone(), limit).await?;
                    if shared.lock().take_page(after, page) {
                        shared.flush.notify_one();
                    }
                }
                Step::Due { until, max } => {
                    let due = shared.ledger.due(shared.options.worker.clone(), until, max).await?;
                    let rows = shared.lock().not_in_hand(due.rows);
                    let found = shared.with_messages(rows).await?;
                    shared.lock().take_due(found, due.next);
                    shared.flush.notify_one();
                }
                Step::Wait(due) => shared.wait(due).await,
                Step::Failed(error) => return Err(error),
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed by short sections that do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait(&self, due: Option<Time>) {
        let notified = self.wake.wake.notified();
        match due {
            Some(due) => {
                let delay = due.since(self.options.clock.now()).min(CLOCK_CHECK);
                // A timeout is an answer, too: the clock is looked at again.
                let _ = tokio::time::timeout(delay.max(Duration::from_millis(1)), notified).await;
            }
            None => notified.await,
        }
    }

    /// Parked rows with their messages.
    async fn with_messages(
        &self,
        rows: Vec<Parked>,
    ) -> Result<Vec<(Parked, Option<Arc<Message>>)>, PortError> {
        let messages = self.log.get(rows.iter().map(|row| row.position).collect()).await?;
        Ok(rows.into_iter().zip(messages).collect())
    }

    /// Returns when everything claimed is settled and durable, or at the deadline.
    async fn drained_by(&self, deadline: Instant) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Registered before the state is looked at, so that no change is missed.
            settled.as_mut().enable();
            if self.lock().is_drained() || tokio::time::timeout_at(deadline, settled).await.is_err() {
                return;
            }
        }
    }

    fn wake_next(&self) {
        self.wake.wake.notify_one();
    }
}

impl Consumer for LogConsumer {
    fn next(&self, max: usize) -> Fut<'_, Vec<Delivery>> {
        Box::pin(self.deliveries(max.max(1)))
    }

    fn settle(&self, settlement: Settlement) -> Ticket {
        let shared = &*self.shared;
        let returned = settlement.verdict == Verdict::Return;
        let ticket = shared.lock().settle(settlement, shared.options.clock.now());
        if shared.options.faults.reach(Point::Settled).is_ok() {
            shared.flush.notify_one();
            if returned {
                shared.wake_next();
                shared.settled.notify_waiters();
            }
        }
        ticket
    }

    fn hold(&self, tag: Tag) {
        self.shared.lock().hold(tag);
        self.shared.flush.notify_one();
        self.shared.wake_next();
    }

    fn give_back(&self, attempts: Vec<(Tag, u32)>) {
        self.shared.lock().give_back(attempts);
        self.shared.flush.notify_one();
    }

    fn durable(&self) -> watch::Receiver<Ticket> {
        self.shared.durable.subscribe()
    }

    fn flow(&self, flow: Flow) {
        let most = self.shared.options.most_claims();
        // More than was told when the worker was opened would escape the look for suspects after a crash.
        self.shared.lock().flow = match flow {
            Flow::Running { prefetch } => Flow::Running { prefetch: prefetch.min(most) },
            Flow::Paused => Flow::Paused,
        };
        self.shared.wake_next();
    }

    fn status(&self) -> Status {
        self.shared.lock().status(self.shared.epoch)
    }

    fn drain(&self, deadline: Instant) -> Fut<'_, Drained> {
        Box::pin(async move {
            let shared = &*self.shared;
            let before = shared.lock().begin_drain();
            shared.wake_next();
            shared.flush.notify_one();
            shared.drained_by(deadline).await;
            let (settled, returned) = shared.lock().end_drain(before);
            shared.flush.notify_one();
            // What is settled by now still commits, or a clean stop would repeat it.
            shared.drained_by(deadline.max(Instant::now()) + LAST_COMMIT).await;
            match shared.ledger.release(shared.options.worker.clone(), shared.epoch).await {
                // A later holder, or one that failed, has nothing to release.
                Err(error) if !matches!(error.kind, Kind::Fenced | Kind::Closed) => Err(error),
                _ => Ok(Drained { settled, returned }),
            }
        })
    }
}

impl Drop for LogConsumer {
    fn drop(&mut self) {
        self.flusher.abort();
    }
}

impl fmt::Debug for LogConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogConsumer").field("worker", &self.shared.options.worker).finish_non_exhaustive()
    }
}

/// How much of the log is read ahead of the claims.
fn read_ahead(prefetch: u32) -> Limit {
    Limit { messages: (prefetch as usize).clamp(16, 1_000), bytes: 1 << 20, scan: 10_000 }
}
