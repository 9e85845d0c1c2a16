//! Errors as HTTP answers: `application/problem+json` (RFC 9457).

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::Full;
use outboard_core::{Kind, PortError};
use serde::Serialize;

use crate::{body::BodyError, json::JsonError};

/// The media type of a problem.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What went wrong, for programs (`type`, `status`, `errors`) and for people (`title`, `detail`).
///
/// ```
/// use outboard_http::Problem;
/// let problem = Problem::invalid_field("payload.order_id", "must be a number");
/// assert_eq!(problem.status, 422);
/// let json = String::from_utf8(problem.to_json().to_vec()).unwrap();
/// assert!(json.contains(r#""errors":[{"field":"payload.order_id","message":"must be a number"}]"#));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which kind of problem, as a URN that stays the same: `urn:outboard:problem:invalid`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time and how to mend it. Without the sender's secrets.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The fields that are wrong, if it is about fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Sent as `Retry-After`, in seconds.
    #[serde(skip)]
    pub retry_after_seconds: Option<u64>,
    /// Sent as `Allow`.
    #[serde(skip)]
    pub allow: Option<&'static str>,
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where: a path such as `payload.items[2].price`, a query parameter, or a header's name.
    pub field: String,
    /// What is wrong with it and how to mend it.
    pub message: String,
}

impl FieldError {
    /// A field that is wrong, and how to mend it.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl Problem {
    /// A problem of a kind, such as `not-found`, that has no constructor here.
    pub fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:outboard:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: None,
            allow: None,
        }
    }

    /// 400: the body is not JSON, or is no body that can be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request cannot be read", detail)
    }

    /// 422: fields are wrong.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = errors.iter().map(|error| format!("{} {}", error.field, error.message));
        let detail = detail.collect::<Vec<_>>().join("; ");
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self { errors, ..Self::new(status, "invalid", "The request is not valid", detail) }
    }

    /// 422: one field is wrong.
    pub fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(field, message)])
    }

    /// 422: a field that is not known; names the ones that are.
    pub fn unknown_field(field: impl Into<String>, known: &[&str]) -> Self {
        Self::invalid_field(field, format!("is not known; known are: {}", known.join(", ")))
    }

    /// 404: nothing is there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 405: the path takes other methods; `allow` lists them, separated by commas.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this path takes {allow}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let problem = Self::new(status, "method-not-allowed", "Method not allowed", detail);
        Self { allow: Some(allow), ..problem }
    }

    /// 409: it is not in the state that this needs.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Conflict", detail)
    }

    /// 422: the idempotency key was used with another body.
    pub fn mismatch() -> Self {
        let detail = "this Idempotency-Key was used with another body; use a new key for a new request";
        let field = FieldError::new("Idempotency-Key", "was used with another body");
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self { errors: vec![field], ..Self::new(status, "mismatch", "Idempotency key reused", detail) }
    }

    /// 413: the body is longer than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("the body is longer than {limit} bytes, which is the limit");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large", detail)
    }

    /// 415: the media type is none of those in `expected`, separated by commas.
    pub fn wrong_media_type(expected: &str) -> Self {
        let detail = format!("send the body with Content-Type: {expected}");
        let problem = Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "wrong-media-type",
            "The media type is not supported",
            detail,
        );
        Self { errors: vec![FieldError::new("Content-Type", format!("must be {expected}"))], ..problem }
    }

    /// 408: the request did not arrive in time.
    pub fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "The request came too slowly", detail)
    }

    /// 503: not now; again after so many seconds.
    pub fn unavailable(detail: impl Into<String>, retry_after_seconds: u64) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let problem = Self::new(status, "unavailable", "Not available now", detail);
        Self { retry_after_seconds: Some(retry_after_seconds), ..problem }
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).expect("strings and numbers become JSON").into()
    }

    /// The whole answer.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.to_json()));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// The one place that says which port error is which status.
