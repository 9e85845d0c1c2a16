//! The tables, the settings of a connection, and the format's version.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use crate::error::OpenError;

/// The database's name in the data directory.
pub const DATABASE: &str = "outboard.db";

/// The version of the tables below; it is stored as SQLite's `user_version`.
pub const FORMAT: i64 = 3;

/// The oldest version that is brought up to date when it is opened: what came later are new tables.
const OLDEST_FORMAT: i64 = 1;

/// Marks a SQLite file as Outboard's: "Outb".
const APPLICATION: i64 = 0x4f75_7462;

/// The table that holds the log.
pub const CREATE_MESSAGES: &str = "CREATE TABLE messages (
    id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, type TEXT NOT NULL, headers TEXT,
    payload BLOB NOT NULL, run_at INTEGER, checksum INTEGER NOT NULL)";

/// Appends one message.
pub const INSERT_MESSAGE: &str =
    "INSERT INTO messages (id, timestamp, type, headers, payload, run_at, checksum)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// What the writer's connection is set to. The writer checkpoints by itself, hence no automatic checkpoint.
pub const WRITER_PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
    PRAGMA wal_autocheckpoint = 0; PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY;";

/// Everything but the log. A worker has a number, because every one of its parked rows repeats it. Running
/// rows have the latest due time, so that the index on it finds them as well.
const CREATE_REST: &str = "
CREATE TABLE workers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL,
    low INTEGER NOT NULL, done BLOB, began_after INTEGER NOT NULL, claims INTEGER NOT NULL,
    clean INTEGER NOT NULL, paused TEXT,
    parked INTEGER NOT NULL, dead INTEGER NOT NULL, version INTEGER NOT NULL);
CREATE TABLE parked (worker INTEGER NOT NULL, position INTEGER NOT NULL, state INTEGER NOT NULL,
    due INTEGER NOT NULL, attempts INTEGER NOT NULL, crashes INTEGER NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (worker, position)) WITHOUT ROWID;
CREATE INDEX parked_due ON parked (worker, due, position);
CREATE TABLE dead (id INTEGER PRIMARY KEY AUTOINCREMENT, worker INTEGER NOT NULL, position INTEGER NOT NULL,
    reason TEXT NOT NULL, attempts INTEGER NOT NULL, at INTEGER NOT NULL);
CREATE UNIQUE INDEX dead_message ON dead (position, worker);
CREATE INDEX dead_worker ON dead (worker);
CREATE TABLE keys (worker INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (worker, key)) WITHOUT ROWID;
CREATE TABLE idempotency (seq INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, body BLOB NOT NULL,
    first INTEGER NOT NULL, count INTEGER NOT NULL, expires INTEGER NOT NULL);
";

/// The tables that came later.
const CREATE_LATER: &str = "
CREATE TABLE IF NOT EXISTS inbox (seq INTEGER PRIMARY KEY, worker INTEGER NOT NULL, id TEXT NOT NULL,
    expires INTEGER NOT NULL, UNIQUE (worker, id));
CREATE TABLE IF NOT EXISTS store (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL,
    expires INTEGER);
CREATE INDEX IF NOT EXISTS store_expires ON store (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS store_version (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL);
";

/// How many prepared statements a connection keeps; there are fewer texts than that.
const STATEMENTS: usize = 64;

/// Opens the writer's connection, with the tables made if the file is new.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(1))?;
    check_format(&connection, path)?;
    connection.execute_batch(WRITER_PRAGMAS)?;
    prepare(&connection, path)?;
    Ok(connection)
}

/// Sets a connection up and makes the tables if there are none.
pub(crate) fn prepare(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let missing = match check_format(connection, path)? {
        Some(FORMAT) => return Ok(()),
        Some(_) => String::new(),
        None => format!("{CREATE_MESSAGES}; {CREATE_REST} PRAGMA application_id = {APPLICATION};"),
    };
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {missing} {CREATE_LATER} PRAGMA user_version = {FORMAT}; COMMIT;"
    ))?;
    Ok(())
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(Duration::from_secs(1))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// The version of the tables, if they are there; an error when the file is not one that this build can read.
pub(crate) fn check_format(connection: &Connection, path: &Path) -> Result<Option<i64>, OpenError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let is_empty = pragma("schema_version")? == 0;
    let found = match (application, version, is_empty) {
        (APPLICATION, OLDEST_FORMAT..=FORMAT, _) => return Ok(Some(version)),
        (0, 0, true) => return Ok(None),
        (APPLICATION, version, _) => format!("has format {version}"),
        _ => "is a database of another program".to_owned(),
    };
    Err(OpenError::Format { path: path.to_owned(), found, known: FORMAT })
}
