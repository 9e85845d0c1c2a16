//! The publisher's channel: how it is opened, what comes over it, and what its end means.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use outboard_core::{Kind, PortError};
use tokio::{sync::watch, time::sleep};

use super::{Finished, Publication, Shared, State, destination};
use crate::rabbitmq::{
    channel::Sink,
    codec::{
        frame::{put_content, put_method},
        method::{Method, flags},
        properties::Properties,
    },
    connection::Connection,
};

/// How long to wait before a connection is asked again for a channel that it has refused.
const AGAIN: Duration = Duration::from_secs(1);

/// Appends a publication.
pub(super) fn put(out: &mut BytesMut, number: u16, publication: &Publication, frame_max: usize) {
    let Publication { exchange, key, properties, body } = publication;
    let (exchange, key) = (exchange.clone(), key.clone());
    let publish = Method::BasicPublish { reserved1: 0, exchange, key, flags: flags::MANDATORY };
    put_method(out, number, &publish);
    put_content(out, number, properties, body, frame_max);
}

/// Keeps a channel open as long as the link has connections.
pub(super) async fn keep_channel(shared: &Arc<Shared>, mut link: watch::Receiver<Option<Connection>>) {
    loop {
        let is_alive =
            |connection: &Option<Connection>| connection.as_ref().is_some_and(|it| !it.has_ended());
        let Ok(Some(connection)) = link.wait_for(is_alive).await.map(|found| found.clone()) else { return };
        if shared.state().is_closed() {
            return;
        }
        match open(shared, &connection).await {
            Ok(()) => serve(shared, &connection, &mut link).await,
            Err(_) if connection.has_ended() => {}
            Err(error) => {
                tracing::warn!(%error, "no channel to publish on");
                let mut ended = connection.ended();
                tokio::select! { () = sleep(AGAIN) => {}, _ = ended.wait_for(Option::is_some) => {} }
            }
        }
        shared.change(|state, _| state.leave());
        shared.refusing.send_if_modified(|refusing| refusing.take().is_some());
    }
}

async fn open(shared: &Arc<Shared>, connection: &Connection) -> Result<(), PortError> {
    let channel = connection.channel().await?;
    channel.call(&Method::ConfirmSelect { flags: 0 }).await?;
    let channel = channel.keep();
    let generation = {
        let mut state = shared.state();
        state.generation += 1;
        state.channel = Some(channel.clone());
        // Nothing goes out before somebody hears what comes back.
        state.is_blocked = true;
        state.generation
    };
    let (shared, connection, finished) = (shared.clone(), connection.clone(), Finished::new());
    channel.attach(Box::new(Confirms { shared, generation, connection, finished }));
    Ok(())
}

/// Until the channel or its connection ends, or the link has another one.
async fn serve(
    shared: &Arc<Shared>,
    connection: &Connection,
    link: &mut watch::Receiver<Option<Connection>>,
) {
    let mut blocked = connection.blocked();
    // Without who makes connections, this is the last one.
    let mut is_last = false;
    loop {
        let reason = blocked.borrow_and_update().clone();
        if reason.is_some() {
            // Whoever is told that nothing is taken can rely on nothing being sent, and so before it is told.
            shared.state().is_blocked = true;
        }
        shared.refusing.send_if_modified(|refusing| {
            let was = refusing.is_some();
            *refusing = reason.as_ref().map(|reason| {
                let text = format!("RabbitMQ takes no messages for now: {reason}");
                PortError::new(Kind::Full, text)
            });
            was || refusing.is_some()
        });
        shared.change(|state, _| state.is_blocked = reason.is_some());
        if shared.state().channel.is_none() {
            return;
        }
        tokio::select! {
            () = shared.lost.notified() => {}
            _ = blocked.changed() => {}
            changed = link.changed(), if !is_last => {
                is_last = changed.is_err();
                if !link.borrow_and_update().as_ref().is_some_and(|now| now.is(connection)) {
                    return;
                }
            }
        }
    }
}

impl State {
    /// Whether nothing will be sent any more.
    fn is_closed(&self) -> bool {
        self.is_closing && self.window.is_empty()
    }

    /// The channel is of no use any more.
    fn leave(&mut self) {
        self.generation += 1;
        if self.channel.take().is_some() {
            self.window.retreat();
        }
    }
}

/// Hears confirms and returns.
#[derive(Debug)]
struct Confirms {
    shared: Arc<Shared>,
    generation: u64,
    connection: Connection,
    /// What is to be told at the end of the burst.
    finished: Finished,
}

impl Sink for Confirms {
    fn message(&mut self, method: Method, properties: Properties, _body: Bytes) {
        let Method::BasicReturn { code, text, exchange, key } = method else { return };
        let to = destination(exchange.as_str(), key.as_str());
        let text = match code {
            312 if exchange.as_str().is_empty() => {
                format!("there is no queue `{}`: declare it", key.as_str())
            }
            312 => format!("no queue is bound to {to}: bind one"),
            _ => format!("RabbitMQ could not bring a message to {to}: {code} {}", text.as_str()),
        };
        let error = PortError::new(Kind::NotFound, text);
        let mut state = self.shared.state();
        if state.generation == self.generation {
            let is_it = |publication: &Publication| {
                publication.properties.message_id == properties.message_id
                    && publication.key == key
                    && publication.exchange == exchange
            };
            state.window.returned(is_it, error);
        }
    }

    fn notice(&mut self, method: Method) -> Result<(), PortError> {
        let (number, bits, is_taken) = match method {
            Method::BasicAck { delivery, flags } => (delivery, flags, true),
            Method::BasicNack { delivery, flags } => (delivery, flags, false),
            _ => return Ok(()),
        };
        let mut state = self.shared.state();
        if state.generation != self.generation {
            return Ok(());
        }
        state.window.confirmed(number, bits & flags::MULTIPLE != 0, is_taken, &mut self.finished)
    }

    fn burst_ended(&mut self) {
        self.shared.go_on(&mut self.finished);
    }

    fn closed(&mut self, error: &PortError) {
        let (generation, is_mistake) = (self.generation, !self.connection.has_ended());
        self.shared.change(|state, finished| {
            if state.generation == generation && state.channel.is_some() {
                if is_mistake {
                    state.window.blame(error, finished);
                }
                state.leave();
            }
        });
        self.shared.lost.notify_one();
    }
}
