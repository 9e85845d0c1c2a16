//! Jobs against a real server: what the conformance suite cannot know.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
    time::Duration,
};

use outboard_core::{
    Clock, Consumer, Delivery, Health, Kind, Settlement, Verdict,
    queue::{ConsumeSpec, Destination, Outgoing, Prefetch, Queue, QueueSpec},
    time::{SystemClock, system_clock},
};
use outboard_testkit::{Certificates, Proxy, Redis, proxy::Mode};
use redis::{FromRedisValue, cmd};
use tokio::time::Instant;

use super::{Sidekiq, job::due};
use crate::redis::Link;

mod gone;
mod retry;

static SERVER: LazyLock<Redis> = LazyLock::new(|| Redis::start().unwrap());

/// A port, and a way beside it.
struct Site {
    port: Sidekiq,
    beside: Link,
    queue: &'static str,
}

impl Site {
    fn on(url: &str, queue: &'static str) -> Self {
        let port = Sidekiq::open(format!("sidekiq+{url}").parse().unwrap(), system_clock());
        Self { port, beside: Link::start(url.parse().unwrap(), system_clock(), None), queue }
    }

    async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        let connection = self.beside.connection_by(Instant::now() + Duration::from_secs(10)).await.unwrap();
        connection.query(&command).await.unwrap()
    }

    async fn push(&self, job: &str) {
        let _: u64 = self.ask(&["LPUSH", &format!("queue:{}", self.queue), job]).await;
    }

    async fn consumer(&self, prefetch: u32) -> Arc<dyn Consumer> {
        let spec = ConsumeSpec::new("worker", QueueSpec::named(self.queue));
        self.port.consume(ConsumeSpec { prefetch: Prefetch::Fixed(prefetch), ..spec }).await.unwrap()
    }
}

async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(consumer.next(count - taken.len()).await.unwrap());
    }
    taken
}

async fn settle(consumer: &Arc<dyn Consumer>, delivery: &Delivery, verdict: Verdict) {
    let ticket = consumer.settle(Settlement { tag: delivery.tag, verdict, effects: None });
    consumer.durable().wait_for(|durable| *durable >= ticket).await.unwrap();
}

fn hourly(reason: &str) -> Verdict {
    Verdict::RetryAfter { delay: Duration::from_secs(3_600), reason: reason.into() }
}

