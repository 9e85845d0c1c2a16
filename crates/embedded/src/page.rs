//! Messages from the database, each verified against its predecessor's checksum.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use outboard_core::{
    Headers, Kind, Message, PortError, Position, Time, TypeSet,
    log::{Limit, Page},
};
use rusqlite::{Connection, Row, types::ValueRef};

use crate::{
    checksum::{BEFORE_FIRST, Fields, checksum},
    error::read_error,
    tail::Filter,
};

/// At most this many rows are read in one transaction.
pub(crate) const MAX_ROWS: usize = 1_000;

/// Payloads are packed into chunks of this size: one allocation for many, and a message that is kept for long
/// holds no more than that.
const CHUNK_BYTES: usize = 64 << 10;

const SELECT_MESSAGES: &str = "SELECT id, timestamp, type, headers, payload, run_at, checksum FROM messages
    WHERE id >= ?1 AND id <= ?2 ORDER BY id";

/// Where a verified scan of the log stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    /// The last verified position.
    pub(crate) position: u64,
    checksum: u64,
    timestamp: i64,
}

impl Chain {
    /// Before the first message.
    pub(crate) const START: Self = Self { position: 0, checksum: BEFORE_FIRST, timestamp: i64::MIN };

    /// Verifies the next row. The error is a sentence about that row.
    pub(crate) fn verify(&mut self, row: &StoredRow<'_>) -> Result<(), String> {
        let expected = self.position + 1;
        if row.fields.id.cast_unsigned() != expected {
            return Err(format!("message {expected} is missing from the log"));
        }
        self.position = expected;
        let is_whole = checksum(self.checksum, &row.fields) == row.checksum;
        let is_later = row.fields.timestamp >= self.timestamp;
        self.checksum = row.checksum;
        self.timestamp = row.fields.timestamp;
        if !is_whole {
            return Err(format!("message {expected} is not what was written: its checksum differs"));
        }
        if !is_later {
            return Err(format!("message {expected} is older than the message before it"));
        }
        Ok(())
    }

    /// Takes a row as the one that others follow, without a check.
    pub(crate) fn begin(row: &StoredRow<'_>) -> Self {
        let position = row.fields.id.cast_unsigned();
        Self { position, checksum: row.checksum, timestamp: row.fields.timestamp }
    }
}

/// A row as it is stored.
pub(crate) struct StoredRow<'a> {
    pub(crate) fields: Fields<'a>,
    pub(crate) checksum: u64,
}

impl<'a> StoredRow<'a> {
    /// Reads the columns of `SELECT_MESSAGES`.
    pub(crate) fn of(row: &'a Row<'_>) -> rusqlite::Result<Self> {
        let run_at = match row.get_ref(5)? {
            ValueRef::Null => None,
            value => Some(value.as_i64()?),
        };
        let fields = Fields {
            id: row.get_ref(0)?.as_i64()?,
            timestamp: row.get_ref(1)?.as_i64()?,
            kind: row.get_ref(2)?.as_bytes()?,
            headers: row.get_ref(3)?.as_bytes_or_null()?,
            payload: row.get_ref(4)?.as_bytes()?,
            run_at,
        };
        Ok(Self { fields, checksum: row.get_ref(6)?.as_i64()?.cast_unsigned() })
    }
}

/// What verified rows become: types are shared, payloads packed.
#[derive(Default)]
struct Builder {
    kind: Option<Arc<str>>,
    chunk: BytesMut,
}

impl Builder {
    /// The type as a shared string: neighbours mostly have the same.
    fn kind(&mut self, bytes: &[u8]) -> Result<Arc<str>, String> {
        if let Some(kind) = &self.kind
            && kind.as_bytes() == bytes
        {
            return Ok(kind.clone());
        }
        let kind: Arc<str> = std::str::from_utf8(bytes).map_err(|_| "a type is not UTF-8".to_owned())?.into();
        self.kind = Some(kind.clone());
        Ok(kind)
    }

