//! A consumer of one queue: it has a channel of its own on a connection that it shares, and gets a new one whenever it
//! loses it.

mod claims;
mod inlet;
pub(crate) mod mapping;
mod moving;
mod prefetch;
mod run;
mod state;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outboard_core::{
    Clock, Consumer, Delivery, Fut, Health, Kind, PortError, Settlement, Verdict,
    consumer::{Drained, Flow, Status, Tag, Ticket},
    queue::ConsumeSpec,
    time::SystemClock,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use self::{
    claims::Fate,
    mapping::Mapping,
    moving::{Move, Mover, What},
    prefetch::{Bound, patience},
    state::{Phase, Standing, State, Wake},
};
use super::{ladder::Ladder, link::Seat, publisher::Publisher};

/// What is shared by the port, the loop and the connection's reader.
#[derive(Debug)]
pub(super) struct Core {
    spec: Arc<ConsumeSpec>,
    seat: Seat,
    state: Mutex<State>,
    mapping: Mapping,
    bound: Mutex<Bound>,
    /// Deliveries are there, or none will come any more.
    arrived: Notify,
    /// The loop has something to look at.
    work: Notify,
    /// Nothing is claimed any more, or nothing can be settled any more.
    settled: Notify,
    durable: watch::Sender<Ticket>,
    mover: Arc<Mover>,
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bound(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed() -> PortError {
        PortError::new(Kind::Closed, "the consumer has ended")
    }

    /// Nothing is delivered any more, and nothing can be settled.
    fn end(&self) {
        {
            let mut state = self.state();
            state.phase = Phase::Ended;
            state.leave();
            self.durable.send_replace(state.sent);
        }
        self.mover.stop();
        self.arrived.notify_one();
        self.work.notify_one();
        self.settled.notify_waiters();
    }
}

/// The port that the runtime gets. Dropping it gives everything back.
#[derive(Debug)]
pub(super) struct QueueConsumer {
    core: Arc<Core>,
}

impl QueueConsumer {
    /// Begins to consume, and does not wait for it. The broker takes away what is unsettled for `ack_timeout`.
    pub(super) fn start(
        spec: ConsumeSpec,
        seat: Seat,
        ladder: Arc<Ladder>,
        publisher: Arc<Publisher>,
        ack_timeout: Duration,
    ) -> Self {
        let spec = Arc::new(spec);
        let bound = Bound::new(spec.prefetch, patience(ack_timeout, spec.hold));
        let core = Arc::new_cyclic(|core| Core {
            mapping: Mapping::new(spec.clone()),
            state: Mutex::new(State::new(bound.now())),
            bound: Mutex::new(bound),
            arrived: Notify::new(),
            work: Notify::new(),
            settled: Notify::new(),
            durable: watch::Sender::new(0),
            mover: Mover::new(core.clone(), spec.clone(), ladder, publisher),
            spec,
            seat,
        });
        tokio::spawn(run::run(core.clone()));
        Self { core }
    }

    /// Claims what is there; nothing when nothing is.
    fn take(&self, max: usize) -> Result<Vec<Delivery>, PortError> {
        let core = &self.core;
        let mut taken = Vec::new();
        let generation = {
            let mut state = core.state();
            if state.phase != Phase::Running {
                return Err(Core::closed());
            }
            if state.ask(max) == Wake::Loop {
                core.work.notify_one();
            }
            if !state.wants() || state.claims.ready() == 0 {
                return Ok(Vec::new());
            }
            taken.reserve(max.min(state.claims.ready()));
            state.claims.hand_out(max, |number, arrived| {
                let (properties, body) = (arrived.content.properties.clone(), arrived.content.body.clone());
                taken.push((number, properties, body, arrived.redelivered));
            });
            state.last_progress = SystemClock.now();
            state.generation
        };
        let delivery = |(number, properties, body, redelivered)| {
            core.mapping.delivery(Tag { epoch: generation, number }, properties, body, redelivered)
        };
        Ok(taken.into_iter().map(delivery).collect())
    }

    fn give_up(&self, state: &mut State, tag: Tag) {
        if state.settle(tag, Fate::Returned).is_some() {
            state.give_back(&[tag.number]);
        }
    }

    fn relocate(&self, state: &mut State, tag: Tag, what: What) {
        let Some(arrived) = state.settle(tag, Fate::Moved) else { return };
        let ticket = state.tickets.issue();
        state.tickets.keep_open(ticket);
        let properties = self.core.mapping.named(tag, &arrived);
        self.core.mover.add(Move { tag, ticket, properties, body: arrived.content.body, what });
        self.core.work.notify_one();
    }

