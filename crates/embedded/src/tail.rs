//! The last durable batches in memory: a worker at the tip never touches SQLite.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use outboard_core::{
    Message, Position, TypeSet,
    log::{Limit, Page},
};

/// A batch with more types than this counts as having all of them.
const MAX_KINDS: usize = 32;

/// How many bytes of messages may wait for [`Tail::sweep`]; the writer frees what is more itself.
const MAX_EVICTED: usize = 1 << 20;

/// What a message takes beside its bytes.
const OVERHEAD: usize = size_of::<Message>() + 32;

/// The distinct types of a batch, found once when it is published.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    kinds: Vec<Arc<str>>,
    is_cut: bool,
}

impl Kinds {
    /// The types of these messages.
    pub(crate) fn of(messages: &[Arc<Message>]) -> Self {
        let mut found = Self::default();
        let mut last: Option<&Arc<str>> = None;
        for message in messages {
            let kind = &message.kind;
            if last.is_some_and(|last| Arc::ptr_eq(last, kind) || last == kind) {
                continue;
            }
            last = Some(kind);
            if found.kinds.contains(kind) {
                continue;
            }
            if found.kinds.len() == MAX_KINDS {
                found.is_cut = true;
                break;
            }
            found.kinds.push(kind.clone());
        }
        found
    }

    /// Whether one of them is in the set.
    pub(crate) fn touch(&self, types: &TypeSet) -> bool {
        self.is_cut || self.kinds.iter().any(|kind| types.contains(kind))
    }
}

/// Tells which types are in a set, and remembers the last answer: neighbours mostly have the same type.
pub(crate) struct Filter<'a> {
    types: &'a TypeSet,
    last: Option<(Arc<str>, bool)>,
}

impl<'a> Filter<'a> {
    pub(crate) fn new(types: &'a TypeSet) -> Self {
        Self { types, last: None }
    }

    /// Whether this type is in the set.
    pub(crate) fn takes(&mut self, kind: &Arc<str>) -> bool {
        if let Some((last, taken)) = &self.last
            && (Arc::ptr_eq(last, kind) || last == kind)
        {
            return *taken;
        }
        let taken = self.types.contains(kind);
        self.last = Some((kind.clone(), taken));
        taken
    }
}

/// One durable transaction's messages.
#[derive(Debug)]
pub(crate) struct Batch {
    first: u64,
    messages: Vec<Arc<Message>>,
    kinds: Kinds,
    bytes: usize,
}

impl Batch {
    /// A batch of messages with dense positions, at least one.
    pub(crate) fn new(messages: Vec<Arc<Message>>, bytes: usize) -> Self {
        let first = messages.first().map_or(0, |message| message.id.0);
        Self { first, kinds: Kinds::of(&messages), bytes: bytes + messages.len() * OVERHEAD, messages }
    }

    /// Its types.
    pub(crate) fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }
}

/// The last batches, bounded by messages and bytes.
#[derive(Debug)]
pub(crate) struct Tail {
    state: Mutex<State>,
    has_evicted: AtomicBool,
    max_messages: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Arc<Batch>>,
    messages: usize,
    bytes: usize,
    /// Batches that are to be freed: a few percent of the writer's time, which others have rather.
    evicted: Vec<Arc<Batch>>,
    evicted_bytes: usize,
}

