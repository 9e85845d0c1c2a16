//! Ends: of consumers, of connections, of the broker.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{Case, QueueBackend, done, numbers, one, payloads, settle, soon, stop, take, waits};
use crate::{Health, Kind, Settlement, Verdict};

/// A consumer that is dropped is a crash: what it had comes to another one, uncounted.
pub async fn a_consumer_that_is_gone_gives_everything_back(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(10).await;
    let consumer = case.consumer(10).await;
    let claimed = take(&consumer, 6).await;
    done(&consumer, &claimed[..2]).await;
    drop(consumer);
    let other = case.consumer(20).await;
    let again = take(&other, 8).await;
    let came: BTreeSet<String> = payloads(&again).into_iter().collect();
    assert_eq!(came, numbers(2..10).into_iter().collect());
    assert!(again.iter().all(|delivery| delivery.attempt == 1), "a crash of the process is no attempt");
    let before: BTreeSet<String> = payloads(&claimed).into_iter().collect();
    for delivery in &again {
        let payload = &payloads(std::slice::from_ref(delivery))[0];
        assert!(delivery.redelivered || !before.contains(payload), "{payload} was delivered before");
    }
    done(&other, &again).await;
    stop(&other).await;
    case.close().await;
}

/// A drain ends when the last claim is settled, and delivers nothing more.
pub async fn a_drain_waits_for_what_is_claimed(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(5).await;
    let consumer = case.consumer(2).await;
    let claimed = take(&consumer, 2).await;
    let mut drain = std::pin::pin!(consumer.drain(Instant::now() + Duration::from_secs(10)));
    assert!(waits(drain.as_mut()).await, "it waits for the two");
    for delivery in &claimed {
        consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects: None });
    }
    let drained = soon(drain).await.expect("it drains");
    assert_eq!((drained.settled, drained.returned), (2, 0));
    assert_eq!(soon(consumer.next(1)).await.expect_err("it has ended").kind, Kind::Closed);
    let other = case.consumer(10).await;
    let rest = take(&other, 3).await;
    assert_eq!(payloads(&rest).into_iter().collect::<BTreeSet<_>>(), numbers(2..5).into_iter().collect());
    done(&other, &rest).await;
    stop(&other).await;
    case.close().await;
}

/// At the deadline the rest goes back, and no attempt of it is counted.
pub async fn a_drain_gives_back_the_rest_uncounted(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(4).await;
    let consumer = case.consumer(10).await;
    take(&consumer, 3).await;
    assert_eq!(stop(&consumer).await, 3);
    let other = case.consumer(10).await;
    let again = take(&other, 4).await;
    assert_eq!(payloads(&again).into_iter().collect::<BTreeSet<_>>(), numbers(0..4).into_iter().collect());
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
    done(&other, &again).await;
    stop(&other).await;
    case.close().await;
}

/// A word that comes after the end is ignored: the message has gone to another one.
pub async fn settling_after_the_end_changes_nothing(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(1).await;
    let consumer = case.consumer(10).await;
    let claimed = one(&consumer).await;
    stop(&consumer).await;
    let other = case.consumer(10).await;
    let again = one(&other).await;
    for verdict in [Verdict::Done, Verdict::Return, Verdict::Dead { reason: "late".into() }] {
        consumer.settle(Settlement { tag: claimed.tag, verdict, effects: None });
    }
    settle(&other, again.tag, Verdict::Return).await;
    let third = one(&other).await;
    assert_eq!(payloads(std::slice::from_ref(&third)), numbers(0..1));
    done(&other, &[third]).await;
    stop(&other).await;
    case.close().await;
}

