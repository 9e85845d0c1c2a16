//! One connection to a broker: who writes to it, who reads from it, and when it counts as lost.
//!
//! A connection lives once. What happens after its end is the business of who opened it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use outboard_core::{Kind, PortError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{
    channel::Channel,
    codec::{
        field::ShortString,
        frame::{Frame, put_heartbeat, put_method},
        method::Method,
    },
    handshake::{Agreed, Opened, Reader, Server, Writer, open},
    url::Target,
};

/// What is read at once, at least.
const READ_BYTES: usize = 64 << 10;

/// How long the broker may take to confirm that the connection is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A connection; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    agreed: Agreed,
    server: Server,
    out: Mutex<BytesMut>,
    /// Something is there to be written.
    flush: Notify,
    channels: Mutex<HashMap<u16, Channel>>,
    /// Why it has ended, once it has.
    ended: watch::Sender<Option<PortError>>,
    /// Why the broker takes no messages for now.
    blocked: watch::Sender<Option<Arc<str>>>,
}

impl Connection {
    /// Connects, signs in and agrees on limits, within this time.
    ///
    /// Errors: `Unavailable` when the broker cannot be reached or does not answer, `Denied` when it refuses the account
    /// or the vhost, `Unsupported` when it speaks something else.
    pub(crate) async fn open(target: &Target, within: Duration) -> Result<Self, PortError> {
        let opening = timeout(within, open(target)).await;
        let late = || PortError::new(Kind::Unavailable, format!("{target} did not answer within {within:?}"));
        let Opened { reader, writer, buffer, agreed, server } = opening.map_err(|_| late())??;
        let shared = Arc::new(Shared {
            agreed,
            server,
            out: Mutex::default(),
            flush: Notify::new(),
            channels: Mutex::default(),
            ended: watch::Sender::new(None),
            blocked: watch::Sender::new(None),
        });
        tokio::spawn(read(shared.clone(), reader, buffer));
        tokio::spawn(write(shared.clone(), writer));
        Ok(Self { shared })
    }

    /// Opens one more channel.
    pub(crate) async fn channel(&self) -> Result<Channel, PortError> {
        let channel = {
            let mut channels = self.shared.channels();
            let number = (1..=self.shared.agreed.channel_max).find(|number| !channels.contains_key(number));
            let Some(number) = number else {
                let text = format!("the connection has {} channels already", channels.len());
                return Err(PortError::new(Kind::Full, text));
            };
            let channel = Channel::new(number, self.clone());
            channels.insert(number, channel.clone());
            channel
        };
        // It may have ended while the channel was added, and nobody would have told the channel.
        self.check()?;
        channel.open().await?;
        Ok(channel)
    }

    /// Why it has ended, once it has.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<PortError>> {
        self.shared.ended.subscribe()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.ended.borrow().is_some()
    }

    /// Why the broker takes no messages for now, while it takes none: it is short of memory or disk.
    pub(crate) fn blocked(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.blocked.subscribe()
    }

    /// What the broker said of itself.
    pub(crate) fn server(&self) -> &Server {
        &self.shared.server
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    fn check(&self) -> Result<(), PortError> {
        self.shared.ended.borrow().clone().map_or(Ok(()), Err)
    }

    /// Appends frames to what is written next, all of them or none. Never blocks.
    pub(crate) fn send(&self, put: impl FnOnce(&mut BytesMut, &Agreed)) -> Result<(), PortError> {
        self.check()?;
        put(&mut self.shared.out(), &self.shared.agreed);
        self.shared.flush.notify_one();
        Ok(())
    }

    /// Bytes that wait to be written.
    pub(crate) fn backlog(&self) -> usize {
        self.shared.out().len()
    }

    /// Forgets a channel that is closed on both sides.
    pub(crate) fn forget(&self, number: u16) {
        self.shared.channels().remove(&number);
    }

    /// Closes it, and waits a moment for the broker's word that everything before has arrived.
    pub(crate) async fn close(&self) {
        let text = ShortString::new("closing").unwrap_or_default();
        let close = Method::ConnectionClose { code: 200, text, class: 0, method: 0 };
        let mut ended = self.ended();
        if self.send(|out, _| put_method(out, 0, &close)).is_ok() {
            let _ = timeout(CLOSE_WITHIN, ended.wait_for(Option::is_some)).await;
        }
        self.shared.end(PortError::new(Kind::Closed, "the connection is closed"));
    }
}

