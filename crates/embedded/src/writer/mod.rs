//! The one writer: everything that waits joins one transaction and one fsync.
//!
//! A state machine that takes its turns in the [`Seat`](crate::seat::Seat).

pub(crate) mod log_end;
pub(crate) mod store;
pub(crate) mod workers;

mod batch;
mod checkpoint;
mod holders;
mod space;
mod units;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use outboard_core::{Health, Message, PortError, Position, fault::Point, ledger::WorkerName};
use rusqlite::{Connection, config::DbConfig};

use self::{
    batch::{Batch, Counts},
    checkpoint::Checkpoints,
    log_end::LogEnd,
    space::Space,
    store::StoreEnd,
    workers::Workers,
};
use crate::{
    error::Failure,
    idempotency::Keys,
    inbox::Inbox,
    lock::Lock,
    queue::Taken,
    readers::Source,
    request::Request,
    shared::Shared,
    stats::Counters,
    tail,
    tip_file::{Mark, TipFile},
};

/// How long a new tip waits to be written to its file with the next batch, so that a fast writer does it once for
/// many; twice this when no batch comes, so that the thread that sleeps until then need not wake while others
/// write.
const TIP_EVERY: Duration = Duration::from_millis(2);

/// What a writer starts with: read from the database when it was opened.
pub(crate) struct Start {
    pub(crate) connection: Arc<Mutex<Connection>>,
    pub(crate) end: LogEnd,
    pub(crate) workers: Workers,
    pub(crate) keys: Keys,
    pub(crate) inbox: Inbox,
    pub(crate) store: StoreEnd,
    pub(crate) place: Place,
}

/// Where the writer writes.
pub(crate) enum Place {
    /// Into a data directory that it holds.
    Directory { path: std::path::PathBuf, tip: TipFile, _lock: Lock },
    /// Into `:memory:`, until somebody opens it again.
    Memory { generation: u64, current: Arc<AtomicU64> },
}

/// The writer.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    connection: Arc<Mutex<Connection>>,
    end: LogEnd,
    workers: Workers,
    keys: Keys,
    inbox: Inbox,
    store: StoreEnd,
    space: Space,
    checkpoints: Checkpoints,
    /// When a subscriber that wants other types may be woken.
    owed: Option<tokio::time::Instant>,
    /// When the tip file is to be written.
    tip_due: Option<tokio::time::Instant>,
    /// Released after the connection is closed: fields are dropped in this order.
    place: Place,
    /// Empty between turns; kept for its room.
    batch: Vec<Request>,
    _ending: Ending,
}

/// What a durable transaction leaves to be told.
struct Written {
    counts: Counts,
    revived: Vec<WorkerName>,
}

impl Writer {
    /// A writer that has not begun.
    pub(crate) fn new(start: Start, shared: Arc<Shared>) -> rusqlite::Result<Self> {
        let Start { connection, end, workers, keys, inbox, store, place } = start;
        let checkpoints = {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            Checkpoints::watch(&mut connection, &shared.options)?
        };
        let directory = match &place {
            Place::Directory { path, .. } => Some(path.clone()),
            Place::Memory { .. } => None,
        };
        let space = Space::new(directory, shared.options.reserve_bytes);
        let _ending = Ending(shared.clone());
        // What expired while nobody had it open is due though nobody asks.
        shared.queue.set_alarm(store.deadline());
        Ok(Self {
            shared,
            connection,
            end,
            workers,
            keys,
            inbox,
            store,
            space,
            checkpoints,
            owed: None,
            tip_due: None,
            place,
            batch: Vec::new(),
            _ending,
        })
    }

    /// Whether a thread steps it; a task otherwise.
    pub(crate) fn has_thread(&self) -> bool {
        matches!(self.place, Place::Directory { .. })
    }

    /// Writes what waits, up to one transaction's worth, or does what is due though nobody asks. Returns whether
    /// to go on.
    pub(crate) fn turn(&mut self) -> bool {
        let mut batch = std::mem::take(&mut self.batch);
        let goes_on = match self.shared.queue.take(&mut batch) {
            Taken::Requests => self.step(&mut batch),
            Taken::Nothing => self.do_what_is_due(&mut batch),
            Taken::Closed => {
                self.finish();
                false
            }
        };
        self.batch = batch;
        self.shared.queue.set_alarm(self.deadline());
        goes_on
    }

    fn deadline(&self) -> Option<tokio::time::Instant> {
        let tip_due = self.tip_due.map(|due| due + TIP_EVERY);
        [self.owed, tip_due, self.space.deadline(), self.store.deadline()].into_iter().flatten().min()
    }

