//! Periodic work that several processes share, on a store in memory and with paused time.

use std::sync::atomic::AtomicUsize;

use outboard_core::{
    Fut, Health, PortError, Time,
    store::{Change, Entry, Store, StoreCapabilities, StoreKey, Version, When, Write},
    time::TokioClock,
};
use outboard_embedded::{Embedded, MemoryDisk, Options};
use tokio::sync::{broadcast, watch};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A store that "processes" share, and what they do.
struct World {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// Who ran, and in which second.
    ran: Arc<Mutex<Vec<(usize, u64)>>>,
    running: Arc<AtomicUsize>,
    began: Instant,
}

impl World {
    async fn new() -> Self {
        // A slot of a minute begins with it.
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Time::from_millis(1_700_000_040_000)));
        let options = Options { clock: clock.clone(), ..Options::default() };
        let store = Embedded::memory(&MemoryDisk::new().unwrap(), options).await.unwrap();
        let (ran, running) = (Arc::default(), Arc::default());
        Self { store: Arc::new(store), clock, ran, running, began: Instant::now() }
    }

    /// A process whose runs take so long; every minute.
    fn process(&self, number: usize, takes: Duration) -> (PeriodicTask, CancellationToken) {
        self.process_at(number, takes, self.clock.clone())
    }

    fn process_at(
        &self,
        number: usize,
        takes: Duration,
        clock: Arc<dyn Clock>,
    ) -> (PeriodicTask, CancellationToken) {
        let (ran, running, began) = (self.ran.clone(), self.running.clone(), self.began);
        let work = move || {
            let (ran, running) = (ran.clone(), running.clone());
            async move {
                ran.lock().unwrap().push((number, began.elapsed().as_secs()));
                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "it runs beside itself");
                let leave = scopeguard(running);
                tokio::time::sleep(takes).await;
                drop(leave);
                Ok(())
            }
        };
        let leases = Leases::new(self.store.clone(), number.to_string(), 15 * SECOND);
        let periodic = Periodic::new("sweep", 60 * SECOND, work);
        let stop = CancellationToken::new();
        let task =
            PeriodicTask::start("orders".into(), periodic, stop.clone(), (Some(leases), clock), || false);
        (task, stop)
    }

    fn share(&self) -> Self {
        let Self { store, clock, ran, running, began } = self;
        let (store, clock, ran, running) = (store.clone(), clock.clone(), ran.clone(), running.clone());
        Self { store, clock, ran, running, began: *began }
    }

    fn ran(&self) -> Vec<(usize, u64)> {
        self.ran.lock().unwrap().clone()
    }

    fn seconds(&self) -> Vec<u64> {
        self.ran().into_iter().map(|(_, second)| second).collect()
    }
}

/// The way of one process to the store, until it is cut: from then on nothing passes and nothing is answered.
#[derive(Debug)]
struct Near {
    store: Arc<dyn Store>,
    is_cut: Arc<AtomicBool>,
}

impl Near {
    fn pass<'a, T: Send + 'a>(&'a self, call: Fut<'a, T>) -> Fut<'a, T> {
        if self.is_cut.load(Ordering::SeqCst) { Box::pin(std::future::pending()) } else { call }
    }
}

impl Store for Near {
    fn capabilities(&self) -> &StoreCapabilities {
        self.store.capabilities()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.store.health()
    }

    fn get(&self, keys: Vec<StoreKey>) -> Fut<'_, Vec<Option<Entry>>> {
        self.pass(self.store.get(keys))
    }

    fn write(&self, writes: Vec<Write>) -> Fut<'_, Vec<Result<Version, PortError>>> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        self.store.write(writes)
    }

    fn add(&self, key: StoreKey, delta: i64, ttl: Option<Duration>) -> Fut<'_, i64> {
        self.pass(self.store.add(key, delta, ttl))
    }

    fn watch(&self, prefix: StoreKey) -> Fut<'_, broadcast::Receiver<Change>> {
        self.pass(self.store.watch(prefix))
    }
}

