//! A message that panics, hangs or cannot be read is a dead letter by itself, and comes through once that is mended.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use outboard::{App, Command, Context, Done, Outcome, Running, Worker};
use outboard_core::{NewMessage, backoff::Backoff, ledger::DeadQuery};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    harness::{Server, Setup},
    http::PATIENCE,
    receiver::HostApp,
};

const MESSAGES: u64 = 100;

#[test]
fn behind_a_url_each_hits_one_message() {
    let mut app = HostApp::start();
    app.mode(json!({"mode": "obeying"}));
    let config = format!(
        "workers:\n- name: orders\n  types: ['orders/*']\n  url: {}\n  concurrency: 8\n  timeout: 1s\n  attempts: 3\n  \
         backoff: {{first: 10ms, max: 50ms}}\n",
        app.url
    );
    let server = Server::with(Setup { config: &config, ..Setup::default() });
    // What a host app does that panics, hangs, or cannot read a payload; and what the reason says then.
    let bad = BTreeMap::from([
        (20, (json!("close"), "closed")),
        (40, (json!("hang"), "timed out after 1s")),
        (60, (json!(422), "answered 422")),
    ]);
    let commands: Vec<Value> = (1..=MESSAGES)
        .map(|number| bad.get(&number).map_or(json!(204), |(answer, _)| answer.clone()))
        .map(|answer| json!({"type": "orders/confirm", "payload": {"answer": answer}}))
        .collect();
    let accepted = server.post("/commands/batch", &Value::from(commands).to_string());
    assert_eq!(accepted.json()["count"], MESSAGES, "{}", accepted.body);
    app.wait_for(MESSAGES as usize - bad.len(), PATIENCE);
    let letters = |server: &Server| server.get("/dead").json()["dead"].as_array().unwrap().clone();
    server.wait_until("three are dead", |server| letters(server).len() == bad.len());
    for (id, (_, says)) in &bad {
        let found = letters(&server).into_iter().find(|letter| letter["message_id"] == *id);
        let letter = found.unwrap_or_else(|| panic!("message {id} is not dead"));
        println!("message {id}: {letter}");
        assert!(letter["reason"].as_str().unwrap().contains(says), "{letter}");
    }
    let good = app.report().requests.into_iter().filter(|request| request.is_success());
    let mut good: Vec<_> = good.map(|request| (request.0, request.1)).collect();
    good.sort_unstable();
    let others = (1..=MESSAGES).filter(|id| !bad.contains_key(id)).map(|id| (id, 1));
    assert_eq!(good, others.collect::<Vec<_>>(), "all others came through once, at the first attempt");

    app.be_well();
    for letter in letters(&server) {
        assert_eq!(server.post(&format!("/dead/{}/retry", letter["id"]), "").status, 200);
    }
    app.wait_for(MESSAGES as usize, PATIENCE);
    for id in bad.keys() {
        server.wait_until("done", |server| server.state(*id, "orders")["state"] == "done");
    }
    assert!(letters(&server).is_empty());
}

/// Confirms an order.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "orders/confirm")]
struct ConfirmOrder {
    order_id: u64,
}

/// The same after a change that reads what could not be read before.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "orders/confirm")]
struct ConfirmAnyOrder {
    order_id: Value,
}

const PANICS: u64 = 20;
const HANGS: u64 = 40;
const UNREADABLE: u64 = 60;

async fn confirm(cx: Context<AtomicBool>, order: ConfirmOrder) -> Outcome {
    assert_ne!(order.order_id, PANICS, "this order is impossible");
    if order.order_id == HANGS {
        std::future::pending::<()>().await;
    }
    // Nothing of a failed attempt is seen by another one.
    assert!(cx.state().load(Ordering::SeqCst));
    cx.keys().add("confirmed", 1)?;
    Ok(Done)
}

async fn confirm_any(cx: Context<()>, _: ConfirmAnyOrder) -> Outcome {
    cx.keys().add("confirmed", 1)?;
    Ok(Done)
}

async fn letters(running: &Running) -> anyhow::Result<BTreeMap<u64, (u64, String)>> {
    let page = running.ledger().dead(DeadQuery { worker: None, max: 100, after: 0 }).await?;
    let letters = page.letters.into_iter();
    Ok(letters.map(|letter| (letter.message_id.0, (letter.id, letter.reason.to_string()))).collect())
}

#[tokio::test]
async fn in_a_rust_worker_each_hits_one_message() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(50) };
    let worker = Worker::new("orders", "Confirms orders", AtomicBool::new(true)).on(confirm);
    let worker = worker.concurrency(8).attempts(3).timeout(Duration::from_millis(100)).backoff(backoff);
    let running = App::open(directory.path()).await?.worker(worker).start().await?;
    let payload = |number| match number {
        UNREADABLE => json!({"order_id": "sixty"}),
        number => json!({"order_id": number}),
    };
    let messages: Vec<_> =
        (1..=MESSAGES).map(|number| NewMessage::new("orders/confirm", payload(number).to_string())).collect();
    running.log().append(messages.into()).await?;
    tokio::time::timeout(PATIENCE, running.finished()).await??;
    assert_eq!(running.key::<u64>("orders", "confirmed").await?, Some(MESSAGES - 3));
    let dead = letters(&running).await?;
    println!("{dead:#?}");
    assert_eq!(dead.keys().copied().collect::<Vec<_>>(), [PANICS, HANGS, UNREADABLE]);
    assert!(dead[&PANICS].1.contains("this order is impossible"), "{dead:?}");
    assert!(dead[&HANGS].1.contains("timed out after 100ms"), "{dead:?}");
    assert!(dead[&UNREADABLE].1.contains("order_id") || dead[&UNREADABLE].1.contains("u64"), "{dead:?}");
    running.shutdown().await?;

    let mended = Worker::new("orders", "Confirms orders", ()).on(confirm_any);
    let running = App::open(directory.path()).await?.worker(mended).start().await?;
    for (letter, _) in dead.values() {
        running.ledger().revive(*letter).await?;
    }
    tokio::time::timeout(PATIENCE, running.finished()).await??;
    assert_eq!(running.key::<u64>("orders", "confirmed").await?, Some(MESSAGES));
    assert!(letters(&running).await?.is_empty());
    running.shutdown().await?;
    Ok(())
}
