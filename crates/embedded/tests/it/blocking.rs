//! Appends that block a thread: the same log, whoever steps the writer.

use std::{collections::BTreeSet, time::Duration};

use outboard_core::{
    Kind, Log, Position, TypeSet,
    fault::{Faults, Point},
};
use outboard_embedded::{Embedded, MemoryDisk, Options};
use tokio::time::timeout;

use crate::support::{append, message, open, read_all, remember, types};

#[tokio::test]
async fn threads_and_tasks_write_one_dense_log_side_by_side() {
    const EACH: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    let thread = |_| {
        let log = log.clone();
        std::thread::spawn(move || {
            let append = |number| log.append_blocking(vec![message("a/thread", number); 2].into());
            (0..EACH).map(|number| append(number).unwrap().first).collect::<Vec<_>>()
        })
    };
    let threads: Vec<_> = (0..3).map(thread).collect();
    let mut firsts = BTreeSet::new();
    for _ in 0..EACH {
        firsts.insert(append(&log, "b/task", 2).await.first);
    }
    for thread in threads {
        let of_thread = thread.join().unwrap();
        assert!(of_thread.is_sorted(), "a thread's appends keep their order");
        firsts.extend(of_thread);
    }
    let expected = (0..4 * EACH as u64).map(|number| Position(2 * number + 1));
    assert!(firsts.into_iter().eq(expected), "positions are dense, and each append got its own");
    assert_eq!(read_all(&log, Position::START, &TypeSet::all()).await.len(), 8 * EACH);
}

#[tokio::test]
async fn what_was_enqueued_before_comes_before() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    // More rounds than a task has budget: blocking must not depend on it.
    for round in 0..500 {
        let earlier = log.append(vec![message("a/one", 1)].into());
        let later = log.append_blocking(vec![message("a/one", 2)].into()).unwrap();
        assert_eq!(earlier.await.unwrap().first, Position(2 * round + 1));
        assert_eq!(later.first, Position(2 * round + 2));
    }
}

#[tokio::test]
async fn the_writer_keeps_its_times_when_others_step_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    let subscription = log.subscribe(types("a/*"));
    for _ in 0..2 {
        log.append_blocking(vec![message("b/two", 1)].into()).unwrap();
        // The second one comes after a second, and the writer's thread slept when it was appended.
        let woken = timeout(Duration::from_secs(10), subscription.wake.notified());
        assert!(woken.await.is_ok(), "a reader of other types is woken for them, too");
    }
}

#[tokio::test]
async fn a_log_in_memory_takes_it_as_well() {
    let log = remember(&MemoryDisk::new().unwrap()).await;
    assert_eq!(log.append_blocking(vec![message("a/one", 1)].into()).unwrap().first, Position(1));
    assert_eq!(append(&log, "a/one", 1).await.first, Position(2));
}

#[tokio::test]
async fn a_writer_that_ends_under_it_answers_and_everything_is_refused_from_then_on() {
    let options = Options { faults: Faults::crash_at(Point::AppendWritten, 2), ..Options::default() };
    let directory = tempfile::tempdir().unwrap();
    let log = Embedded::open(directory.path(), options).await.unwrap();
    append(&log, "a/one", 1).await;
    let error = log.append_blocking(vec![message("a/one", 1)].into()).unwrap_err();
    assert_eq!(error.kind, Kind::Unknown, "{error}");
    log.close().await;
    let error = log.append_blocking(vec![message("a/one", 1)].into()).unwrap_err();
    assert_eq!(error.kind, Kind::Closed, "{error}");
    drop(log);
    assert_eq!(*open(directory.path()).await.tip().borrow(), Position(1));
}
