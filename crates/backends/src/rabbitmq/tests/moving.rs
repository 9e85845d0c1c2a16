//! Messages that are moved, against a real broker.

use outboard_core::{
    Kind, Verdict,
    queue::{Destination, Outgoing, Queue, QueueKind, QueueSpec},
};

use super::{
    Duration, Properties, Table, connect,
    consuming::{channel, consumer, one, queues, settle},
    publish_to, shared, short,
};
use crate::rabbitmq::{codec::frame::FRAME_OVERHEAD, topology::ensure};

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

/// Without a bound, the broker would end the connection, deliver the message again, and so for ever.
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
/// connection, and the message would be published again on the next, and so for ever.
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
