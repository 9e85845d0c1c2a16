//! The handler for apps in other languages: each message is POSTed to a URL.
//!
//! What the receiver sees, and what its answer means:
//!
//! | answer | outcome |
//! |---|---|
//! | 2xx | done |
//! | 410 | the worker pauses with that reason; the message stays |
//! | 408, 429 | retry, by `Retry-After` if it is there; says nothing about the target's health |
//! | other 3xx and 4xx | dead |
//! | 502, 503, 504 | retry, by `Retry-After` if it is there; the target counts as unavailable |
//! | other 5xx, and what is no HTTP status | retry, likewise; the target or the message may be to blame |
//! | no answer in time | retry; the target counts as unavailable |
//! | no connection, no TLS | retry; the target counts as unreachable |
//! | the connection breaks before the answer | retry; the target or the message may be to blame |
//!
//! The whole time of an attempt is bounded by the worker's policy, by which the runtime drops the attempt.

mod answer;
pub(crate) mod envelope;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, USER_AGENT},
};
use outboard_core::{Clock, time::system_clock};
use outboard_http::{
    Call, TraceContext,
    trace::{TRACEPARENT, TRACESTATE},
    webhook::{self, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP},
};
pub use outboard_http::{Client, ClientConfig, Secret, Target};

use crate::{
    handler::{Attempt, BoxFuture, Handled, Handler, Unwell},
    outcome::Outcome,
};

/// The longest time for an answer to a probe.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Headers that a worker's own ones cannot replace, in lower case.
pub const RESERVED_HEADERS: [HeaderName; 10] = [
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HOST,
    TRANSFER_ENCODING,
    WEBHOOK_ID,
    WEBHOOK_TIMESTAMP,
    WEBHOOK_SIGNATURE,
    TRACEPARENT,
    TRACESTATE,
];

/// Where messages go, and how they are dressed.
#[derive(Clone)]
pub struct ForwardConfig {
    /// Each message is POSTed here.
    pub url: Target,
    /// Asked with GET whether the target is well; any 2xx means that it is.
    pub probe: Option<Target>,
    /// One signature is sent for each; none without.
    pub secrets: Vec<Secret>,
    /// Sent with every message and probe, an `authorization` for example; none of [`RESERVED_HEADERS`].
    pub headers: HeaderMap,
}

impl ForwardConfig {
    /// To one URL, unsigned, without a probe.
    pub fn to(url: Target) -> Self {
        Self { url, probe: None, secrets: Vec::new(), headers: HeaderMap::new() }
    }
}

/// A header was given that Outboard sets itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the header {0} is set by Outboard itself")]
pub struct ReservedHeader(pub HeaderName);

/// Sends each message to a URL, as JSON with the headers of Standard Webhooks.
///
/// The body is `{id, type, payload, headers, timestamp, attempt}`, with the time of the append in RFC 3339. A payload
/// that is not JSON comes as `payload_base64` instead. The `webhook-id` is the same for every attempt and differs
/// between workers and data directories, so a receiver can tell repetitions by it.
///
/// ```
/// use outboard::forward::{Client, ClientConfig, Forward, ForwardConfig};
/// let client = Client::new(ClientConfig::default()).unwrap();
/// let config = ForwardConfig::to("http://127.0.0.1:3000/outboard".parse().unwrap());
/// let handler = Forward::new(client, config).unwrap();
/// # let _ = handler;
/// ```
#[derive(Debug, Clone)]
pub struct Forward(Arc<Inner>);

struct Inner {
    client: Client,
    url: Target,
    probe: Option<Target>,
    secrets: Vec<Secret>,
    /// What every probe carries.
    own_headers: HeaderMap,
    /// What every message carries, the above included.
    message_headers: HeaderMap,
    clock: Arc<dyn Clock>,
}

impl Forward {
    /// A handler that sends over this client.
    pub fn new(client: Client, config: ForwardConfig) -> Result<Self, ReservedHeader> {
        Self::with_clock(client, config, system_clock())
    }

