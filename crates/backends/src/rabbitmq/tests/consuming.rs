//! Consuming through what the suite for all backends does not know of.

use std::sync::Arc;

use outboard_core::{
    Consumer, Delivery, Health, Settlement, Verdict,
    consumer::Tag,
    queue::{
        Argument, ConsumeSpec, Declared, Destination, Identify, Outgoing, Prefetch, Queue, QueueKind,
        QueueName, QueueSpec,
    },
};
use outboard_testkit::{Proxy, proxy::Mode, rabbitmq::url_at};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::Instant,
};

use super::{
    Bytes, BytesMut, Channel, Connection, Content, Duration, Kind, Method, Properties, RabbitMq, Table,
    connect, publish_to, shared, short, start, stay_alive, timeout,
};
use crate::rabbitmq::{Options, RabbitMq as Queues, Value, codec::frame::put_method, topology::look};

/// As the promise for a queue that is deleted says.
pub(super) const SOON: Duration = Duration::from_secs(3);

pub(super) fn queues(url: &str) -> Queues {
    Queues::new(url.parse().expect("a URL"), Options::default())
}

fn spec(queue: &str) -> ConsumeSpec {
    ConsumeSpec { prefetch: Prefetch::Fixed(10), ..ConsumeSpec::new("worker", QueueSpec::named(queue)) }
}

pub(super) async fn consumer(queues: &Queues, queue: &str) -> Arc<dyn Consumer> {
    queues.consume(spec(queue)).await.expect("nothing is wrong with it")
}

async fn publish(queues: &Queues, queue: &str, payload: &str) {
    let message = Outgoing::new(Destination::queue(queue), "suite/message", payload.to_owned());
    let answers = queues.publish(vec![message]).await.expect("the port is open");
    answers.into_iter().for_each(|answer| drop(answer.expect("the broker takes it")));
}

pub(super) async fn one(consumer: &Arc<dyn Consumer>) -> Delivery {
    let next = timeout(Duration::from_secs(20), consumer.next(1)).await;
    next.expect("a message comes").expect("the consumer lives").remove(0)
}

/// Settles, and waits until the broker has heard of it.
pub(super) async fn settle(consumer: &Arc<dyn Consumer>, tag: Tag, verdict: Verdict) {
    let mut durable = consumer.durable();
    let ticket = consumer.settle(Settlement { tag, verdict, effects: None });
    let told = timeout(super::WITHIN, durable.wait_for(|durable| *durable >= ticket)).await;
    told.expect("it is told").expect("the consumer lives");
}

pub(super) async fn until(what: &str, within: Duration, condition: impl Fn() -> bool) {
    let looking = async {
        let mut again = tokio::time::interval(Duration::from_millis(5));
        while !condition() {
            again.tick().await;
        }
    };
    timeout(within, looking).await.unwrap_or_else(|_| panic!("{what} within {within:?}"));
}

/// What another program does, on a connection of its own.
pub(super) async fn channel(broker: &RabbitMq) -> Channel {
    let connection: Connection = connect(broker).await;
    connection.channel().await.expect("there is room").keep()
}

