//! `GET /messages` and `GET /messages/{id}`.

use http::StatusCode;
use outboard::WorkerHandle;
use outboard_core::{
    Position, TypePattern, TypeSet,
    ledger::{Fate, Parked, ParkedState},
    log::Limit,
};
use outboard_http::{Problem, problem::FieldError};
use serde::Serialize;

use super::{
    Api,
    json::{self, MessageView, Moment},
    query::Query,
};
use crate::serve::Answer;

/// A page of messages.
#[derive(Debug, Serialize)]
struct Messages<'a> {
    messages: Vec<MessageView<'a>>,
    /// Pass it as `after` to read on. With a rare type a page may be empty before the end: `next` has moved.
    next: Position,
    /// The last position of the log: a `next` that is not below it is the end for now.
    tip: Position,
}

/// What one worker has done with a message.
#[derive(Debug, Default, Serialize)]
struct WorkerState {
    worker: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_id: Option<u64>,
}

#[derive(Debug, Serialize)]
struct OneMessage<'a> {
    #[serde(flatten)]
    message: MessageView<'a>,
    workers: Vec<WorkerState>,
}

impl Api {
    /// A page of the log.
    pub(super) async fn list_messages(&self, query: Option<&str>) -> Result<Answer, Problem> {
        let query = Query::parse(query, &["after", "limit", "type"])?;
        let after = Position(query.number("after", 0, 0, i64::MAX as u64)?);
        let limit = query.number("limit", 100, 1, 1_000)?;
        let types = query.text("type").map_or(Ok(TypeSet::everything()), parse_type)?;
        let limit = Limit::messages(usize::try_from(limit).expect("at most 1,000"));
        let page = self.log.read(after, types, limit).await.map_err(|error| Problem::from(&error))?;
        let messages = page.messages.iter().map(|message| MessageView::from(&**message)).collect();
        // Looked at afterwards, so that it is not behind the page.
        let tip = *self.log.tip().borrow();
        Ok(json::answer(StatusCode::OK, &Messages { messages, next: page.next, tip }))
    }

    /// One message and what became of it.
    ///
    /// `running` is told for the first [`outboard::runtime::MAX_RUNNING_SHOWN`] messages that a worker has under way; further ones are
    /// `pending`, or `retry`, until they end. Of a worker that this process does not run only what the ledger keeps
    /// about this very message is told: it has left no types, so that nobody knows whether the rest was for it.
    pub(super) async fn get_message(&self, id: Position, query: Option<&str>) -> Result<Answer, Problem> {
        Query::parse(query, &[])?;
        let found = self.log.get(vec![id]).await.map_err(|error| Problem::from(&error))?;
        let message = found.into_iter().next().flatten();
        let message = message.ok_or_else(|| Problem::not_found(format!("there is no message {id}")))?;
        let fates = self.ledger.fates(id).await.map_err(|error| Problem::from(&error))?;
        let mut workers = Vec::new();
        for (worker, fate) in fates {
            let handle = self.workers.get(&worker);
            let concerns = match &handle {
                Some(handle) => handle.types().contains(&message.kind),
                None => matches!(fate, Fate::Parked(_) | Fate::Dead(_)),
            };
            if concerns {
                workers.push(WorkerState::new(&worker, fate, id, handle.as_ref()));
            }
        }
        Ok(json::answer(StatusCode::OK, &OneMessage { message: MessageView::from(&*message), workers }))
    }
}

impl WorkerState {
    fn new(worker: &str, fate: Fate, id: Position, handle: Option<&WorkerHandle>) -> Self {
        let is_running = || handle.is_some_and(|handle| handle.info().running.contains(&id));
        let base = Self { worker: worker.to_owned(), ..Self::default() };
        match fate {
            Fate::Done => Self { state: "done", ..base },
            Fate::Before => {
                Self { state: "before", reason: Some("the worker began after it".into()), ..base }
            }
            Fate::Pending | Fate::Parked(_) if is_running() => Self { state: "running", ..base },
            Fate::Pending => Self { state: "pending", ..base },
            Fate::Parked(row) => Self { worker: base.worker, ..Self::parked(row, handle.is_some()) },
            Fate::Dead(letter) => Self {
                state: "dead",
                attempts: Some(letter.attempts),
                reason: Some(letter.reason.to_string()),
                dead_id: Some(letter.id),
                ..base
            },
        }
    }

    fn parked(row: Parked, runs_here: bool) -> Self {
        let state = match row.state {
            ParkedState::Scheduled => "scheduled",
            ParkedState::Retry => "retry",
            ParkedState::Snoozed => "snoozed",
            ParkedState::Straggler | ParkedState::Suspect if runs_here => "running",
            ParkedState::Straggler | ParkedState::Suspect => "pending",
        };
        let is_waiting = !matches!(row.state, ParkedState::Straggler | ParkedState::Suspect);
        Self {
            state,
            attempts: Some(row.attempts),
            reason: Some(row.reason.to_string()).filter(|reason| !reason.is_empty()),
            due: is_waiting.then_some(Moment(row.due)),
            ..Self::default()
        }
    }
}

fn parse_type(text: &str) -> Result<TypeSet, Problem> {
    let parsed = text.parse::<TypePattern>();
    parsed.map(|pattern| [pattern].into_iter().collect()).map_err(|told| {
        let mut problem = Problem::malformed(told.clone());
        problem.errors.push(FieldError::new("type", told));
        problem
    })
}
