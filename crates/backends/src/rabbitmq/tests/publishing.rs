//! The publisher, against a real broker.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use outboard_core::{Kind, PortError, queue::QueueSpec};
use outboard_testkit::{Proxy, proxy::Mode, rabbitmq::url_at};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use super::{Incoming, Receiving, WITHIN, connect, shared, short, start};
use crate::rabbitmq::{
    Table,
    codec::{
        frame::put_method,
        method::{Method, flags},
        properties::Properties,
    },
    connection::Connection,
    publisher::{Answers, Limits, Publication, Publisher},
    topology::{ensure, look},
};

/// A publication with an id of its own.
fn to(exchange: &str, key: &str, id: usize) -> Publication {
    let properties = Properties { message_id: Some(short(&format!("m-{id}"))), ..Properties::default() };
    Publication { exchange: short(exchange), key: short(key), properties, body: format!("{id}").into() }
}

/// A publisher on one connection, and a queue of this name.
async fn publisher(queue: &str, limits: Limits) -> (Connection, Publisher) {
    let connection = connect(shared()).await;
    ensure(&connection, &QueueSpec::named(queue)).await.expect("the queue is made");
    // The only one, since nobody is left to make another.
    let (_, seen) = watch::channel(Some(connection.clone()));
    (connection, Publisher::start(seen, limits))
}

fn kinds(results: &[Result<(), PortError>]) -> Vec<Option<Kind>> {
    results.iter().map(|result| result.as_ref().err().map(|error| error.kind)).collect()
}

#[tokio::test]
async fn each_publication_is_confirmed_and_the_window_is_never_exceeded() {
    let limits = Limits { window: 10, ..Limits::default() };
    let (connection, publisher) = publisher("window", limits).await;
    let answering = publisher.publish((0..5_000).map(|id| to("", "window", id)).collect());
    let mut answering = std::pin::pin!(answering);
    let mut highest = 0;
    let results = loop {
        highest = highest.max(publisher.unconfirmed());
        tokio::select! {
            biased;
            results = &mut answering => break results,
            () = tokio::task::yield_now() => {}
        }
    };
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
    assert!((1..=10).contains(&highest), "{highest}");
    assert_eq!(look(&connection, "window").await.unwrap().ready, 5_000);
}

#[tokio::test]
async fn what_no_queue_takes_is_not_found_and_its_neighbours_are_published() {
    let (connection, publisher) = publisher("neighbours", Limits::default()).await;
    let batch = vec![
        to("", "neighbours", 1),
        to("", "no-such-queue", 2),
        to("amq.direct", "nobody", 3),
        to("", "neighbours", 4),
        to("", "no-such-queue", 5),
    ];
    let results = publisher.publish(batch).await;
    let gone = Some(Kind::NotFound);
    assert_eq!(kinds(&results), [None, gone, gone, None, gone]);
    let texts: Vec<_> = results.into_iter().filter_map(|result| Some(result.err()?.to_string())).collect();
    assert!(texts[0].contains("no queue `no-such-queue`"), "{}", texts[0]);
    assert!(texts[1].contains("no queue is bound to the exchange `amq.direct` with the key `nobody`"));
    assert_eq!(look(&connection, "neighbours").await.unwrap().ready, 2);
}

#[tokio::test]
async fn a_missing_exchange_ends_its_publications_and_no_others() {
    let (connection, publisher) = publisher("others", Limits::default()).await;
    let mut batch: Vec<_> = (0..100).map(|id| to("", "others", id)).collect();
    batch[50] = to("no-such-exchange", "x", 50);
    batch[51] = to("no-such-exchange", "y", 51);
    let results = publisher.publish(batch).await;
    for (id, result) in results.iter().enumerate() {
        let expected = (50..=51).contains(&id).then_some(Kind::NotFound);
        assert_eq!(result.as_ref().err().map(|error| error.kind), expected, "{id}: {result:?}");
    }
    let error = results[50].as_ref().unwrap_err();
    assert!(error.message.contains("`no-such-exchange`"), "{error}");
    // What was out when the channel was closed was published again: twice at most.
    assert!((98..=196).contains(&look(&connection, "others").await.unwrap().ready));
    assert!(!connection.has_ended());
}

#[tokio::test]
async fn a_mistake_that_does_not_name_its_publication_is_found_among_many() {
    let (_connection, publisher) = publisher("mistakes", Limits::default()).await;
    let mut batch: Vec<_> = (0..50).map(|id| to("", "mistakes", id)).collect();
    // The broker closes the channel for a user id that is not the connection's.
    batch[20].properties.user_id = Some(short("somebody"));
    let results = publisher.publish(batch).await;
    let wrong: Vec<_> = (0..50).filter(|&id| results[id].is_err()).collect();
    assert_eq!(wrong, [20]);
    assert_eq!(results[20].as_ref().unwrap_err().kind, Kind::Invalid);
}

