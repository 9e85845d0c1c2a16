//! What becomes of deliveries.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Case, QueueBackend, done, numbers, one, payloads, retry, settle, settle_all, soon, stop, take, waits,
};
use crate::{Delivery, Verdict, consumer::Tag};

async fn is_empty(case: &Case) {
    let consumer = case.consumer(10).await;
    assert!(waits(consumer.next(1)).await, "something is left in the queue");
    stop(&consumer).await;
}

/// Whatever order they are settled in, and after the connection is gone.
pub async fn done_is_not_delivered_again(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(100).await;
    let consumer = case.consumer(100).await;
    let claimed = take(&consumer, 100).await;
    let odd = claimed.iter().filter(|delivery| delivery.tag.number % 2 == 1);
    settle_all(&consumer, odd.map(|delivery| (delivery.tag, Verdict::Done))).await;
    let even = claimed.iter().filter(|delivery| delivery.tag.number % 2 == 0);
    settle_all(&consumer, even.rev().map(|delivery| (delivery.tag, Verdict::Done))).await;
    assert_eq!(consumer.status().unsettled, 0);
    assert_eq!(stop(&consumer).await, 0);
    is_empty(&case).await;
    case.close().await;
}

/// Its second attempt has number 2 and the same id, and comes after its delay.
pub async fn a_retry_comes_back_counted_and_not_too_early(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let receipts = case.publish(vec![case.outgoing("[\"again\"]")]).await;
    let consumer = case.consumer(10).await;
    let first = one(&consumer).await;
    let (began, delay) = (Instant::now(), Duration::from_millis(700));
    settle(&consumer, first.tag, retry(delay)).await;
    let second = one(&consumer).await;
    let waited = began.elapsed();
    assert!(waited >= delay - Duration::from_millis(20), "it came after {waited:?}");
    assert!(waited < Duration::from_secs(6), "it came after {waited:?}");
    assert_eq!(
        (second.attempt, payloads(std::slice::from_ref(&second))),
        (2, vec!["[\"again\"]".to_owned()])
    );
    assert_eq!(second.message.name.as_ref(), Some(&receipts[0].id));
    assert_eq!(second.message.kind, first.message.kind);
    done(&consumer, &[second]).await;
    stop(&consumer).await;
    is_empty(&case).await;
    case.close().await;
}

/// It comes again, as the attempt that it was.
pub async fn a_snooze_is_not_counted(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(1).await;
    let consumer = case.consumer(10).await;
    let first = one(&consumer).await;
    settle(&consumer, first.tag, Verdict::Snooze { delay: Duration::from_millis(200) }).await;
    let again = one(&consumer).await;
    assert_eq!((again.attempt, &again.message.name), (1, &first.message.name));
    done(&consumer, &[again]).await;
    stop(&consumer).await;
    case.close().await;
}

/// It comes again as soon as possible, as the attempt that it was.
pub async fn a_return_is_not_counted(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(2).await;
    let consumer = case.consumer(10).await;
    let claimed = take(&consumer, 2).await;
    settle_all(&consumer, claimed.iter().map(|delivery| (delivery.tag, Verdict::Return))).await;
    let again = take(&consumer, 2).await;
    assert!(again.iter().all(|delivery| delivery.attempt == 1), "{again:?}");
    done(&consumer, &again).await;
    stop(&consumer).await;
    is_empty(&case).await;
    case.close().await;
}

/// Neither in the queue nor among the dead letters.
pub async fn a_cancelled_message_leaves_nothing(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(1).await;
    let consumer = case.consumer(10).await;
    let delivery = one(&consumer).await;
    settle(&consumer, delivery.tag, Verdict::Cancel { reason: "not needed".into() }).await;
    stop(&consumer).await;
    is_empty(&case).await;
    assert!(soon(case.port.dead(case.name.clone(), 10)).await.expect("it can be looked at").is_empty());
    case.close().await;
}