async fn get(channel: &Channel, queue: &str) -> Content {
    channel.get(short(queue)).await.expect("the queue is there").expect("something is in it")
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again_and_consumed() {
    let queues = queues(&shared().url());
    let consumer = consumer(&queues, "deleted-while-consumed").await;
    publish_when_there(&queues, "deleted-while-consumed").await;
    let first = one(&consumer).await;
    let other = channel(shared()).await;
    let queue = short("deleted-while-consumed");
    other.call(&Method::QueueDelete { reserved1: 0, queue, flags: 0 }).await.expect("it is deleted");
    let began = Instant::now();
    let is_again = || consumer.status().epoch > first.tag.epoch && consumer.status().health.is_ready();
    until("it is consumed again", SOON, is_again).await;
    // Of the queue that is gone: it must not settle what has the same number now.
    consumer.settle(Settlement { tag: first.tag, verdict: Verdict::Done, effects: None });
    publish(&queues, "deleted-while-consumed", "[2]").await;
    let second = one(&consumer).await;
    assert_eq!(&second.message.payload[..], b"[2]");
    assert!(began.elapsed() < SOON);
    settle(&consumer, second.tag, Verdict::Done).await;
}

/// The consumer makes the queue, some time after it was asked for.
async fn publish_when_there(queues: &Queues, queue: &str) {
    queues.declare(QueueSpec::named(queue)).await.expect("it can be made");
    publish(queues, queue, "[1]").await;
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed_and_left() {
    let proxy = Proxy::start(shared().port()).await.unwrap();
    let queues = queues(&format!("{}?heartbeat=1", url_at(proxy.port())));
    let consumer = consumer(&queues, "silent").await;
    publish_when_there(&queues, "silent").await;
    let claimed = one(&consumer).await;
    proxy.set(Mode::Silent);
    let is_away = || matches!(consumer.status().health, Health::Recovering { .. });
    until("silence is noticed", Duration::from_secs(5), is_away).await;
    let mut health = queues.health();
    let noticed = timeout(Duration::from_secs(5), health.wait_for(|health| !health.is_ready())).await.is_ok();
    assert!(noticed, "also by the connection for publishing");
    proxy.cut().await;
    proxy.set(Mode::Pass);
    let again = one(&consumer).await;
    assert!(again.redelivered && again.tag.epoch > claimed.tag.epoch);
    assert_eq!(again.attempt, 1);
    settle(&consumer, again.tag, Verdict::Done).await;
}

/// Stands before the shared broker. When it is told to, it says in its name on each connection that the consumer `t` on the
/// second channel has ended, and from then on only that it is alive.
async fn falling_mute(now: Arc<Notify>) -> u16 {
    let mut cancel = BytesMut::new();
    put_method(&mut cancel, 2, &Method::BasicCancel { tag: short("t"), flags: 1 });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (now, cancel) = (now.clone(), cancel.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", shared().port())).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => return,
                    () = now.notified() => client.write_all(&cancel).await.unwrap(),
                }
                stay_alive(client).await;
            });
        }
    });
    port
}

/// As when the leader of a quorum queue is gone: who asks for the queue is not answered, and the connection lives.
#[tokio::test]
async fn a_consumer_that_was_ended_does_not_wait_for_an_answer_for_ever() {
    let now = Arc::new(Notify::new());
    let queues = queues(&format!("{}?heartbeat=1", url_at(falling_mute(now.clone()).await)));
    let consumer = queues.consume(ConsumeSpec { tag: Some("t".into()), ..spec("mute") }).await.unwrap();
    until("it is consumed", super::WITHIN, || consumer.status().health.is_ready()).await;
    now.notify_waiters();
    let is_told = || {
        let health = consumer.status().health;
        health.error().is_some_and(|error| error.message.contains("has ended the consumer of `mute`"))
    };
    until("it is told", super::WITHIN, is_told).await;
}

#[tokio::test]
async fn a_tag_of_a_lost_connection_settles_nothing() {
    let proxy = Proxy::start(shared().port()).await.unwrap();
    let queues = queues(&url_at(proxy.port()));
    let consumer = consumer(&queues, "stale").await;
    publish_when_there(&queues, "stale").await;
    let before = one(&consumer).await;
    proxy.cut().await;
    proxy.set(Mode::Pass);
    let after = one(&consumer).await;
    assert_eq!(after.tag.number, before.tag.number, "the same number, on another channel");
    for verdict in [Verdict::Done, Verdict::Return, Verdict::Dead { reason: "late".into() }] {
        settle(&consumer, before.tag, verdict).await;
    }
    assert_eq!(consumer.status().unsettled, 1);
    let drained = consumer.drain(Instant::now()).await.unwrap();
    assert_eq!(drained.returned, 1);
    assert_eq!(queues.stats("stale".into()).await.unwrap().ready, Some(1));
}

#[tokio::test]
async fn what_is_persistent_survives_the_end_of_the_broker() {
    let mut broker = tokio::task::spawn_blocking(start).await.unwrap();
    let queues = queues(&broker.url());
    let consumer = consumer(&queues, "survives").await;
    queues.declare(QueueSpec::named("survives")).await.unwrap();
    let batch = (0..100)
        .map(|number| Outgoing::new(Destination::queue("survives"), "suite/message", format!("[{number}]")));
    let answers = queues.publish(batch.collect()).await.unwrap();
    assert!(answers.iter().all(Result::is_ok));
    let claimed = one(&consumer).await;
    settle(&consumer, claimed.tag, Verdict::Dead { reason: "no such order".into() }).await;
    let broker = tokio::task::spawn_blocking(move || {
        broker.kill();
        broker.restart().map(|()| broker)
    });
    let _broker = broker.await.unwrap().unwrap();
    let mut missing: std::collections::BTreeSet<String> =
        (0..100).map(|number| format!("[{number}]")).collect();
    // The broker may have lost the acknowledgement of the dead one, and not its letter.
    missing.remove(&String::from_utf8_lossy(&claimed.message.payload).into_owned());
    while !missing.is_empty() {
        let delivery = one(&consumer).await;
        missing.remove(&String::from_utf8_lossy(&delivery.message.payload).into_owned());
        settle(&consumer, delivery.tag, Verdict::Done).await;
    }
    assert_eq!(queues.dead("survives".into(), 10).await.unwrap().len(), 1);
}

