//! The runtime on the embedded log in memory, with paused time.

mod ends;
mod outages;
mod outcomes;
mod periodics;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use outboard_core::{
    Ledger, Log, NewMessage, Position, Time,
    ledger::{DeadLetter, DeadQuery, Fate, Start},
    time::TokioClock,
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

use crate::{
    handler::{Attempt, BoxFuture, Handled, Handler},
    outcome::{Cause, Done, Failure, Outcome},
    policy::{OutagePolicy, Policy},
    runtime::{WorkerHandle, WorkerInfo, WorkerState},
    workers::{WorkerSpec, Workers, WorkersOptions},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// One process on a disk.
struct World {
    storage: Embedded,
    workers: Workers,
}

impl World {
    async fn new() -> Self {
        Self::on(&MemoryDisk::new().unwrap()).await
    }

    async fn on(disk: &MemoryDisk) -> Self {
        let clock = Arc::new(TokioClock::starting_at(Time::from_millis(1_700_000_000_000)));
        let options = Options { clock: clock.clone(), ..Options::default() };
        let storage = Embedded::memory(disk, options).await.unwrap();
        let (log, ledger) = (Arc::new(storage.clone()), Arc::new(storage.clone()));
        let options = WorkersOptions { clock, seed: 7, ..WorkersOptions::default() };
        Self { workers: Workers::new(log, ledger, options), storage }
    }

    async fn start(&self, policy: Policy, handler: impl Handler) -> WorkerHandle {
        self.workers.start(spec(policy, handler)).await.unwrap()
    }

    /// Appends so many messages; returns the first one's position.
    async fn append(&self, count: usize) -> u64 {
        let messages: Vec<_> = (0..count).map(|_| NewMessage::new("orders/confirm", "{}")).collect();
        self.storage.append(messages.into()).await.unwrap().first.0
    }

    async fn dead(&self) -> Vec<DeadLetter> {
        self.storage.dead(DeadQuery { max: 1_000, ..DeadQuery::default() }).await.unwrap().letters
    }

    async fn fate(&self, position: u64) -> Fate {
        self.storage.fates(Position(position)).await.unwrap().swap_remove(0).1
    }

    /// How many messages are parked, durably.
    async fn parked(&self) -> u64 {
        self.storage.workers().await.unwrap()[0].parked
    }
}

fn spec(policy: Policy, handler: impl Handler) -> WorkerSpec {
    WorkerSpec {
        name: "orders".into(),
        description: "Confirms orders".into(),
        types: ["orders/*".parse().unwrap()].into_iter().collect(),
        start: Start::Beginning,
        policy,
        handler: Arc::new(handler),
        periodic: Vec::new(),
        source: crate::Source::Log,
    }
}

/// A handler made of a closure.
struct Scripted<F>(F);

impl<F> fmt::Debug for Scripted<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl<F, O> Handler for Scripted<F>
where
    F: Fn(Attempt) -> O + Send + Sync + 'static,
    O: Future<Output = Outcome> + Send + 'static,
{
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        let outcome = (self.0)(attempt);
        Box::pin(async move { outcome.await.into() })
    }
}

/// What a test sees of its handler.
#[derive(Debug, Clone, Default)]
struct Seen {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    attempts: Arc<Mutex<Vec<(u64, u32)>>>,
}

impl Seen {
    /// Counts an attempt as running until the guard is dropped.
    fn begin(&self, attempt: &Attempt) -> impl Drop + use<> {
        struct Running(Arc<AtomicUsize>);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.attempts.lock().unwrap().push((attempt.message.id.0, attempt.number));
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        Running(self.running.clone())
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn attempts(&self) -> Vec<(u64, u32)> {
        self.attempts.lock().unwrap().clone()
    }

    fn numbers_of(&self, position: u64) -> Vec<u32> {
        self.attempts().into_iter().filter(|(at, _)| *at == position).map(|(_, number)| number).collect()
    }
}

/// Lets simulated time pass until the worker is as told; fails after a simulated hour.
async fn until(handle: &WorkerHandle, is_so: impl Fn(&WorkerInfo) -> bool) -> WorkerInfo {
    for _ in 0..360_000 {
        let info = handle.info();
        if is_so(&info) {
            return info;
        }
        pass(10 * MS).await;
    }
    panic!("it did not come to that: {:?}", handle.info());
}

/// Until so many messages are handled and nothing waits for a commit.
async fn until_handled(handle: &WorkerHandle, count: u64) -> WorkerInfo {
    until(handle, |info| info.counters.handled >= count && info.consumer.unsettled == 0).await
}

/// Lets simulated time pass (start_paused).
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
