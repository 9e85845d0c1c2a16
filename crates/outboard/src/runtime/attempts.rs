//! The attempts that run now: one slot each, and a task of their own for those that take time.
//!
//! A task for each attempt costs more than a quick handler does. So attempts are begun in groups, as many in one task
//! as its handlers' quickness allows ([`GroupSize`]): each is polled once, in order, and one that has to wait, or would
//! have to wait for one before it, gets a task of its own then.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt;
use outboard_core::{
    Delivery,
    fault::{Faults, Point},
    ledger::WorkerName,
    planted::{Bug, is_planted},
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{
    groups::{GroupSize, HOLDS_UP, Took},
    info::RunningPositions,
    verdict::{Ending, panic_text},
};
use crate::handler::{Attempt, BoxFuture, Handler};

/// What every attempt of one worker needs; shared, so that starting one clones a single pointer.
pub(super) struct Lane {
    pub(super) worker: WorkerName,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) faults: Faults,
    pub(super) reports: mpsc::Sender<Report>,
    /// Nothing more is to begin.
    pub(super) is_over: AtomicBool,
}

/// What a task tells the worker's loop, as its last word.
pub(super) enum Report {
    /// An attempt has ended.
    Ended(Ended),
    /// A group was begun.
    Group {
        ended: Vec<Ended>,
        /// Those that have to wait, or have not begun, go on in tasks of their own.
        waiting: Vec<(usize, Begun)>,
        took: Took,
    },
}

/// An attempt has ended.
pub(super) struct Ended {
    pub(super) slot: usize,
    pub(super) ending: Ending,
    /// How long it took.
    pub(super) took: Duration,
}

/// An attempt that has begun; nothing comes of it after a simulated crash.
pub(super) type Begun = BoxFuture<Option<Ended>>;

/// An attempt that runs.
pub(super) struct Running {
    pub(super) delivery: Delivery,
    pub(super) is_probe: bool,
    /// Its task, or its group's if it is the group's first.
    task: Option<JoinHandle<()>>,
}

/// The running attempts by slot. Dropping it aborts them.
pub(super) struct Slots {
    lane: Arc<Lane>,
    slots: Vec<Option<Running>>,
    free: Vec<usize>,
    group_size: GroupSize,
    positions: Arc<RunningPositions>,
}

impl Slots {
    /// Room for one probe more than there are attempts at once.
    pub(super) fn new(lane: Arc<Lane>, positions: Arc<RunningPositions>) -> Self {
        Self { lane, slots: Vec::new(), free: Vec::new(), group_size: GroupSize::default(), positions }
    }

