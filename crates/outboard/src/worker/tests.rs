//! Typed workers against the engine in memory, with time that takes none.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use outboard_core::{
    Clock, Message, NewMessage, Position, Time,
    backoff::Backoff,
    fault::Faults,
    ledger::{DeadLetter, DeadQuery, Fate},
    log::Append,
    time::TokioClock,
};
use outboard_embedded::{Embedded, MemoryDisk, Options};
use serde::{Deserialize, Serialize};

use crate::{
    App, AppState, Command, Context, Done, Failure, OutagePolicy, Outcome, Running, Tick, Worker,
    outcome::Cause,
};

/// Counts something.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "counts/add")]
struct Add {
    #[command(min_value = 1)]
    amount: u64,
}

/// Tells that something was counted.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "counts/tell")]
struct Tell {
    total: u64,
}

async fn started(disk: &MemoryDisk, build: impl FnOnce(App) -> App) -> anyhow::Result<Running> {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Time::from_millis(1_800_000_000_000)));
    let store = Embedded::memory(disk, Options { clock: clock.clone(), ..Options::default() }).await?;
    let ports = Arc::new(store);
    Ok(build(App::with_ports(ports.clone(), ports, clock, Faults::none())).start().await?)
}

async fn dead_letters(running: &Running) -> anyhow::Result<Vec<DeadLetter>> {
    Ok(running.ledger().dead(DeadQuery { max: 100, ..DeadQuery::default() }).await?.letters)
}

