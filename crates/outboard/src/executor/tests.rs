//! The executor against the engine in memory.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use outboard_core::{Clock, Kind, Position, fault::Faults, time::system_clock};
use outboard_embedded::{Embedded, MemoryDisk, Options};
use serde::{Deserialize, Serialize};

use crate::{App, AppError, AppState, Command, ExecuteError, Invalid, Running};

/// Takes one item out of the stock.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "stock/take")]
struct Take {
    customer: u64,
}

/// Gives a name to somebody; each name once.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "names/claim")]
struct Claim {
    #[command(required)]
    name: String,
    #[serde(default)]
    ballast: String,
}

/// A command that only panics when it is applied for the first time.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "names/stumble")]
struct Stumble {}

impl Claim {
    fn light(name: &str) -> Self {
        Self { name: name.to_string(), ballast: String::new() }
    }

    /// Does not fit into a full database.
    fn heavy(name: &str) -> Self {
        Self { name: name.to_string(), ballast: "x".repeat(400_000) }
    }
}

fn names() -> AppState<BTreeSet<String>> {
    AppState::new(BTreeSet::new)
        .validate_with(|names, claim: &Claim| {
            if names.contains(&claim.name) {
                return Err(Invalid::field("name", "taken", "is taken"));
            }
            Ok(())
        })
        .apply(|names, claim: &Claim| {
            names.insert(claim.name.clone());
        })
}

async fn started(disk: &MemoryDisk, build: impl FnOnce(App) -> App) -> Result<Running, AppError> {
    let clock: Arc<dyn Clock> = system_clock();
    let store = Embedded::memory(disk, Options { clock: clock.clone(), ..Options::default() }).await?;
    let ports = Arc::new(store);
    build(App::with_ports(ports.clone(), ports, clock, Faults::none())).start().await
}

