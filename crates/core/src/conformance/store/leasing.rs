//! Leases, on any store.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use futures_util::future::join_all;

use super::*;
use crate::lease::Leases;

/// Long enough that nothing expires in a test.
const LONG: Duration = Duration::from_secs(1_000);

const SHORT: Duration = Duration::from_millis(600);

fn leases(store: &Arc<dyn Store>, holder: &str, ttl: Duration) -> Leases {
    Leases::new(store.clone(), holder, ttl)
}

/// Who comes second does not get it, until it is given back; the fence grows.
pub async fn a_lease_has_one_holder(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let (one, two) = (leases(&store, "one", LONG), leases(&store, "two", LONG));
    let first = soon(one.acquire("a")).await.expect("the store answers").expect("nobody has it");
    assert!(first.is_held());
    for leases in [&one, &two] {
        assert!(soon(leases.acquire("a")).await.expect("the store answers").is_none());
    }
    let other = soon(two.acquire("ab")).await.expect("the store answers").expect("it is another one");
    let fence = first.fence();
    soon(first.release()).await;
    let second = soon(two.acquire("a")).await.expect("the store answers").expect("it was given back");
    assert!(second.fence() > fence, "{} came after {fence}", second.fence());
    assert!(other.is_held());
    backend.close(store).await;
}

/// A holder that lives keeps it for longer than its time.
pub async fn a_living_holder_keeps_it(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let held = soon(leases(&store, "one", SHORT).acquire("a"))
        .await
        .expect("the store answers")
        .expect("it is free");
    let fence = held.fence();
    let two = leases(&store, "two", SHORT);
    assert!(tokio::time::timeout(3 * SHORT, two.wait("a")).await.is_err());
    assert!(held.is_held());
    assert_eq!(held.fence(), fence);
    soon(held.release()).await;
    soon(two.wait("a")).await.expect("it was given back");
    backend.close(store).await;
}

/// A holder that does not renew is followed when its time is over, not before.
pub async fn a_dead_holder_is_followed(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let dead = write(&*store, set_for(&Leases::key("a"), "dead", SHORT)).await.expect("it is set");
    let began = std::time::Instant::now();
    let lease = soon(leases(&store, "two", LONG).wait("a")).await.expect("its time is over");
    let took = began.elapsed();
    assert!(took + SHORT / 2 >= SHORT && took < SHORT + Duration::from_secs(5), "{took:?}");
    assert!(lease.fence() > dead);
    backend.close(store).await;
}

/// Each of many that wait gets it, one after the other.
pub async fn many_wait_and_each_has_it_alone(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let (inside, fences) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    join_all((0..20).map(|number| {
        let leases = leases(&store, &number.to_string(), LONG);
        let (inside, fences) = (&inside, &fences);
        async move {
            let lease = soon(leases.wait("a")).await.expect("its turn comes");
            assert_eq!(inside.fetch_add(1, SeqCst), 0, "somebody else has it");
            fences.lock().expect("no test panics here").push(lease.fence());
            tokio::task::yield_now().await;
            assert!(lease.is_held());
            inside.fetch_sub(1, SeqCst);
            soon(lease.release()).await;
        }
    }))
    .await;
    let fences = fences.into_inner().expect("no test panics here");
    assert_eq!(fences.len(), 20);
    assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
    backend.close(store).await;
}

/// Whose lease was taken away learns it with the next renewal, and does not take it back.
pub async fn what_was_taken_away_is_lost(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let held = soon(leases(&store, "one", SHORT).acquire("a"))
        .await
        .expect("the store answers")
        .expect("it is free");
    write(&*store, set(&Leases::key("a"), "another")).await.expect("it is set");
    soon(held.lost()).await;
    assert!(!held.is_held());
    soon(held.release()).await;
    assert_eq!(text(&*store, &Leases::key("a")).await.as_deref(), Some("another"));
    backend.close(store).await;
}

/// A lease that is dropped, and one whose taking was dropped, are given back.
pub async fn what_is_dropped_is_given_back(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let (one, two) = (leases(&store, "one", LONG), leases(&store, "two", LONG));
    drop(soon(one.acquire("a")).await.expect("the store answers").expect("it is free"));
    let held = soon(two.wait("a")).await.expect("it was given back");
    soon(held.release()).await;
    for _ in 0..10 {
        let mut acquiring = Box::pin(one.acquire("a"));
        // Sent, and not waited for.
        assert!(futures_util::poll!(&mut acquiring).is_pending());
        drop(acquiring);
    }
    let held = soon(two.wait("a")).await.expect("whatever was taken was given back");
    soon(held.release()).await;
    backend.close(store).await;
}
