//! What a server does not do for us, and how that is told.

use std::{sync::Arc, time::Duration};

use outboard_backends::jetstream::{Options, inspect};
use outboard_core::{
    Consumer, Health, Kind, PortError, Verdict,
    queue::{Argument, Binding, ConsumeSpec, Declared, Destination, Outgoing, QueueKind, QueueSpec, Routing},
};
use outboard_testkit::Nats;
use tokio::time::Instant;

use crate::{
    open, open_url,
    outages::{consumer, one, publish, queue, settle, soon, until},
    raw, server, unique_name,
};

pub(crate) fn error_of(health: &Health) -> PortError {
    health.error().expect("something is wrong").clone()
}

/// The status of a consumer that is waited for, since nobody announces it.
pub(crate) async fn status_until(
    consumer: &Arc<dyn Consumer>,
    is_wanted: impl Fn(&Health) -> bool,
) -> Health {
    soon(async {
        let mut look_again = tokio::time::interval(Duration::from_millis(5));
        loop {
            look_again.tick().await;
            let health = consumer.status().health;
            if is_wanted(&health) {
                return health;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_wrong_password_is_told_as_such_and_not_tried_often() {
    let nats = Nats::configured("authorization { user: shop, password: right }").unwrap();
    let denied = |health: &Health| health.error().is_some_and(|error| error.kind == Kind::Denied);
    for (account, mend) in [("shop:wrong@", "password"), ("", "in the URL"), ("some-token@", "token")] {
        let port = open_url(&format!("nats://{account}127.0.0.1:{}", nats.port()), Options::default());
        let consumer = consumer(&port, "orders").await;
        until(&port, denied).await;
        let error = error_of(&port.health().borrow());
        assert!(error.message.contains(mend) && !error.message.contains("wrong"), "{error}");
        assert!(!consumer.status().health.is_ready());
        let Health::Recovering { attempt, .. } = *port.health().borrow() else { panic!("it goes on trying") };
        assert_eq!(attempt, 1, "the next one is seconds away");
    }
    let port = open_url(&format!("nats://shop:right@127.0.0.1:{}", nats.port()), Options::default());
    until(&port, Health::is_ready).await;
}

#[tokio::test]
async fn a_server_without_tls_is_told_as_such() {
    let error = soon(inspect(&format!("tls://127.0.0.1:{}", server().port()))).await.unwrap_err();
    assert!(error.kind == Kind::Denied && error.message.contains("does not offer TLS"), "{error}");
}

#[tokio::test]
async fn a_server_without_jetstream_is_told_as_such() {
    let nats = Nats::configured("# no jetstream").unwrap();
    let port = open(nats.port(), Options::default());
    let error = soon(port.declare(QueueSpec::named("orders"))).await.unwrap_err();
    assert!(error.kind == Kind::Unsupported && error.message.contains("jetstream {}"), "{error}");
    let consumer = consumer(&port, "orders").await;
    let is_told = |health: &Health| health.error().is_some_and(|error| error.kind == Kind::Unsupported);
    status_until(&consumer, is_told).await;
    let facts = soon(inspect(&nats.url())).await.unwrap();
    assert!(facts.jetstream.unwrap_err().contains("not enabled"));
}

#[tokio::test]
async fn a_full_jetstream_refuses_publications_until_there_is_room() {
    let nats = Nats::configured("jetstream { max_file_store: 400KB }").unwrap();
    let port = open(nats.port(), Options::default());
    let name = queue(&port).await;
    let fill = |size| Outgoing::new(Destination::queue(&*name), "a/b", vec![b'x'; size]);
    let mut taken = 0;
    let error = loop {
        match soon(port.publish(vec![fill(50_000)])).await.unwrap().remove(0) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 20, "there is no room for so much");
    };
    assert!(error.kind == Kind::Full && error.message.contains("max_file_store"), "{error}");
    let consumer = consumer(&port, &name).await;
    for _ in 0..taken {
        settle(&consumer, &one(&consumer).await, Verdict::Done).await;
    }
    publish(&port, &name, "again").await;
}

#[tokio::test]
async fn a_dead_letter_that_finds_no_room_waits_for_it_and_is_told() {
    let nats = Nats::configured("jetstream { max_file_store: 400KB }").unwrap();
    let port = open(nats.port(), Options::default());
    let name = queue(&port).await;
    let consumer = consumer(&port, &name).await;
    let large = || Outgoing::new(Destination::queue(&*name), "a/b", vec![b'x'; 150_000]);
    while soon(port.publish(vec![large()])).await.unwrap().remove(0).is_ok() {}
    let (dead, done) = (one(&consumer).await, one(&consumer).await);
    let verdict = Verdict::Dead { reason: "no".into() };
    let ticket = consumer.settle(outboard_core::Settlement { tag: dead.tag, verdict, effects: None });
    let health = status_until(&consumer, |health| matches!(health, Health::Refusing(_))).await;
    assert_eq!(error_of(&health).kind, Kind::Full);
    assert!(*consumer.durable().borrow() < ticket);
    settle_without_waiting(&consumer, &done);
    soon(consumer.durable().wait_for(|durable| *durable > ticket)).await.unwrap();
    assert!(consumer.status().health.is_ready());
    let letters = soon(port.dead(name, 10)).await.unwrap();
    assert_eq!((letters.len(), letters[0].payload.len()), (1, 150_000));
}

fn settle_without_waiting(consumer: &Arc<dyn Consumer>, delivery: &outboard_core::Delivery) {
    consumer.settle(outboard_core::Settlement { tag: delivery.tag, verdict: Verdict::Done, effects: None });
}

#[tokio::test]
async fn a_payload_as_large_as_the_server_takes_can_become_a_dead_letter() {
    let port = open(server().port(), Options::default());
    let name = queue(&port).await;
    let consumer = consumer(&port, &name).await;
    let payload = vec![b'x'; (1 << 20) - 1_024];
    raw::request(server().port(), &name, &payload);
    let delivery = one(&consumer).await;
    settle(&consumer, &delivery, Verdict::Dead { reason: "é".repeat(5_000).into() }).await;
    let letters = soon(port.dead(name, 10)).await.unwrap();
    assert_eq!(letters[0].payload.len(), payload.len());
    assert!(letters[0].reason.starts_with("éé") && letters[0].reason.len() <= 256);
}

#[tokio::test]
async fn a_message_of_somebody_else_has_a_type_and_an_id() {
    let port = open(server().port(), Options::default());
    let name = queue(&port).await;
    let consumer = consumer(&port, &name).await;
    raw::request(server().port(), &format!("{name}.created"), b"1");
    raw::request(server().port(), &name, b"2");
    let (created, plain) = (one(&consumer).await, one(&consumer).await);
    assert_eq!(*created.message.kind, *format!("{name}/created"));
    assert_eq!(*plain.message.kind, *name);
    let id = created.message.name.as_deref().unwrap();
    assert!(id.starts_with(&format!("{name}:1:")), "{id}");
    assert!(created.is_identified && plain.is_identified);
}

#[tokio::test]
async fn what_a_stream_cannot_be_is_refused_and_what_it_is_is_told() {
    let port = open(server().port(), Options::default());
    let spec = QueueSpec::named(unique_name());
    let (exchange, key, arguments) = ("e".into(), "k".into(), spec.arguments.clone());
    let binding = Binding { exchange, routing: Routing::Topic, arguments, key };
    for (bad, kind) in [
        (QueueSpec::named("a.b"), Kind::Invalid),
        (QueueSpec { bindings: vec![binding], ..spec.clone() }, Kind::Unsupported),
        (QueueSpec { kind: QueueKind::Quorum, ..spec.clone() }, Kind::Unsupported),
        (QueueSpec { create: false, ..spec.clone() }, Kind::NotFound),
        (QueueSpec { arguments: [("x".into(), Argument::Flag(true))].into(), ..spec.clone() }, Kind::Invalid),
    ] {
        let error = soon(port.declare(bad)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
    assert_eq!(soon(port.declare(spec.clone())).await.unwrap(), Declared::Same);
    let memory = [("storage".into(), Argument::Text("memory".into()))].into();
    let other = soon(port.declare(QueueSpec { arguments: memory, ..spec })).await.unwrap();
    assert!(matches!(&other, Declared::Differs(what) if what.contains("storage")), "{other:?}");
}

#[tokio::test]
async fn workers_with_different_names_compete_for_a_work_queue() {
    let port = open(server().port(), Options::default());
    let name = queue(&port).await;
    let first = consumer(&port, &name).await;
    publish(&port, &name, "1").await;
    settle(&first, &one(&first).await, Verdict::Done).await;
    let second = soon(port.consume(ConsumeSpec::new("other", QueueSpec::named(name.clone())))).await.unwrap();
    soon(first.drain(Instant::now())).await.unwrap();
    publish(&port, &name, "2").await;
    assert_eq!(&one(&second).await.message.payload[..], b"2");
}

#[tokio::test]
async fn a_server_says_what_it_is() {
    let facts = soon(inspect(&server().url())).await.unwrap();
    assert!(facts.version.starts_with("2."), "{facts:?}");
    assert_eq!((facts.max_payload, facts.sync_interval), (1 << 20, None));
    assert!(facts.jetstream.is_ok());
    assert_eq!(soon(inspect("nats://127.0.0.1:1")).await.unwrap_err().kind, Kind::Unavailable);
}
