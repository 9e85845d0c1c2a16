//! Reading requests: media type, encoding and body.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use hyper::body::{Body, Incoming};
use outboard_http::{Problem, body::BodyError, problem::FieldError};

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    /// `application/json`
    Json,
    /// `application/x-ndjson`
    Lines,
}

/// Refuses compressed bodies: read as they are, they look like broken JSON.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let is_plain = |value: &HeaderValue| {
        let coding = value.as_bytes().trim_ascii();
        coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
    };
    if headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return Ok(());
    }
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let told = "compressed bodies are not taken; send the body as it is, without Content-Encoding";
    let mut problem = Problem::new(status, "content-encoding", "The body is compressed", told);
    problem.errors.push(FieldError::new("Content-Encoding", "must be identity or missing"));
    Err(problem)
}

/// The media type of a plain body, if it is one of those that are taken here.
pub(crate) fn media(headers: &HeaderMap, takes_lines: bool) -> Result<Media, Problem> {
    check_encoding(headers)?;
    let expected = if takes_lines { "application/json or application/x-ndjson" } else { "application/json" };
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (essence, parameters) = given.split_once(';').unwrap_or((given, ""));
    let is_utf8 = parameters.split(';').all(|parameter| match parameter.trim().split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    match essence.trim().to_ascii_lowercase().as_str() {
        "application/json" if is_utf8 => Ok(Media::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" if is_utf8 && takes_lines => {
            Ok(Media::Lines)
        }
        _ => Err(Problem::wrong_media_type(expected)),
    }
}

/// How large a body may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimit {
    /// In bytes.
    pub bytes: usize,
    /// What to do about a larger one, such as the key to raise.
    pub mend: &'static str,
}

/// The whole body, which comes within `time`.
pub(crate) async fn read(body: &mut Incoming, limit: BodyLimit, time: Duration) -> Result<Bytes, Problem> {
    outboard_http::body::read(body, limit.bytes, time).await.map_err(|error| {
        let mut problem = Problem::from(&error);
        if matches!(error, BodyError::TooLarge { .. }) {
            problem.detail = format!("{}; {}", problem.detail, limit.mend);
        }
        problem
    })
}

/// At most so much of a refused body is read to its end.
const DRAINED_BYTES: usize = 32 << 20;

/// Nobody may keep us reading what was refused for longer.
const DRAINED_TIME: Duration = Duration::from_secs(2);

/// Reads on after a refusal: a client that is still sending would see its connection reset instead of the answer.
pub(crate) async fn discard(body: &mut Incoming) {
    if body.is_end_stream() {
        return;
    }
    let rest = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = http_body_util::BodyExt::frame(body).await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > DRAINED_BYTES {
                return;
            }
        }
    };
    // Whoever is slower than this loses the answer.
    let _ = tokio::time::timeout(DRAINED_TIME, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Media> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, text.parse().unwrap());
        media(&headers, true).ok()
    }

    #[test]
    fn media_types_are_taken_in_their_usual_spellings() {
        assert_eq!(of("application/json"), Some(Media::Json));
        assert_eq!(of("Application/JSON; charset=UTF-8"), Some(Media::Json));
        assert_eq!(of("application/x-ndjson"), Some(Media::Lines));
        for text in [
            "text/plain",
            "application/json; charset=latin1",
            "application/jsonp",
            "application/x-www-form-urlencoded",
            "",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(media(&HeaderMap::new(), false).unwrap_err().status, 415);
    }
}
