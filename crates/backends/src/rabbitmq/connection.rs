//! One connection to a broker: who writes to it, who reads from it, and when it counts as lost.
//!
//! A connection lives once. What happens after its end is the business of who opened it.

mod traffic;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use outboard_core::{Kind, PortError};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{
    channel::{Channel, Owned},
    codec::{field::ShortString, frame::put_method, method::Method},
    handshake::{Agreed, HEARTBEAT, Opened, Server, open},
    url::Target,
};

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
    channels: Mutex<Channels>,
    /// Why it has ended, once it has.
    ended: watch::Sender<Option<PortError>>,
    /// The same as a flag, which is asked for every message.
    has_ended: AtomicBool,
    /// Why the broker takes no messages for now.
    blocked: watch::Sender<Option<Arc<str>>>,
}

#[derive(Debug, Default)]
struct Channels {
    by_number: FxHashMap<u16, Channel>,
    /// Given last. Numbers go round, so that a new one is found at once, and an old one is not reused at once.
    last: u16,
}

impl Connection {
    /// Connects, signs in and agrees on limits, within this time unless the URL gives another.
    ///
    /// Errors: `Unavailable` when the broker cannot be reached or does not answer, `Denied` when it refuses the account
    /// or the vhost, or we its certificate, `Unsupported` when it speaks something else.
    pub(crate) async fn open(target: &Target, within: Duration) -> Result<Self, PortError> {
        let within = target.connection_timeout.unwrap_or(within);
        let heartbeat = target.heartbeat.unwrap_or(HEARTBEAT);
        let opening = timeout(within, open(target, heartbeat)).await;
        let late = || PortError::new(Kind::Unavailable, format!("{target} did not answer within {within:?}"));
        let Opened { reader, writer, buffer, agreed, server } = opening.map_err(|_| late())??;
        let shared = Arc::new(Shared {
            agreed,
            server,
            out: Mutex::default(),
            flush: Notify::new(),
            channels: Mutex::default(),
            ended: watch::Sender::new(None),
            has_ended: AtomicBool::new(false),
            blocked: watch::Sender::new(None),
        });
        tokio::spawn(traffic::read(shared.clone(), reader, buffer));
        tokio::spawn(traffic::write(shared.clone(), writer));
        Ok(Self { shared })
    }

    /// Opens one more channel. `Full` when there are as many as was agreed, those included whose end is not confirmed.
    pub(crate) async fn channel(&self) -> Result<Owned, PortError> {
        let channel = {
            let mut channels = self.shared.channels();
            // Under the lock: whatever ends the connection after this finds the channel and tells it.
            self.check()?;
            let number = channels.free(self.shared.agreed.channel_max)?;
            let channel = Channel::new(number, self.clone());
            channels.by_number.insert(number, channel.clone());
            Owned::new(channel)
        };
        channel.open().await?;
        Ok(channel)
    }

    /// Why it has ended, once it has.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<PortError>> {
        self.shared.ended.subscribe()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.has_ended.load(Ordering::Acquire)
    }

    /// Why the broker takes no messages for now, while it takes none: it is short of memory or disk.
    pub(crate) fn blocked(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.blocked.subscribe()
    }

    /// What the broker said of itself.
    pub(crate) fn server(&self) -> &Server {
        &self.shared.server
    }

    /// The largest frame, with what surrounds it.
    pub(crate) fn frame_max(&self) -> usize {
        self.shared.agreed.frame_max
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    fn check(&self) -> Result<(), PortError> {
        if !self.has_ended() {
            return Ok(());
        }
        self.shared.ended.borrow().clone().map_or(Ok(()), Err)
    }

    /// Appends frames to what is written next, all of them or none. Never blocks.
    pub(crate) fn send<R>(&self, put: impl FnOnce(&mut BytesMut, &Agreed) -> R) -> Result<R, PortError> {
        self.check()?;
        let mut out = self.shared.out();
        let is_first = out.is_empty();
        let result = put(&mut out, &self.shared.agreed);
        drop(out);
        // Who put the first bytes there has woken the writer already.
        if is_first {
            self.shared.flush.notify_one();
        }
        Ok(result)
    }

    /// Forgets a channel that is closed on both sides.
    pub(crate) fn forget(&self, number: u16) {
        self.shared.channels().by_number.remove(&number);
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

impl Channels {
    fn free(&mut self, max: u16) -> Result<u16, PortError> {
        if self.by_number.len() >= usize::from(max) {
            let text = format!("the connection has {max} channels already");
            return Err(PortError::new(Kind::Full, text));
        }
        while {
            self.last = if self.last >= max { 1 } else { self.last + 1 };
            self.by_number.contains_key(&self.last)
        } {}
        Ok(self.last)
    }
}

impl Shared {
    fn out(&self) -> MutexGuard<'_, BytesMut> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
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
        self.has_ended.store(true, Ordering::Release);
        self.flush.notify_one();
        let channels: Vec<Channel> = self.channels().by_number.drain().map(|(_, channel)| channel).collect();
        channels.iter().for_each(|channel| channel.ended(&error));
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
