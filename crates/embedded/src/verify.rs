//! Whether what is stored is what was written: checksums, dense positions, timestamps, the tip, the ledger's
//! sums.

use std::path::Path;

use outboard_core::{PortError, Position, cursor::WINDOW};
use rusqlite::{Connection, OptionalExtension, config::DbConfig};

use crate::{
    embedded::Embedded,
    error::OpenError,
    lock::Lock,
    page::{Chain, MAX_ROWS, StoredRow, visit},
    queries::{cursor, text},
    schema,
    tip_file::{Mark, TipFile},
};

/// How many problems are told in words.
const MAX_PROBLEMS: usize = 100;

/// What a verification found.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use outboard_core::{Log, NewMessage};
/// use outboard_embedded::{Embedded, Options, verify};
///
/// let directory = tempfile::tempdir().unwrap();
/// let log = Embedded::open(directory.path(), Options::default()).await?;
/// log.append(vec![NewMessage::new("orders/confirm", "{}")].into()).await.unwrap();
/// log.close().await;
/// let report = verify(directory.path(), |_done, _total| {})?;
/// assert!(report.is_clean());
/// assert_eq!(report.messages, 1);
/// # Ok::<(), outboard_embedded::OpenError>(()) }).unwrap();
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Messages that were looked at.
    pub messages: u64,
    /// The last position of the log.
    pub tip: Position,
    /// Workers whose cursors and counts were looked at.
    pub workers: u64,
    /// Whether the file's structure was looked at as well; only a stopped log's is.
    pub structure: bool,
    /// What is wrong, one sentence each, the first hundred.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn add(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// Verifies the log of a stopped directory, which it locks for that time; changes nothing.
///
/// `progress` is called with the positions looked at and how many there are. What is wrong with the data is
/// in the report; errors: the directory is in use, or it has no log that this build can read.
pub fn verify(directory: &Path, mut progress: impl FnMut(u64, u64)) -> Result<VerifyReport, OpenError> {
    let path = directory.join(schema::DATABASE);
    if let Err(source) = std::fs::metadata(&path) {
        return Err(OpenError::Io { path, source });
    }
    let _lock = Lock::take(directory)?;
    let connection = Connection::open(&path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch("PRAGMA query_only = ON")?;
    if schema::check_format(&connection, &path)?.is_none() {
        return Err(OpenError::Corrupt(format!("{} holds nothing", path.display())));
    }
    let mark = TipFile::read(directory)?;
    let mut report = VerifyReport { structure: true, ..VerifyReport::default() };
    if let Err(error) = structure(&connection, &mut report) {
        report.add(format!("the file's structure cannot be checked: {error}"));
    }
    let verified = last_position(&connection).and_then(|tip| {
        report.tip = tip;
        let mut chain = Chain::START;
        while chain.position < tip.0 {
            slice(&connection, &mut chain, tip.0, mark, &mut report)?;
            progress(chain.position, tip.0);
        }
        ledger(&connection, tip, &mut report)
    });
    if let Err(error) = verified {
        report.add(error.to_string());
    }
    if let Some(mark) = mark.filter(|mark| mark.position > report.tip) {
        let (first, last) = (report.tip.next(), mark.position);
        report.add(format!("messages {first} to {last} were durable and are lost"));
    }
    Ok(report)
}

impl Embedded {
    /// Verifies a running log up to its tip at this moment, in short reads; the file's structure is left out.
    ///
    /// `progress` is called with the positions looked at and how many there are.
    pub async fn verify(&self, mut progress: impl FnMut(u64, u64) + Send) -> Result<VerifyReport, PortError> {
        let shared = self.shared();
        let tip = *shared.tip.borrow();
        let mut report = VerifyReport { tip, ..VerifyReport::default() };
        let mut chain = Chain::START;
        while chain.position < tip.0 {
            let (mut next, mut found) = (chain, std::mem::take(&mut report));
            let read = move |connection: &Connection| {
                slice(connection, &mut next, tip.0, None, &mut found).map(|()| (next, found))
            };
            (chain, report) = shared.source.run(read).await?;
            progress(chain.position, tip.0);
        }
        let read = move |connection: &Connection| {
            // Workers move on while this runs: their marks are held against the tip of the same moment.
            let _one_snapshot = connection.unchecked_transaction().map_err(unreadable)?;
            let tip = last_position(connection)?;
            ledger(connection, tip, &mut report).map(|()| report)
        };
        shared.source.run(read).await
    }
}

fn unreadable(error: rusqlite::Error) -> PortError {
    crate::error::read_error(&error)
}

fn last_position(connection: &Connection) -> Result<Position, PortError> {
    let last: Option<i64> =
        connection.query_row("SELECT max(id) FROM messages", [], |row| row.get(0)).map_err(unreadable)?;
    Ok(Position(last.unwrap_or(0).cast_unsigned()))
}

fn structure(connection: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({MAX_PROBLEMS})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let found = text(row, 0)?;
        if &*found != "ok" {
            report.add(format!("the file's structure: {found}"));
        }
    }
    Ok(())
}

