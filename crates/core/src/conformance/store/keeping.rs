//! Values, conditions and versions.

use bytes::Bytes;
use futures_util::future::join_all;

use super::*;
use crate::store::{MAX_BATCH, MAX_KEY_BYTES};

/// A value is read as it was set, by whoever asks.
pub async fn what_was_set_is_there(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    assert_eq!(get(&*store, "a").await, None);
    let version = write(&*store, set("a", "one")).await.expect("it is set");
    let entry = get(&*store, "a").await.expect("it is there");
    assert_eq!(entry, Entry { value: "one".into(), version, ttl: None });
    write(&*store, set("a", "two")).await.expect("it is set again");
    assert_eq!(text(&*store, "a").await.as_deref(), Some("two"));
    backend.close(store).await;
}

/// A deletion takes one key; an absent one counts as deleted.
pub async fn what_was_deleted_is_gone(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    write(&*store, set("a", "one")).await.expect("it is set");
    write(&*store, set("b", "two")).await.expect("it is set");
    assert_eq!(kind(write(&*store, delete("a", When::Absent)).await), Kind::Conflict);
    for _ in 0..2 {
        write(&*store, delete("a", When::Always)).await.expect("it is deleted");
        assert_eq!(get(&*store, "a").await, None);
    }
    write(&*store, delete("a", When::Absent)).await.expect("what is absent is deleted");
    assert_eq!(kind(write(&*store, delete("a", When::Version(1))).await), Kind::Conflict);
    assert_eq!(text(&*store, "b").await.as_deref(), Some("two"));
    backend.close(store).await;
}

/// Values come in the order asked, a key asked twice comes twice.
pub async fn answers_come_in_the_order_asked(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let writes = ["c", "a", "b"].map(|key| set(key, key));
    let versions = soon(store.write(writes.into())).await.expect("the store answers");
    let versions: Vec<Version> = versions.into_iter().map(|version| version.expect("it is set")).collect();
    assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
    let asked = ["b", "nothing", "a", "b", "c"].map(StoreKey::from);
    let found = soon(store.get(asked.into())).await.expect("the store answers");
    let found: Vec<_> = found.into_iter().map(|entry| entry.map(|entry| entry.value)).collect();
    let expected = [Some("b"), None, Some("a"), Some("b"), Some("c")];
    assert_eq!(found, expected.map(|value| value.map(Bytes::from)));
    assert_eq!(soon(store.get(Vec::new())).await.expect("the store answers"), []);
    backend.close(store).await;
}

/// `Absent` holds for an absent key only.
pub async fn an_absent_key_is_set_once(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    write(&*store, set_when("a", "one", When::Absent)).await.expect("it was absent");
    assert_eq!(kind(write(&*store, set_when("a", "two", When::Absent)).await), Kind::Conflict);
    assert_eq!(text(&*store, "a").await.as_deref(), Some("one"));
    write(&*store, delete("a", When::Always)).await.expect("it is deleted");
    write(&*store, set_when("a", "three", When::Absent)).await.expect("it is absent again");
    backend.close(store).await;
}

/// `Version` holds for this version only, and for no absent key.
pub async fn a_version_is_changed_once(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    assert_eq!(kind(write(&*store, set_when("a", "one", When::Version(0))).await), Kind::Conflict);
    let first = write(&*store, set("a", "one")).await.expect("it is set");
    let second =
        write(&*store, set_when("a", "two", When::Version(first))).await.expect("it is that version");
    assert!(second > first);
    assert_eq!(kind(write(&*store, set_when("a", "three", When::Version(first))).await), Kind::Conflict);
    assert_eq!(kind(write(&*store, delete("a", When::Version(first))).await), Kind::Conflict);
    assert_eq!(text(&*store, "a").await.as_deref(), Some("two"));
    write(&*store, delete("a", When::Version(second))).await.expect("it is that version");
    assert_eq!(get(&*store, "a").await, None);
    backend.close(store).await;
}

