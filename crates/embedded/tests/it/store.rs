//! The store beside the log: one file, one format, one commit.

use outboard_core::store::{Store, When, Write};
use outboard_embedded::{Embedded, MemoryDisk, Options, format::DATABASE};

use crate::support::spoil;

fn set(key: &str, value: &str) -> Write {
    let (key, value) = (key.into(), value.to_owned().into());
    Write::Set { key, value, ttl: None, when: When::Always }
}

#[tokio::test]
async fn a_directory_of_the_format_before_gets_the_new_tables() {
    let directory = tempfile::tempdir().unwrap();
    Embedded::open(directory.path(), Options::default()).await.unwrap().close().await;
    spoil(directory.path(), "DROP TABLE store; DROP TABLE store_version; PRAGMA user_version = 1;");
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
