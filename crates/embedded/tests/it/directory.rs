//! A data directory: one holder, one format, nothing that grows at the start.

use outboard_core::{
    Kind, Ledger, Log, Position, Time,
    ledger::{Parked, ParkedChange, ParkedState, Unit, UnitResult},
    log::{Append, Idempotency},
};
use outboard_embedded::{Embedded, OpenError, Options, format::DATABASE, verify};

use crate::support::{append, commit, hold, message, open, spoil};

#[tokio::test]
async fn a_second_holder_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    let error = Embedded::open(directory.path(), Options::default()).await.unwrap_err();
    assert!(matches!(error, OpenError::Locked { holder: Some(_), .. }));
    let text = error.to_string();
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    assert_eq!(text.lines().count(), 1);
    assert!(matches!(verify(directory.path(), |_, _| {}), Err(OpenError::Locked { .. })));
    log.close().await;
    open(directory.path()).await;
}

#[tokio::test]
async fn dropping_the_last_clone_writes_what_waits_and_frees_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let log = open(directory.path()).await;
        assert_eq!(log.tip().borrow().0, round);
        drop(log.append(vec![message("a/one", 1)].into()));
    }
}

#[tokio::test]
async fn a_closed_log_answers_closed() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append(&log, "a/one", 1).await;
    hold(&log, "w").await;
    let (clone, waiting) = (log.clone(), log.append(vec![message("a/one", 2)].into()));
    log.close().await;
    clone.close().await;
    assert_eq!(waiting.await.unwrap().first, Position(2), "what was enqueued before is written");
    assert_eq!(log.append(vec![message("a/one", 1)].into()).await.unwrap_err().kind, Kind::Closed);
    assert_eq!(log.commit(vec![]).await.unwrap_err().kind, Kind::Closed);
    assert_eq!(log.workers().await.unwrap_err().kind, Kind::Closed);
    assert!(verify(directory.path(), |_, _| {}).unwrap().is_clean());
}

#[tokio::test]
async fn other_files_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    spoil(directory.path(), "CREATE TABLE messages (id INTEGER PRIMARY KEY)");
    let error = Embedded::open(directory.path(), Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).await.close().await;
    spoil(directory.path(), "PRAGMA user_version = 99");
    let error = Embedded::open(directory.path(), Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("format 99"), "{error}");

    std::fs::write(directory.path().join(DATABASE), "this is no database, it is far too short for that")
        .unwrap();
    assert!(Embedded::open(directory.path(), Options::default()).await.is_err());
    assert!(matches!(verify(&directory.path().join("none"), |_, _| {}), Err(OpenError::Io { .. })));
}

/// Rows read to open a log of this size, with as many parked rows and keys as messages.
async fn rows_read_to_open(size: usize) -> u64 {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let log = open(directory.path()).await;
    hold(&log, "w").await;
    for number in 0..size {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number.to_le_bytes());
        let keep = std::time::Duration::from_secs(3600);
        let idempotency = Some(Idempotency { key, body: key, keep });
        drop(log.append(Append { messages: vec![message("a/one", number)], idempotency }));
    }
    append(&log, "a/one", 1).await;
    let retry = |position| Parked {
        position: Position(position),
        state: ParkedState::Retry,
        due: Time::from_millis(5),
        attempts: 1,
        crashes: 0,
        reason: "".into(),
    };
    let parked = (1..=size as u64).map(|position| ParkedChange::Put(retry(position))).collect();
    commit(
        &log,
        Unit { parked, done: vec![(Position(1), Position(size as u64))], ..Unit::of("w".into(), 1) },
    )
    .await;
    drop(log);
    let log = open(directory.path()).await;
    let opened = hold(&log, "w").await;
    assert_eq!(opened.parked, size as u64);
    log.stats().rows_read_at_open
}

#[tokio::test]
async fn a_large_log_opens_with_as_few_rows_as_a_small_one() {
    let small = rows_read_to_open(3).await;
    assert!((1..10).contains(&small), "{small}");
    assert_eq!(rows_read_to_open(3_000).await, small);
}

/// What was written by a build without the inbox is opened, kept, and has one from now on.
#[tokio::test]
async fn an_older_format_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append(&log, "a/one", 3).await;
    log.close().await;
    spoil(directory.path(), "DROP TABLE inbox; PRAGMA user_version = 1");
    let log = open(directory.path()).await;
    let opened = hold(&log, "w").await;
    let unit = || Unit { inbox: Some("m".into()), ..Unit::of("w".into(), opened.epoch) };
    assert_eq!(commit(&log, unit()).await, UnitResult::Applied(None));
    assert_eq!(commit(&log, unit()).await, UnitResult::Repeated);
    assert_eq!(append(&log, "a/one", 1).await.first, Position(4));
}
