//! Messages that go elsewhere: to wait for their next attempt, or to the dead letters. Published and confirmed, and only
//! then acknowledged, so that a message is always in one of the two places.

mod fitting;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use outboard_core::{
    Clock, Kind, PortError,
    backoff::Backoff,
    consumer::{Tag, Ticket},
    queue::{ConsumeSpec, Declared},
    time::SystemClock,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Core,
    mapping::{
        DEAD_REASON, DEAD_TIME, DEAD_WORKER, FIRST_FAILURE, HISTORY, ORIGINAL_QUEUE, RETRY_COUNT, attempts,
    },
    state::Wake,
};
use crate::rabbitmq::{
    codec::{field::ShortString, properties::Properties, table::Value},
    ladder::{Ladder, step},
    publisher::{Answers, Publication, Publisher},
    room::room,
};

/// So many attempts are remembered.
const HISTORY_LENGTH: usize = 10;

/// So many bytes of what an attempt said are kept, where the broker's frame has room for them.
const REASON_BYTES: usize = 1_000;

/// Further routing keys that a publisher may have given.
const COPY_HEADERS: [&str; 2] = ["CC", "BCC"];

/// Between tries, when the broker does not take a message.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

/// One message on its way.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) tag: Tag,
    pub(super) ticket: Ticket,
    /// As it was delivered, with an id.
    pub(super) properties: Properties,
    pub(super) body: Bytes,
    pub(super) what: What,
}

/// Where to, and why.
#[derive(Debug)]
pub(super) enum What {
    Retry { delay: Duration, reason: Arc<str> },
    Snooze { delay: Duration },
    Dead { reason: Arc<str> },
}

