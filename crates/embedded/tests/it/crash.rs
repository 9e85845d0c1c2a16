//! A crash at every fault point of the writer: all of a transaction, or nothing.

use outboard_core::{
    Health, Kind, Ledger, Log, Position, Time,
    fault::{Faults, Point},
    ledger::{KeyWrite, Parked, ParkedChange, ParkedState, Unit, UnitResult},
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

use crate::support::{append, commit, hold, message, remember};

/// The points that the writer passes, and whether what it writes is durable there.
const POINTS: [(Point, bool); 6] = [
    (Point::AppendWritten, false),
    (Point::AppendCommitted, true),
    (Point::CommitBegun, false),
    (Point::UnitWritten, false),
    (Point::CursorsWritten, false),
    (Point::Committed, true),
];

#[tokio::test]
async fn a_crash_leaves_all_or_nothing() {
    for (point, is_durable) in POINTS {
        let disk = MemoryDisk::new().unwrap();
        let log = remember(&disk).await;
        append(&log, "a/one", 2).await;
        let epoch = hold(&log, "w").await.epoch;
        drop(log);
        // The second pass: one unit or append of the transaction is written by then.
        let nth = if matches!(point, Point::AppendWritten | Point::UnitWritten) { 2 } else { 1 };
        let faults = Faults::crash_at(point, nth);
        let log =
            Embedded::memory(&disk, Options { faults: faults.clone(), ..Options::default() }).await.unwrap();
        let tip = log.tip();
        let unit = |position| Unit {
            done: vec![(Position(position), Position(position))],
            writes: vec![KeyWrite::Add("n".into(), 1)],
            appends: vec![message("b/two", 1)],
            ..Unit::of("w".into(), epoch)
        };
        let appends =
            [log.append(vec![message("a/one", 3)].into()), log.append(vec![message("a/one", 4)].into())];
        let committed = log.commit(vec![unit(1), unit(2)]);
        for answer in appends {
            assert_eq!(answer.await.unwrap_err().kind, Kind::Unknown, "{point:?}");
        }
        assert_eq!(committed.await.unwrap_err().kind, Kind::Unknown, "{point:?}");
        assert!(faults.is_down());
        assert_eq!(*tip.borrow(), Position(2), "nothing is published after the crash at {point:?}");
        assert!(matches!(&*log.health().borrow(), Health::Failed(_)));
        drop(log);

        let log = remember(&disk).await;
        let (tip, low, counter) = if is_durable { (6, 2, Some(&b"2"[..])) } else { (2, 0, None) };
        assert_eq!(log.tip().borrow().0, tip, "{point:?}");
        assert_eq!(log.workers().await.unwrap()[0].low.0, low, "{point:?}");
        let key = log.keys("w".into(), vec!["n".into()]).await.unwrap().remove(0);
        assert_eq!(key.value.as_deref(), counter, "{point:?}");
        assert!(log.verify(|_, _| {}).await.unwrap().is_clean());
    }
}

#[tokio::test]
async fn who_opened_the_disk_before_writes_nothing() {
    let disk = MemoryDisk::new().unwrap();
    let old = remember(&disk).await;
    append(&old, "a/one", 1).await;
    let late = old.append(vec![message("a/one", 2)].into());
    let new = remember(&disk).await;
    assert_eq!(late.await.unwrap_err().kind, Kind::Unknown);
    assert_eq!(append(&new, "a/one", 1).await.first, Position(2));
}

#[tokio::test]
async fn only_an_unclean_stop_charges_a_suspect_and_only_the_suspect() {
    let directory = tempfile::tempdir().unwrap();
    let parked = |position, state| Parked {
        position: Position(position),
        state,
        due: Time::MAX,
        attempts: 1,
        crashes: 0,
        reason: "".into(),
    };
    let rows = [(1, ParkedState::Suspect), (2, ParkedState::Straggler), (3, ParkedState::Retry)];
    let log = Embedded::open(directory.path(), Options::default()).await.unwrap();
    append(&log, "a/one", 3).await;
    hold(&log, "w").await;
    let put = rows.into_iter().map(|(position, state)| ParkedChange::Put(parked(position, state))).collect();
    assert_eq!(
        commit(&log, Unit { parked: put, ..Unit::of("w".into(), 1) }).await,
        UnitResult::Applied(None)
    );
    drop(log);

    let crashes = |running: Vec<Parked>| running.into_iter().map(|row| row.crashes).collect::<Vec<_>>();
    let log = Embedded::open(directory.path(), Options::default()).await.unwrap();
    let opened = hold(&log, "w").await;
    assert_eq!((opened.clean, crashes(opened.running)), (false, vec![1, 0]));
    assert_eq!(log.due("w".into(), Time::MAX, 9).await.unwrap().rows.len(), 1, "running ones are never due");
    log.release("w".into(), 2).await.unwrap();
    drop(log);

    let log = Embedded::open(directory.path(), Options::default()).await.unwrap();
    let opened = hold(&log, "w").await;
    assert_eq!((opened.clean, crashes(opened.running)), (true, vec![1, 0]));
    assert_eq!(log.release("w".into(), 2).await.unwrap_err().kind, Kind::Fenced);
}
