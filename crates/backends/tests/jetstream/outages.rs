//! What goes away while it is used, and comes back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use outboard_backends::jetstream::Options;
use outboard_core::{
    Consumer, Delivery, Health, Kind, Settlement, Verdict,
    queue::{ConsumeSpec, Destination, Outgoing, Prefetch, Queue, QueueName, QueueSpec},
};
use outboard_testkit::{Nats, Proxy, proxy::Mode};
use tokio::time::{Instant, timeout};

use crate::{open, raw, refusals::status_until, server, unique_name};

/// Fails instead of waiting for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("this happens within 20 s")
}

pub(crate) async fn until(port: &Arc<dyn Queue>, is_wanted: impl FnMut(&Health) -> bool) {
    soon(port.health().wait_for(is_wanted)).await.expect("the port lives");
}

/// A queue that is there.
pub(crate) async fn queue(port: &Arc<dyn Queue>) -> QueueName {
    let name = unique_name();
    soon(port.declare(QueueSpec::named(name.clone()))).await.expect("it can be made");
    name
}

pub(crate) async fn consumer(port: &Arc<dyn Queue>, queue: &str) -> Arc<dyn Consumer> {
    let spec =
        ConsumeSpec { prefetch: Prefetch::Fixed(20), ..ConsumeSpec::new("worker", QueueSpec::named(queue)) };
    soon(port.consume(spec)).await.expect("it can be consumed")
}

pub(crate) async fn publish(port: &Arc<dyn Queue>, queue: &str, payload: &str) {
    let message = Outgoing::new(Destination::queue(queue), "a/b", payload.to_owned());
    soon(port.publish(vec![message])).await.expect("it answers").remove(0).expect("it is taken");
}

pub(crate) async fn one(consumer: &Arc<dyn Consumer>) -> Delivery {
    soon(consumer.next(1)).await.expect("it delivers").remove(0)
}

pub(crate) async fn settle(consumer: &Arc<dyn Consumer>, delivery: &Delivery, verdict: Verdict) {
    let ticket = consumer.settle(Settlement { tag: delivery.tag, verdict, effects: None });
    soon(consumer.durable().wait_for(|durable| *durable >= ticket)).await.expect("it lives");
}

#[tokio::test]
async fn a_deleted_stream_is_made_again_and_consumed_within_three_seconds() {
    let port = open(server().port(), Options::default());
    let name = queue(&port).await;
    let consumer = consumer(&port, &name).await;
    publish(&port, &name, "before").await;
    let before = one(&consumer).await;
    let began = Instant::now();
    raw::api(server().port(), &format!("STREAM.DELETE.{name}"));
    let answer = async {
        loop {
            let message = Outgoing::new(Destination::queue(&*name), "a/b", "after");
            if port.publish(vec![message]).await.unwrap().remove(0).is_ok() {
                return one(&consumer).await;
            }
        }
    };
    let after = soon(answer).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(&after.message.payload[..], b"after");
    assert!(after.tag.epoch > before.tag.epoch, "what was in hand is gone with the stream");
    settle(&consumer, &before, Verdict::Done).await;
    assert_eq!(consumer.status().unsettled, 1, "the old tag settles nothing");
    settle(&consumer, &after, Verdict::Done).await;
}

#[tokio::test]
async fn what_comes_without_an_id_has_one_for_life_and_no_other_message_ever_has() {
    let mut nats = Nats::start().unwrap();
    let port = open(nats.port(), Options::default());
    let name = queue(&port).await;
    let consumer = consumer(&port, &name).await;
    raw::request(nats.port(), &name, b"1");
    let first = one(&consumer).await;
    let id = first.message.name.clone().unwrap();
    nats.kill();
    until(&port, |health| matches!(health, Health::Recovering { .. })).await;
    nats.restart().unwrap();
    settle(&consumer, &first, Verdict::Return).await;
    let again = one(&consumer).await;
    assert_eq!(again.message.name.as_ref(), Some(&id), "neither another delivery nor a restart changes it");
    raw::api(nats.port(), &format!("STREAM.DELETE.{name}"));
    // It is made again before the message can be taken.
    soon(port.declare(QueueSpec::named(name.clone()))).await.expect("it can be made");
    raw::request(nats.port(), &name, b"2");
    let other = one(&consumer).await;
    assert_eq!(&other.message.payload[..], b"2");
    assert_eq!(other.message.name.as_deref().unwrap().split(':').nth(1), id.split(':').nth(1));
    assert_ne!(other.message.name, Some(id), "it has the position of the old one, and is another one");
}

#[tokio::test]
async fn a_deleted_consumer_is_made_again_and_nothing_is_lost() {
    let port = open(server().port(), Options::default());
    let name = queue(&port).await;
    let consumer = consumer(&port, &name).await;
    publish(&port, &name, "1").await;
    let first = one(&consumer).await;
    let began = Instant::now();
    raw::api(server().port(), &format!("CONSUMER.DELETE.{name}.worker"));
    let again = one(&consumer).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!((&again.message.name, again.attempt), (&first.message.name, 1));
    settle(&consumer, &again, Verdict::Done).await;
}