    /// Returns whether to go on.
    fn do_what_is_due(&mut self, nothing: &mut Vec<Request>) -> bool {
        self.owed = self.shared.subscribers.wake_owed();
        self.write_tip_if_due();
        if self.space.refusal().is_some() {
            self.space.look(&self.shared.counters);
            self.tell_health();
        }
        // What has expired goes in a transaction of its own when nobody else writes.
        !self.store.is_due(self.shared.options.clock.now()) || self.step(nothing)
    }

    /// One transaction. Leaves `batch` empty; returns whether to go on.
    fn step(&mut self, batch: &mut Vec<Request>) -> bool {
        self.space.look(&self.shared.counters);
        let refusal = self.space.refusal().cloned();
        let mut written = self.transact(batch, refusal.as_ref());
        if let Err(Failure::Full(error)) = &written {
            // What settles work may fit where appends do not.
            let error = error.clone();
            self.space.is_full(&error);
            written = self.transact(batch, Some(&error));
        }
        self.tell_health();
        match written {
            Ok(written) => {
                self.publish(batch, written);
                self.checkpoint()
            }
            Err(Failure::Full(error) | Failure::Busy(error)) => {
                batch.drain(..).for_each(|request| request.refuse(&error));
                true
            }
            Err(Failure::Crashed) => false,
            Err(Failure::Fatal(error)) => {
                self.fail(&error);
                batch.drain(..).for_each(|request| request.refuse(&error));
                false
            }
        }
    }

