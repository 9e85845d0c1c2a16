//! `GET /workers`, pausing and resuming.

use std::collections::BTreeMap;

use http::StatusCode;
use outboard::{Source, WorkerHandle, WorkerState, runtime::Counters};
use outboard_core::{
    Kind, Position,
    ledger::{WorkerName, WorkerRow},
};
use outboard_http::{Problem, problem::FieldError};
use serde::{Deserialize, Serialize};

use super::{
    Api,
    json::{self, Moment},
    query::Query,
};
use crate::serve::Answer;

/// A worker as the API shows it: what the ledger knows of it, and what it does in this process.
#[derive(Debug, Serialize)]
struct WorkerView {
    name: String,
    description: String,
    types: Vec<String>,
    /// `running`, `paused`, `outage`, `draining`, `stopped`, `failed`; `absent` when this process does not run it.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Moment>,
    /// `log`, or the broker and its queue, through the log or not.
    source: String,
    /// When it last took or settled something; absent when this process does not run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_progress: Option<Moment>,
    /// Everything up to this position is done; on the log only, as the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    low: Option<Position>,
    /// Positions behind the log, of whatever type.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
    /// When the message after `low` was appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<Moment>,
    parked: u64,
    /// Dead letters kept; those of a worker on a queue are the broker's to count.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<u64>,
    concurrency: u32,
    in_flight: u32,
    running: Vec<Position>,
    counters: Counters,
}

#[derive(Debug, Serialize)]
struct WorkersView {
    workers: Vec<WorkerView>,
    tip: Position,
}

#[derive(Debug, Serialize)]
struct Paused<'a> {
    name: &'a str,
    paused: bool,
}

/// The longest reason, in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 500;

impl Api {
    /// All workers, by name.
    pub(super) async fn list_workers(&self, query: Option<&str>) -> Result<Answer, Problem> {
        Query::parse(query, &[])?;
        let tip = *self.log.tip().borrow();
        let rows = self.ledger.workers().await.map_err(|error| Problem::from(&error))?;
        let handles = self.workers.handles();
        let mut running: BTreeMap<WorkerName, &WorkerHandle> =
            handles.iter().map(|handle| (handle.name().clone(), handle)).collect();
        let mut workers: Vec<_> = rows
            .into_iter()
            .map(|row| {
                let handle = running.remove(&row.name);
                view(row, handle, tip)
            })
            .collect();
        // There is nothing after the tip, so a worker on a queue finds nothing.
        let behind: Vec<_> = workers.iter().map(|worker| worker.low.unwrap_or(tip).next()).collect();
        let oldest = match self.log.get(behind).await {
            // A worker that cannot pass a damaged message says so itself; its list is what tells.
            Err(error) if error.kind == Kind::Corrupt => Vec::new(),
            oldest => oldest.map_err(|error| Problem::from(&error))?,
        };
        for (worker, message) in workers.iter_mut().zip(oldest) {
            worker.oldest = message.map(|message| Moment(message.timestamp));
        }
        Ok(json::answer(StatusCode::OK, &WorkersView { workers, tip }))
    }

    /// Pauses a worker; the body may say why.
    pub(super) async fn pause_worker(&self, name: &str, body: &[u8]) -> Result<Answer, Problem> {
        let reason = parse_reason(body)?;
        self.workers.pause(name, reason.clone()).await.map_err(|error| Problem::from(&error))?;
        tracing::info!(worker = name, reason, "the worker is paused");
        Ok(json::answer(StatusCode::OK, &Paused { name, paused: true }))
    }

    /// Resumes a worker.
    pub(super) async fn resume_worker(&self, name: &str) -> Result<Answer, Problem> {
        self.workers.resume(name).await.map_err(|error| Problem::from(&error))?;
        tracing::info!(worker = name, "the worker is resumed");
        Ok(json::answer(StatusCode::OK, &Paused { name, paused: false }))
    }
}

