//! Times to live. What waits for an expiry waits until it is told, never for a time.

use super::*;
use crate::store::MAX_BATCH;

/// Long enough that nothing expires in a test.
const LONG: Duration = Duration::from_secs(1_000);

/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(150);

async fn ttl(store: &dyn Store, key: &str) -> Option<Duration> {
    get(store, key).await.expect("it is there").ttl
}

/// Who reads a value sees how long it still lives.
pub async fn a_time_to_live_is_told(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    write(&*store, set_for("a", "one", LONG)).await.expect("it is set");
    let left = ttl(&*store, "a").await.expect("it does not live for ever");
    assert!(left <= LONG && left > LONG - Duration::from_secs(30), "{left:?}");
    let forever = Duration::MAX;
    write(&*store, set_for("a", "one", forever)).await.expect("a very long time is a time");
    assert!(ttl(&*store, "a").await.is_none_or(|left| left > LONG));
    backend.close(store).await;
}

/// What has expired is gone, and watchers are told without anybody asking for it.
pub async fn what_has_expired_is_gone_and_told(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let mut changes = watch(&*store, "a").await;
    let began = std::time::Instant::now();
    write(&*store, set_for("a", "one", SHORT)).await.expect("it is set");
    write(&*store, set_for("b", "one", LONG)).await.expect("it is set");
    told_of(&mut changes, "a").await;
    assert_eq!(text(&*store, "a").await.as_deref(), Some("one"), "this was told of the set");
    told_of(&mut changes, "a").await;
    assert_eq!(get(&*store, "a").await, None);
    // Redis says for milliseconds that are not over yet that they are.
    assert!(began.elapsed() + Duration::from_millis(5) >= SHORT, "{:?}", began.elapsed());
    assert_eq!(text(&*store, "b").await.as_deref(), Some("one"));
    backend.close(store).await;
}

/// After the expiry it is as if it had never been there.
pub async fn an_expired_key_counts_as_absent(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let version = expired(&*store, "a").await;
    assert_eq!(kind(write(&*store, set_when("a", "two", When::Version(version))).await), Kind::Conflict);
    assert_eq!(kind(write(&*store, delete("a", When::Version(version))).await), Kind::Conflict);
    write(&*store, set_when("a", "two", When::Absent)).await.expect("it is absent");
    assert_eq!(ttl(&*store, "a").await, None, "the new one lives for ever");
    backend.close(store).await;
}

/// Sets a key and waits for its expiry; the version that it had.
async fn expired(store: &dyn Store, key: &str) -> Version {
    let version = write(store, set_for(key, "7", SHORT)).await.expect("it is set");
    let mut changes = watch(store, key).await;
    while get(store, key).await.is_some() {
        soon(next_change(&mut changes)).await.expect("the store is open");
    }
    version
}

/// An expiry gives no version back.
pub async fn versions_outlive_expiry(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let before = expired(&*store, "a").await;
    let after = write(&*store, set("a", "two")).await.expect("it is set");
    assert!(after > before, "{after} came after {before}");
    backend.close(store).await;
}

/// A set without a time takes the old time away.
pub async fn a_set_without_a_time_lives_for_ever(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    write(&*store, set_for("a", "one", SHORT)).await.expect("it is set");
    write(&*store, set("a", "two")).await.expect("it is set");
    assert_eq!(ttl(&*store, "a").await, None);
    expired(&*store, "b").await;
    assert_eq!(text(&*store, "a").await.as_deref(), Some("two"));
    backend.close(store).await;
}

/// A lease is renewed by setting it again.
pub async fn a_set_starts_the_time_anew(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let version = write(&*store, set_for("a", "one", SHORT)).await.expect("it is set");
    let (key, value) = ("a".into(), "one".into());
    let renew = Write::Set { key, value, ttl: Some(LONG), when: When::Version(version) };
    write(&*store, renew).await.expect("it is renewed");
    expired(&*store, "b").await;
    assert_eq!(text(&*store, "a").await.as_deref(), Some("one"));
    backend.close(store).await;
}

/// A time of zero is a mistake, and leaves what was there.
pub async fn a_time_to_live_of_zero_is_refused(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    write(&*store, set("a", "1")).await.expect("it is set");
    assert_eq!(kind(write(&*store, set_for("a", "2", Duration::ZERO)).await), Kind::Invalid);
    assert_eq!(kind(soon(store.add("a".into(), 1, Some(Duration::ZERO))).await), Kind::Invalid);
    assert_eq!(text(&*store, "a").await.as_deref(), Some("1"));
    write(&*store, set_for("a", "2", Duration::from_nanos(1))).await.expect("a short time is a time");
    backend.close(store).await;
}

/// The time goes on while nobody has it open, and what has expired is not there afterwards.
pub async fn what_expires_survives_reopening(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    write(&*store, set_for("a", "one", LONG)).await.expect("it is set");
    let expired = expired(&*store, "b").await;
    write(&*store, set_for("b", "two", SHORT)).await.expect("it is set");
    backend.close(store).await;
    let store = backend.open().await;
    assert!(ttl(&*store, "a").await.expect("it does not live for ever") <= LONG);
    let mut changes = watch(&*store, "b").await;
    while let Some(entry) = get(&*store, "b").await {
        assert!(entry.version > expired);
        soon(next_change(&mut changes)).await.expect("the store is open");
    }
    backend.close(store).await;
}

/// However many expire at once, all do.
pub async fn many_expire_together(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let mut changes = watch(&*store, "many/").await;
    let keys: Vec<String> = (0..MAX_BATCH).map(|number| format!("many/{number}")).collect();
    let writes = keys.iter().map(|key| set_for(key, "one", SHORT)).collect();
    assert!(soon(store.write(writes)).await.expect("the store answers").iter().all(Result::is_ok));
    let all: Vec<StoreKey> = keys.iter().map(|key| key.as_str().into()).collect();
    while soon(store.get(all.clone())).await.expect("the store answers").iter().any(Option::is_some) {
        soon(next_change(&mut changes)).await.expect("the store is open");
    }
    backend.close(store).await;
}