    fn payload(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > CHUNK_BYTES / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.chunk.capacity() < bytes.len() {
            self.chunk = BytesMut::with_capacity(CHUNK_BYTES);
        }
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }

    fn message(&mut self, kind: Arc<str>, fields: &Fields<'_>) -> Result<Arc<Message>, String> {
        let headers = fields.headers.map_or(Ok(Headers::default()), |json| {
            serde_json::from_slice::<BTreeMap<String, String>>(json)
                .map(Headers::from)
                .map_err(|error| format!("the headers of message {} cannot be read: {error}", fields.id))
        })?;
        Ok(Arc::new(Message {
            id: Position(fields.id.cast_unsigned()),
            name: None,
            kind,
            payload: self.payload(fields.payload),
            headers,
            timestamp: Time::from_millis(fields.timestamp),
            run_at: fields.run_at.map(Time::from_millis),
        }))
    }
}

/// Visits the rows from `from` to `to`; the visitor says whether to go on.
pub(crate) fn visit(
    connection: &Connection,
    from: u64,
    to: u64,
    mut visitor: impl FnMut(&StoredRow<'_>) -> Result<bool, String>,
) -> Result<(), PortError> {
    let failed = |error: rusqlite::Error| read_error(&error);
    let mut statement = connection.prepare_cached(SELECT_MESSAGES).map_err(failed)?;
    let mut rows = statement.query([from.cast_signed(), to.cast_signed()]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let row = StoredRow::of(row).map_err(|error| {
            PortError::new(Kind::Corrupt, format!("a row of the log has a value of another type: {error}"))
        })?;
        if !visitor(&row).map_err(|text| PortError::new(Kind::Corrupt, text))? {
            break;
        }
    }
    Ok(())
}

/// Messages after `after` up to `tip`: one transaction, at most [`MAX_ROWS`] rows.
pub(crate) fn read(
    connection: &Connection,
    after: Position,
    tip: Position,
    types: &TypeSet,
    limit: Limit,
) -> Result<Page, PortError> {
    let mut page = Page { messages: Vec::with_capacity(limit.messages.min(MAX_ROWS)), next: after };
    let to = tip.0.min(after.0.saturating_add(limit.scan.min(MAX_ROWS) as u64));
    let (mut chain, mut builder, mut filter, mut bytes) = (None, Builder::default(), Filter::new(types), 0);
    if after == Position::START {
        chain = Some(Chain::START);
    }
    visit(connection, after.0.max(1), to, |row| {
        let Some(chain) = &mut chain else {
            // The row at `after` was delivered earlier: it is read for its checksum.
            chain = Some(Chain::begin(row));
            return Ok(true);
        };
        if let Err(problem) = chain.verify(row) {
            // What comes before it is good: the next read begins here and tells.
            return if page.next > after { Ok(false) } else { Err(problem) };
        }
        let kind = builder.kind(row.fields.kind)?;
        if filter.takes(&kind) {
            bytes += row.fields.payload.len();
            let is_first = page.messages.is_empty() && limit.messages > 0;
            if !is_first && (page.messages.len() >= limit.messages || bytes > limit.bytes) {
                return Ok(false);
            }
            page.messages.push(builder.message(kind, &row.fields)?);
        }
        page.next = Position(chain.position);
        Ok(true)
    })?;
    if page.next == after && limit.messages > 0 && to > after.0 {
        let text = format!("message {} is missing from the log", after.0 + 1);
        return Err(PortError::new(Kind::Corrupt, text));
    }
    Ok(page)
}

/// One message, verified against its predecessor.
pub(crate) fn get(connection: &Connection, position: Position) -> Result<Option<Arc<Message>>, PortError> {
    let limit = Limit { messages: 1, bytes: 0, scan: 1 };
    Ok(read(connection, position.previous(), position, &TypeSet::everything(), limit)?.messages.pop())
}
