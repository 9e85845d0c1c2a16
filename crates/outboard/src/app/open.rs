//! An app on the embedded storage.

use std::{path::Path, sync::Arc};

use outboard_core::{
    Clock,
    fault::Faults,
    time::{Time, TokioClock, system_clock},
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

use super::{App, AppError};

/// What the clock of an app in memory shows when it is opened: some day in 2027.
const MEMORY_EPOCH: Time = Time::from_millis(1_800_000_000_000);

impl App {
    /// Opens an app on a data directory, which is made if it is missing. One process at a time has it.
    pub async fn open(directory: impl AsRef<Path>) -> Result<Self, AppError> {
        let clock = system_clock();
        let options = Options { clock: clock.clone(), ..Options::default() };
        let store = Embedded::open(directory.as_ref(), options).await?;
        Ok(Self::owning(store, clock))
    }

    /// An app that forgets everything at its end, on the same engine; for tests. Its clock follows tokio's, so that
    /// with paused time retries and schedules take none.
    pub async fn memory() -> Result<Self, AppError> {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(MEMORY_EPOCH));
        let options = Options { clock: clock.clone(), ..Options::default() };
        let store = Embedded::memory(&MemoryDisk::new()?, options).await?;
        Ok(Self::owning(store, clock))
    }

    /// An app that closes its storage when it shuts down.
    fn owning(store: Embedded, clock: Arc<dyn Clock>) -> Self {
        let ports = Arc::new(store.clone());
        Self { store: Some(store), ..Self::with_ports(ports.clone(), ports, clock, Faults::none()) }
    }
}
