//! What survives a simulated crash.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use rusqlite::Connection;

use crate::error::OpenError;

/// A database in memory: the disk of a simulation. It holds what was committed, and nothing else.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use outboard_core::{Log, NewMessage};
/// use outboard_embedded::{Embedded, MemoryDisk, Options};
///
/// let disk = MemoryDisk::new()?;
/// let log = Embedded::memory(&disk, Options::default()).await?;
/// log.append(vec![NewMessage::new("orders/confirm", "{}")].into()).await.unwrap();
/// let again = Embedded::memory(&disk, Options::default()).await?;
/// assert_eq!(again.tip().borrow().0, 1);
/// # Ok::<(), outboard_embedded::OpenError>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    connection: Arc<Mutex<Connection>>,
    /// Counts the openings: only the last one writes.
    generation: Arc<AtomicU64>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Result<Self, OpenError> {
        let connection = Arc::new(Mutex::new(Connection::open_in_memory()?));
        Ok(Self { connection, generation: Arc::default() })
    }

    /// The database, for tests that look at it or spoil it.
    pub fn connection(&self) -> Arc<Mutex<Connection>> {
        self.connection.clone()
    }

    /// Takes the disk over from whoever wrote before.
    pub(crate) fn take_over(&self) -> (u64, Arc<AtomicU64>) {
        (self.generation.fetch_add(1, Relaxed) + 1, self.generation.clone())
    }
}
