//! The handle on an embedded log, and the two ports on it.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread::JoinHandle,
};

use outboard_core::{
    Fut, Health, Kind, Ledger, Log, Message, PortError, Position, Time, TypeSet,
    ledger::{
        DeadId, DeadLetter, DeadPage, DeadQuery, DuePage, Epoch, Fate, OpenWorker, Opened, Unit, UnitResult,
        Versioned, WorkerName, WorkerRow,
    },
    log::{Append, Appended, Limit, Page, Subscription},
    planted::{Bug, is_planted},
};
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use crate::{
    error::{OpenError, read_error},
    memory::MemoryDisk,
    open,
    options::Options,
    page, queries,
    request::{AppendRequest, CommitRequest, OpenRequest, PreparedUnit, Reply, Request, bytes_of, prepare},
    seat::Seat,
    shared::Shared,
    stats::{Counters, Stats},
};

/// The log, the ledger and the store of a data directory. Cheap to clone; the last clone that is dropped closes it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use outboard_core::{Log, NewMessage, Position};
/// use outboard_embedded::{Embedded, Options};
///
/// let directory = tempfile::tempdir().unwrap();
/// let log = Embedded::open(directory.path(), Options::default()).await?;
/// let appended = log.append(vec![NewMessage::new("orders/confirm",
/// r#"{"order_id":7}"#)].into()).await.unwrap(); assert_eq!(appended.first, Position(1)); log.close().await;
/// # Ok::<(), outboard_embedded::OpenError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Embedded {
    handle: Arc<Handle>,
}

struct Handle {
    seat: Arc<Seat>,
    /// The writer's thread; none for `:memory:`.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.seat.shared().queue.close(closed());
        // What was enqueued is written still, and the directory is free when this returns.
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

fn closed() -> PortError {
    PortError::new(Kind::Closed, "the log is closed")
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("tip", &*self.shared().tip.borrow()).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens a data directory, which is made if it does not exist, and holds it until it is closed.
    ///
    /// The writer has a thread of its own. Errors: somebody else holds the directory, or it cannot be used.
    pub async fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let path = directory.to_owned();
        let (sender, receiver) = oneshot::channel();
        let run = move || match open::directory(&path, options) {
            Ok(seat) => {
                let seat = Arc::new(seat);
                let _ = sender.send(Ok(seat.clone()));
                seat.run();
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        let io = |source| OpenError::Io { path: directory.to_owned(), source };
        let thread = std::thread::Builder::new().name("outboard-writer".into()).spawn(run).map_err(io)?;
        let seat = receiver
            .await
            .unwrap_or_else(|_| Err(OpenError::Corrupt("the writer ended before the log was open".into())))?;
        Ok(Self { handle: Arc::new(Handle { seat, thread: Mutex::new(Some(thread)) }) })
    }

    /// Opens a log in memory: the same engine, with the writer as a task of this runtime.
    ///
    /// Who opened the disk before writes nothing from now on.
    pub async fn memory(disk: &MemoryDisk, options: Options) -> Result<Self, OpenError> {
        let seat = Arc::new(open::memory(disk, options)?);
        tokio::spawn(seat.run_in_task());
        Ok(Self { handle: Arc::new(Handle { seat, thread: Mutex::default() }) })
    }

    /// What it has done since it was opened.
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let (requests, messages) = shared.queue.depth();
        shared.counters.queued_requests.store(requests as u64, Relaxed);
        shared.counters.queued_messages.store(messages as u64, Relaxed);
        shared.counters.snapshot()
    }

    /// Finishes what is enqueued, checkpoints, and gives the directory back. Everything is `Closed` from then
    /// on.
    pub async fn close(&self) {
        self.shared().queue.close(closed());
        // The sender lives in `shared`: this ends when the writer has.
        let _ = self.shared().ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Appends as [`Log::append`] does, and blocks this thread until the messages are durable.
    ///
    /// For threads outside a runtime: it blocks, as a task must not. When nobody else writes, the transaction is
    /// written on this thread, which spares two changes of threads; this thread then also writes what was
    /// enqueued before, and checkpoints if that is due, which takes some milliseconds. Errors as for
    /// [`Log::append`].
    ///
    /// ```
    /// # let open = async |path| outboard_embedded::Embedded::open(path, Default::default()).await;
    /// use outboard_core::{NewMessage, Position};
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// let log = runtime.block_on(open(directory.path()))?;
    /// let appended = log.append_blocking(vec![NewMessage::new("orders/confirm", "{}")].into()).unwrap();
    /// assert_eq!(appended.first, Position(1));
    /// # Ok::<(), outboard_embedded::OpenError>(())
    /// ```
    pub fn append_blocking(&self, append: Append) -> Result<Appended, PortError> {
        self.shared().tail.sweep();
        let (reply, answer) = Reply::new();
        let request = self.prepare_append(append, reply)?;
        let answered = self.handle.seat.request_blocking(Request::Append(request), answer);
        answered.inspect_err(|error| self.count_refused(error))?
    }

    fn count_refused(&self, error: &PortError) {
        Counters::add(&self.shared().counters.refused_appends, usize::from(error.kind == Kind::Full));
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.handle.seat.shared()
    }

    /// Enqueues a request now, and returns what waits for its answer.
    pub(crate) fn request<T: Send + 'static>(
        &self,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Fut<'static, T> {
        let (reply, answer) = Reply::new();
        match self.shared().queue.push(request(reply)) {
            Ok(()) => Box::pin(answer),
            Err(error) => fail(error),
        }
    }

    /// Runs one query.
    pub(crate) fn query<T, F>(&self, query: F) -> Fut<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let source = &self.shared().source;
        Box::pin(source.run(move |connection| query(connection).map_err(|error| read_error(&error))))
    }

