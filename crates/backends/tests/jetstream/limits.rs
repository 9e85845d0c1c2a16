//! Limits that somebody gave a stream or its consumer.

use outboard_backends::jetstream::Options;
use outboard_core::{
    Health, Kind, Settlement, Verdict,
    queue::{Argument, Destination, Outgoing, Queue, QueueName, QueueSpec},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    open,
    outages::{consumer, one, publish, queue, settle, soon, until},
    raw,
    refusals::{error_of, status_until},
    server, unique_name,
};

/// Makes the worker's consumer beforehand, or gives it other limits.
fn limit(stream: &str, limits: &Value) {
    let port = server().port();
    let told = raw::request(port, &format!("$JS.API.CONSUMER.INFO.{stream}.worker"), b"");
    let told: Value = serde_json::from_slice(&told).expect("it answers in JSON");
    let mut config = match &told["config"] {
        Value::Null => json!({ "durable_name": "worker", "ack_policy": "explicit", "max_deliver": -1 }),
        config => config.clone(),
    };
    for (name, value) in limits.as_object().expect("limits have names") {
        config[name] = value.clone();
    }
    let body = json!({ "stream_name": stream, "config": config }).to_string();
    let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.worker");
    let answer =
        String::from_utf8(raw::request(port, &subject, body.as_bytes())).expect("it answers in JSON");
    assert!(answer.contains("\"config\""), "{answer}");
}

#[tokio::test]
async fn a_consumer_that_somebody_limited_is_asked_within_its_limits() {
    for limits in [
        json!({ "max_batch": 1, "max_expires": 1_000_000_000, "max_bytes": 10 }),
        json!({ "max_batch": 3, "max_waiting": 1 }),
    ] {
        let port = open(server().port(), Options::default());
        let name = queue(&port).await;
        limit(&name, &limits);
        let consumer = consumer(&port, &name).await;
        for number in 0..40 {
            publish(&port, &name, &format!("message {number}")).await;
        }
        for number in 0..40 {
            let delivery = one(&consumer).await;
            assert_eq!(delivery.message.payload, format!("message {number}"), "{limits}");
            settle(&consumer, &delivery, Verdict::Done).await;
        }
        // Beyond the time that a request stands.
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(1_500), consumer.next(1)).await.is_err()
        );
        publish(&port, &name, "late").await;
        settle(&consumer, &one(&consumer).await, Verdict::Done).await;
        assert!(consumer.status().health.is_ready());
    }
}

#[tokio::test]
async fn limits_that_change_while_it_is_consumed_are_read_again() {
    let port = open(server().port(), Options::default());
    let name = queue(&port).await;
    let consumer = consumer(&port, &name).await;
    publish(&port, &name, "before").await;
    settle(&consumer, &one(&consumer).await, Verdict::Done).await;
    limit(&name, &json!({ "max_batch": 1 }));
    for number in 0..60 {
        publish(&port, &name, &format!("{number}")).await;
        settle(&consumer, &one(&consumer).await, Verdict::Done).await;
    }
}

#[tokio::test]
async fn a_consumer_that_nobody_could_ask_is_told_with_the_mend() {
    let port = open(server().port(), Options::default());
    let name = queue(&port).await;
    limit(&name, &json!({ "max_expires": 1_000_000 }));
    let consumer = consumer(&port, &name).await;
    let is_told = |health: &Health| health.error().is_some_and(|error| error.kind == Kind::Mismatch);
    let error = error_of(&status_until(&consumer, is_told).await);
    assert!(error.message.contains("max_expires") && error.message.contains("delete"), "{error}");
}

