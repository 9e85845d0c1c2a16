//! The loop of one consumer: gets a channel, keeps it consuming, and gets another one when it is lost.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use outboard_core::{
    Clock, Kind, PortError, consumer::Ticket, queue::Declared, recovery::Recovery, time::SystemClock,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Core,
    inlet::Inlet,
    state::{End, FLUSH_AFTER, Phase, Standing},
};
use crate::rabbitmq::{
    channel::Channel,
    codec::{field::ShortString, method::Method, table::Table},
    connection::Connection,
    link::SHORT,
    topology,
};

/// How long the broker may take to say that a channel is closed.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What the loop remembers from one generation to the next.
struct Memory {
    recovery: Recovery,
    /// What the recovery is about.
    connection: Option<Connection>,
    /// What differs from the declaration was said already.
    said_differs: Option<Arc<str>>,
    /// The consumer's name at the broker.
    tag: ShortString,
}

impl Memory {
    /// What fails on a new connection is a trouble of its own: it is no older for the time without one, and is tried again
    /// as soon.
    fn meet(&mut self, connection: &Connection) {
        if !self.connection.as_ref().is_some_and(|known| known.is(connection)) {
            self.recovery = Recovery::begin(SystemClock.now());
            self.connection = Some(connection.clone());
        }
    }
}

pub(super) async fn run(core: Arc<Core>) {
    let mut link = core.seat.link().connection();
    let tag = core.spec.tag.clone();
    let tag = tag.unwrap_or_else(|| format!("{}-{:08x}", core.spec.worker, fastrand::u32(..)).into());
    let mut memory = Memory {
        recovery: Recovery::begin(SystemClock.now()),
        connection: None,
        said_differs: None,
        tag: ShortString::new(tag).unwrap_or_default(),
    };
    while let Some(connection) = connected(&core, &mut link).await {
        memory.meet(&connection);
        let began = Instant::now();
        let end = match begin(&core, &connection, &mut memory).await {
            Ok(channel) => {
                let end = serve(&core, &channel, &memory).await;
                let has_consumed = matches!(core.state().standing, Standing::Consuming);
                if has_consumed && began.elapsed() >= SHORT {
                    memory.recovery = Recovery::begin(SystemClock.now());
                }
                end
            }
            Err(error) => Some(End::Lost(error)),
        };
        let channel = core.state().leave();
        let Some(end) = end else {
            close(channel).await;
            break;
        };
        core.mover.forget_all();
        core.settled.notify_waiters();
        core.durable.send_replace(core.state().sent);
        // What may still come over it is nobody's; over a connection that has ended this returns at once.
        close(channel).await;
        explain(&core, &connection, end, &mut memory).await;
    }
    core.end();
}

async fn close(channel: Option<Channel>) {
    if let Some(channel) = channel {
        let _ = timeout(CLOSE_WITHIN, channel.close()).await;
    }
}

/// The next connection that lives; nothing when the consumer or the link has ended.
async fn connected(core: &Core, link: &mut watch::Receiver<Option<Connection>>) -> Option<Connection> {
    loop {
        if core.state().phase != Phase::Running {
            return None;
        }
        let alive = link.borrow_and_update().clone().filter(|connection| !connection.has_ended());
        if alive.is_some() {
            return alive;
        }
        core.state().standing = Standing::Away;
        tokio::select! {
            changed = link.changed() => changed.ok()?,
            () = core.work.notified() => {}
        }
    }
}

