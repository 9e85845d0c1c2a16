//! The one worker runtime: it takes deliveries from a [`Consumer`], runs the handler and settles what it says.
//!
//! One task per worker owns everything and decides everything (`Runtime::run`); attempts run in other tasks
//! and report back over one bounded channel. Nothing ticks: the loop sleeps until a message comes, an attempt
//! ends, somebody calls, or a probe is due.

mod attempts;
mod drain;
mod groups;
mod handle;
mod info;
mod probing;
mod settle;
mod slots;
pub(crate) mod verdict;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use outboard_core::{Consumer, Delivery, Fut, PortError, consumer::Flow, fault::Faults};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

pub(crate) use self::handle::{BY_HAND, Parts, Shared};
use self::{
    attempts::{Lane, Report},
    drain::Drain,
    probing::Answered,
    slots::Slots,
};
pub use self::{
    handle::WorkerHandle,
    info::{ConsumerInfo, Counters, MAX_RUNNING_SHOWN, WorkerInfo, WorkerState},
};
use crate::{
    handler::{Handler, Unwell},
    outage::{Event, Outage, Spent},
    policy::Policy,
};

/// At most so many reports, each of an attempt or a group, are looked at before the loop looks at everything else.
const REPORTS_AT_ONCE: usize = 256;

/// What a [`WorkerHandle`] asks of its worker's loop.
#[derive(Debug)]
enum Control {
    /// Begin nothing new; answered when nothing new will begin.
    Pause(Arc<str>, oneshot::Sender<()>),
    /// Go on.
    Resume(oneshot::Sender<()>),
    /// Stop for good.
    Drain(Drain),
}

/// Why the loop ends.
enum End {
    /// The simulated process is down, or nobody can call any more: nothing is said to anybody.
    Silent,
    Drain(Drain),
    Failed(PortError),
}

/// What the loop of one worker owns.
pub(crate) struct Runtime {
    shared: Arc<Shared>,
    consumer: Arc<dyn Consumer>,
    handler: Arc<dyn Handler>,
    policy: Policy,
    ahead: u32,
    faults: Faults,
    random: fastrand::Rng,
    /// Claimed and not begun, in order.
    hand: VecDeque<Delivery>,
    slots: Slots,
    outage: Option<Outage>,
    /// The answer of a target that is asked, apart from any message.
    asking: Option<oneshot::Receiver<Answered>>,
    reports: mpsc::Receiver<Report>,
    is_paused: bool,
    settled: u64,
}

impl Runtime {
    /// A runtime that has not begun. `asks` says whether the handler can ask its target.
    pub(crate) fn new(shared: Arc<Shared>, parts: Parts, asks: bool) -> Self {
        let Parts { consumer, handler, policy, ahead, faults, seed } = parts;
        let (sender, reports) = mpsc::channel(policy.concurrency as usize + 1);
        let lane = Arc::new(Lane {
            worker: shared.name.clone(),
            handler: handler.clone(),
            faults: faults.clone(),
            reports: sender,
            is_over: AtomicBool::new(false),
        });
        let outage =
            policy.outage.clone().map(|outage| Outage::new(outage, policy.timeout, policy.concurrency, asks));
        Self {
            slots: Slots::new(lane, shared.positions.clone()),
            is_paused: shared.is_paused(),
            shared,
            consumer,
            handler,
            policy,
            ahead,
            faults,
            random: fastrand::Rng::with_seed(seed),
            hand: VecDeque::new(),
            outage,
            asking: None,
            reports,
            settled: 0,
        }
    }

    /// Works until it is drained or its consumer fails. Dropping the future aborts everything at once.
    async fn run(mut self, mut control: mpsc::Receiver<Control>) {
        match self.work(&mut control).await {
            End::Silent => {}
            End::Drain(drain) => self.drain(drain).await,
            End::Failed(error) => {
                tracing::error!(worker = %self.shared.name, %error, "the worker has failed");
                self.slots.abort_all();
                self.shared.failed(error);
            }
        }
    }

