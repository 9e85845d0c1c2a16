//! The task that talks to the server for a consumer, through all of its connections.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use outboard_core::{Health, Kind, PortError, recovery::Recovery};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::{
    LAST_WORDS, Shared,
    batches::Lateness,
    claims::{Answer, Stage},
    identity::Identity,
    inbox::{Confirmations, Deletions, Inbox},
    records,
    state::{Phase, State},
    work::{self, Finding, Outcome, Work},
};
use crate::jetstream::{
    link::Link,
    naming::ATTEMPTS,
    protocol::{
        connection::Connection,
        frame::{put_number, put_publication},
    },
    topology::{self, nanoseconds},
};

/// How often it is looked whether the server is still heard, and what failed is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// After so many looks without a sign of life from the server, a request is lost.
const SILENT_LOOKS: u32 = 5;

/// How long the server may take to confirm what it was told, at the longest, and at the shortest: a third of the time
/// after which it delivers again what it has not heard of.
const CONFIRMED_WITHIN: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(1));

/// Answers wait at most so long for more: each batch costs the server a confirmation.
const TELL_AFTER: Duration = Duration::from_millis(3);

/// A session that lasted so long was a good one.
const GOOD_SESSION: Duration = Duration::from_secs(5);

/// Consumes until the end, through outages.
pub(super) async fn run(shared: Arc<Shared>, link: Link) {
    let mut recovery = Recovery::begin(shared.clock.now());
    let mut last: Option<Connection> = None;
    let mut known = None;
    let consuming = async {
        loop {
            let Ok(connection) = connected(&shared, &link).await else { return };
            // What fails on a new connection is a trouble of its own: it is no older for the time without one.
            if !last.as_ref().is_some_and(|last| last.is(&connection)) {
                recovery = Recovery::begin(shared.clock.now());
                last = Some(connection.clone());
            }
            let mut ended = connection.ended();
            let began = Instant::now();
            let error = match Session::open(&shared, &link, connection, &mut known).await {
                Ok(mut session) => match session.consume().await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if began.elapsed() >= GOOD_SESSION && !shared.lock().is_unconfirmed {
                recovery = Recovery::begin(shared.clock.now());
            }
            if recovery.is_news(&error) {
                tracing::warn!(stream = %shared.queue.name, "{error}; trying again");
            }
            let wait = recovery.failed(&error, fastrand::f64());
            shared.lock().health = recovery.health();
            // The next connection is not kept waiting for what was wrong with this one.
            tokio::select! { () = sleep(wait) => {}, _ = ended.wait_for(Option::is_some) => {} }
        }
    };
    tokio::select! {
        () = consuming => {}
        // With a connection the session gives everything back in time; without one nobody can.
        () = out_of_time(&shared) => {}
        () = asked_to_end(&shared, &link) => unreachable!("it never ends by itself"),
    }
    let mut state = shared.lock();
    state.end();
    shared.tell_durable(&state);
    drop(state);
    shared.ended.cancel();
    shared.taker.notify_one();
}

/// Waits for a connection; meanwhile the consumer's trouble is the link's.
async fn connected(shared: &Shared, link: &Link) -> Result<Connection, PortError> {
    let mut health = link.health();
    let mut connecting = std::pin::pin!(link.connected());
    loop {
        let now = health.borrow_and_update().clone();
        if !now.is_ready() {
            shared.lock().health = now;
        }
        tokio::select! {
            biased;
            connection = &mut connecting => return connection,
            Ok(()) = health.changed() => {}
        }
    }
}

/// Ends what is left when everything should have gone back, at once when the server is not reached.
async fn out_of_time(shared: &Shared) {
    shared.ending.cancelled().await;
    if shared.lock().health.is_ready() {
        sleep(LAST_WORDS).await;
    }
}

async fn asked_to_end(shared: &Shared, link: &Link) {
    link.closing().cancelled().await;
    shared.give_back();
    std::future::pending().await
}

/// One consumer of the server on one connection.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    connection: Connection,
    /// Where messages come, while they are wanted.
    inbox: Option<(u64, String)>,
    /// Where confirmations come, and what the server says of deletions.
    others: Vec<u64>,
    confirmations: String,
    /// The next batch of answers.
    batch: u64,
    /// When the answers that there are have waited long enough for more.
    tell_at: Option<Instant>,
    /// Where messages are asked for.
    next: String,
    works: FuturesUnordered<Work>,
    /// What failed, to be tried at the next look but one.
    failed: Vec<u64>,
    /// What was last said to be wrong with storing.
    said: Option<PortError>,
    silent_looks: u32,
    confirmed_within: Duration,
    looks: Interval,
    renewals: Interval,
}

