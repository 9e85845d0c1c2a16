//! Where a worker's messages come from.

use std::{fmt, sync::Arc, time::Duration};

use outboard_core::{
    Kind, PortError, Queue,
    queue::{ConsumeSpec, Identify, MessageIdentity, Prefetch, QueueName, Settling},
};

/// Where a worker's messages come from: the embedded log, or a broker's queue.
#[derive(Debug, Clone, Default)]
pub enum Source {
    /// Every worker gets each message of the log that it handles.
    #[default]
    Log,
    /// The workers of a queue share its messages, with whoever else consumes it.
    Queue(QueueSource),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log => f.write_str("log"),
            Self::Queue(source) => {
                write!(f, "{} {}", source.queue.capabilities().backend, source.consume.queue.name)
            }
        }
    }
}

/// A broker's queue, and how it is consumed.
///
/// ```
/// use std::{fmt, sync::Arc};
/// use outboard::{QueueSource, core::queue::{ConsumeSpec, QueueSpec}};
/// # fn example(broker: Arc<dyn outboard::core::Queue>) {
/// let source = QueueSource::new(broker, ConsumeSpec::new("orders", QueueSpec::named("orders")));
/// assert_eq!(&**source.queue_name(), "orders");
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct QueueSource {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) consume: ConsumeSpec,
    pub(crate) needs_once: bool,
    pub(crate) is_long: bool,
}

impl QueueSource {
    /// A queue of a broker.
    pub fn new(queue: Arc<dyn Queue>, consume: ConsumeSpec) -> Self {
        Self { queue, consume, needs_once: false, is_long: false }
    }

    /// The worker relies on effects that happen once. It is refused at start where the broker cannot tell one message
    /// from another.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.needs_once = true;
        self
    }

    /// The handler may take longer than the broker waits for an acknowledgement: each message is first taken into the
    /// embedded log by a worker of its own (`NAME.intake`), and handled from there.
    #[must_use]
    pub fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    /// The queue's name.
    pub fn queue_name(&self) -> &QueueName {
        &self.consume.queue.name
    }

    /// The broker.
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    /// How many messages a worker claims beside those that it runs.
    pub(crate) fn ahead(&self, concurrency: u32, timeout: Duration) -> u32 {
        ahead(self.queue.capabilities().hold_limit, concurrency, timeout)
    }

    /// At most so many deliveries are unsettled.
    pub(crate) fn claims(&self) -> u32 {
        match self.consume.prefetch {
            Prefetch::Fixed(prefetch) => prefetch,
            Prefetch::Auto { max } => max,
        }
    }

    /// Whether the broker can give what the worker needs; and what it cannot promise is told once.
    pub(crate) fn check(&self, worker: &str) -> Result<(), PortError> {
        let capabilities = self.queue.capabilities();
        let backend = capabilities.backend;
        let is_named =
            capabilities.identity == MessageIdentity::Always || self.consume.identify == Identify::ByContent;
        if self.needs_once && !is_named {
            let text = format!(
                "worker `{worker}` needs effects that happen once, but a message of {backend} has an id only when its \
                 publisher gives one: have it publish message ids, or take ids from the content"
            );
            return Err(PortError::new(Kind::Unsupported, text));
        }
        let limits = [
            (!is_named).then_some("effects of messages without an id happen at least once"),
            (capabilities.settle == Settling::Sent)
                .then_some("an acknowledgement is lost with its connection"),
            capabilities.returns_counted.then_some("what is given back counts as delivered there"),
            (!capabilities.gives_back).then_some("attempts that opened an outage stay counted"),
        ];
        let limits: Vec<_> = limits.into_iter().flatten().collect();
        if !limits.is_empty() {
            tracing::info!(%worker, backend, limits = limits.join("; "), "what this broker cannot promise");
        }
        Ok(())
    }
}

/// As many as run at once; none where one that has waited in the prefetch, then for a free slot, and then takes all of its
/// time, could outlast the broker's patience.
fn ahead(hold_limit: Option<Duration>, concurrency: u32, timeout: Duration) -> u32 {
    if hold_limit.is_none_or(|limit| timeout <= limit / 4) { concurrency } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_ahead_that_could_outlast_the_broker_s_patience() {
        let (limit, minute) = (Duration::from_secs(30 * 60), Duration::from_secs(60));
        assert_eq!(ahead(None, 8, 60 * minute), 8);
        assert_eq!(ahead(Some(limit), 8, 7 * minute), 8);
        assert_eq!(ahead(Some(limit), 8, 8 * minute), 0);
    }
}
