//! One consumer of one queue: claims in Redis, deliveries to the runtime, settlements back.
//!
//! Three tasks: one fetches, first what others left behind; one settles; one gives signs of life and finds out who is
//! gone. All that they decide is decided in [`State`], under one lock.

mod state;

mod adopt;
mod alive;
mod fetch;
mod settle;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outboard_core::{
    Clock, Consumer, Delivery, Fut, Health, Kind, PortError, Settlement,
    consumer::{Drained, Flow, Status, Tag, Ticket},
    queue::ConsumeSpec,
    recovery::Recovery,
};
use redis::cmd;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::alive::Signs;
use self::state::State;
use super::{keys, scripts};
use crate::redis::{Connection, Link};

/// Sidekiq keeps so many dead jobs,
pub(super) const MOST_DEAD: u64 = 10_000;

/// and each of them so long: six months.
pub(super) const DEAD_FOR: Duration = Duration::from_secs(180 * 24 * 3_600);

/// How long after a drain's deadline the last settlements may take.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// A consumer of one queue. What it has in hand is there for others when it is dropped.
pub(super) struct JobConsumer {
    shared: Arc<Shared>,
    tasks: [AbortOnDropHandle<()>; 3],
}

/// What the consumer and its tasks share.
struct Shared {
    link: Link,
    spec: ConsumeSpec,
    keys: Keys,
    signs: Signs,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Wakes `next`: deliveries, or the end.
    arrived: Notify,
    /// Wakes the fetching task: room, another flow, or holders that are gone.
    room: Notify,
    /// Wakes the settling task.
    flush: Notify,
    /// Wakes a drain.
    settled: Notify,
    durable: watch::Sender<Ticket>,
}

/// The names of this holder's keys.
struct Keys {
    holder: String,
    queue: String,
    claims: String,
    arrivals: String,
    alive: String,
    holders: String,
}

impl JobConsumer {
    /// Begins to consume, as soon as there is a connection; returns at once.
    pub(super) fn start(link: Link, spec: ConsumeSpec, clock: Arc<dyn Clock>, signs: Signs) -> Arc<Self> {
        let queue = &spec.queue.name;
        let holder = format!("{:016x}", fastrand::u64(..));
        let keys = Keys {
            queue: keys::queue(queue),
            claims: keys::claims(queue, &holder),
            arrivals: keys::arrivals(queue, &holder),
            alive: keys::alive(queue, &holder),
            holders: keys::holders(queue),
            holder,
        };
        let state = Mutex::new(State::new(spec.prefetch, clock.now()));
        let (arrived, room, flush, settled) = (Notify::new(), Notify::new(), Notify::new(), Notify::new());
        let durable = watch::Sender::new(0);
        let shared = Arc::new(Shared {
            link,
            spec,
            keys,
            signs,
            clock,
            state,
            arrived,
            room,
            flush,
            settled,
            durable,
        });
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(fetch::run(shared.clone()))),
            AbortOnDropHandle::new(tokio::spawn(settle::run(shared.clone()))),
            AbortOnDropHandle::new(tokio::spawn(alive::run(shared.clone()))),
        ];
        Arc::new(Self { shared, tasks })
    }

    /// Ends it as it stands: what it has in hand is there for others at once.
    pub(super) async fn abandon(&self) {
        self.stop();
        self.shared.leave().await;
    }

    fn stop(&self) {
        self.tasks.iter().for_each(AbortOnDropHandle::abort);
        self.shared.end();
    }

    async fn drain_by(&self, deadline: Instant) -> Result<Drained, PortError> {
        let shared = &*self.shared;
        let before = shared.lock().begin_drain();
        shared.room.notify_one();
        shared.flush.notify_one();
        shared.drained_by(deadline).await;
        let (settled, returned) = shared.lock().end_drain(before);
        shared.flush.notify_one();
        shared.drained_by(deadline.max(Instant::now()) + LAST_FLUSH).await;
        let is_drained = shared.lock().is_drained();
        self.abandon().await;
        if is_drained {
            return Ok(Drained { settled, returned });
        }
        let text =
            "Redis was away when the consumer ended: others get what it had when they miss its signs of life";
        Err(PortError::new(Kind::Unavailable, text))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed by short sections that do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().end();
        self.arrived.notify_one();
    }

    /// Waits for a connection that is of use.
    async fn connection(&self) -> Option<Connection> {
        let is_good =
            |connection: &Option<Connection>| connection.as_ref().is_some_and(|good| !good.has_ended());
        self.link.connections().wait_for(is_good).await.ok().and_then(|connection| connection.clone())
    }

    /// What a task waits after an error, and whether the error is told.
    async fn pause(&self, recovery: &mut Option<Recovery>, connection: &Connection, error: PortError) {
        let recovery = recovery.get_or_insert_with(|| Recovery::begin(self.clock.now()));
        let is_outage = matches!(error.kind, Kind::Unavailable | Kind::Unknown | Kind::Closed);
        if recovery.is_news(&error) && !is_outage {
            tracing::warn!(%error, queue = &*self.spec.queue.name, worker = &*self.spec.worker, "jobs cannot be consumed");
        }
        let wait = recovery.failed(&error, fastrand::f64());
        if !is_outage {
            self.lock().trouble = Some(recovery.health());
        }
        tokio::select! {
            // The next one may be better, and whether there is one is the link's business.
            _ = connection.until_ended() => {}
            () = sleep_until(Instant::now() + wait) => {}
        }
    }

    /// Forgets this holder, or says that what it has is there for others.
    async fn leave(&self) {
        let Ok(connection) = self.link.connection() else { return };
        let keys = &self.keys;
        let waiting = self.lock().waiting.take();
        if let Some(id) = waiting {
            // A job that came to it later would be nobody's. It may be gone already, and that is as good.
            let _ = connection.query::<redis::Value>(cmd("CLIENT").arg("KILL").arg("ID").arg(id)).await;
        }
        let left = connection
            .script::<()>(&scripts::LEAVE, |script| {
                script.key(&keys.claims).key(&keys.arrivals).key(&keys.alive).key(&keys.holders);
                script.arg(&keys.holder).arg(alive::WORD_KEPT_MS);
            })
            .await;
        if let Err(error) = left {
            // Then it is found out when no sign of life comes any more.
            tracing::debug!(%error, "a consumer could not say that it ends");
        }
    }

    /// Returns when everything claimed is settled for good, or at the deadline.
    async fn drained_by(&self, deadline: Instant) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Registered before the state is looked at, so that no change is missed.
            settled.as_mut().enable();
            if self.lock().is_drained() || timeout_at(deadline, settled).await.is_err() {
                return;
            }
        }
    }
}

