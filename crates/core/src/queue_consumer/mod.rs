//! The consuming port of a worker on a broker's queue: the broker's consumer, and an inbox in our own ledger.
//!
//! The broker says what comes and takes what becomes of it. What a handler wants written on our own state commits in the
//! ledger first, together with the message's id, and only then is the message acknowledged: a crash between the two
//! delivers it again, and the id says that it is done. A worker without such effects writes nothing here.
//!
//! After an unclean stop what the broker delivers again may have brought the process down: it runs alone, behind a
//! durable note, and three crashes bury it, as on a log.

mod flush;
mod state;
mod suspects;
mod tickets;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};

use self::{
    state::{Answered, State},
    suspects::{SUSPECTS_KEY, Suspects},
};
use crate::{
    Fut,
    consumer::{Consumer, Delivery, Drained, Flow, Settlement, Status, Tag, Ticket, Verdict},
    error::{Health, Kind, PortError},
    ledger::{Ledger, OpenWorker, Start, WorkerName},
    pattern::TypeSet,
};

/// How a [`QueueConsumer`] consumes.
#[derive(Debug, Clone)]
pub struct QueueConsumerOptions {
    /// The worker's name; its inbox, durable keys and pause go by it.
    pub worker: WorkerName,
    /// What it handles. Anything else that comes is given up, with the reason.
    pub types: TypeSet,
    /// The most deliveries that the broker may have handed to a process that crashed: so many may be suspects.
    pub claims: u32,
}

/// [`Consumer`] over a broker's consumer and a [`Ledger`].
pub struct QueueConsumer {
    shared: Arc<Shared>,
    flusher: AbortHandle,
    /// Begun when somebody first asks what is durable: a broker that nobody asks need not be asked, either.
    relay: OnceLock<AbortHandle>,
}

/// What the consumer and its tasks share.
struct Shared {
    queue: Arc<dyn Consumer>,
    ledger: Arc<dyn Ledger>,
    worker: WorkerName,
    epoch: u64,
    state: Mutex<State>,
    /// Wakes `next`: something can be delivered without the broker.
    wake: Notify,
    /// Wakes the flusher.
    flush: Notify,
    durable: watch::Sender<Ticket>,
}

impl QueueConsumer {
    /// Opens the worker in the ledger, fencing an earlier holder in another process on the same ledger, and begins to
    /// commit for it. A worker that was paused there stays so. Needs a tokio runtime.
    pub async fn open(
        queue: Arc<dyn Consumer>,
        ledger: Arc<dyn Ledger>,
        options: QueueConsumerOptions,
    ) -> Result<Arc<Self>, PortError> {
        let QueueConsumerOptions { worker, types, claims } = options;
        let open = OpenWorker { worker: worker.clone(), start: Start::End, claims };
        let opened = ledger.open(open).await?;
        let suspects = if opened.clean {
            Suspects::none()
        } else {
            let note = ledger.keys(worker.clone(), vec![SUSPECTS_KEY.into()]).await?;
            Suspects::after_a_crash(note.first().and_then(|note| note.value.as_deref()), claims)
        };
        if opened.paused.is_some() {
            queue.flow(Flow::Paused);
        }
        let state = State::new(types, suspects);
        let shared = Arc::new(Shared {
            queue,
            ledger,
            worker,
            epoch: opened.epoch,
            state: Mutex::new(state),
            wake: Notify::new(),
            flush: Notify::new(),
            durable: watch::Sender::new(0),
        });
        // The charge of a crash is durable before anything runs.
        shared.flush.notify_one();
        let flusher = tokio::spawn(flush::run(shared.clone())).abort_handle();
        Ok(Arc::new(Self { shared, flusher, relay: OnceLock::new() }))
    }