/// Counts a run as over when it ends or is aborted.
fn scopeguard(running: Arc<AtomicUsize>) -> impl Drop {
    struct Leave(Arc<AtomicUsize>);
    impl Drop for Leave {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    Leave(running)
}

async fn until(world: &World, second: u64) {
    tokio::time::sleep_until(world.began + Duration::from_secs(second)).await;
}

#[tokio::test(start_paused = true)]
async fn each_tick_is_run_by_one_of_many() {
    let world = World::new().await;
    let processes: Vec<_> = (0..5).map(|number| world.process(number, SECOND)).collect();
    until(&world, 330).await;
    assert_eq!(world.seconds(), [60, 120, 180, 240, 300]);
    drop(processes);
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_runs_what_was_not_taken_and_nothing_twice() {
    let world = World::new().await;
    let first = world.process(0, SECOND);
    until(&world, 90).await;
    drop(first);
    let second = world.process(1, SECOND);
    until(&world, 100).await;
    assert_eq!(world.seconds(), [60], "this minute's tick was run");
    drop(second);
    until(&world, 200).await;
    let third = world.process(2, SECOND);
    until(&world, 250).await;
    assert_eq!(
        world.ran(),
        [(0, 60), (2, 200), (2, 240)],
        "the tick of 180 runs late, that of 120 not at all"
    );
    drop(third);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_killed_is_followed_within_the_lease() {
    let world = World::new().await;
    let cut = Arc::new(AtomicBool::new(false));
    let near = Arc::new(Near { store: world.store.clone(), is_cut: cut.clone() });
    let first = World { store: near, ..world.share() }.process(0, 600 * SECOND);
    until(&world, 30).await;
    let second = world.process(1, SECOND);
    until(&world, 178).await;
    assert_eq!(world.ran(), [(0, 60)], "the second waits for the first");
    // As `kill -9` does: nothing more of it reaches the store.
    cut.store(true, Ordering::SeqCst);
    drop(first);
    until(&world, 300).await;
    let ran = world.ran();
    assert_eq!(ran[1].0, 1);
    assert!(ran[1].1 <= 178 + 15, "{ran:?}");
    assert_eq!(world.seconds()[2..], [240]);
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn what_a_long_run_misses_is_skipped_by_all() {
    let world = World::new().await;
    let processes: Vec<_> = (0..3).map(|number| world.process(number, 150 * SECOND)).collect();
    until(&world, 400).await;
    assert_eq!(world.seconds(), [60, 240]);
    drop(processes);
}

#[tokio::test(start_paused = true)]
async fn clocks_that_differ_run_no_tick_twice() {
    let world = World::new().await;
    let ahead: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(world.clock.now() + 20 * SECOND));
    let processes = [world.process(0, SECOND), world.process_at(1, SECOND, ahead)];
    until(&world, 330).await;
    assert_eq!(world.ran(), [40, 100, 160, 220, 280].map(|second| (1, second)));
    drop(processes);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_wrong_does_not_stop_it_for_ever() {
    let world = World::new().await;
    let years = Duration::from_secs(20 * 365 * 24 * 3600);
    let wrong: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(world.clock.now() + years));
    let first = world.process_at(0, SECOND, wrong);
    until(&world, 90).await;
    drop(first);
    let second = world.process(1, SECOND);
    until(&world, 150).await;
    assert_eq!(world.ran().last(), Some(&(1, 120)));
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_lease_is_lost_is_cancelled() {
    let world = World::new().await;
    let (task, stop) = world.process(0, 40 * SECOND);
    until(&world, 61).await;
    let taken = Write::Set {
        key: Leases::key("periodic/orders/sweep"),
        value: "another".into(),
        ttl: Some(SECOND),
        when: When::Always,
    };
    world.store.write(vec![taken]).await.unwrap().remove(0).unwrap();
    until(&world, 90).await;
    let info = task.info();
    assert_eq!((info.runs, info.failures, info.is_running), (1, 1, false));
    assert!(info.last_error.unwrap().contains("lease was lost"));
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_run_and_gives_the_lease_back() {
    let world = World::new().await;
    let (mut task, stop) = world.process(0, 5 * SECOND);
    until(&world, 61).await;
    stop.cancel();
    task.finish(Instant::now() + 20 * SECOND).await;
    assert_eq!(world.began.elapsed(), 65 * SECOND);
    assert!(world.store.get(vec![Leases::key("periodic/orders/sweep")]).await.unwrap()[0].is_none());
}