#[tokio::test]
async fn equal_jobs_are_told_apart() {
    let server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "equal");
    for _ in 0..4 {
        site.push(r#"{"class":"A","args":[1]}"#).await;
    }
    let consumer = site.consumer(10).await;
    let jobs = take(&consumer, 4).await;
    assert!(jobs.iter().all(|job| !job.is_identified), "neither has an id");
    settle(&consumer, &jobs[1], Verdict::Done).await;
    settle(&consumer, &jobs[0], hourly("no")).await;
    settle(&consumer, &jobs[3], hourly("no")).await;
    assert_eq!(site.ask::<u64>(&["ZCARD", "retry"]).await, 2, "a set must not take them for one");
    consumer.drain(Instant::now()).await.unwrap();
    let left: Vec<String> = site.ask(&["LRANGE", "queue:equal", "0", "-1"]).await;
    assert_eq!(left, [r#"{"class":"A","args":[1],"outboard_returned":true}"#], "the one in hand is back");
    let keys: Vec<String> = site.ask(&["KEYS", "outboard:*"]).await;
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn a_retry_leaves_everything_else_as_it_was() {
    let server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "kept");
    let job = "{\"x\": 12345678901234567890123,\"class\":\"A\",\"args\":[1e400,\"\u{2028}\\u00e9\"],\"jid\":\"b\",\"tags\":[\"a\"],\"retry\":7";
    site.push(&format!("{job}}}")).await;
    let consumer = site.consumer(10).await;
    let delivery = take(&consumer, 1).await.remove(0);
    assert_eq!(&delivery.message.payload[..], "[1e400,\"\u{2028}\\u00e9\"]".as_bytes());
    settle(&consumer, &delivery, hourly("no \"reason\"")).await;
    let retried: Vec<String> = site.ask(&["ZRANGE", "retry", "0", "-1"]).await;
    let began = job.replacen("{\"x\": ", "{\"x\":", 1)
        + ",\"queue\":\"kept\",\"error_message\":\"no \\\"reason\\\"\",\"error_class\":\"Outboard::Failed\",\"retry_count\":0,\"failed_at\":";
    assert!(retried[0].starts_with(&began), "{}", retried[0]);
    let (queue, again) = due(retried[0].as_bytes(), SystemClock.now()).unwrap();
    assert!(queue == "kept" && again.starts_with(&began) && again.contains("\"enqueued_at\":"), "{again}");
}

#[tokio::test]
async fn what_nobody_can_read_is_dead_at_once_and_harms_nobody() {
    let server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "bad");
    for job in [
        "not json",
        "[1]",
        "{\"class\":\"A\"",
        "",
        "\"text\"",
        "{\"class\":\"Good\",\"args\":[2],\"jid\":\"x\"}",
        "{}",
    ] {
        site.push(job).await;
    }
    let consumer = site.consumer(3).await;
    let good = take(&consumer, 2).await;
    assert_eq!((&*good[0].message.kind, &good[0].message.payload[..]), ("Good", &b"[2]"[..]));
    // An empty object is a job, if not one of anybody's class.
    assert_eq!((&*good[1].message.kind, &good[1].message.payload[..]), ("bad", &b"[]"[..]));
    settle(&consumer, &good[0], Verdict::Done).await;
    settle(&consumer, &good[1], Verdict::Done).await;
    consumer.drain(Instant::now()).await.unwrap();
    let dead: BTreeSet<String> = site.ask(&["ZRANGE", "dead", "0", "-1"]).await;
    assert_eq!(
        dead,
        BTreeSet::from(["not json", "[1]", "{\"class\":\"A\"", "", "\"text\""].map(String::from))
    );
    let letters = site.port.dead("bad".into(), 10).await.unwrap();
    assert!(letters.iter().all(|letter| letter.attempts == 0 && !letter.reason.is_empty()), "{letters:?}");
}

#[tokio::test]
async fn full_memory_loses_nothing_and_is_told() {
    let server = Redis::configured(&["--appendonly", "yes", "--maxmemory-policy", "noeviction"]).unwrap();
    let site = Site::on(&server.url(), "full");
    for number in 0..6 {
        site.push(&format!("{{\"class\":\"A\",\"args\":[{number}],\"jid\":\"{number}\"}}")).await;
    }
    let consumer = site.consumer(3).await;
    let jobs = take(&consumer, 3).await;
    let () = site.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for (job, verdict) in jobs.iter().zip([Verdict::Return, hourly("no"), Verdict::Done]) {
        consumer.settle(Settlement { tag: job.tag, verdict, effects: None });
    }
    let mut health = site.port.health();
    health.wait_for(|health| matches!(health, Health::Refusing(_))).await.unwrap();
    assert!(consumer.status().health.error().unwrap().message.contains("maxmemory"));
    let message = Outgoing::new(Destination::queue("full"), "A", "[]");
    let refused = site.port.publish(vec![message]).await.unwrap().remove(0).unwrap_err();
    assert_eq!(refused.kind, Kind::Full, "{refused}");
    let () = site.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let mut came = BTreeSet::new();
    while came.len() < 4 {
        for delivery in take(&consumer, 1).await {
            came.insert(delivery.message.name.clone().unwrap().to_string());
            settle(&consumer, &delivery, Verdict::Done).await;
        }
    }
    assert_eq!(came, BTreeSet::from(["0", "3", "4", "5"].map(String::from)));
    assert_eq!(site.ask::<u64>(&["ZCARD", "retry"]).await, 1);
    health.wait_for(Health::is_ready).await.unwrap();
}

/// Has the server save, and waits until it has, or could not.
async fn saved(site: &Site, status: &str) {
    let _: String = site.ask(&["BGSAVE"]).await;
    let mut look_again = tokio::time::interval(Duration::from_millis(5));
    while !site
        .ask::<String>(&["INFO", "persistence"])
        .await
        .contains(&format!("rdb_last_bgsave_status:{status}"))
    {
        look_again.tick().await;
    }
}

#[tokio::test]
async fn a_disk_that_takes_no_snapshot_stops_everything_and_loses_nothing() {
    let server = Redis::configured(&["--save", "3600 1000000"]).unwrap();
    let site = Site::on(&server.url(), "unsaved");
    for number in 0..4 {
        site.push(&format!("{{\"class\":\"A\",\"args\":[{number}],\"jid\":\"{number}\"}}")).await;
    }
    let consumer = site.consumer(2).await;
    let jobs = take(&consumer, 2).await;
    // Nothing can be put where a directory is.
    let snapshot = server.directory().join("dump.rdb");
    std::fs::create_dir(&snapshot).unwrap();
    saved(&site, "err").await;
    consumer.settle(Settlement { tag: jobs[0].tag, verdict: hourly("no"), effects: None });
    let ticket = consumer.settle(Settlement { tag: jobs[1].tag, verdict: Verdict::Done, effects: None });
    let mut health = site.port.health();
    let refusing = health.wait_for(|health| matches!(health, Health::Refusing(_)));
    drop(tokio::time::timeout(Duration::from_secs(20), refusing).await.expect("it is told").unwrap());
    let error = consumer.status().health.error().unwrap().clone();
    assert!(
        error.kind == Kind::Full && error.message.contains("cannot save") && error.message.contains("`df`")
    );
    assert!(*consumer.durable().borrow() < ticket, "nothing was written");
    let message = Outgoing::new(Destination::queue("unsaved"), "A", "[]");
    let refused = site.port.publish(vec![message]).await.unwrap().remove(0).unwrap_err();
    assert_eq!(refused.kind, Kind::Full, "{refused}");
    std::fs::remove_dir(&snapshot).unwrap();
    saved(&site, "ok").await;
    consumer.durable().wait_for(|durable| *durable >= ticket).await.unwrap();
    health.wait_for(Health::is_ready).await.unwrap();
    let rest = take(&consumer, 2).await;
    let names: BTreeSet<_> = rest.iter().map(|job| job.message.name.as_deref().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["2", "3"]));
    assert_eq!(site.ask::<u64>(&["ZCARD", "retry"]).await, 1);
}

