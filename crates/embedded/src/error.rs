//! Why a data directory cannot be opened, and what SQLite's errors mean to callers of the ports.

use std::{io, path::PathBuf};

use outboard_core::{Kind, PortError, Position};
use rusqlite::ErrorCode;

/// Why a data directory cannot be opened. Each prints as one line that names the mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is in use by {}; one process at a time can have a data directory", holder_text(.holder))]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The other process, if it said who it is.
        holder: Option<u32>,
    },
    /// A file or directory could not be used.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite could not use the file.
    #[error("the database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file is a database of something else, or of a version of Outboard that this one does not know.
    #[error(
        "{path} {found}; this Outboard reads format {known}: use the version that wrote it, or another \
         directory"
    )]
    Format {
        /// The database file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// The format that this build knows.
        known: i64,
    },
    /// The log ends before a position that was durable.
    #[error(
        "the log ends at {log}, but {tip} was durable: {} messages are lost. Restore the directory from a \
         backup, or delete its file `tip` to go on without them", .tip.0.saturating_sub(.log.0)
    )]
    LostTail {
        /// Where the log ends.
        log: Position,
        /// What was durable.
        tip: Position,
    },
    /// What is stored contradicts itself.
    #[error("{0}. Restore the directory from a backup")]
    Corrupt(String),
}

fn holder_text(holder: &Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |process| format!("process {process}"))
}

/// What a failed read means.
pub(crate) fn read_error(error: &rusqlite::Error) -> PortError {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::Corrupt,
        _ => Kind::Unavailable,
    };
    PortError::new(kind, format!("the log cannot be read: {error}"))
}

/// Why a transaction did not come to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A simulated crash: nothing may be done any more.
    Crashed,
    /// The disk or the file is full; nothing happened.
    Full(PortError),
    /// Somebody outside this process holds the database; nothing happened.
    Busy(PortError),
    /// Final: the commit may have happened.
    Fatal(PortError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(PortError::new(Kind::Full, "the disk is full")),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(PortError::new(
                Kind::Unavailable,
                format!("the database is held by somebody else: {error}"),
            )),
            _ => Self::Fatal(PortError::new(Kind::Unknown, format!("the log failed, restart: {error}"))),
        }
    }
}
