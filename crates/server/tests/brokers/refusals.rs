//! What will not work is told in one clear line with the mend, is not tried hot, and is not called healthy.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use outboard::core::queue::{Destination, Outgoing, QueueSpec};
use outboard_testkit::{Certificates, Nats, Proxy, RabbitMq, Redis, free_ports};
use serde_json::Value;

use crate::{
    broker::{QUEUE, numbered, open},
    harness::{Server, Setup},
    receiver::HostApp,
};

/// A refusal is tried again, but seldom.
const SELDOM: Duration = Duration::from_secs(4);

/// How long the second try may be waited for.
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs a worker on a source that refuses it. `told` is what its one line has to say.
async fn refused(proxy: Option<Proxy>, source: String, more: &'static str, told: &'static [&'static str]) {
    tokio::task::spawn_blocking(move || {
        let config = format!(
            "workers:\n- name: worker\n  url: http://127.0.0.1:9/\n  source: {source}\n  queue: orders\n{more}"
        );
        let mut server = Server::with(Setup { config: &config, ..Setup::default() });
        let reason = reason(&server, told);
        let ready = server.get("/readyz?verbose");
        assert_eq!(ready.status, 503, "{}", ready.body);
        assert!(!reason.contains("hunter2") && !ready.body.contains("hunter2"), "{reason}");
        if let Some(proxy) = &proxy {
            let (began, before) = (Instant::now(), proxy.taken());
            server.wait_until("it is tried again", |_| {
                // Looking takes its time.
                std::thread::yield_now();
                proxy.taken() > before || began.elapsed() > PATIENCE
            });
            let waited = began.elapsed();
            assert!(waited >= SELDOM / 2, "tried again after {waited:?}");
        }
        server.stop();
        let lines: Vec<Value> = server.log_so_far();
        let about = |line: &&Value| told.iter().all(|part| line.to_string().contains(part));
        let warnings: Vec<_> = lines.iter().filter(|line| line["level"] != "DEBUG").filter(about).collect();
        assert_eq!(warnings.len(), 1, "one line and no more:\n{warnings:#?}\nof {lines:#?}");
        let all = format!("{lines:?}");
        assert!(!all.contains("hunter2"), "{all}");
    })
    .await
    .unwrap();
}

/// Waits until the worker says why it does not consume.
fn reason(server: &Server, told: &[&str]) -> String {
    let mut reason = String::new();
    server.wait_until(&format!("the worker says {told:?}; it says `{reason}`"), |server| {
        reason =
            server.get("/workers").json()["workers"][0]["reason"].as_str().unwrap_or_default().to_owned();
        told.iter().all(|part| reason.contains(part))
    });
    reason
}

async fn rabbitmq() -> (RabbitMq, Proxy) {
    let server = tokio::task::spawn_blocking(RabbitMq::start).await.unwrap().unwrap();
    let proxy = Proxy::start(server.port()).await.unwrap();
    (server, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_of_rabbitmq() {
    let (_server, proxy) = rabbitmq().await;
    let url = format!("amqp://guest:hunter2@127.0.0.1:{}", proxy.port());
    refused(Some(proxy), url, "", &["guest", "password"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_vhost_of_rabbitmq() {
    let (_server, proxy) = rabbitmq().await;
    let url = format!("amqp://guest:guest@127.0.0.1:{}/nowhere", proxy.port());
    refused(Some(proxy), url, "", &["vhost", "nowhere"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_rabbitmq_that_another_ca_signed() {
    let certificates = Certificates::usual();
    let [port] = free_ports();
    let made = certificates.path("other.pem");
    // The broker reads its files when somebody connects.
    let starting = tokio::task::spawn_blocking(move || {
        (RabbitMq::with_tls(port, &certificates, "server").unwrap(), certificates)
    });
    let _server = starting.await.unwrap();
    let proxy = Proxy::start(port).await.unwrap();
    let name = "server_name_indication=localhost";
    let url = format!("amqps://guest:hunter2@127.0.0.1:{}?cacertfile={made}&{name}", proxy.port());
    refused(Some(proxy), url, "", &["other.pem", "does not vouch", "?cacertfile="]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_nobody_can_reach() {
    refused(None, "amqp://127.0.0.1:1".into(), "", &["127.0.0.1:1", "refused"]).await;
    refused(None, "nats://127.0.0.1:1".into(), "", &["127.0.0.1:1", "refused"]).await;
    refused(None, "sidekiq+redis://127.0.0.1:1/0".into(), "", &["127.0.0.1:1", "refused"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_only_reads() {
    let redis = tokio::task::spawn_blocking(|| Redis::configured(&["--replicaof", "127.0.0.1", "1"]));
    let redis = redis.await.unwrap().unwrap();
    let url = format!("sidekiq+redis://127.0.0.1:{}/0", redis.port());
    refused(None, url, "", &["read-only"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_of_redis() {
    let redis = tokio::task::spawn_blocking(|| Redis::configured(&["--requirepass", "right"]));
    let redis = redis.await.unwrap().unwrap();
    let proxy = Proxy::start(redis.port()).await.unwrap();
    let url = format!("sidekiq+redis://:hunter2@127.0.0.1:{}/0", proxy.port());
    refused(Some(proxy), url, "", &["password"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_of_nats() {
    let nats =
        tokio::task::spawn_blocking(|| Nats::configured("authorization { user: shop, password: right }"));
    let nats = nats.await.unwrap().unwrap();
    let proxy = Proxy::start(nats.port()).await.unwrap();
    let url = format!("nats://shop:hunter2@127.0.0.1:{}", proxy.port());
    refused(Some(proxy), url, "", &["password"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jetstream_without_room_for_the_stream() {
    let lines = "jetstream {}\naccounts { A { users: [{user: a, password: hunter2}], jetstream: { max_streams: 1 } } }";
    let nats = tokio::task::spawn_blocking(|| Nats::configured(lines)).await.unwrap().unwrap();
    let url = format!("nats://a:hunter2@127.0.0.1:{}", nats.port());
    open(&url).declare(QueueSpec::named("other")).await.unwrap();
    refused(None, url, "", &["maximum number of streams", "raise the limit"]).await;
}

/// Who only consumes needs no room: that stays healthy. Who has a dead letter and cannot keep it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jetstream_that_is_full() {
    let starting = tokio::task::spawn_blocking(|| Nats::configured("jetstream { max_file_store: 2097152 }"));
    let nats = starting.await.unwrap().unwrap();
    let publisher = open(&nats.url());
    for stream in [QUEUE, "filler"] {
        publisher.declare(QueueSpec::named(stream)).await.unwrap();
    }
    publisher.publish(vec![numbered(0)]).await.unwrap().remove(0).unwrap();
    let filling = || {
        let large = Outgoing::new(Destination::queue("filler"), "suite/fill", vec![b' '; 200_000]);
        publisher.publish(vec![large])
    };
    while filling().await.unwrap().remove(0).is_ok() {}
    let (port, source) = (nats.port(), nats.url());
    tokio::task::spawn_blocking(move || {
        let app = HostApp::answering(400);
        app.hold();
        let url = &app.url;
        let config =
            format!("workers:\n- name: worker\n  url: {url}\n  source: {source}\n  queue: {QUEUE}\n");
        let mut server = Server::with(Setup { config: &config, ..Setup::default() });
        server.wait_until("it consumes", |_| app.waiting() == 1);
        assert_eq!(server.get("/readyz").status, 200, "it consumes, whatever is full");
        app.release();
        let told = ["insufficient", "max_file_store"];
        reason(&server, &told);
        assert_eq!(server.get("/readyz").status, 503);
        purge(port, "filler");
        server.wait_until("the dead letter is kept", |server| server.get("/readyz").status == 200);
        server.wait_until("and counted", |server| {
            server.get("/workers").json()["workers"][0]["in_flight"] == 0
        });
        server.stop();
        let lines: Vec<Value> = server.log_so_far();
        let about = |line: &&Value| told.iter().all(|part| line.to_string().contains(part));
        assert_eq!(lines.iter().filter(about).count(), 1, "{lines:#?}");
    })
    .await
    .unwrap();
    let dead = publisher.dead(QUEUE.into(), 10).await.unwrap();
    assert_eq!(dead.len(), 1, "{dead:?}");
}

/// As an operator does it.
fn purge(port: u16, stream: &str) {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!("CONNECT {{}}\r\nPUB $JS.API.STREAM.PURGE.{stream} 0\r\n\r\nPING\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(connection).lines();
    assert!(lines.any(|line| line.unwrap() == "PONG"));
}
