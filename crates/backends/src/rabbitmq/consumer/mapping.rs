//! From what the broker delivers to a message, and the headers that we keep our own account in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use outboard_core::{
    Clock, Delivery, Headers, Message, Position, Time,
    consumer::Tag,
    queue::{ConsumeSpec, Identify},
    time::SystemClock,
};

use super::claims::Arrived;
use crate::rabbitmq::codec::{
    properties::Properties,
    table::{Table, Value},
};

/// Failed attempts so far.
pub(crate) const RETRY_COUNT: &str = "x-retry-count";
/// The queue that it was consumed from.
pub(crate) const ORIGINAL_QUEUE: &str = "x-original-queue";
/// When it failed for the first time, in seconds since 1970.
pub(crate) const FIRST_FAILURE: &str = "x-first-failure-time";
/// What the attempts said, oldest first.
pub(crate) const HISTORY: &str = "x-retry-history";
/// Why it was given up.
pub(crate) const DEAD_REASON: &str = "x-dead-reason";
/// Who gave it up.
pub(crate) const DEAD_WORKER: &str = "x-dead-worker";
/// When it was given up, in seconds since 1970.
pub(crate) const DEAD_TIME: &str = "x-dead-time";

/// Ours and the broker's: no business of a handler, and different at each attempt.
pub(super) fn is_account(name: &str) -> bool {
    matches!(
        name,
        RETRY_COUNT | ORIGINAL_QUEUE | FIRST_FAILURE | HISTORY | DEAD_REASON | DEAD_WORKER | DEAD_TIME
    ) || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
        || matches!(name, "x-death" | "x-delivery-count")
}

/// Makes messages of what one consumer gets.
#[derive(Debug)]
pub(super) struct Mapping {
    spec: Arc<ConsumeSpec>,
    /// The last type: the next message's is nearly always the same.
    kind: Mutex<Arc<str>>,
    /// Begins the names of messages that have none.
    prefix: u64,
    /// Whether the log knows that there are messages without an id.
    is_said: AtomicBool,
}

impl Mapping {
    pub(super) fn new(spec: Arc<ConsumeSpec>) -> Self {
        let kind = Mutex::new(spec.untyped.clone());
        Self { spec, kind, prefix: fastrand::u64(..), is_said: AtomicBool::new(false) }
    }

    pub(super) fn delivery(&self, tag: Tag, properties: Bytes, body: Bytes, redelivered: bool) -> Delivery {
        // Whoever published it wrote them; the broker does not look at them. What cannot be read counts as absent.
        let properties = Properties::read(properties).unwrap_or_default();
        let kind = self.kind(&properties);
        let (name, is_identified) = self.name(tag, &properties, &kind, &body);
        let timestamp = match properties.timestamp {
            Some(seconds) => Time::from_millis(i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000)),
            None => SystemClock.now(),
        };
        let attempt = attempts(&properties).saturating_add(1);
        let message = Arc::new(Message {
            id: Position::START,
            name: Some(name),
            kind,
            payload: body,
            headers: properties.headers.map(headers).unwrap_or_default(),
            timestamp,
            run_at: None,
        });
        Delivery { tag, message, attempt, suspect: false, redelivered, is_identified }
    }

    fn kind(&self, properties: &Properties) -> Arc<str> {
        let named = properties.kind.as_ref().map(|kind| kind.as_str()).filter(|kind| !kind.is_empty());
        let Some(named) = named else { return self.spec.untyped.clone() };
        let mut last = self.kind.lock().unwrap_or_else(PoisonError::into_inner);
        if **last != *named {
            *last = named.into();
        }
        last.clone()
    }

    /// Its id, and whether it is the same at each delivery.
    fn name(&self, tag: Tag, properties: &Properties, kind: &str, body: &[u8]) -> (Arc<str>, bool) {
        let given = properties.message_id.as_ref().map(|id| id.as_str()).filter(|id| !id.is_empty());
        if let Some(id) = given {
            return (id.into(), true);
        }
        if self.spec.identify == Identify::ByContent {
            return (self.by_content(properties, kind, body), true);
        }
        if !self.is_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                queue = &*self.spec.queue.name,
                worker = &*self.spec.worker,
                "messages come without a message-id: their effects happen at least once, not exactly once; \
                 have the publisher set one, or identify messages by their content (`id: content`)"
            );
        }
        (format!("{:016x}-{}-{}", self.prefix, tag.epoch, tag.number).into(), false)
    }

    fn by_content(&self, properties: &Properties, kind: &str, body: &[u8]) -> Arc<str> {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        // Each with its length: two fields must not look like one.
        let timestamp = properties.timestamp.unwrap_or(0).to_be_bytes();
        for field in [self.spec.queue.name.as_bytes(), kind.as_bytes(), &timestamp, body] {
            hash.update(&(field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        let digest = hash.finish();
        digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
    }

    /// The properties with an id, for publishing it elsewhere: a nameless message has one from then on.
    pub(super) fn named(&self, tag: Tag, arrived: &Arrived) -> Properties {
        let mut properties = Properties::read(arrived.content.properties.clone()).unwrap_or_default();
        let kind = self.kind(&properties);
        let (name, _) = self.name(tag, &properties, &kind, &arrived.content.body);
        properties.message_id = crate::rabbitmq::codec::field::ShortString::new(name);
        properties
    }
}

/// Failed attempts so far.
pub(crate) fn attempts(properties: &Properties) -> u32 {
    let count = properties.headers.as_ref().and_then(|headers| headers.0.get(RETRY_COUNT)?.whole());
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

fn headers(table: Table) -> Headers {
    let named = table.0.into_iter().filter(|(name, _)| !is_account(name));
    let texts = named.filter_map(|(name, value)| Some((name, text(&value)?)));
    texts.collect::<BTreeMap<String, String>>().into()
}

/// What can be said as a text.
pub(crate) fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) | Value::Long(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        _ => return None,
    })
}

/// What the attempts said, oldest first.
pub(crate) fn history(headers: &Table) -> Vec<Arc<str>> {
    let Some(Value::Array(history)) = headers.0.get(HISTORY) else { return Vec::new() };
    let text = |value: &Value| match value {
        Value::Text(text) => Some(String::from_utf8_lossy(text).into()),
        _ => None,
    };
    history.iter().filter_map(text).collect()
}
