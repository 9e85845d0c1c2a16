//! Queues in which messages wait for their time: one for each delay, from which the broker hands them on by itself.
//!
//! The delays double from an eighth of a second to twelve days. What waits is handed on in the order in which it came,
//! because all messages of a queue wait equally long.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use outboard_core::{
    Kind, PortError,
    queue::{Argument, Declared, QueueKind, QueueName, QueueSpec},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    codec::table::{Table, Value},
    connection::Connection,
    topology,
};

/// The shortest delay.
const FIRST: Duration = Duration::from_millis(125);

/// So many delays.
const STEPS: u32 = 24;

/// After this a queue is declared again before something is published to it.
const FRESH: Duration = Duration::from_secs(60);

/// So much longer than twice its delay a queue lives without being declared.
const SPARE: Duration = Duration::from_secs(15 * 60);

/// For so long after a queue was made, a `kill -9` of the broker may undo that, with all that is in it: the broker writes
/// down that a queue exists some two seconds after it said so.
///
/// It does not tell when that was, and another process may have made a moment ago what this one finds. So a queue is young,
/// too, when it is seen for the first time, and when it could have expired and been made anew since it was seen. That
/// delays nothing but the acknowledgements of what is moved there meanwhile, at most once for each queue's life and process.
const YOUNG: Duration = Duration::from_secs(4);

/// So many queues are remembered as declared. Beyond that, they are declared again.
const REMEMBERED: usize = 4_096;

/// How long declaring may take.
const WITHIN: Duration = Duration::from_secs(10);

/// The delays, shortest first.
pub(crate) fn steps() -> Vec<Duration> {
    (0..STEPS).map(|step| FIRST * (1 << step)).collect()
}

/// The shortest delay that is not shorter; the longest when none is.
pub(crate) fn step(delay: Duration) -> Duration {
    (0..STEPS)
        .map(|step| FIRST * (1 << step))
        .find(|step| *step >= delay)
        .unwrap_or(FIRST * (1 << (STEPS - 1)))
}

/// So long a waiting queue lives without being declared.
fn lifetime(step: Duration) -> Duration {
    2 * step + SPARE
}

/// Where messages of a queue wait for this long.
pub(crate) fn name(queue: &str, step: Duration) -> String {
    format!("{queue}.retry.{}ms", step.as_millis())
}

/// Where dead letters of a queue are.
pub(crate) fn dead_name(queue: &str) -> String {
    format!("{queue}.dlq")
}

/// What is known of a waiting queue or a dead-letter queue.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// When it was declared for the last time.
    declared: Instant,
    /// From when on it survives whatever becomes of the broker's process.
    safe: Instant,
}

/// Makes waiting queues and dead-letter queues when they are needed.
#[derive(Debug)]
pub(crate) struct Ladder {
    link: watch::Receiver<Option<Connection>>,
    known: Mutex<HashMap<Arc<str>, Known>>,
    /// Queues that are replicated: so is what waits for them.
    quorum: Mutex<HashSet<QueueName>>,
}

impl Ladder {
    pub(crate) fn new(link: watch::Receiver<Option<Connection>>) -> Self {
        Self { link, known: Mutex::default(), quorum: Mutex::default() }
    }

    /// Takes note of how a queue is kept.
    pub(crate) fn learn(&self, spec: &QueueSpec) {
        let is_quorum = spec.kind == QueueKind::Quorum
            || spec.arguments.get("x-queue-type") == Some(&Argument::Text("quorum".into()));
        let mut quorum = self.quorum.lock().unwrap_or_else(PoisonError::into_inner);
        if is_quorum && quorum.len() < REMEMBERED {
            quorum.insert(spec.name.clone());
        }
    }

    /// Takes note of how a queue is kept that was there already: the broker says so when it was to be kept otherwise, unless
    /// it names another argument first.
    pub(crate) fn found(&self, queue: &QueueName, declared: &Declared) {
        if let Declared::Differs(what) = declared
            && topology::is_found_quorum(queue, what)
        {
            self.learn(&QueueSpec { kind: QueueKind::Quorum, ..QueueSpec::named(queue.clone()) });
        }
    }

    /// What is published to these queues goes over this connection.
    pub(crate) fn connection(&self) -> &watch::Receiver<Option<Connection>> {
        &self.link
    }

    fn is_quorum(&self, queue: &QueueName) -> bool {
        self.quorum.lock().unwrap_or_else(PoisonError::into_inner).contains(queue)
    }

