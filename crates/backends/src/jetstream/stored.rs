//! What a stream answers when something was published to it.

use outboard_core::{Kind, PortError, Time};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    api::ApiError,
    protocol::{connection::Connection, frame::Incoming, headers},
};

#[derive(Deserialize)]
struct Answer {
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
}

/// Where a stream has put a message. `NotFound` when no stream takes its subject.
pub(crate) fn position(incoming: &Incoming) -> Result<u64, PortError> {
    if incoming.status() == Some(503) {
        return Err(PortError::new(Kind::NotFound, "no stream takes this subject"));
    }
    let answer: Answer = serde_json::from_slice(&incoming.payload()).map_err(|error| {
        let text =
            format!("what answered is no stream ({error}); does somebody else listen on this subject?");
        PortError::new(Kind::Corrupt, text)
    })?;
    answer.error.map_or(Ok(answer.seq), |error| Err(error.meaning()))
}

/// Publishes one message and waits until a stream has it.
pub(crate) async fn store(
    connection: &Connection,
    subject: &str,
    headers: &str,
    payload: &[u8],
    deadline: Instant,
) -> Result<u64, PortError> {
    let max = connection.info().max_payload;
    if headers.len() + payload.len() > max {
        let text = format!(
            "{} bytes are more than the server's `max_payload` of {max}",
            headers.len() + payload.len()
        );
        return Err(PortError::new(Kind::Invalid, text));
    }
    let reply = connection.request(subject, headers, payload)?.by(deadline).await;
    let incoming = reply.map_err(|error| connection.forbidden(subject).unwrap_or(error))?;
    position(&incoming)
}

/// Removes one message of a stream without waiting for an answer: who calls this can live with its being left.
pub(crate) fn remove(connection: &Connection, stream: &str, sequence: u64) {
    let body = serde_json::json!({ "seq": sequence, "no_erase": true }).to_string();
    let _ = connection.request(&format!("$JS.API.STREAM.MSG.DELETE.{stream}"), "", body.as_bytes());
}

/// One message of a stream that allows direct reads: the one that this query, a JSON object, finds.
pub(crate) async fn find(
    connection: &Connection,
    stream: &str,
    query: &serde_json::Value,
    deadline: Instant,
) -> Result<Option<Incoming>, PortError> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let reply = connection.request(&subject, "", query.to_string().as_bytes())?.by(deadline).await;
    let incoming = reply.map_err(|error| connection.forbidden(&subject).unwrap_or(error))?;
    match incoming.status() {
        None => Ok(Some(incoming)),
        Some(404) => Ok(None),
        Some(503) => Err(PortError::new(Kind::Unavailable, format!("the stream {stream} does not answer"))),
        Some(status) => {
            let text = format!("the stream {stream} answers {status} to a read");
            Err(PortError::new(Kind::Corrupt, text))
        }
    }
}

/// The position of a message that was read directly.
pub(crate) fn sequence(found: &Incoming) -> Option<u64> {
    headers::value(found.headers(), "Nats-Sequence")?.parse().ok()
}

/// When a message that was read directly came into its stream.
pub(crate) fn stored_at(found: &Incoming) -> Option<Time> {
    let text = headers::value(found.headers(), "Nats-Time-Stamp")?;
    Some(Time::from_millis(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()))
}
