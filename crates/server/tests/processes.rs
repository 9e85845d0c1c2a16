//! Two processes that share a Redis: one piece of periodic work and one lock, the holder killed with `kill -9` again and
//! again.
//!
//! Each process writes down in the store what it does; the store's versions say in which order it was done. A key is
//! written only once, so nothing is told twice, and what a killed process had begun has no end.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

#[path = "e2e/scale.rs"]
mod scale;

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use outboard::{App, Done, Outcome, Tick, Worker};
use outboard_backends::redis_store::{RedisStore, RedisStoreOptions};
use outboard_core::{
    fault::Faults,
    lease::Leases,
    store::{Change, Store, StoreKey, Version, When, Write, next_change},
    time::system_clock,
};
use outboard_embedded::{Embedded, MemoryDisk, Options};
use outboard_testkit::Redis;
use tokio::sync::{Mutex, broadcast};

use crate::scale::scaled;

/// Names the Redis to a process that this test starts from its own program.
const URL: &str = "OUTBOARD_TEST_REDIS";

/// How long a lease outlives its holder.
const TTL: Duration = Duration::from_secs(2);

/// How often the periodic work is due.
const EVERY: Duration = Duration::from_millis(500);

/// What a loaded machine may take on top.
const SLACK: Duration = Duration::from_secs(3);

/// So many writes make a run long enough to be killed within it.
const STEPS: usize = 100;

fn open(url: &str) -> Arc<dyn Store> {
    Arc::new(RedisStore::open(url, RedisStoreOptions::default()).unwrap())
}

/// What one process has done, in the store.
#[derive(Clone)]
struct Journal {
    store: Arc<dyn Store>,
    /// The next entry's number; held while one is written, so that none is left out.
    next: Arc<Mutex<usize>>,
}

fn entry_key(process: u32, number: usize) -> StoreKey {
    format!("journal/{process}/{number}").into()
}

impl Journal {
    async fn write(&self, entry: String) {
        let journal = self.clone();
        // On its own: a run that is cancelled leaves no gap.
        let writing = tokio::spawn(async move {
            let mut next = journal.next.lock().await;
            let key = entry_key(std::process::id(), *next);
            let write = Write::Set { key, value: entry.into(), ttl: None, when: When::Absent };
            journal.store.write(vec![write]).await.unwrap().remove(0).unwrap();
            *next += 1;
        });
        writing.await.unwrap();
    }

    async fn work(&self) -> Result<(), outboard_core::PortError> {
        for _ in 0..STEPS {
            self.store.add("steps".into(), 1, None).await?;
        }
        Ok(())
    }
}

/// The tick that this run took: the slot before the next one, which only the holder of the lease moves.
async fn sweep(tick: Tick<Journal>) -> Outcome {
    let journal = tick.state();
    let next = journal.store.get(vec!["periodic/sweeper/periodic-1".into()]).await?.remove(0).unwrap();
    let next = String::from_utf8(next.value.to_vec())?;
    journal.write(format!("tick {next} begins")).await;
    journal.work().await?;
    journal.write(format!("tick {next} ends")).await;
    Ok(Done)
}

/// What a process does that this test starts: nothing when it is run as a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let Ok(url) = std::env::var(URL) else { return };
    let store = open(&url);
    let journal = Journal { store: store.clone(), next: Arc::default() };
    let leases = Leases::new(store, std::process::id().to_string(), TTL);
    let sweeper = Worker::new("sweeper", "Sweeps", journal.clone()).every(EVERY, sweep);
    // In memory, and by the clock that both processes have.
    let storage = Embedded::memory(&MemoryDisk::new().unwrap(), Options::default()).await.unwrap();
    let (log, ledger) = (Arc::new(storage.clone()), Arc::new(storage));
    let app = App::with_ports(log, ledger, system_clock(), Faults::none());
    let running = app.leases(leases).worker(sweeper).start().await.unwrap();
    loop {
        let lock = running.lock("stock").await.unwrap();
        let fence = lock.fence();
        journal.write(format!("lock {fence} begins")).await;
        journal.work().await.unwrap();
        if lock.is_held() {
            journal.write(format!("lock {fence} ends")).await;
        }
        lock.release().await;
    }
}

/// A process of this program; killed when dropped.
struct Process(Child);

