//! Long work on a broker's queue: each message is first taken into the log, and handled from there.
//!
//! A broker waits only so long for an acknowledgement (RabbitMQ 30 minutes, and then it closes the channel). A worker
//! that needs longer becomes two: one whose only effect is to append the message to the log, once, through the inbox, and
//! one that handles it from the log, under the name and with the policy of the original. In the log the message has an
//! internal type, which `*` does not mean: it is that one worker's, and no other's.

use std::sync::Arc;

use outboard_core::{
    Headers, Message, NewMessage, TypePattern,
    consumer::Effects,
    ledger::{Start, WorkerName},
    pattern::INTERNAL,
};

use crate::{
    handler::{Attempt, BoxFuture, Handled, Handler, Unwell},
    outcome::Done,
    policy::Policy,
    source::Source,
    workers::WorkerSpec,
};

/// Where the original type and id travel while a message is in the log.
const TYPE: &str = "outboard-intake-type";
const ID: &str = "outboard-intake-id";

/// How many messages are taken in at once: they share commits.
const CONCURRENCY: u32 = 256;

/// The name of the worker that takes in for this one.
pub(crate) fn name_of(worker: &str) -> WorkerName {
    format!("{worker}.intake").into()
}

/// The two workers that a long one becomes: the first takes in, the second handles.
pub(crate) fn split(spec: WorkerSpec) -> (WorkerSpec, WorkerSpec) {
    let kind: Arc<str> = format!("{INTERNAL}{}", spec.name).into();
    let mut policy = Policy { concurrency: CONCURRENCY, ..Policy::default() };
    if let Source::Queue(source) = &spec.source
        && let Some(limit) = source.queue().capabilities().hold_limit
    {
        // An append takes some milliseconds, however long the handler behind it may take.
        policy.timeout = policy.timeout.min(limit / 2);
    }
    let intake = WorkerSpec {
        name: name_of(&spec.name),
        description: format!("Takes the messages of {} into the log for `{}`", spec.source, spec.name),
        types: spec.types.clone(),
        start: Start::End,
        policy,
        handler: Arc::new(Intake { kind: kind.clone() }),
        periodic: Vec::new(),
        source: spec.source.clone(),
    };
    let handling = WorkerSpec {
        types: [TypePattern::Exact(kind)].into_iter().collect(),
        // What was taken in before this worker was first opened is its own, too.
        start: Start::Beginning,
        handler: Arc::new(Original { handler: spec.handler.clone() }),
        source: Source::Log,
        ..spec
    };
    (intake, handling)
}

/// Appends each message to the log.
#[derive(Debug)]
struct Intake {
    kind: Arc<str>,
}

impl Handler for Intake {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        let message = &attempt.message;
        let (kind, id) = (message.kind.to_string(), message.id().to_string());
        let own = [(TYPE.to_owned(), kind), (ID.to_owned(), id)];
        let others = message.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let taken = NewMessage {
            kind: self.kind.clone(),
            payload: message.payload.clone(),
            headers: others.chain(own).collect(),
            run_at: None,
        };
        let effects = Effects { appends: vec![taken], ..Effects::default() };
        Box::pin(std::future::ready(Handled { outcome: Ok(Done), effects: Some(Box::new(effects)) }))
    }
}

/// Hands the message to the handler as it was on the queue.
#[derive(Debug)]
struct Original {
    handler: Arc<dyn Handler>,
}

impl Handler for Original {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        let message = Arc::new(original(&attempt.message));
        self.handler.handle(Attempt { message, ..attempt })
    }

    fn probe(&self) -> Option<BoxFuture<Result<(), Unwell>>> {
        self.handler.probe()
    }
}

fn original(message: &Message) -> Message {
    let others = message.headers.iter().filter(|(name, _)| ![TYPE, ID].contains(name));
    let headers: Headers = others.collect();
    let kind = message.headers.get(TYPE).map_or_else(|| message.kind.clone(), Into::into);
    Message { kind, name: message.headers.get(ID).map(Into::into), headers, ..message.clone() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use outboard_core::{Position, Time};

    use super::*;

    #[tokio::test]
    async fn a_message_comes_out_as_it_went_in() {
        let message = Message {
            id: Position::START,
            name: Some("m-1".into()),
            kind: "orders/confirm".into(),
            payload: Bytes::from_static(b"{}"),
            headers: [("tenant", "7")].into_iter().collect(),
            timestamp: Time::from_millis(1),
            run_at: None,
        };
        let intake = Intake { kind: "intake/orders".into() };
        let attempt =
            Attempt { worker: "orders.intake".into(), message: Arc::new(message.clone()), number: 1 };
        let taken = intake.handle(attempt).await.effects.unwrap().appends.remove(0);
        assert_eq!(&*taken.kind, "intake/orders");
        let NewMessage { kind, payload, headers, run_at } = taken;
        let (id, timestamp) = (Position(7), Time::from_millis(2));
        let out = original(&Message { id, name: None, kind, payload, headers, timestamp, run_at });
        assert_eq!(out, Message { id, timestamp, ..message });
    }
}