async fn race(store: &Arc<dyn Store>, when: When) {
    let contend = |number: usize| {
        let store = store.clone();
        async move { write(&*store, set_when("a", &number.to_string(), when)).await }
    };
    let results = join_all((0..50).map(contend)).await;
    let winners: Vec<usize> = (0..50).filter(|&number| results[number].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert!(results.into_iter().filter_map(Result::err).all(|error| error.kind == Kind::Conflict));
    assert_eq!(text(&**store, "a").await, Some(winners[0].to_string()));
}

/// Of many that set an absent key, one does.
pub async fn of_fifty_that_want_it_absent_one_wins(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    for _ in 0..5 {
        race(&store, When::Absent).await;
        write(&*store, delete("a", When::Always)).await.expect("it is deleted");
    }
    backend.close(store).await;
}

/// Of many that change what they have read, one does.
pub async fn of_fifty_that_change_a_version_one_wins(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let version = write(&*store, set("a", "begin")).await.expect("it is set");
    race(&store, When::Version(version)).await;
    backend.close(store).await;
}

/// Each write of a call is by itself done or refused.
pub async fn one_refused_write_leaves_the_others_alone(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let too_long = "k".repeat(MAX_KEY_BYTES + 1);
    let writes = vec![
        set("a", "one"),
        set_when("b", "two", When::Version(7)),
        set(&too_long, "three"),
        set("c", "four"),
    ];
    let results = soon(store.write(writes)).await.expect("the store answers");
    let results: Vec<_> = results.into_iter().map(|result| result.map_err(|error| error.kind)).collect();
    assert!(matches!(results[..], [Ok(_), Err(Kind::Conflict), Err(Kind::Invalid), Ok(_)]), "{results:?}");
    assert_eq!(text(&*store, "c").await.as_deref(), Some("four"));
    assert_eq!(get(&*store, "b").await, None);
    backend.close(store).await;
}

/// The writes of a call happen in order.
pub async fn a_later_write_sees_an_earlier_one(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let writes = vec![
        set_when("a", "one", When::Absent),
        set_when("a", "two", When::Absent),
        delete("a", When::Always),
        set_when("a", "three", When::Absent),
    ];
    let results = soon(store.write(writes)).await.expect("the store answers");
    let done: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(done, [true, false, true, true]);
    assert_eq!(text(&*store, "a").await.as_deref(), Some("three"));
    backend.close(store).await;
}

/// A version grows with every write of its key.
pub async fn versions_never_come_again(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let mut last = 0;
    for round in 0..20 {
        let version = write(&*store, set("a", "same")).await.expect("it is set");
        assert!(version > last, "{version} came after {last}");
        last = version;
        if round % 3 == 0 {
            write(&*store, delete("a", When::Version(version))).await.expect("it is deleted");
        }
    }
    backend.close(store).await;
}

/// Whoever deleted a key and came back cannot be mistaken for who had it before.
pub async fn versions_outlive_a_deletion_and_a_restart(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let before = write(&*store, set("a", "one")).await.expect("it is set");
    write(&*store, delete("a", When::Always)).await.expect("it is deleted");
    backend.close(store).await;
    let store = backend.open().await;
    let after = write(&*store, set("a", "one")).await.expect("it is set");
    assert!(after > before, "{after} came after {before}");
    assert_eq!(kind(write(&*store, set_when("a", "two", When::Version(before))).await), Kind::Conflict);
    backend.close(store).await;
}

/// A value is any bytes, none at all included.
pub async fn every_byte_comes_back(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let all: Bytes = (0..=255).collect();
    for value in [Bytes::new(), all, Bytes::from_static(b"\r\n$-1\r\n")] {
        let set = Write::Set { key: "a".into(), value: value.clone(), ttl: None, when: When::Always };
        write(&*store, set).await.expect("it is set");
        assert_eq!(get(&*store, "a").await.expect("it is there").value, value);
    }
    backend.close(store).await;
}

/// Keys are told apart by their bytes.
pub async fn unicode_keys_are_kept_apart(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let keys = ["ä", "a\u{308}", "A", "a", "日本", "🚤", "a b", "a\0b", "a%b", "a*", "{a}", "\u{2028}"];
    for key in keys {
        write(&*store, set_when(key, key, When::Absent)).await.expect("no other key is this one");
    }
    for key in keys {
        assert_eq!(text(&*store, key).await.as_deref(), Some(key));
    }
    backend.close(store).await;
}

/// Limits are said, not found out.
pub async fn what_is_too_large_is_refused(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let longest = "k".repeat(MAX_KEY_BYTES);
    let max = store.capabilities().max_value;
    let largest = "v".repeat(max);
    write(&*store, set(&longest, &largest)).await.expect("it is not too large");
    assert_eq!(get(&*store, &longest).await.expect("it is there").value.len(), max);
    let too_long = format!("{longest}k");
    assert_eq!(kind(write(&*store, set("a", &format!("{largest}v"))).await), Kind::Invalid);
    for key in ["", &too_long] {
        assert_eq!(kind(write(&*store, set(key, "v")).await), Kind::Invalid);
        assert_eq!(kind(write(&*store, delete(key, When::Always)).await), Kind::Invalid);
        assert_eq!(kind(soon(store.get(vec![key.into()])).await), Kind::Invalid);
        assert_eq!(kind(soon(store.add(key.into(), 1, None)).await), Kind::Invalid);
    }
    let many = vec![StoreKey::from("a"); MAX_BATCH + 1];
    assert_eq!(kind(soon(store.get(many)).await), Kind::Invalid);
    assert_eq!(kind(soon(store.write(vec![set("a", "v"); MAX_BATCH + 1])).await), Kind::Invalid);
    assert_eq!(get(&*store, "a").await, None);
    backend.close(store).await;
}

/// Many keys are as good as few.
pub async fn ten_thousand_keys_are_kept(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let numbers: Vec<usize> = (0..10_000).collect();
    for numbers in numbers.chunks(MAX_BATCH) {
        let writes = numbers.iter().map(|number| set(&format!("key/{number}"), &number.to_string()));
        let results = soon(store.write(writes.collect())).await.expect("the store answers");
        assert!(results.iter().all(Result::is_ok));
    }
    for numbers in numbers.chunks(MAX_BATCH) {
        let keys = numbers.iter().map(|number| format!("key/{number}").into()).collect();
        let found = soon(store.get(keys)).await.expect("the store answers");
        for (number, entry) in numbers.iter().zip(found) {
            assert_eq!(entry.expect("it is there").value, number.to_string());
        }
    }
    backend.close(store).await;
}

/// What was answered is kept.
pub async fn what_was_set_survives_reopening(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let version = write(&*store, set("a", "one")).await.expect("it is set");
    soon(store.add("n".into(), 41, None)).await.expect("it is added");
    backend.close(store).await;
    let store = backend.open().await;
    let entry = get(&*store, "a").await.expect("it is there still");
    assert_eq!((&*entry.value, entry.version), (&b"one"[..], version));
    assert_eq!(soon(store.add("n".into(), 1, None)).await.expect("it is added"), 42);
    backend.close(store).await;
}
