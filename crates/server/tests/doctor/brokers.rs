//! Real brokers, configured badly on purpose, and one that is in order.

use std::{
    io::{BufRead, Write},
    path::Path,
    process::Output,
};

use outboard_testkit::{Certificates, Nats, RabbitMq, Redis, free_ports};

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
        let binding = outboard_core::queue::Binding {
            exchange: "shop".into(),
            routing: outboard_core::queue::Routing::Direct,
            arguments: Default::default(),
            key: "mail".into(),
        };
        let bound = outboard_core::queue::QueueSpec::named("bound");
        queues.declare(outboard_core::queue::QueueSpec { bindings: vec![binding], ..bound }).await.unwrap();
        queues.close(tokio::time::Instant::now() + std::time::Duration::from_secs(5)).await.unwrap();
    });
    let differs = format!("source: '{url}', queue: orders, queue_type: quorum");
    let long = format!("source: '{url}', queue: reports, timeout: 31m, ack_timeout: 1h");
    let absent = format!("source: '{url}', queue: absent, create: false");
    let [bound, unbound] = ["bound", "unbound"].map(|queue| {
        format!("source: '{url}', queue: {queue}, bindings: [{{ exchange: shop, key: 'mail.*' }}]")
    });
    check("rabbitmq", 1, &[&differs, &long, &absent, &bound, &unbound], &[(&port, "PORT")]);
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
fn nats_with_consumers_that_somebody_limited() {
    let nats = Nats::start().unwrap();
    let port = nats.port().to_string();
    let mut connection = raw_nats(nats.port());
    let stream = |name: &str| {
        (format!("$JS.API.STREAM.CREATE.{name}"), format!(r#"{{"name":"{name}","retention":"workqueue"}}"#))
    };
    let durable = |stream: &str, name: &str, limits: &str| {
        let config = format!(r#""durable_name":"{name}","ack_policy":"explicit",{limits}"#);
        let body = format!(r#"{{"stream_name":"{stream}","config":{{{config}}}}}"#);
        (format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}"), body)
    };
    for (subject, body) in [
        stream("orders"),
        // Half a second.
        durable("orders", "w0", r#""ack_wait":500000000,"max_deliver":5,"max_ack_pending":4"#),
        stream("mails"),
        // Ten minutes, and somebody else's: on a work queue it is joined.
        durable("mails", "theirs", r#""ack_wait":600000000000,"max_deliver":-1"#),
        ("$JS.API.STREAM.CREATE.theirs".to_owned(), r#"{"name":"theirs","subjects":["over.>"]}"#.to_owned()),
        stream("events"),
        durable("events", "w2", r#""max_deliver":-1,"max_ack_pending":-1"#),
    ] {
        request(&mut connection, &subject, &body);
    }
    let source = |more: &str| format!("source: '{}', {more}", nats.url());
    let workers = [
        "queue: orders, prefetch: 100",
        "queue: mails",
        "queue: events, timeout: 31m",
        "queue: absent",
        "queue: absent, create: false",
        "queue: over",
    ]
    .map(source);
    check("nats-limits", 1, &workers.each_ref().map(String::as_str), &[(&port, "PORT")]);
}

type Lines = std::io::BufReader<std::net::TcpStream>;

/// Without a library: what `doctor` is to see comes from somebody else.
fn raw_nats(port: u16) -> Lines {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"CONNECT {\"verbose\":false,\"lang\":\"test\"}\r\nSUB _INBOX.test 1\r\n").unwrap();
    std::io::BufReader::new(stream)
}

fn request(connection: &mut Lines, subject: &str, body: &str) {
    write!(connection.get_mut(), "PUB {subject} _INBOX.test {}\r\n{body}\r\n", body.len()).unwrap();
    let mut line = String::new();
    while !line.starts_with("MSG ") {
        line.clear();
        connection.read_line(&mut line).unwrap();
    }
    line.clear();
    connection.read_line(&mut line).unwrap();
    assert!(!line.contains("\"error\""), "{subject}: {line}");
}

#[test]
fn rabbitmq_whose_certificate_has_expired_or_is_signed_by_another() {
    let certificates = Certificates::usual();
    let [first, second] = free_ports();
    let (good, old) = std::thread::scope(|scope| {
        let [good, old] = [(first, "server"), (second, "old")].map(|(port, name)| {
            let certificates = &certificates;
            scope.spawn(move || RabbitMq::with_tls(port, certificates, name).unwrap())
        });
        (good.join().unwrap(), old.join().unwrap())
    });
    let plain = good.port().to_string();
    let (first, second) = (first.to_string(), second.to_string());
    let directory = certificates.path("");
    let source = |port: &str, more: &str| {
        format!("source: 'amqps://guest:hunter2@localhost:{port}{more}', queue: orders, queue_type: classic")
    };
    let trusting = |name: &str| format!("?cacertfile={}", certificates.path(name));
    let workers = [
        source(&first, &trusting("other.pem")),
        source(&first, ""),
        source(&second, &trusting("ca.pem")),
        source(&first, &trusting("absent.pem")),
        source(&plain, &trusting("ca.pem")),
    ];
    let volatile = [(&*first, "GOOD"), (&*second, "OLD"), (&*plain, "PLAIN"), (&*directory, "DIRECTORY/")];
    check("rabbitmq-certificates", 1, &workers.each_ref().map(String::as_str), &volatile);
    drop(old);
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
fn redis_whose_memory_is_full() {
    let full = Redis::configured(&["--maxmemory", "100kb", "--appendonly", "yes"]).unwrap();
    let port = full.port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let source = format!("source: 'sidekiq+{}?queue=default'", full.url());
    let output = with_workers(directory.path(), &[&source]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    // How much is taken differs from run to run.
    let used = shown.lines().find_map(|line| Some(line.split_once("× room")?.1.split(" of ").next()?.trim()));
    compare_backends("redis-full", &output, &[(&port, "PORT"), (used.unwrap_or("-"), "USED")]);
}

/// As a server does that is stopped: the system takes connections for it.
#[test]
fn nothing_answers() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let workers =
        ["amqp://guest:hunter2@127.0.0.1:PORT", "nats://127.0.0.1:PORT", "sidekiq+redis://127.0.0.1:PORT"];
    let workers = workers.map(|url| format!("source: '{}', queue: orders", url.replace("PORT", &port)));
    check("nothing-answers", 1, &workers.each_ref().map(String::as_str), &[(&port, "PORT")]);
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
