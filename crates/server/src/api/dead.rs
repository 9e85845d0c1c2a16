//! `GET /dead` and `POST /dead/{id}/retry`.

use http::StatusCode;
use outboard::{QueueSource, Source};
use outboard_core::{
    ledger::{DeadId, DeadQuery},
    queue::DeadMessage,
};
use outboard_http::Problem;
use serde::Serialize;

use super::{
    Api,
    json::{self, DeadView, Moment},
    query::Query,
};
use crate::serve::Answer;

#[derive(Debug, Serialize)]
struct Letters<'a> {
    dead: Vec<DeadView<'a>>,
    /// Pass it as `after` to read on; missing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<DeadId>,
}

/// A dead letter that the broker keeps. It has no id by which it could be brought back here.
#[derive(Debug, Serialize)]
struct BrokerDeadView<'a> {
    /// The message's own, if it has one.
    message_id: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    worker: &'a str,
    reason: &'a str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Moment>,
}

impl<'a> BrokerDeadView<'a> {
    fn new(letter: &'a DeadMessage, worker: &'a str) -> Self {
        Self {
            message_id: letter.id.as_deref(),
            kind: &letter.kind,
            worker,
            reason: &letter.reason,
            attempts: letter.attempts,
            at: letter.at.map(Moment),
        }
    }
}

#[derive(Debug, Serialize)]
struct BrokerLetters<'a> {
    dead: Vec<BrokerDeadView<'a>>,
}

impl Api {
    /// A page of dead letters, oldest first: those in the data directory, or, of a worker on a broker's queue, the
    /// oldest that the broker keeps.
    pub(super) async fn list_dead(&self, query: Option<&str>) -> Result<Answer, Problem> {
        let query = Query::parse(query, &["after", "limit", "worker"])?;
        let after = query.number("after", 0, 0, i64::MAX as u64)?;
        let max = usize::try_from(query.number("limit", 100, 1, 1_000)?).expect("at most 1,000");
        let worker = query.text("worker");
        if let Some((worker, handle)) = worker.and_then(|name| Some((name, self.workers.get(name)?)))
            && let Source::Queue(source) = handle.source()
        {
            if after > 0 {
                let told =
                    "a broker's dead letters are not numbered; leave it out, and read more with `limit`";
                return Err(Problem::invalid_field("after", told));
            }
            return list_of_broker(worker, source, max).await;
        }
        let page = self
            .ledger
            .dead(DeadQuery { after, worker: worker.map(Into::into), max })
            .await
            .map_err(|error| Problem::from(&error))?;
        if let (Some(worker), []) = (worker, page.letters.as_slice()) {
            self.check_worker(worker).await?;
        }
        let dead = page.letters.iter().map(DeadView::from).collect();
        Ok(json::answer(StatusCode::OK, &Letters { dead, next: page.next }))
    }

    /// Fails unless the ledger knows the worker: a name with a typing error has no dead letters, either.
    async fn check_worker(&self, worker: &str) -> Result<(), Problem> {
        const SHOWN: usize = 50;
        let rows = self.ledger.workers().await.map_err(|error| Problem::from(&error))?;
        if rows.iter().any(|row| &*row.name == worker) {
            return Ok(());
        }
        let mut known: Vec<_> = rows.iter().take(SHOWN).map(|row| row.name.to_string()).collect();
        if rows.len() > SHOWN {
            known.push(format!("{} more", rows.len() - SHOWN));
        }
        Err(Problem::not_found(format!("there is no worker `{worker}`; known are {}", known.join(", "))))
    }

    /// Gives a dead letter another life, with no attempt counted.
    pub(super) async fn retry_dead(&self, id: DeadId) -> Result<Answer, Problem> {
        let letter = self.ledger.revive(id).await.map_err(|error| Problem::from(&error))?;
        Ok(json::answer(StatusCode::OK, &DeadView::from(&letter)))
    }
}

async fn list_of_broker(worker: &str, source: &QueueSource, max: usize) -> Result<Answer, Problem> {
    let letters = source.queue().dead(source.queue_name().clone(), max).await;
    let letters = letters.map_err(|error| Problem::from(&error))?;
    let views = letters.iter().map(|letter| BrokerDeadView::new(letter, worker)).collect();
    Ok(json::answer(StatusCode::OK, &BrokerLetters { dead: views }))
}
