//! What a [`Consumer`](crate::Consumer) on a log must do, on every backend.

use std::time::Duration;

use tokio::time::Instant;

use super::{Backend, Ports, soon, types, waits};
use crate::{
    Consumer, Delivery, LogConsumer, NewMessage, Position, Settlement, TypeSet, Verdict,
    consumer::{Effects, Flow, Tag},
    cursor::WINDOW,
    ledger::{DeadQuery, Fate, Guard, KeyWrite, Start},
    log_consumer::LogConsumerOptions,
};

const SHORT: Duration = Duration::from_millis(30);

pub(super) fn ids(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.message.id.0).collect()
}

/// The next `count` deliveries.
pub(super) async fn take(consumer: &LogConsumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(soon(consumer.next(count - taken.len())).await.expect("the consumer delivers"));
    }
    taken
}

/// Settles and waits until it is durable.
pub(super) async fn settle(consumer: &LogConsumer, tag: Tag, verdict: Verdict) {
    settle_with(consumer, tag, verdict, None).await;
}

pub(super) async fn settle_with(
    consumer: &LogConsumer,
    tag: Tag,
    verdict: Verdict,
    effects: Option<Box<Effects>>,
) {
    let ticket = consumer.settle(Settlement { tag, verdict, effects });
    let mut durable = consumer.durable();
    soon(durable.wait_for(|durable| *durable >= ticket)).await.expect("the consumer lives");
}

pub(super) async fn done_all(consumer: &LogConsumer, deliveries: &[Delivery]) {
    for delivery in deliveries {
        settle(consumer, delivery.tag, Verdict::Done).await;
    }
}

pub(super) fn retry(delay: Duration) -> Verdict {
    Verdict::RetryAfter { delay, reason: "it failed".into() }
}

async fn drain(consumer: &LogConsumer) {
    consumer.drain(Instant::now() + Duration::from_secs(5)).await.expect("drains");
}

pub(super) async fn dead_of(ports: &Ports) -> Vec<u64> {
    let query = DeadQuery { max: 100, ..DeadQuery::default() };
    let page = ports.ledger.dead(query).await.expect("lists dead letters");
    page.letters.iter().map(|letter| letter.message_id.0).collect()
}

/// The log's order, all types of the set and no others.
pub async fn delivers_in_order(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a", "b/b", "a/c", "b/b", "a/a"]).await;
    let consumer = ports.consumer_of("w", 8, types(&["a/*"])).await;
    assert_eq!(ids(&take(&consumer, 3).await), [1, 3, 5]);
    assert!(waits(consumer.next(1)).await);
    ports.append(&["b/b", "a/new"]).await;
    let delivery = take(&consumer, 1).await.remove(0);
    assert_eq!((delivery.message.id, delivery.attempt, delivery.suspect), (Position(7), 1, false));
}

/// Settled but not durable counts, so that a crash repeats no more than the bound.
pub async fn prefetch_bounds_what_is_unsettled(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 10]).await;
    let consumer = ports.consumer("w", 4).await;
    let claimed = take(&consumer, 4).await;
    assert_eq!(consumer.status().unsettled, 4);
    assert!(waits(consumer.next(1)).await);
    consumer.settle(Settlement { tag: claimed[2].tag, verdict: Verdict::Done, effects: None });
    let mut next = consumer.next(1);
    assert!(futures_util::poll!(&mut next).is_pending(), "what is settled is not durable yet");
    assert_eq!(ids(&soon(next).await.expect("the consumer delivers")), [5]);
    assert!(waits(consumer.next(1)).await);
}

/// After a clean stop, and in any order of settling.
pub async fn done_is_not_delivered_again(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 6]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 6).await;
    for index in [5, 1, 3, 0] {
        settle(&consumer, claimed[index].tag, Verdict::Done).await;
    }
    consumer.drain(Instant::now()).await.expect("drains");
    drop(consumer);
    backend.close(ports).await;
    let ports = backend.open().await;
    let consumer = ports.consumer("w", 8).await;
    let again = take(&consumer, 2).await;
    assert_eq!(ids(&again), [3, 5]);
    assert!(again.iter().all(|delivery| !delivery.suspect && delivery.attempt == 1));
    assert!(waits(consumer.next(1)).await);
}

