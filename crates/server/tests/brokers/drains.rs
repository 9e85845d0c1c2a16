//! SIGTERM under load: what was not finished goes back to the broker, and no attempt of it is counted.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    broker::{Broker, Kind, QUEUE, numbered},
    harness::{Server, Setup},
    receiver::HostApp,
};

/// More than the prefetch, so that some are in the queue, some in hand and some running when the signal comes.
const MESSAGES: u64 = 200;

fn config(broker: &Broker, app: &HostApp, kind: Kind) -> String {
    let queue_type = match kind {
        Kind::RabbitMq => "  queue_type: classic\n",
        Kind::Quorum => "  queue_type: quorum\n",
        Kind::Sidekiq | Kind::JetStream => "",
    };
    let (url, source) = (&app.url, broker.url());
    format!(
        "drain: 300ms\nworkers:\n- name: worker\n  url: {url}\n  concurrency: 4\n  source: {source}\n  \
         queue: {QUEUE}\n{queue_type}  prefetch: 50\n"
    )
}

async fn gives_back(kind: Kind) {
    let broker = Broker::start(kind).await;
    let publisher = broker.open();
    publisher.declare(broker.queue()).await.unwrap();
    for answer in publisher.publish((0..MESSAGES).map(numbered).collect()).await.unwrap() {
        answer.unwrap();
    }
    let app = HostApp::answering(200);
    let config = config(&broker, &app, kind);
    // Everything below waits for processes and sockets.
    tokio::task::spawn_blocking(move || {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup { config: &config, ..Setup::default() };
        let mut server = Server::start_in(directory.path(), &setup);
        let mut came: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..50 {
            *came.entry(app.next()["payload"].to_string()).or_default() += 1;
        }
        app.hold();
        server.wait_until("four are under way", |_| app.waiting() == 4);
        server.signal(Signal::TERM);
        assert_eq!(server.wait().code(), Some(0));
        app.release();
        let log = server.log_so_far();
        assert!(log.iter().any(|line| line["message"] == "stopped"), "the whole log is there: {log:#?}");
        let is_bad = |line: &&Value| ["WARN", "ERROR"].contains(&line["level"].as_str().unwrap_or_default());
        let bad: Vec<_> = log.iter().filter(is_bad).collect();
        assert!(bad.is_empty(), "a clean drain is no news: {bad:#?}");
        let _server = Server::start_in(directory.path(), &setup);
        while came.len() < MESSAGES as usize {
            let message = app.next();
            assert_eq!(message["attempt"], 1, "{message}");
            *came.entry(message["payload"].to_string()).or_default() += 1;
        }
        let twice = came.values().filter(|times| **times > 1).count();
        assert!(twice <= 4, "only what was running may come again, and {twice} did");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_a_classic_queue_of_rabbitmq() {
    gives_back(Kind::RabbitMq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_a_quorum_queue_of_rabbitmq() {
    gives_back(Kind::Quorum).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_sidekiq_s_redis() {
    gives_back(Kind::Sidekiq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_jetstream() {
    gives_back(Kind::JetStream).await;
}
