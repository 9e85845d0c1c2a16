//! What a worker is done with: the messages from which its state in memory is rebuilt.

use std::{collections::HashSet, sync::Arc};

use outboard_core::{
    Ledger, Log, PortError, Position, Time, TypeSet,
    cursor::WINDOW,
    ledger::{DeadQuery, Fate, OpenWorker, Start, WorkerName, WorkerRow},
    log::Limit,
};

use crate::{replay::replay, worker::Replayer};

/// How many dead letters one page has.
const DEAD_PAGE: usize = 1_000;

/// How many positions one step of the search for running rows covers.
const SEARCH: u64 = 4_096;

/// Rebuilds a worker's state: replays every message that will not be delivered to it (again). The worker must not run.
///
/// A worker that was never seen is opened first, so that what it replays ends exactly where its deliveries begin.
pub(super) async fn rebuild(
    log: &dyn Log,
    ledger: &dyn Ledger,
    worker: &WorkerName,
    start: Start,
    mut replayer: Replayer,
) -> Result<(), PortError> {
    let row = seen(ledger, worker, start).await?;
    let left_out = undone_below(log, ledger, &row, &replayer.types).await?;
    let each = &mut replayer.each;
    let count = replay(log, replayer.types.clone(), Position::START, row.low, |message| {
        if !left_out.contains(&message.id) {
            each(message);
        }
    })
    .await?;
    if row.done_above > 0 {
        replay_above(log, ledger, &row, &mut replayer).await?;
    }
    tracing::debug!(%worker, messages = count, "the worker's state is rebuilt");
    Ok(())
}

async fn seen(ledger: &dyn Ledger, worker: &WorkerName, start: Start) -> Result<WorkerRow, PortError> {
    let row = |rows: Vec<WorkerRow>| rows.into_iter().find(|row| row.name == *worker);
    if let Some(row) = row(ledger.workers().await?) {
        return Ok(row);
    }
    let opened = ledger.open(OpenWorker { worker: worker.clone(), start, claims: 0 }).await?;
    ledger.release(worker.clone(), opened.epoch).await?;
    let missing = || {
        PortError::new(outboard_core::Kind::Corrupt, format!("the worker `{worker}` was opened and is gone"))
    };
    row(ledger.workers().await?).ok_or_else(missing)
}

/// What lies at or below the low-water mark without having been handled: parked messages and dead letters.
async fn undone_below(
    log: &dyn Log,
    ledger: &dyn Ledger,
    row: &WorkerRow,
    types: &TypeSet,
) -> Result<HashSet<Position>, PortError> {
    let mut undone = HashSet::new();
    let mut running = 0;
    if row.parked > 0 {
        let max = usize::try_from(row.parked).unwrap_or(usize::MAX);
        let waiting = ledger.due(row.name.clone(), Time::MAX, max).await?.rows;
        running = row.parked.saturating_sub(waiting.len() as u64);
        undone.extend(waiting.iter().map(|parked| parked.position));
    }
    if row.dead > 0 {
        let mut query = DeadQuery { worker: Some(row.name.clone()), max: DEAD_PAGE, after: 0 };
        loop {
            let page = ledger.dead(query.clone()).await?;
            undone.extend(page.letters.iter().map(|letter| letter.message_id));
            let Some(next) = page.next else { break };
            query.after = next;
        }
    }
    // Rows of stragglers and suspects are never due, so the ledger does not list them. They are few and near the end.
    let mut end = row.low;
    while running > 0 && end > Position::START {
        let begin = Position(end.0.saturating_sub(SEARCH));
        let mut candidates = Vec::new();
        replay(log, types.clone(), begin, end, |message| candidates.push(message.id)).await?;
        for position in candidates.into_iter().rev() {
            if !undone.contains(&position) && fate(ledger, &row.name, position).await? != Fate::Done {
                undone.insert(position);
                running = running.saturating_sub(1);
            }
        }
        end = begin;
    }
    Ok(undone)
}

/// Above the low-water mark the ledger is asked for each message; there are at most as many as a cursor's window holds.
async fn replay_above(
    log: &dyn Log,
    ledger: &dyn Ledger,
    row: &WorkerRow,
    replayer: &mut Replayer,
) -> Result<(), PortError> {
    let end = Position(row.low.0 + WINDOW);
    let mut after = row.low;
    loop {
        let page = log.read(after, replayer.types.clone(), Limit::messages(1_000)).await?;
        for message in page.messages.iter().take_while(|message| message.id <= end) {
            if fate(ledger, &row.name, message.id).await? == Fate::Done {
                (replayer.each)(message);
            }
        }
        if page.next <= after || page.next >= end {
            return Ok(());
        }
        after = page.next;
    }
}

async fn fate(ledger: &dyn Ledger, worker: &Arc<str>, position: Position) -> Result<Fate, PortError> {
    let fates = ledger.fates(position).await?;
    Ok(fates.into_iter().find(|(name, _)| name == worker).map_or(Fate::Pending, |(_, fate)| fate))
}
