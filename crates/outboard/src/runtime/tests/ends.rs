//! Pausing, draining, failing.

use tokio::time::Instant;

use super::*;

/// Takes a second for each message.
fn slow(seen: &Seen) -> impl Handler {
    let seen = seen.clone();
    Scripted(move |attempt: Attempt| {
        let running = seen.begin(&attempt);
        async move {
            pass(SECOND).await;
            drop(running);
            Ok(Done)
        }
    })
}

fn two_at_once() -> Policy {
    Policy { concurrency: 2, ..Policy::default() }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_runs_and_begins_nothing() {
    let (world, seen) = (World::new().await, Seen::default());
    world.append(10).await;
    let handle = world.start(two_at_once(), slow(&seen)).await;
    until(&handle, |info| info.running.len() == 2).await;
    let began = Instant::now();
    let results = world.workers.drain(began + 25 * SECOND).await;
    assert!(began.elapsed() <= SECOND, "it does not wait for the deadline");
    let drained = results[0].1.as_ref().unwrap();
    assert_eq!((drained.settled, drained.returned), (2, 0));
    assert_eq!(handle.state(), WorkerState::Stopped);
    assert_eq!(seen.attempts().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_runs_at_the_deadline_is_aborted_and_given_back_uncounted() {
    let (disk, seen) = (MemoryDisk::new().unwrap(), Seen::default());
    let world = World::on(&disk).await;
    let first = world.append(3).await;
    let of = seen.clone();
    let hanging = Scripted(move |attempt: Attempt| {
        let running = of.begin(&attempt);
        async move {
            std::future::pending::<()>().await;
            drop(running);
            Ok(Done)
        }
    });
    let handle = world.start(two_at_once(), hanging).await;
    until(&handle, |info| info.running.len() == 2).await;
    let began = Instant::now();
    let results = world.workers.drain(began + 5 * SECOND).await;
    assert_eq!(began.elapsed(), 5 * SECOND);
    let drained = results[0].1.as_ref().unwrap();
    assert_eq!((drained.settled, drained.returned), (0, 2));
    assert_eq!(seen.running.load(Ordering::SeqCst), 0, "the attempts are dropped");
    assert_eq!(world.fate(first).await, Fate::Pending);
    world.storage.close().await;

    let world = World::on(&disk).await;
    let handle = world.start(two_at_once(), slow(&seen)).await;
    until_handled(&handle, 3).await;
    assert_eq!(seen.numbers_of(first), [1, 1], "the aborted attempt was not counted");
}

#[tokio::test(start_paused = true)]
async fn all_workers_drain_at_once() {
    let (world, seen) = (World::new().await, Seen::default());
    for name in ["orders", "audit", "mail"] {
        let spec = WorkerSpec { name: name.into(), ..spec(two_at_once(), slow(&seen)) };
        world.workers.start(spec).await.unwrap();
    }
    world.append(10).await;
    until(&world.workers.get("mail").unwrap(), |info| info.running.len() == 2).await;
    let began = Instant::now();
    let results = world.workers.drain(began + 25 * SECOND).await;
    assert!(began.elapsed() <= SECOND);
    assert_eq!(results.len(), 3);
    assert!(world.workers.drain(began).await.is_empty(), "a second time there is nothing to do");
    let error = world.workers.start(spec(two_at_once(), slow(&seen))).await.unwrap_err();
    assert_eq!(error.kind, outboard_core::Kind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_durable_and_lets_what_runs_finish() {
    let (disk, seen) = (MemoryDisk::new().unwrap(), Seen::default());
    let world = World::on(&disk).await;
    world.append(10).await;
    let handle = world.start(two_at_once(), slow(&seen)).await;
    until(&handle, |info| info.running.len() == 2).await;
    handle.pause(Some("stock-taking".into())).await.unwrap();
    assert_eq!(handle.state(), WorkerState::Paused { reason: "stock-taking".into() });
    assert_eq!(world.workers.health().degraded[0].reason, "paused: stock-taking");
    assert!(world.workers.health().health.is_ready());
    pass(60 * SECOND).await;
    assert_eq!(handle.info().counters.handled, 2);
    assert_eq!(handle.info().consumer.unsettled, 0, "nothing is held while it is paused");
    world.workers.drain(Instant::now()).await;
    world.storage.close().await;

    let world = World::on(&disk).await;
    let handle = world.start(two_at_once(), slow(&seen)).await;
    pass(60 * SECOND).await;
    assert_eq!(handle.state(), WorkerState::Paused { reason: "stock-taking".into() });
    assert_eq!(handle.info().counters.handled, 0);
    handle.resume().await.unwrap();
    assert_eq!(handle.state(), WorkerState::Running);
    until_handled(&handle, 8).await;
    world.workers.drain(Instant::now()).await;
    world.storage.close().await;

    let world = World::on(&disk).await;
    let handle = world.start(two_at_once(), slow(&seen)).await;
    assert_eq!(handle.state(), WorkerState::Running, "the resumption is durable, too");
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_pause_its_worker_and_keeps_the_message() {
    let (disk, seen) = (MemoryDisk::new().unwrap(), Seen::default());
    let world = World::on(&disk).await;
    let first = world.append(5).await;
    let gone = Scripted(|_| async { Err(Failure::Pause("410 Gone".into())) });
    let handle = world.start(Policy { concurrency: 1, ..Policy::default() }, gone).await;
    until(&handle, |info| matches!(info.state, WorkerState::Paused { .. })).await;
    pass(SECOND).await;
    assert_eq!(handle.info().counters.returned, 2, "the message, and the one in hand");
    assert_eq!(world.fate(first).await, Fate::Pending);
    assert_eq!(world.storage.workers().await.unwrap()[0].paused.as_deref(), Some("410 Gone"));
    world.workers.drain(Instant::now()).await;
    world.storage.close().await;

    let world = World::on(&disk).await;
    let handle = world.start(two_at_once(), slow(&seen)).await;
    handle.resume().await.unwrap();
    until_handled(&handle, 5).await;
    assert_eq!(seen.numbers_of(first), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_another_holder_took_over_has_failed() {
    let (world, seen) = (World::new().await, Seen::default());
    let handle = world.start(two_at_once(), slow(&seen)).await;
    let open =
        outboard_core::ledger::OpenWorker { worker: "orders".into(), start: Start::Beginning, claims: 1 };
    Ledger::open(&world.storage, open).await.unwrap();
    world.append(5).await;
    until(&handle, |info| matches!(info.state, WorkerState::Failed { .. })).await;
    let health = world.workers.health();
    assert!(matches!(health.health, outboard_core::Health::Failed(_)));
    assert!(health.degraded[0].reason.starts_with("failed: "));
    assert_eq!(handle.drain(Instant::now()).await.unwrap_err().kind, outboard_core::Kind::Closed);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_workers_drops_their_attempts() {
    let (world, seen) = (World::new().await, Seen::default());
    world.append(5).await;
    let handle = world.start(two_at_once(), slow(&seen)).await;
    until(&handle, |info| info.running.len() == 2).await;
    drop((handle, world));
    // One turn for the aborted tasks.
    pass(MS).await;
    assert_eq!(seen.running.load(Ordering::SeqCst), 0);
    pass(10 * SECOND).await;
    assert_eq!(seen.attempts().len(), 2);
}

#[tokio::test]
async fn nothing_begins_after_a_pause_that_a_handler_asks_for() {
    const BAD: u64 = 2_020;
    let world = World::new().await;
    let (seen, paused) = (Seen::default(), Arc::new(std::sync::OnceLock::<WorkerHandle>::new()));
    let (late, of, handle) = (Arc::new(AtomicUsize::new(0)), seen.clone(), paused.clone());
    let counted = late.clone();
    let handler = Scripted(move |attempt: Attempt| {
        let is_paused = |handle: &WorkerHandle| matches!(handle.state(), WorkerState::Paused { .. });
        counted.fetch_add(usize::from(handle.get().is_some_and(is_paused)), Ordering::SeqCst);
        drop(of.begin(&attempt));
        let is_bad = attempt.message.id.0 == BAD;
        let began = std::time::Instant::now();
        while is_bad && began.elapsed() < 5 * MS {}
        async move { if is_bad { Err(Failure::Pause("410 Gone".into())) } else { Ok(Done) } }
    });
    let policy = Policy { concurrency: 100, ..Policy::default() };
    let handle = world.start(policy, handler).await;
    paused.set(handle.clone()).ok();
    for _ in 0..3 {
        world.append(1_000).await;
    }
    let is_given_back =
        |info: &WorkerInfo| matches!(info.state, WorkerState::Paused { .. }) && info.consumer.unsettled == 0;
    tokio::time::timeout(10 * SECOND, until(&handle, is_given_back)).await.unwrap();
    handle.drain(Instant::now() + SECOND).await.unwrap();
    assert!(seen.attempts().iter().any(|(at, _)| *at == BAD));
    assert_eq!(late.load(Ordering::SeqCst), 0, "attempts began although the worker was paused");
}

/// One group holds all that may run: nobody else's end gives back what it has not begun.
#[tokio::test(start_paused = true)]
async fn what_a_group_has_not_begun_is_given_back_when_one_of_it_asks_for_a_pause() {
    const AT_ONCE: usize = 8;
    const QUICK: u64 = 480;
    let world = World::new().await;
    let handler = Scripted(|attempt: Attempt| async move {
        match attempt.message.id.0 {
            id if id == QUICK + 1 => Err(Failure::Pause("410 Gone".into())),
            id if id == QUICK + 2 => std::future::pending().await,
            _ => Ok(Done),
        }
    });
    let policy = Policy { concurrency: AT_ONCE as u32, ..Policy::default() };
    let handle = world.start(policy, handler).await;
    for handled in (AT_ONCE as u64..=QUICK).step_by(AT_ONCE) {
        world.append(AT_ONCE).await;
        until_handled(&handle, handled).await;
    }
    world.append(AT_ONCE).await;
    until(&handle, |info| matches!(info.state, WorkerState::Paused { .. })).await;
    until(&handle, |info| info.consumer.unsettled == 1 && info.running.len() == 1).await;
    assert_eq!(handle.info().counters.handled, QUICK);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_may_be_as_long_as_one_likes() {
    let world = World::new().await;
    world.append(3).await;
    let policy = Policy { timeout: Duration::MAX, ..Policy::default() };
    let handle = world.start(policy, Scripted(|_| async { Ok(Done) })).await;
    let info = until_handled(&handle, 3).await;
    assert_eq!(info.counters.panicked, 0);
}