/// A dead letter has everything of its message, and says why and after how many attempts; looking takes nothing.
pub async fn a_dead_letter_says_why(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let receipts = case.publish(case.numbered(0..2)).await;
    let consumer = case.consumer(10).await;
    let claimed = take(&consumer, 2).await;
    settle(&consumer, claimed[0].tag, retry(Duration::from_millis(50))).await;
    let second = one(&consumer).await;
    settle(&consumer, second.tag, Verdict::Dead { reason: "no such order".into() }).await;
    settle(&consumer, claimed[1].tag, Verdict::Dead { reason: "müde".into() }).await;
    stop(&consumer).await;
    is_empty(&case).await;
    // Before anybody looks at them: who looks has them for a moment.
    let stats = soon(case.port.stats(case.name.clone())).await.expect("the queue is there");
    assert_eq!((stats.ready, stats.dead.unwrap_or(2)), (Some(0), 2));
    for _ in 0..2 {
        let mut letters = soon(case.port.dead(case.name.clone(), 10)).await.expect("they are listed");
        letters.sort_by_key(|letter| letter.payload.clone());
        assert_eq!(letters.len(), 2, "{letters:?}");
        let [first, other] = &letters[..] else { unreachable!("there are two") };
        assert_eq!((&*first.reason, first.attempts, &first.payload[..]), ("no such order", 2, &b"[0]"[..]));
        assert_eq!((&*other.reason, other.attempts, &other.payload[..]), ("müde", 1, &b"[1]"[..]));
        assert_eq!(first.id.as_ref(), Some(&receipts[0].id));
        assert_eq!(&*first.kind, "suite/message");
        assert!(first.at.is_some());
        assert!(first.history.iter().any(|said| said.contains("not yet")), "{:?}", first.history);
    }
    case.close().await;
}

/// Retry, return, snooze and a lost connection, one after the other: only the retries count.
pub async fn attempts_are_counted_through_everything(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(1).await;
    let mut consumer = case.consumer(10).await;
    let short = Duration::from_millis(50);
    let steps =
        [retry(short), Verdict::Return, retry(short), Verdict::Snooze { delay: short }, Verdict::Return];
    for (step, attempt) in steps.into_iter().zip([1, 2, 2, 3, 3]) {
        let delivery = one(&consumer).await;
        assert_eq!(delivery.attempt, attempt, "before {step:?}");
        settle(&consumer, delivery.tag, step).await;
        let before = consumer;
        consumer = case.consumer(10).await;
        stop(&before).await;
    }
    let delivery = one(&consumer).await;
    assert_eq!((delivery.attempt, payloads(std::slice::from_ref(&delivery))), (3, numbers(0..1)));
    done(&consumer, &[delivery]).await;
    stop(&consumer).await;
    is_empty(&case).await;
    case.close().await;
}

/// A tag that nobody holds settles nothing, and harms nobody.
pub async fn an_old_tag_is_ignored(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(2).await;
    let consumer = case.consumer(10).await;
    let claimed: Vec<Delivery> = take(&consumer, 2).await;
    let tag = claimed[0].tag;
    for stale in [Tag { epoch: tag.epoch + 7, ..tag }, Tag { number: tag.number + 1_000, ..tag }] {
        settle(&consumer, stale, Verdict::Done).await;
    }
    assert_eq!(consumer.status().unsettled, 2);
    done(&consumer, &claimed).await;
    stop(&consumer).await;
    is_empty(&case).await;
    case.close().await;
}

/// The second word on a delivery changes nothing, and spoils nothing.
pub async fn settling_twice_is_settling_once(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(3).await;
    let consumer = case.consumer(10).await;
    let claimed = take(&consumer, 3).await;
    settle(&consumer, claimed[0].tag, Verdict::Done).await;
    settle(&consumer, claimed[0].tag, Verdict::Dead { reason: "too late".into() }).await;
    settle(&consumer, claimed[0].tag, Verdict::Return).await;
    done(&consumer, &claimed[1..]).await;
    stop(&consumer).await;
    is_empty(&case).await;
    assert!(soon(case.port.dead(case.name.clone(), 10)).await.expect("it can be looked at").is_empty());
    case.close().await;
}