/// After a cut everything that was not settled comes, and what is published later; nothing waits for a restart.
pub async fn consuming_goes_on_after_a_cut(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let consumer = case.consumer(10).await;
    for round in 0..3 {
        case.publish(case.numbered(10 * round..10 * round + 10)).await;
        let claimed = take(&consumer, 5).await;
        done(&consumer, &claimed[..2]).await;
        backend.cut().await;
        // Said while nobody can hear it: it may count or not, but it must not spoil what follows.
        consumer.settle(Settlement { tag: claimed[2].tag, verdict: Verdict::Done, effects: None });
        // Where claims outlive a connection these are still ours; elsewhere nobody listens to this.
        for delivery in &claimed[3..] {
            consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Return, effects: None });
        }
        let settled: BTreeSet<String> = payloads(&claimed[..2]).into_iter().collect();
        let maybe = payloads(&claimed[2..3]).remove(0);
        backend.mend().await;
        let mut missing: BTreeSet<String> = numbers(10 * round..10 * round + 10).into_iter().collect();
        missing.retain(|payload| !settled.contains(payload));
        while !missing.iter().all(|payload| *payload == maybe) {
            let deliveries = soon(consumer.next(10)).await.expect("it goes on");
            for payload in payloads(&deliveries) {
                assert!(!settled.contains(&payload), "{payload} was settled");
                missing.remove(&payload);
            }
            done(&consumer, &deliveries).await;
        }
    }
    stop(&consumer).await;
    case.close().await;
}

/// While nothing can come, the status says so; afterwards it is ready again by itself.
pub async fn a_cut_shows_in_the_status_and_the_health(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let consumer = case.consumer(10).await;
    case.fill(1).await;
    let delivery = one(&consumer).await;
    done(&consumer, &[delivery]).await;
    assert!(consumer.status().health.is_ready());
    let mut health = case.port.health();
    assert!(soon(health.wait_for(Health::is_ready)).await.is_ok());
    backend.cut().await;
    soon(health.wait_for(|health| matches!(health, Health::Recovering { .. }))).await.expect("it lives");
    soon(until(|| matches!(consumer.status().health, Health::Recovering { .. }))).await;
    backend.mend().await;
    soon(health.wait_for(Health::is_ready)).await.expect("it lives");
    soon(until(|| consumer.status().health.is_ready())).await;
    stop(&consumer).await;
    case.close().await;
}

/// Waits for a condition that nobody announces.
async fn until(condition: impl Fn() -> bool) {
    let mut look_again = tokio::time::interval(Duration::from_millis(5));
    while !condition() {
        look_again.tick().await;
    }
}

/// Every message that was confirmed is there once at least, however often the connection ended meanwhile.
pub async fn publishing_through_a_cut_loses_nothing(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let mut confirmed = BTreeSet::new();
    for round in 0..5 {
        let batch = case.numbered(200 * round..200 * round + 200);
        let sent = payloads_of(&batch);
        let publishing = case.port.publish(batch);
        let cutting = async {
            backend.cut().await;
            backend.mend().await;
        };
        let (answers, ()) = tokio::join!(soon(publishing), cutting);
        let answers = answers.expect("every message has an answer");
        assert_eq!(answers.len(), 200);
        for (payload, answer) in sent.into_iter().zip(answers) {
            match answer {
                Ok(_) => drop(confirmed.insert(payload)),
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    }
    let consumer = case.consumer(100).await;
    let mut missing = confirmed;
    while !missing.is_empty() {
        let deliveries = soon(consumer.next(100)).await.expect("it delivers");
        for payload in payloads(&deliveries) {
            missing.remove(&payload);
        }
        done(&consumer, &deliveries).await;
    }
    stop(&consumer).await;
    case.close().await;
}

fn payloads_of(batch: &[crate::queue::Outgoing]) -> Vec<String> {
    batch.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}

/// It does not wait for ever, and says that it may be tried again.
pub async fn publishing_without_a_broker_ends_in_time(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(1).await;
    backend.cut().await;
    // The connection's end may not have been noticed yet: then the message may have been sent.
    let answers = soon(case.port.publish(case.numbered(1..3))).await.expect("every message has an answer");
    for answer in answers {
        let error = answer.expect_err("there is no broker");
        assert!(matches!(error.kind, Kind::Unavailable | Kind::Unknown), "{error}");
    }
    backend.mend().await;
    case.fill(1).await;
    case.close().await;
}
