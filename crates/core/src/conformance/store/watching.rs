//! Being told of changes.

use super::*;
use crate::store::MAX_BATCH;

/// Sets, deletions and additions are told, those of other keys are not.
pub async fn a_watcher_is_told_of_its_prefix(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let (mut shop, mut other) = (watch(&*store, "shop/").await, watch(&*store, "other/").await);
    write(&*store, set("shop", "no")).await.expect("it is set");
    write(&*store, set("other/1", "yes")).await.expect("it is set");
    write(&*store, set("shop/1", "yes")).await.expect("it is set");
    told_only(&mut shop, "shop/1").await;
    write(&*store, delete("shop/1", When::Always)).await.expect("it is deleted");
    told_only(&mut shop, "shop/1").await;
    soon(store.add("shop/2".into(), 1, None)).await.expect("it is added");
    told_only(&mut shop, "shop/2").await;
    told_only(&mut other, "other/1").await;
    backend.close(store).await;
}

/// The next word is of this key; a word may come twice, never of another key.
async fn told_only(changes: &mut broadcast::Receiver<Change>, key: &str) {
    let change = soon(next_change(changes)).await.expect("the store is open");
    assert_eq!(change, Change::Key(key.into()));
}

/// A watcher sees what another handle does, as far as the backend is shared.
pub async fn a_watcher_is_told_of_everybody_s_changes(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let other = if store.capabilities().shared { backend.open().await } else { store.clone() };
    let mut changes = watch(&*store, "").await;
    write(&*other, set("a", "one")).await.expect("it is set");
    told_of(&mut changes, "a").await;
    assert_eq!(text(&*store, "a").await.as_deref(), Some("one"));
    if store.capabilities().shared {
        backend.close(other).await;
    }
    backend.close(store).await;
}

/// Who is told of a change and looks sees it.
pub async fn a_change_is_told_after_it_happened(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let mut changes = watch(&*store, "n").await;
    for round in 1..=20 {
        let adding = soon(store.add("n".into(), 1, None));
        let telling = async {
            told_of(&mut changes, "n").await;
            assert_eq!(text(&*store, "n").await, Some(round.to_string()));
        };
        assert_eq!(tokio::join!(adding, telling).0.expect("it is added"), round);
    }
    backend.close(store).await;
}

/// A watcher that does not listen keeps nothing waiting, and learns that it missed something.
pub async fn who_lags_is_told_so(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let (mut fast, mut slow) = (watch(&*store, "").await, watch(&*store, "").await);
    for round in 0..5 {
        let writes = (0..MAX_BATCH).map(|number| set(&format!("{round}/{number}"), "one")).collect();
        assert!(soon(store.write(writes)).await.expect("the store answers").iter().all(Result::is_ok));
    }
    write(&*store, set("last", "one")).await.expect("it is set");
    told_of(&mut fast, "last").await;
    assert_eq!(soon(next_change(&mut slow)).await, Some(Change::Lost));
    told_of(&mut slow, "last").await;
    backend.close(store).await;
}

/// The empty prefix is that of every key.
pub async fn an_empty_prefix_is_everything(backend: &dyn StoreBackend) {
    let store = backend.open().await;
    let mut changes = watch(&*store, "").await;
    for key in ["a", "ä/1", "z"] {
        write(&*store, set(key, "one")).await.expect("it is set");
        told_of(&mut changes, key).await;
    }
    backend.close(store).await;
}