/// What is to be said of an end, and how long to wait before the next beginning.
async fn explain(core: &Core, connection: &Connection, end: End, memory: &mut Memory) {
    let (queue, worker) = (&*core.spec.queue.name, &*core.spec.worker);
    if core.state().phase != Phase::Running {
        // The drain itself closes the channel, and nothing begins again.
        tracing::debug!(queue, worker, ?end, "the queue is not consumed any more");
        return;
    }
    let error = match end {
        End::Cancelled => {
            // Its leader may be what has gone: then nobody answers, and the connection lives all the same.
            let within = memory.recovery.attempt_within();
            let found = in_time(within, topology::look(connection, queue)).await;
            match found {
                Err(error) if error.kind == Kind::NotFound => {
                    tracing::warn!(
                        queue,
                        worker,
                        "the queue was deleted: what was in it is gone; it is declared again"
                    );
                }
                _ => tracing::warn!(queue, worker, "the broker has ended the consumer; it begins again"),
            }
            PortError::new(Kind::Unavailable, format!("the broker has ended the consumer of `{queue}`"))
        }
        // The link says it once for all.
        End::Lost(_) if connection.has_ended() => return,
        End::Lost(error) => {
            if memory.recovery.is_news(&error) {
                tracing::warn!(queue, worker, %error, "the queue is not consumed; it is tried again until it is");
            }
            error
        }
    };
    let wait = memory.recovery.failed(&error, fastrand::f64());
    core.state().standing = Standing::Trouble(memory.recovery.health());
    let woken = async {
        // Flow and settlements wake the loop, too; only its end is a reason not to wait.
        while core.state().phase == Phase::Running {
            core.work.notified().await;
        }
    };
    let mut ended = connection.ended();
    tokio::select! {
        () = sleep(wait) => {}
        () = woken => {}
        // The next connection is not kept waiting for what was wrong with this one.
        _ = ended.wait_for(Option::is_some) => {}
    }
}

/// Declares the queue, opens a channel, and has it deliver.
async fn begin(core: &Arc<Core>, connection: &Connection, memory: &mut Memory) -> Result<Channel, PortError> {
    let within = memory.recovery.attempt_within();
    let starting = async {
        let declared = topology::ensure(connection, &core.spec.queue).await?;
        core.mover.found(&declared);
        if let Declared::Differs(difference) = declared {
            say_differs(core, memory, difference);
        }
        let channel = connection.channel().await?.keep();
        let generation = core.state().begin(channel.clone());
        channel.attach(Box::new(Inlet::new(core.clone(), generation)));
        let asked = core.state().asked;
        let prefetch = core.bound().begin(u32::try_from(asked).unwrap_or(u32::MAX));
        quality(core, &channel, prefetch).await?;
        Ok(channel)
    };
    in_time(within, starting).await
}

fn say_differs(core: &Core, memory: &mut Memory, difference: Arc<str>) {
    if memory.said_differs.as_ref() == Some(&difference) {
        return;
    }
    tracing::warn!(
        queue = &*core.spec.queue.name, worker = &*core.spec.worker, %difference,
        "the queue is there with other arguments; it is used as it is"
    );
    memory.said_differs = Some(difference);
}

async fn quality(core: &Core, channel: &Channel, prefetch: u16) -> Result<(), PortError> {
    channel.call(&Method::BasicQos { size: 0, count: prefetch, flags: 0 }).await?;
    core.state().prefetch = prefetch;
    Ok(())
}

type Barrier = Pin<Box<dyn Future<Output = (Ticket, Result<Method, PortError>)> + Send>>;

/// One generation, while it serves.
struct Serving<'a> {
    core: &'a Core,
    channel: &'a Channel,
    tag: &'a ShortString,
    /// How long the broker may take to answer.
    within: Duration,
    is_consuming: bool,
    /// The next prefetch, once it is to change.
    next_prefetch: Option<u16>,
    /// A call whose answer says that everything before it has been taken.
    barrier: Option<Barrier>,
}

/// Until the generation ends, which has a reason, or the consumer does.
async fn serve(core: &Core, channel: &Channel, memory: &Memory) -> Option<End> {
    let (tag, within) = (&memory.tag, memory.recovery.attempt_within());
    let mut serving =
        Serving { core, channel, tag, within, is_consuming: false, next_prefetch: None, barrier: None };
    let patience = core.bound().patience();
    let mut look = pin!(sleep(patience));
    // Whatever else there is to do must not put it off.
    let mut flush_at = None;
    loop {
        let (ended, phase, is_timed) = {
            let state = core.state();
            (state.ended.clone(), state.phase, state.is_timed)
        };
        if phase == Phase::Ended {
            return None;
        }
        if ended.is_some() {
            return ended;
        }
        if let Err(error) = serving.adjust().await {
            return Some(End::Lost(error));
        }
        core.mover.start();
        let now = Instant::now();
        let flush = is_timed.then(|| *flush_at.get_or_insert(now + FLUSH_AFTER));
        tokio::select! {
            () = core.work.notified() => {}
            () = sleep_until(flush.unwrap_or(now)), if flush.is_some() => {
                flush_at = None;
                serving.on_time();
            }
            () = &mut look => {
                look.as_mut().reset(Instant::now() + patience);
                serving.look_at_what_waits();
            }
            (ticket, answer) = answer_of(&mut serving.barrier) => {
                serving.barrier = None;
                match answer {
                    Ok(_) => drop(core.durable.send_replace(ticket)),
                    Err(error) => return Some(End::Lost(error)),
                }
                if core.state().sent > ticket {
                    core.state().time();
                }
            }
        }
    }
}

