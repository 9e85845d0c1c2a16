//! Opening: the lock, the tables, the end of the log, and what contradicts it.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use outboard_core::Position;
use rusqlite::{Connection, OptionalExtension};

use crate::{
    error::OpenError,
    idempotency::Keys,
    inbox::Inbox,
    lock::Lock,
    memory::MemoryDisk,
    options::Options,
    readers::{Readers, Source},
    schema,
    seat::Seat,
    shared::Shared,
    stats::Counters,
    tip_file::{Mark, TipFile},
    writer::{Place, Start, Writer, log_end::LogEnd, store::StoreEnd, workers::Workers},
};

/// Opens a data directory. Blocks.
pub(crate) fn directory(path: &Path, options: Options) -> Result<Seat, OpenError> {
    create(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    let lock = Lock::take(path)?;
    let database = path.join(schema::DATABASE);
    let connection = schema::open_writer(&database)?;
    let mark = TipFile::read(path)?;
    let readers = Source::File(Arc::new(Readers::new(database, options.readers)));
    let tip = TipFile::open(path)?;
    let place = Place::Directory { path: path.to_owned(), tip, _lock: lock };
    build(Arc::new(Mutex::new(connection)), readers, mark, place, options)
}

/// Makes the directory if it is not there, so that it is there after a power loss as well. SQLite sees to
/// what it puts into it.
fn create(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    match path.canonicalize()?.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Opens a disk in memory.
pub(crate) fn memory(disk: &MemoryDisk, options: Options) -> Result<Seat, OpenError> {
    let shared_connection = disk.connection();
    let (generation, current) = disk.take_over();
    {
        let connection = shared_connection.lock().unwrap_or_else(PoisonError::into_inner);
        schema::prepare(&connection, Path::new(":memory:"))?;
    }
    let source = Source::Memory(shared_connection.clone());
    build(shared_connection, source, None, Place::Memory { generation, current }, options)
}

fn build(
    connection: Arc<Mutex<Connection>>,
    source: Source,
    mark: Option<Mark>,
    place: Place,
    options: Options,
) -> Result<Seat, OpenError> {
    let guard = connection.lock().unwrap_or_else(PoisonError::into_inner);
    let end = LogEnd::load(&guard)?;
    check_tip(&guard, end, mark)?;
    let mut workers = Workers::default();
    let mut rows = workers.load(&guard)? + 1;
    if let Some((name, done)) = workers.furthest().filter(|(_, done)| done.0 > end.position) {
        let text = format!("worker {name} is done with message {done}, but the log ends at {}", end.position);
        return Err(OpenError::Corrupt(text));
    }
    let keys = Keys::load(&guard, options.idempotency_keys)?;
    let inbox = Inbox::load(&guard, &options)?;
    rows += usize::from(keys.count() > 0) * 2 + usize::from(inbox.count() > 0) * 2;
    let store = StoreEnd::load(&guard)?;
    drop(guard);
    let shared = Arc::new(Shared::new(options, source, Position(end.position)));
    Counters::add(&shared.counters.rows_read_at_open, rows);
    let start = Start { connection, end, workers, keys, inbox, store, place };
    let writer = Writer::new(start, shared.clone())?;
    Ok(Seat::new(writer, shared))
}

/// Compares the log with what was known to be durable.
fn check_tip(connection: &Connection, end: LogEnd, mark: Option<Mark>) -> Result<(), OpenError> {
    let Some(mark) = mark.filter(|mark| mark.position > Position::START) else { return Ok(()) };
    if mark.position.0 > end.position {
        return Err(OpenError::LostTail { log: Position(end.position), tip: mark.position });
    }
    let text = "SELECT checksum FROM messages WHERE id = ?1";
    let checksum: Option<i64> =
        connection.query_row(text, [mark.position.0.cast_signed()], |row| row.get(0)).optional()?;
    if checksum.map(i64::cast_unsigned) != Some(mark.checksum) {
        let text = format!("message {} is not the one that was durable: the log was replaced", mark.position);
        return Err(OpenError::Corrupt(text));
    }
    Ok(())
}
