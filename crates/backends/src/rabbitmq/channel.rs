//! A channel: calls with an answer, messages that come in, and confirms.

use std::{
    collections::VecDeque,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use outboard_core::{Kind, PortError};
use tokio::sync::oneshot;

use super::{
    codec::{
        field::ShortString,
        frame::{Frame, put_method},
        method::{Method, flags},
        properties::Properties,
    },
    connection::{Connection, closed_by_broker},
};

/// A channel; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    inner: Arc<Inner>,
}

/// A channel that belongs to one caller, and is closed when that one drops it: mostly because it has waited long enough
/// for an answer.
///
/// Nobody waits for the broker's word, and the number is free only with that: answers to what was asked before may come
/// until then.
#[derive(Debug)]
pub(crate) struct Owned {
    channel: Channel,
    is_kept: bool,
}

impl Owned {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel, is_kept: false }
    }

    /// Hands it on to somebody who will close it.
    pub(crate) fn keep(mut self) -> Channel {
        self.is_kept = true;
        self.channel.clone()
    }
}

impl Deref for Owned {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.is_kept {
            self.channel.abandon();
        }
    }
}

#[derive(Debug)]
struct Inner {
    number: u16,
    connection: Connection,
    /// Changed under the lock of what is written: nothing follows the end of a channel, which would end the connection.
    is_open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who waits for an answer, in the order of the calls.
    calls: VecDeque<oneshot::Sender<Result<Answer, PortError>>>,
    /// A message of which not everything is there.
    incoming: Option<Incoming>,
    sink: Option<Box<dyn Sink>>,
    /// Whether the sink has got something in this burst.
    is_touched: bool,
    /// Why it is closed, once it is.
    closed: Option<PortError>,
}

/// An answer, with the message that came with it.
type Answer = (Method, Option<Content>);

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Content {
    /// Its properties, not read yet.
    pub(crate) properties: Bytes,
    pub(crate) body: Bytes,
}

#[derive(Debug)]
struct Incoming {
    what: What,
    properties: Bytes,
    /// How much of the body is missing; nothing before the header came.
    missing: Option<u64>,
    body: BytesMut,
}

#[derive(Debug)]
enum What {
    Delivery { number: u64, redelivered: bool },
    Other(Method),
}

/// What comes in without having been asked for. Called by the connection's reader, which it must not hold up.
pub(crate) trait Sink: Send + std::fmt::Debug + 'static {
    /// A message for the channel's consumer.
    fn delivery(&mut self, _number: u64, _redelivered: bool, _content: Content) {}

    /// A message that came back, as its method says.
    fn message(&mut self, _method: Method, _properties: Properties, _body: Bytes) {}

    /// A confirm (`BasicAck`, `BasicNack`) or the end of a consumer (`BasicCancel`). An error ends the connection.
    fn notice(&mut self, method: Method) -> Result<(), PortError>;

    /// What was read at once has been handed out: the time to wake who waits for it.
    fn burst_ended(&mut self) {}

    /// Nothing more comes.
    fn closed(&mut self, error: &PortError);
}

/// The largest body that is taken: what is larger closes the connection, because nothing is without a limit.
const MAX_BODY: u64 = 128 << 20;

impl Channel {
    pub(super) fn new(number: u16, connection: Connection) -> Self {
        let (is_open, state) = (AtomicBool::new(true), Mutex::default());
        Self { inner: Arc::new(Inner { number, connection, is_open, state }) }
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
        match &state.closed {
            Some(error) => sink.closed(error),
            None => state.sink = Some(sink),
        }
    }

    /// Sends a method and waits for its answer. What the broker refuses closes the channel, and is the error.
    pub(crate) async fn call(&self, method: &Method) -> Result<Method, PortError> {
        self.ask(|| self.send(method)).await.map(|(answer, _)| answer)
    }

    /// Takes the first message of a queue, unsettled, or nothing when there is none.
    pub(crate) async fn get(&self, queue: ShortString) -> Result<Option<Content>, PortError> {
        let get = Method::BasicGet { reserved1: 0, queue, flags: 0 };
        self.ask(|| self.send(&get)).await.map(|(_, content)| content)
    }

    /// Closes it. The answer comes after everything that was sent before has been taken.
    pub(crate) async fn close(&self) {
        // What refuses to be closed is closed already.
        let _ = self.ask(|| self.send_close()).await;
    }