async fn answer_of(barrier: &mut Option<Barrier>) -> (Ticket, Result<Method, PortError>) {
    match barrier {
        Some(barrier) => barrier.await,
        None => std::future::pending().await,
    }
}

impl Serving<'_> {
    /// Tells the broker what has been settled.
    fn on_time(&mut self) {
        let mut state = self.core.state();
        let is_watched = self.core.durable.receiver_count() > 0;
        state.flush_on_time(is_watched);
        let (sent, count) = (state.sent, state.prefetch);
        self.look_at_prefetch(state.unsettled(), state.settled);
        drop(state);
        // A message that was taken before the connection was cut must not come again: "sent" is not enough for whoever
        // waits. One answer, and not one for each message, says that the broker has read everything before.
        if self.barrier.is_none() && is_watched && *self.core.durable.borrow() < sent {
            let channel = self.channel.clone();
            self.barrier = Some(Box::pin(async move {
                (sent, channel.call(&Method::BasicQos { size: 0, count, flags: 0 }).await)
            }));
        }
    }

    fn look_at_prefetch(&mut self, claimed: u32, settled: u64) {
        let mut bound = self.core.bound();
        if bound.is_following()
            && let Some(prefetch) = bound.look(claimed, settled, Instant::now())
        {
            self.next_prefetch = Some(prefetch);
        }
    }

    /// The broker takes a message away that waits here for too long, and with it everything on the channel: so what waits
    /// goes back before. It keeps its place there.
    fn look_at_what_waits(&mut self) {
        let mut state = self.core.state();
        if !state.claims.have_waited() {
            return;
        }
        (state.is_sated, state.is_narrow) = (true, true);
        let (count, settled) = (state.claims.ready(), state.settled);
        drop(state);
        self.core.bound().narrow(settled, Instant::now());
        tracing::info!(
            queue = &*self.core.spec.queue.name,
            worker = &*self.core.spec.worker,
            count,
            "messages that were fetched ahead could not be begun for a long time, and go back to the queue; for now, only \
             what can be begun is fetched"
        );
    }

    async fn answered(&mut self, method: &Method) -> Result<(), PortError> {
        in_time(self.within, async { self.channel.call(method).await.map(drop) }).await
    }

    /// Makes the broker deliver or stop, as it is wanted.
    async fn adjust(&mut self) -> Result<(), PortError> {
        let (wants, wanted) = {
            let state = self.core.state();
            (state.wants(), state.is_narrow.then(|| state.wanted()))
        };
        if wants && let Some(wanted) = wanted {
            let (demand, is_narrow) = {
                let mut bound = self.core.bound();
                (bound.demand(wanted), bound.is_narrow())
            };
            self.next_prefetch = demand.or(self.next_prefetch);
            self.core.state().is_narrow = is_narrow;
        }
        if self.is_consuming && (!wants || self.next_prefetch.is_some()) {
            self.answered(&Method::BasicCancel { tag: self.tag.clone(), flags: 0 }).await?;
            self.is_consuming = false;
        }
        if let Some(prefetch) = self.next_prefetch.take() {
            in_time(self.within, quality(self.core, self.channel, prefetch)).await?;
        }
        if !wants {
            // Also what came while the broker was being told.
            self.core.state().give_back_ready();
        } else if !self.is_consuming {
            let consume = Method::BasicConsume {
                reserved1: 0,
                queue: ShortString::new(self.core.spec.queue.name.clone()).unwrap_or_default(),
                tag: self.tag.clone(),
                flags: 0,
                arguments: Table::default(),
            };
            self.answered(&consume).await?;
            self.is_consuming = true;
        }
        self.core.state().standing = Standing::Consuming;
        Ok(())
    }
}

/// A queue without a leader does not answer, and one that was asked then may not even when it has one: it is asked again
/// on another channel.
async fn in_time<T>(
    within: Duration,
    call: impl Future<Output = Result<T, PortError>>,
) -> Result<T, PortError> {
    let late = || PortError::new(Kind::Unavailable, "the broker does not answer");
    timeout(within, call).await.unwrap_or_else(|_| Err(late()))
}