#[tokio::test]
async fn a_full_queue_is_told_as_full() {
    let (connection, publisher) = publisher("plenty", Limits::default()).await;
    let mut spec = QueueSpec::named("little");
    spec.arguments.insert("x-max-length".into(), outboard_core::queue::Argument::Number(1));
    spec.arguments.insert("x-overflow".into(), outboard_core::queue::Argument::Text("reject-publish".into()));
    ensure(&connection, &spec).await.unwrap();
    let mut kinds = Vec::new();
    for id in 0..3 {
        let results = publisher.publish(vec![to("", "little", id)]).await;
        kinds.push(results[0].as_ref().err().map(|error| error.kind));
    }
    assert_eq!((kinds[0], kinds[2]), (None, Some(Kind::Full)), "{kinds:?}");
}

#[tokio::test]
async fn without_a_connection_the_line_is_limited_and_nothing_waits_for_ever() {
    let (_link, seen) = watch::channel(None);
    let limits = Limits { line: 2, within: Duration::from_millis(50), ..Limits::default() };
    let publisher = Publisher::start(seen, limits);
    let waiting = publisher.publish(vec![to("", "x", 1), to("", "x", 2)]);
    let refused = publisher.publish(vec![to("", "x", 3)]).await;
    assert_eq!(kinds(&refused), [Some(Kind::Full)]);
    let results = timeout(WITHIN, waiting).await.expect("it ends");
    assert_eq!(kinds(&results), [Some(Kind::Unavailable); 2], "{results:?}");
    let again = timeout(WITHIN, publisher.publish(vec![to("", "x", 4)])).await.expect("it ends");
    assert_eq!(kinds(&again), [Some(Kind::Unavailable)]);
    publisher.close(Instant::now()).await;
    assert_eq!(kinds(&publisher.publish(vec![to("", "x", 5)]).await), [Some(Kind::Closed)]);
}

#[tokio::test]
async fn what_was_sent_and_is_not_answered_in_time_is_unknown() {
    let proxy = Proxy::start(shared().port()).await.unwrap();
    let connection = Connection::open(&url_at(proxy.port()).parse().unwrap(), WITHIN).await.unwrap();
    ensure(&connection, &QueueSpec::named("silent")).await.unwrap();
    let (_link, seen) = watch::channel(Some(connection));
    let publisher =
        Publisher::start(seen, Limits { within: Duration::from_millis(300), ..Limits::default() });
    assert_eq!(kinds(&publisher.publish(vec![to("", "silent", 0)]).await), [None]);
    proxy.set(Mode::Silent);
    let results = timeout(WITHIN, publisher.publish(vec![to("", "silent", 1)])).await.expect("it ends");
    assert_eq!(kinds(&results), [Some(Kind::Unknown)]);
}

#[tokio::test]
async fn what_is_overdue_frees_its_place_and_its_late_confirm_is_nobody_elses() {
    let direct = connect(shared()).await;
    ensure(&direct, &QueueSpec::named("overdue")).await.unwrap();
    let proxy = Proxy::start(shared().port()).await.unwrap();
    let connection = Connection::open(&url_at(proxy.port()).parse().unwrap(), WITHIN).await.unwrap();
    let (_link, seen) = watch::channel(Some(connection));
    let limits = Limits { window: 10, within: Duration::from_millis(500), ..Limits::default() };
    let publisher = Publisher::start(seen, limits);
    let batch = |first: usize| (first..first + 10).map(|id| to("", "overdue", id)).collect::<Vec<_>>();
    assert_eq!(kinds(&publisher.publish(batch(0)).await), [None; 10]);
    proxy.set(Mode::Withhold);
    for round in 1..=2 {
        let results = timeout(WITHIN, publisher.publish(batch(10 * round))).await.expect("it ends");
        assert_eq!(kinds(&results), [Some(Kind::Unknown); 10], "each of them was sent: {results:?}");
    }
    assert_eq!(publisher.unconfirmed(), 0);
    let waiting = tokio::spawn(publisher.publish(batch(30)));
    proxy.set(Mode::Pass);
    assert_eq!(kinds(&timeout(WITHIN, waiting).await.expect("it ends").unwrap()), [None; 10]);
    assert_eq!(look(&direct, "overdue").await.unwrap().ready, 40);
}

/// Stands before the shared broker, and says these bytes in its name when it is told to.
async fn slandered(bytes: Bytes, now: Arc<Notify>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", shared().port())).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => {}
            () = now.notified() => client.write_all(&bytes).await.unwrap(),
        }
    });
    port
}