impl From<&PortError> for Problem {
    fn from(error: &PortError) -> Self {
        let text = &*error.message;
        match error.kind {
            Kind::Invalid => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The request is not valid", text)
            }
            Kind::NotFound => Self::not_found(text),
            Kind::Conflict => Self::conflict(text),
            Kind::Denied => Self::new(StatusCode::FORBIDDEN, "denied", "Not allowed", text),
            Kind::Mismatch => Self::mismatch(),
            Kind::Unsupported => {
                Self::new(StatusCode::NOT_IMPLEMENTED, "unsupported", "This backend cannot do it", text)
            }
            Kind::Trimmed { first } => {
                let detail = format!("{text}; the oldest message that is kept is {first}");
                Self::new(StatusCode::GONE, "trimmed", "No longer kept", detail)
            }
            Kind::Full | Kind::Unavailable | Kind::Fenced | Kind::Closed => Self::unavailable(text, 1),
            Kind::Unknown => {
                let detail = format!("{text}; it may have happened: retry with the same Idempotency-Key");
                Self { kind: "urn:outboard:problem:unknown".into(), ..Self::unavailable(detail, 1) }
            }
            Kind::Corrupt => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "corrupt", "Stored data is damaged", text)
            }
        }
    }
}

impl From<&BodyError> for Problem {
    fn from(error: &BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit } => Self::too_large(*limit),
            BodyError::TimedOut { .. } => Self::too_slow(error.to_string()),
            BodyError::Broken { .. } => Self::malformed(error.to_string()),
        }
    }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        Self::malformed(format!("the body {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use outboard_core::Position;

    use super::*;

    #[tokio::test]
    async fn an_answer_carries_type_status_and_what_to_mend() {
        let response = Problem::unknown_field("payloat", &["type", "payload"]).into_response();
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let found: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "type": "urn:outboard:problem:invalid",
            "title": "The request is not valid",
            "status": 422,
            "detail": "payloat is not known; known are: type, payload",
            "errors": [{"field": "payloat", "message": "is not known; known are: type, payload"}],
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn headers_go_with_the_problems_that_need_them() {
        let away = Problem::unavailable("the disk is full", 5).into_response();
        assert_eq!((away.status().as_u16(), &away.headers()[RETRY_AFTER]), (503, &HeaderValue::from(5)));
        let method = Problem::method_not_allowed("GET, POST").into_response();
        assert_eq!(
            (method.status().as_u16(), &method.headers()[ALLOW]),
            (405, &HeaderValue::from_static("GET, POST"))
        );
    }

    #[test]
    fn every_error_has_its_status() {
        let first = Position(7);
        for (kind, status) in [
            (Kind::Invalid, 422),
            (Kind::NotFound, 404),
            (Kind::Conflict, 409),
            (Kind::Denied, 403),
            (Kind::Mismatch, 422),
            (Kind::Unsupported, 501),
            (Kind::Full, 503),
            (Kind::Trimmed { first }, 410),
            (Kind::Fenced, 503),
            (Kind::Unavailable, 503),
            (Kind::Unknown, 503),
            (Kind::Corrupt, 500),
            (Kind::Closed, 503),
        ] {
            let problem = Problem::from(&PortError::new(kind, "it is so"));
            assert_eq!(problem.status, status, "{kind:?}");
            assert_eq!(problem.retry_after_seconds.is_some(), status == 503, "{kind:?}");
        }
        let after = Duration::from_secs(1);
        assert_eq!(Problem::from(&BodyError::TooLarge { limit: 9 }).status, 413);
        assert_eq!(Problem::from(&BodyError::TimedOut { after }).status, 408);
        assert_eq!(Problem::from(&BodyError::Broken { cause: String::new() }).status, 400);
        assert!(Problem::from(JsonError::Utf8 { offset: 3 }).detail.contains("byte 3"));
        assert_eq!(Problem::wrong_media_type("application/json").status, 415);
    }
}
