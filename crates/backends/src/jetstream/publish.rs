//! Publishing with the stream's answer, through reconnections.

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Kind, PortError,
    queue::{Destination, Outgoing, Receipt},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

use super::{
    api,
    link::Link,
    naming::{DUE, ID, TYPE, check_stream, unique},
    protocol::{connection::Connection, headers::Block, replies::Reply},
    stored,
};

/// At most so many kibibytes are on their way without an answer.
const WINDOW_KIB: u32 = 16 << 10;

/// How long after a message found nobody, or a connection its end, it is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Publishes for one port.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    link: Link,
    max_payload: usize,
    /// Counts kibibytes.
    window: Arc<Semaphore>,
}

/// A message as it is written.
struct Written {
    id: Arc<str>,
    stream: Arc<str>,
    headers: String,
    payload: bytes::Bytes,
}

impl Publisher {
    pub(super) fn new(link: Link, max_payload: usize) -> Self {
        Self { link, max_payload, window: Arc::new(Semaphore::new(WINDOW_KIB as usize)) }
    }

    /// Waits until everything that was sent has its answer, at the latest until the deadline; nothing more is sent.
    pub(super) async fn finish(&self, deadline: Instant) {
        let _ = tokio::time::timeout_at(deadline, self.window.acquire_many(WINDOW_KIB)).await;
        self.window.close();
    }