/// Verifies the next rows: one transaction.
fn slice(
    connection: &Connection,
    chain: &mut Chain,
    tip: u64,
    mark: Option<Mark>,
    report: &mut VerifyReport,
) -> Result<(), PortError> {
    let mut rows = 0;
    visit(connection, chain.position + 1, tip, |row| {
        rows += 1;
        verify_row(row, chain, report);
        let position = chain.position;
        if mark.is_some_and(|mark| mark.position.0 == position && mark.checksum != row.checksum) {
            report.add(format!("message {position} is not the one that was durable"));
        }
        Ok(rows < MAX_ROWS)
    })?;
    if rows == 0 {
        report.add(missing(chain.position + 1, tip));
        chain.position = tip;
    }
    Ok(())
}

fn verify_row(row: &StoredRow<'_>, chain: &mut Chain, report: &mut VerifyReport) {
    report.messages += 1;
    let (expected, position) = (chain.position + 1, row.fields.id.cast_unsigned());
    if position == expected {
        if let Err(problem) = chain.verify(row) {
            report.add(problem);
        }
        return;
    }
    report.add(missing(expected, position - 1));
    // Its predecessor is gone, and with it what its checksum is chained to.
    *chain = Chain::begin(row);
}

fn missing(first: u64, last: u64) -> String {
    if first == last {
        format!("message {first} is missing")
    } else {
        format!("messages {first} to {last} are missing")
    }
}

/// Whether cursors lie in the log, and whether counts are what they count.
fn ledger(connection: &Connection, tip: Position, report: &mut VerifyReport) -> Result<(), PortError> {
    let mut statement = connection
        .prepare(
            "SELECT name, low, done, began_after, parked, dead,
                 (SELECT count(*) FROM parked WHERE worker = workers.id),
                 (SELECT count(*) FROM dead WHERE worker = workers.id) FROM workers ORDER BY name",
        )
        .map_err(unreadable)?;
    let mut rows = statement.query([]).map_err(unreadable)?;
    while let Some(row) = rows.next().map_err(unreadable)? {
        report.workers += 1;
        worker(row, tip, report).map_err(unreadable)?;
    }
    for (problem, query) in SUMS {
        let found: Option<i64> = connection
            .query_row(query, [tip.0.cast_signed()], |row| row.get(0))
            .optional()
            .map_err(unreadable)?
            .filter(|count| *count > 0);
        if let Some(count) = found {
            report.add(format!("{count} {problem}"));
        }
    }
    Ok(())
}

/// What must not be there, and how often it is. Each query has the tip as its parameter.
const SUMS: [(&str, &str); 5] = [
    (
        "parked messages are of no worker or not in the log",
        "SELECT count(*) FROM parked
         WHERE position < 1 OR position > ?1 OR worker NOT IN (SELECT id FROM workers)",
    ),
    (
        "dead letters are of no worker or not in the log",
        "SELECT count(*) FROM dead
         WHERE position < 1 OR position > ?1 OR worker NOT IN (SELECT id FROM workers)",
    ),
    // The number is the due time of what is never due.
    (
        "running messages are due, or waiting ones never are",
        "SELECT count(*) FROM parked WHERE ?1 = ?1 AND (state >= 3) != (due = 9223372036854775807)",
    ),
    (
        "keys are of no worker",
        "SELECT count(*) FROM keys WHERE ?1 = ?1 AND worker NOT IN (SELECT id FROM workers)",
    ),
    (
        "idempotency keys answer with messages that are not in the log",
        "SELECT count(*) FROM idempotency WHERE first < 1 OR first + count - 1 > ?1",
    ),
];

fn worker(row: &rusqlite::Row<'_>, tip: Position, report: &mut VerifyReport) -> rusqlite::Result<()> {
    let name = text(row, 0)?;
    let cursor = cursor(row, 1, 2)?;
    if cursor.highest() > tip {
        report
            .add(format!("worker {name} is done with message {}, which is not in the log", cursor.highest()));
    }
    if cursor.highest().0 > cursor.low().0 + WINDOW {
        report.add(format!("worker {name} has done marks beyond its window"));
    }
    let number = |column| row.get::<_, i64>(column);
    if number(3)?.cast_unsigned() > cursor.low().0 {
        report.add(format!("worker {name} stands before the position at which it began"));
    }
    for (what, count, rows) in
        [("parked messages", number(4)?, number(6)?), ("dead letters", number(5)?, number(7)?)]
    {
        if count != rows {
            report.add(format!("worker {name} has {rows} {what} and counts {count}"));
        }
    }
    Ok(())
}
