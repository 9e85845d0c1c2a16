//! What is kept of messages that failed: how often, why, and until when they wait.
//!
//! JetStream counts every delivery, also those that a crash, a lost connection or a returned message made, so its count
//! says nothing of a handler. Ours is a record in a stream beside, written before the message is put off: whoever gets
//! the message next reads it first, in whatever process and after whatever restart.

use std::sync::Arc;

use outboard_core::{Kind, PortError, Time};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::jetstream::{
    naming::{ATTEMPTS, attempts_subject},
    protocol::connection::Connection,
    stored,
};

/// At most so many reasons are kept, the latest ones.
const MAX_REASONS: usize = 16;

/// At most so many bytes of each.
const MAX_REASON_BYTES: usize = 500;

/// What is known of a message that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// When the stream got the message: positions begin anew when a stream is made anew.
    stored_ns: i64,
    /// Attempts counted.
    pub(super) attempts: u32,
    /// Not to be tried before this time.
    due_ms: i64,
    /// What they said, oldest first.
    pub(super) history: Vec<String>,
    /// Its own position, once it is kept.
    #[serde(skip)]
    pub(super) sequence: u64,
}

/// Which message a record is of.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) stream: Arc<str>,
    pub(super) durable: Arc<str>,
    pub(super) sequence: u64,
    pub(super) stored_ns: i64,
}

impl Record {
    /// One attempt more than before.
    pub(super) fn after(before: Option<&Self>, stored_ns: i64, reason: &str, due: Time) -> Self {
        let mut history = before.map(|record| record.history.clone()).unwrap_or_default();
        history.push(shortened(reason).to_owned());
        if history.len() > MAX_REASONS {
            history.remove(0);
        }
        let attempts = before.map_or(0, |record| record.attempts).saturating_add(1);
        Self { stored_ns, attempts, due_ms: due.as_millis(), history, sequence: 0 }
    }

    pub(super) fn due(&self) -> Time {
        Time::from_millis(self.due_ms)
    }

    /// The record as it is kept at this position.
    pub(super) fn at(&self, sequence: u64) -> Self {
        Self { sequence, ..self.clone() }
    }
}

/// The beginning of a reason, cut at a character.
fn shortened(reason: &str) -> &str {
    let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|&end| reason.is_char_boundary(end));
    &reason[..end.unwrap_or(0)]
}

/// Keeps a record in the place of an earlier one; returns its position.
pub(super) async fn keep(
    connection: &Connection,
    subject: &Subject,
    record: &Record,
    deadline: Instant,
) -> Result<u64, PortError> {
    let name = attempts_subject(&subject.stream, &subject.durable, subject.sequence);
    let body = serde_json::to_vec(record).expect("a record is plain data");
    stored::store(connection, &name, "", &body, deadline).await
}

/// The record of a message, if it failed before.
pub(super) async fn find(
    connection: &Connection,
    subject: &Subject,
    deadline: Instant,
) -> Result<Option<Record>, PortError> {
    let name = attempts_subject(&subject.stream, &subject.durable, subject.sequence);
    let Some(found) = stored::find(connection, ATTEMPTS, &json!({ "last_by_subj": name }), deadline).await?
    else {
        return Ok(None);
    };
    let strange =
        |what: String| PortError::new(Kind::Corrupt, format!("the record of attempts {name} {what}"));
    let record: Record = serde_json::from_slice(&found.payload())
        .map_err(|error| strange(format!("cannot be read: {error}")))?;
    let sequence = stored::sequence(&found).ok_or_else(|| strange("has no position".to_owned()))?;
    Ok((record.stored_ns == subject.stored_ns).then_some(Record { sequence, ..record }))
}

/// Removes a record whose message is settled.
pub(super) fn forget(connection: &Connection, sequence: u64) {
    stored::remove(connection, ATTEMPTS, sequence);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_reasons_are_kept_and_long_ones_are_cut() {
        let mut record = None;
        for attempt in 0..20 {
            let reason = format!("{attempt} {}", "é".repeat(400));
            record = Some(Record::after(record.as_ref(), 7, &reason, Time::from_millis(1)));
        }
        let record = record.unwrap();
        assert_eq!((record.attempts, record.history.len()), (20, MAX_REASONS));
        assert!(record.history[0].starts_with("4 ") && record.history[15].starts_with("19 "));
        assert!(record.history.iter().all(|reason| reason.len() <= MAX_REASON_BYTES));
    }
}
