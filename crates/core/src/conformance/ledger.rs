//! What a [`Ledger`](crate::Ledger) must do.

use std::{sync::Arc, time::Duration};

use super::{Backend, Ports, soon, waits};
use crate::{
    Kind, NewMessage, Position, Time,
    ledger::{
        DeadQuery, Fate, Guard, KeyWrite, NewDead, Opened, Parked, ParkedChange, ParkedState, Start, Unit,
        UnitResult,
    },
    pattern::MAX_TYPE_BYTES,
};

fn row(position: u64, state: ParkedState, due: Time) -> Parked {
    Parked { position: Position(position), state, due, attempts: 1, crashes: 0, reason: "it failed".into() }
}

fn unit(opened: &Opened) -> Unit {
    Unit::of("w".into(), opened.epoch)
}

fn done(opened: &Opened, from: u64, to: u64) -> Unit {
    Unit { done: vec![(Position(from), Position(to))], ..unit(opened) }
}

fn parks(opened: &Opened, rows: Vec<Parked>) -> Unit {
    Unit { parked: rows.into_iter().map(ParkedChange::Put).collect(), ..unit(opened) }
}

async fn commit(ports: &Ports, units: Vec<Unit>) -> Vec<UnitResult> {
    ports.ledger.commit(units).await.expect("the ledger commits")
}

async fn value(ports: &Ports, key: &str) -> Option<String> {
    let found = ports.ledger.keys("w".into(), vec![key.into()]).await.expect("reads keys").remove(0);
    found.value.map(|bytes| String::from_utf8(bytes.to_vec()).expect("the suite writes text"))
}

/// And one that was seen goes on where it was, whatever `start` says.
pub async fn a_new_worker_begins_at_the_end_or_the_beginning(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a", "a/a", "a/a"]).await;
    let beginning = ports.open_worker("first", Start::Beginning).await;
    let end = ports.open_worker("last", Start::End).await;
    assert_eq!((beginning.cursor.low(), end.cursor.low()), (Position(0), Position(3)));
    let again = ports.open_worker("last", Start::Beginning).await;
    assert_eq!(again.cursor.low(), Position(3));
    assert!(again.epoch > end.epoch);
}

/// The bitmap as well as the low-water mark.
pub async fn done_ranges_survive_reopening(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 20]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    commit(&ports, vec![done(&opened, 1, 3), done(&opened, 7, 7), done(&opened, 10, 12)]).await;
    backend.close(ports).await;
    let ports = backend.open().await;
    let cursor = ports.open_worker("w", Start::Beginning).await.cursor;
    let done: Vec<u64> = (1..=20).filter(|&position| cursor.is_done(Position(position))).collect();
    assert_eq!(done, [1, 2, 3, 7, 10, 11, 12]);
    assert_eq!(cursor.low(), Position(3));
}

/// A guard that does not hold writes nothing of its unit, and everything of the others.
pub async fn a_unit_in_conflict_leaves_its_neighbours_alone(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let set = |position: u64, key: &str, guard: u64| Unit {
        guards: vec![Guard::Version(key.into(), guard)],
        writes: vec![KeyWrite::Set(key.into(), "v".into())],
        appends: vec![NewMessage::new("a/effect", "{}")],
        ..done(&opened, position, position)
    };
    let results = commit(&ports, vec![set(1, "a", 0), set(2, "b", 7), set(3, "c", 0)]).await;
    assert!(matches!(results[..], [UnitResult::Applied(_), UnitResult::Conflict, UnitResult::Applied(_)]));
    assert_eq!((value(&ports, "a").await, value(&ports, "b").await), (Some("v".into()), None));
    assert_eq!(*ports.log.tip().borrow(), Position(5), "two units appended");
    let cursor = ports.open_worker("w", Start::Beginning).await.cursor;
    assert_eq!((cursor.is_done(Position(2)), cursor.is_done(Position(3))), (false, true));
}

