//! Which publications wait, which are out, and what each confirm means. No I/O and no clock of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use outboard_core::{Kind, PortError};
use tokio::time::Instant;

use super::{Answers, Limits, Publication};

/// What is to be told to whom, once no lock is held.
pub(super) type Finished = Vec<(Arc<dyn Answers>, u64, Result<(), PortError>)>;

/// A publication on its way.
#[derive(Debug)]
struct Entry {
    publication: Publication,
    deadline: Instant,
    to: Arc<dyn Answers>,
    token: u64,
    /// The broker may have it from an earlier connection or channel.
    was_sent: bool,
    /// It may be what closed a channel: it goes out alone, so that the next error is surely its own.
    is_suspect: bool,
    /// No queue took it; its confirm follows.
    returned: Option<PortError>,
}

/// A publication that was sent on this channel.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are sent ones: a box would be an allocation per message"
)]
enum Slot {
    Sent(Entry),
    /// Confirmed, or answered without the broker because its time was over.
    Answered,
}

/// The line of those that wait, and the window of those that are out.
#[derive(Debug)]
pub(super) struct Window {
    limits: Limits,
    line: VecDeque<Entry>,
    line_bytes: usize,
    out: VecDeque<Slot>,
    /// What the broker counts the first one of `out` as.
    first: u64,
    unconfirmed: usize,
    unconfirmed_bytes: usize,
    /// The broker's numbers of those whose time was over while it owed their confirm, with their sizes. They take no place
    /// in the window, or a queue that confirms nothing would keep everybody else from publishing; but the broker holds
    /// them still, so that they have a bound of their own.
    owed: BTreeMap<u64, usize>,
    owed_bytes: usize,
    /// A suspect is out.
    is_alone: bool,
    /// Returns come in the order of the publications: none is looked for before this number.
    returned: u64,
}

/// Slots of answered publications behind an unconfirmed one, for each one that may be unconfirmed.
const SPAN: usize = 16;

/// So many windows may be overdue at the broker, by count and by bytes. With more, nothing is sent until it has confirmed
/// some, or the channel is another one.
const OWED_WINDOWS: usize = 8;