fn view(row: WorkerRow, handle: Option<&WorkerHandle>, tip: Position) -> WorkerView {
    let mut view = WorkerView {
        name: row.name.to_string(),
        description: String::new(),
        types: Vec::new(),
        state: "absent",
        reason: row.paused.map(|reason| reason.to_string()),
        since: None,
        source: "log".to_owned(),
        last_progress: None,
        low: Some(row.low),
        lag: None,
        oldest: None,
        parked: row.parked,
        dead: Some(row.dead),
        concurrency: 0,
        in_flight: 0,
        running: Vec::new(),
        counters: Counters::default(),
    };
    if let Some(handle) = handle {
        let info = handle.info();
        (view.state, view.reason, view.since) = match info.state {
            WorkerState::Running => ("running", info.consumer.error, None),
            WorkerState::Paused { reason } => ("paused", Some(reason), None),
            WorkerState::Outage { since, reason, .. } => ("outage", Some(reason), Some(Moment(since))),
            WorkerState::Draining => ("draining", None, None),
            WorkerState::Stopped => ("stopped", None, None),
            WorkerState::Failed { reason } => ("failed", Some(reason), None),
        };
        view.description = info.description;
        view.types = info.types;
        // The consumer passes what is not its own in memory, and writes that down later.
        view.low = view.low.max(Some(info.consumer.low));
        view.last_progress = Some(Moment(info.consumer.last_progress));
        view.source = info.source;
        if matches!(handle.source(), Source::Queue(_)) {
            view.low = None;
            view.dead = None;
        }
        view.parked = info.consumer.parked;
        view.concurrency = info.concurrency;
        view.in_flight = info.consumer.unsettled;
        view.running = info.running;
        view.counters = info.counters;
    }
    view.lag = view.low.map(|low| tip.0.saturating_sub(low.0));
    view
}

/// The reason in the body of a pause; an empty body gives none.
fn parse_reason(body: &[u8]) -> Result<Option<String>, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pause {
        #[serde(default)]
        reason: Option<String>,
    }
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    outboard_http::json::check(body, 4).map_err(Problem::from)?;
    let parsed: Result<BTreeMap<String, serde_json::Value>, _> = serde_json::from_slice(body);
    let fields =
        parsed.map_err(|error| Problem::malformed(format!("the body is not a JSON object: {error}")))?;
    if let Some(unknown) = fields.keys().find(|name| *name != "reason") {
        return Err(Problem::unknown_field(unknown, &["reason"]));
    }
    let pause = serde_json::from_slice::<Pause>(body);
    let pause = pause.map_err(|_| Problem::invalid(vec![FieldError::new("reason", "must be a text")]))?;
    if pause.reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON_BYTES) {
        return Err(Problem::invalid_field(
            "reason",
            format!("is longer than {MAX_REASON_BYTES} bytes; shorten it"),
        ));
    }
    // Control characters could move a terminal's cursor, or break the lines of a list.
    let clean = |reason: String| reason.replace(char::is_control, " ").trim().to_owned();
    Ok(pause.reason.map(clean).filter(|reason| !reason.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_optional_and_strict() {
        assert_eq!(parse_reason(b" ").unwrap(), None);
        assert_eq!(parse_reason(br#"{"reason":"deploy"}"#).unwrap().as_deref(), Some("deploy"));
        let colored = parse_reason(br#"{"reason":"\u001b[31mdeploy\tuntil\nnoon\u0085"}"#).unwrap();
        assert_eq!(colored.as_deref(), Some("[31mdeploy until noon"));
        assert_eq!(parse_reason(br#"{"reason":"\n\t"}"#).unwrap(), None);
        for (body, status) in [
            (&br#"{"reson":"x"}"#[..], 422),
            (br#"{"reason":7}"#, 422),
            (b"[]", 400),
            (b"{", 400),
            (b"\xff", 400),
        ] {
            assert_eq!(parse_reason(body).unwrap_err().status, status);
        }
        let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(501));
        assert_eq!(parse_reason(long.as_bytes()).unwrap_err().errors[0].field, "reason");
    }
}
