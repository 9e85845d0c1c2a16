//! Apps from start to stop.

use std::{sync::atomic::AtomicU64, time::Duration};

use outboard_core::{NewMessage, Position};
use serde::{Deserialize, Serialize};

use crate::{App, AppError, Command, Context, Done, Failure, Outcome, Worker, WorkerState};

/// Confirms an order.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "orders/confirm")]
struct Confirm {
    order_id: u64,
}

/// Another type with the same name.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "orders/confirm")]
struct Confirmation {}

/// Cancels an order.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "orders/cancel")]
struct Cancel {
    order_id: u64,
}

async fn confirm(cx: Context<()>, _: Confirm) -> Outcome {
    cx.keys().add("confirmed", 1)?;
    Ok(Done)
}

async fn confirmation(_: Context<()>, _: Confirmation) -> Outcome {
    Ok(Done)
}

fn orders() -> Worker<()> {
    Worker::new("orders", "Confirms orders", ()).on(confirm)
}

async fn mistake(build: impl FnOnce(App) -> App) -> anyhow::Result<String> {
    match build(App::memory().await?).start().await {
        Err(error @ (AppError::Mistake(_) | AppError::NameTaken(_))) => Ok(error.to_string()),
        other => anyhow::bail!("expected a mistake, got {other:?}"),
    }
}

#[tokio::test]
async fn mistakes_are_found_at_start_and_say_what_to_change() -> anyhow::Result<()> {
    let twice = mistake(|app| app.worker(orders()).worker(orders())).await?;
    assert!(twice.contains("two workers are called `orders`"), "{twice}");
    let two_handlers = mistake(|app| app.worker(orders().on(confirm))).await?;
    assert!(two_handlers.contains("two handlers for `orders/confirm`"), "{two_handlers}");
    let two_types =
        mistake(|app| app.worker(orders()).worker(Worker::new("b", "", ()).on(confirmation))).await?;
    assert!(two_types.contains("is the name of two Rust types"), "{two_types}");
    let only_replay = mistake(|app| app.worker(orders().on_replay(|(), _: Cancel, _| ()))).await?;
    assert!(only_replay.contains("replay function for `orders/cancel`, but no handler"), "{only_replay}");
    let idle = mistake(|app| app.worker(Worker::new("idle", "", ()))).await?;
    assert!(idle.contains("neither handlers nor periodic work"), "{idle}");
    for name in ["", " ", "a/b", "tab\t"] {
        let name = mistake(|app| app.worker(Worker::new(name, "", ()).on(confirm))).await?;
        assert!(name.contains("is not a worker's name"), "{name}");
    }
    for worker in [orders().concurrency(0), orders().attempts(0), orders().timeout(Duration::ZERO)] {
        let zero = mistake(|app| app.worker(worker)).await?;
        assert!(zero.contains("above zero"), "{zero}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_runs_and_a_second_one_changes_nothing() -> anyhow::Result<()> {
    async fn slow(cx: Context<()>, _: Confirm) -> Outcome {
        tokio::time::sleep(Duration::from_secs(10)).await;
        cx.keys().add("confirmed", 1)?;
        Ok(Done)
    }
    let worker = Worker::new("slow", "Takes its time", ()).on(slow);
    let running = App::memory().await?.worker(worker).drain(Duration::from_secs(25)).start().await?;
    running.executor().execute(Confirm { order_id: 1 }).await?;
    while running.workers().get("slow").expect("it runs").info().running.is_empty() {
        tokio::task::yield_now().await;
    }
    let before = tokio::time::Instant::now();
    let (first, second) = tokio::join!(running.shutdown(), running.shutdown());
    first?;
    second?;
    assert!(before.elapsed() >= Duration::from_secs(9), "{:?}", before.elapsed());
    let info = running.workers().get("slow").expect("it is known still").info();
    assert_eq!((info.state, info.counters.handled), (WorkerState::Stopped, 1));
    running.shutdown().await?;
    assert!(running.executor().execute(Confirm { order_id: 2 }).await.is_err(), "the log is closed");
    Ok(())
}

#[tokio::test]
async fn a_directory_is_one_apps_at_a_time_and_keeps_what_was_done() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let running = App::open(directory.path()).await?.worker(orders()).start().await?;
    running.executor().execute(Confirm { order_id: 1 }).await?;
    running.idle().await?;
    let second = App::open(directory.path()).await;
    assert!(matches!(second, Err(AppError::Open(_))), "{second:?}");
    running.shutdown().await?;

    let running = App::open(directory.path()).await?.worker(orders()).start().await?;
    running.executor().execute(Confirm { order_id: 2 }).await?;
    running.idle().await?;
    assert_eq!(running.key::<u64>("orders", "confirmed").await?, Some(2));
    running.shutdown().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_chains_and_finished_for_retries() -> anyhow::Result<()> {
    async fn chain(cx: Context<AtomicU64>, confirm: Confirm) -> Outcome {
        if confirm.order_id > 0 {
            cx.append(&Confirm { order_id: confirm.order_id - 1 })?;
            return Ok(Done);
        }
        if cx.attempt() < 3 {
            return Err(Failure::retry_after(Duration::from_secs(3_600), "later"));
        }
        cx.keys().set("ended", &true)?;
        Ok(Done)
    }
    let worker = Worker::new("chain", "Chains", AtomicU64::new(0)).on(chain);
    let running = App::memory().await?.worker(worker).start().await?;
    // A type that nobody handles does not keep anybody busy.
    running.log().append(vec![NewMessage::new("orders/other", "{}"); 3].into()).await?;
    running.executor().execute(Confirm { order_id: 20 }).await?;
    running.idle().await?;
    assert_eq!(*running.log().tip().borrow(), Position(24));
    assert_eq!(running.key::<bool>("chain", "ended").await?, None);
    let before = tokio::time::Instant::now();
    running.finished().await?;
    assert!(before.elapsed() >= Duration::from_secs(7_200));
    assert_eq!(running.key::<bool>("chain", "ended").await?, Some(true));
    running.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_hundred_workers_each_get_every_message() -> anyhow::Result<()> {
    let mut app = App::memory().await?;
    for number in 0..100 {
        app = app.worker(Worker::new(format!("worker-{number}"), "One of many", ()).on(confirm));
    }
    let running = app.start().await?;
    let messages = (0..20).map(|id| NewMessage::new("orders/confirm", format!(r#"{{"order_id":{id}}}"#)));
    running.log().append(messages.collect::<Vec<_>>().into()).await?;
    running.idle().await?;
    for number in 0..100 {
        assert_eq!(running.key::<u64>(&format!("worker-{number}"), "confirmed").await?, Some(20));
    }
    running.shutdown().await?;
    Ok(())
}