#[tokio::test]
async fn jobs_come_and_go_over_tls_with_a_ca_of_ones_own() {
    let certificates = Certificates::usual();
    let server = Redis::secured(&certificates, "server").unwrap();
    let ca = certificates.path("ca.pem");
    let site = Site::on(&format!("rediss://localhost:{}/0?cacertfile={ca}", server.port()), "tls");
    let message = Outgoing::new(Destination::queue("tls"), "A", "[1]");
    site.port.publish(vec![message]).await.unwrap().remove(0).unwrap();
    let consumer = site.consumer(3).await;
    settle(&consumer, &take(&consumer, 1).await[0], Verdict::Done).await;
    let url = format!("sidekiq+rediss://localhost:{}/0?queue=tls&cacertfile={ca}", server.port());
    let address: super::Address = url.parse().unwrap();
    assert_eq!(address.queue.as_deref(), Some("tls"));
    assert!(crate::redis::inspect(&address.target).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_under_load_leave_nothing_behind() {
    let proxy = Proxy::start(SERVER.port()).await.unwrap();
    let site = Site::on(&format!("redis://127.0.0.1:{}", proxy.port()), "cut");
    let jobs: Vec<Outgoing> = (0..2_000)
        .map(|number| Outgoing::new(Destination::queue("cut"), "A", format!("[{number}]")))
        .collect();
    site.port.publish(jobs).await.unwrap();
    let consumer = site.consumer(40).await;
    let mut came = BTreeSet::new();
    let mut doubled = 0;
    while came.len() < 2_000 {
        for delivery in consumer.next(7).await.unwrap() {
            let is_new = came.insert(delivery.message.payload.clone());
            // A machine that is too busy for a sign of life may have others take over.
            doubled += usize::from(!is_new && !delivery.redelivered);
            consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects: None });
        }
        if came.len() % 100 < 7 {
            proxy.set(Mode::Close);
            let mut health = site.port.health();
            health.wait_for(|health| !health.is_ready()).await.unwrap();
            proxy.set(Mode::Pass);
        }
    }
    assert_eq!(doubled, 0, "a claim outlives its connection, or what it was comes as redelivered");
    let drained = consumer.drain(Instant::now() + Duration::from_secs(10)).await.unwrap();
    assert_eq!(drained.returned, 0);
    let beside = Site::on(&SERVER.url(), "cut");
    assert_eq!(beside.ask::<u64>(&["LLEN", "queue:cut"]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_the_server_lose_nothing() {
    let mut server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "killed");
    let consumer = site.consumer(30).await;
    let mut missing = BTreeSet::new();
    for round in 0..5 {
        let payloads: Vec<String> = (0..200).map(|number| format!("[{}]", 200 * round + number)).collect();
        let message = |payload: &String| Outgoing::new(Destination::queue("killed"), "A", payload.clone());
        let answers = site.port.publish(payloads.iter().map(message).collect()).await.unwrap();
        let confirmed = payloads.into_iter().zip(answers).filter(|(_, answer)| answer.is_ok());
        missing.extend(confirmed.map(|(payload, _)| payload));
        let enough = missing.len() / 2;
        while missing.len() > enough {
            for delivery in consumer.next(10).await.unwrap() {
                missing.remove(std::str::from_utf8(&delivery.message.payload).unwrap());
                consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects: None });
            }
        }
        server.kill();
        site.port.health().wait_for(|health| !health.is_ready()).await.unwrap();
        server.restart().unwrap();
    }
    while !missing.is_empty() {
        for delivery in consumer.next(10).await.unwrap() {
            missing.remove(std::str::from_utf8(&delivery.message.payload).unwrap());
            consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects: None });
        }
    }
}