#[tokio::test]
async fn a_confirm_of_what_was_never_sent_ends_the_connection() {
    let mut lie = BytesMut::new();
    put_method(&mut lie, 1, &Method::BasicAck { delivery: u64::MAX, flags: flags::MULTIPLE });
    let now = Arc::new(Notify::new());
    let port = slandered(lie.freeze(), now.clone()).await;
    let connection = Connection::open(&url_at(port).parse().unwrap(), WITHIN).await.unwrap();
    let mut ended = connection.ended();
    let (_link, seen) = watch::channel(Some(connection));
    let publisher = Publisher::start(seen, Limits::default());
    ensure(&connect(shared()).await, &QueueSpec::named("slandered")).await.unwrap();
    assert_eq!(kinds(&publisher.publish(vec![to("", "slandered", 0)]).await), [None]);
    now.notify_one();
    let error = timeout(WITHIN, ended.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert_eq!(error.kind, Kind::Corrupt, "{error}");
    assert!(error.message.contains("confirms message 18446744073709551615, and 1 were sent"), "{error}");
}

/// The heartbeat is the limit of opening a channel: whoever falls silent is left.
#[tokio::test]
async fn a_peer_that_falls_silent_while_the_channel_is_opened_is_left_for_the_next() {
    let proxy = Proxy::start(shared().port()).await.unwrap();
    let target = format!("{}?heartbeat=1", url_at(proxy.port())).parse().unwrap();
    let connection = Connection::open(&target, WITHIN).await.unwrap();
    ensure(&connection, &QueueSpec::named("left")).await.unwrap();
    proxy.set(Mode::Silent);
    let mut ended = connection.ended();
    let (link, seen) = watch::channel(Some(connection));
    let publisher = Publisher::start(seen, Limits::default());
    let waiting = tokio::spawn(publisher.publish(vec![to("", "left", 0)]));
    timeout(Duration::from_secs(5), ended.wait_for(Option::is_some)).await.expect("it is left").unwrap();
    link.send_replace(Some(connect(shared()).await));
    assert_eq!(kinds(&timeout(WITHIN, waiting).await.expect("it is published").unwrap()), [None]);
}

// The broker is told what to do by a program that takes seconds.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_takes_nothing_publications_wait_and_it_is_told() {
    let broker = start();
    let connection = connect(&broker).await;
    ensure(&connection, &QueueSpec::named("blocked")).await.unwrap();
    let (_link, seen) = watch::channel(Some(connection));
    let publisher = Publisher::start(seen, Limits { within: Duration::from_secs(30), ..Limits::default() });
    let mut refusing = publisher.refusing();
    assert_eq!(kinds(&publisher.publish(vec![to("", "blocked", 0)]).await), [None]);
    broker.control(&["set_disk_free_limit", "100000GB"]).unwrap();
    // The broker says so when it is sent something.
    let first = tokio::spawn(publisher.publish(vec![to("", "blocked", 1)]));
    let error = timeout(WITHIN, refusing.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert!(error.kind == Kind::Full && error.message.contains("disk"), "{error}");
    let second = tokio::spawn(publisher.publish(vec![to("", "blocked", 2)]));
    assert_eq!(publisher.unconfirmed(), 1, "nothing more is sent");
    broker.control(&["set_disk_free_limit", "1MB"]).unwrap();
    for waiting in [first, second] {
        let results = timeout(WITHIN, waiting).await.expect("it is published").unwrap();
        assert_eq!(kinds(&results), [None], "{results:?}");
    }
    assert!(refusing.borrow_and_update().is_none());
}

// The broker is told what to do by a program that takes seconds.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_publish_is_told_and_the_others_are_published() {
    let broker = start();
    broker.control(&["add_user", "reader", "secret"]).unwrap();
    broker.control(&["set_permissions", "reader", ".*", "^(amq.default|mine)$", ".*"]).unwrap();
    let target = format!("amqp://reader:secret@127.0.0.1:{}", broker.port()).parse().unwrap();
    let connection = Connection::open(&target, WITHIN).await.unwrap();
    ensure(&connection, &QueueSpec::named("mine")).await.unwrap();
    let (_link, seen) = watch::channel(Some(connection.clone()));
    let publisher = Publisher::start(seen, Limits::default());
    let batch = vec![to("", "mine", 0), to("amq.fanout", "", 1), to("", "mine", 2)];
    let results = publisher.publish(batch).await;
    assert_eq!(kinds(&results), [None, Some(Kind::Denied), None], "{results:?}");
    broker.control(&["set_permissions", "reader", "^$", ".*", ".*"]).unwrap();
    let error = ensure(&connection, &QueueSpec::named("another")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Denied);
    assert!(error.message.contains("set_permissions") && error.message.contains("`another`"), "{error}");
}

