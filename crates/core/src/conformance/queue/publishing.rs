//! What publishing says.

use super::{Case, QueueBackend, done, numbers, payloads, soon, stop, take};
use crate::{
    Kind,
    queue::{Declared, Destination, Outgoing, Payloads},
};

/// A batch of a thousand: every answer is a receipt, and all of them are in the queue in order.
pub async fn what_was_confirmed_is_there(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let receipts = case.publish(case.numbered(0..1_000)).await;
    assert_eq!(receipts.len(), 1_000);
    let stats = soon(case.port.stats(case.name.clone())).await.expect("the queue is there");
    assert_eq!(stats.ready, Some(1_000));
    let consumer = case.consumer(100).await;
    let mut came = Vec::new();
    for _ in 0..10 {
        let deliveries = take(&consumer, 100).await;
        came.extend(payloads(&deliveries));
        done(&consumer, &deliveries).await;
    }
    assert_eq!(came, numbers(0..1_000));
    stop(&consumer).await;
    case.close().await;
}

/// The id that is given is the id that comes, and the receipt names it.
pub async fn an_id_is_kept(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let id = "00112233445566778899aabb";
    let receipts = case.publish(vec![Outgoing { id: Some(id.into()), ..case.outgoing("[]") }]).await;
    assert_eq!(&*receipts[0].id, id);
    let consumer = case.consumer(10).await;
    let claimed = take(&consumer, 1).await;
    assert_eq!(claimed[0].message.name.as_deref(), Some(id));
    done(&consumer, &claimed).await;
    stop(&consumer).await;
    case.close().await;
}

/// A message to nowhere is told, its neighbours are taken.
pub async fn one_bad_message_spoils_no_other(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    if !case.port.capabilities().routing {
        // Without exchanges, every name is a queue's name that may be made later.
        return case.close().await;
    }
    let to = Destination::Exchange { exchange: "no-such-exchange".into(), key: "k".into() };
    let bad = Outgoing { to, ..case.outgoing("[1]") };
    let nowhere = Outgoing { to: Destination::queue("no-such-queue"), ..case.outgoing("[3]") };
    let batch = vec![case.outgoing("[0]"), bad, case.outgoing("[2]"), nowhere, case.outgoing("[4]")];
    let answers = soon(case.port.publish(batch)).await.expect("the broker answers");
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|error| error.kind)).collect();
    assert_eq!(kinds, [None, Some(Kind::NotFound), None, Some(Kind::NotFound), None]);
    let stats = soon(case.port.stats(case.name.clone())).await.expect("the queue is there");
    assert_eq!(stats.ready, Some(3));
    case.close().await;
}

/// Declaring is idempotent, and does not touch what is in the queue.
pub async fn a_queue_that_is_there_can_be_declared_again(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    case.fill(3).await;
    assert_eq!(soon(case.port.declare(case.spec())).await.expect("it is there"), Declared::Same);
    let stats = soon(case.port.stats(case.name.clone())).await.expect("the queue is there");
    assert_eq!(stats.ready, Some(3));
    case.close().await;
}

/// No figures of a queue that is not there.
pub async fn what_is_not_there_is_not_found(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let error = soon(case.port.stats(backend.name())).await.expect_err("there is no such queue");
    assert_eq!(error.kind, Kind::NotFound, "{error}");
    case.close().await;
}

/// One byte more than the limit is refused, at once, without harm to others.
pub async fn a_message_that_is_too_large_is_refused(backend: &dyn QueueBackend) {
    let case = Case::open(backend).await;
    let size = case.max_payload() + 1;
    let body = match case.port.capabilities().payloads {
        Payloads::Bytes { .. } => vec![b'x'; size],
        Payloads::JsonArguments { .. } => format!("[\"{}\"]", "x".repeat(size)).into_bytes(),
    };
    let batch = vec![case.outgoing("[0]"), case.outgoing(body), case.outgoing("[2]")];
    let answers = soon(case.port.publish(batch)).await.expect("the broker answers");
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|error| error.kind)).collect();
    assert_eq!(kinds, [None, Some(Kind::Invalid), None]);
    case.close().await;
}