impl<'a> Session<'a> {
    /// Makes or finds everything at the server and begins to listen.
    async fn open(
        shared: &'a Arc<Shared>,
        link: &Link,
        connection: Connection,
        known: &mut Option<Identity>,
    ) -> Result<Self, PortError> {
        let stream = &*shared.queue.name;
        let (info, declared) = topology::declare(&connection, &shared.queue).await?;
        if let (outboard_core::queue::Declared::Differs(what), None) = (&declared, &known) {
            tracing::warn!(stream, "{what}");
        }
        let ack_wait = shared.options.ack_wait;
        let found = topology::consumer(&connection, stream, &shared.durable_name, ack_wait).await?;
        let replicas = &info.config["num_replicas"];
        let records = topology::attempts_stream(&connection, stream, &found.info.name, replicas).await?;
        let identity = Identity::of(connection.info(), &info, &found);
        let gone = known.as_ref().and_then(|known| identity.gone_since(known));
        if let Some(gone) = gone {
            tracing::warn!(stream, "{}", gone.meaning(&info.config, &found.info.config));
        }
        let is_first = known.is_none();
        *known = Some(identity);
        let mut session = Self {
            shared,
            inbox: None,
            others: Vec::new(),
            confirmations: connection.inbox("a"),
            batch: 0,
            tell_at: None,
            next: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", found.info.name),
            works: FuturesUnordered::new(),
            failed: Vec::new(),
            said: None,
            silent_looks: 0,
            confirmed_within: (found.ack_wait / 3).max(CONFIRMED_WITHIN.1).min(CONFIRMED_WITHIN.0),
            looks: interval(LOOK_EVERY),
            renewals: interval(found.ack_wait / 3),
            connection,
        };
        session.looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        session.renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        session.listen(stream, &found.info.name);
        let mut state = shared.lock();
        state.begin(gone.is_none());
        state.pulling = found.pulling;
        state.consumer = found.info.name.as_str().into();
        // Nobody had anything of a consumer that was made just now.
        state.maybe_delivered = if found.is_new { 0 } else { info.state.last_seq };
        state.maybe_recorded = last_recorded(&records);
        if !state.is_unconfirmed {
            state.health = Health::Ready;
        }
        shared.tell_durable(&state);
        drop(state);
        let server = link.target();
        if is_first {
            tracing::info!(%server, stream, consumer = found.info.name, "consuming");
        } else {
            tracing::info!(%server, stream, consumer = found.info.name, "consuming again");
        }
        Ok(session)
    }

    fn listen(&mut self, stream: &str, consumer: &str) {
        let confirmations = format!("{}.*", self.confirmations);
        let shared = self.shared;
        self.others.push(self.connection.subscribe(&confirmations, Arc::new(Confirmations(shared.clone()))));
        let advisories = "$JS.EVENT.ADVISORY";
        for subject in [
            format!("{advisories}.STREAM.DELETED.{stream}"),
            format!("{advisories}.CONSUMER.DELETED.{stream}.{consumer}"),
        ] {
            self.others.push(self.connection.subscribe(&subject, Arc::new(Deletions(shared.clone()))));
        }
    }