impl Process {
    fn start(url: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process", "--nocapture"]).env(URL, url);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `kill -9`; that it is gone already is what was wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was done, as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    process: u32,
    /// `tick` or `lock`.
    what: String,
    /// The tick's, or the lock's fence.
    number: u64,
    begins: bool,
}

/// Reads the journals of all processes.
struct Reader {
    store: Arc<dyn Store>,
    changes: broadcast::Receiver<Change>,
    /// How many entries of each process were read.
    read: BTreeMap<u32, usize>,
    entries: BTreeMap<Version, Entry>,
}

impl Reader {
    /// Reads until an entry after `since` is such a one.
    async fn until(&mut self, since: Version, wanted: impl Fn(&Entry) -> bool) -> (Version, Entry) {
        loop {
            self.read_all().await;
            let found = self.entries.range(since + 1..).find(|(_, entry)| wanted(entry));
            if let Some((version, entry)) = found {
                return (*version, entry.clone());
            }
            let change = tokio::time::timeout(Duration::from_secs(30), next_change(&mut self.changes)).await;
            change.expect("something happens within 30 s").unwrap();
        }
    }

    async fn read_all(&mut self) {
        for (&process, read) in &mut self.read {
            while let Some(found) = self.store.get(vec![entry_key(process, *read)]).await.unwrap().remove(0) {
                let text = String::from_utf8(found.value.to_vec()).unwrap();
                let words: Vec<&str> = text.split(' ').collect();
                let (what, number) = (words[0].to_owned(), words[1].parse().unwrap());
                let entry = Entry { process, what, number, begins: words[2] == "begins" };
                self.entries.insert(found.version, entry);
                *read += 1;
            }
        }
    }

    fn last(&self) -> Version {
        self.entries.last_key_value().map_or(0, |(version, _)| *version)
    }

    /// Numbers grow, hence none comes twice, and nothing that came to its end had something else begin within it.
    fn check(&self, what: &str) -> usize {
        let entries: Vec<&Entry> = self.entries.values().filter(|entry| entry.what == what).collect();
        let begun: Vec<u64> = entries.iter().filter(|entry| entry.begins).map(|entry| entry.number).collect();
        assert!(begun.is_sorted_by(|one, next| one < next), "{what}: {begun:?}");
        for (at, end) in entries.iter().enumerate().filter(|(_, entry)| !entry.begins) {
            let before = entries[at.checked_sub(1).expect("what ends has begun")];
            assert!(before.begins && before.number == end.number, "{what}: {before:?} before {end:?}");
            assert_eq!(before.process, end.process);
        }
        begun.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_is_followed_within_the_lease_and_nothing_is_doubled() {
    let server = Redis::start().unwrap();
    let url = server.url();
    let store = open(&url);
    let changes = store.watch("journal/".into()).await.unwrap();
    let mut processes = [Process::start(&url), Process::start(&url)];
    let read = processes.iter().map(|process| (process.0.id(), 0)).collect();
    let mut reader = Reader { store, changes, read, entries: BTreeMap::new() };
    let kills = scaled(3, 20);
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        for what in ["lock", "tick"] {
            let is_begun = |entry: &Entry| entry.begins && entry.what == what;
            let (_, holder) = reader.until(reader.last(), is_begun).await;
            let at = processes.iter().position(|process| process.0.id() == holder.process).unwrap();
            processes[at].0.kill().unwrap();
            let killed = Instant::now();
            processes[at].0.wait().unwrap();
            let is_followed = |entry: &Entry| is_begun(entry) && entry.process != holder.process;
            reader.read_all().await;
            let follower = reader.until(reader.last(), is_followed).await.1;
            let took = killed.elapsed();
            assert!(took < TTL + EVERY + SLACK, "kill {kill}: {what} went on after {took:?} by {follower:?}");
            slowest = slowest.max(took);
            processes[at] = Process::start(&url);
            reader.read.insert(processes[at].0.id(), 0);
        }
    }
    drop(processes);
    reader.read_all().await;
    let (ticks, locks) = (reader.check("tick"), reader.check("lock"));
    assert!(ticks >= 2 * kills && locks >= 2 * kills, "{ticks} ticks, {locks} locks");
    println!("{kills} kills each: {ticks} ticks, {locks} locks, resumed after {slowest:?} at most");
}
