//! The end of the log, and the row that follows it.

use std::sync::Arc;

use outboard_core::{Message, Position, Time};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Result};

use crate::checksum::{BEFORE_FIRST, Fields, checksum};

/// The last row of the log, as far as the next one needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogEnd {
    pub(crate) position: u64,
    pub(crate) checksum: u64,
    /// The next row's timestamp is not earlier.
    pub(crate) timestamp: i64,
}

impl LogEnd {
    /// Reads the last row.
    pub(crate) fn load(connection: &Connection) -> Result<Self> {
        let found = connection.query_row(
            "SELECT id, checksum, timestamp FROM messages ORDER BY id DESC LIMIT 1",
            [],
            |row| {
                let position = row.get::<_, i64>(0)?.cast_unsigned();
                let checksum = row.get::<_, i64>(1)?.cast_unsigned();
                Ok(Self { position, checksum, timestamp: row.get(2)? })
            },
        );
        Ok(found.optional()?.unwrap_or(Self { position: 0, checksum: BEFORE_FIRST, timestamp: 0 }))
    }

    /// Gives a message its position and timestamp, and inserts its row.
    pub(super) fn insert(
        &mut self,
        statement: &mut CachedStatement<'_>,
        message: &mut Arc<Message>,
    ) -> Result<()> {
        let message = Arc::get_mut(message).expect("nobody shares a message that is not in the log yet");
        message.id = Position(self.position + 1);
        message.timestamp = Time::from_millis(self.timestamp);
        let headers = (!message.headers.is_empty())
            .then(|| serde_json::to_string(&message.headers).expect("names and values are strings"));
        let fields = Fields {
            id: message.id.0.cast_signed(),
            timestamp: self.timestamp,
            kind: message.kind.as_bytes(),
            headers: headers.as_deref().map(str::as_bytes),
            payload: &message.payload,
            run_at: message.run_at.map(Time::as_millis),
        };
        let checksum = checksum(self.checksum, &fields);
        statement.raw_bind_parameter(1, fields.id)?;
        statement.raw_bind_parameter(2, fields.timestamp)?;
        statement.raw_bind_parameter(3, &*message.kind)?;
        statement.raw_bind_parameter(4, headers.as_deref())?;
        statement.raw_bind_parameter(5, fields.payload)?;
        statement.raw_bind_parameter(6, fields.run_at)?;
        statement.raw_bind_parameter(7, checksum.cast_signed())?;
        statement.raw_execute()?;
        self.position += 1;
        self.checksum = checksum;
        Ok(())
    }
}
