//! What a [`Log`](crate::Log) must do.

use std::time::Duration;

use super::{Backend, soon, types, waits};
use crate::{
    Headers, Kind, Message, NewMessage, Position, TypeSet,
    log::{Append, Idempotency, Limit},
};

fn numbered(numbers: std::ops::Range<u32>) -> Vec<NewMessage> {
    numbers.map(|n| NewMessage::new("suite/number", format!("{{\"n\":{n}}}"))).collect()
}

fn keyed(key: u8, body: u8) -> Append {
    let idempotency = Idempotency { key: [key; 16], body: [body; 16], keep: Duration::from_secs(3_600) };
    Append { messages: numbered(0..2), idempotency: Some(idempotency) }
}

async fn everything(ports: &super::Ports) -> Vec<std::sync::Arc<Message>> {
    ports.log.read(Position::START, TypeSet::all(), Limit::messages(10_000)).await.expect("reads").messages
}

/// The first position is 1 and each append follows the one before.
pub async fn positions_are_dense_and_ordered(backend: &dyn Backend) {
    let ports = backend.open().await;
    for round in 0..10_u64 {
        let appended = ports.log.append(numbered(0..3).into()).await.expect("appends");
        assert_eq!((appended.first, appended.last()), (Position(round * 3 + 1), Position(round * 3 + 3)));
        assert!(*ports.log.tip().borrow() >= appended.last(), "the tip is durable when the append answers");
    }
    let ids: Vec<u64> = everything(&ports).await.iter().map(|message| message.id.0).collect();
    assert_eq!(ids, (1..=30).collect::<Vec<_>>());
}

/// One message that cannot be taken keeps out its neighbours.
pub async fn an_append_is_all_or_nothing(backend: &dyn Backend) {
    let ports = backend.open().await;
    let mut messages = numbered(0..3);
    messages[1].kind = "x".repeat(crate::pattern::MAX_TYPE_BYTES + 1).into();
    let error = ports.log.append(messages.into()).await.expect_err("the type is too long");
    assert_eq!(error.kind, Kind::Invalid);
    let error = ports.log.append(Append::default()).await.expect_err("nothing to append");
    assert_eq!(error.kind, Kind::Invalid);
    assert_eq!(ports.append(&["suite/a"]).await, Position(1));
}

/// Closing and opening keeps everything and goes on behind it.
pub async fn what_was_appended_survives_reopening(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.log.append(numbered(0..100).into()).await.expect("appends");
    let before = everything(&ports).await;
    backend.close(ports).await;
    let ports = backend.open().await;
    assert_eq!(everything(&ports).await, before);
    assert_eq!(*ports.log.tip().borrow(), Position(100));
    assert_eq!(ports.append(&["suite/a"]).await, Position(101));
}

/// Timestamps follow the order of the log.
pub async fn timestamps_never_decrease(backend: &dyn Backend) {
    let ports = backend.open().await;
    for _ in 0..20 {
        ports.append(&["suite/a", "suite/b"]).await;
    }
    let messages = everything(&ports).await;
    assert!(messages.windows(2).all(|pair| pair[0].timestamp <= pair[1].timestamp));
}

/// Type, payload, headers and time, from memory and from disk.
pub async fn everything_of_a_message_comes_back(backend: &dyn Backend) {
    let ports = backend.open().await;
    let headers: Headers = [("tenant", "sieben"), ("trace", "00-ab")].into_iter().collect();
    let run_at = Some(ports.clock.now() + Duration::from_secs(60));
    let payload: Vec<u8> = (0..=255).collect();
    let message =
        NewMessage { headers: headers.clone(), run_at, ..NewMessage::new("suite/all", payload.clone()) };
    ports.log.append(vec![message].into()).await.expect("appends");
    for round in 0..2 {
        let ports = if round == 0 {
            ports.clone()
        } else {
            backend.close(ports.clone()).await;
            backend.open().await
        };
        let message = everything(&ports).await.remove(0);
        assert_eq!((&*message.kind, &message.payload[..]), ("suite/all", &payload[..]));
        assert_eq!((&message.headers, message.run_at), (&headers, run_at));
        assert_eq!(ports.log.get(vec![Position(1)]).await.expect("gets")[0].as_ref(), Some(&message));
    }
}

/// Only the types asked for, in order, and `next` passes the others.
pub async fn reading_keeps_to_its_types(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/one", "b/one", "a/two", "b/two", "c/one", "b/three"]).await;
    for reopened in [false, true] {
        let ports = if reopened {
            backend.close(ports.clone()).await;
            backend.open().await
        } else {
            ports.clone()
        };
        let page = ports
            .log
            .read(Position::START, types(&["a/*", "c/one"]), Limit::messages(10))
            .await
            .expect("reads");
        let ids: Vec<u64> = page.messages.iter().map(|message| message.id.0).collect();
        assert_eq!((ids, page.next), (vec![1, 3, 5], Position(6)));
        let page = ports.log.read(Position(6), TypeSet::all(), Limit::messages(10)).await.expect("reads");
        assert!(page.messages.is_empty() && page.next == Position(6), "nothing follows the tip");
    }
}

