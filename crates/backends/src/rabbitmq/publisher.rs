//! Publishing with confirms: a bounded window, and everything unconfirmed again on the next connection.
//!
//! Who publishes writes into the connection's buffer itself, and the connection's reader answers: no task and no channel
//! per message. One task keeps the channel and the time.

mod batch;
mod channel;
mod window;

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use outboard_core::{Kind, PortError};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    batch::Batch,
    channel::keep_channel,
    window::{Finished, Window},
};
use super::{
    channel::Channel,
    codec::{field::ShortString, properties::Properties},
    connection::Connection,
};

/// As the protocol numbers it: kept on disk.
const PERSISTENT: u8 = 2;

/// A message to be published, mandatory and persistent.
///
/// A message id is needed to tell which one came back when many are out to the same destination.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publication {
    /// Empty for the exchange that leads to the queue with the key's name.
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    /// Sent as they are, but for the delivery mode: everything is persistent.
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
}

impl Publication {
    fn destination(&self) -> String {
        destination(self.exchange.as_str(), self.key.as_str())
    }
}

/// In words.
fn destination(exchange: &str, key: &str) -> String {
    if exchange.is_empty() {
        format!("the queue `{key}`")
    } else {
        format!("the exchange `{exchange}` with the key `{key}`")
    }
}

/// What a publisher holds at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Publications that were sent and not confirmed. One whose time is over is answered and counts no more; the broker
    /// may owe the confirms of eight windows of such ones, then it is sent nothing until it has confirmed some.
    pub(crate) window: usize,
    /// Bytes of their bodies; a larger one goes alone.
    pub(crate) window_bytes: usize,
    /// Publications that wait for a place in the window. With so many, the next batch is refused.
    pub(crate) line: usize,
    /// Bytes of their bodies. With so many, the next batch is refused.
    pub(crate) line_bytes: usize,
    /// How long a publication may take, whatever happens.
    pub(crate) within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let within = Duration::from_secs(10);
        Self { window: 1_000, window_bytes: 8 << 20, line: 10_000, line_bytes: 64 << 20, within }
    }
}

/// Who is told what became of publications, each by the number that was given with it.
///
/// Called by the connection's reader or by whoever publishes, with no lock of the publisher held, exactly once for each
/// publication. Must not block; may publish.
pub(crate) trait Answers: Send + Sync + fmt::Debug + 'static {
    /// `Ok`: the broker has it, as durably as its queue is.
    ///
    /// `NotFound`: no queue takes it. `Denied`, `Invalid` …: the broker refuses it. `Full`: the broker, or the line here, takes
    /// no more. `Unavailable`: never sent in its time. `Unknown`: sent and not confirmed in its time. `Closed`: never sent.
    fn answer(&self, token: u64, result: Result<(), PortError>);
}

/// Publishes over the connections that a link provides, one after the other.
///
/// Dropping it ends what is under way without the broker's word; [`Publisher::close`] waits for that.
#[derive(Debug)]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    _running: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The channel is gone.
    lost: Notify,
    /// There is a deadline to be kept, and nobody keeps it yet.
    timed: Notify,
    /// Nothing is under way any more, after `is_closing`.
    idle: Notify,
    /// Why the broker takes nothing, while it takes nothing.
    refusing: watch::Sender<Option<PortError>>,
}

#[derive(Debug)]
struct State {
    window: Window,
    channel: Option<Channel>,
    /// Counts channels, so that what an earlier one says late does no harm.
    generation: u64,
    is_blocked: bool,
    is_timed: bool,
    is_closing: bool,
}

