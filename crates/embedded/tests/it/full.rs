//! A full disk refuses appends; what settles work still commits.

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Health, Kind, Ledger, Log, NewMessage, Position,
    ledger::{KeyWrite, NewDead, Unit, UnitResult},
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

use crate::support::{append, commit, hold, message, open, remember};

#[tokio::test]
async fn a_nearly_full_disk_refuses_appends_and_lets_work_settle() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append(&log, "a/one", 2).await;
    log.close().await;
    let options = Options { reserve_bytes: u64::MAX, ..Options::default() };
    let log = Embedded::open(directory.path(), options).await.unwrap();
    let error = log.append(vec![message("a/one", 1)].into()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Full);
    assert!(matches!(&*log.health().borrow(), Health::Refusing(_)));
    hold(&log, "w").await;
    let done = vec![(Position(1), Position(2))];
    assert_eq!(commit(&log, Unit { done, ..Unit::of("w".into(), 1) }).await, UnitResult::Applied(None));
    assert_eq!(log.stats().refused_appends, 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_database_rolls_back_and_recovers() {
    let disk = MemoryDisk::new().unwrap();
    let log = remember(&disk).await;
    append(&log, "a/one", 2).await;
    hold(&log, "w").await;
    let pages = |count: i64| {
        let connection = disk.connection();
        let connection = connection.lock().unwrap();
        let now: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        connection.pragma_update(None, "max_page_count", now + count).unwrap();
    };
    pages(1);
    let large = || NewMessage::new("a/one", vec![1; 50_000]);
    let unit = Unit {
        done: vec![(Position(1), Position(1))],
        writes: vec![KeyWrite::Add("n".into(), 1)],
        dead: vec![NewDead { position: Position(1), reason: "no use".into(), attempts: 1 }],
        ..Unit::of("w".into(), 1)
    };
    // Both join one transaction: it is rolled back, and done again without the append.
    let (committed, refused) = (log.commit(vec![unit]), log.append(vec![large()].into()));
    assert_eq!(refused.await.unwrap_err().kind, Kind::Full);
    assert_eq!(committed.await.unwrap(), [UnitResult::Applied(None)]);
    let counter = log.keys("w".into(), vec![Arc::from("n")]).await.unwrap().remove(0);
    assert_eq!(counter.value.as_deref(), Some(&b"1"[..]), "it was added once");
    assert_eq!(*log.tip().borrow(), Position(2));
    assert!(matches!(&*log.health().borrow(), Health::Refusing(_)));
    let mut health = log.health();

    pages(1_000);
    let error = log.append(vec![message("a/one", 1)].into()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Full, "it is tried again after a second, not for each append");
    tokio::time::timeout(Duration::from_secs(2), health.wait_for(Health::is_ready)).await.unwrap().unwrap();
    assert_eq!(log.append(vec![large()].into()).await.unwrap().first, Position(3));
    assert!(log.verify(|_, _| {}).await.unwrap().is_clean());
}