/// It is patient with what it was told on the old connection: the next try would have been 5 to 10 s after the last one.
#[tokio::test]
async fn what_fails_on_a_new_connection_is_a_trouble_of_its_own() {
    let proxy = Proxy::start(server().port()).await.unwrap();
    let port = open(proxy.port(), Options::default());
    let name = unique_name();
    let spec = QueueSpec { create: false, ..QueueSpec::named(name.clone()) };
    let consumer = soon(port.consume(ConsumeSpec::new("worker", spec))).await.unwrap();
    let missed = |health: &Health| match health {
        Health::Recovering { since, attempt: 1, error } if error.kind == Kind::NotFound => Some(*since),
        _ => None,
    };
    let before = missed(&status_until(&consumer, |health| missed(health).is_some()).await).unwrap();
    let again = async |is_wanted: &dyn Fn(&Health) -> bool| {
        proxy.cut().await;
        proxy.set(Mode::Pass);
        let back = timeout(Duration::from_secs(3), status_until(&consumer, is_wanted)).await;
        back.expect("it is tried as soon as the server is reached");
    };
    again(&|health| missed(health).is_some_and(|since| since > before)).await;
    soon(open(server().port(), Options::default()).declare(QueueSpec::named(name))).await.unwrap();
    again(&Health::is_ready).await;
}

#[tokio::test]
async fn a_server_that_goes_silent_is_noticed_and_consumed_again() {
    let proxy = Proxy::start(server().port()).await.unwrap();
    let options = Options { heartbeat: Duration::from_millis(200), ..Options::default() };
    let port = open(proxy.port(), options);
    let name = queue(&port).await;
    let consumer = consumer(&port, &name).await;
    publish(&port, &name, "1").await;
    let first = one(&consumer).await;
    proxy.set(Mode::Silent);
    until(&port, |health| matches!(health, Health::Recovering { .. })).await;
    // Held through the outage, and settled after it.
    let ticket = consumer.settle(Settlement { tag: first.tag, verdict: Verdict::Done, effects: None });
    assert!(*consumer.durable().borrow() < ticket, "nobody has heard it yet");
    proxy.set(Mode::Close);
    proxy.set(Mode::Pass);
    let began = Instant::now();
    soon(consumer.durable().wait_for(|durable| *durable >= ticket)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    publish(&port, &name, "2").await;
    assert_eq!(&one(&consumer).await.message.payload[..], b"2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_it_confirmed() {
    let mut nats = Nats::start().unwrap();
    nats.kill();
    // What the server had sent and we had not read when it was killed comes again after this time.
    let options = Options { ack_wait: Duration::from_secs(2), ..Options::default() };
    // Begun before the server is up.
    let (port, name) = (open(nats.port(), options), unique_name());
    let consumer = consumer(&port, &name).await;
    nats.restart().unwrap();
    soon(port.declare(QueueSpec::named(name.clone()))).await.unwrap();
    let mut missing = BTreeSet::new();
    for round in 0..4 {
        for number in 0..20 {
            let payload = format!("{round}.{number}");
            publish(&port, &name, &payload).await;
            missing.insert(payload);
        }
        let held = one(&consumer).await;
        let failed = one(&consumer).await;
        let attempt = failed.attempt;
        settle(&consumer, &failed, Verdict::RetryAfter { delay: Duration::ZERO, reason: "no".into() }).await;
        nats.kill();
        until(&port, |health| matches!(health, Health::Recovering { .. })).await;
        nats.restart().unwrap();
        let began = Instant::now();
        settle(&consumer, &held, Verdict::Done).await;
        missing.remove(std::str::from_utf8(&held.message.payload).unwrap());
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        while !missing.is_empty() {
            let delivery = one(&consumer).await;
            if delivery.message.name == failed.message.name {
                assert_eq!(delivery.attempt, attempt + 1, "the failure is counted, the crash is not");
            } else {
                assert_eq!(delivery.attempt, 1);
            }
            missing.remove(std::str::from_utf8(&delivery.message.payload).unwrap());
            settle(&consumer, &delivery, Verdict::Done).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_in_hand_when_the_server_is_killed_is_settled_and_never_comes_again() {
    let mut nats = Nats::start().unwrap();
    let options = Options { ack_wait: Duration::from_secs(2), ..Options::default() };
    let port = open(nats.port(), options);
    let name = queue(&port).await;
    let consumer = consumer(&port, &name).await;
    publish(&port, &name, "1").await;
    publish(&port, &name, "2").await;
    let (during, after) = (one(&consumer).await, one(&consumer).await);
    // When it is started for the first time after the consumer was made, it tells another time of that.
    nats.kill();
    until(&port, |health| matches!(health, Health::Recovering { .. })).await;
    consumer.settle(Settlement { tag: during.tag, verdict: Verdict::Done, effects: None });
    nats.restart().unwrap();
    until(&port, Health::is_ready).await;
    publish(&port, &name, "3").await;
    let next = one(&consumer).await;
    assert_eq!(&next.message.payload[..], b"3", "nothing was delivered again");
    assert_eq!(next.tag.epoch, during.tag.epoch, "nothing was said to be deleted");
    settle(&consumer, &next, Verdict::Done).await;
    settle(&consumer, &after, Verdict::Done).await;
    // What is acknowledged is removed from a work queue.
    let stream = raw::request(nats.port(), &format!("$JS.API.STREAM.INFO.{name}"), b"");
    let stream = String::from_utf8(stream).unwrap();
    assert!(stream.contains("\"messages\":0,"), "all of them are done: {stream}");
}

#[tokio::test]
async fn what_takes_longer_than_the_server_waits_is_not_delivered_twice() {
    let options = Options { ack_wait: Duration::from_millis(600), ..Options::default() };
    let port = open(server().port(), options);
    let name = queue(&port).await;
    let busy = consumer(&port, &name).await;
    publish(&port, &name, "long").await;
    let long = one(&busy).await;
    let other = consumer(&port, &name).await;
    assert!(timeout(Duration::from_secs(3), other.next(1)).await.is_err(), "it is still being worked on");
    settle(&busy, &long, Verdict::Done).await;
    publish(&port, &name, "next").await;
    let stop = Instant::now();
    soon(busy.drain(stop)).await.unwrap();
    assert_eq!(&one(&other).await.message.payload[..], b"next");
}