async fn add(running: &Running, count: u64) -> anyhow::Result<()> {
    for _ in 0..count {
        running.executor().execute(Add { amount: 1 }).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn concurrent_attempts_that_read_and_set_lose_no_update() -> anyhow::Result<()> {
    async fn count(cx: Context<()>, add: Add) -> Outcome {
        let total: u64 = cx.keys().get("total").await?.unwrap_or(0);
        // Others read the same total before this one commits.
        tokio::task::yield_now().await;
        cx.keys().set("total", &(total + add.amount))?;
        cx.keys().add("messages", 1)?;
        Ok(Done)
    }
    let worker = Worker::new("counter", "Counts", ()).on(count).concurrency(16);
    let running = App::memory().await?.worker(worker).start().await?;
    let all = vec![NewMessage::new("counts/add", r#"{"amount":2}"#); 200];
    running.log().append(all.into()).await?;
    running.idle().await?;
    assert_eq!(running.key::<u64>("counter", "total").await?, Some(400));
    assert_eq!(running.key::<u64>("counter", "messages").await?, Some(200));
    assert!(dead_letters(&running).await?.is_empty());
    running.shutdown().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_attempt_sees_its_own_changes() -> anyhow::Result<()> {
    async fn look(cx: Context<()>, _: Add) -> Outcome {
        let keys = cx.keys();
        keys.add("n", 2)?;
        assert_eq!(keys.get::<i64>("n").await?, Some(7), "5 before");
        keys.set("n", &10)?;
        keys.add("n", 1)?;
        assert_eq!(keys.get::<i64>("n").await?, Some(11));
        keys.delete("n")?;
        assert_eq!(keys.get::<i64>("n").await?, None);
        keys.add("n", 3)?;
        assert_eq!(keys.get::<i64>("n").await?, Some(3));
        keys.set("text", "seven")?;
        assert!(keys.add("text", 1).is_err(), "a text is no counter");
        assert!(keys.set("", &1).is_err(), "a key has a name");
        Ok(Done)
    }
    async fn prepare(cx: Context<()>, _: Tell) -> Outcome {
        cx.keys().set("n", &5)?;
        Ok(Done)
    }
    let worker = Worker::new("keys", "Looks", ()).on(prepare).on(look).concurrency(1);
    let running = App::memory().await?.worker(worker).start().await?;
    running.executor().execute(Tell { total: 0 }).await?;
    add(&running, 1).await?;
    running.idle().await?;
    assert!(dead_letters(&running).await?.is_empty());
    assert_eq!(running.key::<i64>("keys", "n").await?, Some(3));
    assert_eq!(running.key::<String>("keys", "text").await?.as_deref(), Some("seven"));
    running.shutdown().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_attempt_buffered_is_dropped() -> anyhow::Result<()> {
    async fn count(cx: Context<()>, add: Add) -> Outcome {
        cx.keys().add("total", add.amount as i64)?;
        cx.append(&Tell { total: add.amount })?;
        match cx.attempt() {
            1 => Err(Failure::retry("not yet")),
            2 => panic!("not yet"),
            3 => std::future::pending().await,
            _ => Ok(Done),
        }
    }
    async fn heard(cx: Context<AtomicU64>, tell: Tell) -> Outcome {
        cx.state().fetch_add(tell.total, Relaxed);
        cx.keys().add("heard", 1)?;
        Ok(Done)
    }
    let running = App::memory()
        .await?
        .worker(Worker::new("counter", "Counts", ()).on(count))
        .worker(Worker::new("listener", "Listens", AtomicU64::new(0)).on(heard))
        .start()
        .await?;
    add(&running, 1).await?;
    // The waits between the attempts take no real time.
    running.finished().await?;
    assert_eq!(running.key::<i64>("counter", "total").await?, Some(1));
    assert_eq!(running.key::<i64>("listener", "heard").await?, Some(1));
    assert_eq!(*running.log().tip().borrow(), Position(2));
    running.shutdown().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_payload_is_dead_at_once_and_says_where() -> anyhow::Result<()> {
    async fn count(cx: Context<()>, _: Add) -> Outcome {
        cx.keys().add("handled", 1)?;
        Ok(Done)
    }
    let running = App::memory().await?.worker(Worker::new("counter", "Counts", ()).on(count)).start().await?;
    let payloads = [r#"{"amount":1}"#, r#"{"amount":"many"}"#, r#"{"amount":1}"#];
    let messages: Vec<_> = payloads.map(|payload| NewMessage::new("counts/add", payload)).into();
    running.log().append(messages.into()).await?;
    running.idle().await?;
    let letters = dead_letters(&running).await?;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].message_id, letters[0].attempts), (Position(2), 1));
    assert!(letters[0].reason.contains("`counts/add`: amount cannot be read"), "{}", letters[0].reason);
    assert_eq!(running.key::<u64>("counter", "handled").await?, Some(2));
    running.shutdown().await?;
    Ok(())
}

#[derive(Default)]
struct Ledgered {
    replayed: Mutex<Vec<Position>>,
    handled: AtomicU64,
}

/// Fails for ever, dies, or counts, as the amount says.
async fn mixed(cx: Context<Arc<Ledgered>>, add: Add) -> Outcome {
    match add.amount {
        13 => Err(Failure::dead("unlucky")),
        14 => Err(Failure::retry_after(Duration::from_secs(3_600), "later")),
        _ => {
            cx.state().handled.fetch_add(1, Relaxed);
            Ok(Done)
        }
    }
}

fn remember(state: &Arc<Ledgered>, _: Add, message: &Message) {
    state.replayed.lock().unwrap().push(message.id);
}

#[tokio::test(start_paused = true)]
async fn replay_rebuilds_what_is_done_and_calls_no_handler() -> anyhow::Result<()> {
    let disk = MemoryDisk::new()?;
    let worker = |state: &Arc<Ledgered>| {
        Worker::new("mixed", "Mixes", state.clone()).on(mixed).on_replay(remember).from_beginning()
    };
    let first = Arc::new(Ledgered::default());
    let running = started(&disk, |app| app.worker(worker(&first))).await?;
    for amount in [1, 13, 2, 14, 3] {
        running.executor().execute(Add { amount }).await?;
    }
    running.idle().await?;
    assert_eq!(first.handled.load(Relaxed), 3);
    assert!(first.replayed.lock().unwrap().is_empty(), "there was nothing to replay");
    running.shutdown().await?;

    let second = Arc::new(Ledgered::default());
    let running = started(&disk, |app| app.worker(worker(&second))).await?;
    running.idle().await?;
    assert_eq!(*second.replayed.lock().unwrap(), [Position(1), Position(3), Position(5)]);
    assert_eq!(second.handled.load(Relaxed), 0, "replay has no side effects");
    running.shutdown().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn replay_ends_where_an_unclean_stop_left_off() -> anyhow::Result<()> {
    /// The second message hangs; the others are done around it.
    async fn hang(cx: Context<Arc<Ledgered>>, add: Add) -> Outcome {
        if add.amount == 2 {
            std::future::pending::<()>().await;
        }
        cx.state().handled.fetch_add(1, Relaxed);
        cx.keys().add("done", 1)?;
        Ok(Done)
    }
    let disk = MemoryDisk::new()?;
    let worker = |state: &Arc<Ledgered>| {
        let worker = Worker::new("hanging", "Hangs", state.clone()).on(hang).on_replay(remember);
        worker.timeout(Duration::from_secs(100_000)).from_beginning()
    };
    let first = Arc::new(Ledgered::default());
    let running = started(&disk, |app| app.worker(worker(&first))).await?;
    for amount in 1..=4 {
        running.executor().execute(Add { amount }).await?;
    }
    while running.key::<u64>("hanging", "done").await? != Some(3) {
        tokio::task::yield_now().await;
    }
    // As a crash would.
    drop(running);

    let second = Arc::new(Ledgered::default());
    let running = started(&disk, |app| app.worker(worker(&second))).await?;
    assert_eq!(*second.replayed.lock().unwrap(), [Position(1), Position(3), Position(4)]);
    let fates = running.ledger().fates(Position(2)).await?;
    assert!(!matches!(fates[0].1, Fate::Done), "{fates:?}");
    add(&running, 1).await?;
    running.log().tip().wait_for(|tip| *tip >= Position(5)).await?;
    while running.ledger().workers().await?[0].low < Position(5) {
        tokio::task::yield_now().await;
    }
    drop(running);

    // Now the second message has a row of its own, below the low-water mark, which no list of the ledger shows.
    let third = Arc::new(Ledgered::default());
    let _running = started(&disk, |app| app.worker(worker(&third))).await?;
    assert_eq!(*third.replayed.lock().unwrap(), [Position(1), Position(3), Position(4), Position(5)]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_new_worker_replays_what_came_before_its_time_and_handles_the_rest() -> anyhow::Result<()> {
    let disk = MemoryDisk::new()?;
    let running = started(&disk, |app| app.command::<Add>()).await?;
    add(&running, 3).await?;
    running.shutdown().await?;
    let state = Arc::new(Ledgered::default());
    let worker = Worker::new("late", "Comes late", state.clone()).on(mixed).on_replay(remember);
    let running = started(&disk, |app| app.worker(worker)).await?;
    add(&running, 2).await?;
    running.idle().await?;
    assert_eq!(*state.replayed.lock().unwrap(), [Position(1), Position(2), Position(3)]);
    assert_eq!(state.handled.load(Relaxed), 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn each_worker_gets_each_message() -> anyhow::Result<()> {
    let (first, second) = (Arc::new(Ledgered::default()), Arc::new(Ledgered::default()));
    let running = App::memory()
        .await?
        .worker(Worker::new("first", "", first.clone()).on(mixed))
        .worker(Worker::new("second", "", second.clone()).on(mixed))
        .start()
        .await?;
    add(&running, 5).await?;
    running.idle().await?;
    assert_eq!((first.handled.load(Relaxed), second.handled.load(Relaxed)), (5, 5));
    running.shutdown().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn periodic_work_sees_the_state_and_executes_commands() -> anyhow::Result<()> {
    async fn tell(tick: Tick<AtomicU64>) -> Outcome {
        let total = tick.state().fetch_add(1, Relaxed);
        tick.executor().execute(Tell { total }).await?;
        Ok(Done)
    }
    let worker = Worker::new("ticker", "Ticks", AtomicU64::new(0)).every(Duration::from_secs(60), tell);
    let running = App::memory().await?.worker(worker).command::<Tell>().start().await?;
    let tip = running.log().tip();
    assert_eq!(tip.borrow().0, 0, "it first runs after one interval");
    tokio::time::sleep(Duration::from_secs(185)).await;
    assert_eq!(tip.borrow().0, 3);
    running.shutdown().await?;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(tip.borrow().0, 3, "a stopped worker does not tick");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_target_costs_no_attempt() -> anyhow::Result<()> {
    async fn call(cx: Context<AtomicU64>, _: Add) -> Outcome {
        if cx.state().fetch_add(1, Relaxed) < 100 {
            let cause = Cause::Unavailable;
            return Err(Failure::Retry { reason: "refused".into(), after: None, cause });
        }
        cx.keys().add("done", 1)?;
        Ok(Done)
    }
    let worker = Worker::new("caller", "Calls", AtomicU64::new(0)).on(call).attempts(3);
    let worker = worker.outage(OutagePolicy::default());
    let running = App::memory().await?.worker(worker).start().await?;
    running.log().append(vec![NewMessage::new("counts/add", r#"{"amount":1}"#); 20].into()).await?;
    running.finished().await?;
    assert_eq!(running.key::<u64>("caller", "done").await?, Some(20));
    assert!(dead_letters(&running).await?.is_empty());
    running.shutdown().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_command_that_cannot_be_appended_buries_the_message_and_says_why() -> anyhow::Result<()> {
    async fn stateful(cx: Context<()>, add: Add) -> Outcome {
        match add.amount {
            1 => cx.append(&Tell { total: 1 })?,
            _ => cx.append(&Add { amount: 0 })?,
        }
        Ok(Done)
    }
    let told = AppState::new(|| 0_u64).apply(|total, tell: &Tell| *total = tell.total);
    let worker = Worker::new("appender", "Appends", ()).on(stateful);
    let running = App::memory().await?.worker(worker).state(&told).start().await?;
    running.executor().execute(Add { amount: 1 }).await?;
    running.executor().execute(Add { amount: 2 }).await?;
    running.idle().await?;
    let reasons: Vec<_> = dead_letters(&running).await?.into_iter().map(|letter| letter.reason).collect();
    assert!(reasons[0].contains("touches the application's state"), "{reasons:?}");
    assert!(reasons[1].contains("amount must be at least 1"), "{reasons:?}");
    running.shutdown().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_addition_to_text_buries_the_message_instead_of_repeating_it_for_ever() -> anyhow::Result<()> {
    async fn count(cx: Context<()>, add: Add) -> Outcome {
        match add.amount {
            1 => cx.keys().set("total", "text")?,
            _ => cx.keys().add("total", 1)?,
        }
        Ok(Done)
    }
    let worker = Worker::new("counter", "Counts", ()).on(count);
    let running = App::memory().await?.worker(worker).start().await?;
    for amount in [1, 2] {
        running.executor().execute(Add { amount }).await?;
        running.idle().await?;
    }
    let letters = dead_letters(&running).await?;
    assert_eq!((letters.len(), letters[0].message_id, letters[0].attempts), (1, Position(2), 1));
    assert!(letters[0].reason.contains("`total`"), "{letters:?}");
    running.shutdown().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn retries_that_hang_leave_half_of_the_slots_to_what_is_fresh() -> anyhow::Result<()> {
    async fn handle(cx: Context<AtomicU64>, add: Add) -> Outcome {
        if add.amount > 1 {
            std::future::pending::<()>().await;
        }
        cx.state().fetch_add(1, Relaxed);
        Ok(Done)
    }
    const TIMEOUT: Duration = Duration::from_secs(10);
    let soon = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(1) };
    let worker = Worker::new("handler", "Hangs", AtomicU64::new(0)).on(handle);
    let worker = worker.concurrency(4).timeout(TIMEOUT).attempts(1_000).backoff(soon);
    let running = App::memory().await?.worker(worker).start().await?;
    let messages = |amount: u64, count| {
        let payload = format!(r#"{{"amount":{amount}}}"#);
        Append::from(vec![NewMessage::new("counts/add", payload); count])
    };
    running.log().append(messages(2, 40)).await?;
    tokio::time::sleep(TIMEOUT * 20).await;
    let handled = || running.workers().handles()[0].info().counters.handled;
    assert_eq!(handled(), 0);
    running.log().append(messages(1, 500)).await?;
    // What was claimed while there was nothing fresh comes to its end: what runs, and as many that wait for a slot.
    tokio::time::sleep(TIMEOUT * 2 + Duration::from_secs(1)).await;
    assert_eq!(handled(), 500);
    running.shutdown().await?;
    Ok(())
}