impl Tail {
    /// An empty tail.
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self { state: Mutex::default(), has_evicted: AtomicBool::new(false), max_messages, max_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the batch that became durable last; the oldest ones make room.
    pub(crate) fn publish(&self, batch: Arc<Batch>) {
        let mut state = self.lock();
        state.messages += batch.messages.len();
        state.bytes += batch.bytes;
        state.batches.push_back(batch);
        while state.messages > self.max_messages || state.bytes > self.max_bytes {
            let Some(oldest) = state.batches.pop_front() else { break };
            state.messages -= oldest.messages.len();
            state.bytes -= oldest.bytes;
            if state.evicted_bytes + oldest.bytes <= MAX_EVICTED {
                state.evicted_bytes += oldest.bytes;
                state.evicted.push(oldest);
                self.has_evicted.store(true, Relaxed);
            }
        }
    }

    /// Frees what had to make room, on the thread of somebody who appends.
    pub(crate) fn sweep(&self) {
        if self.has_evicted.load(Relaxed) && self.has_evicted.swap(false, Relaxed) {
            let mut state = self.lock();
            let evicted = std::mem::take(&mut state.evicted);
            state.evicted_bytes = 0;
            drop(state);
            drop(evicted);
        }
    }

    /// The messages after a position, or nothing when the tail does not reach back to it.
    pub(crate) fn read(&self, after: Position, types: &TypeSet, limit: Limit) -> Option<Page> {
        let batches = self.from(after.0 + 1, limit.scan)?;
        let mut page = Page { messages: Vec::new(), next: after };
        let mut filter = Filter::new(types);
        let (mut bytes, mut left) = (0, limit.scan);
        for batch in &batches {
            if left == 0 {
                break;
            }
            let skip = (page.next.0 + 1 - batch.first) as usize;
            let scanned = batch.messages[skip..].iter().take(left);
            left -= scanned.len();
            if !batch.kinds.touch(types) {
                page.next.0 += scanned.len() as u64;
                continue;
            }
            for message in scanned {
                if filter.takes(&message.kind) {
                    bytes += message.payload.len();
                    let is_full = page.messages.len() >= limit.messages || bytes > limit.bytes;
                    if is_full && !(page.messages.is_empty() && limit.messages > 0) {
                        return Some(page);
                    }
                    page.messages.push(message.clone());
                }
                page.next = message.id;
            }
        }
        Some(page)
    }

    /// One message, if it is here.
    pub(crate) fn get(&self, position: Position) -> Option<Arc<Message>> {
        let batches = self.from(position.0, 1)?;
        let batch = batches.first()?;
        batch.messages.get((position.0 - batch.first) as usize).cloned()
    }

    /// The batches from the one that holds `first` on, for `count` positions; the lock is held for that only.
    fn from(&self, first: u64, count: usize) -> Option<Vec<Arc<Batch>>> {
        let state = self.lock();
        if state.batches.front().is_none_or(|front| first < front.first) {
            return None;
        }
        let start = state.batches.partition_point(|batch| batch.end() <= first);
        let last = first.saturating_add(count as u64);
        Some(state.batches.range(start..).take_while(|batch| batch.first < last).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use outboard_core::{Headers, Time};

    use super::*;

    fn batch(first: u64, count: u64, kind: &str) -> Arc<Batch> {
        let messages = (first..first + count).map(|id| {
            let (kind, payload, headers) = (kind.into(), Bytes::from_static(b"{}"), Headers::default());
            Arc::new(Message {
                id: Position(id),
                name: None,
                kind,
                payload,
                headers,
                timestamp: Time::default(),
                run_at: None,
            })
        });
        Arc::new(Batch::new(messages.collect(), 2 * count as usize))
    }

    fn ids(page: &Page) -> Vec<u64> {
        page.messages.iter().map(|message| message.id.0).collect()
    }

    #[test]
    fn what_does_not_fit_makes_room_by_whole_batches() {
        let tail = Tail::new(10, 1 << 20);
        for first in [1, 5, 9] {
            tail.publish(batch(first, 4, "a/one"));
        }
        let read = |after| tail.read(Position(after), &TypeSet::all(), Limit::messages(100));
        assert!(read(3).is_none(), "position 4 is gone");
        assert_eq!(ids(&read(4).unwrap()), [5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(ids(&read(10).unwrap()), [11, 12]);
        assert_eq!(tail.lock().evicted.len(), 1);
        tail.sweep();
        assert!(tail.lock().evicted.is_empty());
        tail.publish(batch(13, 11, "a/one"));
        assert!(read(12).is_none(), "a batch that does not fit at all leaves an empty tail");
        tail.publish(batch(24, 1, "a/one"));
        assert_eq!(ids(&read(23).unwrap()), [24]);
    }

    #[test]
    fn bytes_count_and_so_does_what_waits_to_be_freed() {
        let tail = Tail::new(1 << 20, 100 * OVERHEAD);
        for number in 0..50 {
            tail.publish(batch(1 + 40 * number, 40, "a/one"));
        }
        let state = tail.lock();
        assert_eq!(state.batches.len(), 2);
        assert!(state.evicted_bytes <= MAX_EVICTED && state.bytes <= 100 * OVERHEAD);
    }

    #[test]
    fn batches_of_other_types_are_passed() {
        let tail = Tail::new(100, 1 << 20);
        for (first, kind) in [(1, "a/one"), (5, "b/two"), (9, "a/one")] {
            tail.publish(batch(first, 4, kind));
        }
        let types: TypeSet = ["a/*".parse().unwrap()].into_iter().collect();
        let read = |scan| tail.read(Position(2), &types, Limit { scan, ..Limit::messages(100) }).unwrap();
        assert_eq!((ids(&read(100)), read(100).next), (vec![3, 4, 9, 10, 11, 12], Position(12)));
        assert_eq!((ids(&read(5)), read(5).next), (vec![3, 4], Position(7)));
    }
}
