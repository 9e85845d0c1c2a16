//! The suite of core's store and outages, on a real Redis.

use std::{pin::Pin, sync::Arc, time::Duration};

use outboard_core::{
    Health, Kind,
    conformance::store::StoreBackend,
    lease::Leases,
    store::{Change, Store, When, Write, next_change},
};
use outboard_testkit::{Certificates, Proxy, Redis, proxy::Mode};

use super::{RedisStore, RedisStoreOptions};

/// A server of one's own for each case.
struct Server(Redis);

impl Server {
    async fn start() -> Self {
        Self(Redis::start().expect("redis-server is installed"))
    }

    fn open(&self) -> RedisStore {
        RedisStore::open(&self.0.url(), RedisStoreOptions::default()).expect("it is a URL")
    }
}

impl StoreBackend for Server {
    fn open(&self) -> Pin<Box<dyn Future<Output = Arc<dyn Store>> + Send + '_>> {
        Box::pin(async { Arc::new(Server::open(self)) as Arc<dyn Store> })
    }

    fn close(&self, store: Arc<dyn Store>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async { drop(store) })
    }
}

mod suite {
    outboard_core::store_conformance!(crate::redis_store::tests::Server::start());
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this happens within 20 s")
}

fn set(key: &str, value: &str) -> Write {
    let (key, value) = (key.into(), value.to_owned().into());
    Write::Set { key, value, ttl: None, when: When::Always }
}

async fn text(store: &RedisStore, key: &str) -> Option<String> {
    let entry = store.get(vec![key.into()]).await.unwrap().remove(0);
    entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

#[tokio::test]
async fn prefixes_keep_apps_apart_and_what_is_not_ours_is_left_alone() {
    let server = Server::start().await;
    let options = |prefix: &str| RedisStoreOptions { prefix: prefix.into(), ..RedisStoreOptions::default() };
    let one = RedisStore::open(&server.0.url(), options("one:")).unwrap();
    let two = RedisStore::open(&server.0.url(), options("two:")).unwrap();
    let mut changes = one.watch("".into()).await.unwrap();
    two.write(vec![set("a", "two")]).await.unwrap().remove(0).unwrap();
    one.write(vec![set("b", "one")]).await.unwrap().remove(0).unwrap();
    assert_eq!(soon(next_change(&mut changes)).await, Some(Change::Key("b".into())));
    assert_eq!(text(&one, "a").await, None);
    let connection = one.connection().await.unwrap();
    let _: () = connection.query(redis::cmd("SET").arg("one:store:c").arg("theirs")).await.unwrap();
    let refused = one.write(vec![set("c", "ours"), set("d", "ours")]).await.unwrap();
    assert_eq!(refused[0].as_ref().unwrap_err().kind, Kind::Mismatch);
    assert_eq!(text(&one, "d").await.as_deref(), Some("ours"));
}

#[tokio::test]
async fn versions_grow_over_a_server_that_has_lost_everything() {
    let server = Server::start().await;
    let store = server.open();
    let before = store.write(vec![set("a", "one")]).await.unwrap().remove(0).unwrap();
    let mut changes = store.watch("a".into()).await.unwrap();
    let _: () = store.connection().await.unwrap().query(&redis::cmd("FLUSHALL")).await.unwrap();
    assert_eq!(soon(next_change(&mut changes)).await, Some(Change::Lost));
    let after = store.write(vec![set("a", "one")]).await.unwrap().remove(0).unwrap();
    assert!(after > before, "{after} came after {before}");
}

#[tokio::test]
async fn a_watcher_is_told_that_it_may_have_missed_something_and_goes_on() {
    let mut server = Server::start().await;
    let store = server.open();
    let mut changes = store.watch("".into()).await.unwrap();
    for round in 0..3 {
        store.write(vec![set("a", &round.to_string())]).await.unwrap().remove(0).unwrap();
        server.0.kill();
        while soon(next_change(&mut changes)).await.unwrap() != Change::Lost {}
        server.0.restart().unwrap();
        soon(store.health().wait_for(Health::is_ready)).await.unwrap();
        while text(&store, "a").await != Some(round.to_string()) {}
        // Told again, when changes are told again.
        while soon(next_change(&mut changes)).await.unwrap() != Change::Lost {}
        let other = server.open();
        soon(other.write(vec![set("b", "x")])).await.unwrap().remove(0).unwrap();
        while soon(next_change(&mut changes)).await.unwrap() != Change::Key("b".into()) {}
    }
}

#[tokio::test]
async fn a_lease_is_not_held_any_more_when_the_server_has_gone_silent() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.0.port()).await.unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let near: Arc<dyn Store> = Arc::new(RedisStore::open(&url, RedisStoreOptions::default()).unwrap());
    let ttl = Duration::from_millis(900);
    let held = Leases::new(near, "near", ttl).acquire("a").await.unwrap().unwrap();
    proxy.set(Mode::Silent);
    let others = Leases::new(Arc::new(server.open()), "next", ttl);
    let next = soon(others.wait("a")).await.unwrap();
    assert!(!held.is_held(), "it is somebody else's");
    soon(held.lost()).await;
    assert!(next.fence() > held.fence());
}

#[tokio::test]
async fn keys_changes_and_leases_go_over_tls_with_a_ca_of_ones_own() {
    let certificates = Certificates::usual();
    let server = Redis::secured(&certificates, "server").unwrap();
    let url = format!("rediss://localhost:{}/0?cacertfile={}", server.port(), certificates.path("ca.pem"));
    let open = || RedisStore::open(&url, RedisStoreOptions::default()).unwrap();
    let (store, other) = (Arc::new(open()), open());
    let mut changes = store.watch("a".into()).await.unwrap();
    other.write(vec![set("a", "one")]).await.unwrap().remove(0).unwrap();
    assert_eq!(soon(next_change(&mut changes)).await, Some(Change::Key("a".into())));
    assert_eq!(text(&store, "a").await.as_deref(), Some("one"));
    let held =
        soon(Leases::new(store, "near", Duration::from_secs(10)).acquire("lock")).await.unwrap().unwrap();
    assert!(held.is_held());
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let server = Server::start().await;
    let store = server.open();
    let mut changes = store.watch("".into()).await.unwrap();
    store.close();
    assert_eq!(store.get(vec!["a".into()]).await.unwrap_err().kind, Kind::Closed);
    assert_eq!(store.watch("".into()).await.unwrap_err().kind, Kind::Closed);
    while soon(next_change(&mut changes)).await.is_some() {}
    assert_eq!(RedisStore::open("http://x", RedisStoreOptions::default()).unwrap_err().kind, Kind::Invalid);
}
