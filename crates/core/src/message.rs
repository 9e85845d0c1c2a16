//! The envelope that everything carries.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::time::Time;

/// A message's place in the log; the first message has position 1. Position 0 stands before the log.
///
/// ```
/// use outboard_core::Position;
/// assert_eq!(Position::START.next(), Position(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Before the first message.
    pub const START: Self = Self(0);

    /// The position after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one; `START` stays.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// What a message is called, wherever it came from: a number on a log, a text on a queue.
///
/// ```
/// use outboard_core::{MessageId, Position};
/// assert_eq!(MessageId::Position(Position(7)).to_string(), "7");
/// assert_eq!(MessageId::Name("a1b2".into()).to_string(), "a1b2");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MessageId {
    /// Its position in the log.
    Position(Position),
    /// Its id on a queue.
    Name(Arc<str>),
}

impl Serialize for MessageId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Position(position) => position.serialize(serializer),
            Self::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names and values that travel with a message. Cheap to clone; empty ones take no space.
///
/// ```
/// use outboard_core::Headers;
/// let headers: Headers = [("tenant", "7")].into_iter().collect();
/// assert_eq!(headers.get("tenant"), Some("7"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Option<Arc<BTreeMap<String, String>>>);

impl Headers {
    /// The value under `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// All names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|map| map.iter()).map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl From<BTreeMap<String, String>> for Headers {
    fn from(map: BTreeMap<String, String>) -> Self {
        Self((!map.is_empty()).then(|| Arc::new(map)))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect::<BTreeMap<_, _>>().into()
    }
}

impl Serialize for Headers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

/// A message that is not in the log yet.
///
/// ```
/// use outboard_core::NewMessage;
/// let message = NewMessage::new("orders/confirm", r#"{"order_id":7}"#);
/// assert_eq!(&*message.kind, "orders/confirm");
/// ```
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The type, such as `orders/confirm`.
    pub kind: Arc<str>,
    /// The payload's bytes, JSON by convention.
    pub payload: Bytes,
    /// What travels with it.
    pub headers: Headers,
    /// Not to be handled before this time.
    pub run_at: Option<Time>,
}

impl NewMessage {
    /// A message of a type with a payload, to be handled at once.
    pub fn new(kind: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        Self { kind: kind.into(), payload: payload.into(), headers: Headers::default(), run_at: None }
    }
}

/// A message as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its position in the log, which is its id there; `START` when it came from a queue.
    pub id: Position,
    /// Its id when it came from a queue.
    pub name: Option<Arc<str>>,
    /// The type, such as `orders/confirm`.
    pub kind: Arc<str>,
    /// The payload's bytes, JSON by convention.
    pub payload: Bytes,
    /// What travels with it.
    pub headers: Headers,
    /// When it was appended; never earlier than its predecessor's.
    pub timestamp: Time,
    /// Not to be handled before this time.
    pub run_at: Option<Time>,
}

impl Message {
    /// What it is called, wherever it came from.
    pub fn id(&self) -> MessageId {
        self.name.clone().map_or(MessageId::Position(self.id), MessageId::Name)
    }
}