    /// Everything claimed is settled, and known to be; or there is no channel on which it could be.
    fn is_drained(&self) -> bool {
        let state = self.core.state();
        state.channel.is_none() || (state.claims.claimed() == 0 && state.claims.moving() == 0)
    }

    async fn wait_drained(&self) {
        loop {
            let settled = self.core.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if self.is_drained() {
                return;
            }
            settled.await;
        }
    }
}

impl Consumer for QueueConsumer {
    fn next(&self, max: usize) -> Fut<'_, Vec<Delivery>> {
        Box::pin(async move {
            loop {
                let taken = self.take(max.max(1));
                match taken {
                    Ok(taken) if taken.is_empty() => self.core.arrived.notified().await,
                    Ok(taken) => return Ok(taken),
                    Err(error) => {
                        // Whoever asks next is told, too.
                        self.core.arrived.notify_one();
                        return Err(error);
                    }
                }
            }
        })
    }

    /// Effects are not of this port: who stands between commits them before it settles here.
    fn settle(&self, settlement: Settlement) -> Ticket {
        let Settlement { tag, verdict, .. } = settlement;
        let core = &self.core;
        let mut state = core.state();
        let before = state.claims.claimed();
        match verdict {
            Verdict::Done | Verdict::Cancel { .. } => {
                if state.settle(tag, Fate::Acknowledged).is_some() {
                    state.tickets.issue();
                }
            }
            Verdict::Return => self.give_up(&mut state, tag),
            Verdict::RetryAfter { delay, reason } => {
                self.relocate(&mut state, tag, What::Retry { delay, reason });
            }
            Verdict::Snooze { delay } => self.relocate(&mut state, tag, What::Snooze { delay }),
            Verdict::Dead { reason } => self.relocate(&mut state, tag, What::Dead { reason }),
        }
        if state.claims.claimed() == before {
            return state.tickets.issued();
        }
        let wake = state.flush_when_due();
        let (ticket, is_draining) = (state.tickets.issued(), state.phase != Phase::Running);
        drop(state);
        if wake == Wake::Loop {
            core.work.notify_one();
        }
        if is_draining {
            core.settled.notify_waiters();
        }
        ticket
    }

    /// A suspect is found on the log only.
    fn hold(&self, _tag: Tag) {}

    /// The capabilities say that it cannot be done: a counted attempt is in the message by then.
    fn give_back(&self, _attempts: Vec<(Tag, u32)>) {}

    fn durable(&self) -> watch::Receiver<Ticket> {
        let durable = self.core.durable.subscribe();
        // From now on somebody wants to know, also of what has been sent.
        if self.core.state().time() == Wake::Loop {
            self.core.work.notify_one();
        }
        durable
    }

    fn flow(&self, flow: Flow) {
        self.core.state().flow = flow;
        self.core.work.notify_one();
        self.core.arrived.notify_one();
    }

    fn status(&self) -> Status {
        let stuck = self.core.mover.trouble();
        let state = self.core.state();
        let is_full = state.claims.moving() >= u32::from(state.prefetch);
        let health = match &state.standing {
            Standing::Consuming if is_full && stuck.is_some() => {
                Health::Refusing(stuck.expect("it was looked at above"))
            }
            _ if state.phase == Phase::Ended => Health::Failed(Core::closed()),
            Standing::Consuming if state.ended.is_none() => Health::Ready,
            Standing::Trouble(health) => health.clone(),
            Standing::Consuming | Standing::Away => self.core.seat.link().trouble(),
        };
        Status::of_queue(state.flow, state.generation, state.unsettled(), state.last_progress, health)
    }

    fn drain(&self, deadline: Instant) -> Fut<'_, Drained> {
        Box::pin(async move {
            let before = {
                let mut state = self.core.state();
                if state.phase != Phase::Running {
                    return Err(Core::closed());
                }
                state.phase = Phase::Draining;
                state.settled
            };
            self.core.work.notify_one();
            self.core.arrived.notify_one();
            // At the deadline the rest goes back.
            let _ = timeout_at(deadline, self.wait_drained()).await;
            let (channel, drained) = {
                let mut state = self.core.state();
                state.flush();
                state.give_back_ready();
                let returned = state.give_back_claimed();
                (state.channel.clone(), Drained { settled: state.settled - before, returned })
            };
            if let Some(channel) = channel {
                // The answer says that everything before has been taken.
                let grace = deadline.max(Instant::now()) + run::CLOSE_WITHIN;
                let _ = timeout_at(grace, channel.close()).await;
            }
            self.core.end();
            Ok(drained)
        })
    }
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        let mut state = self.core.state();
        state.flush();
        state.phase = Phase::Ended;
        drop(state);
        self.core.work.notify_one();
    }
}