/// Within one commit, too.
pub async fn a_later_unit_sees_an_earlier_one(backend: &dyn Backend) {
    let ports = backend.open().await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let set = || Unit {
        guards: vec![Guard::Version("k".into(), 0)],
        writes: vec![KeyWrite::Set("k".into(), "v".into())],
        ..unit(&opened)
    };
    let results = commit(&ports, vec![set(), set()]).await;
    assert!(matches!(results[..], [UnitResult::Applied(None), UnitResult::Conflict]));
    let delete = Unit { writes: vec![KeyWrite::Delete("k".into())], ..unit(&opened) };
    commit(&ports, vec![delete]).await;
    assert_eq!(value(&ports, "k").await, None);
}

/// What the earlier holder sends is refused, and nothing of it written.
pub async fn an_older_epoch_is_fenced(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let old = ports.open_worker("w", Start::Beginning).await;
    let new = ports.open_worker("w", Start::Beginning).await;
    let write = Unit { writes: vec![KeyWrite::Set("k".into(), "old".into())], ..done(&old, 1, 1) };
    let results = commit(&ports, vec![write, done(&new, 2, 2)]).await;
    assert!(matches!(results[..], [UnitResult::Fenced, UnitResult::Applied(_)]));
    assert_eq!(value(&ports, "k").await, None);
    let error = ports.ledger.release("w".into(), old.epoch).await.expect_err("the worker is somebody else's");
    assert_eq!(error.kind, Kind::Fenced);
}

/// Without a guard, and from nothing.
pub async fn counters_add_up(backend: &dyn Backend) {
    let ports = backend.open().await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let add = |delta| Unit { writes: vec![KeyWrite::Add("n".into(), delta)], ..unit(&opened) };
    commit(&ports, vec![add(5), add(-2), add(40)]).await;
    commit(&ports, vec![add(1)]).await;
    assert_eq!(value(&ports, "n").await.as_deref(), Some("44"));
    commit(&ports, vec![add(i64::MAX)]).await;
    assert_eq!(value(&ports, "n").await, Some(i64::MAX.to_string()), "it saturates");
}

/// A sum with text can never be written: its unit is refused, and only that one.
pub async fn adding_to_text_is_refused(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 2]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let text = Unit { writes: vec![KeyWrite::Set("k".into(), "\"text\"".into())], ..unit(&opened) };
    let writes = vec![KeyWrite::Set("other".into(), "1".into()), KeyWrite::Add("k".into(), 1)];
    let add = Unit { writes, appends: vec![NewMessage::new("a/effect", "{}")], ..done(&opened, 1, 1) };
    let results = commit(&ports, vec![text, add, done(&opened, 2, 2)]).await;
    assert!(matches!(&results[1], UnitResult::Refused(reason) if !reason.is_empty()), "{results:?}");
    assert!(matches!((&results[0], &results[2]), (UnitResult::Applied(_), UnitResult::Applied(_))));
    assert_eq!((value(&ports, "other").await, *ports.log.tip().borrow()), (None, Position(2)));
    let cursor = ports.open_worker("w", Start::Beginning).await.cursor;
    assert_eq!((cursor.is_done(Position(1)), cursor.is_done(Position(2))), (false, true));
}

/// That unit by itself: its neighbours are applied, and nothing of it is written.
pub async fn appending_what_the_log_would_refuse_is_refused(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let appending = |position, kind: &str| Unit {
        writes: vec![KeyWrite::Add("n".into(), 1)],
        appends: vec![NewMessage::new("a/effect", "{}"), NewMessage::new(kind, "{}")],
        ..done(&opened, position, position)
    };
    let long = "a".repeat(MAX_TYPE_BYTES + 1);
    let units = vec![appending(1, "a/effect"), appending(2, &long), appending(3, "a/effect")];
    let results = commit(&ports, units).await;
    assert!(matches!(&results[1], UnitResult::Refused(reason) if !reason.is_empty()), "{results:?}");
    let applied = |first| UnitResult::Applied(Some(Position(first)));
    assert_eq!((&results[0], &results[2]), (&applied(4), &applied(6)));
    assert_eq!((value(&ports, "n").await.as_deref(), *ports.log.tip().borrow()), (Some("2"), Position(7)));
    let cursor = ports.open_worker("w", Start::Beginning).await.cursor;
    assert_eq!([1, 2, 3].map(|at| cursor.is_done(Position(at))), [true, false, true]);
}

