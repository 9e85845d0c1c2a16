//! Periodic work.

use tokio::time::Instant;

use super::*;
use crate::periodic::{Periodic, PeriodicInfo};

fn idle() -> impl Handler {
    Scripted(|_| async { Ok(Done) })
}

async fn start_with(world: &World, periodic: Periodic) -> WorkerHandle {
    let spec = WorkerSpec { periodic: vec![periodic], ..spec(Policy::default(), idle()) };
    world.workers.start(spec).await.unwrap()
}

fn info_of(handle: &WorkerHandle) -> PeriodicInfo {
    handle.info().periodic.swap_remove(0)
}

#[tokio::test(start_paused = true)]
async fn it_runs_first_after_one_interval_and_goes_on_without_messages() {
    let world = World::new().await;
    let began = Instant::now();
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = times.clone();
    let work = move || {
        noted.lock().unwrap().push(began.elapsed().as_secs());
        async { Ok(()) }
    };
    let handle = start_with(&world, Periodic::new("sweep", 60 * SECOND, work)).await;
    pass(200 * SECOND).await;
    assert_eq!(*times.lock().unwrap(), [60, 120, 180]);
    assert_eq!((info_of(&handle).runs, info_of(&handle).failures), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn it_never_overlaps_itself() {
    let (world, running) = (World::new().await, Arc::new(AtomicUsize::new(0)));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (running.clone(), most.clone());
    let work = move || {
        let (now, peak) = (now.clone(), peak.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            pass(150 * SECOND).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    };
    let handle = start_with(&world, Periodic::new("sweep", 60 * SECOND, work)).await;
    // It begins at 60 and ends at 210; what that missed is skipped, so it begins again at 240 and ends at 390.
    pass(400 * SECOND).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert_eq!(info_of(&handle).runs, 2);
}

#[tokio::test(start_paused = true)]
async fn errors_and_panics_are_counted_and_do_not_end_it() {
    let (world, round) = (World::new().await, AtomicU64::new(0));
    let work = move || {
        let round = round.fetch_add(1, Ordering::SeqCst);
        assert!(round != 1, "broken");
        async move { if round == 0 { Err("no shelf".to_owned()) } else { Ok(()) } }
    };
    let handle = start_with(&world, Periodic::new("sweep", SECOND, work)).await;
    pass(1_500 * MS).await;
    assert_eq!(info_of(&handle).last_error.as_deref(), Some("no shelf"));
    pass(3 * SECOND).await;
    let info = info_of(&handle);
    assert_eq!((info.runs, info.failures), (4, 2));
    assert_eq!(info.last_error.as_deref(), Some("panicked: broken"));
}

#[tokio::test(start_paused = true)]
async fn it_rests_while_the_worker_is_paused_and_ends_with_it() {
    let (world, runs) = (World::new().await, Arc::new(AtomicU64::new(0)));
    let counted = runs.clone();
    let work = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    };
    let handle = start_with(&world, Periodic::new("sweep", SECOND, work)).await;
    pass(2_500 * MS).await;
    handle.pause(None).await.unwrap();
    pass(60 * SECOND).await;
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    handle.resume().await.unwrap();
    pass(1_500 * MS).await;
    assert!(runs.load(Ordering::SeqCst) > 2);
    handle.drain(Instant::now() + SECOND).await.unwrap();
    let at_the_end = runs.load(Ordering::SeqCst);
    pass(60 * SECOND).await;
    assert_eq!(runs.load(Ordering::SeqCst), at_the_end);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_run_until_the_deadline() {
    for (takes, expected) in [(5 * SECOND, 4_500 * MS), (100 * SECOND, 10 * SECOND)] {
        let world = World::new().await;
        let work = move || async move {
            pass(takes).await;
            Ok(())
        };
        let handle = start_with(&world, Periodic::new("sweep", SECOND, work)).await;
        pass(1_500 * MS).await;
        let began = Instant::now();
        handle.drain(began + 10 * SECOND).await.unwrap();
        assert_eq!(began.elapsed(), expected);
    }
}
