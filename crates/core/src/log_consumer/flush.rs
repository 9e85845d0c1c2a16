//! The background task that commits what was settled.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Shared, settling::Sent};
use crate::{
    error::PortError,
    fault::Point,
    ledger::{Unit, UnitResult},
};

/// How long to wait before a commit that was refused is tried again.
const REFUSED_WAIT: Duration = Duration::from_millis(100);

/// Commits until the consumer fails or is dropped.
pub(super) async fn run(shared: Arc<Shared>, mut revived: watch::Receiver<u64>) {
    let mut seen = *revived.borrow();
    loop {
        tokio::select! {
            () = shared.flush.notified() => {}
            Ok(()) = revived.changed() => {
                let revived = *revived.borrow_and_update();
                shared.lock().rows_came(revived - std::mem::replace(&mut seen, revived));
                shared.wake_next();
                continue;
            }
        }
        if let Err(error) = flush(&shared).await {
            tracing::error!(worker = %shared.options.worker, %error, "the worker cannot commit any more");
            shared.lock().failed = Some(error);
            shared.settled.notify_waiters();
            shared.wake_next();
            return;
        }
    }
}

/// Commits until nothing is pending.
async fn flush(shared: &Shared) -> Result<(), PortError> {
    loop {
        let Some(sent) = shared.lock().take_pending() else { return Ok(()) };
        shared.options.faults.reach(Point::UnitsBuilt)?;
        if sent.iter().any(Sent::is_suspect_row) {
            shared.options.faults.reach(Point::SuspectRow)?;
        }
        let results = commit(shared, &sent).await?;
        shared.options.faults.reach(Point::Acknowledged)?;
        // What was refused is pending again, as a dead letter: the next round commits it.
        let ticket = shared.lock().committed(sent, results, shared.options.clock.now());
        shared.durable.send_replace(ticket);
        shared.settled.notify_waiters();
        shared.wake_next();
    }
}

/// Commits the units, through refusals: settling must go on when the disk has room again.
async fn commit(shared: &Shared, sent: &[Sent]) -> Result<Vec<UnitResult>, PortError> {
    let units = || sent.iter().map(|sent| sent.unit.clone()).collect::<Vec<Unit>>();
    loop {
        match shared.ledger.commit(units()).await {
            Ok(results) => {
                shared.lock().trouble = None;
                return Ok(results);
            }
            Err(error) if error.is_transient() && error.kind != crate::Kind::Unknown => {
                shared.lock().trouble = Some(error);
                tokio::time::sleep(REFUSED_WAIT).await;
            }
            Err(error) => return Err(error),
        }
    }
}
