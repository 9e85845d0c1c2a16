//! Idempotency keys: the same answer to the same request, across restarts, within limits.

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Clock, Kind, Log, PortError, Position, Time,
    log::{Append, Appended, Idempotency},
    time::TokioClock,
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

use crate::support::{message, open, remember};

fn keyed(key: u8, body: u8, keep: Duration) -> Append {
    let idempotency = Some(Idempotency { key: [key; 16], body: [body; 16], keep });
    Append { messages: vec![message("a/one", key.into()), message("a/one", body.into())], idempotency }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn append(log: &Embedded, append: Append) -> Result<Appended, PortError> {
    log.append(append).await
}

fn got(first: u64, repeated: bool) -> Appended {
    Appended { first: Position(first), count: 2, repeated }
}

#[tokio::test]
async fn a_repetition_gets_the_first_answer_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    assert_eq!(append(&log, keyed(1, 1, DAY)).await.unwrap(), got(1, false));
    assert_eq!(append(&log, keyed(1, 1, DAY)).await.unwrap(), got(1, true));
    assert_eq!(append(&log, keyed(2, 1, DAY)).await.unwrap(), got(3, false));
    drop(log);
    let log = open(directory.path()).await;
    assert_eq!(append(&log, keyed(1, 1, DAY)).await.unwrap(), got(1, true));
    assert_eq!(append(&log, keyed(2, 2, DAY)).await.unwrap_err().kind, Kind::Mismatch);
    assert_eq!(*log.tip().borrow(), Position(4));
    assert_eq!(log.stats().repeated_appends, 1);
}

#[tokio::test]
async fn a_key_in_flight_waits_for_the_first_one_s_fsync() {
    let log = remember(&MemoryDisk::new().unwrap()).await;
    let (first, second, other) =
        (log.append(keyed(1, 1, DAY)), log.append(keyed(1, 1, DAY)), log.append(keyed(1, 2, DAY)));
    assert_eq!(second.await.unwrap(), got(1, true));
    assert_eq!(first.await.unwrap(), got(1, false));
    assert_eq!(other.await.unwrap_err().kind, Kind::Mismatch);
    assert_eq!(log.stats().commits, 1);
}

#[tokio::test(start_paused = true)]
async fn an_expired_key_counts_as_absent_and_is_deleted() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Time::from_millis(1_000)));
    let log =
        Embedded::memory(&MemoryDisk::new().unwrap(), Options { clock, ..Options::default() }).await.unwrap();
    let short = Duration::from_secs(10);
    for key in 1..=8 {
        append(&log, keyed(key, 1, short)).await.unwrap();
    }
    assert_eq!(log.stats().idempotency_keys, 8);
    tokio::time::advance(short).await;
    assert_eq!(
        append(&log, keyed(3, 9, short)).await.unwrap(),
        got(17, false),
        "it may come with another body now"
    );
    assert_eq!(append(&log, keyed(3, 9, short)).await.unwrap(), got(17, true));
    append(&log, keyed(20, 1, short)).await.unwrap();
    append(&log, keyed(21, 1, short)).await.unwrap();
    assert_eq!(log.stats().idempotency_keys, 3, "the expired ones go a few at a time");
}

#[tokio::test]
async fn the_oldest_keys_go_when_there_are_too_many() {
    let disk = MemoryDisk::new().unwrap();
    let limited = || Options { idempotency_keys: 3, ..Options::default() };
    let log = Embedded::memory(&disk, limited()).await.unwrap();
    for key in 1..=5 {
        append(&log, keyed(key, 1, DAY)).await.unwrap();
    }
    assert_eq!(log.stats().idempotency_keys, 3);
    let log = Embedded::memory(&disk, limited()).await.unwrap();
    assert_eq!(append(&log, keyed(3, 1, DAY)).await.unwrap(), got(5, true));
    assert_eq!(append(&log, keyed(2, 1, DAY)).await.unwrap(), got(11, false), "it was forgotten");
}