/// After its delay, and after a stop, too.
pub async fn a_retry_comes_back_counted(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a", "a/a"]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 2).await;
    let begun = Instant::now();
    settle(&consumer, claimed[0].tag, retry(SHORT)).await;
    settle(&consumer, claimed[1].tag, retry(Duration::ZERO)).await;
    let now = take(&consumer, 1).await;
    assert_eq!((ids(&now), now[0].attempt), (vec![2], 2));
    let later = take(&consumer, 1).await;
    assert!(begun.elapsed() >= SHORT, "it waits for its time");
    assert_eq!((ids(&later), later[0].attempt), (vec![1], 2));
    settle(&consumer, later[0].tag, retry(Duration::ZERO)).await;
    settle(&consumer, now[0].tag, Verdict::Done).await;
    drain(&consumer).await;
    drop(consumer);
    backend.close(ports).await;
    let ports = backend.open().await;
    let consumer = ports.consumer("w", 8).await;
    let again = take(&consumer, 1).await;
    assert_eq!((ids(&again), again[0].attempt), (vec![1], 3));
    assert_eq!(consumer.status().parked, 1);
}

/// A handler that asks for a later time has not failed.
pub async fn a_snooze_is_not_counted(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 1).await;
    settle(&consumer, claimed[0].tag, Verdict::Snooze { delay: SHORT }).await;
    assert_eq!(take(&consumer, 1).await[0].attempt, 1);
}

/// And comes behind what was returned before.
pub async fn a_return_is_not_counted(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 2).await;
    for index in [1, 0] {
        consumer.settle(Settlement { tag: claimed[index].tag, verdict: Verdict::Return, effects: None });
    }
    let again = take(&consumer, 3).await;
    assert_eq!(ids(&again), [2, 1, 3]);
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
}

/// However often it does: others have their turn on the same thread.
pub async fn what_comes_back_at_once_leaves_the_thread(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let consumer = ports.consumer("w", 8).await;
    let other = tokio::spawn(async {});
    let mut turns = 0;
    while !other.is_finished() {
        let tag = take(&consumer, 1).await[0].tag;
        consumer.settle(Settlement { tag, verdict: Verdict::Return, effects: None });
        turns += 1;
        assert!(turns < 10_000, "the other task never runs");
    }
}

/// Found with its reason, revived as if it were new, for this worker.
pub async fn a_dead_letter_can_come_back(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 1).await;
    settle(&consumer, claimed[0].tag, Verdict::Dead { reason: "no use".into() }).await;
    let query = DeadQuery { max: 10, ..DeadQuery::default() };
    let letter = ports.ledger.dead(query).await.expect("lists").letters.remove(0);
    assert_eq!((&*letter.reason, letter.attempts, letter.message_id), ("no use", 1, Position(1)));
    assert!(waits(consumer.next(1)).await);
    ports.ledger.revive(letter.id).await.expect("revives");
    let again = take(&consumer, 1).await;
    assert_eq!((ids(&again), again[0].attempt), (vec![1], 1));
    assert_eq!(consumer.status().parked, 1);
    settle(&consumer, again[0].tag, Verdict::Done).await;
    assert!(matches!(ports.ledger.fates(Position(1)).await.expect("tells")[0].1, Fate::Done));
    assert_eq!(ports.ledger.workers().await.expect("lists workers")[0].parked, 0);
}

/// Claimed ones keep their rows, however many they are.
pub async fn many_retries_are_claimed_at_once(backend: &dyn Backend) {
    const MANY: usize = 1_500;
    let ports = backend.open().await;
    ports.append(&["a/a"; MANY]).await;
    let consumer = ports.consumer("w", MANY as u32).await;
    for delivery in take(&consumer, MANY).await {
        let verdict = retry(Duration::ZERO);
        consumer.settle(Settlement { tag: delivery.tag, verdict, effects: None });
    }
    let mut again = ids(&take(&consumer, MANY).await);
    again.sort();
    assert_eq!(again, (1..=MANY as u64).collect::<Vec<_>>());
}

/// Not even a dead letter.
pub async fn a_cancelled_message_leaves_nothing(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 1).await;
    settle(&consumer, claimed[0].tag, Verdict::Cancel { reason: "changed my mind".into() }).await;
    assert!(dead_of(&ports).await.is_empty());
    assert_eq!(consumer.status().low, Position(1));
}

/// Keys and appended messages, for messages from the log and for parked ones.
pub async fn effects_commit_with_the_done_mark(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let consumer = ports.consumer_of("w", 8, types(&["a/*"])).await;
    let claimed = take(&consumer, 1).await;
    settle(&consumer, claimed[0].tag, retry(Duration::ZERO)).await;
    let claimed = take(&consumer, 1).await;
    let effects = Effects {
        guards: vec![Guard::Version("k".into(), 0)],
        writes: vec![KeyWrite::Set("k".into(), "v".into())],
        appends: vec![NewMessage::new("b/effect", "{}")],
    };
    settle_with(&consumer, claimed[0].tag, Verdict::Done, Some(Box::new(effects))).await;
    let found = ports.ledger.keys("w".into(), vec!["k".into()]).await.expect("reads keys");
    assert_eq!(found[0].value.as_deref(), Some(&b"v"[..]));
    assert_eq!(*ports.log.tip().borrow(), Position(2));
    assert_eq!((consumer.status().parked, consumer.status().unsettled), (0, 0));
}

