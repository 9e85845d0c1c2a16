//! `POST /commands` and `POST /commands/batch`.

use std::fmt::Write;

use http::{HeaderMap, StatusCode, request::Parts};
use hyper::body::Incoming;
use outboard_core::{
    NewMessage,
    log::{Append, Appended},
};
use outboard_http::Problem;

use super::{
    Api,
    body::{self, Media},
    idempotency, json,
    query::Query,
};
use crate::serve::Answer;

impl Api {
    /// Appends one command and answers with its id after the fsync.
    pub(super) async fn post_command(&self, head: &Parts, body: &mut Incoming) -> Result<Answer, Problem> {
        Query::parse(head.uri.query(), &[])?;
        let headers = &head.headers;
        body::media(headers, false)?;
        let bytes = body::read(body, self.limits.body, self.limits.read).await?;
        let message = self.rules.parse_one(&bytes)?;
        let appended = self.append(headers, "/commands", &bytes, vec![message]).await?;
        let mut answer = String::with_capacity(32);
        write!(answer, r#"{{"id":{}}}"#, appended.first).expect("a text takes everything");
        Ok(json::text(StatusCode::ACCEPTED, answer))
    }

    /// Appends all commands of a batch, or none.
    pub(super) async fn post_batch(
        &self,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Answer, Problem> {
        let media = body::media(headers, true)?;
        let bytes = body::read(body, self.limits.batch, self.limits.read).await?;
        let messages = match media {
            Media::Json => self.rules.parse_array(&bytes)?,
            Media::Lines => self.rules.parse_lines(&bytes)?,
        };
        if messages.is_empty() {
            return Err(Problem::invalid_field("body", "holds no command; send at least one"));
        }
        let appended = self.append(headers, "/commands/batch", &bytes, messages).await?;
        let (first, last, count) = (appended.first, appended.last(), appended.count);
        let answer = format!(r#"{{"first_id":{first},"last_id":{last},"count":{count}}}"#);
        Ok(json::text(StatusCode::ACCEPTED, answer))
    }

    async fn append(
        &self,
        headers: &HeaderMap,
        path: &str,
        body: &[u8],
        messages: Vec<NewMessage>,
    ) -> Result<Appended, Problem> {
        let idempotency = idempotency::read(headers, path, body, self.keep)?;
        self.log.append(Append { messages, idempotency }).await.map_err(|error| Problem::from(&error))
    }
}
