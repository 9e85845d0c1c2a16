//! How messages come.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Case, QueueBackend, done, header, numbers, one, payloads, settle, soon, stop, take, waits};
use crate::{
    Consumer, Verdict,
    consumer::Flow,
    queue::{Outgoing, Payloads},
    time::{Clock, SystemClock},
};

/// One consumer gets what was published in the order in which it was.
pub async fn messages_come_in_order(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(100).await;
    let consumer = case.consumer(10).await;
    let mut came = Vec::new();
    while came.len() < 100 {
        let deliveries = soon(consumer.next(3)).await.expect("it delivers");
        assert!((1..=3).contains(&deliveries.len()), "at most as many as asked for");
        came.extend(payloads(&deliveries));
        done(&consumer, &deliveries).await;
    }
    assert_eq!(came, numbers(0..100));
    stop(&consumer).await;
    case.close().await;
}

/// Not more than the prefetch are unsettled; settling one lets one more in.
pub async fn what_is_unsettled_is_bounded(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(20).await;
    let consumer = case.consumer(5).await;
    let claimed = take(&consumer, 5).await;
    assert!(waits(consumer.next(1)).await, "a sixth one comes while five are unsettled");
    assert_eq!(consumer.status().unsettled, 5);
    settle(&consumer, claimed[2].tag, Verdict::Done).await;
    assert_eq!(payloads(&[one(&consumer).await]), ["[5]"]);
    assert!(waits(consumer.next(1)).await);
    stop(&consumer).await;
    case.close().await;
}

