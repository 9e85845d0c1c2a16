//! What a [`Consumer`](crate::Consumer) must do with effects that cannot be written.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Backend,
    consumer::{dead_of, ids, retry, settle, settle_with, take},
    waits,
};
use crate::{
    Consumer, LogConsumer, NewMessage, Position, Settlement, TypeSet, Verdict,
    consumer::Effects,
    fault::{Faults, Point},
    ledger::{DeadQuery, Guard, KeyWrite, Start},
    log_consumer::LogConsumerOptions,
    pattern::MAX_TYPE_BYTES,
};

fn writes(write: KeyWrite) -> Option<Box<Effects>> {
    Some(Box::new(Effects { writes: vec![write], ..Effects::default() }))
}

fn text() -> KeyWrite {
    KeyWrite::Set("k".into(), "\"text\"".into())
}

/// What it wants written never can be: a dead letter with the reason, once, and its neighbours are done.
pub async fn a_refused_settlement_is_a_dead_letter(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 4]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 4).await;
    settle_with(&consumer, claimed[0].tag, Verdict::Done, writes(text())).await;
    settle(&consumer, claimed[1].tag, retry(Duration::ZERO)).await;
    let again = take(&consumer, 1).await;
    // One that is parked and one that is not, and between them one that can be written.
    for (delivery, key) in [(&again[0], "k"), (&claimed[2], "n"), (&claimed[3], "k")] {
        let effects = writes(KeyWrite::Add(key.into(), 1));
        consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects });
    }
    assert!(waits(consumer.next(1)).await, "nothing is tried again");
    let query = DeadQuery { max: 10, ..DeadQuery::default() };
    let mut letters = ports.ledger.dead(query).await.expect("lists").letters;
    letters.sort_by_key(|letter| letter.message_id);
    let found: Vec<_> = letters.iter().map(|letter| (letter.message_id.0, letter.attempts)).collect();
    assert_eq!(found, [(2, 2), (4, 1)]);
    assert!(letters.iter().all(|letter| letter.reason.contains("`k`")), "{letters:?}");
    let status = consumer.status();
    assert_eq!((status.low, status.parked, status.unsettled), (Position(4), 0, 0));
    let keys = ports.ledger.keys("w".into(), vec!["n".into()]).await.expect("reads keys");
    assert_eq!(keys[0].value.as_deref(), Some(&b"1"[..]));
}

/// A ticket is durable when the dead letter is.
pub async fn a_refused_settlement_s_ticket_covers_its_dead_letter(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 2]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 2).await;
    settle_with(&consumer, claimed[0].tag, Verdict::Done, writes(text())).await;
    let add = KeyWrite::Add("k".into(), 1);
    settle_with(&consumer, claimed[1].tag, Verdict::Done, writes(add)).await;
    assert_eq!(dead_of(&ports).await, [2]);
}

/// And the worker goes on.
pub async fn an_impossible_append_is_a_dead_letter(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 3).await;
    for (delivery, kind_bytes) in claimed.iter().zip([3, MAX_TYPE_BYTES + 1, 3]) {
        let appends = vec![NewMessage::new("b".repeat(kind_bytes), "{}")];
        let effects = Some(Box::new(Effects { appends, ..Effects::default() }));
        settle_with(&consumer, delivery.tag, Verdict::Done, effects).await;
    }
    assert_eq!(dead_of(&ports).await, [2]);
    assert_eq!(ids(&take(&consumer, 2).await), [4, 5], "what the others append");
    assert_eq!(consumer.status().low, Position(3));
}

/// What does not fit into one commit goes in several, so that nobody else's waits for all of it.
pub async fn large_effects_commit_apart(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let faults = Faults::counting();
    let options = LogConsumerOptions {
        start: Start::Beginning,
        faults: faults.clone(),
        ..LogConsumerOptions::new("w", TypeSet::all(), ports.clock.clone())
    };
    let opened = LogConsumer::open(ports.log.clone(), ports.ledger.clone(), options).await;
    let consumer = opened.expect("the consumer opens");
    for (delivery, key) in take(&consumer, 3).await.iter().zip(["a", "b", "c"]) {
        let large = format!("\"{}\"", "x".repeat(3 << 19));
        let effects = writes(KeyWrite::Set(key.into(), large.into()));
        consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects });
    }
    consumer.drain(Instant::now() + Duration::from_secs(20)).await.expect("drains");
    let commits = faults.hits().into_iter().find(|(point, _)| *point == Point::UnitsBuilt);
    assert_eq!(commits, Some((Point::UnitsBuilt, 3)), "two are more than 2 MiB");
    assert_eq!(consumer.status().low, Position(3));
}

/// It has not run to its end as long as its effects are not written.
pub async fn a_suspect_in_conflict_runs_alone_again(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let consumer = ports.consumer("w", 1).await;
    take(&consumer, 1).await;
    drop(consumer);
    let consumer = ports.consumer("w", 1).await;
    let running = take(&consumer, 1).await;
    let guards = vec![Guard::Version("k".into(), 7)];
    let effects = Some(Box::new(Effects { guards, ..Effects::default() }));
    settle_with(&consumer, running[0].tag, Verdict::Done, effects).await;
    let again = take(&consumer, 1).await;
    assert_eq!((ids(&again), again[0].suspect, again[0].attempt), (vec![1], true, 1));
    settle(&consumer, again[0].tag, Verdict::Done).await;
    assert_eq!((consumer.status().parked, consumer.status().suspects), (0, 0));
}