/// They are told, and the messages are in the log.
pub async fn appends_of_a_unit_get_positions(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let message = NewMessage::new("a/effect", "{}");
    let appending = Unit { appends: vec![message.clone(), message], ..done(&opened, 1, 1) };
    let results = commit(&ports, vec![appending]).await;
    assert_eq!(results, [UnitResult::Applied(Some(Position(2)))]);
    assert_eq!(*ports.log.tip().borrow(), Position(3));
    let found = ports.log.get(vec![Position(3)]).await.expect("gets").remove(0).expect("it was appended");
    assert_eq!(&*found.kind, "a/effect");
}

/// With the time of the next one, and never more than asked for.
pub async fn parked_rows_come_by_due_time(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 5]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let now = ports.clock.now();
    let at = |position, seconds| row(position, ParkedState::Retry, now + Duration::from_secs(seconds));
    commit(&ports, vec![parks(&opened, vec![at(1, 30), at(2, 10), at(3, 20), at(4, 10)])]).await;
    let until = now + Duration::from_secs(20);
    let due = ports.ledger.due("w".into(), until, 10).await.expect("tells what is due");
    let ids = |rows: &[Parked]| rows.iter().map(|row| row.position.0).collect::<Vec<_>>();
    assert_eq!((ids(&due.rows), due.next), (vec![2, 4, 3], Some(now + Duration::from_secs(30))));
    assert_eq!(due.rows[0], at(2, 10));
    let cut = ports.ledger.due("w".into(), until, 2).await.expect("tells what is due");
    assert_eq!((ids(&cut.rows), cut.next), (vec![2, 4], Some(until)));
    commit(&ports, vec![Unit { parked: vec![ParkedChange::Remove(Position(2))], ..unit(&opened) }]).await;
    backend.close(ports).await;
    let ports = backend.open().await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    assert_eq!((opened.parked, opened.next_due), (3, Some(now + Duration::from_secs(10))));
}

/// Stragglers and suspects are told at opening only.
pub async fn running_rows_are_never_due(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let rows = vec![row(1, ParkedState::Straggler, Time::MAX), row(2, ParkedState::Suspect, Time::MAX)];
    commit(&ports, vec![parks(&opened, rows.clone())]).await;
    let due = ports.ledger.due("w".into(), Time::MAX, 10).await.expect("tells what is due");
    assert!(due.rows.is_empty() && due.next.is_none());
    ports.ledger.release("w".into(), opened.epoch).await.expect("releases");
    let opened = ports.open_worker("w", Start::Beginning).await;
    assert_eq!((opened.running, opened.next_due), (rows, None));
}

/// Never below zero, and only rows in state retry.
pub async fn giving_back_uncounts_and_is_due(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let later = ports.clock.now() + Duration::from_secs(3_600);
    let rows = vec![row(1, ParkedState::Retry, later), row(2, ParkedState::Snoozed, later)];
    commit(&ports, vec![parks(&opened, rows)]).await;
    let back = (1..=3).map(|position| ParkedChange::GiveBack(Position(position), 5)).collect();
    commit(&ports, vec![Unit { parked: back, ..unit(&opened) }]).await;
    let due = ports.ledger.due("w".into(), ports.clock.now(), 10).await.expect("tells what is due");
    assert_eq!(due.rows.len(), 1);
    assert_eq!((due.rows[0].position, due.rows[0].attempts), (Position(1), 0));
    assert_eq!(due.next, Some(later));
}