#[tokio::test]
async fn a_consumer_whose_places_are_taken_is_told_and_consumed_when_one_is_free() {
    let port = open(server().port(), Options::default());
    let name = queue(&port).await;
    limit(&name, &json!({ "max_waiting": 1 }));
    let first = consumer(&port, &name).await;
    publish(&port, &name, "1").await;
    settle(&first, &one(&first).await, Verdict::Done).await;
    let second = consumer(&port, &name).await;
    let error = error_of(&status_until(&second, |health| matches!(health, Health::Refusing(_))).await);
    assert!(error.kind == Kind::Full && error.message.contains("`max_waiting`"), "{error}");
    soon(first.drain(Instant::now())).await.unwrap();
    publish(&port, &name, "2").await;
    settle(&second, &one(&second).await, Verdict::Done).await;
    assert!(second.status().health.is_ready());
}

/// A stream with room for so many bytes.
async fn narrow(port: &std::sync::Arc<dyn Queue>, bytes: i64) -> QueueName {
    let name = unique_name();
    let arguments = [("max_bytes".into(), Argument::Number(bytes))].into();
    soon(port.declare(QueueSpec { arguments, ..QueueSpec::named(name.clone()) }))
        .await
        .expect("it can be made");
    name
}

fn large(queue: &str) -> Vec<Outgoing> {
    vec![Outgoing::new(Destination::queue(queue), "a/b", vec![b'x'; 30_000])]
}

#[tokio::test]
async fn a_full_stream_refuses_publications_at_once_until_there_is_room() {
    let port = open(server().port(), Options::default());
    let name = narrow(&port, 100_000).await;
    let mut taken = 0;
    let error = loop {
        let began = Instant::now();
        match soon(port.publish(large(&name))).await.unwrap().remove(0) {
            Ok(_) => taken += 1,
            Err(error) => {
                assert!(began.elapsed() < std::time::Duration::from_secs(2), "it is not tried in vain");
                break error;
            }
        }
    };
    assert_eq!(taken, 3);
    assert!(error.kind == Kind::Full && error.message.contains("raise its limit"), "{error}");
    until(&port, |health| matches!(health, Health::Refusing(told) if told.message == error.message)).await;
    let consumer = consumer(&port, &name).await;
    settle(&consumer, &one(&consumer).await, Verdict::Done).await;
    soon(port.publish(large(&name))).await.unwrap().remove(0).unwrap();
    until(&port, Health::is_ready).await;
    // Nor is it called full for ever when nobody asks any more.
    soon(port.publish(large(&name))).await.unwrap().remove(0).unwrap_err();
    until(&port, |health| matches!(health, Health::Refusing(_))).await;
    until(&port, Health::is_ready).await;
}

#[tokio::test]
async fn a_full_stream_of_dead_letters_loses_no_message() {
    let port = open(server().port(), Options::default());
    let name = queue(&port).await;
    let dead = format!("{name}-dead");
    let config = json!({
        "name": dead, "subjects": [dead], "storage": "file", "discard": "new", "max_bytes": 20_000, "allow_direct": true,
    });
    let raw = |what: &str, body: &Value| {
        raw::request(server().port(), &format!("$JS.API.STREAM.{what}.{dead}"), body.to_string().as_bytes())
    };
    raw("CREATE", &config);
    let consumer = consumer(&port, &name).await;
    soon(port.publish(large(&name))).await.unwrap().remove(0).unwrap();
    let delivery = one(&consumer).await;
    let verdict = Verdict::Dead { reason: "no".into() };
    let ticket = consumer.settle(Settlement { tag: delivery.tag, verdict, effects: None });
    let error = error_of(&status_until(&consumer, |health| matches!(health, Health::Refusing(_))).await);
    assert!(error.kind == Kind::Full && error.message.contains("raise its limit"), "{error}");
    assert!(*consumer.durable().borrow() < ticket);
    let stats = soon(port.stats(name.clone())).await.unwrap();
    assert_eq!((stats.unsettled, stats.dead), (Some(1), Some(0)), "it is where it was");
    let mut config = config.clone();
    config["max_bytes"] = 100_000.into();
    raw("UPDATE", &config);
    soon(consumer.durable().wait_for(|durable| *durable >= ticket)).await.unwrap();
    assert!(consumer.status().health.is_ready());
    assert_eq!(soon(port.dead(name, 10)).await.unwrap()[0].payload.len(), 30_000);
}
