//! Who is woken, and when; in paused time.

use std::time::Duration;

use outboard_core::{Log, log::Subscription};
use outboard_embedded::{Embedded, MemoryDisk, Options};
use tokio::time::{Instant, timeout};

use crate::support::{append, remember, types};

/// How long until it is woken, at most ten seconds.
async fn woken(subscription: &Subscription) -> Option<Duration> {
    let begun = Instant::now();
    timeout(Duration::from_secs(10), subscription.wake.notified()).await.ok().map(|()| begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn its_own_types_wake_a_reader_at_once() {
    let log = remember(&MemoryDisk::new().unwrap()).await;
    let subscription = log.subscribe(types("a/* c/*"));
    for _ in 0..3 {
        append(&log, "a/one", 1).await;
        assert_eq!(woken(&subscription).await, Some(Duration::ZERO));
    }
    assert_eq!(woken(&subscription).await, None, "nothing came");
}

#[tokio::test(start_paused = true)]
async fn other_types_wake_it_once_a_second_and_the_last_of_them_too() {
    let log = remember(&MemoryDisk::new().unwrap()).await;
    let subscription = log.subscribe(types("a/*"));
    append(&log, "b/two", 1).await;
    assert_eq!(woken(&subscription).await, Some(Duration::ZERO), "it has rested until now");
    for _ in 0..5 {
        append(&log, "b/two", 1).await;
    }
    assert_eq!(woken(&subscription).await, Some(Duration::from_secs(1)), "once for all five");
    assert_eq!(woken(&subscription).await, None);
    append(&log, "b/two", 1).await;
    append(&log, "a/one", 1).await;
    assert_eq!(woken(&subscription).await, Some(Duration::ZERO));
}

#[tokio::test]
async fn a_writer_on_its_own_thread_wakes_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let log = Embedded::open(directory.path(), Options::default()).await.unwrap();
    let subscription = log.subscribe(types("a/*"));
    for _ in 0..2 {
        append(&log, "b/two", 1).await;
        // The second one comes after a second: the writer's thread keeps that time by itself.
        assert!(woken(&subscription).await.is_some());
    }
    append(&log, "a/one", 1).await;
    assert!(woken(&subscription).await.is_some());
}