    pub(super) fn running(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many attempts may share a task now.
    pub(super) fn group_size(&self) -> usize {
        self.group_size.now()
    }

    /// Begins an attempt in a task of its own.
    pub(super) fn start(&mut self, delivery: Delivery, limit: Duration, is_probe: bool) {
        let (slot, attempt) = self.occupy(delivery, is_probe);
        let task = tokio::spawn(run_alone(self.lane.clone(), attempt, limit, slot));
        self.aborted_with(slot, task);
    }

    /// Begins attempts in one task, so that several groups use several cores.
    pub(super) fn start_group(&mut self, deliveries: impl Iterator<Item = Delivery>, limit: Duration) {
        let attempts: Vec<_> = deliveries.map(|delivery| self.occupy(delivery, false)).collect();
        let Some(&(first, _)) = attempts.first() else { return };
        let task = tokio::spawn(run_group(self.lane.clone(), attempts, limit));
        self.aborted_with(first, task);
    }

    /// Takes a slot for an attempt.
    fn occupy(&mut self, delivery: Delivery, is_probe: bool) -> (usize, Attempt) {
        let attempt = Attempt {
            worker: self.lane.worker.clone(),
            message: delivery.message.clone(),
            number: delivery.attempt,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.positions.set(slot, delivery.message.id);
        self.slots[slot] = Some(Running { delivery, is_probe, task: None });
        (slot, attempt)
    }

    /// The attempt in this slot, and its group, end with this task.
    fn aborted_with(&mut self, slot: usize, task: JoinHandle<()>) {
        if let Some(running) = &mut self.slots[slot] {
            running.task = Some(task);
        }
    }

    /// A group was begun: those of it that wait go on in tasks of their own.
    pub(super) fn group_begun(&mut self, waiting: Vec<(usize, Begun)>, took: Took) {
        self.group_size.saw(took);
        for (slot, begun) in waiting {
            // One that was aborted meanwhile has no slot any more.
            if self.slots.get(slot).is_some_and(Option::is_some) {
                let lane = self.lane.clone();
                let task = tokio::spawn(async move { report(&lane, begun.await) });
                self.aborted_with(slot, task);
            }
        }
    }

    /// An attempt has ended that had a task of its own.
    pub(super) fn one_ended(&mut self, took: Duration) {
        self.group_size.saw(Took { attempts: 1, waiting: 0, time: took });
    }

    /// Frees the slot of an attempt that has ended.
    pub(super) fn take(&mut self, slot: usize) -> Option<Running> {
        let running = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.positions.clear(slot);
        Some(running)
    }

    /// Aborts every attempt and hands back what they had.
    pub(super) fn abort_all(&mut self) -> Vec<Delivery> {
        self.lane.is_over.store(true, Ordering::Relaxed);
        let running: Vec<Running> = (0..self.slots.len()).filter_map(|slot| self.take(slot)).collect();
        running.into_iter().map(|running| running.abort()).collect()
    }
}

impl Running {
    fn abort(mut self) -> Delivery {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.delivery
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.abort_all();
    }
}

/// One attempt, in a task of its own.
async fn run_alone(lane: Arc<Lane>, attempt: Attempt, limit: Duration, slot: usize) {
    let ended = run(lane.clone(), attempt, limit, slot).await;
    report(&lane, ended);
}

/// Begins attempts one after the other.
async fn run_group(lane: Arc<Lane>, attempts: Vec<(usize, Attempt)>, limit: Duration) {
    let count = attempts.len();
    let (mut ended, mut waiting) = (Vec::with_capacity(count), Vec::new());
    let mut time = Duration::ZERO;
    for (slot, attempt) in attempts {
        if lane.is_over.load(Ordering::Relaxed) {
            return;
        }
        let mut begun: Begun = Box::pin(run(lane.clone(), attempt, limit, slot));
        if time >= HOLDS_UP {
            // Somebody takes long all of a sudden: the rest need not stand behind him.
            waiting.push((slot, begun));
            continue;
        }
        match poll_fn(|context| Poll::Ready(begun.poll_unpin(context))).await {
            Poll::Ready(end) => {
                time += end.as_ref().map_or(Duration::ZERO, |end: &Ended| end.took);
                ended.extend(end);
            }
            Poll::Pending => waiting.push((slot, begun)),
        }
    }
    let took = Took { attempts: count, waiting: waiting.len(), time };
    tell(&lane, Report::Group { ended, waiting, took });
}

/// One attempt, from the handler's call to its end.
async fn run(lane: Arc<Lane>, attempt: Attempt, limit: Duration, slot: usize) -> Option<Ended> {
    // After a simulated crash nothing runs and nothing is reported; the worker's loop sees the crash itself.
    lane.faults.reach(Point::HandlerBegins).ok()?;
    let began = Instant::now();
    // The call itself may panic, and so may dropping the future at the timeout: both happen inside this block.
    let guarded = AssertUnwindSafe(async {
        match tokio::time::timeout(limit, lane.handler.handle(attempt)).await {
            Ok(handled) => Ending::Handled(handled),
            Err(_elapsed) => Ending::TimedOut(limit),
        }
    });
    let ending =
        guarded.catch_unwind().await.unwrap_or_else(|payload| Ending::Panicked(panic_text(&*payload)));
    if is_planted(Bug::PanicEndsWorker) && matches!(ending, Ending::Panicked(_)) {
        return None;
    }
    let took = began.elapsed();
    lane.faults.reach(Point::HandlerEnds).ok()?;
    Some(Ended { slot, ending, took })
}

fn report(lane: &Lane, ended: Option<Ended>) {
    if let Some(ended) = ended {
        tell(lane, Report::Ended(ended));
    }
}

fn tell(lane: &Lane, report: Report) {
    // The channel has a place for every slot, so it is full never; it is closed when the worker has stopped.
    let _ = lane.reports.try_send(report);
}

#[cfg(test)]
mod tests {
    use std::{
        fmt,
        sync::{Mutex, atomic::AtomicUsize},
    };

    use outboard_core::{Message, Position, consumer::Tag, message::Headers, time::Time};
    use tokio::sync::Notify;

    use super::*;
    use crate::{handler::Handled, outcome::Done};

    const LIMIT: Duration = Duration::from_secs(30);

    /// Handles each message by its number in the group.
    struct ByNumber<F>(AtomicUsize, F);

    impl<F> fmt::Debug for ByNumber<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("ByNumber")
        }
    }

