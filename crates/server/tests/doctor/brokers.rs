//! Real brokers, configured badly on purpose, and one that is in order.

use std::{path::Path, process::Output};

use outboard_testkit::{Nats, RabbitMq, Redis, free_ports};

use crate::{
    golden::{compare_backends, doctor},
    harness::text,
};

/// Runs `doctor` with one worker for each `source` and what else is said of it.
fn with_workers(directory: &Path, workers: &[&str]) -> Output {
    let entries = workers.iter().enumerate();
    let entries = entries
        .map(|(index, keys)| format!("  - {{ name: w{index}, url: 'http://127.0.0.1:1/', {keys} }}\n"));
    let config = format!("workers:\n{}", entries.collect::<String>());
    std::fs::write(directory.join("config.yaml"), config).unwrap();
    let ports = ["OUTBOARD_API__PORT", "OUTBOARD_METRICS__PORT"].map(|name| (name, "0".to_owned()));
    doctor(directory, &[], &ports)
}

fn check(name: &str, code: i32, workers: &[&str], volatile: &[(&str, &str)]) {
    let directory = tempfile::tempdir().unwrap();
    let output = with_workers(directory.path(), workers);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{shown}{}", text(&output.stderr));
    assert!(!shown.contains("hunter2"), "a password is shown: {shown}");
    compare_backends(name, &output, volatile);
}

#[test]
fn rabbitmq_with_another_queue_a_long_handler_and_a_wrong_password() {
    let broker = RabbitMq::start().unwrap();
    let (url, port) = (broker.url(), broker.port().to_string());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = outboard_backends::OpenOptions { ack_timeout: std::time::Duration::from_secs(1_800) };
        let queues = outboard_backends::open(&url, options, outboard_core::time::system_clock()).unwrap();
        let spec = outboard_core::queue::QueueSpec::named("orders");
        queues.declare(spec).await.unwrap();
        queues.close(tokio::time::Instant::now() + std::time::Duration::from_secs(5)).await.unwrap();
    });
    let differs = format!("source: '{url}', queue: orders, queue_type: quorum");
    let long = format!("source: '{url}', queue: reports, timeout: 31m, ack_timeout: 1h");
    let absent = format!("source: '{url}', queue: absent, create: false");
    check("rabbitmq", 1, &[&differs, &long, &absent], &[(&port, "PORT")]);
    let wrong = format!("source: 'amqp://guest:hunter2@127.0.0.1:{port}', queue: orders");
    let vhost = format!("source: 'amqp://guest:guest@127.0.0.1:{port}/shop', queue: orders");
    check("rabbitmq-refusals", 1, &[&wrong, &vhost], &[(&port, "PORT")]);
    let same = format!("source: '{url}', queue: orders");
    check("rabbitmq-healthy", 0, &[&same], &[(&port, "PORT")]);
}

#[test]
fn nats_that_syncs_every_two_minutes_or_has_no_jetstream() {
    let (usual, small) = (
        Nats::start().unwrap(),
        Nats::configured("max_payload: 65536\naccounts { A { users: [{user: a, password: b}] } }\n").unwrap(),
    );
    let (first, second) = (usual.port().to_string(), small.port().to_string());
    let usual = format!("source: '{}', queue: orders", usual.url());
    let without = format!("source: 'nats://a:b@127.0.0.1:{second}', queue: orders");
    let wrong = format!("source: 'nats://a:hunter2@127.0.0.1:{second}', queue: orders");
    check("nats", 1, &[&usual, &without, &wrong], &[(&first, "FIRST"), (&second, "SECOND")]);
}

#[test]
fn redis_that_evicts_keeps_nothing_or_only_follows() {
    let bad = Redis::configured(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]).unwrap();
    let port = bad.port().to_string();
    let replica = Redis::configured(&["--appendonly", "yes", "--replicaof", "127.0.0.1", &port]).unwrap();
    let healthy = Redis::start().unwrap();
    let source = |server: &Redis| format!("source: 'sidekiq+{}?queue=default'", server.url());
    let (other, good) = (replica.port().to_string(), healthy.port().to_string());
    let volatile = [(port.as_str(), "PRIMARY"), (other.as_str(), "REPLICA"), (good.as_str(), "HEALTHY")];
    check("redis", 1, &[&source(&bad), &source(&replica), &source(&healthy)], &volatile);
    check("redis-healthy", 0, &[&source(&healthy)], &volatile);
}

#[test]
fn redis_that_refuses_us() {
    let server = Redis::configured(&["--requirepass", "right", "--appendonly", "yes"]).unwrap();
    let port = server.port().to_string();
    let wrong = format!("source: 'sidekiq+redis://:hunter2@127.0.0.1:{port}/0?queue=default'");
    let none = format!("source: 'sidekiq+redis://127.0.0.1:{port}/0?queue=default'");
    check("redis-refusals", 1, &[&wrong, &none], &[(&port, "PORT")]);
}

#[test]
fn nothing_listens() {
    let [port] = free_ports();
    let port = port.to_string();
    let workers =
        ["amqp://guest:hunter2@127.0.0.1:PORT", "nats://127.0.0.1:PORT", "sidekiq+redis://127.0.0.1:PORT"];
    let workers = workers.map(|url| format!("source: '{}', queue: orders", url.replace("PORT", &port)));
    check("nothing-listens", 1, &workers.each_ref().map(String::as_str), &[(&port, "PORT")]);
}
