//! The process dies, again and again: what it had is delivered again, and no effect of it happens twice. A message that
//! kills it is buried, and hits no other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use outboard::{
    Attempt, Done, Handled, Handler, Policy, QueueSource, Source, WorkerSpec, Workers, WorkersOptions,
    core::{
        Ledger, TypeSet,
        consumer::Effects,
        ledger::{KeyWrite, Start},
    },
    handler::BoxFuture,
};
use outboard_embedded::{Embedded, Options};

use crate::{
    broker::{self, Broker, Kind, QUEUE, numbered},
    scale::scaled,
};

const URL: &str = "OUTBOARD_TEST_CRASHES_URL";
const DIRECTORY: &str = "OUTBOARD_TEST_CRASHES_DIRECTORY";

/// The one that kills the process.
const POISON: &str = "[13]";

const MESSAGES: u64 = 3_000;

/// How long the whole test may take; some brokers wait before they believe that a process is gone.
const PATIENCE: Duration = Duration::from_secs(240);

#[derive(Debug)]
struct Count;

impl Handler for Count {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        let payload = String::from_utf8_lossy(&attempt.message.payload).into_owned();
        Box::pin(async move {
            if payload == POISON {
                std::process::abort();
            }
            let effects = Effects { writes: vec![KeyWrite::Add(payload.into(), 1)], ..Effects::default() };
            Handled { outcome: Ok(Done), effects: Some(Box::new(effects)) }
        })
    }
}

/// Not a test by itself: the process that the test below starts and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_dies() {
    let (Ok(url), Some(directory)) = (std::env::var(URL), std::env::var_os(DIRECTORY)) else { return };
    let storage = Embedded::open(&PathBuf::from(directory), Options::default()).await.unwrap();
    let (log, ledger) = (Arc::new(storage.clone()), Arc::new(storage.clone()));
    let workers = Workers::new(log, ledger, WorkersOptions::default());
    let consume = broker::consume_queue(QUEUE, 50);
    workers
        .start(WorkerSpec {
            name: "worker".into(),
            description: "Counts".into(),
            types: TypeSet::all(),
            start: Start::End,
            policy: Policy::default(),
            handler: Arc::new(Count),
            periodic: Vec::new(),
            source: Source::Queue(QueueSource::new(broker::open(&url), consume)),
        })
        .await
        .unwrap();
    std::future::pending().await
}

fn start(url: &str, directory: &Path) -> Child {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", "crashes::the_process_that_dies", "--nocapture"]);
    process.env(URL, url).env(DIRECTORY, directory).stdin(Stdio::null());
    process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

async fn survives_itself(kind: Kind) {
    let broker = Broker::start(kind).await;
    let queue = broker.open();
    queue.declare(broker.queue()).await.unwrap();
    for from in (0..MESSAGES).step_by(500) {
        for answer in queue.publish((from..from + 500).map(numbered).collect()).await.unwrap() {
            answer.unwrap();
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut process = start(&broker.url(), &data);
    let (deadline, mut lives, mut killed) = (Instant::now() + PATIENCE, 1, 0);
    let mut look = tokio::time::interval(Duration::from_millis(50));
    // Until the poison is buried and everything else is done: by its own hand, and by ours.
    loop {
        look.tick().await;
        if process.try_wait().unwrap().is_some() {
            process = start(&broker.url(), &data);
            lives += 1;
        } else if lives > 4 && killed < scaled(2, 10) {
            process.kill().unwrap();
            killed += 1;
        }
        let stats = queue.stats(QUEUE.into()).await.unwrap();
        let dead = queue.dead(QUEUE.into(), 10).await.unwrap_or_default();
        if stats.ready == Some(0) && stats.unsettled.unwrap_or(0) == 0 && !dead.is_empty() && killed > 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{lives} lives, {stats:?}, {dead:?}");
    }
    let letters = queue.dead(QUEUE.into(), 10).await.unwrap();
    // Killed between the letter and its acknowledgement, the process writes it again: at least once, with the same id.
    for letter in &letters {
        assert_eq!((&letter.payload[..], letter.id.as_ref()), (POISON.as_bytes(), letters[0].id.as_ref()));
        assert!(letter.reason.starts_with("3 crashes"), "{letter:?}");
    }
    // The last acknowledgement came after the last effect was on disk.
    process.kill().unwrap();
    process.wait().unwrap();
    let storage = Embedded::open(&data, Options::default()).await.unwrap();
    let mut wrong = BTreeSet::new();
    for number in (0..MESSAGES).filter(|number| format!("[{number}]") != POISON) {
        let keys = storage.keys("worker".into(), vec![format!("[{number}]").into()]).await.unwrap();
        if keys[0].value.as_deref() != Some(b"1") {
            wrong.insert((number, keys[0].value.clone()));
        }
    }
    assert!(wrong.is_empty(), "effects that did not happen once: {wrong:?}");
    println!(
        "{kind:?}: {lives} lives, {killed} of them ended by us; {MESSAGES} messages, each effect once, 1 buried"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_classic_queue_of_rabbitmq() {
    survives_itself(Kind::RabbitMq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sidekiq_s_redis() {
    survives_itself(Kind::Sidekiq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_jetstream() {
    survives_itself(Kind::JetStream).await;
}
