//! The link against real servers.

use std::{sync::Arc, time::Duration};

use outboard_core::{Health, Kind, time::system_clock};
use outboard_testkit::{Certificates, Proxy, Redis, Refusal, proxy::Mode};
use redis::cmd;
use tokio::{sync::watch, time::Instant};

use super::{Link, Target};

fn link(url: &str) -> Link {
    Link::start(url.parse::<Target>().unwrap(), system_clock(), None)
}

async fn until(health: &mut watch::Receiver<Health>, wanted: impl FnMut(&Health) -> bool) -> Health {
    health.wait_for(wanted).await.unwrap().clone()
}

async fn refusal(link: &Link) -> outboard_core::PortError {
    let tried =
        |health: &Health| !health.is_ready() && !health.error().unwrap().message.starts_with("connecting");
    until(&mut link.health(), tried).await.error().unwrap().clone()
}

#[tokio::test]
async fn the_link_is_there_again_after_the_server_was_killed() {
    let mut server = Redis::start().unwrap();
    let link = link(&server.url());
    let mut health = link.health();
    for _ in 0..3 {
        until(&mut health, Health::is_ready).await;
        let connection = link.connection().unwrap();
        let one: i64 = connection.query(cmd("INCR").arg("n")).await.unwrap();
        assert!(one > 0);
        server.kill();
        until(&mut health, |health| matches!(health, Health::Recovering { .. })).await;
        let gone = connection.query::<i64>(cmd("INCR").arg("n")).await.unwrap_err();
        assert_eq!(gone.kind, Kind::Unavailable, "{gone}");
        server.restart().unwrap();
    }
    until(&mut health, Health::is_ready).await;
    let n: i64 = link.connection().unwrap().query(cmd("GET").arg("n")).await.unwrap();
    assert_eq!(n, 3);
    link.close();
    assert_eq!(link.connection().unwrap_err().kind, Kind::Closed);
}

#[tokio::test]
async fn a_silent_peer_is_noticed_and_its_return_as_well() {
    let server = Redis::start().unwrap();
    let proxy = Proxy::start(server.port()).await.unwrap();
    let link = link(&format!("redis://127.0.0.1:{}", proxy.port()));
    let mut health = link.health();
    until(&mut health, Health::is_ready).await;
    proxy.set(Mode::Silent);
    let began = Instant::now();
    until(&mut health, |health| matches!(health, Health::Recovering { .. })).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    proxy.set(Mode::Pass);
    let began = Instant::now();
    until(&mut health, Health::is_ready).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_is_refused_is_told_the_mend_and_asks_seldom() {
    let server = Redis::configured(&["--requirepass", "right"]).unwrap();
    let port = server.port();
    for (url, mend) in [
        (format!("redis://127.0.0.1:{port}"), "wants a password"),
        (format!("redis://:wrong@127.0.0.1:{port}"), "put the right one into the URL"),
        (format!("redis://nobody:wrong@127.0.0.1:{port}"), "`nobody`"),
    ] {
        let link = link(&url);
        let error = refusal(&link).await;
        assert_eq!(error.kind, Kind::Denied, "{error}");
        assert!(error.message.contains(mend) && !error.message.contains("wrong@"), "{error}");
        assert!(matches!(*link.health().borrow(), Health::Recovering { attempt: 1, .. }));
    }
    let link = link(&format!("redis://:right@127.0.0.1:{port}"));
    until(&mut link.health(), Health::is_ready).await;
}

#[tokio::test]
async fn a_read_only_replica_is_not_called_healthy_until_it_is_promoted() {
    let primary = Redis::start().unwrap();
    let replica = Redis::start().unwrap();
    let link = link(&replica.url());
    let mut health = link.health();
    until(&mut health, Health::is_ready).await;
    let connection = link.connection().unwrap();
    let follow = cmd("REPLICAOF").arg("127.0.0.1").arg(primary.port()).to_owned();
    connection.query::<()>(&follow).await.unwrap();
    let refused = connection.query::<i64>(cmd("INCR").arg("n")).await.unwrap_err();
    assert!(refused.message.contains("read-only replica"), "{refused}");
    let tried = |health: &Health| matches!(health, Health::Recovering { attempt, .. } if *attempt > 0);
    let said = until(&mut health, tried).await.error().unwrap().clone();
    assert!(said.message.contains("name its primary"), "{said}");
    let other = Link::start(replica.url().parse().unwrap(), system_clock(), None);
    assert!(refusal(&other).await.message.contains("promote it"));
    let client = redis::Client::open(replica.url()).unwrap();
    let mut promoter = client.get_multiplexed_async_connection().await.unwrap();
    cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut promoter).await.unwrap();
    until(&mut health, Health::is_ready).await;
}

#[tokio::test]
async fn a_server_without_memory_refuses_and_recovers() {
    let server = Redis::configured(&["--maxmemory-policy", "noeviction"]).unwrap();
    let link = link(&server.url());
    let mut health = link.health();
    until(&mut health, Health::is_ready).await;
    let connection = link.connection().unwrap();
    let limit = |bytes: u64| cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).to_owned();
    connection.query::<()>(&limit(1)).await.unwrap();
    let full = connection.query::<()>(cmd("SET").arg("a").arg("b")).await.unwrap_err();
    assert_eq!(full.kind, Kind::Full, "{full}");
    let refusing = until(&mut health, |health| matches!(health, Health::Refusing(_))).await;
    assert!(refusing.error().unwrap().message.contains("maxmemory"));
    connection.query::<()>(&limit(0)).await.unwrap();
    until(&mut health, Health::is_ready).await;
    assert_eq!(link.connection().unwrap().generation(), connection.generation(), "the connection is kept");
}

