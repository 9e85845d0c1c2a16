//! A worker that counts each message in a durable key of its own: an effect on own state, by message.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use outboard::{
    Attempt, Done, Handled, Handler, Policy, QueueSource, Source, WorkerSpec, Workers,
    WorkersOptions,
    core::{
        Ledger, TypeSet,
        consumer::Effects,
        ledger::{KeyWrite, Start},
    },
    handler::BoxFuture,
};
use outboard_embedded::{Embedded, Options};
use tokio::sync::watch;

use crate::broker::Broker;

/// The worker and what it stands on.
pub(crate) struct Counting {
    pub(crate) workers: Workers,
    pub(crate) storage: Embedded,
    handled: watch::Receiver<Handling>,
    _directory: tempfile::TempDir,
}

/// What was handled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handling {
    pub(crate) count: u64,
    pub(crate) last: Instant,
}

#[derive(Debug)]
struct Count {
    handled: watch::Sender<Handling>,
    count: AtomicU64,
}

impl Handler for Count {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        self.handled.send_replace(Handling { count, last: Instant::now() });
        let key: Arc<str> = String::from_utf8_lossy(&attempt.message.payload).as_ref().into();
        let writes = vec![KeyWrite::Add(key, 1), KeyWrite::Add("all".into(), 1)];
        let effects = Some(Box::new(Effects { writes, ..Effects::default() }));
        Box::pin(std::future::ready(Handled { outcome: Ok(Done), effects }))
    }
}

impl Counting {
    pub(crate) async fn start(broker: &Broker, prefetch: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let storage = Embedded::open(&directory.path().join("data"), Options::default()).await.unwrap();
        let (log, ledger) = (Arc::new(storage.clone()), Arc::new(storage.clone()));
        let workers = Workers::new(log, ledger, WorkersOptions::default());
        let nothing = Handling { count: 0, last: Instant::now() };
        let (sender, handled) = watch::channel(nothing);
        workers
            .start(WorkerSpec {
                name: "worker".into(),
                description: "Counts".into(),
                types: TypeSet::all(),
                start: Start::End,
                policy: Policy::default(),
                handler: Arc::new(Count { handled: sender, count: AtomicU64::new(0) }),
                periodic: Vec::new(),
                source: Source::Queue(QueueSource::new(broker.open(), broker.consume(prefetch))),
            })
            .await
            .unwrap();
        Self { workers, storage, handled, _directory: directory }
    }

    /// Waits for something that is handled from now on.
    pub(crate) async fn next_handled(&self) -> Instant {
        let mut handled = self.handled.clone();
        handled.mark_unchanged();
        handled.changed().await.unwrap();
        handled.borrow().last
    }

    pub(crate) fn handled(&self) -> Handling {
        *self.handled.borrow()
    }

    /// How often each message's effect happened.
    pub(crate) async fn effects(&self, numbers: std::ops::Range<u64>) -> Vec<u64> {
        let mut found = Vec::new();
        for number in numbers {
            found.push(self.key(&format!("[{number}]")).await);
        }
        found
    }

    pub(crate) async fn key(&self, key: &str) -> u64 {
        let keys = self.storage.keys("worker".into(), vec![key.into()]).await.unwrap();
        let value = keys[0].value.as_deref().map(|value| String::from_utf8_lossy(value).into_owned());
        value.map_or(0, |value| value.parse().unwrap())
    }
}
