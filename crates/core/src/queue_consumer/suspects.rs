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
            // It is remembered: when the process dies before the broker knows, it comes again.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Headers, message::Position, time::Time};

    fn delivery(number: u64) -> Delivery {
        let message = Message {
            id: Position::START,
            name: Some(format!("m{number}").into()),
            kind: "a/a".into(),
            payload: Bytes::from(number.to_string()),
            headers: Headers::default(),
            timestamp: Time::default(),
            run_at: None,
        };
        let tag = Tag { epoch: 1, number };
        let (redelivered, is_identified) = (true, true);
        Delivery { tag, message: Arc::new(message), attempt: 1, suspect: false, redelivered, is_identified }
    }

    fn note(suspects: &mut Suspects) -> Option<Bytes> {
        match suspects.note() {
            Some(KeyWrite::Set(_, note)) => Some(note),
            Some(KeyWrite::Delete(_)) => None,
            other => panic!("the note has changed: {other:?}"),
        }
    }

    /// One life of the process in which message 7 runs alone and brings it down.
    fn crash(note_before: Option<&[u8]>) -> Option<Bytes> {
        let mut suspects = Suspects::after_a_crash(note_before, 10);
        assert!(suspects.take(delivery(7)).is_ok_and(|delivered| delivered.is_none()));
        assert!(suspects.begin());
        let left = note(&mut suspects);
        assert_eq!(suspects.noted().map(|delivery| delivery.suspect), Some(true));
        left
    }

    #[test]
    fn three_crashes_bury_and_a_completed_run_clears() {
        let first = crash(None);
        let second = crash(first.as_deref());
        let third = crash(second.as_deref());
        let mut suspects = Suspects::after_a_crash(third.as_deref(), 10);
        assert!(suspects.take(delivery(7)).unwrap_err().starts_with("3 crashes"));
        assert!(suspects.take(delivery(7)).is_err(), "it is buried again when it comes again");

        let mut suspects = Suspects::after_a_crash(second.as_deref(), 10);
        assert!(suspects.take(delivery(7)).unwrap().is_none());
        assert!(suspects.begin());
        suspects.noted();
        assert!(suspects.ended(delivery(7).tag, true));
        assert_eq!(note(&mut suspects), None);
    }

    #[test]
    fn one_at_a_time_and_only_so_many_as_may_have_been_running() {
        let mut suspects = Suspects::after_a_crash(None, 2);
        assert!(suspects.take(Delivery { redelivered: false, ..delivery(1) }).unwrap().is_some());
        assert!(suspects.take(delivery(2)).unwrap().is_none());
        assert!(suspects.take(delivery(3)).unwrap().is_none());
        assert!(suspects.take(delivery(4)).unwrap().is_some(), "a third one cannot have been running");
        assert_eq!(suspects.count(), 2);
        assert!(suspects.begin());
        assert!(!suspects.begin());
        assert_eq!(suspects.noted().map(|delivery| delivery.tag.number), Some(2));
        assert!(!suspects.begin(), "it runs");
        assert!(suspects.ended(delivery(2).tag, false), "it is held, not run");
        assert!(suspects.begin());
        assert_eq!(suspects.take_waiting().len(), 1);
        assert_eq!(suspects.count(), 0);
        assert!(
            Suspects::none().take(delivery(1)).unwrap().is_some(),
            "after a clean stop nobody is suspect"
        );
    }

    #[test]
    fn a_held_suspect_is_not_charged() {
        let mut suspects = Suspects::after_a_crash(None, 2);
        assert!(suspects.take(delivery(7)).unwrap().is_none());
        suspects.begin();
        suspects.noted();
        suspects.ended(delivery(7).tag, false);
        let left = note(&mut suspects);
        let mut suspects = Suspects::after_a_crash(left.as_deref(), 2);
        assert_eq!(note(&mut suspects), None, "nobody has crashed anything");
    }
}
