//! One transaction while it is being written.

use outboard_core::{
    Kind, PortError, Position, Time,
    fault::{Faults, Point},
    ledger::WorkerName,
    log::Appended,
};
use rusqlite::{CachedStatement, Connection};

use crate::{
    error::Failure,
    idempotency::Keys,
    inbox::Inbox,
    request::{AppendRequest, Request},
    schema::INSERT_MESSAGE,
    writer::{log_end::LogEnd, store::StoreEnd, workers::Workers},
};

/// What a transaction reads and changes; dropped without a trace when it is rolled back.
pub(crate) struct Batch<'a> {
    pub(super) connection: &'a Connection,
    pub(super) insert: CachedStatement<'a>,
    pub(super) end: LogEnd,
    pub(super) workers: &'a mut Workers,
    pub(super) keys: &'a mut Keys,
    pub(super) inbox: &'a mut Inbox,
    pub(super) store: &'a mut StoreEnd,
    pub(super) faults: &'a Faults,
    /// The time of this transaction.
    pub(super) now: Time,
    pub(super) counts: Counts,
    /// Whose dead letters were revived.
    pub(super) revived: Vec<WorkerName>,
}

/// What the writer knows besides the log's end.
pub(crate) type State<'a> = (&'a mut Workers, &'a mut Keys, &'a mut Inbox, &'a mut StoreEnd);

/// What a transaction did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) appends: usize,
    pub(crate) units: usize,
    pub(crate) applied: usize,
    pub(crate) in_conflict: usize,
    pub(crate) units_refused: usize,
    pub(crate) fenced: usize,
    pub(crate) repeated: usize,
    pub(crate) refused: usize,
    /// Rows read to open workers.
    pub(crate) rows_read: usize,
}

impl<'a> Batch<'a> {
    /// A transaction that has just begun.
    pub(super) fn begin(
        connection: &'a Connection,
        end: LogEnd,
        (workers, keys, inbox, store): State<'a>,
        faults: &'a Faults,
        now: Time,
    ) -> Result<Self, Failure> {
        let insert = connection.prepare_cached(INSERT_MESSAGE)?;
        let end = LogEnd { timestamp: end.timestamp.max(now.as_millis()), ..end };
        let (counts, revived) = (Counts::default(), Vec::new());
        Ok(Self { connection, insert, end, workers, keys, inbox, store, faults, now, counts, revived })
    }

    /// Writes one request and sets its answer.
    pub(super) fn write(
        &mut self,
        request: &mut Request,
        refusal: Option<&PortError>,
    ) -> Result<(), Failure> {
        match request {
            Request::Append(append) => {
                let answer = self.append(append, refusal)?;
                append.reply.set(answer);
            }
            Request::Commit(commit) => {
                let answer = self.commit(&mut commit.units)?;
                commit.reply.set(answer);
            }
            Request::Open(request) => {
                let opened = self.open(&request.open)?;
                request.reply.set(Ok(opened));
            }
            Request::Release { worker, epoch, reply } => {
                let answer = self.release(worker, *epoch);
                reply.set(answer);
            }
            Request::Revive { id, reply } => {
                let answer = self.revive(*id)?;
                reply.set(answer);
            }
            Request::Pause { worker, reason, reply } => {
                let answer = self.pause(worker, reason.clone());
                reply.set(answer);
            }
            Request::Write(request) => {
                let answer = self.store.write(self.connection, &request.writes, self.now, refusal)?;
                request.reply.set(Ok(answer));
            }
            Request::Add(request) => {
                let answer = self.store.add(self.connection, request, self.now, refusal)?;
                request.reply.set(answer);
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        append: &mut AppendRequest,
        refusal: Option<&PortError>,
    ) -> Result<Result<Appended, PortError>, Failure> {
        let now = self.now.as_millis();
        append.is_written = false;
        if let Some(idempotency) = &append.idempotency
            && let Some(earlier) = self.keys.find(self.connection, &idempotency.key, now)?
        {
            if earlier.body != idempotency.body {
                let text = "this idempotency key came with another body";
                return Ok(Err(PortError::new(Kind::Mismatch, text)));
            }
            self.counts.repeated += 1;
            return Ok(Ok(Appended { first: earlier.first, count: earlier.count, repeated: true }));
        }
        if let Some(refusal) = refusal {
            self.counts.refused += 1;
            return Ok(Err(refusal.clone()));
        }
        let first = Position(self.end.position + 1);
        for message in &mut append.messages {
            self.end.insert(&mut self.insert, message)?;
        }
        let count = u32::try_from(append.messages.len()).expect("an append's messages are limited");
        if let Some(idempotency) = &append.idempotency {
            self.keys.insert(self.connection, idempotency, (first, count), now)?;
        }
        append.is_written = true;
        self.counts.appends += 1;
        self.reach(Point::AppendWritten)?;
        Ok(Ok(Appended { first, count, repeated: false }))
    }

    /// Passes a fault point.
    pub(super) fn reach(&self, point: Point) -> Result<(), Failure> {
        self.faults.reach(point).map_err(|_| Failure::Crashed)
    }
}
