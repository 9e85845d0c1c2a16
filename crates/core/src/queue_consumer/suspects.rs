//! Messages that may have brought the process down: they run alone, one after the other, and are counted durably.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    consumer::{Delivery, Tag},
    ledger::KeyWrite,
    log_consumer::CRASHES_TO_BURY,
    message::Message,
};

/// The durable key of the note. No handler's key looks like this by accident.
pub(super) const SUSPECTS_KEY: &str = "\u{0}suspects";

/// At most so many messages are remembered for their crashes.
const MAX_REMEMBERED: usize = 1_000;

/// What is known of the messages that may have brought the process down.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// How many more redelivered messages may be suspects.
    left: u32,
    /// Wait to run alone.
    waiting: VecDeque<Delivery>,
    /// Its note is being written.
    starting: Option<Delivery>,
    running: Option<(Tag, u64)>,
    /// Consecutive crashes by message.
    crashes: BTreeMap<u64, u32>,
    /// The note is not written yet.
    is_dirty: bool,
}

impl Suspects {
    /// After a clean stop nobody is suspect.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// After an unclean one: `note` is what the crashed process left, `most` how many messages it may have had.
    pub(super) fn after_a_crash(note: Option<&[u8]>, most: u32) -> Self {
        let mut suspects = Self { left: most, is_dirty: true, ..Self::default() };
        let mut lines = note.and_then(|note| std::str::from_utf8(note).ok()).unwrap_or_default().lines();
        let running = lines.next().and_then(|line| u64::from_str_radix(line, 16).ok());
        for line in lines {
            if let Some((key, crashes)) = line.split_once(' ')
                && let (Ok(key), Ok(crashes)) = (u64::from_str_radix(key, 16), crashes.parse())
            {
                suspects.crashes.insert(key, crashes);
            }
        }
        if let Some(running) = running {
            *suspects.crashes.entry(running).or_default() += 1;
        }
        suspects
    }

    /// How many have not run alone yet, the running one included.
    pub(super) fn count(&self) -> u32 {
        let one = usize::from(self.running.is_some()) + usize::from(self.starting.is_some());
        u32::try_from(self.waiting.len() + one).unwrap_or(u32::MAX)
    }

    /// Takes a delivery that may have been running when the process came down. Otherwise it is handed back; an error is
    /// the reason to bury it.
    pub(super) fn take(&mut self, delivery: Delivery) -> Result<Option<Delivery>, Arc<str>> {
        if !delivery.redelivered || self.left == 0 {
            return Ok(Some(delivery));
        }
        self.left -= 1;
        let key = key_of(&delivery.message);
        if self.crashes.get(&key).is_some_and(|crashes| *crashes >= CRASHES_TO_BURY) {
            self.crashes.remove(&key);
            self.is_dirty = true;
            let text = format!(
                "{CRASHES_TO_BURY} crashes: the process crashed {CRASHES_TO_BURY} times in a row while only this message ran alone"
            );
            return Err(text.into());
        }
        self.waiting.push_back(delivery);
        Ok(None)
    }

    /// Puts one back that is to run alone again.
    pub(super) fn again(&mut self, delivery: Delivery) {
        self.waiting.push_front(delivery);
    }

    /// Chooses the next one to run, if none runs. Whether its note has to be written.
    pub(super) fn begin(&mut self) -> bool {
        if self.running.is_some() || self.starting.is_some() {
            return false;
        }
        let Some(delivery) = self.waiting.pop_front() else { return false };
        self.running = Some((delivery.tag, key_of(&delivery.message)));
        self.starting = Some(Delivery { suspect: true, ..delivery });
        self.is_dirty = true;
        true
    }

    /// The note is durable: who was waiting for it may run.
    pub(super) fn noted(&mut self) -> Option<Delivery> {
        self.starting.take()
    }

    /// The running one has ended or does not run after all; `is_cleared` when it came to an end of its own. Whether the
    /// note has to be written.
    pub(super) fn ended(&mut self, tag: Tag, is_cleared: bool) -> bool {
        let Some((_, key)) = self.running.take_if(|(running, _)| *running == tag) else { return false };
        if is_cleared {
            self.crashes.remove(&key);
        }
        self.is_dirty = true;
        true
    }

    /// The note as it is to be written, if it has changed.
    pub(super) fn note(&mut self) -> Option<KeyWrite> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        while self.crashes.len() > MAX_REMEMBERED {
            self.crashes.pop_first();
        }
        if self.running.is_none() && self.crashes.is_empty() {
            return Some(KeyWrite::Delete(SUSPECTS_KEY.into()));
        }
        let mut note = String::new();
        if let Some((_, running)) = self.running {
            let _ = write!(note, "{running:x}");
        }
        for (key, crashes) in &self.crashes {
            let _ = write!(note, "\n{key:x} {crashes}");
        }
        Some(KeyWrite::Set(SUSPECTS_KEY.into(), Bytes::from(note)))
    }

    /// Everything that waits.
    pub(super) fn take_waiting(&mut self) -> Vec<Delivery> {
        let starting = self.starting.take();
        if starting.is_some() {
            self.running = None;
            self.is_dirty = true;
        }
        starting.into_iter().chain(self.waiting.drain(..)).collect()
    }
}

/// A message's name or, since one that kills the process may have none, its bytes. Two messages with the same bytes kill
/// it in the same way.
fn key_of(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.kind.hash(&mut hasher);
    message.payload.hash(&mut hasher);
    hasher.finish()
}
