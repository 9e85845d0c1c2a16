//! The port of everything that commits with a worker's progress.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    Fut,
    cursor::Cursor,
    message::{NewMessage, Position},
    time::Time,
};

/// A worker's name.
pub type WorkerName = Arc<str>;

/// Which holder of a worker writes; a later holder has a higher one and fences the earlier.
pub type Epoch = u64;

/// Cursors, parked messages, dead letters and durable keys, on the same storage as the log, in the same transactions.
pub trait Ledger: Send + Sync + fmt::Debug + 'static {
    /// Opens a worker: fences an earlier holder, and tells where it stands.
    ///
    /// A worker that was never seen begins where [`OpenWorker::start`] says. After an unclean stop the row of a
    /// suspect that was running is charged one crash here, durably, before this answers.
    fn open(&self, open: OpenWorker) -> Fut<'_, Opened>;

    /// Commits units: one transaction, one fsync, each unit by itself applied, in conflict, refused or fenced.
    ///
    /// Enqueued before this returns, as [`crate::Log::append`] is. A unit's guards are checked before it writes, so
    /// that a bad unit never fails its neighbours; a unit sees the units before it.
    fn commit(&self, units: Vec<Unit>) -> Fut<'static, Vec<UnitResult>>;

    /// Marks the worker as cleanly stopped: nothing is claimed. Fails with `Fenced` for an older epoch.
    fn release(&self, worker: WorkerName, epoch: Epoch) -> Fut<'_, ()>;

    /// Parked messages due at or before `until`, by due time and position; never running ones.
    fn due(&self, worker: WorkerName, until: Time, max: usize) -> Fut<'_, DuePage>;

    /// Durable keys of a worker, in the order asked.
    fn keys(&self, worker: WorkerName, keys: Vec<Arc<str>>) -> Fut<'_, Vec<Versioned>>;

    /// Dead letters, oldest first.
    fn dead(&self, query: DeadQuery) -> Fut<'_, DeadPage>;

    /// Makes a dead letter a parked message again, due now, with no attempt counted. `NotFound` without it.
    fn revive(&self, id: DeadId) -> Fut<'_, DeadLetter>;

    /// Pauses a worker for a reason, durably, or with `None` resumes it. `NotFound` for a worker never opened.
    fn pause(&self, worker: WorkerName, reason: Option<Arc<str>>) -> Fut<'_, ()>;

    /// Every worker ever opened, by name.
    fn workers(&self) -> Fut<'_, Vec<WorkerRow>>;

    /// Which of these messages of a broker the worker is done with, in the order asked, as far as that is remembered
    /// (a limited time).
    fn inbox(&self, worker: WorkerName, ids: Vec<Arc<str>>) -> Fut<'_, Vec<bool>>;

    /// What every worker has done with one message. Says nothing of types: the caller knows who handles what.
    fn fates(&self, at: Position) -> Fut<'_, Vec<(WorkerName, Fate)>>;
}

/// Where a worker that was never seen begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With the first message of the log.
    Beginning,
    /// With what is appended from now on.
    #[default]
    End,
}

/// How a worker is opened.
#[derive(Debug, Clone)]
pub struct OpenWorker {
    /// Its name.
    pub worker: WorkerName,
    /// Where it begins, if it was never seen.
    pub start: Start,
    /// The largest number of messages that it will have claimed and not durably settled.
    pub claims: u32,
}

/// Where a worker stands.
#[derive(Debug, Clone)]
pub struct Opened {
    /// This holder's epoch.
    pub epoch: Epoch,
    /// What is done.
    pub cursor: Cursor,
    /// Whether the last holder released it. If not, what it had claimed is suspect.
    pub clean: bool,
    /// How many messages the last holder could have claimed.
    pub claims: u32,
    /// Rows in state straggler or suspect, whether `clean` or not; a suspect's crash is already charged.
    pub running: Vec<Parked>,
    /// Why it is paused, if it is.
    pub paused: Option<Arc<str>>,
    /// When the first parked message is due.
    pub next_due: Option<Time>,
    /// How many messages are parked.
    pub parked: u64,
    /// Grows by one for each message that somebody else has parked for this worker (a revived dead letter).
    pub revived: watch::Receiver<u64>,
}

/// A message that waits for its time, or that runs outside the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The message.
    pub position: Position,
    /// Why it is here.
    pub state: ParkedState,
    /// When it is due; running ones are never due ([`Time::MAX`]).
    pub due: Time,
    /// Attempts made and counted.
    pub attempts: u32,
    /// Consecutive times that the process crashed while this one ran as a suspect.
    pub crashes: u32,
    /// What the last attempt said; empty if there was none.
    pub reason: Arc<str>,
}

/// Why a message is parked. The numbers are the stored form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedState {
    /// Its `run_at` has not come.
    Scheduled = 0,
    /// It failed and will be tried again.
    Retry = 1,
    /// Its handler asked for a later time, without a failure.
    Snoozed = 2,
    /// It runs so long that the cursor went past it.
    Straggler = 3,
    /// It runs alone, because it may have crashed the process.
    Suspect = 4,
}

