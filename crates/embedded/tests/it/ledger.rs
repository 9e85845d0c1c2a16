//! Cursors, parked messages, dead letters and keys.

use outboard_core::{
    Kind, Ledger, Log, Position, Time,
    ledger::{
        DeadQuery, Fate, Guard, KeyWrite, NewDead, Parked, ParkedChange, ParkedState, Unit, UnitResult,
    },
};

use crate::support::{append, commit, hold, message, open};

fn retry(position: u64, due: i64) -> Parked {
    Parked {
        position: Position(position),
        state: ParkedState::Retry,
        due: Time::from_millis(due),
        attempts: 2,
        crashes: 0,
        reason: "no luck".into(),
    }
}

#[tokio::test]
async fn progress_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append(&log, "a/one", 10).await;
    let opened = hold(&log, "w").await;
    assert_eq!((opened.epoch, opened.clean), (1, true));
    let unit = Unit {
        done: vec![(Position(1), Position(2)), (Position(5), Position(7))],
        parked: vec![ParkedChange::Put(retry(3, 50)), ParkedChange::Put(retry(4, 40))],
        dead: vec![NewDead { position: Position(9), reason: "bad".into(), attempts: 25 }],
        writes: vec![KeyWrite::Set("k".into(), "v".into()), KeyWrite::Add("n".into(), 3)],
        appends: vec![message("b/two", 1)],
        ..Unit::of("w".into(), 1)
    };
    assert_eq!(commit(&log, unit).await, UnitResult::Applied(Some(Position(11))));
    drop(log);

    let log = open(directory.path()).await;
    let opened = hold(&log, "w").await;
    assert_eq!((opened.epoch, opened.clean, opened.claims, opened.parked), (2, false, 8, 2));
    assert_eq!((opened.cursor.low(), opened.cursor.highest()), (Position(2), Position(7)));
    assert_eq!(opened.next_due, Some(Time::from_millis(40)));
    let due = log.due("w".into(), Time::from_millis(45), 10).await.unwrap();
    assert_eq!((due.rows, due.next), (vec![retry(4, 40)], Some(Time::from_millis(50))));
    let keys = log.keys("w".into(), vec!["n".into(), "k".into(), "none".into()]).await.unwrap();
    assert_eq!(keys[0].value.as_deref(), Some(&b"3"[..]));
    assert_eq!((keys[1].value.as_deref(), keys[2].version), (Some(&b"v"[..]), 0));
    let letters = log.dead(DeadQuery { max: 10, ..DeadQuery::default() }).await.unwrap().letters;
    assert_eq!((letters.len(), letters[0].message_id), (1, Position(9)));
    let fate = |position| {
        let log = log.clone();
        async move { log.fates(Position(position)).await.unwrap().remove(0).1 }
    };
    assert_eq!(fate(1).await, Fate::Done);
    assert_eq!(fate(3).await, Fate::Parked(retry(3, 50)));
    assert_eq!(fate(8).await, Fate::Pending);
    assert_eq!(fate(9).await, Fate::Dead(letters[0].clone()));
}

#[tokio::test]
async fn a_refused_unit_leaves_its_neighbours_alone() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append(&log, "a/one", 3).await;
    hold(&log, "w").await;
    let set = |position: u64, guard: u64, epoch| Unit {
        done: vec![(Position(position), Position(position))],
        guards: vec![Guard::Version("k".into(), guard)],
        writes: vec![KeyWrite::Set("k".into(), position.to_string().into())],
        appends: vec![message("b/two", position as usize)],
        ..Unit::of("w".into(), epoch)
    };
    let results = log.commit(vec![set(1, 0, 1), set(2, 0, 1), set(2, 1, 7), set(3, 1, 1)]).await.unwrap();
    let expected = [
        UnitResult::Applied(Some(Position(4))),
        UnitResult::Conflict,
        UnitResult::Fenced,
        UnitResult::Applied(Some(Position(5))),
    ];
    assert_eq!(results, expected, "a later unit sees the version that an earlier one made");
    let row = &log.workers().await.unwrap()[0];
    assert_eq!((row.low, row.done_above), (Position(1), 1));
    assert_eq!(*log.tip().borrow(), Position(5));
}

#[tokio::test]
async fn a_dead_letter_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append(&log, "a/one", 1).await;
    let mut opened = hold(&log, "w").await;
    let dead = vec![NewDead { position: Position(1), reason: "bad".into(), attempts: 25 }];
    commit(&log, Unit { dead, ..Unit::of("w".into(), 1) }).await;
    let letter = log.revive(1).await.unwrap();
    assert_eq!(letter.message_id, Position(1));
    opened.revived.changed().await.unwrap();
    let row = &log.workers().await.unwrap()[0];
    assert_eq!((row.parked, row.dead), (1, 0));
    assert_eq!(log.due("w".into(), Time::MAX, 10).await.unwrap().rows[0].attempts, 0);
    assert_eq!(log.revive(1).await.unwrap_err().kind, Kind::NotFound);
}
