//! Group commit: what waits together commits together.

use std::sync::Arc;

use futures_util::future::join_all;
use outboard_core::{
    Kind, Ledger, Log, NewMessage, Position,
    ledger::{Guard, KeyWrite, Unit, UnitResult},
    log::Append,
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

use crate::support::{append, commit, hold, message, remember};

#[tokio::test]
async fn what_waits_together_is_one_transaction() {
    let log = remember(&MemoryDisk::new().unwrap()).await;
    append(&log, "a/one", 1).await;
    let before = log.stats().commits;
    // The writer is a task of this thread: it runs when these are awaited.
    let waits: Vec<_> = (0..50).map(|number| log.append(vec![message("a/one", number)].into())).collect();
    assert_eq!(log.stats().queued_messages, 50);
    let firsts: Vec<u64> = join_all(waits).await.into_iter().map(|got| got.unwrap().first.0).collect();
    assert_eq!(firsts, (2..52).collect::<Vec<_>>(), "in the order in which they were made");
    assert_eq!(log.stats().commits - before, 1);
}

#[tokio::test]
async fn a_transaction_has_limits_and_so_has_the_queue() {
    let options = Options { batch_messages: 10, queue_messages: 30, ..Options::default() };
    let log = Embedded::memory(&MemoryDisk::new().unwrap(), options).await.unwrap();
    let waits: Vec<_> = (0..40).map(|number| log.append(vec![message("a/one", number)].into())).collect();
    let answers = join_all(waits).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 30);
    assert!(answers[30..].iter().all(|answer| answer.as_ref().unwrap_err().kind == Kind::Full));
    assert_eq!((log.stats().commits, log.stats().refused_appends), (3, 10));
    assert_eq!(*log.tip().borrow(), Position(30));
}

#[tokio::test]
async fn a_queue_that_is_full_of_appends_has_room_for_settlements() {
    let options = Options { queue_messages: 10, ..Options::default() };
    let log = Embedded::memory(&MemoryDisk::new().unwrap(), options).await.unwrap();
    hold(&log, "w").await;
    let unit = || Unit { appends: vec![message("b/two", 1); 4], ..Unit::of("w".into(), 1) };
    let first = log.append(vec![message("a/one", 1); 10].into());
    let commits = [0; 4].map(|_| log.commit(vec![unit()]));
    let second = log.append(vec![message("a/one", 1)].into());
    assert_eq!(second.await.unwrap_err().kind, Kind::Full);
    let results = join_all(commits).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2, "twice as many messages may wait");
    assert_eq!(first.await.unwrap().first, Position(1));
}

#[tokio::test]
async fn the_bytes_of_keys_count_in_the_queue_and_in_a_transaction() {
    let options = Options { batch_bytes: 10_000, queue_bytes: 10_000, ..Options::default() };
    let log = Embedded::memory(&MemoryDisk::new().unwrap(), options).await.unwrap();
    hold(&log, "w").await;
    let before = log.stats().commits;
    let write = || KeyWrite::Set("k".into(), vec![b'1'; 9_999].into());
    let unit = || Unit { writes: vec![write()], ..Unit::of("w".into(), 1) };
    let results = join_all([0; 3].map(|_| log.commit(vec![unit()]))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2, "twice as many bytes may wait");
    assert_eq!(results[2].as_ref().unwrap_err().kind, Kind::Full);
    assert_eq!(log.stats().commits - before, 2, "each of them fills a transaction");
}

#[tokio::test]
async fn an_append_that_nobody_waits_for_is_kept() {
    let log = remember(&MemoryDisk::new().unwrap()).await;
    drop(log.append(vec![message("a/one", 1)].into()));
    assert_eq!(append(&log, "a/one", 1).await.first, Position(2));
}

#[tokio::test]
async fn one_row_is_written_for_each_worker_touched() {
    let disk = MemoryDisk::new().unwrap();
    let log = remember(&disk).await;
    append(&log, "a/one", 100).await;
    hold(&log, "w").await;
    hold(&log, "v").await;
    let changes = || disk.connection().lock().unwrap().total_changes();
    let before = changes();
    let units = (1..=50).flat_map(|position| {
        let done = vec![(Position(position), Position(position))];
        ["w", "v"].map(|worker| Unit { done: done.clone(), ..Unit::of(worker.into(), 1) })
    });
    log.commit(units.collect()).await.unwrap();
    assert_eq!(changes() - before, 2);
    assert_eq!(log.workers().await.unwrap()[0].low, Position(50));
}

