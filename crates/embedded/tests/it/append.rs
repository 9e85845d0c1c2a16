//! Appends: durable, dense, all or nothing.

use outboard_core::{Headers, Kind, Log, NewMessage, Position, Time, TypeSet, log::Append};

use crate::support::{append, message, open, read_all, types};

#[tokio::test]
async fn what_was_appended_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    assert_eq!(append(&log, "a/one", 3).await.first, Position(1));
    let special = NewMessage {
        headers: Headers::from_iter([("tenant", "7")]),
        run_at: Some(Time::from_millis(5)),
        ..message("b/two", 9)
    };
    assert_eq!(log.append(vec![special.clone()].into()).await.unwrap().first, Position(4));
    let before = read_all(&log, Position::START, &TypeSet::all()).await;
    drop(log);

    let log = open(directory.path()).await;
    assert_eq!(*log.tip().borrow(), Position(4));
    let after = read_all(&log, Position::START, &TypeSet::all()).await;
    assert_eq!(before, after, "the tail and the database agree");
    assert_eq!((after[3].headers.get("tenant"), after[3].run_at), (Some("7"), special.run_at));
    assert_eq!(read_all(&log, Position(1), &types("a/*")).await.len(), 2);
    assert_eq!(append(&log, "a/one", 1).await.first, Position(5));
    let got = log.get(vec![Position(5), Position(99), Position(2), Position(0)]).await.unwrap();
    assert_eq!(
        got.iter().map(|m| m.as_ref().map(|m| m.id.0)).collect::<Vec<_>>(),
        [Some(5), None, Some(2), None]
    );
    log.close().await;
    let error = log.append(vec![message("a/one", 0)].into()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Closed);
}

#[tokio::test]
async fn appends_have_limits() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    for bad in [vec![], vec![message("", 1)], vec![message(&"x".repeat(201), 1)]] {
        let error = log.append(Append::from(bad)).await.unwrap_err();
        assert_eq!(error.kind, Kind::Invalid);
    }
    assert_eq!(*log.tip().borrow(), Position::START);
}