    /// Moves the consumer's wishes to the server until everything has gone back, or something is wrong.
    async fn consume(&mut self) -> Result<(), PortError> {
        let mut ended = self.connection.ended();
        let result = loop {
            if let Err(error) = self.attend().await {
                break Err(error);
            }
            if self.is_finished() {
                break Ok(());
            }
            tokio::select! {
                why = ended.wait_for(Option::is_some) => {
                    let why = why.ok().and_then(|why| why.clone());
                    return Err(why.unwrap_or_else(super::ended));
                }
                () = self.shared.runner.notified() => {}
                () = sleep_until(self.tell_at.unwrap_or_else(Instant::now)), if self.tell_at.is_some() => {}
                Some(outcome) = self.works.next(), if !self.works.is_empty() => self.finish(outcome),
                _ = self.looks.tick() => {
                    if let Err(error) = self.look() {
                        break Err(error);
                    }
                }
                _ = self.renewals.tick() => self.renew(),
            }
        };
        // On a connection that goes on, nothing of this session may be left.
        let sids: Vec<u64> = self.others.drain(..).chain(self.inbox.take().map(|(sid, _)| sid)).collect();
        let _ = timeout(LAST_WORDS, self.connection.unsubscribe(&sids)).await;
        result
    }

    fn is_finished(&self) -> bool {
        let state = self.shared.lock();
        matches!(state.phase, Phase::Ending) && state.claims.is_empty() && state.forgotten.is_empty()
    }

    /// Does everything that can be done now.
    async fn attend(&mut self) -> Result<(), PortError> {
        let shared = self.shared;
        let wants = {
            let mut state = shared.lock();
            if let Some(error) = state.trouble.take() {
                return Err(error);
            }
            state.wants()
        };
        match (wants, &self.inbox) {
            (true, None) => {
                let subject = self.connection.inbox("m");
                let sid = self.connection.subscribe(&subject, Arc::new(Inbox(shared.clone())));
                self.inbox = Some((sid, subject));
            }
            // Requests end with their inbox. What comes until then goes back.
            (false, Some((sid, _))) => {
                let sid = *sid;
                self.inbox = None;
                self.connection.unsubscribe(&[sid]).await?;
                shared.lock().outstanding = 0;
            }
            _ => {}
        }
        let mut state = shared.lock();
        for record in std::mem::take(&mut state.forgotten) {
            records::forget(&self.connection, record);
        }
        if self.is_time_to_tell(&state) {
            self.write_answers(&mut state);
        }
        self.request(&mut state);
        for sequence in std::mem::take(&mut state.todo) {
            self.works.extend(work::begin(shared, &state, &self.connection, sequence));
        }
        Ok(())
    }

    /// Whether the answers that there are should wait for more no longer.
    fn is_time_to_tell(&mut self, state: &State) -> bool {
        if state.answers.is_empty() {
            self.tell_at = None;
            return false;
        }
        let now = Instant::now();
        let is_time = state.has_enough_answers() || *self.tell_at.get_or_insert(now + TELL_AFTER) <= now;
        if is_time {
            self.tell_at = None;
        }
        is_time
    }

    /// Writes what the server is to be told, and has it confirm the last word: it takes them in their order.
    fn write_answers(&mut self, state: &mut State) {
        let mut answers = std::mem::take(&mut state.answers);
        // The server keeps account of every gap.
        answers.sort_unstable();
        if answers.is_empty() {
            return;
        }
        self.batch += 1;
        let mut confirmation = bytes::BytesMut::with_capacity(self.confirmations.len() + 21);
        confirmation.extend_from_slice(self.confirmations.as_bytes());
        confirmation.extend_from_slice(b".");
        put_number(&mut confirmation, self.batch);
        let mut written = Vec::with_capacity(answers.len());
        let last = answers.len() - 1;
        self.connection.send(|out| {
            for (index, sequence) in answers.into_iter().enumerate() {
                let confirm: &[u8] = if index == last { &confirmation } else { b"" };
                let Some(claim) = state.claims.get_mut(&sequence) else { continue };
                let Stage::Answering { answer, is_written, .. } = &mut claim.stage else { continue };
                *is_written = true;
                let delayed;
                let words: &[u8] = match answer {
                    Answer::Done => b"+ACK",
                    Answer::Given => b"+TERM",
                    Answer::Later(delay) if delay.is_zero() => b"-NAK",
                    Answer::Later(delay) => {
                        delayed = format!("-NAK {{\"delay\": {}}}", nanoseconds(*delay));
                        delayed.as_bytes()
                    }
                };
                put_publication(out, claim.incoming.reply(), confirm, b"", words);
                written.push((sequence, claim.origin.delivered));
            }
        });
        state.written += written.len();
        state.batches.push(self.batch, written);
    }

