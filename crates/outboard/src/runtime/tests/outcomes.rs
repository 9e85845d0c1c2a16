//! What becomes of one attempt, and how many run at once.

use super::*;

#[tokio::test(start_paused = true)]
async fn at_most_concurrency_attempts_run_at_once() {
    let (world, seen) = (World::new().await, Seen::default());
    let of = seen.clone();
    let handler = Scripted(move |attempt: Attempt| {
        let running = of.begin(&attempt);
        async move {
            pass(10 * MS).await;
            drop(running);
            Ok(Done)
        }
    });
    world.append(500).await;
    let handle = world.start(Policy { concurrency: 7, ..Policy::default() }, handler).await;
    let info = until(&handle, |info| info.running.len() == 7).await;
    assert!(info.consumer.unsettled <= 14, "claims are bounded by twice the concurrency");
    until_handled(&handle, 500).await;
    assert_eq!(seen.most(), 7);
    assert_eq!(seen.attempts().len(), 500, "each message is handled once");
    assert!(handle.info().running.is_empty());
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_with_backoff_and_counted_until_they_are_dead() {
    let (world, seen) = (World::new().await, Seen::default());
    let of = seen.clone();
    let handler = Scripted(move |attempt: Attempt| {
        drop(of.begin(&attempt));
        async { Err(Failure::retry("the shop is closed")) }
    });
    let handle = world.start(Policy { attempts: 4, ..Policy::default() }, handler).await;
    let began = tokio::time::Instant::now();
    let first = world.append(1).await;
    until(&handle, |info| info.counters.dead == 1 && info.consumer.unsettled == 0).await;
    // 200, 400 and 800 ms, each by half at least.
    assert!(began.elapsed() >= 700 * MS && began.elapsed() <= 1_500 * MS, "{:?}", began.elapsed());
    assert_eq!(seen.numbers_of(first), [1, 2, 3, 4]);
    let dead = world.dead().await;
    assert_eq!(&*dead[0].reason, "given up after 4 attempts; the last one said: the shop is closed");
    assert_eq!(dead[0].attempts, 4);
    assert_eq!(handle.info().counters.retried, 3);
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_say_when_it_is_tried_again() {
    let (world, seen) = (World::new().await, Seen::default());
    let of = seen.clone();
    let handler = Scripted(move |attempt: Attempt| {
        drop(of.begin(&attempt));
        async move { if attempt.number == 1 { Err(Failure::retry_after(60 * SECOND, "busy")) } else { Ok(Done) } }
    });
    let handle = world.start(Policy::default(), handler).await;
    let began = tokio::time::Instant::now();
    world.append(1).await;
    until_handled(&handle, 1).await;
    assert!(began.elapsed() >= 60 * SECOND && began.elapsed() < 61 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_panic_hits_one_message_and_is_found_with_its_text() {
    let world = World::new().await;
    let first = world.append(50).await;
    let handler = Scripted(move |attempt: Attempt| {
        // The first panics in the call, the second in the future.
        assert!(attempt.message.id.0 != first, "broken at once");
        async move {
            assert!(attempt.message.id.0 != first + 1, "broken later");
            Ok(Done)
        }
    });
    let handle = world.start(Policy { attempts: 2, ..Policy::default() }, handler).await;
    let info = until(&handle, |info| info.counters.dead == 2 && info.consumer.unsettled == 0).await;
    assert_eq!((info.counters.handled, info.counters.panicked), (48, 4));
    let mut dead = world.dead().await;
    dead.sort_by_key(|letter| letter.message_id);
    let reasons: Vec<_> = dead.iter().map(|letter| letter.reason.to_string()).collect();
    assert!(reasons[0].ends_with("the last one said: panicked: broken at once"), "{reasons:?}");
    assert!(reasons[1].ends_with("the last one said: panicked: broken later"), "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_dropped_at_the_timeout_and_hits_one_message() {
    let (world, seen) = (World::new().await, Seen::default());
    let of = seen.clone();
    let first = world.append(50).await;
    let handler = Scripted(move |attempt: Attempt| {
        let running = of.begin(&attempt);
        async move {
            if attempt.message.id.0 == first && attempt.number == 1 {
                std::future::pending::<()>().await;
            }
            drop(running);
            Ok(Done)
        }
    });
    let policy = Policy { timeout: 2 * SECOND, ..Policy::default() };
    let handle = world.start(policy, handler).await;
    let began = tokio::time::Instant::now();
    until(&handle, |info| info.counters.handled == 49).await;
    assert!(began.elapsed() < SECOND, "the others do not wait");
    let info = until_handled(&handle, 50).await;
    assert!(began.elapsed() < 3 * SECOND);
    assert_eq!(info.counters.timed_out, 1);
    assert_eq!(seen.numbers_of(first), [1, 2]);
    assert_eq!(seen.running.load(Ordering::SeqCst), 0, "the hanging attempt was dropped");
}

#[tokio::test(start_paused = true)]
async fn snoozed_is_not_counted_cancelled_leaves_nothing_and_dead_is_a_letter() {
    let (world, seen) = (World::new().await, Seen::default());
    let of = seen.clone();
    let first = world.append(3).await;
    let handler = Scripted(move |attempt: Attempt| {
        let earlier = of.numbers_of(attempt.message.id.0).len();
        drop(of.begin(&attempt));
        async move {
            match attempt.message.id.0 - first {
                0 if earlier < 2 => Err(Failure::Snooze(10 * SECOND)),
                0 => Ok(Done),
                1 => Err(Failure::Cancel("not wanted any more".into())),
                _ => Err(Failure::dead("no such order")),
            }
        }
    });
    let handle = world.start(Policy::default(), handler).await;
    let began = tokio::time::Instant::now();
    let info = until_handled(&handle, 1).await;
    assert!(began.elapsed() >= 20 * SECOND);
    assert_eq!(seen.numbers_of(first), [1, 1, 1], "a snooze is no attempt");
    let counters = info.counters;
    assert_eq!((counters.snoozed, counters.cancelled, counters.dead, counters.retried), (2, 1, 1, 0));
    assert_eq!(world.fate(first + 1).await, Fate::Done);
    let Fate::Dead(letter) = world.fate(first + 2).await else { panic!("it is a dead letter") };
    assert_eq!(&*letter.reason, "no such order");
    assert_eq!(world.dead().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_comes_through_on_retry() {
    let world = World::new().await;
    let is_mended = Arc::new(AtomicUsize::new(0));
    let mended = is_mended.clone();
    let handler = Scripted(move |_| {
        let is_mended = mended.load(Ordering::SeqCst) > 0;
        async move { if is_mended { Ok(Done) } else { Err(Failure::dead("broken")) } }
    });
    let handle = world.start(Policy::default(), handler).await;
    world.append(1).await;
    until(&handle, |info| info.counters.dead == 1 && info.consumer.unsettled == 0).await;
    is_mended.store(1, Ordering::SeqCst);
    let letter = world.dead().await.swap_remove(0);
    world.storage.revive(letter.id).await.unwrap();
    until_handled(&handle, 1).await;
    assert!(world.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn specifications_that_cannot_run_are_refused() {
    let world = World::new().await;
    let done = || Scripted(|_| async { Ok(Done) });
    let sick = |outage| Policy { outage: Some(outage), ..Policy::default() };
    for policy in [
        Policy { concurrency: 0, ..Policy::default() },
        Policy { concurrency: 1_000_000, ..Policy::default() },
        Policy { attempts: 0, ..Policy::default() },
        Policy { timeout: Duration::ZERO, ..Policy::default() },
        sick(OutagePolicy { failures: 0, ..OutagePolicy::default() }),
        sick(OutagePolicy { probe_every: Duration::ZERO, ..OutagePolicy::default() }),
    ] {
        let error = world.workers.start(spec(policy, done())).await.unwrap_err();
        assert_eq!(error.kind, outboard_core::Kind::Invalid, "{error}");
    }
    let handle = world.start(Policy::default(), done()).await;
    let error = world.workers.start(spec(Policy::default(), done())).await.unwrap_err();
    assert_eq!(error.kind, outboard_core::Kind::Invalid);
    assert!(error.message.contains("`orders`"));
    handle.drain(tokio::time::Instant::now()).await.unwrap();
    world.start(Policy::default(), done()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_compute_use_several_cores() {
    let world = World::new().await;
    world.append(2).await;
    let meeting = Arc::new(std::sync::Barrier::new(2));
    // Neither lets go of its thread before the other has come: alone on one thread they would wait for ever.
    let handler = Scripted(move |_| {
        meeting.wait();
        async { Ok(Done) }
    });
    let handle = world.start(Policy { concurrency: 2, ..Policy::default() }, handler).await;
    while handle.info().counters.handled < 2 {
        tokio::task::yield_now().await;
    }
}