    fn transact(
        &mut self,
        requests: &mut [Request],
        refusal: Option<&PortError>,
    ) -> Result<Written, Failure> {
        let connection = self.connection.clone();
        let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.options.faults.is_down() || !self.place.is_current() {
            return Err(Failure::Crashed);
        }
        let written = self.write(&connection, requests, refusal);
        if written.is_err() {
            // A full disk makes SQLite roll back by itself.
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK")?;
            }
            self.workers.load(&connection)?;
            self.store.reload(&connection)?;
            self.keys = Keys::load(&connection, self.shared.options.idempotency_keys)?;
            self.inbox = Inbox::load(&connection, &self.shared.options)?;
        }
        written
    }

    fn write(
        &mut self,
        connection: &Connection,
        requests: &mut [Request],
        refusal: Option<&PortError>,
    ) -> Result<Written, Failure> {
        let Shared { options, counters, .. } = &*self.shared;
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let now = options.clock.now();
        let state = (&mut self.workers, &mut self.keys, &mut self.inbox, &mut self.store);
        let mut batch = Batch::begin(connection, self.end, state, &options.faults, now)?;
        for request in requests {
            batch.write(request, refusal)?;
        }
        batch.workers.flush(connection)?;
        batch.keys.trim(connection, now.as_millis())?;
        batch.inbox.trim(connection, now.as_millis())?;
        batch.store.flush(connection, now)?;
        if batch.counts.units > 0 {
            batch.reach(Point::CursorsWritten)?;
        }
        let begun = Instant::now();
        connection.prepare_cached("COMMIT")?.execute([])?;
        counters.commit.record(begun.elapsed());
        if batch.counts.appends > 0 {
            batch.reach(Point::AppendCommitted)?;
        }
        if batch.counts.units > 0 {
            batch.reach(Point::Committed)?;
        }
        let Batch { end, counts, revived, .. } = batch;
        self.end = end;
        Ok(Written { counts, revived })
    }

    /// Tells everybody what has become durable: tail, tip, subscribers, then who asked.
    fn publish(&mut self, batch: &mut Vec<Request>, written: Written) {
        let (messages, bytes) = appended(batch, self.end.position - self.shared.tip.borrow().0);
        let shared = &self.shared;
        self.count(&written.counts, messages.len(), bytes);
        if !messages.is_empty() {
            let published = Arc::new(tail::Batch::new(messages, bytes));
            shared.tail.publish(published.clone());
            shared.tip.send_replace(Position(self.end.position));
            self.owed = shared.subscribers.wake(published.kinds());
            if matches!(self.place, Place::Directory { .. }) {
                self.tip_due.get_or_insert_with(|| tokio::time::Instant::now() + TIP_EVERY);
                self.write_tip_if_due();
            }
        }
        for name in written.revived {
            if let Some(state) = self.workers.get(&name) {
                state.revived.send_modify(|count| *count += 1);
            }
        }
        let shared = &self.shared;
        self.store.tell(&shared.watchers, shared.options.clock.now());
        batch.drain(..).for_each(Request::send);
    }

    fn write_tip_if_due(&mut self) {
        if self.tip_due.is_some_and(|due| due <= tokio::time::Instant::now()) {
            self.write_tip();
        }
    }

    /// A lower bound: one that is too low does no harm.
    fn write_tip(&mut self) {
        self.tip_due = None;
        let Place::Directory { tip, .. } = &self.place else { return };
        let mark = Mark { position: Position(self.end.position), checksum: self.end.checksum };
        if let Err(error) = tip.write(mark) {
            tracing::warn!(%error, "the tip file cannot be written");
        }
    }

    fn count(&self, counts: &Counts, messages: usize, bytes: usize) {
        let counters = &self.shared.counters;
        Counters::add(&counters.commits, 1);
        Counters::add(&counters.appended_messages, messages);
        Counters::add(&counters.appended_bytes, bytes);
        Counters::add(&counters.units_applied, counts.applied);
        Counters::add(&counters.units_in_conflict, counts.in_conflict);
        Counters::add(&counters.units_refused, counts.units_refused);
        Counters::add(&counters.units_fenced, counts.fenced);
        Counters::add(&counters.repeated_appends, counts.repeated);
        Counters::add(&counters.refused_appends, counts.refused);
        Counters::add(&counters.rows_read_at_open, counts.rows_read);
        counters.idempotency_keys.store(self.keys.count(), Relaxed);
    }

    /// Checkpoints if that is due. Returns whether to go on.
    fn checkpoint(&mut self) -> bool {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        let ran = self.checkpoints.run_if_due(&connection, &self.shared.source);
        drop(connection);
        let counters = &self.shared.counters;
        counters.wal_bytes.store(self.checkpoints.wal_bytes(), Relaxed);
        match ran.map_err(Failure::from) {
            Ok(false) => true,
            Ok(true) => {
                Counters::add(&counters.checkpoints, 1);
                counters.checkpoint.record(begun.elapsed());
                true
            }
            // It goes on in the write-ahead log, and is tried again; appends find out about the disk by
            // themselves.
            Err(Failure::Full(_) | Failure::Busy(_)) => true,
            Err(Failure::Fatal(error)) => {
                self.fail(&error);
                false
            }
            Err(Failure::Crashed) => false,
        }
    }

    fn tell_health(&self) {
        let refusal = self.space.refusal();
        self.shared.health.send_if_modified(|health| {
            let is_same = match (&*health, refusal) {
                (Health::Ready, None) | (Health::Failed(_), _) => true,
                (Health::Refusing(before), Some(now)) => before.message == now.message,
                _ => false,
            };
            if !is_same {
                *health = refusal.map_or(Health::Ready, |error| Health::Refusing(error.clone()));
            }
            !is_same
        });
    }

    fn fail(&self, error: &PortError) {
        tracing::error!(%error, "the log has failed");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // After a failed fsync nobody knows what the disk holds: closing must not sync again and believe it.
        let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        self.shared.fail(error);
    }

    /// Everything is answered and nothing can come: leaves the database as compact as it can be.
    fn finish(&mut self) {
        let shared = self.shared.clone();
        let Source::File(readers) = &shared.source else { return };
        readers.close();
        self.write_tip();
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = Checkpoints::finish(&connection) {
            // Everything is in the write-ahead log, from where the next start takes it.
            tracing::warn!(%error, "the last checkpoint failed");
        }
    }
}

/// The last field of a writer, hence dropped when connection and lock are gone, also after a simulated crash
/// or a panic: nobody must wait for a writer that does not exist.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Place {
    /// Whether nobody has opened the same memory again.
    fn is_current(&self) -> bool {
        match self {
            Self::Directory { .. } => true,
            Self::Memory { generation, current } => current.load(Relaxed) == *generation,
        }
    }
}

/// The messages that were written, in the order of their positions, and their bytes.
fn appended(batch: &mut [Request], count: u64) -> (Vec<Arc<Message>>, usize) {
    let mut messages = Vec::with_capacity(count as usize);
    let mut bytes = 0;
    for request in batch {
        match request {
            Request::Append(append) if append.is_written => {
                bytes += append.bytes;
                messages.append(&mut append.messages);
            }
            Request::Commit(commit) => {
                for unit in commit.units.iter_mut().filter(|unit| unit.is_written) {
                    bytes += unit.appends.iter().map(|message| message.payload.len()).sum::<usize>();
                    messages.append(&mut unit.appends);
                }
            }
            _ => {}
        }
    }
    (messages, bytes)
}
