//! A channel: calls with an answer, messages that come in, and confirms.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use outboard_core::{Kind, PortError};
use tokio::sync::oneshot;

use super::{
    codec::{
        field::ShortString,
        frame::{Frame, put_content, put_method},
        method::Method,
        properties::Properties,
    },
    connection::{Connection, closed_by_broker},
};

/// A channel; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    number: u16,
    connection: Connection,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who waits for an answer, in the order of the calls.
    calls: VecDeque<oneshot::Sender<Result<Method, PortError>>>,
    /// A message of which not everything is there.
    incoming: Option<Incoming>,
    sink: Option<Box<dyn Sink>>,
    /// Why it is closed, once it is.
    closed: Option<PortError>,
}

#[derive(Debug)]
struct Incoming {
    method: Method,
    properties: Properties,
    /// How much of the body is missing; nothing before the header came.
    missing: Option<u64>,
    body: BytesMut,
}

/// What comes in without having been asked for. Called by the connection's reader, which it must not hold up.
pub(crate) trait Sink: Send + std::fmt::Debug + 'static {
    /// A message, delivered or returned as its method says.
    fn message(&mut self, method: Method, properties: Properties, body: Bytes);

    /// A confirm (`BasicAck`, `BasicNack`) or the end of a consumer (`BasicCancel`).
    fn notice(&mut self, method: Method);

    /// Nothing more comes.
    fn closed(&mut self, error: &PortError);
}

/// The largest body that is taken: what is larger closes the channel, because nothing is without a limit.
const MAX_BODY: u64 = 128 << 20;

impl Channel {
    pub(super) fn new(number: u16, connection: Connection) -> Self {
        Self { inner: Arc::new(Inner { number, connection, state: Mutex::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn open(&self) -> Result<(), PortError> {
        self.call(&Method::ChannelOpen { reserved1: ShortString::default() }).await.map(drop)
    }

    /// Says who gets what comes in without having been asked for.
    pub(crate) fn attach(&self, mut sink: Box<dyn Sink>) {
        let mut state = self.state();
        if let Some(error) = &state.closed {
            sink.closed(error);
        }
        state.sink = Some(sink);
    }

    /// Sends a method and waits for its answer. What the broker refuses closes the channel, and is the error.
    pub(crate) async fn call(&self, method: &Method) -> Result<Method, PortError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.state();
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            // Under the lock: answers come in the order of the calls.
            self.send(method)?;
            state.calls.push_back(sender);
        }
        let gone = || PortError::new(Kind::Unavailable, "the connection ended before the broker answered");
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Closes it.
    pub(crate) async fn close(&self) {
        let close = Method::ChannelClose { code: 200, text: ShortString::default(), class: 0, method: 0 };
        // What refuses to be closed is closed already.
        if self.call(&close).await.is_ok() {
            self.ended(&PortError::new(Kind::Closed, "the channel is closed"));
            self.inner.connection.forget(self.inner.number);
        }
    }

    /// Its number on its connection.
    pub(crate) fn number(&self) -> u16 {
        self.inner.number
    }

    /// Sends a method that has no answer.
    pub(crate) fn send(&self, method: &Method) -> Result<(), PortError> {
        self.inner.connection.send(|out, _| put_method(out, self.inner.number, method))
    }

    /// Publishes one message.
    pub(crate) fn publish(
        &self,
        method: &Method,
        properties: &Properties,
        body: &[u8],
    ) -> Result<(), PortError> {
        if let Some(error) = &self.state().closed {
            return Err(error.clone());
        }
        self.inner.connection.send(|out, agreed| {
            put_method(out, self.inner.number, method);
            put_content(out, self.inner.number, properties, body, agreed.frame_max);
        })
    }

    /// The connection has ended.
    pub(super) fn ended(&self, error: &PortError) {
        let mut state = self.state();
        state.closed.get_or_insert_with(|| error.clone());
        for call in state.calls.drain(..) {
            let _ = call.send(Err(error.clone()));
        }
        if let Some(sink) = &mut state.sink {
            sink.closed(error);
        }
    }

    /// A frame for this channel. An error ends the connection.
    pub(super) fn on_frame(&self, frame: Frame) -> Result<(), PortError> {
        let mut state = self.state();
        match frame {
            Frame::Method(_, method) => self.on_method(state, method),
            Frame::Header(_, properties, length) => {
                if length > MAX_BODY {
                    let text = format!("a message has {length} bytes; at most {MAX_BODY} are taken");
                    return Err(PortError::new(Kind::Unsupported, text));
                }
                let incoming = state.incoming.as_mut().filter(|incoming| incoming.missing.is_none());
                let incoming = incoming.ok_or_else(|| out_of_order("a header"))?;
                (incoming.properties, incoming.missing) = (properties, Some(length));
                if length == 0 {
                    state.complete(Bytes::new());
                }
                Ok(())
            }
            Frame::Body(_, part) => state.on_body(part),
            Frame::Heartbeat => Ok(()),
        }
    }

    fn on_method(&self, mut state: MutexGuard<'_, State>, method: Method) -> Result<(), PortError> {
        if state.incoming.is_some() {
            return Err(out_of_order(method.name()));
        }
        match method {
            Method::BasicDeliver { .. } | Method::BasicReturn { .. } | Method::BasicGetOk { .. } => {
                let (properties, body) = (Properties::default(), BytesMut::new());
                state.incoming = Some(Incoming { method, properties, missing: None, body });
            }
            Method::BasicAck { .. } | Method::BasicNack { .. } | Method::BasicCancel { .. } => {
                if let Some(sink) = &mut state.sink {
                    sink.notice(method);
                }
            }
            Method::ChannelFlow { flags } => self.send(&Method::ChannelFlowOk { flags })?,
            Method::ChannelClose { code, text, .. } => {
                drop(state);
                // First nobody sends on it any more: a frame after the answer would end the connection.
                self.ended(&closed_by_broker(code, text.as_str()));
                self.send(&Method::ChannelCloseOk {})?;
                self.inner.connection.forget(self.inner.number);
            }
            answer => {
                let call = state.calls.pop_front().ok_or_else(|| out_of_order(answer.name()))?;
                // Nobody waits when the call's future was dropped.
                let _ = call.send(Ok(answer));
            }
        }
        Ok(())
    }
}

impl State {
    fn on_body(&mut self, part: Bytes) -> Result<(), PortError> {
        let incoming = self.incoming.as_mut().ok_or_else(|| out_of_order("a body"))?;
        let missing = incoming.missing.ok_or_else(|| out_of_order("a body"))?;
        let left = missing.checked_sub(part.len() as u64).ok_or_else(|| out_of_order("a longer body"))?;
        incoming.missing = Some(left);
        if left > 0 {
            incoming.body.extend_from_slice(&part);
        } else if incoming.body.is_empty() {
            // In one frame, as nearly always: no copy.
            self.complete(part);
        } else {
            incoming.body.extend_from_slice(&part);
            let body = std::mem::take(&mut incoming.body).freeze();
            self.complete(body);
        }
        Ok(())
    }

    fn complete(&mut self, body: Bytes) {
        let Some(Incoming { method, properties, .. }) = self.incoming.take() else { return };
        if let Some(sink) = &mut self.sink {
            sink.message(method, properties, body);
        }
    }
}

fn out_of_order(what: &str) -> PortError {
    PortError::new(Kind::Corrupt, format!("the broker sent {what} where nothing of the kind is expected"))
}
