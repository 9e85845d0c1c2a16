//! Dead letters of workers on queues: the broker keeps them, and they are shown from there.

use serde_json::Value;

use crate::{
    broker::{Broker, Kind, QUEUE, numbered},
    harness::{Server, Setup, run, text},
    receiver::HostApp,
};

async fn are_shown_from_the_broker(kind: Kind) {
    let broker = Broker::start(kind).await;
    let publisher = broker.open();
    publisher.declare(broker.queue()).await.unwrap();
    publisher.publish(vec![numbered(0)]).await.unwrap().remove(0).unwrap();
    tokio::task::spawn_blocking(move || {
        let app = HostApp::answering(400);
        let (url, source) = (&app.url, broker.url());
        let config =
            format!("workers:\n- name: worker\n  url: {url}\n  source: {source}\n  queue: {QUEUE}\n");
        let server = Server::with(Setup { config: &config, ..Setup::default() });
        let list = || server.get("/dead?worker=worker").json()["dead"].clone();
        server.wait_until("the letter is there", |_| list() != Value::Array(Vec::new()));
        let letters = list();
        let letter = &letters[0];
        assert_eq!((&letter["worker"], &letter["attempts"]), (&"worker".into(), &1.into()), "{letters}");
        assert!(letter["reason"].as_str().unwrap().contains("400"), "{letters}");
        assert!(letter["id"].is_null() && letters[1].is_null(), "{letters}");
        assert_eq!(server.get("/dead?worker=worker&after=1").status, 422);

        let told = run(server.directory(), &["dead", "--worker", "worker"]);
        assert!(text(&told.stdout).starts_with("-\tmessage "), "{}", text(&told.stdout));
        let refused = run(server.directory(), &["dead", "retry", "--all", "--worker", "worker"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains("the broker's"), "{}", text(&refused.stderr));
        // No count is better than a wrong one.
        assert!(server.get("/workers").json()["workers"][0]["dead"].is_null());
        assert!(text(&run(server.directory(), &["workers"]).stdout).contains("\tdead -"));
        assert_eq!(server.metric(r#"outboard_worker_dead{worker="worker"}"#), None);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_rabbitmq() {
    are_shown_from_the_broker(Kind::RabbitMq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sidekiq() {
    are_shown_from_the_broker(Kind::Sidekiq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_jetstream() {
    are_shown_from_the_broker(Kind::JetStream).await;
}
