//! What the tests share: short forms of requests.

use std::{path::Path, sync::Arc};

use outboard_core::{
    Ledger, Log, Message, NewMessage, Position, TypeSet,
    ledger::{OpenWorker, Opened, Start, Unit, UnitResult},
    log::{Append, Appended, Limit},
};
use outboard_embedded::{Embedded, MemoryDisk, Options, format::DATABASE};

/// A log in this directory with the default options.
pub(crate) async fn open(directory: &Path) -> Embedded {
    Embedded::open(directory, Options::default()).await.expect("the directory opens")
}

/// A message of a type, with its number as the payload.
pub(crate) fn message(kind: &str, number: usize) -> NewMessage {
    NewMessage::new(kind, format!(r#"{{"number":{number}}}"#))
}

/// Appends `count` messages of a type, and returns what the append got.
pub(crate) async fn append(log: &Embedded, kind: &str, count: usize) -> Appended {
    let messages: Vec<NewMessage> = (0..count).map(|number| message(kind, number)).collect();
    log.append(Append::from(messages)).await.expect("appends")
}

/// A set of types, separated by spaces.
pub(crate) fn types(patterns: &str) -> TypeSet {
    patterns.split(' ').map(|pattern| pattern.parse().expect("a pattern")).collect()
}

/// Everything after a position.
pub(crate) async fn read_all(log: &Embedded, mut after: Position, types: &TypeSet) -> Vec<Arc<Message>> {
    let mut messages = Vec::new();
    loop {
        let page = log.read(after, types.clone(), Limit::messages(300)).await.expect("reads");
        if page.next == after {
            return messages;
        }
        after = page.next;
        messages.extend(page.messages);
    }
}

/// Opens a worker that begins with the log.
pub(crate) async fn hold(log: &Embedded, worker: &str) -> Opened {
    let open = OpenWorker { worker: worker.into(), start: Start::Beginning, claims: 8 };
    Ledger::open(log, open).await.expect("the worker opens")
}

/// Commits one unit.
pub(crate) async fn commit(log: &Embedded, unit: Unit) -> UnitResult {
    log.commit(vec![unit]).await.expect("commits").remove(0)
}

/// A log on this disk with the default options.
pub(crate) async fn remember(disk: &MemoryDisk) -> Embedded {
    Embedded::memory(disk, Options::default()).await.expect("the disk opens")
}

/// Runs SQL behind the log's back.
pub(crate) fn spoil(directory: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(directory.join(DATABASE)).expect("the database opens");
    connection.execute_batch(sql).expect("the statement runs");
}