#[tokio::test]
async fn closing_waits_for_what_is_under_way() {
    let (connection, publisher) = publisher("closing", Limits::default()).await;
    let answering = publisher.publish((0..2_000).map(|id| to("", "closing", id)).collect());
    publisher.close(Instant::now() + WITHIN).await;
    assert!(answering.await.iter().all(Result::is_ok));
    assert_eq!(look(&connection, "closing").await.unwrap().ready, 2_000);
}

/// Takes everything out of a queue, and closes the connection.
async fn drain(connection: &Connection, queue: &str) -> Vec<String> {
    let count = look(connection, queue).await.unwrap().ready;
    let channel = connection.channel().await.unwrap();
    let mut receiving = Receiving::attach(&channel);
    channel.call(&Method::BasicQos { size: 0, count: 32, flags: 0 }).await.unwrap();
    let (tag, arguments) = (short("drain"), Table::default());
    let consume = Method::BasicConsume { reserved1: 0, queue: short(queue), tag, flags: 0, arguments };
    channel.call(&consume).await.unwrap();
    let mut bodies = Vec::new();
    while bodies.len() < count as usize {
        let Incoming::Delivery(delivery, _, body) = receiving.next().await else { continue };
        channel.send(&Method::BasicAck { delivery, flags: 0 }).unwrap();
        bodies.push(String::from_utf8(body.into()).unwrap());
    }
    connection.close().await;
    bodies
}

/// Collects answers by number.
#[derive(Debug, Default)]
struct Collector {
    results: Mutex<Vec<(u64, Result<(), PortError>)>>,
    more: Notify,
}

impl Answers for Collector {
    fn answer(&self, token: u64, result: Result<(), PortError>) {
        self.results.lock().unwrap().push((token, result));
        self.more.notify_one();
    }
}

impl Collector {
    async fn wait_for(&self, count: usize) {
        while self.results.lock().unwrap().len() < count {
            timeout(WITHIN, self.more.notified()).await.expect("answers come");
        }
    }
}

/// Connects as soon as it can, whenever there is no connection, until nobody looks any more.
async fn keep_connected(port: u16, link: watch::Sender<Option<Connection>>) {
    let target = url_at(port).parse().expect("a URL");
    while !link.is_closed() {
        let Ok(connection) = Connection::open(&target, WITHIN).await else { continue };
        let mut ended = connection.ended();
        link.send_replace(Some(connection));
        let _ = ended.wait_for(Option::is_some).await;
        link.send_replace(None);
    }
}

#[tokio::test]
async fn ten_cuts_lose_nothing_and_leave_nobody_without_an_answer() {
    const MESSAGES: usize = 10_000;
    let broker = start();
    let direct = connect(&broker).await;
    ensure(&direct, &QueueSpec::named("cuts")).await.unwrap();
    let proxy = Proxy::start(broker.port()).await.unwrap();
    let (link, seen) = watch::channel(None);
    let mut connected = seen.clone();
    let connecting = tokio::spawn(keep_connected(proxy.port(), link));
    let publisher = Publisher::start(seen, Limits { window: 200, ..Limits::default() });
    let collector = Arc::new(Collector::default());
    let answers: Arc<dyn Answers> = collector.clone();
    for cut in 0..10 {
        let first = (cut * MESSAGES / 10) as u64;
        let ids = |ids: std::ops::Range<u64>| ids.map(|id| (id, to("", "cuts", id as usize)));
        publisher.submit(ids(first..first + 500), &answers);
        collector.wait_for(first as usize + 500).await;
        let before = look(&direct, "cuts").await.unwrap().ready;
        // What the broker takes from here on it confirms in vain: it comes again after the cut.
        proxy.set(Mode::Withhold);
        publisher.submit(ids(first + 500..first + 1_000), &answers);
        while look(&direct, "cuts").await.unwrap().ready == before {}
        proxy.set(Mode::Close);
        connected.wait_for(Option::is_none).await.expect("it is kept connected");
        proxy.set(Mode::Pass);
    }
    collector.wait_for(MESSAGES).await;
    let results = std::mem::take(&mut *collector.results.lock().unwrap());
    let answered: HashSet<_> = results.iter().map(|(token, _)| *token).collect();
    assert_eq!((results.len(), answered.len()), (MESSAGES, MESSAGES), "each is answered once");
    let failed: Vec<_> = results.iter().filter(|(_, result)| result.is_err()).collect();
    assert!(failed.is_empty(), "{} failed, such as {:?}", failed.len(), failed[0]);
    let found = drain(&direct, "cuts").await;
    let expected: HashSet<_> = (0..MESSAGES).map(|id| id.to_string()).collect();
    assert_eq!(found.iter().cloned().collect::<HashSet<_>>(), expected);
    assert!(found.len() > MESSAGES, "what was cut off before its confirm comes twice");
    connecting.abort();
}
