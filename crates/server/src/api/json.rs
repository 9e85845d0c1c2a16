//! Answers as JSON: the shapes that clients see, apart from the types that the house works with.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use outboard_core::{Headers, Message, Position, Time, ledger::DeadLetter};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::serve::Answer;

/// A JSON answer.
pub(crate) fn answer<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    text(status, serde_json::to_string(body).expect("answers have texts for keys"))
}

/// A JSON answer that is text already.
pub(crate) fn text(status: StatusCode, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A time as RFC 3339 text in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub Time);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match jiff::Timestamp::from_millisecond(self.0.as_millis()) {
            Ok(time) => serializer.collect_str(&time),
            // Outside of the calendar, such as "never".
            Err(_) => serializer.serialize_none(),
        }
    }
}

/// A payload: JSON as it was appended. Bytes that are not JSON, which only Rust code can append, are shown as text.
#[derive(Debug)]
pub(crate) struct Payload<'a>(pub &'a [u8]);

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_slice::<&RawValue>(self.0) {
            Ok(raw) => raw.serialize(serializer),
            Err(_) => serializer.serialize_str(&String::from_utf8_lossy(self.0)),
        }
    }
}

/// A message as the API shows it.
#[derive(Debug, Serialize)]
pub(crate) struct MessageView<'a> {
    id: Position,
    #[serde(rename = "type")]
    kind: &'a str,
    payload: Payload<'a>,
    headers: &'a Headers,
    timestamp: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<Moment>,
}

impl<'a> From<&'a Message> for MessageView<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            id: message.id,
            kind: &message.kind,
            payload: Payload(&message.payload),
            headers: &message.headers,
            timestamp: Moment(message.timestamp),
            run_at: message.run_at.map(Moment),
        }
    }
}

/// A dead letter as the API shows it.
#[derive(Debug, Serialize)]
pub(crate) struct DeadView<'a> {
    id: u64,
    message_id: Position,
    worker: &'a str,
    reason: &'a str,
    attempts: u32,
    at: Moment,
}

impl<'a> From<&'a DeadLetter> for DeadView<'a> {
    fn from(letter: &'a DeadLetter) -> Self {
        Self {
            id: letter.id,
            message_id: letter.message_id,
            worker: &letter.worker,
            reason: &letter.reason,
            attempts: letter.attempts,
            at: Moment(letter.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_shown_as_it_is_and_times_are_texts() {
        assert_eq!(serde_json::to_string(&Payload(br#"{"a": 1.50}"#)).unwrap(), r#"{"a": 1.50}"#);
        assert_eq!(serde_json::to_string(&Payload(b"\x00\xff")).unwrap(), "\"\\u0000\u{fffd}\"");
        let time = Moment(Time::from_millis(1_500));
        assert_eq!(serde_json::to_string(&time).unwrap(), r#""1970-01-01T00:00:01.5Z""#);
        assert_eq!(serde_json::to_string(&Moment(Time::MAX)).unwrap(), "null");
    }
}