    impl<F: Fn(usize) -> BoxFuture<Handled> + Send + Sync + 'static> Handler for ByNumber<F> {
        fn handle(&self, _attempt: Attempt) -> BoxFuture<Handled> {
            (self.1)(self.0.fetch_add(1, Ordering::SeqCst))
        }
    }

    fn slots(
        handle: impl Fn(usize) -> BoxFuture<Handled> + Send + Sync + 'static,
    ) -> (Slots, mpsc::Receiver<Report>) {
        let (reports, received) = mpsc::channel(8);
        let lane = Lane {
            worker: "orders".into(),
            handler: Arc::new(ByNumber(AtomicUsize::new(0), handle)),
            faults: Faults::none(),
            reports,
            is_over: AtomicBool::new(false),
        };
        (Slots::new(Arc::new(lane), Arc::new(RunningPositions::new(8))), received)
    }

    fn deliveries(count: u64) -> impl Iterator<Item = Delivery> {
        (1..=count).map(|number| Delivery {
            tag: Tag { epoch: 1, number },
            message: Arc::new(Message {
                id: Position(number),
                name: None,
                kind: "orders/confirm".into(),
                payload: "{}".into(),
                headers: Headers::default(),
                timestamp: Time::from_millis(0),
                run_at: None,
            }),
            attempt: 1,
            suspect: false,
            redelivered: false,
            is_identified: true,
        })
    }

    fn done() -> BoxFuture<Handled> {
        Box::pin(std::future::ready(Ok(Done).into()))
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_a_group_that_waits_or_panics_holds_nobody_up() {
        let go = Arc::new(Notify::new());
        let gate = go.clone();
        let (mut slots, mut reports) = slots(move |number| match number {
            0 => panic!("at once"),
            1 => {
                let gate = gate.clone();
                Box::pin(async move {
                    gate.notified().await;
                    panic!("later")
                })
            }
            2 => Box::pin(std::future::pending()),
            _ => done(),
        });
        slots.start_group(deliveries(5), LIMIT);
        let Some(Report::Group { ended, waiting, took }) = reports.recv().await else { panic!("a group") };
        let panicked = |ending: &Ending| matches!(ending, Ending::Panicked(text) if !text.is_empty());
        assert_eq!(ended.iter().map(|ended| ended.slot).collect::<Vec<_>>(), [0, 3, 4]);
        assert!(panicked(&ended[0].ending) && matches!(ended[1].ending, Ending::Handled(_)));
        assert_eq!((took.attempts, took.waiting), (5, 2));
        for ended in ended {
            assert!(slots.take(ended.slot).is_some());
        }
        slots.group_begun(waiting, took);
        assert_eq!(slots.running(), 2);
        go.notify_one();
        let Some(Report::Ended(first)) = reports.recv().await else { panic!("an end") };
        assert!(first.slot == 1 && panicked(&first.ending));
        let Some(Report::Ended(second)) = reports.recv().await else { panic!("an end") };
        assert!(second.slot == 2 && matches!(second.ending, Ending::TimedOut(LIMIT)));
    }

    #[tokio::test]
    async fn nobody_waits_for_one_that_takes_long_all_of_a_sudden() {
        let (mut slots, mut reports) = slots(|number| {
            let began = std::time::Instant::now();
            while number == 1 && began.elapsed() < HOLDS_UP {}
            done()
        });
        slots.start_group(deliveries(4), LIMIT);
        let Some(Report::Group { ended, waiting, took }) = reports.recv().await else { panic!("a group") };
        assert_eq!(ended.iter().map(|ended| ended.slot).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(waiting.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [2, 3]);
        slots.group_begun(waiting, took);
        assert_eq!(slots.group_size(), 1);
        for slot in [2, 3] {
            assert!(matches!(reports.recv().await, Some(Report::Ended(ended)) if ended.slot == slot));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_aborted_begins_nothing_more_and_drops_what_waits() {
        let shared: Arc<Mutex<Option<Slots>>> = Arc::default();
        let (begun, of) = (Arc::new(AtomicUsize::new(0)), shared.clone());
        let counted = begun.clone();
        let (running, mut reports) = slots(move |number| {
            counted.fetch_add(1, Ordering::SeqCst);
            if number == 1 {
                // As the worker's loop does it, on another thread.
                assert_eq!(of.lock().unwrap().take().unwrap().abort_all().len(), 4);
            }
            Box::pin(std::future::pending())
        });
        let of_handler = Arc::downgrade(&running.lane);
        shared.lock().unwrap().insert(running).start_group(deliveries(4), LIMIT);
        assert!(reports.recv().await.is_none(), "nothing is told, and every task has ended");
        assert_eq!((begun.load(Ordering::SeqCst), of_handler.strong_count()), (2, 0));
    }
}