/// Somebody else wrote the key meanwhile: the attempt did not happen.
pub async fn a_conflict_is_delivered_again_uncounted(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a", "a/a"]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 2).await;
    let write = |version| Effects {
        guards: vec![Guard::Version("k".into(), version)],
        writes: vec![KeyWrite::Set("k".into(), "v".into())],
        appends: Vec::new(),
    };
    for delivery in &claimed {
        settle_with(&consumer, delivery.tag, Verdict::Done, Some(Box::new(write(0)))).await;
    }
    let again = take(&consumer, 1).await;
    assert_eq!((ids(&again), again[0].attempt), (vec![2], 1));
    let version = ports.ledger.keys("w".into(), vec!["k".into()]).await.expect("reads keys")[0].version;
    settle_with(&consumer, again[0].tag, Verdict::Done, Some(Box::new(write(version)))).await;
    assert_eq!(consumer.status().low, Position(2));
}

/// And lets later messages pass.
pub async fn a_scheduled_message_waits_for_its_time(backend: &dyn Backend) {
    let ports = backend.open().await;
    let run_at = Some(ports.clock.now() + SHORT * 10);
    let late = NewMessage { run_at, ..NewMessage::new("a/late", "{}") };
    let soon_enough = NewMessage { run_at: Some(ports.clock.now()), ..NewMessage::new("a/now", "{}") };
    ports.log.append(vec![late, soon_enough, NewMessage::new("a/a", "{}")].into()).await.expect("appends");
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 2).await;
    assert_eq!(ids(&claimed), [2, 3]);
    let late = take(&consumer, 1).await;
    assert!(Some(ports.clock.now()) >= run_at);
    assert_eq!((ids(&late), late[0].attempt), (vec![1], 1));
    done_all(&consumer, &late).await;
    done_all(&consumer, &claimed).await;
    assert_eq!((consumer.status().low, consumer.status().parked), (Position(3), 0));
}

/// It becomes a running row, and its end is recorded like any other's.
pub async fn a_straggler_lets_the_cursor_pass(backend: &dyn Backend) {
    let ports = backend.open().await;
    let batch = || (0..5_000).map(|_| NewMessage::new("a/a", "{}")).collect::<Vec<_>>();
    while ports.log.tip().borrow().0 <= WINDOW + 100 {
        ports.log.append(batch().into()).await.expect("appends");
    }
    let consumer = ports.consumer("w", 1_000).await;
    let straggler = take(&consumer, 1).await.remove(0);
    let tip = ports.log.tip().borrow().0;
    let mut seen = 1;
    while seen < tip {
        let claimed = soon(consumer.next(1_000)).await.expect("the consumer delivers");
        seen += claimed.len() as u64;
        for delivery in claimed {
            consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects: None });
        }
    }
    assert_eq!(consumer.status().parked, 1, "the straggler has a running row");
    settle(&consumer, straggler.tag, Verdict::Done).await;
    assert_eq!((consumer.status().parked, consumer.status().low), (0, Position(tip)));
    assert!(waits(consumer.next(1)).await);
}

/// And keeps what is claimed.
pub async fn a_paused_consumer_delivers_nothing(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 1).await;
    consumer.flow(Flow::Paused);
    assert!(waits(consumer.next(1)).await);
    settle(&consumer, claimed[0].tag, Verdict::Done).await;
    consumer.flow(Flow::Running { prefetch: 8 });
    assert_eq!(ids(&take(&consumer, 2).await), [2, 3]);
}

/// Until all of it is settled and durable.
pub async fn a_drain_waits_for_what_is_claimed(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 2).await;
    let mut drained = consumer.drain(Instant::now() + Duration::from_secs(20));
    assert!(futures_util::poll!(&mut drained).is_pending());
    assert!(waits(consumer.next(1)).await, "a draining consumer delivers nothing");
    assert!(futures_util::poll!(&mut drained).is_pending());
    done_all(&consumer, &claimed).await;
    let drained = soon(drained).await.expect("drains");
    assert_eq!((drained.settled, drained.returned), (2, 0));
    drop(consumer);
    let consumer = ports.consumer("w", 8).await;
    let rest = take(&consumer, 1).await;
    assert_eq!((ids(&rest), rest[0].suspect), (vec![3], false));
}