impl Window {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            line: VecDeque::new(),
            line_bytes: 0,
            out: VecDeque::new(),
            first: 1,
            unconfirmed: 0,
            unconfirmed_bytes: 0,
            owed: BTreeMap::new(),
            owed_bytes: 0,
            is_alone: false,
            returned: 1,
        }
    }

    /// Whether the line takes more. A batch goes in as a whole, so that its size does not matter.
    pub(super) fn has_room(&self) -> bool {
        self.line.len() < self.limits.line && self.line_bytes < self.limits.line_bytes
    }

    /// Whether so much is overdue at the broker that it is sent nothing more.
    pub(super) fn is_overdue(&self) -> bool {
        self.owed.len() >= OWED_WINDOWS * self.limits.window
            || self.owed_bytes >= OWED_WINDOWS * self.limits.window_bytes
    }

    /// Whether nothing waits and nothing is out that is not answered.
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty() && self.unconfirmed == 0
    }

    /// How many are out.
    #[cfg(test)]
    pub(super) fn unconfirmed(&self) -> usize {
        self.unconfirmed
    }

    /// Puts one at the end of the line.
    pub(super) fn push(&mut self, publication: Publication, now: Instant, to: &Arc<dyn Answers>, token: u64) {
        self.line_bytes += publication.body.len();
        let (deadline, to) = (now + self.limits.within, to.clone());
        let (was_sent, is_suspect, returned) = (false, false, None);
        self.line.push_back(Entry { publication, deadline, to, token, was_sent, is_suspect, returned });
    }

    /// Whether the first one in the line may go out now.
    pub(super) fn may_send(&self) -> bool {
        let Some(entry) = self.line.front() else { return false };
        if self.is_overdue() {
            return false;
        }
        let bytes = self.unconfirmed_bytes + entry.publication.body.len();
        self.unconfirmed == 0
            || !self.is_alone
                && !entry.is_suspect
                && self.unconfirmed < self.limits.window
                && self.out.len() < SPAN * self.limits.window
                && bytes <= self.limits.window_bytes
    }

    /// Sends what may go out.
    pub(super) fn send(&mut self, mut put: impl FnMut(&Publication)) {
        while self.may_send() {
            let Some(mut entry) = self.line.pop_front() else { return };
            put(&entry.publication);
            let bytes = entry.publication.body.len();
            self.line_bytes -= bytes;
            self.unconfirmed += 1;
            self.unconfirmed_bytes += bytes;
            self.is_alone = entry.is_suspect;
            entry.was_sent = true;
            self.out.push_back(Slot::Sent(entry));
        }
    }

    /// The broker has taken this one, or not; with `multiple`, everything up to it. `Corrupt` for a number that was never
    /// sent: whatever the broker means, its confirms cannot be trusted.
    pub(super) fn confirmed(
        &mut self,
        number: u64,
        multiple: bool,
        is_taken: bool,
        finished: &mut Finished,
    ) -> Result<(), PortError> {
        let end = self.first + self.out.len() as u64;
        if number == 0 || number >= end {
            let text = format!("the broker confirms message {number}, and {} were sent", end - 1);
            return Err(PortError::new(Kind::Corrupt, text));
        }
        self.forget_owed(number, multiple);
        // What is before the first slot was answered before.
        if let Some(last) = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) {
            let first = if multiple { 0 } else { last };
            for at in first..=last {
                self.confirm(at, is_taken, finished);
            }
            self.forget_answered();
        }
        Ok(())
    }

    fn confirm(&mut self, at: usize, is_taken: bool, finished: &mut Finished) {
        let Some(slot) = self.out.get_mut(at) else { return };
        let Slot::Sent(entry) = std::mem::replace(slot, Slot::Answered) else { return };
        self.unconfirmed -= 1;
        self.unconfirmed_bytes -= entry.publication.body.len();
        let result = match entry.returned {
            Some(error) => Err(error),
            None if is_taken => Ok(()),
            None => Err(refused(&entry.publication)),
        };
        finished.push((entry.to, entry.token, result));
    }

    /// A confirm came too late for its publication, and frees what it held all the same.
    fn forget_owed(&mut self, number: u64, multiple: bool) {
        while multiple && let Some(first) = self.owed.first_entry().filter(|first| *first.key() <= number) {
            self.owed_bytes -= first.remove();
        }
        if let Some(bytes) = self.owed.remove(&number) {
            self.owed_bytes -= bytes;
        }
    }

    fn forget_answered(&mut self) {
        while let Some(Slot::Answered) = self.out.front() {
            self.out.pop_front();
            self.first += 1;
        }
    }

    /// No queue took a publication with these marks; its confirm follows.
    pub(super) fn returned(&mut self, is_it: impl Fn(&Publication) -> bool, error: PortError) {
        let skipped = usize::try_from(self.returned.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for (at, slot) in self.out.iter_mut().enumerate().skip(skipped) {
            if let Slot::Sent(entry) = slot
                && is_it(&entry.publication)
            {
                entry.returned = Some(error);
                self.returned = self.first + at as u64 + 1;
                return;
            }
        }
    }

    /// The channel is gone: what was out goes back to the head of the line, to be sent on the next one.
    pub(super) fn retreat(&mut self) {
        while let Some(slot) = self.out.pop_back() {
            if let Slot::Sent(mut entry) = slot {
                entry.returned = None;
                self.line_bytes += entry.publication.body.len();
                self.line.push_front(entry);
            }
        }
        (self.first, self.returned) = (1, 1);
        (self.unconfirmed, self.unconfirmed_bytes, self.is_alone) = (0, 0, false);
        // The broker forgets with the channel what it has not stored.
        self.owed.clear();
        self.owed_bytes = 0;
    }

    /// The broker has closed the channel for a mistake in one of those that are out: ends it if it is known, and else
    /// has each of them go out alone. Then all others go back to the head of the line.
    pub(super) fn blame(&mut self, error: &PortError, finished: &mut Finished) {
        // It may as well have been one that nobody waits for any more: then nothing of the kind is out on the next channel.
        let is_one = self.is_alone && self.owed.is_empty();
        let mut is_known = false;
        for slot in &mut self.out {
            let Slot::Sent(entry) = slot else { continue };
            if is_one || lacks_exchange(error, &entry.publication) {
                is_known = true;
                if let Slot::Sent(entry) = std::mem::replace(slot, Slot::Answered) {
                    finished.push((entry.to, entry.token, Err(mistake(error, &entry.publication))));
                }
            }
        }
        for slot in self.out.iter_mut().filter(|_| !is_known) {
            if let Slot::Sent(entry) = slot {
                entry.is_suspect = true;
            }
        }
        self.retreat();
    }

    /// Ends those whose time is over. `why` says what kept those that were never sent.
    pub(super) fn expire(&mut self, now: Instant, why: &str, finished: &mut Finished) {
        for (number, slot) in (self.first..).zip(&mut self.out) {
            match slot {
                Slot::Sent(entry) if entry.deadline > now => break,
                Slot::Sent(_) => {
                    if let Slot::Sent(entry) = std::mem::replace(slot, Slot::Answered) {
                        let bytes = entry.publication.body.len();
                        self.unconfirmed -= 1;
                        self.unconfirmed_bytes -= bytes;
                        self.owed.insert(number, bytes);
                        self.owed_bytes += bytes;
                        let error = overdue(&entry, self.limits.within, why);
                        finished.push((entry.to, entry.token, Err(error)));
                    }
                }
                Slot::Answered => {}
            }
        }
        self.forget_answered();
        while let Some(entry) = self.line.pop_front_if(|entry| entry.deadline <= now) {
            self.line_bytes -= entry.publication.body.len();
            let error = overdue(&entry, self.limits.within, why);
            finished.push((entry.to, entry.token, Err(error)));
        }
    }

    /// When the next one's time is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let sent = self.out.iter().find_map(|slot| match slot {
            Slot::Sent(entry) => Some(entry.deadline),
            Slot::Answered => None,
        });
        sent.into_iter().chain(self.line.front().map(|entry| entry.deadline)).min()
    }

    /// Ends everything, since the publisher is closed.
    pub(super) fn clear(&mut self, finished: &mut Finished) {
        self.retreat();
        self.line_bytes = 0;
        for entry in self.line.drain(..) {
            let error = if entry.was_sent {
                PortError::new(Kind::Unknown, "closed before RabbitMQ confirmed the message: it may have it")
            } else {
                PortError::new(Kind::Closed, "closed before the message was sent")
            };
            finished.push((entry.to, entry.token, Err(error)));
        }
    }
}

