//! What a Rust developer writes: a name, a state, typed handlers and periodic work.

mod blueprint;
#[cfg(test)]
mod tests;
mod typed;

use std::{sync::Arc, time::Duration};

use outboard_core::{Message, backoff::Backoff, ledger::Start};

pub(crate) use self::blueprint::{Blueprint, Built, Replayer};
use self::typed::{Replay, Route};
use crate::{
    command::Command,
    context::{Context, Tick},
    handler::{BoxFuture, Handled},
    outcome::Outcome,
    policy::{OutagePolicy, Policy},
    source::{QueueSource, Source},
};

/// A worker: handlers for commands, periodic work, and a state in memory that belongs to it alone.
///
/// State comes in two kinds. What is in memory, `S`, is gone with the process and is rebuilt at start by
/// [`Worker::on_replay`]. What is in [`Context::keys`] is durable and changes exactly when a message is done.
///
/// ```
/// use std::{sync::atomic::{AtomicU64, Ordering}, time::Duration};
/// use outboard::{App, Context, Done, Outcome, Tick, Worker};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(outboard::Command, Serialize, Deserialize)]
/// # #[command(name = "orders/confirm")]
/// # struct ConfirmOrder { order_id: u64 }
///
/// #[derive(Default)]
/// struct Shop { confirmed: AtomicU64 }
///
/// async fn confirm(cx: Context<Shop>, order: ConfirmOrder) -> Outcome {
///     // Call the mailer here: an error becomes a retry through `?`.
///     cx.state().confirmed.fetch_add(1, Ordering::Relaxed);
///     Ok(Done)
/// }
///
/// async fn sweep(tick: Tick<Shop>) -> Outcome {
///     let _so_far = tick.state().confirmed.load(Ordering::Relaxed);
///     Ok(Done)
/// }
///
/// let worker = Worker::new("orders", "Confirms orders", Shop::default())
///     .on(confirm)
///     .on_replay(|shop, _order: ConfirmOrder, _message| { shop.confirmed.fetch_add(1, Ordering::Relaxed); })
///     .every(Duration::from_secs(60), sweep)
///     .concurrency(8)
///     .attempts(5);
/// assert_eq!(worker.name(), "orders");
/// ```
pub struct Worker<S> {
    name: Arc<str>,
    description: String,
    state: S,
    routes: Vec<Route<S>>,
    replays: Vec<Replay<S>>,
    periodic: Vec<(Duration, PeriodicCall<S>)>,
    policy: Policy,
    start: Start,
    source: Source,
}

/// Periodic work with its types gone.
type PeriodicCall<S> = Box<dyn Fn(Tick<S>) -> BoxFuture<Outcome> + Send + Sync>;

impl<S: Send + Sync + 'static> Worker<S> {
    /// A worker without handlers. Its cursor, its retries, its dead letters and its durable keys go by its name, so
    /// keep the name when the code moves.
    pub fn new(name: impl Into<Arc<str>>, description: impl Into<String>, state: S) -> Self {
        Self {
            name: name.into(),
            description: description.into(),
            state,
            routes: Vec::new(),
            replays: Vec::new(),
            periodic: Vec::new(),
            policy: Policy::default(),
            start: Start::End,
            source: Source::Log,
        }
    }

    /// Handles commands of type `C`. A worker handles many types, each with one handler: a second handler for the
    /// same type is an error at start, it does not silently win. Another worker may handle the same type, too; each
    /// gets each message.
    #[must_use]
    pub fn on<C, H, F>(mut self, handler: H) -> Self
    where
        C: Command,
        H: Fn(Context<S>, C) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.routes.push(Route::new::<C, H, F>(handler));
        self
    }

    /// How the state in memory is rebuilt at start: called for every command of type `C` in the log, in order, that
    /// will not be delivered to this worker (again). Then the handlers begin.
    ///
    /// Called are those that the worker is done with and those from before its time; not those that wait for a retry
    /// or that became dead letters. The function changes the state and nothing else: it is not asynchronous, has no
    /// context and can execute nothing. What cannot be read is skipped with a warning. A type with a replay function
    /// but without a handler is an error at start, for its state would stand still afterwards.
    #[must_use]
    pub fn on_replay<C: Command>(mut self, replay: impl Fn(&S, C, &Message) + Send + Sync + 'static) -> Self {
        self.replays.push(Replay::new::<C>(replay));
        self
    }

    /// Does `work` again and again, first after one interval. It never overlaps itself: what a long run misses is
    /// skipped. It rests while the worker is paused. A failure is logged and counted; the next interval runs it
    /// again. A snooze is no failure. With [`App::leases`](crate::App::leases), each tick is run by one of all processes
    /// that share the store, at most once: [`Periodic`](crate::periodic::Periodic) says how.
    #[must_use]
    pub fn every<H, F>(mut self, interval: Duration, work: H) -> Self
    where
        H: Fn(Tick<S>) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        self.periodic.push((interval, Box::new(move |tick| Box::pin(work(tick)))));
        self
    }

    /// At most so many attempts at once (32). With 1, messages are handled in the order of the log, retries apart.
    #[must_use]
    pub fn concurrency(mut self, concurrency: u32) -> Self {
        self.policy.concurrency = concurrency;
        self
    }

    /// An attempt that takes longer is cancelled at its next `.await` and counts as failed (30 s).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = timeout;
        self
    }

    /// After so many counted attempts a message becomes a dead letter (25).
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.policy.attempts = attempts;
        self
    }

    /// The wait between attempts (200 ms doubling to 60 s, with jitter).
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.policy.backoff = backoff;
        self
    }

    /// Holds the worker while its target is sick, instead of burning attempts (off). A handler says so by
    /// [`Failure::Retry`](crate::Failure::Retry) with a [`Cause`](crate::outcome::Cause) other than `Message`.
    #[must_use]
    pub fn outage(mut self, outage: OutagePolicy) -> Self {
        self.policy.outage = Some(outage);
        self
    }

    /// A worker that was never seen begins with the log's first message, not with what comes from now on.
    #[must_use]
    pub fn from_beginning(mut self) -> Self {
        self.start = Start::Beginning;
        self
    }

    /// Takes its messages from a broker's queue instead of the log. Messages that name no type are this worker's only
    /// command, if it has one only.
    #[must_use]
    pub fn queue(mut self, source: QueueSource) -> Self {
        self.source = Source::Queue(source);
        self
    }

    /// The worker's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<S> std::fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let types: Vec<_> = self.routes.iter().map(|route| route.name).collect();
        f.debug_struct("Worker").field("name", &self.name).field("types", &types).finish_non_exhaustive()
    }
}
