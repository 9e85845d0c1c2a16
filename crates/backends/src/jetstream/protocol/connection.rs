//! One connection to a server: who writes to it, who reads from it, and when it counts as lost.
//!
//! A connection lives once. What happens after its end is the business of who opened it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use outboard_core::{Kind, PortError};
use rustc_hash::FxHashMap;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{
    frame::{Frame, Incoming, put_number, put_publication},
    handshake::{Opened, ServerInfo, open},
    replies::{Replies, Reply},
};
use crate::jetstream::{naming::unique, url::Target};

/// What is read at once, at least.
const READ_BYTES: usize = 64 << 10;

/// The subscription of answers to requests.
const REPLIES_SID: u64 = 1;

/// A connection; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    info: ServerInfo,
    /// `_INBOX.<unique>`: what is sent below it comes to us.
    inbox: String,
    /// How often a sign of life is asked for; after twice this without one the connection is lost.
    heartbeat: Duration,
    out: Mutex<Out>,
    /// Something is there to be written.
    flush: Notify,
    subscriptions: Mutex<Subscriptions>,
    replies: Arc<Replies>,
    /// What we were last told that we may not do, to explain an answer that does not come.
    forbidden: Mutex<Option<String>>,
    /// Why it has ended, once it has.
    ended: watch::Sender<Option<PortError>>,
}

#[derive(Debug, Default)]
struct Out {
    bytes: BytesMut,
    /// Who waits for which PONG, in the order of the PINGs; nobody for those that only ask for a sign of life.
    pings: VecDeque<Option<oneshot::Sender<()>>>,
}

#[derive(Debug)]
struct Subscriptions {
    /// The last number that was given to a subscription or an inbox.
    last: u64,
    sinks: FxHashMap<u64, Arc<dyn Sink>>,
}

/// Takes what comes on a subscription. Called by the connection's reader, which it must not hold up.
pub(crate) trait Sink: Send + Sync + std::fmt::Debug + 'static {
    /// A message or a status.
    fn message(&self, incoming: Incoming);
}

impl Connection {
    /// Connects and signs in, within this time.
    ///
    /// Errors: `Unavailable` when the server cannot be reached or does not answer, `Denied` when it refuses us or its
    /// certificate is not to be trusted, `Unsupported` when it is no NATS server.
    pub(crate) async fn open(
        target: &Target,
        within: Duration,
        heartbeat: Duration,
    ) -> Result<Self, PortError> {
        let late = || PortError::new(Kind::Unavailable, format!("{target} did not answer within {within:?}"));
        let Opened { reader, writer, buffer, info } =
            timeout(within, open(target)).await.map_err(|_| late())??;
        let shared = Arc::new(Shared {
            info,
            inbox: format!("_INBOX.{}", unique()),
            heartbeat,
            out: Mutex::default(),
            flush: Notify::new(),
            subscriptions: Mutex::new(Subscriptions { last: REPLIES_SID, sinks: FxHashMap::default() }),
            replies: Arc::default(),
            forbidden: Mutex::default(),
            ended: watch::Sender::new(None),
        });
        let subscribe = format!("SUB {}.r.* {REPLIES_SID}\r\n", shared.inbox);
        shared.out().bytes.extend_from_slice(subscribe.as_bytes());
        shared.flush.notify_one();
        tokio::spawn(read(shared.clone(), reader, buffer));
        tokio::spawn(write(shared.clone(), writer));
        Ok(Self { shared })
    }

    /// What the server said of itself.
    pub(crate) fn info(&self) -> &ServerInfo {
        &self.shared.info
    }

    /// Why it has ended, once it has.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<PortError>> {
        self.shared.ended.subscribe()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.ended.borrow().is_some()
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    fn check(&self) -> Result<(), PortError> {
        self.shared.ended.borrow().clone().map_or(Ok(()), Err)
    }

    /// Appends to what is written next. Never blocks; what is appended after the end is lost with it.
    pub(crate) fn send(&self, put: impl FnOnce(&mut BytesMut)) {
        put(&mut self.shared.out().bytes);
        self.shared.flush.notify_one();
    }

    /// Publishes a request. `Unavailable` when the connection had ended already: nothing was written then.
    pub(crate) fn request(&self, subject: &str, headers: &str, payload: &[u8]) -> Result<Reply, PortError> {
        self.check().map_err(|error| PortError::new(Kind::Unavailable, error.message))?;
        let (number, reply) = self.shared.replies.wait();
        self.send(|out| {
            let mut to = BytesMut::with_capacity(self.shared.inbox.len() + 23);
            to.extend_from_slice(self.shared.inbox.as_bytes());
            to.extend_from_slice(b".r.");
            put_number(&mut to, number);
            put_publication(out, subject.as_bytes(), &to, headers.as_bytes(), payload);
        });
        Ok(reply)
    }

    /// What the server last said that we may not do with this subject.
    pub(crate) fn forbidden(&self, subject: &str) -> Option<PortError> {
        let forbidden = self.shared.forbidden.lock().unwrap_or_else(PoisonError::into_inner);
        let text = forbidden.as_ref().filter(|text| text.contains(subject))?;
        let mend = "give this account the permission, or use another one";
        Some(PortError::new(Kind::Denied, format!("the server refuses: {text}; {mend}")))
    }

    /// A subject of our own that nobody else sends to by chance.
    pub(crate) fn inbox(&self, name: &str) -> String {
        let mut subscriptions = self.shared.subscriptions();
        subscriptions.last += 1;
        format!("{}.{name}.{}", self.shared.inbox, subscriptions.last)
    }

