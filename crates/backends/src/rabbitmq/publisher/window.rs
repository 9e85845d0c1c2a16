//! Which publications wait, which are out, and what each confirm means. No I/O and no clock of its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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
    /// Its time was over; the broker still owes its confirm.
    Expired,
    Confirmed,
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
    /// A suspect is out.
    is_alone: bool,
    /// Returns come in the order of the publications: none is looked for before this number.
    returned: u64,
}

/// Slots of confirmed publications behind an unconfirmed one, for each one that may be unconfirmed.
const SPAN: usize = 16;

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
            is_alone: false,
            returned: 1,
        }
    }

    /// Whether the line takes more. A batch goes in as a whole, so that its size does not matter.
    pub(super) fn has_room(&self) -> bool {
        self.line.len() < self.limits.line && self.line_bytes < self.limits.line_bytes
    }

    /// Whether nothing waits and nothing is out.
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

    /// The broker has taken this one, or not; with `multiple`, everything up to it.
    pub(super) fn confirmed(&mut self, number: u64, multiple: bool, is_taken: bool, finished: &mut Finished) {
        let Some(last) = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else {
            return;
        };
        let first = if multiple { 0 } else { last };
        for at in first..=last {
            self.confirm(at, is_taken, finished);
        }
        while let Some(Slot::Confirmed) = self.out.front() {
            self.out.pop_front();
            self.first += 1;
        }
    }

    fn confirm(&mut self, at: usize, is_taken: bool, finished: &mut Finished) {
        let Some(slot) = self.out.get_mut(at) else { return };
        match std::mem::replace(slot, Slot::Confirmed) {
            Slot::Confirmed => return,
            Slot::Expired => {}
            Slot::Sent(entry) => {
                self.unconfirmed_bytes -= entry.publication.body.len();
                let result = match entry.returned {
                    Some(error) => Err(error),
                    None if is_taken => Ok(()),
                    None => Err(refused(&entry.publication)),
                };
                finished.push((entry.to, entry.token, result));
            }
        }
        self.unconfirmed -= 1;
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
    }

    /// The broker has closed the channel for a mistake in one of those that are out: ends it if it is known, and else
    /// has each of them go out alone. Then all others go back to the head of the line.
    pub(super) fn blame(&mut self, error: &PortError, finished: &mut Finished) {
        let is_one = self.is_alone;
        let mut is_known = false;
        for slot in &mut self.out {
            let Slot::Sent(entry) = slot else { continue };
            if is_one || lacks_exchange(error, &entry.publication) {
                is_known = true;
                if let Slot::Sent(entry) = std::mem::replace(slot, Slot::Confirmed) {
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
        for slot in &mut self.out {
            match slot {
                Slot::Sent(entry) if entry.deadline > now => break,
                Slot::Sent(_) => {
                    if let Slot::Sent(entry) = std::mem::replace(slot, Slot::Expired) {
                        // Its confirm is still owed, and its place taken; its bytes are gone.
                        self.unconfirmed_bytes -= entry.publication.body.len();
                        let error = overdue(&entry, self.limits.within, why);
                        finished.push((entry.to, entry.token, Err(error)));
                    }
                }
                Slot::Expired | Slot::Confirmed => {}
            }
        }
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
            Slot::Expired | Slot::Confirmed => None,
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
mod tests {
    use super::*;
    use crate::rabbitmq::codec::field::ShortString;

    /// Nobody asks it: what is told is looked at before.
    #[derive(Debug)]
    struct Nobody;

    impl Answers for Nobody {
        fn answer(&self, _: u64, _: Result<(), PortError>) {}
    }

    const WITHIN: Duration = Duration::from_secs(10);

    fn limits(window: usize, window_bytes: usize) -> Limits {
        Limits { window, window_bytes, line: 10, line_bytes: 100, within: WITHIN }
    }

    fn publication(exchange: &str, bytes: usize) -> Publication {
        let exchange = ShortString::new(exchange).unwrap();
        Publication { exchange, body: vec![0; bytes].into(), ..Publication::default() }
    }

    /// A window with publications of these sizes, numbered from 0.
    fn window(limits: Limits, now: Instant, sizes: &[usize]) -> Window {
        let mut window = Window::new(limits);
        push(&mut window, now, sizes);
        window
    }

    fn push(window: &mut Window, now: Instant, sizes: &[usize]) {
        let to: Arc<dyn Answers> = Arc::new(Nobody);
        (0..).zip(sizes).for_each(|(token, &bytes)| window.push(publication("", bytes), now, &to, token));
    }

    fn send(window: &mut Window) -> Vec<usize> {
        let mut sent = Vec::new();
        window.send(|publication| sent.push(publication.body.len()));
        sent
    }

    fn told(finished: &mut Finished) -> Vec<(u64, Option<Kind>)> {
        let told = finished.drain(..).map(|(_, token, result)| (token, result.err().map(|error| error.kind)));
        told.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_is_bounded_by_count_and_by_bytes_and_one_that_is_too_large_goes_alone() {
        let now = Instant::now();
        let mut finished = Finished::new();
        let mut by_count = window(limits(2, 100), now, &[1, 2, 3, 4]);
        assert_eq!(send(&mut by_count), [1, 2]);
        by_count.confirmed(1, false, true, &mut finished);
        assert_eq!(send(&mut by_count), [3]);
        let mut by_bytes = window(limits(9, 10), now, &[6, 4, 1, 50, 1]);
        assert_eq!(send(&mut by_bytes), [6, 4]);
        by_bytes.confirmed(2, true, true, &mut finished);
        assert_eq!(send(&mut by_bytes), [1], "50 do not fit beside it");
        by_bytes.confirmed(3, true, true, &mut finished);
        assert_eq!(send(&mut by_bytes), [50]);
        by_bytes.confirmed(4, true, true, &mut finished);
        assert_eq!(send(&mut by_bytes), [1]);
        by_bytes.confirmed(5, true, true, &mut finished);
        assert!(by_bytes.is_empty() && by_bytes.unconfirmed_bytes == 0 && by_bytes.line_bytes == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn confirms_come_in_any_order_and_for_many_at_once() {
        let mut window = window(limits(9, 100), Instant::now(), &[1; 6]);
        let mut finished = Finished::new();
        send(&mut window);
        window.confirmed(3, false, true, &mut finished);
        assert_eq!(told(&mut finished), [(2, None)]);
        window.confirmed(4, true, true, &mut finished);
        assert_eq!(told(&mut finished), [(0, None), (1, None), (3, None)], "once each");
        window.confirmed(6, true, false, &mut finished);
        assert_eq!(told(&mut finished), [(4, Some(Kind::Full)), (5, Some(Kind::Full))]);
        window.confirmed(6, true, true, &mut finished);
        window.confirmed(99, false, true, &mut finished);
        assert!(told(&mut finished).is_empty() && window.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_out_goes_out_again_first_and_in_its_order() {
        let mut window = window(limits(3, 100), Instant::now(), &[1, 2, 3, 4]);
        let mut finished = Finished::new();
        assert_eq!(send(&mut window), [1, 2, 3]);
        window.confirmed(2, false, true, &mut finished);
        window.retreat();
        assert_eq!(send(&mut window), [1, 3, 4]);
        window.confirmed(3, true, true, &mut finished);
        assert_eq!(told(&mut finished), [(1, None), (0, None), (2, None), (3, None)]);
    }

    #[tokio::test(start_paused = true)]
    async fn whose_time_is_over_is_told_whether_it_was_sent() {
        let now = Instant::now();
        let mut window = window(limits(2, 100), now, &[1, 2, 3]);
        let mut finished = Finished::new();
        send(&mut window);
        assert_eq!(window.next_deadline(), Some(now + WITHIN));
        window.expire(now + WITHIN, "slow", &mut finished);
        let expected = [(0, Some(Kind::Unknown)), (1, Some(Kind::Unknown)), (2, Some(Kind::Unavailable))];
        assert_eq!(told(&mut finished), expected);
        assert_eq!((window.next_deadline(), window.unconfirmed_bytes), (None, 0));
        push(&mut window, now + WITHIN, &[5]);
        assert!(send(&mut window).is_empty(), "the broker still owes two confirms");
        window.confirmed(2, true, true, &mut finished);
        assert!(told(&mut finished).is_empty(), "each is told once");
        assert_eq!(send(&mut window), [5]);
        window.retreat();
        window.expire(now + 2 * WITHIN, "away", &mut finished);
        assert_eq!(told(&mut finished), [(0, Some(Kind::Unknown))], "it was sent, and is not any more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unnamed_mistake_is_found_by_sending_each_alone() {
        let mut window = window(limits(9, 100), Instant::now(), &[1, 2, 3]);
        let mut finished = Finished::new();
        let error = PortError::new(Kind::Mismatch, "something is wrong");
        send(&mut window);
        window.blame(&error, &mut finished);
        assert!(told(&mut finished).is_empty(), "it may be any of them");
        assert_eq!(send(&mut window), [1]);
        assert!(send(&mut window).is_empty());
        window.confirmed(1, false, true, &mut finished);
        assert_eq!(send(&mut window), [2]);
        window.blame(&error, &mut finished);
        assert_eq!(told(&mut finished), [(0, None), (1, Some(Kind::Invalid))]);
        assert_eq!(send(&mut window), [3]);
    }
}
