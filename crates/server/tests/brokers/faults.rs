//! Under load the broker is killed and started again, then its connections are ended, then they fall silent.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use outboard::core::{Health, Kind as ErrorKind, Queue};
use outboard_testkit::proxy::Mode;

use crate::{
    broker::{Broker, Kind, QUEUE, numbered},
    counting::Counting,
    scale::scaled,
};

/// How long consumption may take to go on once a client can open a connection again.
const RESUMES: Duration = Duration::from_secs(3);

/// How long a peer that says nothing may go unnoticed.
const NOTICED: Duration = Duration::from_secs(15);

/// How long anything may take that has no time of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// Publishes without pause, and remembers what the broker has taken.
struct Load {
    confirmed: Mutex<BTreeSet<u64>>,
    published: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    async fn run(self: Arc<Self>, queue: Arc<dyn Queue>) {
        let mut batches = tokio::time::interval(Duration::from_millis(50));
        while !self.stop.load(Ordering::SeqCst) {
            let from = self.published.load(Ordering::SeqCst);
            let mut left: Vec<u64> = (from..from + 50).collect();
            self.published.store(from + 50, Ordering::SeqCst);
            // Until the broker has it: again with the same id, as a publisher does that does not know.
            while !left.is_empty() && !self.stop.load(Ordering::SeqCst) {
                let answers = queue.publish(left.iter().copied().map(numbered).collect()).await.unwrap();
                let mut again = Vec::new();
                for (number, answer) in left.into_iter().zip(answers) {
                    match answer {
                        Ok(_) => drop(self.confirmed.lock().unwrap().insert(number)),
                        Err(error) => {
                            // The queue is made by who consumes it, which may come a moment later.
                            let is_early = error.kind == ErrorKind::NotFound;
                            assert!(error.is_transient() || is_early, "{error}");
                            again.push(number);
                        }
                    }
                }
                left = again;
            }
            batches.tick().await;
        }
    }
}

/// Waits until the broker takes something, whether or not anybody consumes it.
async fn is_taken(broker: &Broker) -> Duration {
    let (began, queue) = (Instant::now(), broker.open_directly());
    // Far from the numbers that count.
    let probe = || vec![numbered(u64::MAX - 1)];
    while queue.publish(probe()).await.unwrap().remove(0).is_err() {}
    began.elapsed()
}

async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than {limit:?}"),
    }
}

/// Waits until the workers' health is as wanted.
async fn health(counting: &Counting, wanted: fn(&Health) -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(5));
    while !wanted(&counting.workers.health().health) {
        look.tick().await;
    }
}

fn unready(health: &Health) -> bool {
    matches!(health, Health::Recovering { .. })
}

