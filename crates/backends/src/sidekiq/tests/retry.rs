//! How often a job that fails is tried again, and what becomes of it then, where it says that itself.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Mutex, PoisonError},
};

use outboard_core::queue::DeadMessage;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::{
    gone::{SOON, gone_with},
    *,
};

/// What the worker of these tests allows.
const ATTEMPTS: u32 = 4;

fn job(jid: &str, fields: &str) -> String {
    format!("{{\"class\":\"Charge\",\"args\":[],\"jid\":\"{jid}\"{fields}}}")
}

/// What the runtime says of an attempt that failed.
fn failed(delivery: &Delivery) -> Verdict {
    if delivery.attempt >= ATTEMPTS {
        return Verdict::Dead { reason: "the worker gives up".into() };
    }
    Verdict::RetryAfter { delay: Duration::ZERO, reason: "no".into() }
}

#[tokio::test]
async fn whichever_is_smaller_bounds_the_attempts_that_fail() {
    let server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "bounded");
    // What each job says, and how often it runs.
    let jobs = [
        (",\"retry\":false", 1),
        (",\"retry\":0", 1),
        (",\"retry\":-1", 1),
        (",\"retry\":1", 2),
        (",\"retry\":2", 3),
        (",\"retry\":2,\"retry_count\":1", 1),
        (",\"retry\":25", ATTEMPTS),
        (",\"retry\":true", ATTEMPTS),
        (",\"retry\":null", ATTEMPTS),
        (",\"retry\":\"1\"", ATTEMPTS),
        ("", ATTEMPTS),
    ];
    let name = |fields: &str| format!("a{}", fields.replace('"', "'"));
    for (fields, _) in jobs {
        site.push(&job(&name(fields), fields)).await;
    }
    let consumer = site.consumer(20).await;
    let mut ran = BTreeMap::new();
    for _ in 0..jobs.iter().map(|(_, runs)| runs).sum() {
        let delivery = take(&consumer, 1).await.remove(0);
        *ran.entry(delivery.message.name.clone().unwrap().to_string()).or_insert(0) += 1;
        settle(&consumer, &delivery, failed(&delivery)).await;
    }
    assert_eq!(ran, BTreeMap::from(jobs.map(|(fields, runs)| (name(fields), runs))));
    assert_eq!(site.ask::<u64>(&["ZCARD", "retry"]).await, 0, "none is to come again");
    let letters = site.port.dead("bounded".into(), 20).await.unwrap();
    assert_eq!(letters.len(), jobs.len(), "and none is lost");
    let letter = |fields: &str| {
        let letter = letters.iter().find(|letter| letter.id.as_deref() == Some(&name(fields))).unwrap();
        (letter.attempts, &*letter.reason)
    };
    assert_eq!(
        letter(",\"retry\":false"),
        (1, "given up after 1 attempt, by the job's `retry` (no retry); the last one said: no")
    );
    assert_eq!(
        letter(",\"retry\":2"),
        (3, "given up after 3 attempts, by the job's `retry` (2 at most); the last one said: no")
    );
    assert_eq!(letter(",\"retry\":25"), (ATTEMPTS, "the worker gives up"));
}

#[tokio::test]
async fn what_says_dead_false_is_dropped_with_a_line_and_all_else_is_kept() {
    let server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "dropped");
    let lines = Lines::default();
    let _told = tracing::subscriber::set_default(lines.clone());
    for (jid, fields) in [
        ("spent", ",\"retry\":0,\"dead\":false"),
        ("buried", ",\"retry\":5,\"dead\":false"),
        ("again", ",\"dead\":false"),
        ("kept", ",\"retry\":false"),
        ("also kept", ",\"retry\":false,\"dead\":null"),
        ("left", ",\"dead\":true"),
    ] {
        site.push(&job(jid, fields)).await;
    }
    let consumer = site.consumer(10).await;
    let jobs = take(&consumer, 6).await;
    for delivery in &jobs {
        let verdict = match delivery.message.name.as_deref().unwrap() {
            "buried" | "left" => Verdict::Dead { reason: "never".into() },
            _ => hourly("not now"),
        };
        settle(&consumer, delivery, verdict).await;
    }
    let ids = |letters: Vec<_>| letters.into_iter().map(|letter: DeadMessage| letter.id.unwrap()).collect();
    let dead: BTreeSet<Arc<str>> = ids(site.port.dead("dropped".into(), 10).await.unwrap());
    assert_eq!(dead, BTreeSet::from(["kept", "also kept", "left"].map(Arc::from)));
    let retried: Vec<String> = site.ask(&["ZRANGE", "retry", "0", "-1"]).await;
    assert!(retried.len() == 1 && retried[0].contains("\"jid\":\"again\""), "{retried:?}");
    assert_eq!(site.ask::<(u64, u64)>(&["MGET", "stat:processed", "stat:failed"]).await, (6, 6));
    let drained = consumer.drain(Instant::now() + Duration::from_secs(10)).await.unwrap();
    assert_eq!(drained.returned, 0);
    let keys: Vec<String> = site.ask(&["KEYS", "outboard:*"]).await;
    assert!(keys.is_empty(), "nobody has any of them in hand: {keys:?}");
    let told = |id: &str| lines.of(&format!("message_id={id} "));
    for (id, reason) in [("spent", "the last one said: not now"), ("buried", "reason=never")] {
        let [line] = &told(id)[..] else { panic!("one line for `{id}`: {:?}", told(id)) };
        let parts = ["dropped", "worker=\"worker\"", "class=\"Charge\"", reason];
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    assert!(told("kept").len() == 1 && told("kept")[0].starts_with("dead letter"), "{:?}", told("kept"));
    assert!(told("left").is_empty() && told("again").is_empty(), "the runtime tells of these");
}

#[tokio::test]
async fn what_did_not_fail_comes_again_whatever_it_says() {
    let server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "again");
    // From now on the port moves due jobs to this queue.
    site.consumer(1).await.drain(Instant::now()).await.unwrap();
    site.push(&job("1", ",\"retry\":false,\"dead\":false")).await;
    // Its process is gone as a killed one is.
    let gone = gone_with(&server, &site, 1).await;
    let consumer = site.short_lived(3);
    site.until_unseen(&gone).await;
    let snooze = Verdict::Snooze { delay: Duration::ZERO };
    for verdict in [Verdict::Return, snooze, Verdict::Return, Verdict::Done] {
        let came = tokio::time::timeout(SOON, take(&consumer, 1)).await;
        let delivery = came.unwrap_or_else(|_| panic!("lost before {verdict:?}")).remove(0);
        assert_eq!((delivery.attempt, delivery.redelivered), (1, true), "before {verdict:?}");
        settle(&consumer, &delivery, verdict).await;
    }
    assert_eq!(site.ask::<u64>(&["LLEN", "queue:again"]).await, 0);
    assert_eq!(site.ask::<u64>(&["EXISTS", "dead", "stat:failed"]).await, 0);
}

/// The warnings of this thread, each as its text and its fields.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn of(&self, part: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.contains(part)).cloned().collect()
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        struct Line(String, String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                match field.name() {
                    "message" => self.0 = format!("{value:?}"),
                    name => self.1 += &format!(" {name}={value:?}"),
                }
            }
        }
        let mut line = Line(String::new(), String::new());
        event.record(&mut line);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.0 + &line.1);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