#[tokio::test]
async fn a_wrong_password_shows_in_the_status() {
    let server = Redis::configured(&["--requirepass", "right"]).unwrap();
    let site = Site::on(&format!("redis://:wrong@127.0.0.1:{}", server.port()), "denied");
    let consumer = site.consumer(3).await;
    let denied = |health: &Health| health.error().is_some_and(|error| error.kind == Kind::Denied);
    site.port.health().wait_for(denied).await.unwrap();
    assert!(denied(&consumer.status().health));
}

#[tokio::test]
async fn jobs_that_nobody_consumes_hide_none_of_ours() {
    let server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "hidden");
    let now = SystemClock.now().as_millis() / 1_000;
    // Ours lie at the end of each look, between two of them, and among the last ones.
    let places = [0, 9_999, 10_000, 21_234, 24_500, 24_999];
    for set in ["retry", "schedule"] {
        let mut words = vec!["ZADD".to_owned(), set.to_owned()];
        for number in 0..25_000 {
            let queue = if places.contains(&number) { "hidden" } else { "nobodys" };
            // Many have the same time.
            words.push((now - 10_000 + number / 1_000).to_string());
            words.push(format!(
                "{{\"class\":\"A\",\"args\":[],\"queue\":\"{queue}\",\"jid\":\"{set}{number:05}\"}}"
            ));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(site.ask::<u64>(&words).await, 25_000);
    }
    let consumer = site.consumer(20).await;
    let came = tokio::time::timeout(Duration::from_secs(20), take(&consumer, 12)).await.unwrap();
    let came: BTreeSet<_> = came.iter().map(|delivery| delivery.message.name.clone().unwrap()).collect();
    let wanted = ["retry", "schedule"]
        .into_iter()
        .flat_map(|set| places.map(|place| format!("{set}{place:05}").into()));
    assert_eq!(came, wanted.collect());
    assert_eq!(site.ask::<u64>(&["ZCARD", "retry"]).await, 25_000 - 6, "others' jobs are left to them");
    // What is scheduled now lies behind all of them, and waits for none.
    let message = Outgoing {
        run_at: Some(SystemClock.now()),
        ..Outgoing::new(Destination::queue("hidden"), "A", "[1]")
    };
    let began = Instant::now();
    site.port.publish(vec![message]).await.unwrap().remove(0).unwrap();
    take(&consumer, 1).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn ids_are_kept_whatever_their_form() {
    let site = Site::on(&SERVER.url(), "ids");
    let message =
        Outgoing { id: Some("order/7 ü".into()), ..Outgoing::new(Destination::queue("ids"), "A", "7") };
    let receipts = site.port.publish(vec![message.clone(), message]).await.unwrap();
    assert!(receipts.iter().all(|receipt| &*receipt.as_ref().unwrap().id == "order/7 ü"));
    let jobs: Vec<serde_json::Value> = site
        .ask::<Vec<String>>(&["LRANGE", "queue:ids", "0", "-1"])
        .await
        .iter()
        .map(|job| serde_json::from_str(job).unwrap())
        .collect();
    let jid = jobs[0]["jid"].as_str().unwrap();
    assert!(
        jid.len() == 24
            && jobs[1]["jid"] == jid
            && jobs[0]["args"][0]["job_id"] == jobs[1]["args"][0]["job_id"]
    );
    assert_eq!(jobs[0]["args"][0]["arguments"], serde_json::json!([7]));
    let consumer = site.consumer(3).await;
    let delivery = take(&consumer, 1).await.remove(0);
    assert_eq!(delivery.message.name.as_deref(), Some("order/7 ü"));
    consumer.drain(Instant::now()).await.unwrap();
}
