//! What an answer, or the lack of one, says about the message and about the target.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use outboard_http::{Answer, ClientError, retry_after::retry_after};

use crate::{
    handler::Unwell,
    outcome::{Cause, Done, Failure, Outcome},
};

/// A receiver cannot ask for a longer wait.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// So many characters of an answer's body go into a reason.
const EXCERPT_CHARACTERS: usize = 200;

/// Sorts an answer by its status, as the table of the parent module says.
pub(super) fn outcome(answer: &Answer, now: SystemTime) -> Outcome {
    match answer.status.as_u16() {
        200..=299 => Ok(Done),
        410 => Err(Failure::Pause(told(answer).into())),
        // The receiver is well and says so; it only wants this message more slowly.
        408 | 429 => Err(again(answer, now, Cause::Message)),
        300..=499 => Err(Failure::Dead(told(answer).into())),
        502..=504 => Err(again(answer, now, Cause::Unavailable)),
        _ => Err(again(answer, now, Cause::Target)),
    }
}

/// Sorts an error. Nothing here is the message's last word, since no receiver has spoken.
pub(super) fn failure(error: &ClientError) -> Failure {
    let cause = match error {
        ClientError::Timeout { .. } if !error.was_not_sent() => Cause::Unavailable,
        _ if error.was_not_sent() => Cause::Unreachable,
        // The receiver may have died of this very message.
        _ => Cause::Target,
    };
    Failure::Retry { reason: error.to_string().into(), after: None, cause }
}

/// Sorts an error of a probe: whether it is as good as the receiver's word.
pub(super) fn unwell(error: &ClientError) -> Unwell {
    let reason = format!("the probe failed: {error}");
    match error {
        // A receiver that lets a connection wait or drop may be busy with a message, or be ended by it.
        ClientError::Timeout { .. } | ClientError::Closed { .. } | ClientError::TooManyOrigins { .. } => {
            Unwell::Silent(reason)
        }
        _ => Unwell::Said(reason),
    }
}

fn again(answer: &Answer, now: SystemTime, cause: Cause) -> Failure {
    // A wait of zero would be a hot loop; the worker's backoff knows better.
    let after = retry_after(&answer.headers, now, LONGEST_WAIT).filter(|wait| !wait.is_zero());
    Failure::Retry { reason: told(answer).into(), after, cause }
}

/// `answered 404 Not Found: no such order`.
pub(super) fn told(answer: &Answer) -> String {
    let excerpt = excerpt(&answer.body);
    let colon = if excerpt.is_empty() { "" } else { ": " };
    let name = answer.status.canonical_reason().map_or(Cow::Borrowed(""), |name| format!(" {name}").into());
    format!("answered {}{name}{colon}{excerpt}", answer.status.as_str())
}