/// From now on the database cannot grow.
fn fill(disk: &MemoryDisk) {
    disk.connection().lock().unwrap().execute_batch("PRAGMA max_page_count = 1").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_two_commands_validate_against_the_same_state() -> anyhow::Result<()> {
    const STOCK: u64 = 100;
    let judged = Arc::new(AtomicU64::new(0));
    let also_judged = judged.clone();
    let stock = AppState::new(|| STOCK)
        .validate_with(move |left, _: &Take| {
            also_judged.fetch_add(1, Ordering::Relaxed);
            let verdict =
                if *left == 0 { Err(Invalid::field("", "sold_out", "is sold out")) } else { Ok(()) };
            // Others get every chance to come between the verdict and what follows from it.
            (0..100).for_each(|_| std::thread::yield_now());
            verdict
        })
        .apply(|left, _: &Take| *left -= 1);
    let running = App::memory().await?.state(&stock).start().await?;
    let takes = (0..4 * STOCK).map(|customer| {
        let executor = running.executor().clone();
        tokio::spawn(async move { executor.execute(Take { customer }).await })
    });
    let mut taken = 0;
    for take in takes.collect::<Vec<_>>() {
        match take.await? {
            Ok(_) => taken += 1,
            Err(ExecuteError::Invalid(invalid)) => assert_eq!(invalid.fields[0].code, "sold_out"),
            Err(error) => return Err(error.into()),
        }
    }
    assert_eq!(taken, STOCK);
    assert_eq!(
        judged.load(Ordering::Relaxed),
        4 * STOCK,
        "each is judged once, by the state of its own turn"
    );
    assert_eq!(*running.log().tip().borrow(), Position(STOCK));
    assert_eq!(stock.read(|left| *left).await?, 0);
    running.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn the_state_is_rebuilt_from_the_log_at_start() -> anyhow::Result<()> {
    let disk = MemoryDisk::new()?;
    let first = names();
    let running = started(&disk, |app| app.state(&first)).await?;
    running.executor().execute(Claim::light("ada")).await?;
    running.executor().execute(Claim::light("bob")).await?;
    running.shutdown().await?;

    let second = names();
    let running = started(&disk, |app| app.state(&second)).await?;
    assert_eq!(second.read(|names| names.len()).await?, 2);
    let again = running.executor().execute(Claim::light("ada")).await;
    assert!(matches!(again, Err(ExecuteError::Invalid(_))), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn after_a_failed_commit_answers_wait_for_the_rebuilt_state() -> anyhow::Result<()> {
    let disk = MemoryDisk::new()?;
    let state = names();
    let running = started(&disk, |app| app.state(&state)).await?;
    let executor = running.executor();
    executor.execute(Claim::light("ada")).await?;
    fill(&disk);
    // The reader looks while the claim is applied and not durable: what it saw must not be what it answers.
    let (claimed, seen) =
        tokio::join!(executor.execute(Claim::heavy("bob")), state.read(|names| names.contains("bob")));
    let Err(ExecuteError::Port(error)) = claimed else { panic!("the disk is full: {claimed:?}") };
    assert_eq!(error.kind, Kind::Full);
    assert!(!seen?, "an answer told of a command that was never durable");
    assert_eq!(state.read(|names| names.iter().cloned().collect::<Vec<_>>()).await?, ["ada"]);
    Ok(())
}

#[tokio::test]
async fn a_refusal_by_what_was_never_durable_is_judged_again() -> anyhow::Result<()> {
    let disk = MemoryDisk::new()?;
    let state = names();
    let running = started(&disk, |app| app.state(&state)).await?;
    let executor = running.executor();
    fill(&disk);
    let (first, second) =
        tokio::join!(executor.execute(Claim::heavy("bob")), executor.execute(Claim::light("bob")));
    assert!(matches!(first, Err(ExecuteError::Port(_))), "{first:?}");
    assert!(!matches!(second, Err(ExecuteError::Invalid(_))), "`bob` is free: {second:?}");
    Ok(())
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_state_right() -> anyhow::Result<()> {
    let disk = MemoryDisk::new()?;
    let state = names();
    let running = started(&disk, |app| app.state(&state)).await?;
    {
        let mut abandoned = Box::pin(running.executor().execute(Claim::light("ada")));
        let first_poll = futures_util::poll!(&mut abandoned);
        assert!(first_poll.is_pending());
    }
    assert_eq!(state.read(|names| names.len()).await?, 1);
    assert_eq!(*running.log().tip().borrow(), Position(1));
    Ok(())
}

#[tokio::test]
async fn a_caller_that_waits_for_something_else_first_holds_nobody_up() -> anyhow::Result<()> {
    let disk = MemoryDisk::new()?;
    let state = names();
    let running = started(&disk, |app| app.state(&state)).await?;
    let mut unpolled = Box::pin(running.executor().execute(Claim::light("ada")));
    assert!(futures_util::poll!(&mut unpolled).is_pending());
    assert_eq!(state.read(|names| names.len()).await?, 1);
    running.executor().execute(Claim::light("bob")).await?;
    assert_eq!(unpolled.await?, Position(1));
    Ok(())
}

#[tokio::test]
async fn nothing_is_appended_that_breaks_rules_or_that_nobody_handles() -> anyhow::Result<()> {
    let state = names();
    let running = App::memory().await?.state(&state).start().await?;
    let empty = running.executor().execute(Claim::light("")).await;
    assert!(matches!(&empty, Err(ExecuteError::Invalid(invalid)) if invalid.fields[0].code == "required"));
    let stranger = running.executor().execute(Take { customer: 1 }).await;
    let Err(ExecuteError::NotRegistered { name, known }) = stranger else { panic!("{stranger:?}") };
    assert_eq!((name.as_str(), known), ("stock/take", vec!["names/claim"]));
    assert_eq!(*running.log().tip().borrow(), Position::START);
    running.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn the_door_for_bytes_keeps_the_same_rules() -> anyhow::Result<()> {
    use outboard_core::{
        NewMessage,
        log::{Append, Idempotency},
    };
    let state = names();
    let running = App::memory().await?.state(&state).command::<Take>().start().await?;
    let executor = running.executor();
    let claim = |name: &str| NewMessage::new("names/claim", format!(r#"{{"name":"{name}"}}"#));
    executor.append(vec![claim("ada")].into()).await?;
    let again = executor.append(vec![claim("ada")].into()).await;
    assert!(matches!(again, Err(ExecuteError::Invalid(_))), "{again:?}");
    let unreadable = executor.append(vec![NewMessage::new("names/claim", "{}")].into()).await;
    assert!(matches!(&unreadable, Err(ExecuteError::Invalid(invalid)) if invalid.fields[0].field == "name"));
    let batch = executor.append(vec![claim("bob"), claim("eve")].into()).await;
    assert!(matches!(&batch, Err(ExecuteError::Port(error)) if error.kind == Kind::Unsupported), "{batch:?}");
    let idempotency =
        Some(Idempotency { key: [1; 16], body: [1; 16], keep: std::time::Duration::from_secs(60) });
    let keyed = executor.append(Append { messages: vec![claim("bob")], idempotency }).await;
    assert!(matches!(&keyed, Err(ExecuteError::Port(error)) if error.kind == Kind::Unsupported), "{keyed:?}");
    let take = || NewMessage::new("stock/take", r#"{"customer":1}"#);
    let appended = executor.append(vec![take(), take()].into()).await?;
    assert_eq!((appended.first, appended.count), (Position(2), 2));
    running.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_panic_while_applying_rebuilds_the_state() -> anyhow::Result<()> {
    let stumbled = AtomicU64::new(0);
    let state = AppState::new(BTreeSet::<String>::new)
        .apply(|names, claim: &Claim| {
            names.insert(claim.name.clone());
        })
        .apply(move |names, _: &Stumble| {
            names.insert("half".to_string());
            assert!(stumbled.fetch_add(1, Ordering::Relaxed) > 0, "the first time");
            names.remove("half");
        });
    let running = App::memory().await?.state(&state).start().await?;
    running.executor().execute(Claim::light("ada")).await?;
    running.executor().execute(Stumble {}).await?;
    assert_eq!(state.read(|names| names.iter().cloned().collect::<Vec<_>>()).await?, ["ada"]);
    running.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_log_that_a_state_cannot_be_built_from_stops_the_start_and_says_where() -> anyhow::Result<()> {
    let disk = MemoryDisk::new()?;
    let running = started(&disk, |app| app).await?;
    let messages = [r#"{"name":"ada"}"#, r#"{"name":7}"#];
    let messages = messages.map(|payload| outboard_core::NewMessage::new("names/claim", payload));
    running.log().append(messages.to_vec().into()).await?;
    running.shutdown().await?;
    let error = started(&disk, |app| app.state(&names())).await.expect_err("7 is no name").to_string();
    assert!(error.contains("name cannot be read") && error.contains("in message 2 (names/claim)"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_state_belongs_to_one_app() -> anyhow::Result<()> {
    let state = names();
    let running = App::memory().await?.state(&state).start().await?;
    let second = App::memory().await?.state(&state).start().await;
    assert!(matches!(second, Err(AppError::Mistake(_))), "{second:?}");
    running.shutdown().await?;
    Ok(())
}