/// Type, payload, headers, id and time come back as they were; the first attempt is number 1.
pub async fn everything_of_a_message_comes_back(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let began = SystemClock.now();
    let message = Outgoing { headers: header("tenant", "7"), ..case.outgoing(r#"[{"order_id":7}]"#) };
    let receipts = case.publish(vec![message]).await;
    let consumer = case.consumer(5).await;
    let delivery = one(&consumer).await;
    let message = &delivery.message;
    assert_eq!((&*message.kind, &message.payload[..]), ("suite/message", &br#"[{"order_id":7}]"#[..]));
    assert_eq!(message.name.as_ref(), Some(&receipts[0].id));
    assert!(delivery.is_identified && !delivery.suspect);
    assert_eq!(delivery.attempt, 1);
    let (early, late) = (Duration::from_secs(2), SystemClock.now() + Duration::from_secs(2));
    assert!(message.timestamp + early >= began && message.timestamp <= late, "{}", message.timestamp);
    if case.port.capabilities().headers {
        assert_eq!(message.headers, header("tenant", "7"));
    }
    done(&consumer, &[delivery]).await;
    stop(&consumer).await;
    case.close().await;
}

/// Empty, small, and as large as the backend takes.
pub async fn bodies_of_every_size_come_back(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let largest = case.max_payload().min(4 << 20);
    let sizes = [0, 1, 1_000, 131_064, 131_065, 1 << 20, largest].into_iter().filter(|size| *size <= largest);
    let bodies: Vec<Vec<u8>> = sizes.map(|size| body(&case, size)).collect();
    case.publish(bodies.iter().map(|body| case.outgoing(body.clone())).collect()).await;
    let consumer = case.consumer(10).await;
    for body in bodies {
        let delivery = one(&consumer).await;
        assert!(delivery.message.payload == body, "a body of {} bytes came back changed", body.len());
        done(&consumer, &[delivery]).await;
    }
    stop(&consumer).await;
    case.close().await;
}

/// A body of about so many bytes that this backend keeps as it is.
fn body(case: &Case, size: usize) -> Vec<u8> {
    match case.port.capabilities().payloads {
        Payloads::Bytes { .. } => (0..size).map(|index| (index % 251) as u8).collect(),
        Payloads::JsonArguments { .. } if size < 4 => b"[]".to_vec(),
        Payloads::JsonArguments { .. } => format!("[\"{}\"]", "x".repeat(size - 4)).into_bytes(),
    }
}

/// Texts of every script, what JSON escapes, and numbers beyond 2^53.
pub async fn unicode_comes_back(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let text = "[\"Größe 数 \u{2028}\u{2029} 👩\u{200d}🚀 \\u0000 \\\"\",9007199254740993,1e400]";
    let id = "0123456789abcdef01234567";
    let message = Outgoing { id: Some(id.into()), headers: header("größe", "数"), ..case.outgoing(text) };
    case.publish(vec![message]).await;
    let consumer = case.consumer(5).await;
    let delivery = one(&consumer).await;
    assert_eq!(payloads(std::slice::from_ref(&delivery)), [text]);
    assert_eq!(delivery.message.name.as_deref(), Some(id));
    if case.port.capabilities().headers {
        assert_eq!(delivery.message.headers.get("größe"), Some("数"));
    }
    done(&consumer, &[delivery]).await;
    stop(&consumer).await;
    case.close().await;
}

/// Ten thousand messages, two consumers: every one comes, none twice.
pub async fn ten_thousand_messages_come_once_each(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let consumers = [case.consumer(100).await, case.consumer(100).await];
    let publishing = async {
        for from in (0..10_000).step_by(1_000) {
            case.publish(case.numbered(from..from + 1_000)).await;
        }
    };
    let counted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (_, one, two) = tokio::join!(
        publishing,
        take_until(&consumers[0], counted.clone(), 10_000),
        take_until(&consumers[1], counted.clone(), 10_000),
    );
    let distinct: BTreeSet<&String> = one.iter().chain(&two).collect();
    assert_eq!((one.len() + two.len(), distinct.len()), (10_000, 10_000));
    for consumer in &consumers {
        stop(consumer).await;
    }
    case.close().await;
}

/// Neither of two consumers that are equally fast gets more than 55 of 100.
pub async fn two_consumers_share_fairly(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let consumers = [case.consumer(20).await, case.consumer(20).await];
    case.fill(2_000).await;
    let counted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (one, two) = tokio::join!(
        take_until(&consumers[0], counted.clone(), 2_000),
        take_until(&consumers[1], counted.clone(), 2_000),
    );
    let share = one.len() as f64 / 2_000.0;
    assert!((0.45..=0.55).contains(&share), "{} and {} of 2,000", one.len(), two.len());
    for consumer in &consumers {
        stop(consumer).await;
    }
    case.close().await;
}

/// Takes and settles until all consumers together have had so many.
async fn take_until(
    consumer: &Arc<dyn Consumer>,
    counted: Arc<std::sync::atomic::AtomicUsize>,
    total: usize,
) -> Vec<String> {
    use std::sync::atomic::Ordering::SeqCst;
    let mut came = Vec::new();
    while counted.load(SeqCst) < total {
        // The other consumer may take the last ones.
        let Ok(deliveries) = tokio::time::timeout(Duration::from_millis(100), consumer.next(10)).await else {
            continue;
        };
        let deliveries = deliveries.expect("it delivers");
        counted.fetch_add(deliveries.len(), SeqCst);
        came.extend(payloads(&deliveries));
        done(consumer, &deliveries).await;
    }
    came
}

/// What a dropped `next` was about to deliver is delivered by the following one.
pub async fn a_dropped_next_loses_nothing(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let consumer = case.consumer(10).await;
    for number in 0..20 {
        // Dropped before anything is there, and while something may be coming.
        let _ = tokio::time::timeout(Duration::from_millis(number % 3), consumer.next(1)).await.is_err();
        case.publish(case.numbered(number as usize..number as usize + 1)).await;
        let delivery = one(&consumer).await;
        done(&consumer, &[delivery]).await;
    }
    stop(&consumer).await;
    assert_eq!(left(&case).await, Some(0));
    case.close().await;
}

async fn left(case: &Case) -> Option<u64> {
    soon(case.port.stats(case.name.clone())).await.expect("the queue is there").ready
}

/// A paused consumer delivers nothing and keeps what is claimed; another one gets the rest.
pub async fn a_paused_consumer_delivers_nothing(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(3).await;
    let consumer = case.consumer(10).await;
    let claimed = take(&consumer, 1).await;
    consumer.flow(Flow::Paused);
    assert_eq!(consumer.status().flow, Flow::Paused);
    let other = case.consumer(10).await;
    let rest = take(&other, 2).await;
    assert_eq!(payloads(&rest).into_iter().collect::<BTreeSet<_>>(), numbers(1..3).into_iter().collect());
    assert!(rest.iter().all(|delivery| delivery.attempt == 1), "a pause counts nothing");
    done(&other, &rest).await;
    stop(&other).await;
    done(&consumer, &claimed).await;
    case.publish(case.numbered(3..4)).await;
    assert!(waits(consumer.next(1)).await);
    consumer.flow(Flow::Running { prefetch: 10 });
    let delivery = one(&consumer).await;
    assert_eq!(payloads(std::slice::from_ref(&delivery)), ["[3]"]);
    done(&consumer, &[delivery]).await;
    stop(&consumer).await;
    case.close().await;
}

/// It comes neither before its time nor long after it, as its first attempt.
pub async fn a_scheduled_message_waits_for_its_time(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let due = SystemClock.now() + Duration::from_millis(1_500);
    let message = Outgoing { run_at: Some(due), ..case.outgoing("[\"later\"]") };
    case.publish(vec![message, case.outgoing("[\"now\"]")]).await;
    let consumer = case.consumer(10).await;
    let now = one(&consumer).await;
    assert_eq!(payloads(std::slice::from_ref(&now)), ["[\"now\"]"]);
    done(&consumer, &[now]).await;
    let later = one(&consumer).await;
    let came = SystemClock.now();
    assert_eq!((payloads(std::slice::from_ref(&later)), later.attempt), (vec!["[\"later\"]".to_owned()], 1));
    assert!(came >= due, "{} ms too early", due.since(came).as_millis());
    assert!(came.since(due) < Duration::from_secs(5), "{} ms too late", came.since(due).as_millis());
    done(&consumer, &[later]).await;
    stop(&consumer).await;
    case.close().await;
}

/// Two messages that were published without an id have different ones.
pub async fn a_message_without_an_id_gets_one(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let receipts = case.publish(vec![case.outgoing("[1]"), case.outgoing("[1]")]).await;
    assert_ne!(receipts[0].id, receipts[1].id);
    let consumer = case.consumer(10).await;
    let claimed = take(&consumer, 2).await;
    for (delivery, receipt) in claimed.iter().zip(&receipts) {
        assert_eq!(delivery.message.name.as_ref(), Some(&receipt.id));
    }
    done(&consumer, &claimed).await;
    stop(&consumer).await;
    case.close().await;
}
