//! What a receiver gets: the JSON body, and the id that stays the same over all attempts.

use std::{fmt::Write as _, io::Write as _};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use outboard_core::Time;
use serde::{Serialize, de::IgnoredAny};

use crate::handler::Attempt;

/// Room for everything but payload and headers, so that a body is seldom moved while it is written.
const FRAME_BYTES: usize = 192;

/// `{id, type, payload, headers, timestamp, attempt}`; the payload goes in as it is when it is JSON.
pub(super) fn body(attempt: &Attempt) -> Bytes {
    let message = &*attempt.message;
    let payload = as_json(&message.payload);
    let payload_bytes = payload.map_or(message.payload.len().div_ceil(3) * 4 + 10, str::len);
    let header_bytes: usize = message.headers.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
    let mut body = Vec::with_capacity(FRAME_BYTES + message.kind.len() + payload_bytes + header_bytes);

    body.extend_from_slice(b"{\"id\":");
    match &message.name {
        None => put(&mut body, format_args!("{}", message.id)),
        Some(name) => put_json(&mut body, &**name),
    }
    body.extend_from_slice(b",\"type\":");
    put_json(&mut body, &*message.kind);
    match payload {
        Some(json) => {
            body.extend_from_slice(b",\"payload\":");
            body.extend_from_slice(json.as_bytes());
        }
        None => put(&mut body, format_args!(",\"payload_base64\":\"{}\"", STANDARD.encode(&message.payload))),
    }
    body.extend_from_slice(b",\"headers\":");
    put_json(&mut body, &message.headers);
    let timestamp = rfc_3339(message.timestamp);
    put(&mut body, format_args!(",\"timestamp\":\"{timestamp:.3}\",\"attempt\":{}}}", attempt.number));
    body.into()
}

/// `msg_<position>_<milliseconds of the append>_<worker>`, or `msg_q_<name>_<worker>` for a message of a queue. The time
/// keeps a new data directory, which numbers from 1 again, from using ids that a receiver has already seen.
pub(super) fn webhook_id(attempt: &Attempt) -> String {
    let message = &*attempt.message;
    let mut id = match &message.name {
        None => format!("msg_{}_{:x}_", message.id, message.timestamp.as_millis()),
        Some(name) => {
            let mut id = String::from("msg_q_");
            put_id(&mut id, name);
            id.push('_');
            id
        }
    };
    put_id(&mut id, &attempt.worker);
    id
}

fn put_id(id: &mut String, text: &str) {
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            id.push(char::from(byte));
        } else {
            // A dot would end the id within what is signed, and other bytes cannot stand in a header.
            let _ = write!(id, "~{byte:02x}");
        }
    }
}

/// The payload as it can stand inside of JSON. It was checked when it came over HTTP, but not when a program appended
/// it, and one bad payload must not spoil the envelope.
fn as_json(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    Some(text.trim_ascii())
}

/// A time as people and programs read it.
pub(crate) fn rfc_3339(time: Time) -> Timestamp {
    let nearest = if time.as_millis() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_millisecond(time.as_millis()).unwrap_or(nearest)
}

fn put(body: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    body.write_fmt(text).expect("memory can be written to");
}

fn put_json(body: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(body, value).expect("strings and maps of them become JSON");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outboard_core::{Headers, Message, Position};
    use serde_json::{Value, json};

    use super::*;

    fn attempt(payload: &'static [u8]) -> Attempt {
        let message = Message {
            id: Position(7),
            name: None,
            kind: "orders/confirm".into(),
            payload: Bytes::from_static(payload),
            headers: Headers::default(),
            timestamp: Time::from_millis(1_614_265_330_042),
            run_at: None,
        };
        Attempt { worker: "orders".into(), message: Arc::new(message), number: 3 }
    }

    fn changed(change: impl FnOnce(&mut Message)) -> Attempt {
        let mut attempt = attempt(b"{}");
        change(Arc::make_mut(&mut attempt.message));
        attempt
    }

    fn parsed(attempt: &Attempt) -> Value {
        serde_json::from_slice(&body(attempt)).unwrap()
    }

    #[test]
    fn the_body_is_written_as_documented() {
        let body = body(&attempt(br#" {"order_id": 7} "#));
        assert_eq!(
            body,
            "{\"id\":7,\"type\":\"orders/confirm\",\"payload\":{\"order_id\": 7},\"headers\":{},\
             \"timestamp\":\"2021-02-25T15:02:10.042Z\",\"attempt\":3}"
        );
    }

    #[test]
    fn every_json_value_is_embedded_and_anything_else_is_base64() {
        let embedded: [&'static str; 6] =
            ["null", "7.50", "\"text\"", "[]", "{\"a\":\"\\u00e9é\"}", " [1,\n2] "];
        for text in embedded {
            let found = parsed(&attempt(text.as_bytes()));
            assert_eq!(found["payload"], serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
        let encoded: [&'static [u8]; 6] = [b"", b"{", b"{}{}", b"\xff\x00", b"\"\xff\"", b"1,\"attempt\":99"];
        for bytes in encoded {
            let found = parsed(&attempt(bytes));
            assert_eq!(found["payload_base64"], json!(STANDARD.encode(bytes)), "{bytes:?}");
            assert_eq!((&found["payload"], &found["attempt"]), (&Value::Null, &json!(3)), "{bytes:?}");
        }
    }

    #[test]
    fn headers_and_type_are_escaped() {
        let odd = "a\"\\\u{1}\u{2028}é";
        let attempt = changed(|message| {
            message.kind = odd.into();
            message.headers = [("tenant", "7"), (odd, odd)].into_iter().collect();
        });
        let found = parsed(&attempt);
        assert_eq!(found["type"], odd);
        assert_eq!(found["headers"], json!({"tenant": "7", odd: odd}));
    }

    #[test]
    fn times_beyond_the_calendar_do_not_panic() {
        for (millis, begin) in
            [(i64::MAX, "9999-12-30T"), (i64::MIN, "-009999-"), (0, "1970-01-01T00:00:00.000Z")]
        {
            let attempt = changed(|message| message.timestamp = Time::from_millis(millis));
            let found = parsed(&attempt);
            assert!(found["timestamp"].as_str().unwrap().starts_with(begin), "{found}");
        }
    }

    #[test]
    fn the_id_is_stable_over_attempts_and_differs_by_worker_message_and_time() {
        let first = attempt(b"{}");
        let again = Attempt { number: 4, ..first.clone() };
        assert_eq!(webhook_id(&first), "msg_7_177d9b6297a_orders");
        assert_eq!(webhook_id(&again), webhook_id(&first));
        let ids = [
            webhook_id(&first),
            webhook_id(&changed(|message| message.id = Position(8))),
            webhook_id(&changed(|message| message.name = Some("7_177d9b6297a".into()))),
            webhook_id(&changed(|message| message.name = Some("a.b".into()))),
            webhook_id(&changed(|message| message.timestamp = Time::from_millis(1))),
            webhook_id(&Attempt { worker: "mails".into(), ..first.clone() }),
            webhook_id(&Attempt { worker: "a.b".into(), ..first.clone() }),
            webhook_id(&Attempt { worker: "a b".into(), ..first.clone() }),
            webhook_id(&Attempt { worker: "é\r\n".into(), ..first.clone() }),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(
            ids.iter().all(|id| id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.')),
            "{ids:?}"
        );
    }
}
