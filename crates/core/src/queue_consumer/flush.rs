//! The background task that commits effects and notes, and then acknowledges.

use std::{sync::Arc, time::Duration};

use super::{Shared, state::Settled};
use crate::{
    consumer::{Effects, Settlement, Verdict},
    error::{Kind, PortError},
    ledger::{KeyWrite, Unit, UnitResult},
};

/// How long to wait before a commit that was refused is tried again.
pub(super) const REFUSED_WAIT: Duration = Duration::from_millis(100);

/// A commit takes no further unit with which it would have more bytes than this. The first one always goes.
const COMMIT_BYTES: usize = 2 << 20;

/// Commits until the consumer fails or is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        shared.flush.notified().await;
        if let Err(error) = flush(&shared).await {
            tracing::error!(worker = %shared.worker, %error, "the worker cannot commit any more");
            shared.lock().failed = Some(error);
            shared.wake.notify_one();
            return;
        }
    }
}

/// Commits until nothing is pending.
async fn flush(shared: &Shared) -> Result<(), PortError> {
    loop {
        let (note, settled) = take_pending(shared);
        if note.is_none() && settled.is_empty() {
            return Ok(());
        }
        let is_noted = note.is_some();
        let mut units: Vec<Unit> = note
            .map(|write| Unit { writes: vec![write], ..Unit::of(shared.worker.clone(), shared.epoch) })
            .into_iter()
            .collect();
        units.extend(settled.iter().map(|settled| unit_of(shared, settled)));
        let mut results = commit(shared, &units).await?.into_iter();
        if is_noted {
            noted(shared, results.next())?;
        }
        for (settled, result) in settled.into_iter().zip(results) {
            committed(shared, settled, result)?;
        }
        if shared.durable.receiver_count() == 0 {
            shared.lock().tickets.forget();
        } else {
            let durable = *shared.queue.durable().borrow();
            shared.tell_durable(durable);
        }
    }
}

fn take_pending(shared: &Shared) -> (Option<KeyWrite>, Vec<Settled>) {
    let mut state = shared.lock();
    let note = state.suspects.note();
    let mut bytes = 0_usize;
    let fits = |settled: &&Settled| {
        let is_first = bytes == 0;
        bytes = bytes.saturating_add(settled.effects.bytes().max(1));
        is_first || bytes <= COMMIT_BYTES
    };
    let going = state.effects.iter().take_while(fits).count();
    (note, state.effects.drain(..going).collect())
}

/// A message without an id of its own leaves none behind: its effects happen at least once.
fn unit_of(shared: &Shared, settled: &Settled) -> Unit {
    let Effects { guards, writes, appends } = settled.effects.clone();
    let name = settled.delivery.message.name.clone();
    let inbox = name.filter(|_| settled.delivery.is_identified);
    Unit { guards, writes, appends, inbox, ..Unit::of(shared.worker.clone(), shared.epoch) }
}

/// Commits the units, through refusals: settling must go on when the disk has room again.
async fn commit(shared: &Shared, units: &[Unit]) -> Result<Vec<UnitResult>, PortError> {
    loop {
        match shared.ledger.commit(units.to_vec()).await {
            Ok(results) => {
                shared.lock().trouble = None;
                return Ok(results);
            }
            Err(error) if error.is_transient() && error.kind != Kind::Unknown => {
                shared.lock().trouble = Some(error);
                tokio::time::sleep(REFUSED_WAIT).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The note on suspects is durable.
fn noted(shared: &Shared, result: Option<UnitResult>) -> Result<(), PortError> {
    if result != Some(UnitResult::Applied(None)) {
        return Err(lost(shared, result.as_ref()));
    }
    shared.lock().noted();
    shared.wake.notify_one();
    Ok(())
}

/// What follows the commit of one delivery's effects.
fn committed(shared: &Shared, settled: Settled, result: UnitResult) -> Result<(), PortError> {
    let Settled { delivery, ticket, .. } = settled;
    let verdict = match result {
        UnitResult::Applied(_) => Verdict::Done,
        UnitResult::Repeated => {
            tracing::debug!(
                worker = %shared.worker, message_id = %delivery.message.id(),
                "the message was done before; its effects were left out"
            );
            Verdict::Done
        }
        UnitResult::Conflict => {
            // The attempt did not happen. Its ticket counts as durable: the next one stands for the message.
            let mut state = shared.lock();
            state.tickets.acknowledged(ticket, 0);
            state.again(delivery);
            shared.wake.notify_one();
            return Ok(());
        }
        UnitResult::Refused(reason) => {
            tracing::error!(
                worker = %shared.worker, message_id = %delivery.message.id(), "{reason}; it is a dead letter now"
            );
            Verdict::Dead { reason }
        }
        UnitResult::Fenced => return Err(lost(shared, Some(&UnitResult::Fenced))),
    };
    let mut state = shared.lock();
    let of_queue = shared.queue.settle(Settlement { tag: delivery.tag, verdict, effects: None });
    state.tickets.acknowledged(ticket, of_queue);
    Ok(())
}

fn lost(shared: &Shared, result: Option<&UnitResult>) -> PortError {
    match result {
        Some(UnitResult::Fenced) => {
            let text = format!("another holder has taken over worker `{}`", shared.worker);
            PortError::new(Kind::Fenced, text)
        }
        other => {
            let text = format!("the ledger did not take the notes of worker `{}`: {other:?}", shared.worker);
            PortError::new(Kind::Corrupt, text)
        }
    }
}
