//! Messages that are moved, against a real broker.

use std::{future::ready, sync::Arc};

use outboard_core::{
    Kind, Settlement, Verdict,
    queue::{Destination, Outgoing, Queue, QueueKind, QueueSpec},
};
use tokio::{sync::watch, time::Instant};

use super::{
    Connection, Duration, Method, Properties, Table, connect,
    consuming::{channel, consumer, one, queues, settle},
    publish_to, shared, short,
};
use crate::rabbitmq::{
    codec::frame::FRAME_OVERHEAD,
    ladder::{Ladder, step},
    topology::ensure,
};

/// As RabbitMQ has it when it is not told otherwise.
const FRAME_MAX: usize = 131_072;

/// Properties of so many bytes, with a large header and a small one.
fn of_size(bytes: usize) -> Properties {
    let headers = |text: usize| Table::of([("large", (&*"x".repeat(text)).into()), ("small", "s".into())]);
    let of = |text| Properties {
        headers: Some(headers(text)),
        message_id: Some(short("m")),
        ..Properties::default()
    };
    let mut written = bytes::BytesMut::new();
    of(0).write(&mut written);
    of(bytes - written.len())
}

/// Without a bound, the broker would end the connection that everybody here publishes over, and again at each further try to
/// move the message: for as long as it is ours.
#[tokio::test]
async fn a_message_whose_headers_fill_a_frame_is_tried_again_and_given_up_without_harm() {
    let queues = queues(&shared().url());
    queues.declare(QueueSpec::named("filled")).await.unwrap();
    let consumer = consumer(&queues, "filled").await;
    let other = channel(shared()).await;
    let header = FRAME_OVERHEAD + 12;
    for (properties, is_kept) in
        [(of_size(FRAME_MAX - header), false), (of_size(FRAME_MAX - header - 2_500), true)]
    {
        other.publish(&publish_to("filled"), &properties, b"{}").unwrap();
        let first = one(&consumer).await;
        assert!(first.message.headers.iter().any(|(name, _)| name == "large"));
        let retry = Verdict::RetryAfter { delay: Duration::ZERO, reason: "r".repeat(5_000).into() };
        settle(&consumer, first.tag, retry).await;
        let second = one(&consumer).await;
        assert_eq!((second.attempt, second.tag.epoch), (2, first.tag.epoch), "on the same connection");
        let names: Vec<_> = second.message.headers.iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, if is_kept { vec!["large", "small"] } else { vec!["small"] });
        settle(&consumer, second.tag, Verdict::Dead { reason: "d".repeat(5_000).into() }).await;
    }
    let letters = queues.dead("filled".into(), 10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.attempts).collect::<Vec<_>>(), [2, 2]);
    assert!(letters.iter().all(|letter| letter.reason.starts_with("ddd")), "{letters:?}");
}

/// Small headers have more bytes around them than in them. Without a bound on all of them, the broker would end the
/// connection, and the message would go out again on the next: until it is given up after ten seconds as unknown, having
/// ended the connection of everybody on it meanwhile.
#[tokio::test]
async fn headers_that_do_not_fit_a_frame_are_refused_before_the_broker_sees_them() {
    let queues = queues(&shared().url());
    queues.declare(QueueSpec::named("crammed")).await.unwrap();
    let consumer = consumer(&queues, "crammed").await;
    let (each, room) = ("n-00000".len() + 6, FRAME_MAX - FRAME_OVERHEAD - 12 - 2_048 - 527);
    let crammed = |count: usize| {
        let headers = (0..count).map(|number| (format!("n-{number:05}"), String::new())).collect();
        let kind = "k".repeat(255);
        let message = Outgoing::new(Destination::queue("crammed"), kind.as_str(), "{}");
        Outgoing { headers, id: Some("i".repeat(255).into()), ..message }
    };
    let answers = queues.publish([room / each, room / each + 1].map(crammed).into()).await.unwrap();
    assert!(answers[0].is_ok(), "{answers:?}");
    let refusal = answers[1].as_ref().unwrap_err();
    assert_eq!(refusal.kind, Kind::Invalid);
    assert!(refusal.to_string().contains("frame_max"), "{refusal}");
    let largest = one(&consumer).await;
    assert_eq!((largest.message.headers.iter().count(), largest.tag.epoch), (room / each, 1));
    settle(&consumer, largest.tag, Verdict::Done).await;
}