    fn check_append(&self, append: &Append) -> Result<(), PortError> {
        let limit = self.shared().options.append_messages;
        if append.messages.is_empty() || append.messages.len() > limit {
            let text = format!("an append has 1 to {limit} messages; this one has {}", append.messages.len());
            return Err(PortError::new(Kind::Invalid, text));
        }
        Ok(())
    }

    fn check_bytes(&self, bytes: usize) -> Result<(), PortError> {
        let limit = self.shared().options.append_bytes;
        if bytes > limit {
            let text = format!("an append has at most {limit} bytes; this one has {bytes}");
            return Err(PortError::new(Kind::Invalid, text));
        }
        Ok(())
    }

    fn prepare_append(&self, append: Append, reply: Reply<Appended>) -> Result<AppendRequest, PortError> {
        self.check_append(&append)?;
        let (messages, bytes) = prepare(append.messages)?;
        self.check_bytes(bytes)?;
        Ok(AppendRequest { messages, bytes, is_written: false, idempotency: append.idempotency, reply })
    }

    fn prepare_units(&self, units: Vec<Unit>, reply: Reply<Vec<UnitResult>>) -> CommitRequest {
        let (mut messages, mut bytes) = (0, 0);
        let mut prepared = Vec::with_capacity(units.len());
        for mut unit in units {
            let appends = prepare(std::mem::take(&mut unit.appends))
                .and_then(|(appends, more)| self.check_bytes(more).map(|()| (appends, more)));
            // What cannot be appended is the matter of its own unit; the progress of the others commits.
            let (appends, more, refusal) = match appends {
                Ok((appends, more)) => (appends, more, None),
                Err(error) => (Vec::new(), 0, Some(error.message)),
            };
            messages += appends.len();
            bytes += more + bytes_of(&unit.writes);
            prepared.push(PreparedUnit { unit, appends, refusal, is_written: false });
        }
        CommitRequest { units: prepared, messages, bytes, reply }
    }
}

/// A future that fails.
pub(crate) fn fail<T: Send + 'static>(error: PortError) -> Fut<'static, T> {
    Box::pin(std::future::ready(Err(error)))
}

impl Log for Embedded {
    fn tip(&self) -> watch::Receiver<Position> {
        self.shared().tip.subscribe()
    }

