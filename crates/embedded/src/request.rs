//! What the writer is asked for.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use outboard_core::{
    Kind, Message, NewMessage, PortError, Position, Time,
    ledger::{DeadId, DeadLetter, Epoch, KeyWrite, OpenWorker, Opened, Unit, UnitResult, WorkerName},
    log::{Appended, Idempotency},
    pattern::MAX_TYPE_BYTES,
    store::{StoreKey, Version, Write},
};
use tokio::sync::oneshot;

/// One request to the writer, with the way back.
pub(crate) enum Request {
    Append(AppendRequest),
    Commit(CommitRequest),
    Open(Box<OpenRequest>),
    Release { worker: WorkerName, epoch: Epoch, reply: Reply<()> },
    Revive { id: DeadId, reply: Reply<DeadLetter> },
    Pause { worker: WorkerName, reason: Option<Arc<str>>, reply: Reply<()> },
    Write(WriteRequest),
    Add(AddRequest),
}

pub(crate) struct AppendRequest {
    pub(crate) messages: Vec<Arc<Message>>,
    pub(crate) bytes: usize,
    /// Whether this transaction holds them.
    pub(crate) is_written: bool,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) reply: Reply<Appended>,
}

pub(crate) struct CommitRequest {
    pub(crate) units: Vec<PreparedUnit>,
    /// Messages to append.
    pub(crate) messages: usize,
    /// Of the messages and of the keys to write.
    pub(crate) bytes: usize,
    pub(crate) reply: Reply<Vec<UnitResult>>,
}

/// A unit, with its appends in the form in which they are published.
pub(crate) struct PreparedUnit {
    pub(crate) unit: Unit,
    pub(crate) appends: Vec<Arc<Message>>,
    /// Why they cannot be appended, if they cannot.
    pub(crate) refusal: Option<Arc<str>>,
    /// Whether this transaction holds them.
    pub(crate) is_written: bool,
}

pub(crate) struct OpenRequest {
    pub(crate) open: OpenWorker,
    pub(crate) reply: Reply<Opened>,
}

/// Writes of the store; each was found to be possible or has its refusal.
pub(crate) struct WriteRequest {
    pub(crate) writes: Vec<Result<Write, PortError>>,
    /// Of the keys and values.
    pub(crate) bytes: usize,
    pub(crate) reply: Reply<Vec<Result<Version, PortError>>>,
}

/// An addition in the store.
pub(crate) struct AddRequest {
    pub(crate) key: StoreKey,
    pub(crate) delta: i64,
    pub(crate) ttl_millis: Option<i64>,
    pub(crate) reply: Reply<i64>,
}

/// What an idempotency key adds to a transaction: keys are random, so that each one changes a page of its
/// own.
const KEY_BYTES: usize = 4_096;

impl Request {
    /// How many messages and bytes it adds to a transaction.
    pub(crate) fn weight(&self) -> (usize, usize) {
        match self {
            Self::Append(append) => {
                let key = if append.idempotency.is_some() { KEY_BYTES } else { 0 };
                (append.messages.len(), append.bytes + key)
            }
            Self::Commit(commit) => (commit.messages, commit.bytes),
            Self::Write(write) => (0, write.bytes),
            _ => (0, 0),
        }
    }

    /// Gives the answer that the transaction left.
    pub(crate) fn send(self) {
        match self {
            Self::Append(append) => append.reply.send(),
            Self::Commit(commit) => commit.reply.send(),
            Self::Open(open) => open.reply.send(),
            Self::Release { reply, .. } | Self::Pause { reply, .. } => reply.send(),
            Self::Revive { reply, .. } => reply.send(),
            Self::Write(write) => write.reply.send(),
            Self::Add(add) => add.reply.send(),
        }
    }

    /// Answers with an error, whatever the transaction left.
    pub(crate) fn refuse(self, error: &PortError) {
        let error = error.clone();
        match self {
            Self::Append(append) => append.reply.refuse(error),
            Self::Commit(commit) => commit.reply.refuse(error),
            Self::Open(open) => open.reply.refuse(error),
            Self::Release { reply, .. } | Self::Pause { reply, .. } => reply.refuse(error),
            Self::Revive { reply, .. } => reply.refuse(error),
            Self::Write(write) => write.reply.refuse(error),
            Self::Add(add) => add.reply.refuse(error),
        }
    }
}

/// The way back, and the answer that goes there once the transaction is durable.
pub(crate) struct Reply<T> {
    sender: oneshot::Sender<Result<T, PortError>>,
    answer: Option<Result<T, PortError>>,
}

impl<T> Reply<T> {
    /// A reply, and what comes of it.
    pub(crate) fn new() -> (Self, Answer<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender, answer: None }, Answer(receiver))
    }

    /// Sets what is answered if the transaction commits.
    pub(crate) fn set(&mut self, answer: Result<T, PortError>) {
        self.answer = Some(answer);
    }

    fn send(self) {
        let answer = self.answer.expect("a committed transaction has answered each of its requests");
        // Nobody waits when the future was dropped: allowed, the request stays done.
        let _ = self.sender.send(answer);
    }

    fn refuse(self, error: PortError) {
        let _ = self.sender.send(Err(error));
    }
}

/// What comes of a request: awaited, or looked at.
pub(crate) struct Answer<T>(oneshot::Receiver<Result<T, PortError>>);

impl<T> Answer<T> {
    /// The answer, once it is there.
    pub(crate) fn look(&mut self) -> Option<Result<T, PortError>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(no_answer())),
        }
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, PortError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|received| received.unwrap_or_else(|_| Err(no_answer())))
    }
}

/// The writer drops a reply only when it fails or the simulated process is down.
fn no_answer() -> PortError {
    PortError::new(Kind::Unknown, "the log failed before it answered")
}

/// How many bytes the writes of a unit add to a transaction.
pub(crate) fn bytes_of(writes: &[KeyWrite]) -> usize {
    let bytes = |write: &KeyWrite| match write {
        KeyWrite::Set(key, value) => key.len() + value.len(),
        KeyWrite::Delete(key) | KeyWrite::Add(key, _) => key.len(),
    };
    writes.iter().map(bytes).sum()
}

/// The messages in the form in which they are published, without position and timestamp, and their bytes.
///
/// Made on the caller's thread, so that the writer allocates nothing for them.
pub(crate) fn prepare(messages: Vec<NewMessage>) -> Result<(Vec<Arc<Message>>, usize), PortError> {
    let mut bytes = 0;
    let mut prepared = Vec::with_capacity(messages.len());
    for NewMessage { kind, payload, headers, run_at } in messages {
        if kind.is_empty() || kind.len() > MAX_TYPE_BYTES {
            let found = kind.len();
            let text = format!("a message's type has 1 to {MAX_TYPE_BYTES} bytes; this one has {found}");
            return Err(PortError::new(Kind::Invalid, text));
        }
        bytes += kind.len() + payload.len() + headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
        let (id, timestamp) = (Position::START, Time::default());
        prepared.push(Arc::new(Message { id, name: None, kind, payload, headers, timestamp, run_at }));
    }
    Ok((prepared, bytes))
}
