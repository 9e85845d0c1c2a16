//! A worker that counts each message in a durable key of its own: an effect on own state, by message.

use std::sync::Arc;

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
use tokio::sync::watch;

use crate::broker::Broker;

/// The worker and what it stands on.
pub(crate) struct Counting {
    pub(crate) workers: Workers,
    pub(crate) storage: Embedded,
    handled: watch::Receiver<u64>,
    _directory: tempfile::TempDir,
}

#[derive(Debug)]
struct Count {
    handled: watch::Sender<u64>,
}

impl Handler for Count {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        self.handled.send_modify(|count| *count += 1);
        let key: Arc<str> = String::from_utf8_lossy(&attempt.message.payload).as_ref().into();
        let writes = vec![KeyWrite::Add(key, 1), KeyWrite::Add("all".into(), 1)];
        let effects = Some(Box::new(Effects { writes, ..Effects::default() }));
        Box::pin(std::future::ready(Handled { outcome: Ok(Done), effects }))
    }
}

impl Counting {
    pub(crate) async fn start(broker: &Broker, prefetch: u32) -> Self {
        // What the backends say is shown when a test fails. Somebody else may have asked for it before.
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("info").try_init();
        let directory = tempfile::tempdir().unwrap();
        let storage = Embedded::open(&directory.path().join("data"), Options::default()).await.unwrap();
        let (log, ledger) = (Arc::new(storage.clone()), Arc::new(storage.clone()));
        let workers = Workers::new(log, ledger, WorkersOptions::default());
        let (sender, handled) = watch::channel(0);
        workers
            .start(WorkerSpec {
                name: "worker".into(),
                description: "Counts".into(),
                types: TypeSet::all(),
                start: Start::End,
                policy: Policy::default(),
                handler: Arc::new(Count { handled: sender }),
                periodic: Vec::new(),
                source: Source::Queue(QueueSource::new(broker.open(), broker.consume(prefetch))),
            })
            .await
            .unwrap();
        Self { workers, storage, handled, _directory: directory }
    }

    /// Waits until more than so many were handled.
    pub(crate) async fn more_than(&self, count: u64) {
        self.handled.clone().wait_for(|handled| *handled > count).await.unwrap();
    }

    /// How many were handled.
    pub(crate) fn handled(&self) -> u64 {
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