    async fn deliveries(&self, max: usize) -> Result<Vec<Delivery>, PortError> {
        let shared = &*self.shared;
        loop {
            tokio::task::coop::consume_budget().await;
            let (ready, unsure) = {
                let mut state = shared.lock();
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                if state.suspects.begin() {
                    shared.flush.notify_one();
                }
                (state.hand_out(max), state.unsure())
            };
            if !ready.is_empty() {
                return Ok(ready);
            }
            if !unsure.is_empty() {
                let ids = unsure.iter().map(|(_, id)| id.clone()).collect();
                let done = match shared.ledger.inbox(shared.worker.clone(), ids).await {
                    Err(error) if error.is_transient() => {
                        shared.lock().trouble = Some(error);
                        tokio::time::sleep(flush::REFUSED_WAIT).await;
                        continue;
                    }
                    done => done?,
                };
                shared.lock().trouble = None;
                shared.sort_out(unsure.into_iter().map(|(tag, _)| tag).zip(done));
                continue;
            }
            tokio::select! {
                () = shared.wake.notified() => {}
                fetched = shared.queue.next(max) => shared.take(fetched?),
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed by short sections that do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the broker delivers; what is not for this worker's handlers is given up.
    fn take(&self, deliveries: Vec<Delivery>) {
        let mut state = self.lock();
        for delivery in deliveries {
            let tag = delivery.tag;
            if let Some(reason) = state.take(delivery) {
                tracing::warn!(worker = %self.worker, %reason, "dead letter");
                self.queue.settle(Settlement { tag, verdict: Verdict::Dead { reason }, effects: None });
            }
        }
    }

    /// What is done is acknowledged again, the rest is delivered.
    fn sort_out(&self, answers: impl Iterator<Item = (Tag, bool)>) {
        let mut state = self.lock();
        for (tag, is_done) in answers {
            let verdict = match state.is_sure(tag, is_done) {
                Answered::Done => Verdict::Done,
                Answered::Dead(reason) => Verdict::Dead { reason },
                Answered::Nothing => continue,
            };
            self.queue.settle(Settlement { tag, verdict, effects: None });
        }
    }

    /// Gives back what is here and not handed out.
    fn return_buffered(&self) {
        let buffered = self.lock().take_buffered();
        for delivery in buffered {
            self.queue.settle(Settlement { tag: delivery.tag, verdict: Verdict::Return, effects: None });
        }
    }

    /// Tells up to which ticket everything is durable.
    fn tell_durable(&self, queue_durable: Ticket) {
        let durable = self.lock().tickets.durable(queue_durable);
        self.durable.send_if_modified(|before| {
            let is_news = durable > *before;
            *before = durable.max(*before);
            is_news
        });
    }
}

/// Passes on what the broker's consumer says is durable.
async fn relay(shared: Arc<Shared>) {
    let mut durable = shared.queue.durable();
    while durable.changed().await.is_ok() {
        let ticket = *durable.borrow_and_update();
        shared.tell_durable(ticket);
    }
}

impl Consumer for QueueConsumer {
    fn next(&self, max: usize) -> Fut<'_, Vec<Delivery>> {
        Box::pin(self.deliveries(max.max(1)))
    }

    fn settle(&self, settlement: Settlement) -> Ticket {
        let shared = &*self.shared;
        let mut state = shared.lock();
        let Some(delivery) = state.claimed.remove(&settlement.tag) else { return state.tickets.last() };
        if state.suspects.ended(delivery.tag, settlement.verdict != Verdict::Return) {
            shared.flush.notify_one();
            shared.wake.notify_one();
        }
        let effects = settlement.effects.filter(|effects| !effects.is_empty());
        match (settlement.verdict, effects) {
            (Verdict::Done, Some(effects)) => {
                shared.flush.notify_one();
                state.send_effects(delivery, *effects)
            }
            (verdict, _) => {
                // Under the lock: the tickets of both are in the same order.
                let ticket = shared.queue.settle(Settlement { tag: settlement.tag, verdict, effects: None });
                let ticket = state.tickets.next(Some(ticket));
                if shared.durable.receiver_count() == 0 {
                    state.tickets.forget();
                }
                ticket
            }
        }
    }

    fn hold(&self, tag: Tag) {
        self.shared.queue.hold(tag);
        if self.shared.lock().suspects.ended(tag, false) {
            self.shared.flush.notify_one();
            self.shared.wake.notify_one();
        }
    }

    fn give_back(&self, attempts: Vec<(Tag, u32)>) {
        self.shared.queue.give_back(attempts);
    }

    /// What was settled before the first call counts as durable.
    fn durable(&self) -> watch::Receiver<Ticket> {
        let durable = self.shared.durable.subscribe();
        self.relay.get_or_init(|| tokio::spawn(relay(self.shared.clone())).abort_handle());
        durable
    }

    fn flow(&self, flow: Flow) {
        if flow == Flow::Paused {
            self.shared.return_buffered();
        }
        self.shared.queue.flow(flow);
    }

    fn status(&self) -> Status {
        let status = self.shared.queue.status();
        let state = self.shared.lock();
        let trouble = state.trouble.clone().map(Health::Refusing);
        let health = state.failed.clone().map(Health::Failed).or(trouble).unwrap_or(status.health);
        Status { suspects: state.suspects.count(), health, ..status }
    }

    fn drain(&self, deadline: Instant) -> Fut<'_, Drained> {
        Box::pin(async move {
            let shared = &*self.shared;
            shared
                .lock()
                .failed
                .get_or_insert_with(|| PortError::new(Kind::Closed, "the worker was drained"));
            shared.wake.notify_one();
            shared.return_buffered();
            let drained = shared.queue.drain(deadline).await?;
            match shared.ledger.release(shared.worker.clone(), shared.epoch).await {
                // A later holder, or one that failed, has nothing to release.
                Err(error) if !matches!(error.kind, Kind::Fenced | Kind::Closed) => Err(error),
                _ => Ok(drained),
            }
        })
    }
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        self.flusher.abort();
        if let Some(relay) = self.relay.get() {
            relay.abort();
        }
    }
}

impl fmt::Debug for QueueConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueConsumer").field("worker", &self.shared.worker).finish_non_exhaustive()
    }
}
