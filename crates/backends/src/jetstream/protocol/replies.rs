//! Requests that wait for their answers on one connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_core::{Kind, PortError};
use rustc_hash::FxHashMap;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::frame::Incoming;

/// Who waits for which number.
#[derive(Debug, Default)]
pub(super) struct Replies {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    by_number: FxHashMap<u64, oneshot::Sender<Incoming>>,
    is_closed: bool,
}

/// An answer that will come. Dropping it forgets it.
#[derive(Debug)]
pub(crate) struct Reply {
    number: u64,
    receiver: oneshot::Receiver<Incoming>,
    replies: Arc<Replies>,
}

impl Replies {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more that waits, and its number.
    pub(super) fn wait(self: &Arc<Self>) -> (u64, Reply) {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.last += 1;
        let number = waiting.last;
        if !waiting.is_closed {
            waiting.by_number.insert(number, sender);
        }
        (number, Reply { number, receiver, replies: self.clone() })
    }

    /// An answer has come on `…<number>`.
    pub(super) fn answer(&self, incoming: Incoming) {
        let number = incoming.subject().rsplit('.').next().and_then(|number| number.parse().ok());
        let sender = number.and_then(|number: u64| self.lock().by_number.remove(&number));
        if let Some(sender) = sender {
            // Nobody waits when the reply was dropped.
            let _ = sender.send(incoming);
        }
    }

    /// No answer comes any more.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        waiting.by_number.clear();
    }
}

impl Reply {
    /// The answer. `Unknown` when it does not come in time, or the connection ends before: the request may have worked.
    pub(crate) async fn by(mut self, deadline: Instant) -> Result<Incoming, PortError> {
        match timeout_at(deadline, &mut self.receiver).await {
            Ok(Ok(incoming)) => Ok(incoming),
            Ok(Err(_)) => {
                Err(PortError::new(Kind::Unknown, "the connection ended before the server answered"))
            }
            Err(_) => Err(PortError::new(Kind::Unknown, "the server did not answer in time")),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.replies.lock().by_number.remove(&self.number);
    }
}
