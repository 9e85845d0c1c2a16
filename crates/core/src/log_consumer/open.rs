//! Where a worker goes on after a stop, clean or not.

use std::collections::VecDeque;

use tokio::sync::watch;

use super::{
    CRASHES_TO_BURY, LogConsumerOptions,
    state::{Held, State},
};
use crate::{
    error::PortError,
    ledger::{Ledger, NewDead, OpenWorker, Opened, Parked, ParkedChange, ParkedState, Unit},
    log::{Limit, Log},
};

/// What an opened worker begins with.
pub(super) struct Opening {
    pub(super) epoch: u64,
    pub(super) state: State,
    pub(super) revived: watch::Receiver<u64>,
}

/// Opens the worker, buries what crashed too often, and collects what must run alone.
pub(super) async fn open(
    log: &dyn Log,
    ledger: &dyn Ledger,
    options: &LogConsumerOptions,
) -> Result<Opening, PortError> {
    let worker = options.worker.clone();
    let request = OpenWorker { worker, start: options.start, claims: options.most_claims() };
    let mut opened = ledger.open(request).await?;
    let (buried, kept): (Vec<_>, Vec<_>) =
        std::mem::take(&mut opened.running).into_iter().partition(|row| row.crashes >= CRASHES_TO_BURY);
    opened.parked = opened.parked.saturating_sub(buried.len() as u64);
    bury(ledger, options, &opened, &buried).await?;
    let running = with_messages(log, kept).await?;
    let (suspects, running) = if opened.clean {
        // Whatever ran at a clean stop was given back; a suspect is still one.
        running.into_iter().partition(|held| held.crashes.is_some())
    } else {
        // Whatever had a row to run with may have been running.
        let mut suspects: VecDeque<_> = running.into_iter().map(suspected).collect();
        suspects.extend(claimed_from_log(log, options, &opened).await?);
        suspects.extend(claimed_from_parked(log, ledger, options, &opened).await?);
        (suspects, VecDeque::new())
    };
    let state = State::new(options.clone(), &opened, suspects, running);
    Ok(Opening { epoch: opened.epoch, state, revived: opened.revived })
}

/// Makes dead letters of what crashed the process every time it ran alone.
async fn bury(
    ledger: &dyn Ledger,
    options: &LogConsumerOptions,
    opened: &Opened,
    rows: &[Parked],
) -> Result<(), PortError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut unit = Unit::of(options.worker.clone(), opened.epoch);
    for row in rows {
        let reason =
            format!("the process crashed {} times in a row while only this message ran alone", row.crashes);
        tracing::error!(worker = %options.worker, message_id = %row.position, "{reason}; it is a dead letter now");
        unit.parked.push(ParkedChange::Remove(row.position));
        let attempts = row.attempts + row.crashes;
        unit.dead.push(NewDead { position: row.position, reason: reason.into(), attempts });
    }
    ledger.commit(vec![unit]).await?;
    Ok(())
}

/// The first messages that are not done: the last holder can have claimed no other ones of the log.
async fn claimed_from_log(
    log: &dyn Log,
    options: &LogConsumerOptions,
    opened: &Opened,
) -> Result<Vec<Held>, PortError> {
    let now = options.clock.now();
    let mut found = Vec::new();
    let mut after = opened.cursor.low();
    while found.len() < opened.claims as usize && after < opened.cursor.limit() {
        let scan = (opened.cursor.limit().0 - after.0).min(1_000) as usize;
        let limit = Limit { scan, ..Limit::messages(opened.claims as usize) };
        let page = log.read(after, options.types.clone(), limit).await?;
        if page.next == after {
            break;
        }
        after = page.next;
        // What is scheduled for later was not delivered, and as a suspect it would run before its time.
        let undone = page.messages.into_iter().filter(|message| {
            !opened.cursor.is_done(message.id) && message.run_at.is_none_or(|run_at| run_at <= now)
        });
        let room = opened.claims as usize - found.len();
        found.extend(undone.take(room).map(|message| Held {
            message,
            attempts: 0,
            parked: false,
            crashes: Some(0),
            was_due: false,
        }));
    }
    Ok(found)
}

/// The first parked messages that are due: the last holder can have claimed no other ones.
async fn claimed_from_parked(
    log: &dyn Log,
    ledger: &dyn Ledger,
    options: &LogConsumerOptions,
    opened: &Opened,
) -> Result<Vec<Held>, PortError> {
    let now = options.clock.now();
    if opened.next_due.is_none_or(|due| due > now) {
        return Ok(Vec::new());
    }
    let page = ledger.due(options.worker.clone(), now, opened.claims as usize).await?;
    let rows = with_messages(log, page.rows).await?;
    Ok(rows.into_iter().map(suspected).collect())
}

fn suspected(held: Held) -> Held {
    Held { crashes: Some(held.crashes.unwrap_or(0)), ..held }
}

/// Rows with their messages; a row whose message is gone stays for [`State::take_due`] to bury.
async fn with_messages(log: &dyn Log, rows: Vec<Parked>) -> Result<VecDeque<Held>, PortError> {
    let messages = log.get(rows.iter().map(|row| row.position).collect()).await?;
    let held = rows.into_iter().zip(messages).filter_map(|(row, message)| {
        let suspect = row.state == ParkedState::Suspect || row.crashes > 0;
        let crashes = suspect.then_some(row.crashes);
        let attempts = row.attempts;
        Some(Held { message: message?, attempts, parked: true, crashes, was_due: false })
    });
    Ok(held.collect())
}
