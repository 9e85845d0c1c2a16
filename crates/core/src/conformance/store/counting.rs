//! Counters.

use futures_util::future::join_all;

use super::*;

const LONG: Duration = Duration::from_secs(1_000);

async fn add(store: &dyn Store, key: &str, delta: i64) -> Result<i64, PortError> {
    soon(store.add(key.into(), delta, None)).await
}

/// An absent counter begins at zero; a sum may be less than that.
pub async fn counters_add_up(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    assert_eq!(add(&*store, "n", 0).await.expect("it is added"), 0);
    assert_eq!(add(&*store, "n", 5).await.expect("it is added"), 5);
    assert_eq!(add(&*store, "n", -7).await.expect("it is added"), -2);
    assert_eq!(text(&*store, "n").await.as_deref(), Some("-2"));
    backend.close(store).await;
}

/// Each of many that add at the same time gets a sum of its own.
pub async fn fifty_that_add_lose_nothing(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let sums = join_all((0..50).map(|_| add(&*store, "n", 1))).await;
    let mut sums: Vec<i64> = sums.into_iter().map(|sum| sum.expect("it is added")).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=50).collect::<Vec<i64>>());
    backend.close(store).await;
}

/// A counter never wraps: what does not fit changes nothing.
pub async fn a_sum_that_does_not_fit_is_refused(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    for (edge, over) in [(i64::MAX, 1), (i64::MIN, -1)] {
        write(&*store, delete("n", When::Always)).await.expect("it is deleted");
        assert_eq!(add(&*store, "n", edge).await.expect("it fits"), edge);
        assert_eq!(kind(add(&*store, "n", over).await), Kind::Conflict);
        assert_eq!(text(&*store, "n").await, Some(edge.to_string()));
        assert_eq!(add(&*store, "n", -over).await.expect("it fits"), edge - over);
    }
    backend.close(store).await;
}

/// Nothing is added to what is no whole number.
pub async fn adding_to_something_else_is_refused(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    for value in ["", "x", "1.5", "1e3", " 1", "+1", "01", "-0", "9223372036854775808"] {
        write(&*store, set("n", value)).await.expect("it is set");
        assert_eq!(kind(add(&*store, "n", 1).await), Kind::Invalid, "{value:?}");
        assert_eq!(text(&*store, "n").await.as_deref(), Some(value));
    }
    backend.close(store).await;
}

/// A number that was set is a counter, too.
pub async fn a_number_that_was_set_counts(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    for (value, sum) in [("41", 42), ("-1", 0), ("0", 1)] {
        write(&*store, set("n", value)).await.expect("it is set");
        assert_eq!(add(&*store, "n", 1).await.expect("it is added"), sum);
    }
    backend.close(store).await;
}

/// Who wants to change what he has read sees that somebody counted meanwhile.
pub async fn counting_changes_the_version(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let version = write(&*store, set("n", "1")).await.expect("it is set");
    add(&*store, "n", 1).await.expect("it is added");
    assert_eq!(kind(write(&*store, set_when("n", "5", When::Version(version))).await), Kind::Conflict);
    let entry = get(&*store, "n").await.expect("it is there");
    assert!(entry.version > version);
    write(&*store, set_when("n", "5", When::Version(entry.version))).await.expect("it is that version");
    backend.close(store).await;
}

/// A time to live given with an addition counts from there, and the counter ends with it.
pub async fn a_counter_s_time_starts_anew(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    soon(store.add("n".into(), 1, Some(LONG))).await.expect("it is added");
    assert!(get(&*store, "n").await.expect("it is there").ttl.is_some());
    let mut changes = watch(&*store, "n").await;
    let short = Duration::from_millis(150);
    assert_eq!(soon(store.add("n".into(), 1, Some(short))).await.expect("it is added"), 2);
    while get(&*store, "n").await.is_some() {
        soon(next_change(&mut changes)).await.expect("the store is open");
    }
    assert_eq!(add(&*store, "n", 1).await.expect("it is added"), 1, "it begins again");
    assert_eq!(get(&*store, "n").await.expect("it is there").ttl, None);
    backend.close(store).await;
}

/// An addition without a time leaves the time that it has.
pub async fn a_counter_keeps_its_time(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    soon(store.add("n".into(), 1, Some(LONG))).await.expect("it is added");
    add(&*store, "n", 1).await.expect("it is added");
    let left = get(&*store, "n").await.expect("it is there").ttl.expect("it has a time");
    assert!(left <= LONG && left > LONG - Duration::from_secs(30), "{left:?}");
    backend.close(store).await;
}