/// The specification says nothing of its kind, and a retry must not wait where less is safe.
#[tokio::test]
async fn retries_and_dead_letters_of_a_queue_that_is_replicated_already_are_replicated() {
    let queues = queues(&shared().url());
    let quorum = |name: String| QueueSpec { kind: QueueKind::Quorum, ..QueueSpec::named(name) };
    // Made by another program.
    ensure(&connect(shared()).await, &quorum("replicated".into())).await.unwrap();
    let consumer = consumer(&queues, "replicated").await;
    let other = channel(shared()).await;
    for _ in 0..2 {
        other.publish(&publish_to("replicated"), &Properties::default(), b"{}").unwrap();
    }
    let delay = Duration::from_secs(3_000);
    let first = one(&consumer).await;
    settle(&consumer, first.tag, Verdict::RetryAfter { delay, reason: "not yet".into() }).await;
    let second = one(&consumer).await;
    settle(&consumer, second.tag, Verdict::Dead { reason: "never".into() }).await;
    let list = || shared().control(&["list_queues", "--silent", "name", "type"]);
    let list = tokio::task::spawn_blocking(list).await.unwrap().unwrap();
    for name in ["replicated.retry.4096000ms", "replicated.dlq"] {
        let is_it = |line: &str| line.split_whitespace().eq([name, "quorum"]);
        assert!(list.lines().any(is_it), "{name} in {list}");
    }
}

/// As a process has it.
async fn ladder() -> (Connection, Ladder) {
    let connection = connect(shared()).await;
    let (_, link) = watch::channel(Some(connection.clone()));
    (connection, Ladder::new(link))
}

/// The shortest wait, in a queue for what waits for this one.
async fn wait(ladder: &Ladder, queue: &str) -> Arc<str> {
    ladder.waiting(&queue.into(), step(Duration::ZERO)).await.expect("it is made")
}

fn is_young(ladder: &Ladder, name: &str) -> bool {
    ladder.safe_from(name) > Instant::now()
}

/// As its expiry does.
async fn delete(connection: &Connection, queue: &str) {
    let delete = Method::QueueDelete { reserved1: 0, queue: short(queue), flags: 0 };
    connection.channel().await.unwrap().call(&delete).await.expect("it is deleted");
}

/// Longer than a declaration counts, and not so long that a queue expires.
const NOT_FRESH: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_waiting_queue_is_young_whenever_it_was_made_anew() {
    let (connection, ladder) = ladder().await;
    let name = wait(&ladder, "anew").await;
    assert!(is_young(&ladder, &name));
    ladder.age(&name, NOT_FRESH);
    wait(&ladder, "anew").await;
    assert!(!is_young(&ladder, &name), "it was there all the time, and nothing has to wait");
    ladder.age(&name, NOT_FRESH);
    delete(&connection, &name).await;
    wait(&ladder, "anew").await;
    assert!(is_young(&ladder, &name));
}

#[tokio::test]
async fn a_queue_that_could_have_expired_is_young_when_it_is_found() {
    let (_, ladder) = ladder().await;
    let name = wait(&ladder, "expired").await;
    let dead = ladder.dead(&"expired".into()).await.unwrap();
    let hour = Duration::from_secs(3_600);
    ladder.age(&name, hour);
    ladder.age(&dead, hour);
    wait(&ladder, "expired").await;
    ladder.dead(&"expired".into()).await.unwrap();
    assert!(is_young(&ladder, &name), "another process may have made it anew");
    assert!(!is_young(&ladder, &dead), "it never expires");
}

#[tokio::test]
async fn a_queue_that_two_declare_at_once_is_young_for_both() {
    let (connection, ladder) = ladder().await;
    let name = wait(&ladder, "at-once").await;
    ladder.age(&name, NOT_FRESH);
    delete(&connection, &name).await;
    let mut second = std::pin::pin!(wait(&ladder, "at-once"));
    tokio::select! {
        biased;
        _ = &mut second => panic!("it takes an answer of the broker"),
        () = ready(()) => {}
    }
    wait(&ladder, "at-once").await;
    assert!(is_young(&ladder, &name));
    // It knew the queue that is gone, and finds the new one.
    second.await;
    assert!(is_young(&ladder, &name));
}

#[tokio::test]
async fn a_queue_of_which_nothing_is_known_is_young() {
    let (_, ladder) = ladder().await;
    let name = wait(&ladder, "unknown").await;
    ladder.age(&name, NOT_FRESH);
    assert!(!is_young(&ladder, &name));
    // Another message did not find it, while this one was on its way.
    ladder.forget(&name);
    assert!(is_young(&ladder, &name));
}

#[tokio::test]
async fn the_original_is_kept_for_its_copy_in_a_queue_that_another_process_made_just_now() {
    wait(&ladder().await.1, "made-elsewhere").await;
    let queues = queues(&shared().url());
    queues.declare(QueueSpec::named("made-elsewhere")).await.unwrap();
    let consumer = consumer(&queues, "made-elsewhere").await;
    let other = channel(shared()).await;
    other.publish(&publish_to("made-elsewhere"), &Properties::default(), b"{}").unwrap();
    let first = one(&consumer).await;
    let mut durable = consumer.durable();
    let verdict = Verdict::RetryAfter { delay: Duration::ZERO, reason: "not yet".into() };
    let ticket = consumer.settle(Settlement { tag: first.tag, verdict, effects: None });
    let copy = one(&consumer).await;
    assert_eq!(copy.attempt, 2);
    assert!(*durable.borrow() < ticket, "its copy is here, and the original not acknowledged");
    settle(&consumer, copy.tag, Verdict::Done).await;
    durable.wait_for(|durable| *durable >= ticket).await.expect("the consumer lives");
}