    /// Publishes a batch until the deadline. What was sent and not answered is sent again with the same id, which the
    /// stream keeps once.
    pub(super) async fn publish(
        &self,
        batch: Vec<Outgoing>,
        deadline: Instant,
    ) -> Vec<Result<Receipt, PortError>> {
        let count = batch.len();
        let mut answers: Vec<Option<Result<Receipt, PortError>>> = Vec::with_capacity(count);
        let mut open: Vec<(usize, Written)> = Vec::with_capacity(count);
        for (index, message) in batch.into_iter().enumerate() {
            answers.push(match Written::new(message, self.max_payload) {
                Ok(written) => {
                    open.push((index, written));
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        let mut was_sent = vec![false; count];
        while !open.is_empty() {
            let connection = match self.link.connected_by(deadline).await {
                Ok(connection) => connection,
                Err(error) => {
                    for (index, _) in open {
                        answers[index] = Some(Err(unanswered(&error, was_sent[index])));
                    }
                    break;
                }
            };
            open = self.send(&connection, open, &mut answers, &mut was_sent, deadline).await;
            if !open.is_empty() {
                sleep_until(deadline.min(Instant::now() + AGAIN_AFTER)).await;
            }
        }
        let missing = || PortError::new(Kind::Unknown, "the server did not answer");
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(missing()))).collect()
    }

    /// Sends what is open on one connection; returns what has to be sent again.
    async fn send(
        &self,
        connection: &Connection,
        open: Vec<(usize, Written)>,
        answers: &mut [Option<Result<Receipt, PortError>>],
        was_sent: &mut [bool],
        deadline: Instant,
    ) -> Vec<(usize, Written)> {
        let max = connection.info().max_payload;
        let mut sent = Vec::with_capacity(open.len());
        let mut again = Vec::new();
        for (index, written) in open {
            let size = written.headers.len() + written.payload.len();
            if size > max {
                let text =
                    format!("the message has {size} bytes with its headers; this server takes at most {max}");
                answers[index] = Some(Err(PortError::new(Kind::Invalid, text)));
                continue;
            }
            let kibibytes = (size as u32 / 1024 + 1).min(WINDOW_KIB);
            // Room comes with the answers to what was sent before, here or by another batch.
            while self.window.available_permits() < kibibytes as usize && !sent.is_empty() {
                for late in std::mem::take(&mut sent) {
                    again.extend(self.receive(connection, late, answers, deadline).await);
                }
            }
            let room =
                tokio::time::timeout_at(deadline, self.window.clone().acquire_many_owned(kibibytes)).await;
            let room = match room {
                Ok(Ok(room)) => room,
                Ok(Err(_)) => {
                    answers[index] = Some(Err(PortError::new(Kind::Closed, "the port is closed")));
                    continue;
                }
                Err(_) => {
                    let text = "too much is on its way to the server already";
                    answers[index] =
                        Some(Err(unanswered(&PortError::new(Kind::Unavailable, text), was_sent[index])));
                    continue;
                }
            };
            match connection.request(&written.stream, &written.headers, &written.payload) {
                Ok(reply) => {
                    was_sent[index] = true;
                    sent.push(Sent { index, written, reply, _room: room });
                }
                Err(_) => again.push((index, written)),
            }
        }
        for late in sent {
            again.extend(self.receive(connection, late, answers, deadline).await);
        }
        again
    }

    /// Waits for one answer; returns the message when it has to be sent again.
    async fn receive(
        &self,
        connection: &Connection,
        sent: Sent,
        answers: &mut [Option<Result<Receipt, PortError>>],
        deadline: Instant,
    ) -> Option<(usize, Written)> {
        let Sent { index, written, reply, _room } = sent;
        let answer = match reply.by(deadline).await {
            Ok(incoming) => stored::position(&incoming),
            Err(_) if Instant::now() < deadline => return Some((index, written)),
            Err(error) => Err(connection.forbidden(&written.stream).unwrap_or(error)),
        };
        answers[index] = Some(match answer {
            Ok(_) => {
                self.link.has_room(&written.stream);
                Ok(Receipt { id: written.id })
            }
            Err(error) if error.kind == Kind::Full => {
                self.link.is_full(&written.stream, &error);
                Err(error)
            }
            Err(error) if error.kind == Kind::NotFound => {
                let error = nowhere(connection, &written.stream).await;
                if error.kind == Kind::Unavailable && Instant::now() < deadline {
                    return Some((index, written));
                }
                Err(error)
            }
            Err(error) => Err(error),
        });
        None
    }
}

/// A message that waits for its answer, and the room that it takes.
struct Sent {
    index: usize,
    written: Written,
    reply: Reply,
    _room: tokio::sync::OwnedSemaphorePermit,
}

impl Written {
    fn new(message: Outgoing, max_payload: usize) -> Result<Self, PortError> {
        if message.payload.len() > max_payload {
            let text =
                format!("the payload has {} bytes; at most {max_payload} are taken", message.payload.len());
            return Err(PortError::new(Kind::Invalid, text));
        }
        let Destination::Queue(stream) = message.to else {
            let text = "NATS has no exchanges; publish to a queue by its name";
            return Err(PortError::new(Kind::Unsupported, text));
        };
        check_stream(&stream)?;
        let id = message.id.unwrap_or_else(|| unique().into());
        let mut block = Block::new();
        if id.is_empty() {
            return Err(PortError::new(
                Kind::Invalid,
                "an id has at least one character; leave it out to get one",
            ));
        }
        block.push(ID, &id)?;
        if !message.kind.is_empty() {
            block.push(TYPE, &message.kind)?;
        }
        if let Some(due) = message.run_at {
            block.push_own(DUE, &due.as_millis().to_string());
        }
        for (name, value) in message.headers.iter() {
            if [ID, TYPE, DUE].iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                let text = format!("the header {name} has a meaning of its own here; use the field for it");
                return Err(PortError::new(Kind::Invalid, text));
            }
            block.push(name, value)?;
        }
        Ok(Self { id, stream, headers: block.finish(), payload: message.payload })
    }
}

/// Nobody took a message: because there is no such stream, or because it has no leader for the moment.
async fn nowhere(connection: &Connection, stream: &str) -> PortError {
    match api::stream_info(connection, stream).await {
        Ok(_) => {
            PortError::new(Kind::Unavailable, format!("the stream {stream} takes nothing for the moment"))
        }
        Err(error) if error.kind == Kind::NotFound => {
            PortError::new(Kind::NotFound, format!("there is no stream {stream}"))
        }
        Err(error) => error,
    }
}

fn unanswered(error: &PortError, was_sent: bool) -> PortError {
    if was_sent {
        return PortError::new(Kind::Unknown, format!("the server did not answer in time: {error}"));
    }
    error.clone()
}