    async fn work(&mut self, control: &mut mpsc::Receiver<Control>) -> End {
        let consumer = self.consumer.clone();
        let faults = self.faults.clone();
        let mut crashed = pin!(faults.crashed());
        let mut next = Next::None;
        let mut reports = Vec::with_capacity(REPORTS_AT_ONCE);
        loop {
            self.begin_attempts();
            next.ask_for(self.wanted(), &*consumer);
            tokio::select! {
                biased;
                () = &mut crashed => return End::Silent,
                command = control.recv() => match command {
                    None => return End::Silent,
                    Some(Control::Drain(drain)) => return End::Drain(drain),
                    Some(Control::Pause(reason, paused)) => {
                        self.pause(reason);
                        // Whoever waits may have gone.
                        let _ = paused.send(());
                    }
                    Some(Control::Resume(resumed)) => {
                        self.resume();
                        let _ = resumed.send(());
                    }
                },
                () = until(self.probe_due()) => self.probe(),
                answer = answer_of(&mut self.asking) => self.answered(answer),
                _ = self.reports.recv_many(&mut reports, REPORTS_AT_ONCE) => self.take_reports(&mut reports),
                fetched = next.deliveries() => {
                    next = Next::None;
                    match fetched {
                        Ok(deliveries) => self.take(deliveries),
                        Err(error) => return End::Failed(error),
                    }
                }
            }
        }
    }

    /// How many messages to ask for.
    fn wanted(&self) -> usize {
        if self.is_paused {
            return 0;
        }
        if let Some(outage) = self.outage.as_ref().filter(|outage| outage.is_open()) {
            return usize::from(outage.wants_message());
        }
        let most = self.policy.concurrency.saturating_add(self.ahead) as usize;
        most.saturating_sub(self.slots.running() + self.hand.len())
    }

    fn take(&mut self, deliveries: Vec<Delivery>) {
        match self.outage.as_mut().filter(|outage| outage.is_open()) {
            None => self.hand.extend(deliveries),
            Some(_) => {
                for delivery in deliveries {
                    self.tell(Instant::now(), Event::Fetched(delivery));
                }
            }
        }
    }

    /// Begins as many attempts as may run at once.
    fn begin_attempts(&mut self) {
        if self.is_paused || self.hand.is_empty() {
            return;
        }
        loop {
            let free = (self.policy.concurrency as usize).saturating_sub(self.slots.running());
            match self.slots.group_size().min(free).min(self.hand.len()) {
                0 => return,
                1 => {
                    let Some(delivery) = self.hand.pop_front() else { return };
                    self.slots.start(delivery, self.policy.timeout, false);
                }
                count => self.slots.start_group(self.hand.drain(..count)),
            }
        }
    }

    /// Begins nothing any more until it is resumed.
    fn pause(&mut self, reason: Arc<str>) {
        self.is_paused = true;
        self.consumer.flow(Flow::Paused);
        self.shared.paused(reason);
        self.return_unbegun();
    }

    fn resume(&mut self) {
        self.is_paused = false;
        self.shared.resumed();
        self.consumer.flow(Flow::Running { prefetch: self.prefetch() });
    }

    /// The bound of claims: twice the concurrency; in an outage at least as many as it may hold.
    fn prefetch(&self) -> u32 {
        let usual = prefetch(self.policy.concurrency);
        match &self.outage {
            Some(outage) if outage.is_open() => {
                u32::try_from(crate::outage::max_held(self.policy.concurrency)).unwrap_or(u32::MAX).max(usual)
            }
            _ => usual,
        }
    }
}

/// A crash repeats at most so many messages.
pub(crate) fn prefetch(concurrency: u32) -> u32 {
    concurrency.saturating_mul(2)
}

/// The request to the consumer that is under way, if there is one.
enum Next<'a> {
    None,
    Asked { max: usize, deliveries: Fut<'a, Vec<Delivery>> },
}

impl<'a> Next<'a> {
    /// Asks for `wanted` messages; a request for fewer goes on, one for more is replaced.
    fn ask_for(&mut self, wanted: usize, consumer: &'a dyn Consumer) {
        match self {
            Self::Asked { max, .. } if *max <= wanted => {}
            _ if wanted == 0 => *self = Self::None,
            _ => *self = Self::Asked { max: wanted, deliveries: consumer.next(wanted) },
        }
    }

    /// Waits for the request's answer; for ever when nothing was asked.
    async fn deliveries(&mut self) -> Result<Vec<Delivery>, PortError> {
        match self {
            Self::None => std::future::pending().await,
            Self::Asked { deliveries, .. } => deliveries.await,
        }
    }
}

/// Sleeps until then; for ever without a time.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The answer of a target that was asked; for ever when none was.
async fn answer_of(asking: &mut Option<oneshot::Receiver<Answered>>) -> Answered {
    match asking {
        Some(answer) => answer.await.unwrap_or_else(|_| {
            let spent = Spent { took: Duration::ZERO, is_expired: false };
            Err((Unwell::Silent("the question was dropped".into()), spent))
        }),
        None => std::future::pending().await,
    }
}
