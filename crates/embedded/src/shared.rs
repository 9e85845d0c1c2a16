//! What the writer and the handles of a log share.

use outboard_core::{Health, Kind, PortError, Position, watchers::Watchers};
use tokio::sync::watch;

use crate::{
    options::Options, queue::Queue, readers::Source, stats::Counters, subscribers::Subscribers, tail::Tail,
};

/// The state on which handles and the writer meet.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) queue: Queue,
    pub(crate) tail: Tail,
    pub(crate) subscribers: Subscribers,
    pub(crate) watchers: Watchers,
    pub(crate) tip: watch::Sender<Position>,
    pub(crate) health: watch::Sender<Health>,
    /// Becomes true when the writer has ended and released everything.
    pub(crate) ended: watch::Sender<bool>,
    pub(crate) counters: Counters,
    pub(crate) source: Source,
    pub(crate) options: Options,
}

impl Shared {
    /// The shared state of a log whose durable tip is `tip`.
    pub(crate) fn new(options: Options, source: Source, tip: Position) -> Self {
        Self {
            queue: Queue::new(&options),
            tail: Tail::new(options.tail_messages, options.tail_bytes),
            subscribers: Subscribers::default(),
            watchers: Watchers::default(),
            tip: watch::Sender::new(tip),
            health: watch::Sender::new(Health::Ready),
            ended: watch::Sender::new(false),
            counters: Counters::default(),
            source,
            options,
        }
    }

    /// Says that nothing will work again in this process, and refuses what comes.
    pub(crate) fn fail(&self, error: &PortError) {
        self.health.send_replace(Health::Failed(error.clone()));
        self.queue.close(PortError::new(Kind::Closed, format!("the log is closed: {error}")));
    }

    /// The writer is gone. If nobody had closed the log, it has failed.
    pub(crate) fn end(&self) {
        if self.queue.close(PortError::new(Kind::Closed, "the log's writer has stopped")) {
            let error = PortError::new(Kind::Unknown, "the log's writer has stopped");
            self.health.send_replace(Health::Failed(error));
        }
        self.queue.clear();
        self.watchers.close();
        self.ended.send_replace(true);
    }
}