    /// Subscribes; returns what to unsubscribe by.
    pub(crate) fn subscribe(&self, subject: &str, sink: Arc<dyn Sink>) -> u64 {
        let sid = {
            let mut subscriptions = self.shared.subscriptions();
            subscriptions.last += 1;
            let sid = subscriptions.last;
            subscriptions.sinks.insert(sid, sink);
            sid
        };
        self.send(|out| out.extend_from_slice(format!("SUB {subject} {sid}\r\n").as_bytes()));
        sid
    }

    /// Ends subscriptions. What the server had sent before it read this has come when the future is ready.
    pub(crate) async fn unsubscribe(&self, sids: &[u64]) -> Result<(), PortError> {
        self.send(|out| {
            for sid in sids {
                out.extend_from_slice(format!("UNSUB {sid}\r\n").as_bytes());
            }
        });
        let everything_came = self.barrier().await;
        let mut subscriptions = self.shared.subscriptions();
        for sid in sids {
            subscriptions.sinks.remove(sid);
        }
        everything_came
    }

    /// Ready when the server has read everything that was sent before.
    pub(crate) async fn barrier(&self) -> Result<(), PortError> {
        self.check()?;
        let (sender, receiver) = oneshot::channel();
        self.shared.ping(Some(sender));
        self.shared.flush.notify_one();
        let gone = || PortError::new(Kind::Unavailable, "the connection ended");
        receiver.await.map_err(|_| self.check().err().unwrap_or_else(gone))
    }

    /// Ends it.
    pub(crate) fn close(&self) {
        self.shared.end(PortError::new(Kind::Closed, "the connection is closed"));
    }
}

impl Shared {
    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ping(&self, waits: Option<oneshot::Sender<()>>) {
        let mut out = self.out();
        out.bytes.extend_from_slice(b"PING\r\n");
        out.pings.push_back(waits);
    }

    /// The first reason counts.
    fn end(&self, error: PortError) {
        let is_first = self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(error);
            is_first
        });
        if is_first {
            self.flush.notify_one();
            self.replies.close();
            self.out().pings.clear();
            self.subscriptions().sinks.clear();
        }
    }

    /// Gives a frame to whom it is for. An error ends the connection.
    fn dispatch(&self, frame: Frame) -> Result<(), PortError> {
        match frame {
            Frame::Message(incoming) if incoming.sid == REPLIES_SID => self.replies.answer(incoming),
            Frame::Message(incoming) => {
                let sink = self.subscriptions().sinks.get(&incoming.sid).cloned();
                // Without a sink it was on its way when the subscription ended.
                if let Some(sink) = sink {
                    sink.message(incoming);
                }
            }
            Frame::Ping => {
                self.out().bytes.extend_from_slice(b"PONG\r\n");
                self.flush.notify_one();
            }
            Frame::Pong => {
                if let Some(waits) = self.out().pings.pop_front().flatten() {
                    let _ = waits.send(());
                }
            }
            Frame::Refusal(text) if text.to_ascii_lowercase().starts_with("permissions violation") => {
                tracing::warn!("NATS refuses: {text}");
                *self.forbidden.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            }
            Frame::Refusal(text) => {
                return Err(PortError::new(Kind::Unavailable, format!("NATS ends the connection: {text}")));
            }
            Frame::Info(_) | Frame::Ok => {}
        }
        Ok(())
    }
}

async fn read(shared: Arc<Shared>, mut reader: Box<dyn AsyncRead + Send + Unpin>, mut buffer: BytesMut) {
    let mut ended = shared.ended.subscribe();
    let error = loop {
        match take_frames(&shared, &mut buffer) {
            Ok(()) => {}
            Err(error) => break error,
        }
        buffer.reserve(READ_BYTES);
        // Any traffic is a sign of life.
        let deadline = Instant::now() + 2 * shared.heartbeat;
        tokio::select! {
            _ = ended.wait_for(Option::is_some) => return,
            read = timeout_at(deadline, reader.read_buf(&mut buffer)) => match read {
                Ok(Ok(0)) => break PortError::new(Kind::Unavailable, "the server closed the connection"),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => break lost(&error),
                Err(_) => break silent(),
            },
        }
    };
    shared.end(error);
}

fn take_frames(shared: &Shared, buffer: &mut BytesMut) -> Result<(), PortError> {
    while let Some(frame) = Frame::read(buffer)? {
        shared.dispatch(frame)?;
    }
    Ok(())
}

async fn write(shared: Arc<Shared>, mut writer: Box<dyn AsyncWrite + Send + Unpin>) {
    let mut batch = BytesMut::new();
    let mut pinged = Instant::now();
    loop {
        // Asked for however busy the connection is: acknowledgements alone have no answer.
        if pinged.elapsed() >= shared.heartbeat / 2 {
            shared.ping(None);
            pinged = Instant::now();
        }
        std::mem::swap(&mut batch, &mut shared.out().bytes);
        if batch.is_empty() {
            if shared.ended.borrow().is_some() {
                break;
            }
            let _ = timeout_at(pinged + shared.heartbeat / 2, shared.flush.notified()).await;
            continue;
        }
        // A peer that takes nothing would hold up acknowledgements for ever.
        let deadline = Instant::now() + 2 * shared.heartbeat;
        let writing = async {
            writer.write_all(&batch).await?;
            writer.flush().await
        };
        match timeout_at(deadline, writing).await {
            Ok(Ok(())) => batch.clear(),
            Ok(Err(error)) => return shared.end(lost(&error)),
            Err(_) => return shared.end(silent()),
        }
    }
    let _ = timeout(shared.heartbeat, writer.shutdown()).await;
}

fn lost(error: &std::io::Error) -> PortError {
    PortError::new(Kind::Unavailable, format!("the connection to NATS is lost: {error}"))
}

fn silent() -> PortError {
    PortError::new(Kind::Unavailable, "NATS has gone silent")
}
