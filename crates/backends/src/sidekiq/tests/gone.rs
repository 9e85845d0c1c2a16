//! Holders that are gone, and holders that only seem to be.

use std::collections::VecDeque;

use outboard_core::consumer::Flow;

use super::*;
use crate::sidekiq::consumer::{JobConsumer, Signs};

/// Short, so that a test need not wait for long; many may be late on a machine that is busy.
const SIGNS: Signs = Signs { every: Duration::from_millis(100), count_for: Duration::from_secs(2) };

/// What a test waits for comes long before.
pub(super) const SOON: Duration = Duration::from_secs(30);

impl Site {
    pub(super) fn short_lived(&self, prefetch: u32) -> Arc<dyn Consumer> {
        let spec = ConsumeSpec::new("worker", QueueSpec::named(self.queue));
        let spec = ConsumeSpec { prefetch: Prefetch::Fixed(prefetch), ..spec };
        JobConsumer::start(self.beside.clone(), spec, system_clock(), SIGNS)
    }

    /// The keys of holders that have given a sign of life.
    async fn seen(&self) -> BTreeSet<String> {
        self.ask(&["KEYS", &format!("outboard:alive:{}:*", self.queue)]).await
    }

    /// The key of the only holder that is not among these, as soon as there is one.
    async fn seen_beside(&self, known: &BTreeSet<String>) -> String {
        let mut look_again = tokio::time::interval(Duration::from_millis(5));
        loop {
            look_again.tick().await;
            if let Some(key) = self.seen().await.difference(known).next() {
                return key.clone();
            }
        }
    }

    /// How many milliseconds it still counts; negative when it does not any more.
    async fn counts_for(&self, key: &str) -> i64 {
        self.ask(&["PTTL", key]).await
    }

    pub(super) async fn until_unseen(&self, key: &str) {
        let mut look_again = tokio::time::interval(Duration::from_millis(5));
        while self.counts_for(key).await >= 0 {
            look_again.tick().await;
        }
    }

    /// Waits until so many signs of life have come.
    async fn heard(&self, key: &str, signs: usize) {
        let mut look_again = tokio::time::interval(Duration::from_millis(5));
        let (mut heard, mut counted_for) = (0, self.counts_for(key).await);
        while heard < signs {
            look_again.tick().await;
            let counts_for = self.counts_for(key).await;
            heard += usize::from(counts_for > counted_for);
            counted_for = counts_for;
        }
    }
}

fn numbered(number: usize) -> String {
    format!("{{\"class\":\"A\",\"args\":[{number}],\"jid\":\"{number}\"}}")
}

async fn set(site: &Site, option: &str, value: &str) {
    let () = site.ask(&["CONFIG", "SET", option, value]).await;
}

#[tokio::test]
async fn who_gave_no_sign_because_redis_took_none_keeps_its_jobs() {
    let server = Redis::start().unwrap();
    let proxy = Proxy::start(server.port()).await.unwrap();
    let late = Site::on(&format!("redis://127.0.0.1:{}", proxy.port()), "spell");
    let early = Site::on(&server.url(), "spell");
    early.push(&numbered(1)).await;
    let holder = late.short_lived(1);
    let job = take(&holder, 1).await.remove(0);
    let late_key = early.seen_beside(&BTreeSet::new()).await;
    let other = early.short_lived(1);
    let early_key = early.seen_beside(&BTreeSet::from([late_key.clone()])).await;
    set(&early, "min-replicas-to-write", "1").await;
    early.until_unseen(&late_key).await;
    early.until_unseen(&early_key).await;
    // The other one is heard first when Redis takes writes again.
    proxy.set(Mode::Silent);
    set(&early, "min-replicas-to-write", "0").await;
    early.seen_beside(&BTreeSet::new()).await;
    early.heard(&early_key, 2).await;
    early.push(&numbered(2)).await;
    let came = take(&other, 1).await.remove(0);
    assert!(came.message.payload[..] == *b"[2]" && !came.redelivered, "{came:?}");
    proxy.set(Mode::Pass);
    // Longer than signs count for: from now on whoever is not seen is gone.
    early.heard(&early_key, 25).await;
    assert_eq!(early.ask::<u64>(&["HLEN", &late_key.replace(":alive:", ":claims:")]).await, 1);
    settle(&holder, &job, Verdict::Done).await;
    assert_eq!(early.ask::<u64>(&["GET", "stat:processed"]).await, 1, "its settlement counts");
}

#[tokio::test]
async fn signs_of_life_need_no_memory() {
    let server = Redis::configured(&["--maxmemory-policy", "noeviction"]).unwrap();
    let site = Site::on(&server.url(), "signs");
    let _consumer = site.short_lived(1);
    let key = site.seen_beside(&BTreeSet::new()).await;
    set(&site, "maxmemory", "1").await;
    let message = Outgoing::new(Destination::queue("signs"), "A", "[]");
    let refused = site.port.publish(vec![message]).await.unwrap().remove(0).unwrap_err();
    assert_eq!(refused.kind, Kind::Full, "{refused}");
    tokio::time::timeout(SOON, site.heard(&key, 3)).await.expect("they still come");
}

/// A consumer that took so many jobs and is gone without a word, and the key of its signs of life.
pub(super) async fn gone_with(server: &Redis, site: &Site, jobs: u32) -> String {
    let proxy = Proxy::start(server.port()).await.unwrap();
    let gone = Site::on(&format!("redis://127.0.0.1:{}", proxy.port()), site.queue);
    let others = site.seen().await;
    let consumer = gone.short_lived(jobs);
    take(&consumer, jobs as usize).await;
    let key = site.seen_beside(&others).await;
    proxy.cut().await;
    key
}

#[tokio::test]
async fn what_the_gone_left_comes_before_a_backlog_to_one_that_never_has_room() {
    let server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "backlog");
    for number in 0..60 {
        site.push(&numbered(number)).await;
    }
    let gone = gone_with(&server, &site, 2).await;
    let consumer = site.short_lived(2);
    let key = site.seen_beside(&BTreeSet::from([gone.clone()])).await;
    let mut held: VecDeque<_> = take(&consumer, 2).await.into();
    site.until_unseen(&gone).await;
    // So many that it knows; at each of them its hands are full.
    site.heard(&key, 5).await;
    let mut came = Vec::new();
    for _ in 0..4 {
        settle(&consumer, &held.pop_front().unwrap(), Verdict::Done).await;
        let next = take(&consumer, 1).await.remove(0);
        came.push((String::from_utf8(next.message.payload.to_vec()).unwrap(), next.redelivered));
        held.push_back(next);
    }
    let wanted = [("[0]", true), ("[1]", true), ("[4]", false), ("[5]", false)];
    assert_eq!(came, wanted.map(|(payload, redelivered)| (payload.to_owned(), redelivered)));
}

#[tokio::test]
async fn what_the_gone_left_ends_a_wait_for_the_queue() {
    let server = Redis::start().unwrap();
    let site = Site::on(&server.url(), "idle");
    let consumer = site.short_lived(3);
    site.seen_beside(&BTreeSet::new()).await;
    // The other one is what it has to wait for, so that it may not have the first ones.
    consumer.flow(Flow::Paused);
    site.push(&numbered(0)).await;
    let gone = gone_with(&server, &site, 1).await;
    consumer.flow(Flow::Running { prefetch: 3 });
    site.until_unseen(&gone).await;
    // A wait for the queue alone is as long as five seconds.
    let came = tokio::time::timeout(Duration::from_secs(2), take(&consumer, 1)).await.unwrap();
    assert!(came[0].message.payload[..] == *b"[0]" && came[0].redelivered);
}