    /// A handler whose signatures and `Retry-After` dates go by another clock.
    pub fn with_clock(
        client: Client,
        config: ForwardConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ReservedHeader> {
        let ForwardConfig { url, probe, secrets, headers: mut own_headers } = config;
        if let Some(name) = RESERVED_HEADERS.into_iter().find(|name| own_headers.contains_key(name)) {
            return Err(ReservedHeader(name));
        }
        let agent = HeaderValue::from_static(concat!("outboard/", env!("CARGO_PKG_VERSION")));
        own_headers.entry(USER_AGENT).or_insert(agent);
        let mut message_headers = own_headers.clone();
        message_headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self(Arc::new(Inner { client, url, probe, secrets, own_headers, message_headers, clock })))
    }
}

impl Handler for Forward {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.deliver(&attempt).await.into() })
    }

    fn probe(&self) -> Option<BoxFuture<Result<(), Unwell>>> {
        self.0.probe.as_ref()?;
        let inner = Arc::clone(&self.0);
        Some(Box::pin(async move { inner.ask().await }))
    }
}

impl Inner {
    async fn deliver(&self, attempt: &Attempt) -> Outcome {
        let body = envelope::body(attempt);
        let headers = self.headers(attempt, &body);
        let call = Call { target: &self.url, method: Method::POST, headers, body, timeout: None };
        match self.client.send(call).await {
            Ok(answer) => answer::outcome(&answer, self.now()),
            Err(error) => Err(answer::failure(&error)),
        }
    }

    fn headers(&self, attempt: &Attempt, body: &[u8]) -> HeaderMap {
        let id = envelope::webhook_id(attempt);
        let seconds = self.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut headers = self.message_headers.clone();
        headers.reserve(5);
        if !self.secrets.is_empty() {
            headers.insert(WEBHOOK_SIGNATURE, webhook::sign(&self.secrets, &id, seconds, body));
        }
        headers.insert(WEBHOOK_TIMESTAMP, seconds.into());
        headers.insert(WEBHOOK_ID, HeaderValue::try_from(id).expect("it is made of visible ASCII"));
        let given = &attempt.message.headers;
        let parent = given.get("traceparent").and_then(|text| text.parse::<TraceContext>().ok());
        let trace = parent.map_or_else(TraceContext::new_root, TraceContext::child);
        headers.insert(TRACEPARENT, trace.to_header());
        let state = given.get("tracestate").filter(|_| parent.is_some());
        if let Some(state) = state.and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(TRACESTATE, state);
        }
        headers
    }

    async fn ask(&self) -> Result<(), Unwell> {
        let target = self.probe.as_ref().expect("it is asked only with a probe URL");
        let headers = self.own_headers.clone();
        let (method, timeout) = (Method::GET, Some(PROBE_TIMEOUT));
        let call = Call { target, method, headers, body: bytes::Bytes::new(), timeout };
        match self.client.send(call).await {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => Err(Unwell::Said(format!("the probe {}", answer::told(&answer)))),
            Err(error) => Err(answer::unwell(&error)),
        }
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(u64::try_from(self.clock.now().as_millis()).unwrap_or(0))
    }
}

/// Header values and secrets are not shown: they open doors.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.own_headers.keys().collect();
        f.debug_struct("Forward")
            .field("origin", self.url.origin())
            .field("probe", &self.probe.is_some())
            .field("secrets", &self.secrets.len())
            .field("headers", &headers)
            .finish_non_exhaustive()
    }
}

/// Header values are not shown: they open doors.
impl fmt::Debug for ForwardConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.keys().collect();
        f.debug_struct("ForwardConfig")
            .field("origin", self.url.origin())
            .field("probe", &self.probe.is_some())
            .field("secrets", &self.secrets.len())
            .field("headers", &headers)
            .finish()
    }
}
