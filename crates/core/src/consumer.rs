//! The one consuming port that the runtime knows.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    Fut,
    error::Health,
    ledger::{Guard, KeyWrite},
    message::{Message, NewMessage, Position},
    time::Time,
};

/// Deliveries in, settlements out, for one worker.
///
/// Thread-safe; one task calls [`Consumer::next`], any task settles. What is delivered stays claimed until it is
/// settled; claims live in the consumer, so a dropped `next` loses nothing.
pub trait Consumer: Send + Sync + fmt::Debug + 'static {
    /// At least one delivery, at most `max` and at most what the prefetch allows. Waits through outages of the
    /// backend; an error is final for this consumer (`Fenced`, `Closed`, `Corrupt`, `Unknown`).
    ///
    /// Cancel-safe.
    fn next(&self, max: usize) -> Fut<'_, Vec<Delivery>>;

    /// Says what became of a delivery. Never blocks; durable when [`Consumer::durable`] reaches the ticket.
    /// A tag that is not claimed any more is ignored.
    fn settle(&self, settlement: Settlement) -> Ticket;

    /// Says that a delivery is kept without running, as an outage does: a suspect is not charged for a crash then, and
    /// the next one may run. It stays claimed; for others than suspects nothing changes.
    fn hold(&self, tag: Tag);

    /// Takes back attempts that were counted by `RetryAfter`: so many for each message. They are due at once.
    fn give_back(&self, attempts: Vec<(Tag, u32)>);

    /// The highest ticket up to which everything is durable.
    fn durable(&self) -> watch::Receiver<Ticket>;

    /// Stops or goes on delivering. A paused consumer keeps its connection and its claims.
    fn flow(&self, flow: Flow);

    /// Where it stands; cheap.
    fn status(&self) -> Status;

    /// Stops delivering, waits until everything claimed is settled and durable, at the latest until the deadline,
    /// then gives back the rest uncounted and releases the worker.
    fn drain(&self, deadline: Instant) -> Fut<'_, Drained>;
}

/// Counts settlements of one consumer, from 1.
pub type Ticket = u64;

/// One delivery's name: the consumer's epoch or generation, and a number within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// The epoch, or the generation of the connection.
    pub epoch: u64,
    /// The number within it; on the log, the position.
    pub number: u64,
}

/// A message handed to a worker.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What to settle it by.
    pub tag: Tag,
    /// The message.
    pub message: Arc<Message>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Whether it runs alone, because it may have crashed the process.
    pub suspect: bool,
    /// Whether somebody may have had it before: only then is it worth asking whether it is done already.
    pub redelivered: bool,
    /// Whether its id is the same each time it is delivered. Without that, its effects happen at least once.
    pub is_identified: bool,
}

/// What became of a delivery.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which delivery.
    pub tag: Tag,
    /// What became of it.
    pub verdict: Verdict,
    /// What commits together with it; only for [`Verdict::Done`].
    pub effects: Option<Box<Effects>>,
}

/// The runtime's word on one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Handled.
    Done,
    /// Failed; counted; again after this time.
    RetryAfter {
        /// How long to wait.
        delay: Duration,
        /// What it said.
        reason: Arc<str>,
    },
    /// Again after this time; not a failure, not counted.
    Snooze {
        /// How long to wait.
        delay: Duration,
    },
    /// Given up on purpose, without a dead letter.
    Cancel {
        /// Why.
        reason: Arc<str>,
    },
    /// Not tried, or not to be counted: delivered again as soon as possible, behind other returned ones.
    Return,
    /// Given up; becomes a dead letter; counted.
    Dead {
        /// Why.
        reason: Arc<str>,
    },
}

/// Writes that commit with the done mark.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    /// What must still hold.
    pub guards: Vec<Guard>,
    /// Durable keys of the worker.
    pub writes: Vec<KeyWrite>,
    /// Messages to append.
    pub appends: Vec<NewMessage>,
}

impl Effects {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty() && self.writes.is_empty() && self.appends.is_empty()
    }

    /// What they add to a commit, in bytes.
    pub fn bytes(&self) -> usize {
        bytes_of(&self.writes, &self.appends)
    }
}

/// What writes and messages add to a commit, in bytes.
pub(crate) fn bytes_of(writes: &[KeyWrite], appends: &[NewMessage]) -> usize {
    let writes = writes.iter().map(|write| match write {
        KeyWrite::Set(key, value) => key.len() + value.len(),
        KeyWrite::Delete(key) | KeyWrite::Add(key, _) => key.len(),
    });
    let appends = appends.iter().map(|message| {
        let headers = message.headers.iter().map(|(name, value)| name.len() + value.len());
        message.kind.len() + message.payload.len() + headers.sum::<usize>()
    });
    writes.sum::<usize>() + appends.sum::<usize>()
}

/// How a consumer delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Delivers nothing.
    Paused,
    /// Has at most so many messages claimed and not durably settled.
    Running {
        /// The bound.
        prefetch: u32,
    },
}

/// Where a consumer stands.
#[derive(Debug, Clone)]
pub struct Status {
    /// How it delivers.
    pub flow: Flow,
    /// Its epoch, or the generation of its connection.
    pub epoch: u64,
    /// Everything up to here is durably done.
    pub low: Position,
    /// Claimed and not durably settled.
    pub unsettled: u32,
    /// Parked messages, running ones included.
    pub parked: u64,
    /// Suspects that still have to run alone.
    pub suspects: u32,
    /// When it last delivered or committed something.
    pub last_progress: Time,
    /// How often the wall clock was seen to jump, in either direction: it was set, or the machine was suspended. Due
    /// times go by the new time.
    pub clock_jumps: u64,
    /// Whether it consumes: `Recovering` while its backend is away or refuses it, `Refusing` when it takes nothing new (a
    /// full table). Says nothing of a pause.
    pub health: Health,
}

impl Status {
    /// Of a consumer on a broker's queue, which has no positions and parks nothing itself.
    pub fn of_queue(flow: Flow, epoch: u64, unsettled: u32, last_progress: Time, health: Health) -> Self {
        let (low, parked, suspects, clock_jumps) = (Position::START, 0, 0, 0);
        Self { flow, epoch, low, unsettled, parked, suspects, last_progress, clock_jumps, health }
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Settled while draining.
    pub settled: u64,
    /// Given back uncounted at the deadline.
    pub returned: u32,
}