/// Messages, bytes and positions looked at are bounded; following `next` finds everything once.
pub async fn reading_keeps_to_its_limits(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.log.append(numbered(0..500).into()).await.expect("appends");
    ports.append(&["suite/rare"]).await;
    for reopened in [false, true] {
        let ports = if reopened {
            backend.close(ports.clone()).await;
            backend.open().await
        } else {
            ports.clone()
        };
        let limit = Limit { messages: 7, ..Limit::messages(7) };
        let page = ports.log.read(Position(3), TypeSet::all(), limit).await.expect("reads");
        assert_eq!((page.messages.len(), page.messages[0].id, page.next), (7, Position(4), Position(10)));
        let limit = Limit { bytes: 1, ..Limit::messages(7) };
        let page = ports.log.read(Position(3), TypeSet::all(), limit).await.expect("reads");
        assert_eq!(page.messages.len(), 1, "the first is returned whatever its size");
        let limit = Limit { scan: 100, ..Limit::messages(7) };
        let (mut after, mut found, mut pages) = (Position::START, Vec::new(), 0);
        while after < Position(501) {
            let page = ports.log.read(after, types(&["suite/rare"]), limit).await.expect("reads");
            assert!(
                page.next > after && page.next.0 <= after.0 + 100,
                "a page looks at 100 positions at most"
            );
            found.extend(page.messages.iter().map(|message| message.id.0));
            after = page.next;
            pages += 1;
        }
        assert_eq!((found, pages), (vec![501], 6));
    }
}

/// Also where there is nothing.
pub async fn get_answers_in_the_order_asked(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a", "b/b", "c/c"]).await;
    let asked = vec![Position(3), Position(9), Position(1), Position::START, Position(3)];
    let found = ports.log.get(asked).await.expect("gets");
    let ids: Vec<Option<u64>> =
        found.iter().map(|message| message.as_ref().map(|message| message.id.0)).collect();
    assert_eq!(ids, [Some(3), None, Some(1), None, Some(3)]);
}

/// The same key and body: the same positions, nothing new.
pub async fn a_repeated_key_gets_the_first_answer(backend: &dyn Backend) {
    let ports = backend.open().await;
    let first = ports.log.append(keyed(1, 1)).await.expect("appends");
    let second = ports.log.append(keyed(1, 1)).await.expect("answers");
    let other = ports.log.append(keyed(2, 1)).await.expect("appends");
    assert_eq!((first.first, second.first, other.first), (Position(1), Position(1), Position(3)));
    assert_eq!((first.repeated, second.repeated, second.count), (false, true, 2));
    assert_eq!(everything(&ports).await.len(), 4);
}

/// The same key with another body is a mistake of the caller.
pub async fn a_key_with_another_body_is_refused(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.log.append(keyed(1, 1)).await.expect("appends");
    let error = ports.log.append(keyed(1, 2)).await.expect_err("another body");
    assert_eq!(error.kind, Kind::Mismatch);
    assert_eq!(everything(&ports).await.len(), 2);
}

/// Two appends with one key at once: one appends, both get its answer.
pub async fn a_key_in_flight_waits(backend: &dyn Backend) {
    let ports = backend.open().await;
    let (first, second) = (ports.log.append(keyed(1, 1)), ports.log.append(keyed(1, 1)));
    let (second, first) = (second.await.expect("answers"), first.await.expect("appends"));
    assert_eq!((first.first, second.first), (Position(1), Position(1)));
    assert_eq!(everything(&ports).await.len(), 2);
}

/// The answer is as durable as the append.
pub async fn a_key_survives_reopening(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.log.append(keyed(1, 1)).await.expect("appends");
    backend.close(ports).await;
    let ports = backend.open().await;
    let again = ports.log.append(keyed(1, 1)).await.expect("answers");
    assert_eq!((again.first, again.repeated), (Position(1), true));
}

/// After its time a key may be used for something else.
pub async fn an_expired_key_counts_as_new(backend: &dyn Backend) {
    let ports = backend.open().await;
    let mut append = keyed(1, 1);
    append.idempotency = append.idempotency.map(|key| Idempotency { keep: Duration::ZERO, ..key });
    ports.log.append(append).await.expect("appends");
    let again = ports.log.append(keyed(1, 2)).await.expect("appends");
    assert_eq!((again.first, again.repeated), (Position(3), false));
}

/// Each of many appends at once gets positions that nobody else has, and what it appended is there.
pub async fn concurrent_appends_get_their_own_positions(backend: &dyn Backend) {
    let ports = backend.open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64_u32 {
        let ports = ports.clone();
        tasks.spawn(
            async move { (n, ports.log.append(numbered(n..n + 1).into()).await.expect("appends").first) },
        );
    }
    let messages = tasks.join_all().await;
    let stored = everything(&ports).await;
    assert_eq!(stored.len(), 64);
    for (n, position) in messages {
        assert_eq!(stored[position.0 as usize - 1].payload, format!("{{\"n\":{n}}}"));
    }
}

/// The call enqueues; the future only waits.
pub async fn a_dropped_append_keeps_its_place(backend: &dyn Backend) {
    let ports = backend.open().await;
    drop(ports.log.append(numbered(0..1).into()));
    let second = ports.log.append(numbered(1..2).into()).await.expect("appends");
    assert_eq!(second.first, Position(2), "the dropped append was enqueued before");
}

/// A reader sleeps until one of its types comes.
pub async fn readers_are_woken_for_their_types(backend: &dyn Backend) {
    let ports = backend.open().await;
    let reader = ports.log.subscribe(types(&["a/*"]));
    assert!(waits(reader.wake.notified()).await, "nothing was appended");
    ports.append(&["b/one", "a/one"]).await;
    soon(reader.wake.notified()).await;
}

/// Other types wake it rarely, so that it can pass them.
pub async fn other_types_wake_a_reader_at_most_once_a_second(backend: &dyn Backend) {
    let ports = backend.open().await;
    let reader = ports.log.subscribe(types(&["a/*"]));
    let mut wakes = 0;
    for _ in 0..20 {
        ports.append(&["b/one"]).await;
        wakes += u32::from(!waits(reader.wake.notified()).await);
    }
    assert!((1..=3).contains(&wakes), "woken {wakes} times for 20 batches of other types in about a second");
}
