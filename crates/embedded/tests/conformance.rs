//! The suites of core's ports, on a directory and in memory.

use std::{path::PathBuf, pin::Pin, sync::Arc};

use outboard_core::{
    Clock, Time,
    conformance::{Backend, Ports, store::StoreBackend},
    store::Store,
    time::TokioClock,
};
use outboard_embedded::{Embedded, MemoryDisk, Options};

/// One storage, opened again and again, and one clock for all of it.
struct Storage {
    place: Place,
    clock: Arc<dyn Clock>,
    open: std::sync::Mutex<Option<Embedded>>,
}

enum Place {
    Directory(PathBuf, #[expect(dead_code, reason = "kept until the test ends")] tempfile::TempDir),
    Memory(MemoryDisk),
}

impl Storage {
    fn new(place: Place) -> Self {
        let clock = Arc::new(TokioClock::starting_at(Time::from_millis(1_700_000_000_000)));
        Self { place, clock, open: std::sync::Mutex::default() }
    }

    fn in_directory() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self::new(Place::Directory(directory.path().join("data"), directory))
    }

    fn in_memory() -> Self {
        Self::new(Place::Memory(MemoryDisk::new().expect("memory can be opened")))
    }

    /// Opens it, and remembers what is to be closed.
    async fn opened(&self) -> Embedded {
        let options = Options { clock: self.clock.clone(), ..Options::default() };
        let storage = match &self.place {
            Place::Directory(path, _) => Embedded::open(path, options).await,
            Place::Memory(disk) => Embedded::memory(disk, options).await,
        };
        let storage = storage.expect("the storage opens");
        self.open.lock().expect("no test panics here").replace(storage.clone());
        storage
    }

    /// Closes what was opened, once nobody has it any more.
    fn closed(&self, ports: impl Send + 'static) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let opened = self.open.lock().expect("no test panics here").take();
        Box::pin(async move {
            drop(ports);
            opened.expect("what is closed was opened").close().await;
        })
    }
}

impl Backend for Storage {
    fn open(&self) -> Pin<Box<dyn Future<Output = Ports> + Send + '_>> {
        Box::pin(async {
            let storage = self.opened().await;
            Ports { log: Arc::new(storage.clone()), ledger: Arc::new(storage), clock: self.clock.clone() }
        })
    }

    fn close(&self, ports: Ports) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.closed(ports)
    }
}

impl StoreBackend for Storage {
    fn open(&self) -> Pin<Box<dyn Future<Output = Arc<dyn Store>> + Send + '_>> {
        Box::pin(async { Arc::new(self.opened().await) as Arc<dyn Store> })
    }

    fn close(&self, store: Arc<dyn Store>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.closed(store)
    }
}

mod directory {
    outboard_core::conformance!(crate::Storage::in_directory());
}

mod memory {
    outboard_core::conformance!(crate::Storage::in_memory());
}

mod store_in_directory {
    outboard_core::store_conformance!(async { crate::Storage::in_directory() });
}

mod store_in_memory {
    outboard_core::store_conformance!(async { crate::Storage::in_memory() });
}
