//! Reading: the tail and the database say the same, within limits.

use outboard_core::{
    Log, NewMessage, Position, TypeSet,
    log::{Append, Limit},
};
use outboard_embedded::{Embedded, Options};

use crate::support::{append, open, read_all, types};

#[tokio::test]
async fn tail_and_database_agree() {
    let directory = tempfile::tempdir().unwrap();
    // A tail of a few batches: most reads begin in the database and end in the tail.
    let options = Options { tail_messages: 250, ..Options::default() };
    let log = Embedded::open(directory.path(), options).await.unwrap();
    for batch in 0..60 {
        let kind = format!("k{}/x", batch % 7);
        append(&log, &kind, 1 + batch % 40).await;
    }
    let large = NewMessage::new("large/x", vec![7; 100_000]);
    log.append(Append::from(vec![large.clone(), large])).await.unwrap();
    append(&log, "k1/x", 50).await;
    let all = read_all(&log, Position::START, &TypeSet::all()).await;
    assert_eq!(
        all.iter().map(|message| message.id.0).collect::<Vec<_>>(),
        (1..=all.len() as u64).collect::<Vec<_>>()
    );
    let stats = log.stats();
    assert!(stats.tail_reads > 0 && stats.disk_reads > 0, "{stats:?}");
    let set = types("k1/* large/x");
    let some: Vec<_> = all.iter().filter(|message| set.contains(&message.kind)).cloned().collect();
    assert_eq!(read_all(&log, Position::START, &set).await, some);
    drop(log);
    let log = open(directory.path()).await;
    assert_eq!(read_all(&log, Position::START, &TypeSet::all()).await, all);
    assert_eq!(log.stats().tail_reads, 0);
}

#[tokio::test]
async fn a_page_keeps_to_each_of_its_limits() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append(&log, "a/one", 50).await;
    append(&log, "b/two", 1).await;
    append(&log, "a/one", 1_500).await;
    for round in ["tail", "database"] {
        let log = open_again(&log, directory.path(), round).await;
        let read = |after, set: &str, limit| log.read(Position(after), types(set), limit);
        let page = read(0, "*", Limit { messages: 7, bytes: 1 << 20, scan: 100 }).await.unwrap();
        assert_eq!((page.messages.len(), page.next), (7, Position(7)), "{round}");
        let page = read(3, "*", Limit { messages: 7, bytes: 30, scan: 100 }).await.unwrap();
        assert_eq!((page.messages.len(), page.next), (2, Position(5)), "{round}");
        let page = read(3, "*", Limit { messages: 7, bytes: 0, scan: 100 }).await.unwrap();
        assert_eq!(
            (page.messages.len(), page.next),
            (1, Position(4)),
            "the first one whatever its size: {round}"
        );
        let page = read(0, "b/*", Limit { messages: 7, bytes: 1 << 20, scan: 20 }).await.unwrap();
        assert_eq!((page.messages.len(), page.next), (0, Position(20)), "{round}");
        let page = read(45, "b/*", Limit { messages: 1, bytes: 1 << 20, scan: 20 }).await.unwrap();
        assert_eq!(
            (page.messages.len(), page.next),
            (1, Position(65)),
            "it passes what it looked at: {round}"
        );
        let page = read(1_551, "*", Limit::messages(7)).await.unwrap();
        assert_eq!((page.messages.len(), page.next), (0, Position(1_551)), "{round}");
        let page = read(0, "*", Limit::messages(5_000)).await.unwrap();
        assert_eq!(page.messages.len() as u64, page.next.0, "{round}");
        assert!(round == "tail" || page.messages.len() == 1_000, "a transaction reads at most 1,000 rows");
    }
}

/// The log as it is, or closed and opened again, with an empty tail.
async fn open_again(log: &Embedded, directory: &std::path::Path, round: &str) -> Embedded {
    if round == "tail" {
        return log.clone();
    }
    log.close().await;
    open(directory).await
}

#[tokio::test]
async fn the_write_ahead_log_stays_small_beside_readers() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        Options { checkpoint_bytes: 256 << 10, wal_bytes: 1 << 20, tail_messages: 1, ..Options::default() };
    let log = Embedded::open(directory.path(), options).await.unwrap();
    append(&log, "a/one", 5_000).await;
    let readers: Vec<_> = (0..6)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move {
                while log.tip().borrow().0 < 60_000 {
                    read_all(&log, Position::START, &TypeSet::all()).await;
                }
            })
        })
        .collect();
    let mut largest = 0;
    while log.tip().borrow().0 < 60_000 {
        append(&log, "a/one", 500).await;
        largest = largest.max(log.stats().wal_bytes);
    }
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(largest < 2 << 20, "{largest} bytes");
    assert!(log.stats().checkpoints >= 3);
    log.close().await;
    assert!(!directory.path().join("outboard.db-wal").exists(), "a clean stop leaves one file");
}
