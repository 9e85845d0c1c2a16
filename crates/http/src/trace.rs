//! Names that follow one piece of work through many processes: W3C trace context, and request ids.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries a [`TraceContext`].
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries what tracing vendors add to it; passed on as it came.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The header that carries a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Where a piece of work stands in a trace: the `traceparent` of W3C Trace Context, level 1.
///
/// ```
/// use outboard_http::TraceContext;
/// let parent: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
/// let child = parent.child();
/// assert_eq!(child.trace_id(), parent.trace_id());
/// assert_ne!(child.span_id(), parent.span_id());
/// assert!(child.is_sampled());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// The text is not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a traceparent such as 00-<32 hex digits>-<16 hex digits>-01")]
pub struct NotATraceparent;

impl TraceContext {
    /// The begin of a new trace, not sampled: nobody asked for it to be recorded.
    pub fn new_root() -> Self {
        Self { trace_id: fastrand::u128(1..), span_id: fastrand::u64(1..), flags: 0 }
    }

    /// A step below this one.
    pub fn child(self) -> Self {
        Self { span_id: fastrand::u64(1..), ..self }
    }

    /// The whole trace's id.
    pub fn trace_id(self) -> u128 {
        self.trace_id
    }

    /// This step's id.
    pub fn span_id(self) -> u64 {
        self.span_id
    }

    /// Whether the caller records this trace.
    pub fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// The value of the `traceparent` header.
    pub fn to_header(self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("hex digits and dashes are visible ASCII")
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl std::str::FromStr for TraceContext {
    type Err = NotATraceparent;

    /// Reads version 00, and of later versions the part that is like it, as the specification asks.
    fn from_str(text: &str) -> Result<Self, NotATraceparent> {
        let bytes = text.as_bytes();
        let is_shaped = bytes.len() >= 55
            && bytes[..55].iter().enumerate().all(|(index, byte)| match index {
                2 | 35 | 52 => *byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        let is_longer = bytes.len() > 55;
        if !is_shaped || &bytes[..2] == b"ff" || (is_longer && (&bytes[..2] == b"00" || bytes[55] != b'-')) {
            return Err(NotATraceparent);
        }
        let trace_id = u128::from_str_radix(&text[3..35], 16).map_err(|_| NotATraceparent)?;
        let span_id = u64::from_str_radix(&text[36..52], 16).map_err(|_| NotATraceparent)?;
        let flags = u8::from_str_radix(&text[53..55], 16).map_err(|_| NotATraceparent)?;
        if trace_id == 0 || span_id == 0 {
            return Err(NotATraceparent);
        }
        // Of the flags only "sampled" is known, and unknown ones must not be passed on.
        Ok(Self { trace_id, span_id, flags: flags & 1 })
    }
}

/// The id of a request: the caller's `x-request-id` when it is 1 to 128 letters, digits or `-_.:`, else a new one of
/// 32 hex digits.
///
/// ```
/// let mut headers = http::HeaderMap::new();
/// assert_eq!(outboard_http::trace::request_id(&headers).len(), 32);
/// headers.insert("x-request-id", "order-7".parse().unwrap());
/// assert_eq!(outboard_http::trace::request_id(&headers), "order-7");
/// ```
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    match headers.get(REQUEST_ID) {
        Some(given) if (1..=128).contains(&given.len()) && given.as_bytes().iter().all(is_plain) => {
            given.clone()
        }
        _ => HeaderValue::try_from(format!("{:032x}", fastrand::u128(..)))
            .expect("hex digits are visible ASCII"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_survives_reading_and_writing() {
        let context: TraceContext = GOOD.parse().unwrap();
        assert_eq!(context.to_string(), GOOD);
        assert_eq!(context.to_header(), GOOD);
        let root = TraceContext::new_root();
        assert_eq!(root.to_string().parse(), Ok(root));
        assert!(!root.is_sampled());
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(NotATraceparent), "{text}");
        }
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09-more".parse::<TraceContext>();
        assert_eq!(later.unwrap().to_string(), GOOD, "a later version is read as far as it is known");
    }

    #[test]
    fn a_request_id_that_could_forge_a_log_line_is_replaced() {
        for given in ["", "a b", "a\tb", "<script>", &"x".repeat(129)] {
            let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(given).unwrap())]);
            assert_ne!(request_id(&headers), given);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