fn overdue(entry: &Entry, within: Duration, why: &str) -> PortError {
    let seconds = within.as_secs_f32();
    if entry.was_sent {
        let text = format!("RabbitMQ did not confirm the message within {seconds} s: it may have it");
        PortError::new(Kind::Unknown, text)
    } else {
        let text = format!("the message could not be sent within {seconds} s: {why}");
        PortError::new(Kind::Unavailable, text)
    }
}

fn refused(publication: &Publication) -> PortError {
    let to = publication.destination();
    let text = format!("RabbitMQ did not take a message for {to}: a queue is full, or has failed");
    PortError::new(Kind::Full, text)
}

fn lacks_exchange(error: &PortError, publication: &Publication) -> bool {
    let exchange = publication.exchange.as_str();
    error.kind == Kind::NotFound && error.message.contains(&format!("no exchange '{exchange}'"))
}

/// What a mistake is called to whom it belongs.
fn mistake(error: &PortError, publication: &Publication) -> PortError {
    if lacks_exchange(error, publication) {
        let exchange = publication.exchange.as_str();
        let text = format!("there is no exchange `{exchange}`: declare it, or publish to another one");
        return PortError::new(Kind::NotFound, text);
    }
    let kind = match error.kind {
        Kind::Mismatch => Kind::Invalid,
        // It was sent, and the broker does not say that the message was at fault.
        Kind::Unavailable => Kind::Unknown,
        kind => kind,
    };
    PortError::new(kind, format!("RabbitMQ refuses a message for {}: {error}", publication.destination()))
}

#[cfg(test)]
mod tests;