    fn append(&self, append: Append) -> Fut<'static, Appended> {
        self.shared().tail.sweep();
        let (reply, answer) = Reply::new();
        let count = append.messages.len() as u32;
        let request = self.prepare_append(append, reply);
        let pushed = request.and_then(|request| self.shared().queue.push(Request::Append(request)));
        match pushed {
            Ok(()) if is_planted(Bug::AcknowledgeBeforeCommit) => {
                let first = self.shared().tip.borrow().next();
                Box::pin(async move { Ok(Appended { first, count, repeated: false }) })
            }
            Ok(()) => Box::pin(answer),
            Err(error) => {
                self.count_refused(&error);
                fail(error)
            }
        }
    }

    fn get(&self, at: Vec<Position>) -> Fut<'_, Vec<Option<Arc<Message>>>> {
        Box::pin(async move {
            let shared = self.shared();
            let tip = *shared.tip.borrow();
            let mut found: Vec<Option<Arc<Message>>> =
                at.iter().map(|&position| shared.tail.get(position)).collect();
            let exists = |position: Position| position > Position::START && position <= tip;
            let missing: Vec<usize> =
                (0..at.len()).filter(|&i| found[i].is_none() && exists(at[i])).collect();
            for slots in missing.chunks(page::MAX_ROWS) {
                let positions: Vec<Position> = slots.iter().map(|&slot| at[slot]).collect();
                let read = move |connection: &Connection| {
                    positions
                        .iter()
                        .map(|&position| page::get(connection, position))
                        .collect::<Result<Vec<_>, _>>()
                };
                let messages = shared.source.run(read).await?;
                Counters::add(&shared.counters.disk_read_messages, messages.len());
                for (&slot, message) in slots.iter().zip(messages) {
                    found[slot] = message;
                }
            }
            Ok(found)
        })
    }

    fn read(&self, after: Position, types: TypeSet, limit: Limit) -> Fut<'_, Page> {
        let shared = self.shared();
        let tip = *shared.tip.borrow();
        if after >= tip {
            return Box::pin(std::future::ready(Ok(Page { messages: Vec::new(), next: after })));
        }
        if let Some(page) = shared.tail.read(after, &types, limit) {
            Counters::add(&shared.counters.tail_reads, 1);
            return Box::pin(std::future::ready(Ok(page)));
        }
        Box::pin(async move {
            let read = move |connection: &Connection| page::read(connection, after, tip, &types, limit);
            let page = shared.source.run(read).await?;
            Counters::add(&shared.counters.disk_reads, 1);
            Counters::add(&shared.counters.disk_read_messages, page.messages.len());
            Ok(page)
        })
    }

    fn subscribe(&self, types: TypeSet) -> Subscription {
        self.shared().subscribers.add(types)
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared().health.subscribe()
    }
}

impl Ledger for Embedded {
    fn open(&self, open: OpenWorker) -> Fut<'_, Opened> {
        self.request(|reply| Request::Open(Box::new(OpenRequest { open, reply })))
    }

    fn commit(&self, units: Vec<Unit>) -> Fut<'static, Vec<UnitResult>> {
        let (reply, answer) = Reply::new();
        let request = self.prepare_units(units, reply);
        match self.shared().queue.push(Request::Commit(request)) {
            Ok(()) => Box::pin(answer),
            Err(error) => fail(error),
        }
    }

    fn release(&self, worker: WorkerName, epoch: Epoch) -> Fut<'_, ()> {
        self.request(|reply| Request::Release { worker, epoch, reply })
    }

    fn due(&self, worker: WorkerName, until: Time, max: usize) -> Fut<'_, DuePage> {
        self.query(move |connection| queries::due(connection, &worker, until, max))
    }

    fn keys(&self, worker: WorkerName, keys: Vec<Arc<str>>) -> Fut<'_, Vec<Versioned>> {
        self.query(move |connection| queries::keys(connection, &worker, &keys))
    }

    fn inbox(&self, worker: WorkerName, ids: Vec<Arc<str>>) -> Fut<'_, Vec<bool>> {
        let now = self.shared().options.clock.now();
        self.query(move |connection| queries::inbox(connection, &worker, &ids, now))
    }

    fn dead(&self, query: DeadQuery) -> Fut<'_, DeadPage> {
        self.query(move |connection| queries::dead(connection, &query))
    }

    fn revive(&self, id: DeadId) -> Fut<'_, DeadLetter> {
        self.request(|reply| Request::Revive { id, reply })
    }

    fn pause(&self, worker: WorkerName, reason: Option<Arc<str>>) -> Fut<'_, ()> {
        self.request(|reply| Request::Pause { worker, reason, reply })
    }

    fn workers(&self) -> Fut<'_, Vec<WorkerRow>> {
        self.query(queries::workers)
    }

    fn fates(&self, at: Position) -> Fut<'_, Vec<(WorkerName, Fate)>> {
        self.query(move |connection| queries::fates(connection, at))
    }
}
