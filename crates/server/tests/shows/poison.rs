//! A handler that brings the whole process down is buried after three crashes, alone.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command as Process, Stdio},
    sync::Mutex,
};

use outboard::{App, Command, Context, Done, Outcome, Worker};
use outboard_core::{
    Ledger, NewMessage, Position,
    ledger::{DeadLetter, DeadQuery, Fate},
};
use outboard_embedded::{Embedded, Options};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::http::PATIENCE;

const MESSAGES: u64 = 60;
const POISON: u64 = 5;
const CONCURRENCY: u32 = 8;

/// Where the child finds its data, and which of its lives this is.
const DIRECTORY: &str = "SHOW_POISON_DIRECTORY";
const LIFE: &str = "SHOW_POISON_LIFE";

/// Confirms an order.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "orders/confirm")]
struct ConfirmOrder {
    order_id: u64,
}

/// What the handlers see.
struct Shop {
    life: Life,
    /// One line per message begun: what the outside world would have seen.
    journal: Mutex<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The poison strikes while others run beside it.
    First,
    /// The poison strikes.
    Later,
    /// The poison is harmless.
    Mended,
}

async fn confirm(cx: Context<Shop>, order: ConfirmOrder) -> Outcome {
    let is_poison = order.order_id == POISON;
    writeln!(cx.state().journal.lock()?, "{}", order.order_id)?;
    match cx.state().life {
        Life::Later | Life::First if is_poison => std::process::abort(),
        // They are caught in the act, so that they are suspects, too.
        Life::First => std::future::pending::<()>().await,
        _ => {}
    }
    cx.keys().add("confirmed", 1)?;
    Ok(Done)
}

/// Not a test by itself: the app that the test below starts in a process of its own.
#[tokio::test]
async fn the_app_that_crashes() -> anyhow::Result<()> {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return Ok(()) };
    let life = match std::env::var(LIFE)?.as_str() {
        "first" => Life::First,
        "later" => Life::Later,
        _ => Life::Mended,
    };
    let journal = OpenOptions::new().append(true).create(true).open(directory.join("journal"))?;
    let shop = Shop { life, journal: Mutex::new(journal) };
    let worker = Worker::new("orders", "Confirms orders", shop).on(confirm).concurrency(CONCURRENCY);
    let running = App::open(directory.join("data")).await?.worker(worker).start().await?;
    if life == Life::First {
        let messages: Vec<_> = (1..=MESSAGES)
            .map(|number| NewMessage::new("orders/confirm", format!(r#"{{"order_id":{number}}}"#)))
            .collect();
        running.log().append(messages.into()).await?;
    }
    tokio::time::timeout(PATIENCE, running.finished()).await??;
    running.shutdown().await?;
    Ok(())
}

/// Runs the app until it ends; says whether it was by its own hand.
fn live(directory: &Path, life: &str) -> bool {
    let mut app = Process::new(std::env::current_exe().unwrap());
    app.args(["--exact", "poison::the_app_that_crashes", "--nocapture"]);
    app.env(DIRECTORY, directory).env(LIFE, life).current_dir(directory);
    // It cannot hang: it gives up by itself, and its end closes its output.
    let output = app.stdin(Stdio::null()).output().unwrap();
    let (told, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let aborted = output.status.signal() == Some(Signal::ABORT.as_raw());
    assert!(aborted || output.status.success(), "{}\n{told}\n{error}", output.status);
    assert!(aborted || told.contains("1 passed"), "the app did not run:\n{told}");
    aborted
}

struct Found {
    letters: Vec<DeadLetter>,
    confirmed: String,
    undone: Vec<u64>,
}

async fn look(directory: &Path, revive: bool) -> anyhow::Result<Found> {
    let storage = Embedded::open(&directory.join("data"), Options::default()).await?;
    let letters = storage.dead(DeadQuery { worker: None, max: 100, after: 0 }).await?.letters;
    let keys = storage.keys("orders".into(), vec!["confirmed".into()]).await?;
    let confirmed = keys[0].value.as_ref().map(|json| String::from_utf8_lossy(json).into_owned());
    let mut undone = Vec::new();
    for number in 1..=MESSAGES {
        let fates = storage.fates(Position(number)).await?;
        if fates.iter().any(|(_, fate)| *fate != Fate::Done) {
            undone.push(number);
        }
    }
    if revive {
        storage.revive(letters[0].id).await?;
    }
    storage.close().await;
    Ok(Found { letters, confirmed: confirmed.unwrap_or_default(), undone })
}

#[tokio::test]
async fn a_handler_that_aborts_is_buried_after_three_crashes_alone() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let mut crashes = 0;
    while live(directory.path(), if crashes == 0 { "first" } else { "later" }) {
        crashes += 1;
        assert!(crashes < 10, "it is never buried");
    }
    // Of the first crash nobody could tell which of the messages under way was to blame.
    assert_eq!(crashes, 1 + 3);
    let found = look(directory.path(), true).await?;
    assert_eq!(found.undone, [POISON], "all others are done");
    assert_eq!(found.confirmed, (MESSAGES - 1).to_string(), "each once");
    let letter = &found.letters[0];
    println!("{crashes} crashes: {}", letter.reason);
    assert_eq!((found.letters.len(), letter.message_id.0), (1, POISON));
    assert!(letter.reason.contains("crashed 3 times in a row"), "{}", letter.reason);
    let begun = begun(directory.path());
    assert_eq!(begun.iter().filter(|number| **number == POISON).count(), 4);
    let repeats = begun.len() as u64 - 4 - (MESSAGES - 1);
    println!("{repeats} effects outside were repeated");
    assert!(repeats <= crashes * 2 * u64::from(CONCURRENCY));

    assert!(!live(directory.path(), "mended"), "it comes through on retry");
    let found = look(directory.path(), false).await?;
    assert_eq!((found.letters.len(), found.undone.len()), (0, 0));
    assert_eq!(found.confirmed, MESSAGES.to_string());
    Ok(())
}

/// The messages begun, each as often as it was.
fn begun(directory: &Path) -> Vec<u64> {
    let journal = std::fs::read_to_string(directory.join("journal")).unwrap();
    journal.lines().map(|line| line.parse().unwrap()).collect()
}
