//! Looking at dead letters.

use std::time::Duration;

use outboard_core::{
    Kind, PortError, Time,
    queue::{DeadMessage, QueueName},
};
use tokio::time::timeout;

use super::{
    channel::Content,
    codec::{field::ShortString, properties::Properties, table::Value},
    connection::Connection,
    consumer::mapping::{DEAD_REASON, DEAD_TIME, attempts, history, text},
    ladder::dead_name,
};

/// So many are looked at, at most: all of them are held at once.
const MAX_LETTERS: usize = 1_000;

/// So many bytes of payloads, at most.
const MAX_BYTES: usize = 64 << 20;

/// How long it may take.
const WITHIN: Duration = Duration::from_secs(10);

/// The oldest dead letters of a queue. They are taken and given back by closing the channel, which keeps their order.
pub(crate) async fn letters(
    connection: &Connection,
    queue: &QueueName,
    max: usize,
) -> Result<Vec<DeadMessage>, PortError> {
    let looking = async {
        let name = ShortString::new(dead_name(queue)).unwrap_or_default();
        let channel = connection.channel().await?;
        let (mut letters, mut bytes) = (Vec::new(), 0);
        while letters.len() < max.min(MAX_LETTERS) && bytes < MAX_BYTES {
            match channel.get(name.clone()).await {
                Ok(Some(content)) => {
                    bytes += content.body.len();
                    letters.push(letter(queue, content));
                }
                Ok(None) => break,
                // It is made with the first dead letter.
                Err(error) if error.kind == Kind::NotFound => return Ok(letters),
                Err(error) => return Err(error),
            }
        }
        channel.close().await;
        Ok(letters)
    };
    let late = || PortError::new(Kind::Unavailable, "the broker does not answer");
    timeout(WITHIN, looking).await.unwrap_or_else(|_| Err(late()))
}

fn letter(queue: &QueueName, content: Content) -> DeadMessage {
    let properties = Properties::read(content.properties).unwrap_or_default();
    let attempts = attempts(&properties);
    let headers = properties.headers.unwrap_or_default();
    let said = |name: &str| headers.0.get(name).and_then(text);
    // One that another program has put there.
    let reason = said(DEAD_REASON).or_else(|| said("x-first-death-reason")).unwrap_or_default();
    let at = headers.0.get(DEAD_TIME).and_then(Value::whole);
    DeadMessage {
        id: properties.message_id.map(|id| id.as_str().into()),
        kind: properties.kind.map_or_else(|| queue.clone(), |kind| kind.as_str().into()),
        payload: content.body,
        reason: reason.into(),
        attempts,
        at: at.map(|seconds| Time::from_millis(seconds.saturating_mul(1_000))),
        history: history(&headers),
    }
}