/// The begin of a body in one line: white space and control characters become single spaces, so that no answer can
/// forge a log line or move a terminal's cursor.
fn excerpt(body: &[u8]) -> String {
    // Four bytes hold any character, and as many are left for white space that will be dropped.
    let begin = &body[..body.len().min(EXCERPT_CHARACTERS * 8)];
    let text = String::from_utf8_lossy(begin);
    let is_invisible = |c: char| {
        c.is_control() || c.is_whitespace() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
    };
    let mut words = text.split(is_invisible).filter(|word| !word.is_empty());
    let mut line = words.next().unwrap_or_default().to_owned();
    for word in words {
        line.push(' ');
        line.push_str(word);
    }
    if let Some((end, _)) = line.char_indices().nth(EXCERPT_CHARACTERS) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn answer(status: u16, retry_after: Option<&str>, body: &'static [u8]) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert("retry-after", value.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers, body: Bytes::from_static(body), is_complete: true }
    }

    #[test]
    fn every_status_has_its_meaning() {
        for status in 100..=999 {
            let meaning = match outcome(&answer(status, None, b""), SystemTime::now()) {
                Ok(Done) => "done",
                Err(Failure::Pause(_)) => "pause",
                Err(Failure::Dead(_)) => "dead",
                Err(Failure::Retry { cause: Cause::Message, .. }) => "retry, message",
                Err(Failure::Retry { cause: Cause::Target, .. }) => "retry, target",
                Err(Failure::Retry { cause: Cause::Unavailable, .. }) => "retry, unavailable",
                other => panic!("{status}: {other:?}"),
            };
            let expected = match status {
                200..=299 => "done",
                410 => "pause",
                408 | 429 => "retry, message",
                300..=407 | 409 | 411..=428 | 430..=499 => "dead",
                502..=504 => "retry, unavailable",
                _ => "retry, target",
            };
            assert_eq!(meaning, expected, "{status}");
        }
    }

    #[test]
    fn retry_after_counts_where_a_retry_follows_up_to_an_hour() {
        for (status, value, expected) in [
            (429, Some("7"), Some(7)),
            (408, Some("7"), Some(7)),
            (500, Some("7"), Some(7)),
            (503, Some("86400"), Some(3_600)),
            (503, Some("0"), None),
            (503, Some("never"), None),
            (503, None, None),
        ] {
            let found = outcome(&answer(status, value, b""), SystemTime::now());
            let Err(Failure::Retry { after, .. }) = found else { panic!("{status}: {found:?}") };
            assert_eq!(after, expected.map(Duration::from_secs), "{status} {value:?}");
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let found = outcome(&answer(503, Some("Sun, 06 Nov 1994 08:50:07 GMT"), b""), now);
        let wait = Some(Duration::from_secs(30));
        assert!(matches!(found, Err(Failure::Retry { after, .. }) if after == wait), "{found:?}");
    }

    #[test]
    fn a_reason_is_one_clean_short_line() {
        let reason = |body| told(&answer(404, None, body));
        assert_eq!(reason(b""), "answered 404 Not Found");
        assert_eq!(reason(b" no such\r\n\torder \n"), "answered 404 Not Found: no such order");
        assert_eq!(reason(b"\x1b[2Jx\x00\x7fy\xffz"), "answered 404 Not Found: [2Jx y\u{fffd}z");
        assert_eq!(reason("a\u{202e}b\u{85}c".as_bytes()), "answered 404 Not Found: a b c");
        let long = "é".repeat(1_000_000).into_bytes();
        let reason = told(&Answer { body: long.into(), ..answer(404, None, b"") });
        assert_eq!(reason, format!("answered 404 Not Found: {}…", "é".repeat(200)));
        assert_eq!(told(&answer(799, None, b"")), "answered 799");
    }

    #[test]
    fn every_error_is_retried_and_says_who_is_to_blame() {
        use std::io::{Error, ErrorKind::Other};
        let io = || Error::new(Other, "so it is");
        let name = || "host:80".to_owned();
        let timeout = |phase| ClientError::Timeout { phase, after: Duration::from_secs(1) };
        for (error, expected) in [
            (ClientError::Dns { host: name(), cause: io() }, Cause::Unreachable),
            (ClientError::Forbidden { origin: name(), address: [169, 254, 0, 1].into() }, Cause::Unreachable),
            (ClientError::Refused { origin: name() }, Cause::Unreachable),
            (ClientError::Unreachable { origin: name(), cause: io() }, Cause::Unreachable),
            (ClientError::Tls { origin: name(), cause: io() }, Cause::Unreachable),
            (timeout(outboard_http::client::Phase::Connecting), Cause::Unreachable),
            (timeout(outboard_http::client::Phase::Answering), Cause::Unavailable),
            (ClientError::TooManyOrigins { limit: 1 }, Cause::Unreachable),
            (ClientError::Closed { cause: name() }, Cause::Target),
            (ClientError::Protocol { cause: name() }, Cause::Target),
        ] {
            let text = error.to_string();
            let Failure::Retry { reason, after: None, cause } = failure(&error) else { panic!("{error:?}") };
            assert_eq!((&*reason, cause), (&*text, expected));
        }
    }

    #[test]
    fn silence_is_not_the_receivers_word() {
        use outboard_http::client::Phase;
        let timeout = |phase| ClientError::Timeout { phase, after: Duration::from_secs(2) };
        let refused = ClientError::Refused { origin: "host:80".into() };
        assert!(matches!(unwell(&refused), Unwell::Said(reason) if reason.contains("refused")));
        for error in [
            timeout(Phase::Connecting),
            timeout(Phase::Answering),
            ClientError::Closed { cause: "reset".into() },
            ClientError::TooManyOrigins { limit: 1 },
        ] {
            assert!(matches!(unwell(&error), Unwell::Silent(_)), "{error}");
        }
    }
}