#[tokio::test]
async fn what_is_not_redis_or_not_trusted_is_told_apart_from_an_outage() {
    let server = Redis::start().unwrap();
    let tls = link(&format!("rediss://127.0.0.1:{}", server.port()));
    let error = refusal(&tls).await;
    assert_ne!(error.kind, Kind::Denied, "a peer without TLS hangs up: {error}");
    let nobody = link(&format!("redis://127.0.0.1:{}", outboard_testkit::free_ports::<1>()[0]));
    let error = refusal(&nobody).await;
    assert!(error.kind == Kind::Unavailable && error.message.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_server_with_tls_is_used_when_its_certificate_is_the_expected_one() {
    let certificates = Certificates::usual();
    let ca = certificates.path("ca.pem");
    let server = Redis::secured(&certificates, "server").unwrap();
    for url in [
        format!("rediss://localhost:{}/3?cacertfile={ca}", server.port()),
        format!("rediss://127.0.0.1:{}?cacertfile={ca}&server_name_indication=localhost", server.port()),
    ] {
        let link = link(&url);
        until(&mut link.health(), Health::is_ready).await;
        let one: i64 = link.connection().unwrap().query(cmd("INCR").arg("n")).await.unwrap();
        assert_eq!(one, 1, "the database of the URL");
        let second = link.connection().unwrap().another(Duration::from_secs(1)).await.unwrap();
        assert_eq!(second.query::<i64>(cmd("INCR").arg("n")).await.unwrap(), 2);
        assert!(super::inspect(&url.parse().unwrap()).await.unwrap().version.is_some());
    }
}

#[tokio::test]
async fn whom_we_do_not_trust_is_told_with_the_mend_and_not_tried_often() {
    let certificates = Certificates::usual();
    for Refusal { server, at, is_mistake, words } in certificates.refusals() {
        let kind = if is_mistake { Kind::Invalid } else { Kind::Denied };
        let server = Redis::secured(&certificates, server).unwrap();
        let url = format!("rediss://shop:top-secret@{at}").replace("PORT", &server.port().to_string());
        let link = link(&url);
        let error = refusal(&link).await;
        assert_eq!(error.kind, kind, "{error}");
        assert!(words.iter().all(|word| error.message.contains(word)), "{words:?}: {error}");
        assert!(!error.message.contains("top-secret") && !error.message.contains('\n'), "{error}");
        assert!(matches!(*link.health().borrow(), Health::Recovering { attempt: 1, .. }), "seconds pass");
        let told = super::inspect(&url.parse().unwrap()).await.unwrap_err();
        assert_eq!(told.message, error.message);
    }
}

#[tokio::test]
async fn a_url_without_tls_for_a_server_with_tls_is_told_as_such() {
    let server = Redis::secured(&Certificates::usual(), "server").unwrap();
    let error = refusal(&link(&format!("redis://localhost:{}", server.port()))).await;
    assert!(error.message.contains("write `rediss`"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loads_its_data_is_waited_for_and_told() {
    // Two seconds for a thousand keys, and connections are looked at meanwhile.
    let slowly = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"];
    let mut server = Redis::configured(&slowly).unwrap();
    let link = link(&server.url());
    let mut health = link.health();
    until(&mut health, Health::is_ready).await;
    let connection = link.connection().unwrap();
    for key in 0..1_000 {
        let random: String = (0..100).map(|_| fastrand::alphanumeric()).collect();
        connection.query::<()>(cmd("SET").arg(key).arg(random)).await.unwrap();
    }
    connection.query::<()>(&cmd("SAVE")).await.unwrap();
    server.kill();
    let restarting = tokio::task::spawn_blocking(move || {
        server.restart().unwrap();
        server
    });
    let is_loading = |health: &Health| health.error().is_some_and(|error| error.message.contains("loading"));
    let told = until(&mut health, is_loading).await.error().unwrap().clone();
    assert_eq!(told.kind, Kind::Unavailable, "{told}");
    until(&mut health, Health::is_ready).await;
    let keys: u64 = link.connection().unwrap().query(&cmd("DBSIZE")).await.unwrap();
    // The server is asked with a key of our own that goes at once.
    assert_eq!(keys, 1_000);
    drop(restarting.await.unwrap());
}

#[tokio::test]
async fn what_the_server_says_unasked_is_passed_on() {
    let server = Redis::start().unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(8);
    let on_push = Arc::new(move |push: redis::PushInfo| drop(sender.try_send(push)));
    let link = Link::start(server.url().parse().unwrap(), system_clock(), Some(on_push));
    until(&mut link.health(), Health::is_ready).await;
    let connection = link.connection().unwrap();
    connection.query::<()>(cmd("CLIENT").arg("TRACKING").arg("ON").arg("BCAST")).await.unwrap();
    connection.query::<()>(cmd("SET").arg("k").arg("v")).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap().kind, redis::PushKind::Invalidate);
}