async fn survives(kind: Kind) {
    let mut broker = Broker::start(kind).await;
    let counting = Counting::start(&broker, 50).await;
    within(PATIENCE, "the first connection", health(&counting, Health::is_ready)).await;
    let load = Arc::new(Load {
        confirmed: Mutex::default(),
        published: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    // A publisher that is silenced with the worker could not show that the worker is back.
    let publishing = tokio::spawn(load.clone().run(broker.open_directly()));
    // A quorum queue of RabbitMQ 3.10 that is not some seconds old does not survive a kill of its broker: nobody leads it.
    within(PATIENCE, "some load", counting.more_than(4_000)).await;

    let mut slowest = Duration::ZERO;
    let mut election = Duration::ZERO;
    for round in 0..scaled(2, 10) {
        broker.kill();
        within(PATIENCE, "noticing a kill", health(&counting, unready)).await;
        broker = tokio::task::spawn_blocking(move || {
            broker.restart();
            broker
        })
        .await
        .unwrap();
        if kind == Kind::Quorum {
            // The broker takes connections before the queue has a leader, and until then nobody is served.
            election = election.max(within(PATIENCE, "the leader's election", is_taken(&broker)).await);
        }
        slowest = slowest.max(resumes(&counting, &format!("{kind:?}, kill {round}")).await);
    }
    broker.proxy.set(Mode::Close);
    within(PATIENCE, "noticing a cut", health(&counting, unready)).await;
    broker.proxy.set(Mode::Pass);
    slowest = slowest.max(resumes(&counting, &format!("{kind:?}, cut")).await);

    broker.proxy.set(Mode::Silent);
    let silenced = Instant::now();
    within(NOTICED, "noticing silence", health(&counting, unready)).await;
    let noticed = silenced.elapsed();
    // The silent connections stay silent for ever; new ones pass.
    broker.proxy.renew();
    slowest = slowest.max(resumes(&counting, &format!("{kind:?}, silence")).await);

    load.stop.store(true, Ordering::SeqCst);
    within(PATIENCE, "the publisher's end", publishing).await.unwrap();
    let confirmed = std::mem::take(&mut *load.confirmed.lock().unwrap());
    let published = load.published.load(Ordering::SeqCst);
    let effects = settled(&broker, &counting, &confirmed, published).await;
    let twice: Vec<_> = (0..).zip(&effects).filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "effects that happened more than once: {twice:?}");
    println!(
        "{kind:?}: {} messages, {} confirmed, {} handled, each effect once; silence noticed after {noticed:.1?}, slowest return {slowest:.1?} (and {election:.1?} for a leader)",
        published,
        confirmed.len(),
        counting.handled(),
    );
}

/// Something is handled again in time, and the health says so.
async fn resumes(counting: &Counting, what: &str) -> Duration {
    let began = Instant::now();
    within(RESUMES, what, counting.more_than(counting.handled())).await;
    let took = began.elapsed();
    within(RESUMES, what, health(counting, Health::is_ready)).await;
    took
}

/// Waits until everything that was confirmed has had its effect, and gives all effects.
async fn settled(
    broker: &Broker,
    counting: &Counting,
    confirmed: &BTreeSet<u64>,
    published: u64,
) -> Vec<u64> {
    let deadline = Instant::now() + PATIENCE;
    let mut look = tokio::time::interval(Duration::from_millis(100));
    loop {
        let effects = counting.effects(0..published).await;
        let missing: Vec<_> = confirmed.iter().filter(|number| effects[**number as usize] == 0).collect();
        let stats = broker.open().stats(QUEUE.into()).await;
        if missing.is_empty() && stats.is_ok_and(|stats| stats.ready.unwrap_or(0) == 0) {
            return effects;
        }
        let stuck = format!("{} of {} are missing: {missing:?}", missing.len(), confirmed.len());
        assert!(Instant::now() < deadline, "{stuck}");
        look.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classic_queue_of_rabbitmq_loses_nothing_and_goes_on() {
    survives(Kind::RabbitMq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_queue_of_rabbitmq_loses_nothing_and_goes_on() {
    survives(Kind::Quorum).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidekiq_s_redis_loses_nothing_and_goes_on() {
    survives(Kind::Sidekiq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetstream_loses_nothing_and_goes_on() {
    survives(Kind::JetStream).await;
}

/// The queue is deleted under a worker: it is there again and consumed within three seconds, and one line says so.
async fn comes_back_when_deleted(kind: Kind, delete: impl AsyncFnOnce(&Broker)) {
    let broker = Broker::start(kind).await;
    let counting = Counting::start(&broker, 50).await;
    within(PATIENCE, "the first connection", health(&counting, Health::is_ready)).await;
    let publisher = broker.open();
    publisher.publish(vec![numbered(0)]).await.unwrap().remove(0).unwrap();
    within(PATIENCE, "the first message", counting.more_than(0)).await;
    delete(&broker).await;
    let began = Instant::now();
    let before = counting.handled();
    let handled = async {
        // Nobody may take it before the queue is there again.
        while publisher.publish(vec![numbered(1)]).await.unwrap().remove(0).is_err() {}
        counting.more_than(before).await;
    };
    within(RESUMES, "consuming again", handled).await;
    println!("{kind:?}: consuming {:.1?} after the queue was deleted", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_rabbitmq_that_is_deleted_comes_back() {
    comes_back_when_deleted(Kind::RabbitMq, async |broker| {
        broker.control(&["delete_queue", QUEUE]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_queue_that_is_deleted_comes_back() {
    comes_back_when_deleted(Kind::Quorum, async |broker| {
        broker.control(&["delete_queue", QUEUE]).await;
    })
    .await;
}
