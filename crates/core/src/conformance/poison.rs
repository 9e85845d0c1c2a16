//! What a [`Consumer`](crate::Consumer) on a log must do after a crash: find what may have caused it, alone.

use std::time::Duration;

use super::{
    Backend,
    consumer::{dead_of, done_all, ids, retry, settle, take},
    soon, waits,
};
use crate::{
    Consumer, LogConsumer, NewMessage, Position, Settlement, Time, TypeSet, Verdict,
    consumer::Flow,
    ledger::{Parked, ParkedChange, ParkedState, Start, Unit},
    log_consumer::LogConsumerOptions,
};

/// One at a time, beside the normal flow.
pub async fn a_crash_repeats_what_was_claimed_alone(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 8]).await;
    let consumer = ports.consumer("w", 3).await;
    let claimed = take(&consumer, 3).await;
    settle(&consumer, claimed[1].tag, Verdict::Done).await;
    drop(consumer);
    let consumer = ports.consumer("w", 8).await;
    // What the crashed holder can have claimed: the first three that are not done, 1, 3 and 4.
    let first = take(&consumer, 5).await;
    let (suspects, normal): (Vec<_>, Vec<_>) = first.into_iter().partition(|delivery| delivery.suspect);
    assert_eq!((ids(&suspects), ids(&normal)), (vec![1], vec![5, 6, 7, 8]));
    assert!(waits(consumer.next(1)).await, "the next suspect waits for the first");
    settle(&consumer, suspects[0].tag, Verdict::Done).await;
    let next = take(&consumer, 1).await;
    assert_eq!((ids(&next), next[0].suspect), (vec![3], true));
    settle(&consumer, next[0].tag, Verdict::Done).await;
    assert_eq!(ids(&take(&consumer, 1).await), [4]);
}

/// It cannot have been delivered, and must not be before its time.
pub async fn a_scheduled_message_is_no_suspect(backend: &dyn Backend) {
    let ports = backend.open().await;
    let run_at = Some(ports.clock.now() + Duration::from_secs(3_600));
    let late = NewMessage { run_at, ..NewMessage::new("a/late", "{}") };
    ports.log.append(vec![late, NewMessage::new("a/a", "{}")].into()).await.expect("appends");
    drop(ports.consumer("w", 1).await);
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 1).await;
    assert_eq!((ids(&claimed), claimed[0].suspect), (vec![2], true));
    done_all(&consumer, &claimed).await;
    assert!(waits(consumer.next(1)).await);
    assert_eq!(consumer.status().parked, 1);
}

/// Alone: its neighbours come through.
pub async fn three_crashes_bury_a_suspect(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let consumer = ports.consumer("w", 3).await;
    take(&consumer, 3).await;
    drop(consumer);
    for _ in 0..3 {
        assert!(dead_of(&ports).await.is_empty());
        let consumer = ports.consumer("w", 3).await;
        let running = take(&consumer, 1).await;
        assert_eq!((ids(&running), running[0].suspect), (vec![1], true));
    }
    let consumer = ports.consumer("w", 3).await;
    assert_eq!(dead_of(&ports).await, [1]);
    for expected in [2, 3] {
        let running = take(&consumer, 1).await;
        assert_eq!(ids(&running), [expected]);
        done_all(&consumer, &running).await;
    }
    assert!(waits(consumer.next(1)).await);
}

/// And does not hold up the next one.
pub async fn a_held_suspect_is_not_charged(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 2]).await;
    let consumer = ports.consumer("w", 2).await;
    take(&consumer, 2).await;
    drop(consumer);
    for _ in 0..4 {
        let consumer = ports.consumer("w", 2).await;
        let mut held = take(&consumer, 1).await;
        assert!(held[0].suspect);
        consumer.hold(held[0].tag);
        held.extend(take(&consumer, 1).await);
        assert!(held[1].suspect, "the lane is free");
        let ticket = consumer.settle(Settlement {
            tag: held[1].tag,
            verdict: Verdict::Snooze { delay: Duration::ZERO },
            effects: None,
        });
        let mut durable = consumer.durable();
        soon(durable.wait_for(|durable| *durable >= ticket)).await.expect("the consumer lives");
        drop(durable);
    }
    let _consumer = ports.consumer("w", 2).await;
    assert!(dead_of(&ports).await.is_empty());
}

/// Crashes count only in a row.
pub async fn a_completed_run_clears_a_suspect(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let consumer = ports.consumer("w", 3).await;
    take(&consumer, 1).await;
    drop(consumer);
    for _ in 0..2 {
        let consumer = ports.consumer("w", 3).await;
        take(&consumer, 1).await;
    }
    let consumer = ports.consumer("w", 3).await;
    let running = take(&consumer, 1).await;
    settle(&consumer, running[0].tag, retry(Duration::ZERO)).await;
    take(&consumer, 1).await;
    drop(consumer);
    for _ in 0..3 {
        let consumer = ports.consumer("w", 3).await;
        assert_eq!(ids(&take(&consumer, 1).await), [1]);
        assert!(dead_of(&ports).await.is_empty(), "three crashes in a row have not happened yet");
    }
    let _consumer = ports.consumer("w", 3).await;
    assert_eq!(dead_of(&ports).await, [1]);
}

/// Whatever a raised prefetch let in, up to the claims that were told when the worker was opened.
pub async fn what_flow_let_in_is_suspect(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 8]).await;
    let options = LogConsumerOptions {
        start: Start::Beginning,
        prefetch: 2,
        claims: 4,
        ..LogConsumerOptions::new("w", TypeSet::all(), ports.clock.clone())
    };
    let consumer = LogConsumer::open(ports.log.clone(), ports.ledger.clone(), options).await.expect("opens");
    consumer.flow(Flow::Running { prefetch: 6 });
    take(&consumer, 4).await;
    assert!(waits(consumer.next(1)).await, "more would escape the look for suspects");
    drop(consumer);
    let consumer = ports.consumer("w", 8).await;
    take(&consumer, 1).await;
    assert_eq!(consumer.status().suspects, 4);
}

/// Though it has never crashed before, and also when it is given back.
pub async fn a_straggler_of_a_crash_stays_suspect(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let row = Parked {
        position: Position(1),
        state: ParkedState::Straggler,
        due: Time::MAX,
        attempts: 0,
        crashes: 0,
        reason: "".into(),
    };
    let straggler = Unit {
        done: vec![(Position(1), Position(1))],
        parked: vec![ParkedChange::Put(row)],
        ..Unit::of("w".into(), opened.epoch)
    };
    ports.ledger.commit(vec![straggler]).await.expect("commits");
    let consumer = ports.consumer("w", 2).await;
    for _ in 0..2 {
        let running = take(&consumer, 1).await;
        assert_eq!((ids(&running), running[0].suspect), (vec![1], true));
        consumer.settle(Settlement { tag: running[0].tag, verdict: Verdict::Return, effects: None });
    }
}
