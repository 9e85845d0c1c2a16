//! What the server sends to a consumer: messages, statuses of requests, and the confirmations of answers.

use std::sync::Arc;

use outboard_core::{Health, Kind, PortError};

use super::{
    Shared,
    delivery::Origin,
    state::{REFUSALS, State},
};
use crate::jetstream::protocol::{connection::Sink, frame::Incoming, headers};

/// Takes messages and statuses.
#[derive(Debug)]
pub(super) struct Inbox(pub(super) Arc<Shared>);

/// Takes confirmations.
#[derive(Debug)]
pub(super) struct Confirmations(pub(super) Arc<Shared>);

/// Takes the server's word that a stream or a consumer was deleted.
#[derive(Debug)]
pub(super) struct Deletions(pub(super) Arc<Shared>);

impl Sink for Inbox {
    fn message(&self, incoming: Incoming) {
        let shared = &*self.0;
        match Origin::read(incoming.reply()) {
            Some(origin) => {
                let wakes = shared.lock().came(incoming, origin);
                shared.wake(wakes);
            }
            None => self.status(&incoming),
        }
    }
}

impl Inbox {
    /// How a request for messages ended, or that it still stands.
    fn status(&self, incoming: &Incoming) {
        let shared = &*self.0;
        let mut state = shared.lock();
        state.is_heard = true;
        let text = status_text(incoming);
        match incoming.status() {
            // A sign of life.
            Some(100) => return state.request_was_taken(),
            Some(404 | 408) => {
                state.request_was_taken();
                let missing = headers::value(incoming.headers(), "Nats-Pending-Messages");
                let missing = missing.and_then(|missing| missing.parse().ok()).unwrap_or(state.outstanding);
                state.outstanding = state.outstanding.saturating_sub(missing);
            }
            // It was given other limits since we read them: they are read again.
            Some(409) if text.contains("Exceeded MaxRequest") => {
                state.trouble = Some(gone(&format!("{text}; its limits are read again")));
            }
            Some(409) if text.contains("Exceeded") => self.refused(&mut state, text),
            Some(503) => state.trouble = Some(gone("nobody answers for this consumer")),
            Some(_) => state.trouble = Some(gone(text)),
            // Somebody sent something to us that is neither.
            None => return,
        }
        drop(state);
        shared.runner.notify_one();
    }

    /// The server takes no more requests for now, which passes; if it does not, it is told, once.
    fn refused(&self, state: &mut State, text: &str) {
        let times = state.request_was_refused();
        if times < REFUSALS {
            return;
        }
        let stream = &*self.0.queue.name;
        let text = format!(
            "the consumer {} of the stream {stream} takes no more requests for messages: {text}; raise its \
             `max_waiting`, or have fewer processes consume it",
            state.consumer
        );
        if times == REFUSALS {
            tracing::warn!(stream, "{text}");
        }
        state.health = Health::Refusing(PortError::new(Kind::Full, text));
    }
}

impl Sink for Confirmations {
    fn message(&self, incoming: Incoming) {
        let shared = &*self.0;
        let mut state = shared.lock();
        let mut wakes = super::Wakes { runner: true, taker: false };
        if incoming.status() == Some(503) {
            state.trouble = Some(gone("nobody takes acknowledgements for this consumer"));
        } else if let Some(number) =
            incoming.subject().rsplit('.').next().and_then(|number| number.parse().ok())
        {
            wakes = state.confirm_through(number, shared.clock.now());
            shared.tell_durable(&state);
        }
        drop(state);
        shared.wake(wakes);
    }
}

impl Sink for Deletions {
    fn message(&self, _incoming: Incoming) {
        self.0.lock().trouble = Some(gone("it was deleted"));
        self.0.runner.notify_one();
    }
}

fn gone(why: &str) -> PortError {
    PortError::new(Kind::Unavailable, format!("JetStream ends the delivery: {why}"))
}

/// The words after a status's number.
fn status_text(incoming: &Incoming) -> &str {
    let line = incoming.headers().split(|&byte| byte == b'\r').next().unwrap_or_default();
    std::str::from_utf8(line.get("NATS/1.0 100".len()..).unwrap_or_default()).unwrap_or_default().trim()
}
