//! Where reads happen: on a few connections of their own, or for `:memory:` on the writer's.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard},
};

use outboard_core::{Kind, PortError};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::{error::read_error, schema::open_reader};

/// Where reads happen.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// On reader connections, on blocking threads.
    File(Arc<Readers>),
    /// On the writer's connection, between its transactions.
    Memory(Arc<Mutex<Connection>>),
}

impl Source {
    /// Runs one short read transaction. Nothing is held across an await.
    pub(crate) async fn run<T, F>(&self, read: F) -> Result<T, PortError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, PortError> + Send + 'static,
    {
        match self {
            Self::Memory(connection) => read(&connection.lock().unwrap_or_else(PoisonError::into_inner)),
            Self::File(readers) => readers.run(read).await,
        }
    }
}

/// At most a few reader connections, opened when they are first needed.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// Held for reading by every read: the writer closes it for a moment when the write-ahead log must be
    /// restarted.
    gate: RwLock<()>,
}

impl Readers {
    /// Readers of this database, at most `max` at a time.
    pub(crate) fn new(path: PathBuf, max: usize) -> Self {
        let permits = Arc::new(Semaphore::new(max.max(1)));
        Self { path, permits, idle: Mutex::default(), gate: RwLock::new(()) }
    }

    async fn run<T, F>(self: &Arc<Self>, read: F) -> Result<T, PortError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, PortError> + Send + 'static,
    {
        let closed = || PortError::new(Kind::Closed, "the log is closed");
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let readers = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let _open = readers.gate.read().unwrap_or_else(PoisonError::into_inner);
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => open_reader(&readers.path).map_err(|error| read_error(&error))?,
            };
            let found = read(&connection);
            if !readers.permits.is_closed() {
                readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            found
        });
        // The task is not aborted and its panics are caught: it fails only when the runtime goes away.
        task.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Waits for the reads that run, and holds up further ones until the guard is dropped.
    pub(crate) fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses further reads and closes the connections.
    pub(crate) fn close(&self) {
        self.permits.close();
        let _none_runs = self.hold();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