impl Publisher {
    /// Publishes over whatever connection the link shows. Nothing is lost while it shows none, within the limits.
    pub(crate) fn start(link: watch::Receiver<Option<Connection>>, limits: Limits) -> Self {
        let state = State {
            window: Window::new(limits),
            channel: None,
            generation: 0,
            is_blocked: false,
            is_timed: false,
            is_closing: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            lost: Notify::new(),
            timed: Notify::new(),
            idle: Notify::new(),
            refusing: watch::Sender::new(None),
        });
        let running = shared.clone();
        let run = async move {
            tokio::join!(keep_channel(&running, link), running.keep_time());
        };
        Self { shared, _running: AbortOnDropHandle::new(tokio::spawn(run)) }
    }

    /// Publishes a batch: one answer for each, in their order. A dropped future takes nothing back.
    pub(crate) fn publish(
        &self,
        batch: Vec<Publication>,
    ) -> impl Future<Output = Vec<Result<(), PortError>>> + Send + use<> {
        let answers = Arc::new(Batch::new(batch.len()));
        let to: Arc<dyn Answers> = answers.clone();
        self.submit((0..).zip(batch), &to);
        answers.all()
    }

    /// Publishes without a future: each answer goes to `to` with the publication's number, possibly before this returns.
    pub(crate) fn submit(
        &self,
        publications: impl IntoIterator<Item = (u64, Publication)>,
        to: &Arc<dyn Answers>,
    ) {
        let refusal = {
            let mut state = self.shared.state();
            match state.refusal() {
                Some(error) => error,
                None => {
                    let now = Instant::now();
                    for (token, mut publication) in publications {
                        publication.properties.delivery_mode = Some(PERSISTENT);
                        state.window.push(publication, now, to, token);
                    }
                    state.pump();
                    return self.shared.time(&mut state);
                }
            }
        };
        publications.into_iter().for_each(|(token, _)| to.answer(token, Err(refusal.clone())));
    }

    /// Why the broker takes nothing at the moment, while it takes nothing: what is published waits for that.
    pub(crate) fn refusing(&self) -> watch::Receiver<Option<PortError>> {
        self.shared.refusing.subscribe()
    }

    /// How many publications were sent and not confirmed.
    #[cfg(test)]
    pub(crate) fn unconfirmed(&self) -> usize {
        self.shared.state().window.unconfirmed()
    }

    /// Takes nothing new, and waits until all is answered; at the deadline, the rest is answered without the broker.
    pub(crate) async fn close(&self, deadline: Instant) {
        self.shared.state().is_closing = true;
        let all_answered = async {
            while !self.shared.state().window.is_empty() {
                self.shared.idle.notified().await;
            }
        };
        // Late or not: what is left is told the same.
        let _ = timeout_at(deadline, all_answered).await;
        self.shared.clear();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.clear();
    }
}

impl State {
    /// Why nothing is taken.
    fn refusal(&self) -> Option<PortError> {
        if self.is_closing {
            Some(PortError::new(Kind::Closed, "the publisher is closed"))
        } else if self.window.has_room() {
            None
        } else {
            let text = format!("too many messages wait to be published: {}", self.why());
            Some(PortError::new(Kind::Full, text))
        }
    }

    /// What keeps publications that wait.
    fn why(&self) -> &'static str {
        if self.channel.is_none() {
            "there is no connection to RabbitMQ"
        } else if self.is_blocked {
            "RabbitMQ takes no messages for now, it is short of memory or disk"
        } else if self.window.is_overdue() {
            "RabbitMQ has left too many unconfirmed; look for a quorum queue without a majority"
        } else {
            "RabbitMQ confirms too slowly"
        }
    }

    /// Sends what may go out, in one piece.
    fn pump(&mut self) {
        let Self { window, channel: Some(channel), is_blocked: false, .. } = self else { return };
        if window.may_send() {
            let number = channel.number();
            // A channel that has just ended takes nothing; its sink will say so.
            let _ = channel.write(|out, frame_max| {
                window.send(|publication| channel::put(out, number, publication, frame_max));
            });
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, sends what may go out then, and tells what is finished.
    fn change(&self, change: impl FnOnce(&mut State, &mut Finished)) {
        let mut finished = Finished::new();
        change(&mut self.state(), &mut finished);
        self.go_on(&mut finished);
    }

    /// Sends what may go out, and tells what is finished.
    fn go_on(&self, finished: &mut Finished) {
        {
            let mut state = self.state();
            state.pump();
            self.time(&mut state);
            if state.is_closing && state.window.is_empty() {
                self.idle.notify_one();
            }
        }
        finished.drain(..).for_each(|(to, token, result)| to.answer(token, result));
    }

    /// Has deadlines kept from now on.
    fn time(&self, state: &mut State) {
        if !state.is_timed && state.window.next_deadline().is_some() {
            state.is_timed = true;
            self.timed.notify_one();
        }
    }

    /// Ends publications whose time is over. Wakes up once per deadline at most, and not for each publication.
    async fn keep_time(&self) {
        loop {
            let deadline = {
                let mut state = self.state();
                let deadline = state.window.next_deadline();
                state.is_timed = deadline.is_some();
                deadline
            };
            match deadline {
                None => self.timed.notified().await,
                Some(deadline) => {
                    sleep_until(deadline).await;
                    self.change(|state, finished| {
                        let why = state.why();
                        state.window.expire(Instant::now(), why, finished);
                    });
                }
            }
        }
    }

    fn clear(&self) {
        self.change(|state, finished| {
            state.is_closing = true;
            state.generation += 1;
            state.channel = None;
            state.window.clear(finished);
        });
    }
}
