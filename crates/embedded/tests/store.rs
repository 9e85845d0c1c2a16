//! The suite of core's store, on a directory and in memory.

use std::{path::PathBuf, pin::Pin, sync::Arc};

use outboard_core::{
    Clock, Time,
    conformance::store::StoreBackend,
    store::{Store, When, Write},
    time::TokioClock,
};
use outboard_embedded::{Embedded, MemoryDisk, Options, format::DATABASE};

/// One storage, opened again and again, and one clock for all of it.
struct Storage {
    place: Place,
    clock: Arc<dyn Clock>,
    opened: std::sync::Mutex<Option<Embedded>>,
}

enum Place {
    Directory(PathBuf, #[expect(dead_code, reason = "kept until the test ends")] tempfile::TempDir),
    Memory(MemoryDisk),
}

impl Storage {
    fn new(place: Place) -> Self {
        let clock = Arc::new(TokioClock::starting_at(Time::from_millis(1_700_000_000_000)));
        Self { place, clock, opened: std::sync::Mutex::default() }
    }

    async fn in_directory() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self::new(Place::Directory(directory.path().join("data"), directory))
    }

    async fn in_memory() -> Self {
        Self::new(Place::Memory(MemoryDisk::new().expect("memory can be opened")))
    }
}

impl StoreBackend for Storage {
    fn open(&self) -> Pin<Box<dyn Future<Output = Arc<dyn Store>> + Send + '_>> {
        Box::pin(async {
            let options = Options { clock: self.clock.clone(), ..Options::default() };
            let storage = match &self.place {
                Place::Directory(path, _) => Embedded::open(path, options).await,
                Place::Memory(disk) => Embedded::memory(disk, options).await,
            };
            let storage = storage.expect("the storage opens");
            self.opened.lock().expect("no test panics here").replace(storage.clone());
            Arc::new(storage) as Arc<dyn Store>
        })
    }

    fn close(&self, store: Arc<dyn Store>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let opened = self.opened.lock().expect("no test panics here").take();
        Box::pin(async move {
            drop(store);
            opened.expect("what is closed was opened").close().await;
        })
    }
}

mod directory {
    outboard_core::store_conformance!(crate::Storage::in_directory());
}

mod memory {
    outboard_core::store_conformance!(crate::Storage::in_memory());
}

fn set(key: &str, value: &str) -> Write {
    let (key, value) = (key.into(), value.to_owned().into());
    Write::Set { key, value, ttl: None, when: When::Always }
}

#[tokio::test]
async fn a_directory_of_the_format_before_gets_the_new_tables() {
    let directory = tempfile::tempdir().unwrap();
    Embedded::open(directory.path(), Options::default()).await.unwrap().close().await;
    let connection = rusqlite::Connection::open(directory.path().join(DATABASE)).unwrap();
    let before = "DROP TABLE store; DROP TABLE store_version; PRAGMA user_version = 1;";
    connection.execute_batch(before).unwrap();
    drop(connection);
    assert!(outboard_embedded::verify(directory.path(), |_, _| {}).unwrap().is_clean());
    let storage = Embedded::open(directory.path(), Options::default()).await.unwrap();
    storage.write(vec![set("a", "one")]).await.unwrap().remove(0).unwrap();
    storage.close().await;
    let connection = rusqlite::Connection::open(directory.path().join(DATABASE)).unwrap();
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, outboard_embedded::format::FORMAT);
}

#[tokio::test]
async fn what_waits_together_is_one_transaction() {
    let storage = Embedded::memory(&MemoryDisk::new().unwrap(), Options::default()).await.unwrap();
    let before = storage.stats().commits;
    let writes: Vec<_> =
        (0..100).map(|number| storage.write(vec![set(&number.to_string(), "one")])).collect();
    for write in writes {
        write.await.unwrap().remove(0).unwrap();
    }
    assert_eq!(storage.stats().commits, before + 1);
}
