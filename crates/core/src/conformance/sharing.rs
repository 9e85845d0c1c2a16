//! How due messages and those of the log share a [`Consumer`](crate::Consumer)'s claims.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Backend, Ports,
    consumer::{ids, retry, settle, take},
    types, waits,
};
use crate::{Consumer, Delivery, LogConsumer, Settlement, Verdict};

/// A worker of `a/*` with so many claims at most. Of the log's messages the first ones, so many, are parked and due.
async fn with_due(ports: &Ports, due: usize, prefetch: u32) -> Arc<LogConsumer> {
    ports.append(&vec!["a/due"; due]).await;
    let consumer = ports.consumer_of("w", 64, types(&["a/*"])).await;
    for delivery in take(&consumer, due).await {
        settle(&consumer, delivery.tag, retry(Duration::ZERO)).await;
    }
    consumer.drain(Instant::now()).await.expect("drains");
    drop(consumer);
    ports.consumer_of("w", prefetch, types(&["a/*"])).await
}

/// Everything that it delivers now, and nothing of it ends.
async fn hang(consumer: &LogConsumer, claims: usize) -> Vec<Delivery> {
    let mut claimed = take(consumer, claims).await;
    assert!(waits(consumer.next(1)).await, "all claims are taken");
    claimed.sort_by_key(|delivery| delivery.message.id);
    claimed
}

async fn done(consumer: &LogConsumer, delivery: &Delivery) {
    settle(consumer, delivery.tag, Verdict::Done).await;
}

/// A quarter of the claims: those that hang would take all the slots, and fresh messages would wait.
pub async fn due_messages_keep_to_their_share(backend: &dyn Backend) {
    let ports = backend.open().await;
    let consumer = with_due(&ports, 6, 8).await;
    ports.append(&["a/fresh"; 8]).await;
    let claimed = hang(&consumer, 8).await;
    assert_eq!(ids(&claimed), [1, 2, 7, 8, 9, 10, 11, 12]);
    // What a fresh one leaves goes to a fresh one, what a due one leaves to a due one.
    done(&consumer, &claimed[3]).await;
    assert_eq!(ids(&hang(&consumer, 1).await), [13]);
    settle(&consumer, claimed[0].tag, retry(Duration::from_secs(3_600))).await;
    let due = hang(&consumer, 1).await;
    assert_eq!((ids(&due), due[0].attempt), (vec![3], 2));
}

/// And when they have ended, there is none to be left over.
pub async fn due_messages_take_what_the_log_does_not(backend: &dyn Backend) {
    let ports = backend.open().await;
    let consumer = with_due(&ports, 10, 8).await;
    let claimed = hang(&consumer, 8).await;
    assert_eq!(ids(&claimed), [1, 2, 3, 4, 5, 6, 7, 8]);
    ports.append(&["a/fresh"; 2]).await;
    for (delivery, next) in claimed.iter().zip([11, 12, 9, 10]) {
        done(&consumer, delivery).await;
        assert_eq!(ids(&hang(&consumer, 1).await), [next]);
    }
}

/// However many messages of other types come before its next one.
pub async fn due_messages_wait_until_the_log_was_looked_at(backend: &dyn Backend) {
    let ports = backend.open().await;
    let consumer = with_due(&ports, 6, 4).await;
    let fresh = ports.append(&["b/other"; 25_000]).await.0 + 25_000;
    ports.append(&["a/fresh"; 1]).await;
    assert_eq!(ids(&hang(&consumer, 4).await), [1, 2, 3, fresh]);
}

/// There is no quarter of it.
pub async fn one_claim_is_taken_in_turn(backend: &dyn Backend) {
    let ports = backend.open().await;
    let consumer = with_due(&ports, 2, 1).await;
    ports.append(&["a/fresh"; 3]).await;
    for expected in [1, 3, 2, 4, 5] {
        let claimed = hang(&consumer, 1).await;
        assert_eq!(ids(&claimed), [expected]);
        done(&consumer, &claimed[0]).await;
    }
}

/// It was claimed before.
pub async fn a_returned_message_comes_first_whatever_the_share(backend: &dyn Backend) {
    let ports = backend.open().await;
    let consumer = with_due(&ports, 6, 4).await;
    let claimed = hang(&consumer, 4).await;
    ports.append(&["a/fresh"; 2]).await;
    consumer.settle(Settlement { tag: claimed[1].tag, verdict: Verdict::Return, effects: None });
    let again = hang(&consumer, 1).await;
    assert_eq!((ids(&again), again[0].attempt), (vec![2], 2));
}