    /// Closes it without waiting for the answer.
    fn abandon(&self) {
        // What refuses to be closed is closed already.
        drop(self.begin(|| self.send_close()));
    }

    fn send_close(&self) -> Result<(), PortError> {
        let text = ShortString::default();
        self.send_last(&Method::ChannelClose { code: 200, text, class: 0, method: 0 }).map(drop)
    }

    /// Its number on its connection.
    pub(crate) fn number(&self) -> u16 {
        self.inner.number
    }

    async fn ask(&self, send: impl FnOnce() -> Result<(), PortError>) -> Result<Answer, PortError> {
        let answer = self.begin(send)?;
        let gone = || PortError::new(Kind::Unavailable, "the connection ended before the broker answered");
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Sends something, and has its answer brought.
    fn begin(
        &self,
        send: impl FnOnce() -> Result<(), PortError>,
    ) -> Result<oneshot::Receiver<Result<Answer, PortError>>, PortError> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        // Under the lock: answers come in the order of the calls.
        send()?;
        state.calls.push_back(sender);
        Ok(receiver)
    }

    /// Sends a method that has no answer.
    pub(crate) fn send(&self, method: &Method) -> Result<(), PortError> {
        let number = self.inner.number;
        self.write(|out, _| put_method(out, number, method))
    }

    /// Sends methods that have no answers, under one lock.
    pub(crate) fn send_all(&self, methods: impl Iterator<Item = Method>) -> Result<(), PortError> {
        let number = self.inner.number;
        self.write(|out, _| methods.for_each(|method| put_method(out, number, &method)))
    }

    /// Publishes one message.
    #[cfg(test)]
    pub(crate) fn publish(
        &self,
        method: &Method,
        properties: &Properties,
        body: &[u8],
    ) -> Result<(), PortError> {
        let number = self.inner.number;
        self.write(|out, frame_max| {
            put_method(out, number, method);
            super::codec::frame::put_content(out, number, properties, body, frame_max);
        })
    }

    /// Appends frames of this channel, all of them or none; `put` gets the largest size of a frame.
    pub(crate) fn write(&self, put: impl FnOnce(&mut BytesMut, usize)) -> Result<(), PortError> {
        let is_open = self.inner.connection.send(|out, agreed| {
            let is_open = self.inner.is_open.load(Ordering::Relaxed);
            if is_open {
                put(out, agreed.frame_max);
            }
            is_open
        })?;
        if is_open { Ok(()) } else { Err(PortError::new(Kind::Unavailable, "the channel is closed")) }
    }

    /// Sends a method after which nothing may follow on this channel; whether nothing of the kind was sent before.
    fn send_last(&self, method: &Method) -> Result<bool, PortError> {
        self.inner.connection.send(|out, _| {
            let was_open = self.inner.is_open.swap(false, Ordering::Relaxed);
            if was_open || *method == (Method::ChannelCloseOk {}) {
                put_method(out, self.inner.number, method);
            }
            was_open
        })
    }

    /// It is closed, or the connection has ended.
    pub(super) fn ended(&self, error: &PortError) {
        let mut state = self.state();
        self.inner.is_open.store(false, Ordering::Relaxed);
        state.closed.get_or_insert_with(|| error.clone());
        for call in state.calls.drain(..) {
            // Nobody waits when the call's future was dropped.
            let _ = call.send(Err(error.clone()));
        }
        if let Some(mut sink) = state.sink.take() {
            sink.burst_ended();
            sink.closed(error);
        }
    }

    /// What was read at once has been handed out.
    pub(super) fn burst_ended(&self) {
        let mut state = self.state();
        state.is_touched = false;
        if let Some(sink) = &mut state.sink {
            sink.burst_ended();
        }
    }

    /// A frame for this channel; whether it is the first one in this burst. An error ends the connection.
    pub(super) fn on_frame(&self, frame: Frame) -> Result<bool, PortError> {
        let mut state = self.state();
        let is_first = !std::mem::replace(&mut state.is_touched, true);
        match frame {
            Frame::Method(_, method) => self.on_method(state, method)?,
            Frame::Header(_, properties, length) => state.on_header(properties, length)?,
            Frame::Body(_, part) => state.on_body(part)?,
            Frame::Heartbeat => {}
        }
        Ok(is_first)
    }