/// A retry counts as settled when it waits in a queue that survives the broker's process.
#[tokio::test]
async fn a_waiting_retry_survives_a_kill_of_the_broker() {
    let broker = tokio::task::spawn_blocking(start).await.unwrap();
    let queues = queues(&broker.url());
    let consumer = consumer(&queues, "waits").await;
    queues.declare(QueueSpec::named("waits")).await.unwrap();
    publish(&queues, "waits", "[1]").await;
    let first = one(&consumer).await;
    let delay = Duration::from_secs(8);
    settle(&consumer, first.tag, Verdict::RetryAfter { delay, reason: "not yet".into() }).await;
    let broker = tokio::task::spawn_blocking(move || {
        let mut broker = broker;
        broker.kill();
        broker.restart().map(|()| broker)
    });
    let _broker = broker.await.unwrap().unwrap();
    // The broker may have lost the acknowledgement of the original, but not the copy.
    let waiting = async {
        loop {
            let delivery = one(&consumer).await;
            settle(&consumer, delivery.tag, Verdict::Done).await;
            if delivery.attempt == 2 {
                return delivery;
            }
        }
    };
    let second = tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it is not lost");
    assert_eq!(&second.message.payload[..], b"[1]");
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_used_as_it_is() {
    let queues = queues(&shared().url());
    let arguments = [("x-max-priority".into(), Argument::Number(3))].into_iter().collect();
    queues.declare(QueueSpec { arguments, ..QueueSpec::named("differs-consumed") }).await.unwrap();
    let differs = queues.declare(QueueSpec::named("differs-consumed")).await.unwrap();
    assert!(matches!(&differs, Declared::Differs(text) if text.contains("x-max-priority")), "{differs:?}");
    let consumer = consumer(&queues, "differs-consumed").await;
    publish(&queues, "differs-consumed", "[1]").await;
    let delivery = one(&consumer).await;
    settle(&consumer, delivery.tag, Verdict::Done).await;
    assert!(consumer.status().health.is_ready());
}

#[tokio::test]
async fn a_queue_that_is_not_to_be_made_is_awaited() {
    let queues = queues(&shared().url());
    let mut spec = spec("not-ours");
    spec.queue.create = false;
    let consumer = queues.consume(spec).await.unwrap();
    let says_so = || consumer.status().health.error().is_some_and(|error| error.kind == Kind::NotFound);
    until("its absence shows", super::WITHIN, says_so).await;
    queues.declare(QueueSpec::named("not-ours")).await.unwrap();
    until("it is consumed", Duration::from_secs(15), || consumer.status().health.is_ready()).await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_its_mend() {
    let queues = queues(&shared().url());
    let long = ConsumeSpec { hold: Duration::from_secs(3_600), ..spec("long") };
    let error = queues.consume(long).await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
    for part in ["3600s", "1800s", "long: true", "consumer_timeout"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
    for prefetch in [0, 65_536] {
        let wrong = ConsumeSpec { prefetch: Prefetch::Fixed(prefetch), ..spec("wrong") };
        assert_eq!(queues.consume(wrong).await.unwrap_err().kind, Kind::Invalid);
    }
    queues.close(Instant::now() + super::WITHIN).await.unwrap();
    assert_eq!(queues.consume(spec("closed")).await.unwrap_err().kind, Kind::Closed);
}

/// A message as another program publishes it.
fn foreign(id: Option<&str>) -> Properties {
    let headers = Table::of([("tenant", "7".into()), ("big", Value::Long(5)), ("yes", true.into())]);
    Properties {
        headers: Some(headers),
        correlation_id: Some(short("c-1")),
        content_type: Some(short("application/json")),
        kind: Some(short("suite/message")),
        message_id: id.map(short),
        timestamp: Some(1_700_000_000),
        ..Properties::default()
    }
}

#[tokio::test]
async fn a_retry_keeps_everything_of_its_message_and_an_account_of_it() {
    let queues = queues(&shared().url());
    queues.declare(QueueSpec { kind: QueueKind::Classic, ..QueueSpec::named("kept") }).await.unwrap();
    let other = channel(shared()).await;
    other.publish(&publish_to("kept"), &foreign(Some("m-1")), b"{}").unwrap();
    let consumer = consumer(&queues, "kept").await;
    let first = one(&consumer).await;
    let texts: Vec<_> = first.message.headers.iter().collect();
    assert_eq!(texts, [("big", "5"), ("tenant", "7"), ("yes", "true")]);
    assert_eq!(first.message.timestamp.as_millis(), 1_700_000_000_000);
    // Not to come again while the test looks at where it waits.
    let retry = Verdict::RetryAfter { delay: Duration::from_secs(3_000), reason: "x".repeat(2_000).into() };
    settle(&consumer, first.tag, retry).await;
    let waiting = get(&other, "kept.retry.4096000ms").await;
    let found = Properties::read(waiting.properties).unwrap();
    let headers = &found.headers.as_ref().unwrap().0;
    assert_eq!(headers["x-retry-count"], Value::Int(1), "32 bits, as other programs write it");
    assert!(matches!(headers["x-first-failure-time"], Value::Long(at) if at > 1_700_000_000), "64 bits");
    assert_eq!(headers["x-original-queue"], "kept".into());
    assert!(matches!(&headers["x-retry-history"], Value::Array(said) if said.len() == 1));
    assert_eq!((&headers["big"], &headers["tenant"]), (&Value::Long(5), &"7".into()));
    let kept = foreign(Some("m-1"));
    assert_eq!((found.correlation_id, found.content_type), (kept.correlation_id, kept.content_type));
    assert_eq!((found.message_id, found.delivery_mode), (kept.message_id, Some(2)));
    assert_eq!(waiting.body, Bytes::from_static(b"{}"));
    assert_eq!(queues.stats("kept".into()).await.unwrap().ready, Some(0));
}

#[tokio::test]
async fn a_message_without_an_id_has_one_from_its_first_retry_or_from_its_content() {
    let queues = queues(&shared().url());
    let other = channel(shared()).await;
    for queue in ["nameless", "by-content"] {
        queues.declare(QueueSpec::named(queue)).await.unwrap();
        for _ in 0..2 {
            other.publish(&publish_to(queue), &foreign(None), b"{}").unwrap();
        }
    }
    let by_publisher = consumer(&queues, "nameless").await;
    let (first, second) = (one(&by_publisher).await, one(&by_publisher).await);
    assert!(!first.is_identified);
    assert_ne!(first.message.name, second.message.name);
    let retry = Verdict::RetryAfter { delay: Duration::ZERO, reason: "not yet".into() };
    settle(&by_publisher, first.tag, retry).await;
    let again = one(&by_publisher).await;
    assert_eq!((again.attempt, again.is_identified), (2, true));
    assert_eq!(again.message.name, first.message.name);
    let identify = Identify::ByContent;
    let by_content = queues.consume(ConsumeSpec { identify, ..spec("by-content") }).await.unwrap();
    let (first, second) = (one(&by_content).await, one(&by_content).await);
    assert!(first.is_identified);
    assert_eq!(first.message.name, second.message.name, "alike in everything counts as one");
}

#[tokio::test]
async fn a_message_that_nobody_could_write_is_delivered_all_the_same() {
    let queues = queues(&shared().url());
    queues.declare(QueueSpec::named("odd")).await.unwrap();
    let mut deep = Value::Void;
    for _ in 0..50 {
        deep = Value::Array(vec![deep]);
    }
    let properties = Properties { headers: Some(Table::of([("deep", deep)])), ..Properties::default() };
    let other = channel(shared()).await;
    other.publish(&publish_to("odd"), &properties, b"{}").unwrap();
    let consumer = consumer(&queues, "odd").await;
    let delivery = one(&consumer).await;
    assert_eq!((&*delivery.message.kind, delivery.message.headers.is_empty()), ("odd", true));
    settle(&consumer, delivery.tag, Verdict::Dead { reason: "unreadable".into() }).await;
    let name: QueueName = "odd".into();
    assert_eq!(queues.dead(name, 10).await.unwrap().len(), 1);
}

/// How many wait in a queue, as soon as `is_it` says that it is right.
async fn ready(queue: &str, is_it: impl Fn(u32) -> bool) -> u32 {
    let connection = connect(shared()).await;
    let looking = async {
        loop {
            let ready = look(&connection, queue).await.expect("the queue is there").ready;
            if is_it(ready) {
                return ready;
            }
        }
    };
    timeout(super::WITHIN, looking).await.expect("it becomes right")
}

async fn filled(queues: &Queues, queue: &str, count: usize) {
    queues.declare(QueueSpec::named(queue)).await.unwrap();
    for number in 0..count {
        publish(queues, queue, &format!("[{number}]")).await;
    }
}

/// The broker would end the channel for what waits here beyond its ack timeout, with everything that is handled on it.
#[tokio::test]
async fn what_waits_for_a_busy_handler_goes_back_and_comes_in_its_order_when_it_is_asked_for() {
    let options = Options { ack_timeout: Duration::from_secs(2), ..Options::default() };
    let queues = Queues::new(shared().url().parse().unwrap(), options);
    filled(&queues, "patient", 10).await;
    let consumer =
        queues.consume(ConsumeSpec { hold: Duration::from_secs(1), ..spec("patient") }).await.unwrap();
    let began = Instant::now();
    let first = one(&consumer).await;
    assert_eq!(ready("patient", |ready| ready == 9).await, 9);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let second = one(&consumer).await;
    let more = async {
        let mut delivered = Vec::new();
        for before in [first, second] {
            consumer.settle(Settlement { tag: before.tag, verdict: Verdict::Done, effects: None });
            delivered.push(before);
        }
        while delivered.len() < 10 {
            // Two at once, as a handler that is handed one more than it handles.
            let next = consumer.next(2).await.expect("the consumer lives");
            for delivery in next {
                consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects: None });
                delivered.push(delivery);
            }
        }
        delivered
    };
    let delivered = timeout(super::WITHIN, more).await.expect("nobody is left without");
    for (number, delivery) in delivered.iter().enumerate() {
        assert_eq!(delivery.message.payload, format!("[{number}]"), "in their order");
    }
    assert!(delivered.iter().all(|delivery| delivery.tag.epoch == delivered[0].tag.epoch));
}

#[tokio::test]
async fn without_a_demand_what_went_back_is_left_to_others() {
    let options = Options { ack_timeout: Duration::from_secs(1), ..Options::default() };
    let queues = Queues::new(shared().url().parse().unwrap(), options);
    filled(&queues, "left-to-others", 5).await;
    let consumer =
        queues.consume(ConsumeSpec { hold: Duration::ZERO, ..spec("left-to-others") }).await.unwrap();
    let first = one(&consumer).await;
    assert_eq!(ready("left-to-others", |ready| ready == 4).await, 4);
    let other = channel(shared()).await;
    for number in 1..5 {
        let taken = get(&other, "left-to-others").await;
        assert_eq!(taken.body, format!("[{number}]"));
    }
    settle(&consumer, first.tag, Verdict::Done).await;
    other.close().await;
    let second = one(&consumer).await;
    assert_eq!((&second.message.payload[..], second.redelivered), (&b"[1]"[..], true));
}

#[tokio::test]
async fn an_automatic_prefetch_begins_with_what_is_asked_for() {
    let queues = queues(&shared().url());
    filled(&queues, "small", 40).await;
    let spec = ConsumeSpec { prefetch: Prefetch::Auto { max: 1_000 }, ..spec("small") };
    let consumer = queues.consume(spec).await.unwrap();
    let taken = timeout(super::WITHIN, consumer.next(4)).await.unwrap().unwrap();
    assert!((1..=4).contains(&taken.len()));
    assert_eq!(ready("small", |ready| ready <= 36).await, 36);
}

#[tokio::test]
async fn many_consumers_share_few_connections() {
    let broker = tokio::task::spawn_blocking(start).await.unwrap();
    let options = Options { consumers_per_connection: 20, ..Options::default() };
    let queues = Queues::new(broker.url().parse().unwrap(), options);
    let mut consumers = Vec::new();
    for number in 0..60 {
        consumers.push(consumer(&queues, &format!("many-{}", number % 5)).await);
    }
    let is_ready = |consumer: &Arc<dyn Consumer>| consumer.status().health.is_ready();
    until("all consume", Duration::from_secs(20), || consumers.iter().all(is_ready)).await;
    let list = broker.control(&["list_connections", "--quiet", "name"]).unwrap();
    let count = list.lines().filter(|line| line.contains("->")).count();
    assert_eq!(count, 4, "one for publishing, three for consuming: {list}");
}
