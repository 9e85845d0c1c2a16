//! From what the server sends to what a worker is handed.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use memchr::memchr_iter;
use outboard_core::{Message, Position, Time};

use crate::jetstream::{
    naming::{DUE, ID, TYPE},
    protocol::{
        frame::{Incoming, read_number},
        headers,
    },
};

/// How long a position and a time can be, with a colon before each.
const LONGEST_NUMBERS: usize = 42;

/// What the subject of an acknowledgement tells of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// How often the server has delivered it, this time included, for whatever reason.
    pub(super) delivered: u64,
    /// Its place in the stream.
    pub(super) sequence: u64,
    /// When the stream got it, in nanoseconds since the Unix epoch.
    pub(super) stored_ns: i64,
    /// How many messages are behind it.
    pub(super) pending: u64,
}

impl Origin {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<…>.<time>.<pending>`, or the longer form with a
    /// domain and an account before the stream's name.
    pub(super) fn read(subject: &[u8]) -> Option<Self> {
        let text = subject.strip_prefix(b"$JS.ACK.")?;
        let is_long = memchr_iter(b'.', text).count() >= 8;
        let mut words = text.split(|&byte| byte == b'.').skip(if is_long { 4 } else { 2 });
        let mut number = || read_number(words.next()?);
        let (delivered, sequence, _, stored, pending) =
            (number()?, number()?, number()?, number()?, number()?);
        Some(Self { delivered, sequence, stored_ns: i64::try_from(stored).ok()?, pending })
    }

    pub(super) fn stored(&self) -> Time {
        Time::from_millis(self.stored_ns / 1_000_000)
    }
}

/// What is the same for all messages of a consumer.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) stream: Arc<str>,
    /// The type of messages that name none.
    pub(super) untyped: Arc<str>,
}

impl Reader {
    /// The message. `last` is the type of the one before, which nearly always is the same text.
    pub(super) fn message(&self, incoming: &Incoming, origin: &Origin, last: &mut Arc<str>) -> Message {
        let (mut name, mut kind, mut run_at) = (None, None, None);
        let mut others = BTreeMap::new();
        for (header, value) in headers::pairs(incoming.headers()) {
            match header {
                ID => name = Some(value),
                TYPE => kind = Some(value),
                DUE => run_at = value.parse().ok().map(Time::from_millis),
                _ => drop(others.insert(header.to_owned(), value.to_owned())),
            }
        }
        let name = match name.filter(|name| !name.is_empty()) {
            Some(name) => name.into(),
            None => self.own_name(origin),
        };
        Message {
            id: Position::START,
            name: Some(name),
            kind: self.kind(kind, incoming.subject(), last),
            payload: incoming.payload(),
            headers: others.into(),
            timestamp: origin.stored(),
            run_at,
        }
    }

    /// An id for a message that came with none, the same for each of its deliveries. The time tells it from the message
    /// that had its position in a stream of this name before, which was deleted or lost: it is kept with the message, so
    /// neither a restart nor a restored backup of the stream changes it.
    fn own_name(&self, origin: &Origin) -> Arc<str> {
        let mut name = String::with_capacity(self.stream.len() + LONGEST_NUMBERS);
        write!(name, "{}:{}:{}", self.stream, origin.sequence, origin.stored_ns)
            .expect("a text takes everything");
        name.into()
    }

    /// The header says it; else a subject below the queue's own does, `orders.created` as `orders/created`.
    fn kind(&self, header: Option<&str>, subject: &str, last: &mut Arc<str>) -> Arc<str> {
        match header.filter(|kind| !kind.is_empty()) {
            Some(kind) => {
                if &**last != kind {
                    *last = kind.into();
                }
                last.clone()
            }
            None if subject == &*self.stream || !subject.contains('.') => self.untyped.clone(),
            None => subject.replace('.', "/").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_acknowledgements_subject_are_read() {
        let expected = Some(Origin { delivered: 2, sequence: 7, stored_ns: 1_500_000_000, pending: 9 });
        assert_eq!(Origin::read(b"$JS.ACK.orders.worker.2.7.5.1500000000.9"), expected);
        assert_eq!(Origin::read(b"$JS.ACK.hub.ACCHASH.orders.worker.2.7.5.1500000000.9.abc"), expected);
        assert_eq!(Origin::read(b"$JS.ACK.hub.ACCHASH.orders.worker.2.7.5.1500000000.9"), expected);
        for bad in [&b""[..], b"_INBOX.1", b"$JS.ACK.orders.worker.2.7", b"$JS.ACK.orders.worker.a.7.5.1.9"] {
            assert_eq!(Origin::read(bad), None);
        }
    }
}