impl Consumer for JobConsumer {
    fn next(&self, max: usize) -> Fut<'_, Vec<Delivery>> {
        Box::pin(async move {
            loop {
                // What comes back at once, again and again, must leave the thread to others, too.
                tokio::task::coop::consume_budget().await;
                let (deliveries, wants_more) =
                    self.shared.lock().take(max.max(1), self.shared.clock.now())?;
                if wants_more {
                    self.shared.room.notify_one();
                }
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
                self.shared.arrived.notified().await;
            }
        })
    }

    fn settle(&self, settlement: Settlement) -> Ticket {
        let ticket = self.shared.lock().settle(settlement, self.shared.clock.now());
        self.shared.flush.notify_one();
        ticket
    }

    /// Nobody is a suspect here.
    fn hold(&self, _tag: Tag) {}

    /// What was counted stands in Sidekiq's set already; see the capabilities.
    fn give_back(&self, _attempts: Vec<(Tag, u32)>) {}

    fn durable(&self) -> watch::Receiver<Ticket> {
        self.shared.durable.subscribe()
    }

    fn flow(&self, flow: Flow) {
        self.shared.lock().flow(flow);
        self.shared.room.notify_one();
        self.shared.flush.notify_one();
    }

    fn status(&self) -> Status {
        let link = self.shared.link.health().borrow().clone();
        let state = self.shared.lock();
        let health = match (link, &state.trouble) {
            (Health::Ready, Some(trouble)) => trouble.clone(),
            (link, _) => link,
        };
        Status::of_queue(state.shown_flow(), state::EPOCH, state.unsettled(), state.last_progress, health)
    }

    fn drain(&self, deadline: Instant) -> Fut<'_, Drained> {
        Box::pin(self.drain_by(deadline))
    }
}

impl Drop for JobConsumer {
    fn drop(&mut self) {
        if self.shared.lock().has_ended() {
            return;
        }
        self.stop();
        // Others need not wait until they miss its signs of life.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = self.shared.clone();
            runtime.spawn(async move { shared.leave().await });
        }
    }
}

impl std::fmt::Debug for JobConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { spec, .. } = &*self.shared;
        f.debug_struct("JobConsumer")
            .field("queue", &spec.queue.name)
            .field("worker", &spec.worker)
            .finish_non_exhaustive()
    }
}
