//! What is not what was written is found, by readers and by verification.

use outboard_core::{Kind, Log, Position, TypeSet, log::Limit};
use outboard_embedded::{Embedded, OpenError, Options, verify};

use crate::support::{append, hold, open, spoil};

/// A stopped log of 20 messages on which this SQL was run.
async fn spoiled(sql: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let log = open(directory.path()).await;
    append(&log, "a/one", 20).await;
    hold(&log, "w").await;
    log.close().await;
    spoil(directory.path(), sql);
    directory
}

#[tokio::test]
async fn an_altered_row_is_found() {
    for change in [
        "UPDATE messages SET payload = '{}' WHERE id = 7",
        "UPDATE messages SET type = 'a/two' WHERE id = 7",
        "UPDATE messages SET timestamp = timestamp + 1 WHERE id = 7",
        "UPDATE messages SET run_at = 5 WHERE id = 7",
        "UPDATE messages SET headers = '{}' WHERE id = 7",
        "UPDATE messages SET checksum = checksum + 1 WHERE id = 7",
        "DELETE FROM messages WHERE id = 7",
    ] {
        let directory = spoiled(change).await;
        let report = verify(directory.path(), |_, _| {}).unwrap();
        assert!(report.problems.iter().any(|problem| problem.contains("message 7 ")), "{change}: {report:?}");
        let log = open(directory.path()).await;
        let read = |after, messages| log.read(Position(after), TypeSet::all(), Limit::messages(messages));
        assert_eq!(read(0, 6).await.unwrap().messages.len(), 6, "what comes before it is read");
        let error = read(6, 10).await.unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt, "{change}");
        assert!(error.message.contains("message 7 "), "{error}");
        assert_eq!(log.get(vec![Position(7)]).await.unwrap_err().kind, Kind::Corrupt);
        let running = log.verify(|_, _| {}).await.unwrap();
        assert_eq!(running.problems, report.problems, "{change}");
    }
}

#[tokio::test]
async fn a_lost_tail_is_found() {
    let directory = spoiled("DELETE FROM messages WHERE id > 15").await;
    let error = Embedded::open(directory.path(), Options::default()).await.unwrap_err();
    assert!(matches!(error, OpenError::LostTail { log: Position(15), tip: Position(20) }), "{error}");
    assert!(error.to_string().contains("5 messages are lost"), "{error}");
    let report = verify(directory.path(), |_, _| {}).unwrap();
    assert_eq!(report.problems, ["messages 16 to 20 were durable and are lost"]);
    std::fs::remove_file(directory.path().join("tip")).unwrap();
    assert_eq!(*open(directory.path()).await.tip().borrow(), Position(15));
}

#[tokio::test]
async fn a_replaced_log_is_found() {
    let directory = spoiled("UPDATE messages SET checksum = 5 WHERE id = 20").await;
    let error = Embedded::open(directory.path(), Options::default()).await.unwrap_err();
    assert!(matches!(error, OpenError::Corrupt(_)), "{error}");
}

#[tokio::test]
async fn a_ledger_that_contradicts_the_log_is_found() {
    for (change, problem) in [
        ("UPDATE workers SET low = 21", "is done with message 21"),
        ("UPDATE workers SET parked = 4", "has 0 parked messages and counts 4"),
        ("UPDATE workers SET dead = 1", "has 0 dead letters and counts 1"),
        ("INSERT INTO parked VALUES (9, 3, 1, 5, 0, 0, '')", "1 parked messages are of no worker"),
        ("INSERT INTO parked VALUES (1, 3, 4, 5, 0, 0, '')", "1 running messages are due"),
        ("INSERT INTO idempotency VALUES (1, x'01', x'01', 20, 2, 5)", "idempotency keys answer with"),
    ] {
        let directory = spoiled(change).await;
        let report = verify(directory.path(), |_, _| {}).unwrap();
        assert!(report.problems.iter().any(|found| found.contains(problem)), "{change}: {report:?}");
    }
    let directory = spoiled("UPDATE workers SET low = 21").await;
    let error = Embedded::open(directory.path(), Options::default()).await.unwrap_err();
    assert!(matches!(error, OpenError::Corrupt(_)), "{error}");
}

#[tokio::test]
async fn a_torn_page_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    for _ in 0..20 {
        append(&log, "a/one", 500).await;
    }
    log.close().await;
    let path = directory.path().join("outboard.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096 + 2_000;
    bytes[middle..middle + 64].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let mut last = (0, 0);
    let report = verify(directory.path(), |done, total| last = (done, total)).unwrap();
    assert!(!report.is_clean());
    assert_eq!(report.tip, Position(10_000));
    assert!(last.0 <= last.1);
}