impl Shared {
    fn out(&self) -> MutexGuard<'_, BytesMut> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<u16, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first reason counts.
    fn end(&self, error: PortError) {
        let is_first = self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(error.clone());
            is_first
        });
        if !is_first {
            return;
        }
        self.flush.notify_one();
        let channels: Vec<Channel> = self.channels().drain().map(|(_, channel)| channel).collect();
        channels.iter().for_each(|channel| channel.ended(&error));
    }

    /// Gives a frame to whom it is for. An error ends the connection.
    fn dispatch(&self, frame: Frame) -> Result<(), PortError> {
        let (number, frame) = match frame {
            Frame::Heartbeat => return Ok(()),
            Frame::Method(0, method) => return self.on_own(method),
            Frame::Method(number, _) | Frame::Header(number, ..) | Frame::Body(number, _) => (number, frame),
        };
        let Some(channel) = self.channels().get(&number).cloned() else {
            // What was on its way when the channel was closed.
            return Ok(());
        };
        channel.on_frame(frame)
    }

    fn on_own(&self, method: Method) -> Result<(), PortError> {
        match method {
            Method::ConnectionClose { code, text, .. } => {
                put_method(&mut self.out(), 0, &Method::ConnectionCloseOk {});
                self.flush.notify_one();
                Err(closed_by_broker(code, text.as_str()))
            }
            Method::ConnectionCloseOk {} => Err(PortError::new(Kind::Closed, "the connection is closed")),
            Method::ConnectionBlocked { reason } => {
                tracing::warn!(reason = reason.as_str(), "the broker takes no messages for now");
                self.blocked.send_replace(Some(reason.as_str().into()));
                Ok(())
            }
            Method::ConnectionUnblocked {} => {
                tracing::info!("the broker takes messages again");
                self.blocked.send_replace(None);
                Ok(())
            }
            other => {
                let text = format!("the broker sent {} on channel 0", other.name());
                Err(PortError::new(Kind::Corrupt, text))
            }
        }
    }
}

/// What a reply code of the broker means to us.
pub(crate) fn closed_by_broker(code: u16, text: &str) -> PortError {
    let kind = match code {
        403 | 530 => Kind::Denied,
        404 => Kind::NotFound,
        405 => Kind::Conflict,
        406 => Kind::Mismatch,
        311 | 501 | 502 | 503 | 505 => Kind::Corrupt,
        540 => Kind::Unsupported,
        _ => Kind::Unavailable,
    };
    PortError::new(kind, format!("RabbitMQ says {code}: {text}"))
}

async fn read(shared: Arc<Shared>, mut reader: Reader, mut buffer: BytesMut) {
    let error = loop {
        match take_frames(&shared, &mut buffer) {
            Ok(()) => {}
            Err(error) => break error,
        }
        buffer.reserve(READ_BYTES);
        // Any traffic is a sign of life.
        let deadline = Instant::now() + 2 * shared.agreed.heartbeat;
        let mut ended = shared.ended.subscribe();
        tokio::select! {
            _ = ended.wait_for(Option::is_some) => return,
            read = timeout_at(deadline, reader.read_buf(&mut buffer)) => match read {
                Ok(Ok(0)) => break PortError::new(Kind::Unavailable, "the broker closed the connection"),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => break lost(&error),
                Err(_) => break silent(deadline),
            },
        }
    };
    shared.end(error);
}

fn take_frames(shared: &Shared, buffer: &mut BytesMut) -> Result<(), PortError> {
    let corrupt = |error| PortError::new(Kind::Corrupt, format!("{error}"));
    while let Some(frame) = Frame::read(buffer, shared.agreed.frame_max).map_err(corrupt)? {
        shared.dispatch(frame)?;
    }
    Ok(())
}

async fn write(shared: Arc<Shared>, mut writer: Writer) {
    let mut batch = BytesMut::new();
    loop {
        std::mem::swap(&mut batch, &mut *shared.out());
        if batch.is_empty() {
            if shared.ended.borrow().is_some() {
                break;
            }
            if timeout(shared.agreed.heartbeat / 2, shared.flush.notified()).await.is_err() {
                put_heartbeat(&mut shared.out());
            }
            continue;
        }
        // A peer that takes nothing would hold up acknowledgements and heartbeats for ever.
        let deadline = Instant::now() + 2 * shared.agreed.heartbeat;
        match timeout_at(deadline, writer.write_all(&batch)).await {
            Ok(Ok(())) => batch.clear(),
            Ok(Err(error)) => return shared.end(lost(&error)),
            Err(_) => return shared.end(silent(deadline)),
        }
    }
    let _ = writer.shutdown().await;
}

fn lost(error: &std::io::Error) -> PortError {
    PortError::new(Kind::Unavailable, format!("the connection to the broker is lost: {error}"))
}

fn silent(_since: Instant) -> PortError {
    PortError::new(Kind::Unavailable, "the broker has gone silent")
}