/// The next holder gets them as if they had never been claimed.
pub async fn a_drain_gives_back_the_rest_uncounted(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 3).await;
    settle(&consumer, claimed[0].tag, retry(Duration::ZERO)).await;
    take(&consumer, 1).await;
    let drained = consumer.drain(Instant::now() + SHORT).await.expect("drains");
    assert_eq!((drained.settled, drained.returned), (0, 3));
    drop(consumer);
    let consumer = ports.consumer("w", 8).await;
    let mut again: Vec<_> = take(&consumer, 3).await;
    again.sort_by_key(|delivery| delivery.message.id);
    let attempts: Vec<_> = again.iter().map(|delivery| (delivery.message.id.0, delivery.attempt)).collect();
    assert_eq!(attempts, [(1, 2), (2, 1), (3, 1)]);
    assert!(again.iter().all(|delivery| !delivery.suspect));
}

/// As an outage does with the attempts that opened it.
pub async fn given_back_attempts_are_due_at_once(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 2]).await;
    let consumer = ports.consumer("w", 8).await;
    let claimed = take(&consumer, 2).await;
    settle(&consumer, claimed[0].tag, retry(Duration::from_secs(3_600))).await;
    consumer.settle(Settlement {
        tag: claimed[1].tag,
        verdict: retry(Duration::from_secs(3_600)),
        effects: None,
    });
    consumer.give_back(vec![(claimed[0].tag, 1), (claimed[1].tag, 1)]);
    let again = take(&consumer, 2).await;
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
}

/// Claims live in the consumer, not in the future.
pub async fn a_dropped_next_loses_nothing(backend: &dyn Backend) {
    let ports = backend.open().await;
    let consumer = ports.consumer("w", 1_000).await;
    let mut seen = Vec::new();
    for round in 0..100 {
        ports.append(&["a/a", "a/b"]).await;
        // Polled a few times and dropped, wherever it stands then.
        let mut next = consumer.next(1);
        for _ in 0..round % 5 {
            if let std::task::Poll::Ready(taken) = futures_util::poll!(&mut next) {
                seen.extend(ids(&taken.expect("the consumer delivers")));
                next = consumer.next(1);
            }
            tokio::task::yield_now().await;
        }
    }
    while seen.len() < 200 {
        seen.extend(ids(&take(&consumer, 1).await));
    }
    assert_eq!(seen, (1..=200).collect::<Vec<_>>());
}

/// It cannot commit any more, and says so.
pub async fn a_later_holder_fences_the_earlier(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 2]).await;
    let earlier = ports.consumer("w", 1).await;
    let claimed = take(&earlier, 1).await;
    let _later = ports.consumer("w", 1).await;
    earlier.settle(Settlement { tag: claimed[0].tag, verdict: Verdict::Done, effects: None });
    let error = soon(earlier.next(1)).await.expect_err("it was fenced");
    assert_eq!(error.kind, crate::Kind::Fenced);
}

/// So that the next start does not read them again.
pub async fn skipped_positions_are_committed(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["b/b"; 50]).await;
    let consumer = ports.consumer_of("w", 8, types(&["a/*"])).await;
    assert!(waits(consumer.next(1)).await);
    for _ in 0..3 {
        ports.append(&["b/b"; 50]).await;
        let passed = async {
            while ports.ledger.workers().await.expect("lists workers")[0].low < *ports.log.tip().borrow() {
                assert!(waits(consumer.next(1)).await, "there is nothing to deliver");
            }
        };
        soon(passed).await;
    }
}

/// Each with its own progress.
pub async fn two_workers_each_get_everything(backend: &dyn Backend) {
    let ports = backend.open().await;
    let (one, two) = (ports.consumer("one", 8).await, ports.consumer("two", 8).await);
    ports.append(&["a/a"; 5]).await;
    let claimed = take(&one, 5).await;
    done_all(&one, &claimed).await;
    assert_eq!(ids(&take(&two, 5).await), [1, 2, 3, 4, 5]);
    assert_eq!((one.status().low, two.status().low), (Position(5), Position(0)));
}

/// What is due still comes.
pub async fn a_full_table_of_parked_messages_stops_claiming(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 40]).await;
    let options = LogConsumerOptions {
        start: Start::Beginning,
        prefetch: 2,
        max_parked: 5,
        ..LogConsumerOptions::new("w", TypeSet::all(), ports.clock.clone())
    };
    let consumer = LogConsumer::open(ports.log.clone(), ports.ledger.clone(), options).await.expect("opens");
    let mut parked = 0;
    while let Ok(claimed) = tokio::time::timeout(SHORT * 10, consumer.next(1)).await {
        let tag = claimed.expect("the consumer delivers")[0].tag;
        settle(&consumer, tag, retry(Duration::from_secs(3_600))).await;
        parked += 1;
    }
    assert!((5..40).contains(&parked), "{parked} were parked");
    let error = consumer.status().health.error().cloned().expect("a full table is told");
    assert_eq!(error.kind, crate::Kind::Full);
    consumer.give_back(vec![(Tag { epoch: consumer.status().epoch, number: 1 }, 1)]);
    assert_eq!(ids(&take(&consumer, 1).await), [1]);
}