/// By id, of all workers or of one.
pub async fn dead_letters_are_listed_by_page(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 5]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let other = ports.open_worker("other", Start::Beginning).await;
    let bury = |position: u64| NewDead { position: Position(position), reason: "no use".into(), attempts: 3 };
    let dead = Unit { dead: (1..=5).map(bury).collect(), ..done(&opened, 1, 5) };
    let others = Unit { dead: vec![bury(1)], ..Unit::of("other".into(), other.epoch) };
    commit(&ports, vec![dead, others]).await;
    let query = DeadQuery { max: 2, worker: Some("w".into()), ..DeadQuery::default() };
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = ports.ledger.dead(DeadQuery { after, ..query.clone() }).await.expect("lists dead letters");
        assert!(page.letters.len() <= 2);
        found.extend(page.letters);
        let Some(next) = page.next else { break };
        after = next;
    }
    assert_eq!(found.iter().map(|letter| letter.message_id.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(found.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert_eq!((&*found[0].reason, found[0].attempts, &*found[0].worker), ("no use", 3, "w"));
    let all =
        ports.ledger.dead(DeadQuery { max: 100, ..DeadQuery::default() }).await.expect("lists dead letters");
    assert_eq!(all.letters.len(), 6);
}

/// Due at once, uncounted, and its worker is told.
pub async fn a_revived_letter_is_parked_and_wakes(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"]).await;
    let mut opened = ports.open_worker("w", Start::Beginning).await;
    let dead = vec![NewDead { position: Position(1), reason: "no use".into(), attempts: 3 }];
    commit(&ports, vec![Unit { dead, ..done(&opened, 1, 1) }]).await;
    assert!(waits(opened.revived.changed()).await, "nothing was revived");
    let query = DeadQuery { max: 10, ..DeadQuery::default() };
    let letter = ports.ledger.dead(query.clone()).await.expect("lists").letters.remove(0);
    assert_eq!(ports.ledger.revive(letter.id).await.expect("revives"), letter);
    soon(opened.revived.changed()).await.expect("the ledger lives");
    let due = ports.ledger.due("w".into(), ports.clock.now(), 10).await.expect("tells what is due");
    assert_eq!((due.rows[0].position, due.rows[0].attempts), (Position(1), 0));
    assert!(ports.ledger.dead(query).await.expect("lists").letters.is_empty());
    let error = ports.ledger.revive(letter.id).await.expect_err("it is not dead any more");
    assert_eq!(error.kind, Kind::NotFound);
}

/// With its reason; resuming does as well.
pub async fn a_pause_survives_reopening(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.open_worker("w", Start::Beginning).await;
    ports.ledger.pause("w".into(), Some("night".into())).await.expect("pauses");
    backend.close(ports).await;
    let ports = backend.open().await;
    assert_eq!(ports.open_worker("w", Start::Beginning).await.paused.as_deref(), Some("night"));
    ports.ledger.pause("w".into(), None).await.expect("resumes");
    assert_eq!(ports.open_worker("w", Start::Beginning).await.paused, None);
}

/// Once for each unclean stop, and nothing for stragglers.
pub async fn a_crash_charges_the_suspect_only(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    let rows = vec![row(1, ParkedState::Straggler, Time::MAX), row(2, ParkedState::Suspect, Time::MAX)];
    commit(&ports, vec![parks(&opened, rows)]).await;
    for crash in 1..=3 {
        let opened = ports.open_worker("w", Start::Beginning).await;
        assert!(!opened.clean);
        let crashes: Vec<u32> = opened.running.iter().map(|row| row.crashes).collect();
        assert_eq!(crashes, [0, crash]);
    }
}

/// Until it is opened again; a crash after that is one.
pub async fn a_released_worker_is_clean(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 3]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    assert!(opened.clean, "a worker that never ran has claimed nothing");
    commit(&ports, vec![parks(&opened, vec![row(2, ParkedState::Suspect, Time::MAX)])]).await;
    ports.ledger.release("w".into(), opened.epoch).await.expect("releases");
    let opened = ports.open_worker("w", Start::Beginning).await;
    assert!(opened.clean);
    assert_eq!(opened.running[0].crashes, 0);
    assert!(!ports.open_worker("w", Start::Beginning).await.clean);
}

/// For each worker.
pub async fn fates_tell_what_became_of_a_message(backend: &dyn Backend) {
    let ports = backend.open().await;
    ports.append(&["a/a"; 4]).await;
    let opened = ports.open_worker("w", Start::Beginning).await;
    ports.open_worker("young", Start::End).await;
    let parked = row(2, ParkedState::Retry, ports.clock.now());
    let dead = vec![NewDead { position: Position(3), reason: "no use".into(), attempts: 1 }];
    let all = Unit { parked: vec![ParkedChange::Put(parked.clone())], dead, ..done(&opened, 1, 3) };
    commit(&ports, vec![all]).await;
    let mut fates = Vec::new();
    for position in 1..=4 {
        let found = ports.ledger.fates(Position(position)).await.expect("tells fates");
        assert_eq!(found[1], ("young".into(), Fate::Before));
        fates.push(found.into_iter().next().expect("both workers are told").1);
    }
    assert_eq!((&fates[0], &fates[1], &fates[3]), (&Fate::Done, &Fate::Parked(parked), &Fate::Pending));
    assert!(matches!(&fates[2], Fate::Dead(letter) if letter.message_id == Position(3)));
    let rows = ports.ledger.workers().await.expect("lists workers");
    let counts: Vec<_> = rows.iter().map(|row| (&*row.name, row.low.0, row.parked, row.dead)).collect();
    assert_eq!(counts, [("w", 3, 1, 1), ("young", 4, 0, 0)]);
}

/// Told as such.
pub async fn unknown_things_are_not_found(backend: &dyn Backend) {
    let ports = backend.open().await;
    let error = ports.ledger.pause("nobody".into(), None).await.expect_err("no such worker");
    assert_eq!(error.kind, Kind::NotFound);
    let error = ports.ledger.revive(7).await.expect_err("no such dead letter");
    assert_eq!(error.kind, Kind::NotFound);
    let keys = ports.ledger.keys("nobody".into(), vec!["k".into()]).await.expect("reads keys");
    assert_eq!((keys[0].value.is_none(), keys[0].version), (true, 0));
}

/// A unit with the id of a broker's message is applied once for each worker, also after reopening; a unit that came to
/// nothing leaves no id behind.
pub async fn a_message_of_a_broker_is_done_once(backend: &dyn Backend) {
    let ports = backend.open().await;
    let one = ports.open_worker("one", Start::End).await.epoch;
    let two = ports.open_worker("two", Start::End).await.epoch;
    let unit = |worker: &str, epoch, id: &str, write| Unit {
        inbox: Some(id.into()),
        writes: vec![write],
        ..Unit::of(worker.into(), epoch)
    };
    let add = || KeyWrite::Add("n".into(), 1);
    let text = || KeyWrite::Set("t".into(), "\"text\"".into());
    let not_a_number = || KeyWrite::Add("t".into(), 1);
    let results = ports
        .ledger
        .commit(vec![
            unit("one", one, "a", add()),
            unit("one", one, "a", add()),
            unit("two", two, "a", add()),
            unit("one", one, "t", text()),
            unit("one", one, "b", not_a_number()),
        ])
        .await
        .expect("commits");
    assert!(matches!(results[4], UnitResult::Refused(_)), "{results:?}");
    let expected = [UnitResult::Applied(None), UnitResult::Repeated, UnitResult::Applied(None)];
    assert_eq!(results[..3], expected);
    backend.close(ports).await;
    let ports = backend.open().await;
    let one = ports.open_worker("one", Start::End).await.epoch;
    let again = vec![unit("one", one, "a", add()), unit("one", one, "b", add())];
    let results = ports.ledger.commit(again).await.expect("commits");
    assert_eq!(results, [UnitResult::Repeated, UnitResult::Applied(None)]);
    let asked = ["b", "c", "a"].map(Arc::from).to_vec();
    assert_eq!(ports.ledger.inbox("one".into(), asked).await.expect("reads"), [true, false, true]);
    let asked = ["b", "a"].map(Arc::from).to_vec();
    assert_eq!(ports.ledger.inbox("two".into(), asked).await.expect("reads"), [false, true]);
    let keys = ports.ledger.keys("one".into(), vec!["n".into()]).await.expect("reads keys");
    assert_eq!(keys[0].value.as_deref(), Some(&b"2"[..]));
}
