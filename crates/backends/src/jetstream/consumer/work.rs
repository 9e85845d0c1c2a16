//! Reads and writes that one message needs before it goes on.

use std::{pin::Pin, sync::Arc, time::Duration};

use outboard_core::PortError;
use tokio::time::Instant;

use super::{
    Shared,
    claims::{Claim, Stage, Storing},
    records::{self, Record, Subject},
    state::State,
};
use crate::jetstream::{
    letters::{Letter, bury},
    protocol::connection::Connection,
};

/// How long one of these may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Something that is being read or stored.
pub(super) type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What came of it, and for which message.
pub(super) struct Outcome {
    pub(super) sequence: u64,
    pub(super) result: Result<Finding, PortError>,
}

pub(super) enum Finding {
    /// What is known of earlier attempts.
    Looked(Option<Record>),
    /// Stored; an attempt at this position.
    Stored(u64),
}

/// Begins what a claim waits for, if it waits for anything.
pub(super) fn begin(
    shared: &Arc<Shared>,
    state: &State,
    connection: &Connection,
    sequence: u64,
) -> Option<Work> {
    let mut last_kind = "".into();
    let claim = state.claims.get(&sequence)?;
    let connection = connection.clone();
    let deadline = Instant::now() + WITHIN;
    let subject = Subject {
        stream: shared.queue.name.clone(),
        durable: state.consumer.clone(),
        sequence,
        stored_ns: claim.origin.stored_ns,
    };
    Some(match &claim.stage {
        Stage::Looking => Box::pin(async move {
            let result = records::find(&connection, &subject, deadline).await.map(Finding::Looked);
            Outcome { sequence, result }
        }),
        Stage::Storing { what, .. } => match &**what {
            Storing::Attempt(_) => {
                let what = what.clone();
                Box::pin(async move {
                    let Storing::Attempt(record) = &*what else {
                        unreachable!("it was one when it was begun")
                    };
                    let result =
                        records::keep(&connection, &subject, record, deadline).await.map(Finding::Stored);
                    Outcome { sequence, result }
                })
            }
            Storing::Letter { reason } => {
                let message = shared.reader.message(&claim.incoming, &claim.origin, &mut last_kind);
                let letter = letter(shared, claim, reason.clone(), message);
                Box::pin(async move {
                    let result = bury(&connection, &letter, deadline).await.map(|()| Finding::Stored(0));
                    Outcome { sequence, result }
                })
            }
        },
        Stage::Ready | Stage::Handed | Stage::Answering { .. } => return None,
    })
}

fn letter(shared: &Shared, claim: &Claim, reason: Arc<str>, message: outboard_core::Message) -> Letter {
    Letter {
        stream: shared.queue.name.clone(),
        sequence: claim.origin.sequence,
        stored_ns: claim.origin.stored_ns,
        subject: claim.incoming.subject().to_owned(),
        worker: shared.worker.clone(),
        reason,
        attempts: claim.attempts().saturating_add(1),
        history: claim.record.as_ref().map(|record| record.history.clone()).unwrap_or_default(),
        message,
    }
}
