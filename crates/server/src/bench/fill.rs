//! `outboard bench fill`: a data directory as a long life leaves it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use outboard_core::{
    Clock, Ledger, Log, NewMessage, Position, Time,
    ledger::{OpenWorker, Parked, ParkedChange, ParkedState, Start, Unit, WorkerName},
    log::{Append, Idempotency},
    time::SystemClock,
};
use outboard_embedded::Embedded;
use serde::Serialize;

use crate::{
    echo,
    output::{Exit, Output},
    storage,
};

const EXAMPLES: &str = "\
Examples:
  outboard bench fill --data-dir big --messages 10000000 --parked 100000 --keys 1000000
  outboard up --data-dir big

The worker `echo` is done with all messages but the parked ones, which are due in an hour.";

/// Arguments of `outboard bench fill`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FillArgs {
    /// The directory; it is made if it does not exist.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// How many messages to append.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// How many of them to leave parked.
    #[arg(long, default_value_t = 0)]
    parked: u64,
    /// How many appends carry an idempotency key (each such append holds one message).
    #[arg(long, default_value_t = 0)]
    keys: u64,
    /// The payload's size in bytes.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(32..=1_000_000))]
    payload: u32,
    /// The worker that has handled the messages.
    #[arg(long, default_value = "echo")]
    worker: String,
    /// The messages' type.
    #[arg(long, value_name = "TYPE", default_value = echo::TYPE)]
    kind: String,
}

/// How many messages go into one append without a key.
const BATCH: u64 = 1_000;

/// How many messages are marked as done at once; the window above the low-water mark holds no more.
const DONE_AT_ONCE: u64 = 65_536;

/// How many appends wait for the writer at once.
const IN_FLIGHT: usize = 4_096;

/// How long idempotency keys are kept, and when the parked messages are due.
const KEEP: Duration = Duration::from_secs(24 * 3_600);
const DUE_IN: Duration = Duration::from_secs(3_600);

#[derive(Debug, Serialize)]
struct Filled {
    messages: u64,
    parked: u64,
    keys: u64,
    seconds: f64,
}

/// Fills a directory.
pub(crate) fn run(args: &FillArgs, output: Output) -> Result<(), Exit> {
    if args.parked > args.messages || args.keys > args.messages {
        return Err(Exit::usage("--parked and --keys cannot be more than --messages"));
    }
    let begun = std::time::Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Exit::failure(format_args!("cannot start the runtime: {error}")))?;
    runtime.block_on(fill(args))?;
    let seconds = begun.elapsed().as_secs_f64();
    let filled = Filled { messages: args.messages, parked: args.parked, keys: args.keys, seconds };
    let text = format!(
        "{} messages, {} parked, {} idempotency keys in {seconds:.1} s",
        filled.messages, filled.parked, filled.keys
    );
    output.record(&filled, text)?;
    Ok(())
}

async fn fill(args: &FillArgs) -> Result<(), Exit> {
    let storage = storage::open(&args.data_dir).await.map_err(Exit::failure)?;
    let result = fill_open(args, &storage).await;
    storage.close().await;
    result.map_err(Exit::failure)
}

async fn fill_open(args: &FillArgs, storage: &Embedded) -> Result<(), outboard_core::PortError> {
    let worker: WorkerName = args.worker.as_str().into();
    let open = OpenWorker { worker: worker.clone(), start: Start::End, claims: 1 };
    let opened = Ledger::open(storage, open).await?;
    let before = *storage.tip().borrow();
    append(args, storage).await?;
    let last = *storage.tip().borrow();
    let due = SystemClock.now() + DUE_IN;
    // The last positions are parked, so that the work to be done lies beside the log's end, as it does in life.
    let handled = Position(last.0 - args.parked);
    let mut after = before;
    while after < last {
        // The done marks follow the low-water mark without a gap.
        let is_parked = after >= handled;
        let end = if is_parked { last.0.min(after.0 + BATCH) } else { handled.0.min(after.0 + DONE_AT_ONCE) };
        let mut unit = Unit::of(worker.clone(), opened.epoch);
        if is_parked {
            unit.parked = (after.0 + 1..=end).map(|position| park(Position(position), due)).collect();
        }
        unit.done = vec![(after.next(), Position(end))];
        storage.commit(vec![unit]).await?;
        after = Position(end);
    }
    storage.release(worker, opened.epoch).await
}

fn park(position: Position, due: Time) -> ParkedChange {
    let reason: Arc<str> = "filled by bench".into();
    ParkedChange::Put(Parked { position, state: ParkedState::Retry, due, attempts: 1, crashes: 0, reason })
}

async fn append(args: &FillArgs, storage: &Embedded) -> Result<(), outboard_core::PortError> {
    let kind: Arc<str> = args.kind.as_str().into();
    let filler = "x".repeat((args.payload as usize).saturating_sub(30));
    let message = |n: u64| NewMessage::new(kind.clone(), format!(r#"{{"n":{n},"text":"{filler}"}}"#));
    let mut waiting = std::collections::VecDeque::new();
    let mut n = 0;
    while n < args.messages {
        let append = if n < args.keys {
            let key =
                (u128::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes();
            let idempotency = Some(Idempotency { key, body: key, keep: KEEP });
            Append { messages: vec![message(n)], idempotency }
        } else {
            let end = args.messages.min(n + BATCH);
            Append { messages: (n..end).map(message).collect(), idempotency: None }
        };
        n += append.messages.len() as u64;
        let most = if append.messages.len() > 1 { 8 } else { IN_FLIGHT };
        while waiting.len() >= most {
            if let Some(oldest) = waiting.pop_front() {
                let oldest: outboard_core::Fut<'static, outboard_core::log::Appended> = oldest;
                oldest.await?;
            }
        }
        waiting.push_back(storage.append(append));
    }
    for append in waiting {
        append.await?;
    }
    Ok(())
}
