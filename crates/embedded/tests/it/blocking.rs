//! Appends that block a thread: the same log, whoever steps the writer.

use std::{
    collections::BTreeSet,
    sync::{Arc, Barrier, Mutex},
    thread,
    time::Duration,
};

use outboard_core::{
    Clock, Health, Kind, Log, Position, Time, TypeSet,
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
        thread::spawn(move || {
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

/// Told the time, a writer stops here when its clock says so.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<Mutex<Stop>>);

#[derive(Debug, Clone, Default)]
enum Stop {
    #[default]
    Not,
    /// Until others have come to the barrier twice.
    At(Arc<Barrier>),
    Panic,
}

impl Gate {
    fn set(&self, stop: Stop) {
        *self.0.lock().expect("nobody panics with it") = stop;
    }

    fn options(&self) -> Options {
        Options { clock: Arc::new(self.clone()), ..Options::default() }
    }
}

impl Clock for Gate {
    fn now(&self) -> Time {
        let stop = std::mem::take(&mut *self.0.lock().expect("nobody panics with it"));
        match stop {
            Stop::Not => {}
            Stop::At(barrier) => {
                barrier.wait();
                barrier.wait();
            }
            Stop::Panic => panic!("planted: the writer panics"),
        }
        Time::from_millis(1)
    }
}

/// One thread writes and is held up in the middle; another one appends meanwhile, and gets its answer, too.
fn two_threads_append(log: &Embedded, gate: &Gate) {
    let barrier = Arc::new(Barrier::new(2));
    gate.set(Stop::At(barrier.clone()));
    let spawn = |number| {
        let log = log.clone();
        thread::spawn(move || {
            log.append_blocking(vec![message("a/one", number)].into()).expect("appends").first
        })
    };
    let first = spawn(1);
    barrier.wait();
    let second = spawn(2);
    while log.stats().queued_requests == 0 {
        thread::yield_now();
    }
    barrier.wait();
    let positions = [first, second].map(|thread| thread.join().expect("it does not panic"));
    assert_eq!(positions, [Position(1), Position(2)]);
}

#[test]
fn who_comes_while_another_thread_writes_is_answered() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let log = runtime.block_on(Embedded::open(directory.path(), gate.options())).unwrap();
    two_threads_append(&log, &gate);
}

#[test]
fn in_memory_it_needs_no_runtime_that_runs() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let gate = Gate::default();
    let log = runtime.block_on(Embedded::memory(&MemoryDisk::new().unwrap(), gate.options())).unwrap();
    two_threads_append(&log, &gate);
}

#[tokio::test]
async fn a_writer_that_panics_fails_the_log_and_not_the_thread_that_stepped_it() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let log = Embedded::open(directory.path(), gate.options()).await.unwrap();
    gate.set(Stop::Panic);
    let error = log.append_blocking(vec![message("a/one", 1)].into()).unwrap_err();
    assert_eq!(error.kind, Kind::Unknown, "{error}");
    assert!(matches!(&*log.health().borrow(), Health::Failed(_)));
    let error = log.append(vec![message("a/one", 1)].into()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Closed, "{error}");
    log.close().await;
    assert_eq!(*open(directory.path()).await.tip().borrow(), Position::START, "the directory is free");
}

#[test]
fn in_memory_the_log_ends_with_its_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for has_run in [false, true] {
        let first = runtime();
        let log = first.block_on(remember(&MemoryDisk::new().unwrap()));
        if has_run {
            first.block_on(append(&log, "a/one", 1));
        }
        drop(first);
        runtime().block_on(async {
            let error = log.append(vec![message("a/one", 1)].into()).await.unwrap_err();
            assert_eq!(error.kind, Kind::Closed, "{error}");
            log.close().await;
        });
    }
}
