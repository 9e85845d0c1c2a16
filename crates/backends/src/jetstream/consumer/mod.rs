//! [`Consumer`] over a durable pull consumer.
//!
//! All decisions are taken in `State`, synchronously and under one lock. The connection's reader puts messages into it,
//! the worker takes them out and settles; one task, the session, moves its wishes to the server: answers in batches,
//! requests for more, signs of life for what takes long, and the reads and writes of what failed.

mod batches;
mod claims;
mod delivery;
mod identity;
mod inbox;
mod records;
mod session;
mod state;
mod window;
mod work;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outboard_core::{
    Clock, Consumer, Delivery, Fut, PortError, Settlement,
    consumer::{Drained, Flow, Status, Tag, Ticket},
    queue::{ConsumeSpec, QueueSpec},
    recovery::Recovery,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    delivery::Reader,
    state::{Phase, State, Wakes, ended},
};
use super::{link::Link, options::Options, topology};

/// How long what goes back at the end may take to be heard.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A consumer of one stream.
pub(super) struct JetStreamConsumer {
    shared: Arc<Shared>,
}

/// What the consumer, its session and its inbox share.
struct Shared {
    clock: Arc<dyn Clock>,
    reader: Reader,
    queue: QueueSpec,
    worker: Arc<str>,
    /// What the server's consumer is called, unless it has to be another one's.
    durable_name: Arc<str>,
    options: Options,
    state: Mutex<State>,
    /// Wakes the session.
    runner: Notify,
    /// Wakes `next`.
    taker: Notify,
    /// Wakes `drain`.
    settled: Notify,
    durable: watch::Sender<Ticket>,
    /// Cancelled when everything is to go back.
    ending: CancellationToken,
    /// Cancelled when everything has gone back.
    ended: CancellationToken,
}

impl JetStreamConsumer {
    /// Begins to consume, on the current tokio runtime. Errors are mistakes in the specification.
    pub(super) fn open(link: &Link, spec: ConsumeSpec, options: Options) -> Result<Self, PortError> {
        topology::stream_config(&spec.queue)?;
        let durable_name = topology::durable_name(&spec.worker, spec.tag.as_ref())?.into();
        let clock = link.clock().clone();
        let now = clock.now();
        let health = Recovery::begin(now).health();
        let shared = Arc::new(Shared {
            reader: Reader { stream: spec.queue.name.clone(), untyped: spec.untyped },
            queue: spec.queue,
            worker: spec.worker,
            durable_name,
            options,
            state: Mutex::new(State::new(spec.prefetch, now, health)),
            runner: Notify::new(),
            taker: Notify::new(),
            settled: Notify::new(),
            durable: watch::Sender::new(0),
            ending: CancellationToken::new(),
            ended: CancellationToken::new(),
            clock,
        });
        link.consumers().spawn(session::run(shared.clone(), link.clone()));
        Ok(Self { shared })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed by short sections that do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, wakes: Wakes) {
        if wakes.runner {
            self.runner.notify_one();
        }
        if wakes.taker {
            self.taker.notify_one();
        }
    }

    /// Tells who waits for it how far settlements are durable.
    fn tell_durable(&self, state: &State) {
        let now = state.tickets.durable();
        self.durable.send_if_modified(|durable| {
            let is_news = *durable < now;
            *durable = now;
            is_news
        });
        self.settled.notify_one();
    }

    /// Everything goes back; returns how many workers had.
    fn give_back(&self) -> u32 {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Ending | Phase::Ended) {
            return 0;
        }
        state.phase = Phase::Ending;
        state.give_back_ready();
        let returned = state.give_back_handed();
        drop(state);
        self.ending.cancel();
        self.runner.notify_one();
        self.taker.notify_one();
        returned
    }
}

impl Consumer for JetStreamConsumer {
    fn next(&self, max: usize) -> Fut<'_, Vec<Delivery>> {
        Box::pin(async move {
            let shared = &*self.shared;
            loop {
                // What comes back at once, again and again, must leave the thread to others, too.
                tokio::task::coop::consume_budget().await;
                let (deliveries, wakes) = {
                    let mut state = shared.lock();
                    if matches!(state.phase, Phase::Ending | Phase::Ended) {
                        return Err(ended());
                    }
                    state.take(max, &shared.reader, shared.clock.now())
                };
                shared.wake(wakes);
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
                shared.taker.notified().await;
            }
        })
    }

    fn settle(&self, settlement: Settlement) -> Ticket {
        let shared = &*self.shared;
        let mut state = shared.lock();
        let ticket = state.settle(settlement.tag, settlement.verdict, &*shared.clock);
        if state.tickets.durable() == ticket {
            shared.tell_durable(&state);
        }
        let runner = state.needs_attention();
        drop(state);
        shared.wake(Wakes { runner, taker: false });
        ticket
    }

    fn hold(&self, _tag: Tag) {
        // Nobody is suspected here: every claim has its sign of life as long as this process lives.
    }

    fn give_back(&self, _attempts: Vec<(Tag, u32)>) {
        // Said in the capabilities: a message that was put off is the server's, and its record is what counts.
    }

    fn durable(&self) -> watch::Receiver<Ticket> {
        self.shared.durable.subscribe()
    }

    fn flow(&self, flow: Flow) {
        let mut state = self.shared.lock();
        state.window.set(flow);
        if flow == Flow::Paused {
            state.give_back_ready();
        }
        drop(state);
        self.shared.wake(Wakes { runner: true, taker: true });
    }

    fn status(&self) -> Status {
        let state = self.shared.lock();
        Status::of_queue(
            state.window.flow(),
            state.epoch,
            state.unsettled() as u32,
            state.last_progress,
            state.health.clone(),
        )
    }

    fn drain(&self, deadline: Instant) -> Fut<'_, Drained> {
        Box::pin(async move {
            let shared = &*self.shared;
            {
                let mut state = shared.lock();
                if matches!(state.phase, Phase::Running) {
                    state.phase = Phase::Draining;
                    state.drained = 0;
                    state.give_back_ready();
                }
            }
            shared.wake(Wakes { runner: true, taker: true });
            let all_settled = async {
                while shared.lock().unsettled() > 0 {
                    shared.settled.notified().await;
                }
            };
            let _ = timeout_at(deadline, all_settled).await;
            let settled = shared.lock().drained;
            let returned = shared.give_back();
            let _ = timeout(LAST_WORDS, shared.ended.cancelled()).await;
            Ok(Drained { settled, returned })
        })
    }
}

impl Drop for JetStreamConsumer {
    fn drop(&mut self) {
        self.shared.give_back();
    }
}

impl fmt::Debug for JetStreamConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamConsumer")
            .field("stream", &self.queue.name)
            .field("durable", &self.durable_name)
            .finish_non_exhaustive()
    }
}