    fn on_method(&self, mut state: MutexGuard<'_, State>, method: Method) -> Result<(), PortError> {
        if state.incoming.is_some() {
            return Err(out_of_order(method.name()));
        }
        let expect =
            |what| Some(Incoming { what, properties: Bytes::new(), missing: None, body: BytesMut::new() });
        match method {
            Method::BasicDeliver { delivery, flags: bits, .. } => {
                let redelivered = bits & flags::REDELIVERED != 0;
                state.incoming = expect(What::Delivery { number: delivery, redelivered });
            }
            Method::BasicReturn { .. } | Method::BasicGetOk { .. } => {
                state.incoming = expect(What::Other(method))
            }
            Method::BasicAck { .. } | Method::BasicNack { .. } | Method::BasicCancel { .. } => {
                if let Some(sink) = &mut state.sink {
                    sink.notice(method)?;
                }
            }
            Method::ChannelFlow { flags } => self.send(&Method::ChannelFlowOk { flags })?,
            Method::ChannelClose { code, text, .. } => {
                drop(state);
                // What crossed our own close leaves the answer to that outstanding: the number is not free before.
                if self.send_last(&Method::ChannelCloseOk {})? {
                    self.inner.connection.forget(self.inner.number);
                }
                self.ended(&closed_by_broker(code, text.as_str()));
            }
            Method::ChannelCloseOk {} => {
                // After a close that crossed ours nobody waits for it any more.
                if state.closed.is_none() {
                    state.answer((Method::ChannelCloseOk {}, None))?;
                }
                drop(state);
                self.inner.connection.forget(self.inner.number);
                self.ended(&PortError::new(Kind::Closed, "the channel is closed"));
            }
            answer => state.answer((answer, None))?,
        }
        Ok(())
    }
}

impl State {
    fn answer(&mut self, answer: Answer) -> Result<(), PortError> {
        let call = self.calls.pop_front().ok_or_else(|| out_of_order(answer.0.name()))?;
        // Nobody waits when the call's future was dropped.
        let _ = call.send(Ok(answer));
        Ok(())
    }

    fn on_header(&mut self, properties: Bytes, length: u64) -> Result<(), PortError> {
        if length > MAX_BODY {
            let text = format!("a message has {length} bytes; at most {MAX_BODY} are taken");
            return Err(PortError::new(Kind::Unsupported, text));
        }
        let incoming = self.incoming.as_mut().filter(|incoming| incoming.missing.is_none());
        let incoming = incoming.ok_or_else(|| out_of_order("a header"))?;
        (incoming.properties, incoming.missing) = (properties, Some(length));
        if length == 0 { self.complete(Bytes::new()) } else { Ok(()) }
    }

    fn on_body(&mut self, part: Bytes) -> Result<(), PortError> {
        let incoming = self.incoming.as_mut().ok_or_else(|| out_of_order("a body"))?;
        let missing = incoming.missing.ok_or_else(|| out_of_order("a body"))?;
        let left = missing.checked_sub(part.len() as u64).ok_or_else(|| out_of_order("a longer body"))?;
        incoming.missing = Some(left);
        if left > 0 {
            incoming.body.extend_from_slice(&part);
            Ok(())
        } else if incoming.body.is_empty() {
            // In one frame, as nearly always: no copy.
            self.complete(part)
        } else {
            incoming.body.extend_from_slice(&part);
            let body = std::mem::take(&mut incoming.body).freeze();
            self.complete(body)
        }
    }

    fn complete(&mut self, body: Bytes) -> Result<(), PortError> {
        let Some(Incoming { what, properties, .. }) = self.incoming.take() else { return Ok(()) };
        match (what, &mut self.sink) {
            (What::Delivery { number, redelivered }, Some(sink)) => {
                sink.delivery(number, redelivered, Content { properties, body });
                Ok(())
            }
            (What::Other(method @ Method::BasicGetOk { .. }), _) => {
                self.answer((method, Some(Content { properties, body })))
            }
            (What::Other(method), Some(sink)) => {
                // It came from us, so that its properties can be read; if not, nobody looks at them.
                sink.message(method, Properties::read(properties).unwrap_or_default(), body);
                Ok(())
            }
            (_, None) => Ok(()),
        }
    }
}

fn out_of_order(what: &str) -> PortError {
    PortError::new(Kind::Corrupt, format!("the broker sent {what} where nothing of the kind is expected"))
}