#[tokio::test]
async fn each_unit_may_append_as_much_as_an_append() {
    let disk = MemoryDisk::new().unwrap();
    let options = Options { append_bytes: 10_000, ..Options::default() };
    let log = Embedded::memory(&disk, options).await.unwrap();
    hold(&log, "w").await;
    let unit =
        |bytes| Unit { appends: vec![NewMessage::new("a/one", vec![1; bytes])], ..Unit::of("w".into(), 1) };
    let results = log.commit(vec![unit(9_000), unit(9_000)]).await.unwrap();
    assert_eq!(results, [UnitResult::Applied(Some(Position(1))), UnitResult::Applied(Some(Position(2)))]);
    let results = log.commit(vec![unit(9_000), unit(10_001), unit(9_000)]).await.unwrap();
    let UnitResult::Refused(reason) = &results[1] else { panic!("{results:?}") };
    assert!(reason.contains("10000 bytes") && reason.contains("10006"), "{reason}");
    let applied = |first| UnitResult::Applied(Some(Position(first)));
    assert_eq!((&results[0], &results[2]), (&applied(3), &applied(4)), "its neighbours are applied");
    assert_eq!((log.stats().units_refused, *log.tip().borrow()), (1, Position(4)));
}

#[tokio::test]
async fn impossible_done_marks_are_refused_with_everything_beside_them() {
    let log = remember(&MemoryDisk::new().unwrap()).await;
    append(&log, "a/one", 3).await;
    hold(&log, "w").await;
    let done = |to| Unit { done: vec![(Position(2), Position(to))], ..Unit::of("w".into(), 1) };
    let error = log.commit(vec![done(3), done(4)]).await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "position 4 is not in the log");
    assert_eq!(log.workers().await.unwrap()[0].done_above, 0);
    assert_eq!(commit(&log, done(3)).await, UnitResult::Applied(None));
}

#[tokio::test]
async fn a_window_moves_with_the_units_of_one_commit() {
    let log = remember(&MemoryDisk::new().unwrap()).await;
    for _ in 0..8 {
        append(&log, "a/one", 10_000).await;
    }
    hold(&log, "w").await;
    let done = |from, to| Unit { done: vec![(Position(from), Position(to))], ..Unit::of("w".into(), 1) };
    let stale = Unit { guards: vec![Guard::Version("k".into(), 9)], ..done(1, 60_000) };
    let results = log.commit(vec![stale, done(70_000, 70_010)]).await.unwrap();
    assert_eq!(
        results,
        [UnitResult::Conflict, UnitResult::Conflict],
        "without the first one it does not fit"
    );
    let results = log.commit(vec![done(1, 60_000), done(70_000, 70_010)]).await.unwrap();
    assert_eq!(results, [UnitResult::Applied(None), UnitResult::Applied(None)]);
    let row = &log.workers().await.unwrap()[0];
    assert_eq!((row.low, row.done_above), (Position(60_000), 11));
}

#[tokio::test]
async fn a_key_s_versions_never_come_again() {
    let log = remember(&MemoryDisk::new().unwrap()).await;
    hold(&log, "w").await;
    let write = |write| Unit { writes: vec![write], ..Unit::of("w".into(), 1) };
    let name: Arc<str> = "k".into();
    commit(&log, write(KeyWrite::Set(name.clone(), "a".into()))).await;
    let first = log.keys("w".into(), vec![name.clone()]).await.unwrap().remove(0).version;
    commit(&log, write(KeyWrite::Delete(name.clone()))).await;
    assert_eq!(log.keys("w".into(), vec![name.clone()]).await.unwrap().remove(0).version, 0);
    commit(&log, write(KeyWrite::Set(name.clone(), "a".into()))).await;
    let stale =
        Unit { guards: vec![Guard::Version(name.clone(), first)], ..write(KeyWrite::Delete(name.clone())) };
    assert_eq!(commit(&log, stale).await, UnitResult::Conflict);
    let not_a_number = Unit {
        writes: vec![KeyWrite::Set("other".into(), "b".into()), KeyWrite::Add(name, 1)],
        ..Unit::of("w".into(), 1)
    };
    let result = commit(&log, not_a_number).await;
    assert!(matches!(&result, UnitResult::Refused(reason) if reason.contains("`k`")), "{result:?}");
    assert_eq!(log.stats().units_refused, 1);
    let other = log.keys("w".into(), vec!["other".into()]).await.unwrap().remove(0);
    assert_eq!(other.value, None, "nothing of a refused unit is written");
}

#[tokio::test]
async fn a_log_that_fails_says_so_and_takes_nothing_more() {
    let disk = MemoryDisk::new().unwrap();
    let log = remember(&disk).await;
    append(&log, "a/one", 1).await;
    disk.connection().lock().unwrap().execute_batch("DROP TABLE messages").unwrap();
    let error = log.append(Append::from(vec![message("a/one", 2)])).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unknown, "{error}");
    assert!(matches!(&*log.health().borrow(), outboard_core::Health::Failed(_)));
    assert_eq!(log.append(vec![message("a/one", 2)].into()).await.unwrap_err().kind, Kind::Closed);
    assert_eq!(log.commit(vec![Unit::of("w".into(), 1)]).await.unwrap_err().kind, Kind::Closed);
}