/// One step of progress. Everything in it commits together, or nothing.
///
/// ```
/// use outboard_core::{Position, ledger::Unit};
/// let unit = Unit { done: vec![(Position(7), Position(7))], ..Unit::of("orders".into(), 1) };
/// assert!(unit.guards.is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct Unit {
    /// Whose progress.
    pub worker: WorkerName,
    /// Refused as fenced when it is not the worker's current one.
    pub epoch: Epoch,
    /// Inclusive ranges of positions that are done.
    pub done: Vec<(Position, Position)>,
    /// What must hold before anything is written.
    pub guards: Vec<Guard>,
    /// Durable keys.
    pub writes: Vec<KeyWrite>,
    /// Messages to append.
    pub appends: Vec<NewMessage>,
    /// Parked messages.
    pub parked: Vec<ParkedChange>,
    /// New dead letters.
    pub dead: Vec<NewDead>,
    /// The id of a broker's message that is done with this: a unit with the same one has come before, or will come to
    /// nothing.
    pub inbox: Option<Arc<str>>,
}

impl Unit {
    /// An empty unit.
    pub fn of(worker: WorkerName, epoch: Epoch) -> Self {
        Self {
            worker,
            epoch,
            done: Vec::new(),
            guards: Vec::new(),
            writes: Vec::new(),
            appends: Vec::new(),
            parked: Vec::new(),
            dead: Vec::new(),
            inbox: None,
        }
    }
}

/// A condition of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key has this version; 0 means that it does not exist.
    Version(Arc<str>, u64),
}

/// A change of one durable key of the unit's worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyWrite {
    /// Sets it.
    Set(Arc<str>, Bytes),
    /// Removes it.
    Delete(Arc<str>),
    /// Adds to a counter (a decimal number; absent counts as 0); saturates. On any other value its unit is refused.
    Add(Arc<str>, i64),
}

/// A change of one parked message of the unit's worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParkedChange {
    /// Parks it, or replaces its row.
    Put(Parked),
    /// Its wait is over.
    Remove(Position),
    /// Takes back so many counted attempts and makes it due at once. Nothing happens without a row in state retry.
    GiveBack(Position, u32),
}

/// A message to be given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDead {
    /// The message.
    pub position: Position,
    /// Why, for people.
    pub reason: Arc<str>,
    /// Attempts counted.
    pub attempts: u32,
}

/// What became of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitResult {
    /// It is durable; the first appended position, if it appended.
    Applied(Option<Position>),
    /// A guard did not hold; nothing of it was written.
    Conflict,
    /// A write of it can never succeed, for this reason (an addition to what is not a number, a message that the log
    /// would refuse); nothing of it was written.
    Refused(Arc<str>),
    /// The worker was done with this message of a broker before; nothing of it was written.
    Repeated,
    /// A newer holder has the worker; nothing of it was written.
    Fenced,
}

/// Parked messages that are due.
#[derive(Debug, Clone, Default)]
pub struct DuePage {
    /// Due ones, by due time.
    pub rows: Vec<Parked>,
    /// When the next one after these is due; it may be due already when `max` cut the page.
    pub next: Option<Time>,
}

/// A durable key's value; version 0 and no value when it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Option<Bytes>,
    /// Grows with every write.
    pub version: u64,
}

/// A dead letter's own id.
pub type DeadId = u64;

/// A message given up on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id; a message can have one for each worker.
    pub id: DeadId,
    /// The message.
    pub message_id: Position,
    /// The worker that gave it up.
    pub worker: WorkerName,
    /// Why, for people.
    pub reason: Arc<str>,
    /// Attempts counted.
    pub attempts: u32,
    /// When it was given up.
    pub at: Time,
}

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadQuery {
    /// With a higher id than this.
    pub after: DeadId,
    /// Of this worker only.
    pub worker: Option<WorkerName>,
    /// At most this many.
    pub max: usize,
}

/// Some dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadPage {
    /// By id.
    pub letters: Vec<DeadLetter>,
    /// Where to go on, if there may be more.
    pub next: Option<DeadId>,
}

/// What the ledger knows of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    /// Its name.
    pub name: WorkerName,
    /// Its current epoch.
    pub epoch: Epoch,
    /// Its low-water mark.
    pub low: Position,
    /// How many positions above it are done.
    pub done_above: u64,
    /// What came before this position was never its own.
    pub began_after: Position,
    /// How many messages are parked.
    pub parked: u64,
    /// How many dead letters it has.
    pub dead: u64,
    /// Why it is paused, if it is.
    pub paused: Option<Arc<str>>,
}

/// What a worker has done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The worker began after it.
    Before,
    /// Not durably done: it waits, or it runs now.
    Pending,
    /// Parked.
    Parked(Parked),
    /// Given up.
    Dead(DeadLetter),
    /// Done, or not of a type that the worker handles.
    Done,
}