    /// Asks for as many messages as there is room for.
    fn request(&mut self, state: &mut State) {
        let (Some((_, inbox)), count @ 1..) = (&self.inbox, state.to_request()) else { return };
        let (next, inbox) = (self.next.as_bytes(), inbox.as_bytes());
        self.connection.send(|out| {
            for body in state.pulling.requests(count) {
                put_publication(out, next, inbox, b"", body.as_bytes());
            }
        });
        state.outstanding += count;
    }

    /// Something was read or stored, or could not be.
    fn finish(&mut self, outcome: Outcome) {
        let Outcome { sequence, result } = outcome;
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        match result {
            Ok(finding) => {
                self.said = None;
                let wakes = match finding {
                    Finding::Looked(record) => state.looked(sequence, record, now),
                    Finding::Stored(position) => {
                        state.stored(sequence, position, now);
                        super::Wakes::default()
                    }
                };
                if matches!(state.health, Health::Refusing(_)) {
                    state.health = Health::Ready;
                }
                drop(state);
                self.shared.wake(wakes);
            }
            Err(error) => {
                let is_news = self.said.as_ref().is_none_or(|said| said.message != error.message);
                if is_news {
                    let stream = &*self.shared.queue.name;
                    tracing::warn!(
                        stream,
                        sequence,
                        "what became of a message cannot be kept: {error}; trying again"
                    );
                }
                if !matches!(error.kind, Kind::Unavailable | Kind::Unknown) {
                    state.health = Health::Refusing(error.clone());
                }
                self.said = Some(error);
                self.failed.push(sequence);
            }
        }
    }

    /// Whether the server is still heard, and what else goes by time.
    fn look(&mut self) -> Result<(), PortError> {
        let mut state = self.shared.lock();
        let is_silent = !std::mem::take(&mut state.is_heard) && state.outstanding > 0 && self.inbox.is_some();
        self.silent_looks = if is_silent { self.silent_looks + 1 } else { 0 };
        if self.silent_looks >= SILENT_LOOKS {
            return Err(PortError::new(
                Kind::Unavailable,
                "JetStream has forgotten our request for messages",
            ));
        }
        match state.batches.lateness(self.confirmed_within) {
            Lateness::InTime => {}
            Lateness::Once => state.say_again(),
            Lateness::Twice => {
                state.is_unconfirmed = true;
                return Err(PortError::new(
                    Kind::Unavailable,
                    "JetStream does not confirm acknowledgements: see with `nats stream info` whether the stream has a \
                     leader",
                ));
            }
        }
        state.is_held_up = false;
        let handed = state.unsettled();
        state.window.look(handed);
        state.todo.append(&mut self.failed);
        Ok(())
    }

    /// Says for everything in hand that it is being worked on.
    fn renew(&self) {
        let state = self.shared.lock();
        let claims = state.claims.values().filter(|claim| !claim.is_written());
        self.connection.send(|out| {
            for claim in claims {
                put_publication(out, claim.incoming.reply(), b"", b"", b"+WPI");
            }
        });
    }
}

/// The highest position in the queue's stream of which there is a record.
fn last_recorded(records: &crate::jetstream::api::StreamInfo) -> u64 {
    let Some(subjects) = &records.state.subjects else { return 0 };
    if subjects.len() >= MOST_SUBJECTS {
        // The server does not list more of them: then everything may have one.
        return u64::MAX;
    }
    let sequence = |subject: &String| subject.rsplit('.').next()?.parse::<u64>().ok();
    debug_assert!(subjects.keys().all(|subject| subject.starts_with(ATTEMPTS)));
    subjects.keys().filter_map(sequence).max().unwrap_or(0)
}

/// The most subjects that a server lists at once.
const MOST_SUBJECTS: usize = 100_000;