/// Moves the messages of one consumer. At most as many are under way as may be unsettled.
#[derive(Debug)]
pub(super) struct Mover {
    core: Weak<Core>,
    spec: Arc<ConsumeSpec>,
    ladder: Arc<Ladder>,
    publisher: Arc<Publisher>,
    state: Mutex<Moves>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Moves {
    waiting: Vec<Move>,
    /// By the number that the publisher answers with.
    out: HashMap<u64, (Move, Arc<str>)>,
    /// Confirmed, in a queue that a kill of the broker may still undo: by when it may not.
    young: VecDeque<(Instant, Tag, Ticket)>,
    last: u64,
    /// How often in a row something went wrong.
    failures: u32,
    /// What went wrong lately, to say it once.
    said: Option<Arc<str>>,
    /// Begins with the first message.
    running: Option<AbortOnDropHandle<()>>,
}

impl Mover {
    pub(super) fn new(
        core: Weak<Core>,
        spec: Arc<ConsumeSpec>,
        ladder: Arc<Ladder>,
        publisher: Arc<Publisher>,
    ) -> Arc<Self> {
        Arc::new(Self { core, spec, ladder, publisher, state: Mutex::default(), wake: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, Moves> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more.
    pub(super) fn add(&self, message: Move) {
        self.state().waiting.push(message);
        self.wake.notify_one();
    }

    /// Begins to work, if it has not yet.
    pub(super) fn start(self: &Arc<Self>) {
        let mut state = self.state();
        if state.running.is_none() && !state.waiting.is_empty() {
            state.running = Some(AbortOnDropHandle::new(tokio::spawn(self.clone().run())));
        }
    }

    /// The channel is gone: what it delivered comes again.
    pub(super) fn forget_all(&self) {
        let mut state = self.state();
        state.waiting.clear();
        state.out.clear();
        state.young.clear();
    }

    /// Why messages cannot be moved at the moment, if they cannot.
    pub(super) fn trouble(&self) -> Option<PortError> {
        let state = self.state();
        let said = state.said.clone().filter(|_| state.failures > 0)?;
        Some(PortError::new(
            Kind::Unavailable,
            format!("retries and dead letters cannot be put away: {said}"),
        ))
    }

    /// Nothing will be moved any more.
    pub(super) fn stop(&self) {
        let running = self.state().running.take();
        drop(running);
    }

    async fn run(self: Arc<Self>) {
        let to: Arc<dyn Answers> = self.clone();
        loop {
            let next = self.settle_grown();
            let waiting = std::mem::take(&mut self.state().waiting);
            if waiting.is_empty() {
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = until(next) => {}
                }
                continue;
            }
            let mut batch = Vec::with_capacity(waiting.len());
            for message in waiting {
                match self.destination(&message.what).await {
                    Ok(name) => batch.push(self.out(message, name)),
                    Err(error) => self.failed(message, &error),
                }
            }
            self.publisher.submit(batch, &to);
            let failures = self.state().failures;
            if failures > 0 {
                sleep(AGAIN.delay(failures, fastrand::f64())).await;
            }
        }
    }

    /// Settles what is safe by now; says when the next one is.
    fn settle_grown(&self) -> Option<Instant> {
        loop {
            let (tag, ticket) = {
                let mut state = self.state();
                let &(safe, tag, ticket) = state.young.front()?;
                if safe > Instant::now() {
                    return Some(safe);
                }
                state.young.pop_front();
                (tag, ticket)
            };
            self.moved(tag, ticket);
        }
    }

    fn moved(&self, tag: Tag, ticket: Ticket) {
        if let Some(core) = self.core.upgrade() {
            core.moved(tag, ticket);
        }
    }

    async fn destination(&self, what: &What) -> Result<Arc<str>, PortError> {
        let queue = &self.spec.queue;
        match what {
            What::Retry { delay, .. } | What::Snooze { delay } => {
                self.ladder.waiting(&queue.name, step(*delay)).await
            }
            What::Dead { .. } => self.ladder.dead(&queue.name).await,
        }
    }

    /// Notes that it is under way.
    fn out(&self, message: Move, name: Arc<str>) -> (u64, Publication) {
        let publication = Publication {
            exchange: ShortString::default(),
            key: ShortString::new(name.clone()).unwrap_or_default(),
            properties: self.fitting_properties(&message),
            body: message.body.clone(),
        };
        let mut state = self.state();
        state.last += 1;
        let token = state.last;
        state.out.insert(token, (message, name));
        (token, publication)
    }

    /// As much of them as the broker's frame takes.
    fn fitting_properties(&self, message: &Move) -> Properties {
        let mut properties = self.properties(message);
        let left_out = fitting::fit(&mut properties, room(self.ladder.connection()));
        if !left_out.is_empty() {
            tracing::warn!(
                queue = &*self.spec.queue.name,
                worker = &*self.spec.worker,
                message = properties.message_id.as_ref().map(ShortString::as_str),
                headers = left_out.join(", "),
                "with the count of its attempts, the headers of a message are too large for the broker: it is moved \
                 without these; publish smaller headers"
            );
        }
        properties
    }

    /// What its declaration says of the queue.
    pub(super) fn found(&self, declared: &Declared) {
        self.ladder.found(&self.spec.queue.name, declared);
    }

    /// Those of the message, with our account of it.
    fn properties(&self, message: &Move) -> Properties {
        let mut properties = message.properties.clone();
        let count = attempts(&properties);
        // A time to live in the queue that it came from is over; one in the waiting queue would cut its wait short.
        properties.expiration = None;
        // The broker checks that this is who we are to it, and copies to these keys would go out with each attempt.
        properties.user_id = None;
        let headers = &mut properties.headers.get_or_insert_default().0;
        let now = SystemClock.now().as_millis() / 1_000;
        let failed = |headers: &mut std::collections::BTreeMap<String, Value>, reason: &str| {
            headers.insert(RETRY_COUNT.to_owned(), i64::from(count.saturating_add(1)).into());
            headers.entry(FIRST_FAILURE.to_owned()).or_insert(Value::Long(now));
            remember(headers, reason);
        };
        COPY_HEADERS.iter().for_each(|name| drop(headers.remove(*name)));
        headers.insert(ORIGINAL_QUEUE.to_owned(), (&*self.spec.queue.name).into());
        match &message.what {
            What::Retry { reason, .. } => failed(headers, reason),
            What::Snooze { .. } => {}
            What::Dead { reason } => {
                failed(headers, reason);
                headers.insert(DEAD_REASON.to_owned(), cut(reason).into());
                headers.insert(DEAD_WORKER.to_owned(), (&*self.spec.worker).into());
                headers.insert(DEAD_TIME.to_owned(), Value::Long(now));
            }
        }
        properties
    }

    /// It is tried again, for as long as the delivery is ours.
    fn failed(&self, message: Move, error: &PortError) {
        let is_ours = self.core.upgrade().is_some_and(|core| core.is_now(message.tag));
        if !is_ours {
            // Its channel is gone, and the broker delivers it again.
            return;
        }
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.said.as_deref() != Some(&*error.message) {
            state.said = Some(error.message.clone());
            tracing::warn!(
                queue = &*self.spec.queue.name, worker = &*self.spec.worker, %error,
                "a message cannot be put where it is to wait; it stays in its queue and is tried again"
            );
        }
        state.waiting.push(message);
    }
}

/// Sleeps until then; for ever without a time.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Answers for Mover {
    fn answer(&self, token: u64, result: Result<(), PortError>) {
        let Some((message, name)) = self.state().out.remove(&token) else { return };
        let error = match result {
            Ok(()) => {
                let safe = self.ladder.safe_from(&name);
                let is_safe = safe <= Instant::now();
                let mut state = self.state();
                (state.failures, state.said) = (0, None);
                if !is_safe {
                    state.young.push_back((safe, message.tag, message.ticket));
                }
                drop(state);
                if is_safe {
                    self.moved(message.tag, message.ticket);
                } else {
                    self.wake.notify_one();
                }
                return;
            }
            Err(error) => error,
        };
        if error.kind == Kind::NotFound {
            self.ladder.forget(&name);
        }
        self.failed(message, &error);
        self.wake.notify_one();
    }
}

impl Core {
    /// Whether this channel's deliveries are still ours.
    fn is_now(&self, tag: Tag) -> bool {
        let state = self.state();
        state.generation == tag.epoch && state.channel.is_some()
    }

    /// The message is where it was to go: now its delivery is settled.
    fn moved(&self, tag: Tag, ticket: Ticket) {
        let wake = {
            let mut state = self.state();
            if state.generation != tag.epoch || state.channel.is_none() {
                return;
            }
            state.claims.moved(tag.number);
            state.tickets.close(ticket);
            state.flush_when_due()
        };
        if wake == Wake::Loop {
            self.work.notify_one();
        }
        self.settled.notify_waiters();
    }
}

/// Adds to what the attempts said; the oldest give way.
fn remember(headers: &mut std::collections::BTreeMap<String, Value>, reason: &str) {
    let mut history = match headers.remove(HISTORY) {
        Some(Value::Array(history)) => history,
        _ => Vec::new(),
    };
    history.push(cut(reason).into());
    let surplus = history.len().saturating_sub(HISTORY_LENGTH);
    history.drain(..surplus);
    headers.insert(HISTORY.to_owned(), Value::Array(history));
}

fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES)]
}
