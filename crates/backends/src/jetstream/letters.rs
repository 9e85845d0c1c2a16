//! Dead letters: a stream beside each queue's own.

use std::sync::Arc;

use outboard_core::{Kind, PortError, Time, queue::DeadMessage};
use serde_json::json;
use tokio::time::Instant;

use super::{
    naming::{
        DEAD_ATTEMPTS, DEAD_HISTORY, DEAD_ID, DEAD_REASON, DEAD_SEQUENCE, DEAD_SUBJECT, DEAD_WORKER, ID,
        TYPE, dead_stream,
    },
    protocol::{connection::Connection, headers},
    stored, topology,
};

/// What of a reason fits beside the largest payload.
const SHORT_REASON_BYTES: usize = 256;

/// A message that is given up.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) stream: Arc<str>,
    pub(crate) sequence: u64,
    pub(crate) stored_ns: i64,
    pub(crate) subject: String,
    pub(crate) worker: Arc<str>,
    pub(crate) reason: Arc<str>,
    pub(crate) attempts: u32,
    pub(crate) history: Vec<String>,
    pub(crate) message: outboard_core::Message,
}

impl Letter {
    /// Its headers; the short form leaves out what could be missed, for a payload as large as the server takes.
    fn headers(&self, is_short: bool) -> String {
        let mut block = headers::Block::new();
        // Not the message's own id: it may have died before, and been published again by hand.
        block.push_own(ID, &format!("{}:{}:{}:dead", self.stream, self.sequence, self.stored_ns));
        block.push_own(DEAD_ID, self.message.name.as_deref().unwrap_or_default());
        block.push_own(TYPE, &self.message.kind);
        block.push_own(DEAD_ATTEMPTS, &self.attempts.to_string());
        block.push_own(DEAD_WORKER, &self.worker);
        block.push_own(DEAD_SUBJECT, &self.subject);
        block.push_own(DEAD_SEQUENCE, &self.sequence.to_string());
        if is_short {
            let end = (0..=SHORT_REASON_BYTES.min(self.reason.len())).rev();
            let end = end.into_iter().find(|&end| self.reason.is_char_boundary(end)).unwrap_or(0);
            block.push_own(DEAD_REASON, &self.reason[..end]);
            return block.finish();
        }
        block.push_own(DEAD_REASON, &self.reason);
        let history = serde_json::to_string(&self.history).expect("texts are JSON");
        block.push_own(DEAD_HISTORY, &history);
        for (name, value) in self.message.headers.iter() {
            if !name.starts_with("Nats-") {
                // It came as a header, so it can go as one.
                let _ = block.push(name, value);
            }
        }
        block.finish()
    }
}

/// Puts a message among the dead letters, once however often it is called within two minutes.
pub(crate) async fn bury(
    connection: &Connection,
    letter: &Letter,
    deadline: Instant,
) -> Result<(), PortError> {
    let stream = dead_stream(&letter.stream);
    let payload = &letter.message.payload;
    let mut headers = letter.headers(false);
    if headers.len() + payload.len() > connection.info().max_payload {
        headers = letter.headers(true);
    }
    match stored::store(connection, &stream, &headers, payload, deadline).await {
        Err(error) if error.kind == Kind::NotFound => {}
        Err(error) if error.kind == Kind::Invalid => {
            let text = format!(
                "the message {} cannot become a dead letter: {error}; raise `max_payload` by a kibibyte",
                letter.sequence
            );
            return Err(PortError::new(Kind::Full, text));
        }
        stored => return stored.map(drop),
    }
    let replicas = super::api::stream_info(connection, &letter.stream).await?.config["num_replicas"].clone();
    topology::make_dead_stream(connection, &stream, &replicas).await?;
    stored::store(connection, &stream, &headers, payload, deadline).await.map(drop)
}

/// Dead letters of a queue, oldest first, at most `max`.
pub(crate) async fn list(
    connection: &Connection,
    queue: &str,
    max: usize,
    deadline: Instant,
) -> Result<Vec<DeadMessage>, PortError> {
    let stream = dead_stream(queue);
    let state = match super::api::stream_info(connection, &stream).await {
        Err(error) if error.kind == Kind::NotFound => return Ok(Vec::new()),
        info => info?.state,
    };
    let mut letters = Vec::new();
    let mut from = state.first_seq;
    while letters.len() < max && from <= state.last_seq && state.messages > 0 {
        let query = json!({ "seq": from, "next_by_subj": stream });
        let Some(found) = stored::find(connection, &stream, &query, deadline).await? else { break };
        from = stored::sequence(&found).unwrap_or(from) + 1;
        let value = |name| headers::value(found.headers(), name);
        let history = value(DEAD_HISTORY).and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
        letters.push(DeadMessage {
            id: value(DEAD_ID).map(Into::into),
            kind: value(TYPE).unwrap_or_default().into(),
            payload: found.payload(),
            reason: value(DEAD_REASON).unwrap_or_default().into(),
            attempts: value(DEAD_ATTEMPTS).and_then(|text| text.parse().ok()).unwrap_or_default(),
            at: stored::stored_at(&found),
            history: history.unwrap_or_default().into_iter().map(Into::into).collect(),
        });
    }
    Ok(letters)
}

/// When the oldest message at or after this position came, in a stream that can be read directly.
pub(crate) async fn oldest(
    connection: &Connection,
    stream: &str,
    from: u64,
    deadline: Instant,
) -> Result<Option<Time>, PortError> {
    let query = json!({ "seq": from, "next_by_subj": ">" });
    match stored::find(connection, stream, &query, deadline).await {
        Ok(found) => Ok(found.as_ref().and_then(stored::stored_at)),
        // A stream of somebody else need not allow it; then it is not known.
        Err(error) if error.kind == Kind::Unavailable => Ok(None),
        Err(error) => Err(error),
    }
}