    /// Where messages of this queue wait for this long, made if it is not there. It may be published to at once, and not
    /// much later.
    ///
    /// The broker deletes a queue that nobody has declared, read or consumed for `x-expires`, with what is in it, and
    /// publishing does not count as a use. So the queue must outlive the last message's wait: with the last declaration
    /// at most [`FRESH`] ago when a message is published, and the publication on its way for less than the publisher's
    /// limit of some seconds, the message leaves at most `FRESH + some seconds + delay` after that declaration, and the
    /// queue lives for `2 * delay + SPARE`. While the broker is down no time passes for the queue: it counts anew.
    pub(crate) async fn waiting(&self, queue: &QueueName, step: Duration) -> Result<Arc<str>, PortError> {
        let millis =
            |duration: Duration| Value::from(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        let mut arguments = Table::of([
            ("x-message-ttl", millis(step)),
            ("x-expires", millis(lifetime(step))),
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", (&**queue).into()),
        ]);
        if self.is_quorum(queue) {
            // The broker keeps the message until the queue has taken it back.
            for (name, value) in [
                ("x-queue-type", "quorum"),
                ("x-dead-letter-strategy", "at-least-once"),
                ("x-overflow", "reject-publish"),
            ] {
                arguments.0.insert(name.to_owned(), value.into());
            }
        }
        self.declare(name(queue, step).into(), arguments, lifetime(step)).await
    }

    /// Where dead letters of this queue are, made if it is not there.
    pub(crate) async fn dead(&self, queue: &QueueName) -> Result<Arc<str>, PortError> {
        let mut arguments = Table::default();
        if self.is_quorum(queue) {
            arguments.0.insert("x-queue-type".to_owned(), "quorum".into());
        }
        self.declare(dead_name(queue).into(), arguments, Duration::MAX).await
    }

    /// Existing ones with other arguments are used as they are. It lives for so long without being declared.
    async fn declare(
        &self,
        name: Arc<str>,
        arguments: Table,
        lifetime: Duration,
    ) -> Result<Arc<str>, PortError> {
        let before = self.known().get(&name).copied();
        if before.is_some_and(|known| known.declared.elapsed() < FRESH) {
            return Ok(name);
        }
        let Some(connection) = self.link.borrow().clone() else {
            return Err(PortError::new(Kind::Unavailable, "there is no connection to publish over"));
        };
        // Counted from before it is asked for, so that the queue never expires earlier than we think.
        let asked = Instant::now();
        let before = before.filter(|known| known.declared.elapsed() < lifetime);
        let declaring = async {
            let same = match before {
                Some(known) => topology::look(&connection, &name).await.is_ok().then_some(known),
                None => None,
            };
            topology::ensure_plain(&connection, &name, arguments).await.map(|_| same)
        };
        let late = || PortError::new(Kind::Unavailable, "the broker does not answer");
        let same = timeout(WITHIN, declaring).await.unwrap_or_else(|_| Err(late()))?;
        let safe = same.map_or_else(|| Instant::now() + YOUNG, |known| known.safe);
        self.note(&name, Known { declared: asked, safe });
        Ok(name)
    }

    fn note(&self, name: &Arc<str>, declared: Known) {
        let mut known = self.known();
        if known.len() >= REMEMBERED && !known.contains_key(name) {
            known.clear();
        }
        let known = known.entry(name.clone()).or_insert(declared);
        // Whoever declared it at the same time may have made it, and we have found that one.
        known.declared = known.declared.max(declared.declared);
        known.safe = known.safe.max(declared.safe);
    }

    /// From when on what is in it survives a `kill -9` of the broker; later than it must be when nothing is known of it any
    /// more. Until then, the original of what was moved to it is not acknowledged. Who publishes for a later time has no
    /// original, and waits for the broker's confirm only, as in every queue that was made just now.
    pub(crate) fn safe_from(&self, name: &str) -> Instant {
        self.known().get(name).map_or_else(|| Instant::now() + YOUNG, |known| known.safe)
    }

    /// It is not there, whatever we thought.
    pub(crate) fn forget(&self, name: &str) {
        self.known().remove(name);
    }

    /// Waiting queues of this queue that were used lately.
    pub(crate) fn used(&self, queue: &str) -> Vec<Arc<str>> {
        let known = self.known();
        let names = steps().into_iter().map(|step| name(queue, step));
        names.filter_map(|name| known.get_key_value(&*name).map(|(name, _)| name.clone())).collect()
    }

    /// As if so much time had gone by since it was declared.
    #[cfg(test)]
    pub(super) fn age(&self, name: &str, by: Duration) {
        let mut known = self.known();
        let known = known.get_mut(name).expect("it was declared");
        (known.declared, known.safe) = (known.declared - by, known.safe - by);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_rounded_up_and_a_queue_outlives_its_messages() {
        let millis = |millis| step(Duration::from_millis(millis)).as_millis();
        assert_eq!((millis(0), millis(125), millis(126), millis(1_000)), (125, 125, 250, 1_000));
        let longest = *steps().last().unwrap();
        assert_eq!(step(Duration::MAX), longest);
        assert!(longest > Duration::from_secs(12 * 86_400));
        let expires = lifetime(longest).as_millis();
        assert!(expires < u32::MAX.into(), "the broker takes no longer time than 32 bits of milliseconds");
        for step in steps() {
            assert!(FRESH + 2 * WITHIN + step < lifetime(step));
        }
        assert_eq!(name("a", Duration::from_secs(2)), "a.retry.2000ms");
    }
}
