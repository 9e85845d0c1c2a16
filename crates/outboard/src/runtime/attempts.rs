//! What runs an attempt: a task of its own, or one that it shares.
//!
//! A task for each attempt costs more than a quick handler does. So attempts are begun in groups, as many in one task
//! as its handlers' quickness allows ([`GroupSize`](super::groups::GroupSize)): each is polled once, in order, and the
//! first that has to wait, or takes long, ends the group. It goes on in a task of its own; those behind it are begun anew.

use std::{
    any::Any,
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use outboard_core::{
    fault::{Faults, Point},
    ledger::WorkerName,
    planted::{Bug, is_planted},
};
use tokio::{
    sync::mpsc,
    task::coop,
    time::{Instant, timeout},
};

use super::{
    groups::{HOLDS_UP, Took},
    verdict::{Ending, panic_text},
};
use crate::handler::{Attempt, BoxFuture, Handled, Handler};

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
    /// A group has ended, as far as it came.
    Group(Group),
}

/// An attempt has ended.
pub(super) struct Ended {
    pub(super) slot: usize,
    pub(super) ending: Ending,
    /// How long it took.
    pub(super) took: Duration,
}

/// What came of a group.
pub(super) struct Group {
    pub(super) ended: Vec<Ended>,
    /// The one that waits for something, and goes on in a task of its own.
    pub(super) begun: Option<(usize, Begun)>,
    /// The slots of those that were not begun, in their order.
    pub(super) unbegun: Vec<usize>,
    pub(super) took: Took,
}

/// An attempt whose handler waits for something.
pub(super) struct Begun {
    /// There until it goes on.
    handling: Option<BoxFuture<Handled>>,
    since: Instant,
}

impl Drop for Begun {
    /// A future that panics when it is dropped ends nothing but itself.
    fn drop(&mut self) {
        let handling = self.handling.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(handling)));
    }
}

/// One attempt, in a task of its own.
pub(super) async fn run_alone(lane: Arc<Lane>, attempt: Attempt, limit: Duration, slot: usize) {
    // After a simulated crash nothing runs and nothing is reported; the worker's loop sees the crash itself.
    if lane.faults.reach(Point::HandlerBegins).is_ok() {
        finish(&lane, async { lane.handler.handle(attempt).await }, Instant::now(), limit, slot).await;
    }
}

/// The rest of an attempt that was begun in a group.
pub(super) async fn go_on(lane: Arc<Lane>, mut begun: Begun, limit: Duration, slot: usize) {
    if let Some(handling) = begun.handling.take() {
        finish(&lane, handling, begun.since, limit, slot).await;
    }
}

/// Attempts one after the other, until one of them waits.
pub(super) async fn run_group(lane: Arc<Lane>, mut attempts: Vec<(usize, Attempt)>) {
    let group = poll_fn(|context| Poll::Ready(begin_all(&lane, mem::take(&mut attempts), context)));
    if let Some(group) = group.await {
        tell(&lane, Report::Group(group));
    }
}

/// Begins a group. Nothing is to be told when the worker or the simulated process has ended.
fn begin_all(lane: &Lane, attempts: Vec<(usize, Attempt)>, context: &mut task::Context<'_>) -> Option<Group> {
    let (mut ended, mut begun) = (Vec::with_capacity(attempts.len()), None);
    let mut attempts = attempts.into_iter();
    let began = Instant::now();
    let mut now = began;
    // Nobody stands behind one that takes long all of a sudden, and nobody is to wait only because others before it have
    // used up what a task may do at a time.
    while begun.is_none() && now - began < HOLDS_UP && coop::has_budget_remaining() {
        // A hint is enough: whoever ends the worker takes no report of this task any more.
        if lane.is_over.load(Ordering::Relaxed) {
            return None;
        }
        let Some((slot, attempt)) = attempts.next() else { break };
        let since = now;
        let first = begin(lane, attempt, since, context)?;
        now = Instant::now();
        match first {
            First::Waits(waits) => begun = Some((slot, waits)),
            First::Ending(ending) => {
                lane.faults.reach(Point::HandlerEnds).ok()?;
                ended.push(Ended { slot, ending, took: now - since });
            }
        }
    }
    let waits = begun.is_some();
    let unbegun: Vec<usize> = attempts.map(|(slot, _)| slot).collect();
    let attempts = ended.len() + usize::from(waits);
    let took = Took { attempts, waits, is_cut: !unbegun.is_empty(), time: now - began };
    Some(Group { ended, begun, unbegun, took })
}

/// What came of an attempt's first moment.
enum First {
    Ending(Ending),
    Waits(Begun),
}

/// Calls the handler, and looks once whether it has ended. None after a simulated crash: then nothing runs and nothing
/// is reported; the worker's loop sees the crash itself.
fn begin(lane: &Lane, attempt: Attempt, since: Instant, context: &mut task::Context<'_>) -> Option<First> {
    lane.faults.reach(Point::HandlerBegins).ok()?;
    // The call itself may panic, and so may its future, whether it is polled or dropped.
    let first = catch_unwind(AssertUnwindSafe(|| {
        let mut handling = lane.handler.handle(attempt);
        match handling.poll_unpin(context) {
            Poll::Ready(handled) => First::Ending(Ending::Handled(handled)),
            Poll::Pending => First::Waits(Begun { handling: Some(handling), since }),
        }
    }));
    match first {
        Ok(first) => Some(first),
        Err(payload) => panicked(&*payload).map(First::Ending),
    }
}

/// An attempt to its end.
async fn finish(
    lane: &Lane,
    handling: impl Future<Output = Handled>,
    since: Instant,
    limit: Duration,
    slot: usize,
) {
    // A panic of dropping the future at the timeout happens inside of this block, too.
    let guarded = AssertUnwindSafe(async {
        match timeout(limit.saturating_sub(since.elapsed()), handling).await {
            Ok(handled) => Ending::Handled(handled),
            Err(_elapsed) => Ending::TimedOut(limit),
        }
    });
    let ending = guarded.catch_unwind().await.map_or_else(|payload| panicked(&*payload), Some);
    let Some(ending) = ending else { return };
    let took = since.elapsed();
    if lane.faults.reach(Point::HandlerEnds).is_ok() {
        tell(lane, Report::Ended(Ended { slot, ending, took }));
    }
}

fn panicked(payload: &(dyn Any + Send)) -> Option<Ending> {
    (!is_planted(Bug::PanicEndsWorker)).then(|| Ending::Panicked(panic_text(payload)))
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

    use outboard_core::{Delivery, Message, Position, consumer::Tag, message::Headers, time::Time};
    use tokio::sync::Notify;

    use super::*;
    use crate::{
        outcome::Done,
        runtime::{info::RunningPositions, slots::Slots},
    };

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
        let (reports, received) = mpsc::channel(256);
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

    async fn group(reports: &mut mpsc::Receiver<Report>) -> Group {
        let Some(Report::Group(group)) = reports.recv().await else { panic!("a group") };
        group
    }

    async fn end(reports: &mut mpsc::Receiver<Report>) -> Ended {
        let Some(Report::Ended(ended)) = reports.recv().await else { panic!("an end") };
        ended
    }

    fn ended_slots(group: &Group) -> Vec<usize> {
        group.ended.iter().map(|ended| ended.slot).collect()
    }

    fn compute(time: Duration) {
        let began = std::time::Instant::now();
        while began.elapsed() < time {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_one_attempt_of_a_group_and_a_wait_the_group() {
        let go = Arc::new(Notify::new());
        let gate = go.clone();
        let (mut slots, mut reports) = slots(move |number| match number {
            0 => panic!("at once"),
            2 => {
                let gate = gate.clone();
                Box::pin(async move {
                    gate.notified().await;
                    panic!("later")
                })
            }
            _ => done(),
        });
        slots.start_group(deliveries(5));
        let group = group(&mut reports).await;
        let panicked = |ending: &Ending| matches!(ending, Ending::Panicked(text) if !text.is_empty());
        assert!(panicked(&group.ended[0].ending) && matches!(group.ended[1].ending, Ending::Handled(_)));
        assert_eq!((ended_slots(&group), group.unbegun), (vec![0, 1], vec![3, 4]));
        assert_eq!((group.took.attempts, group.took.waits), (3, true));
        let (slot, begun) = group.begun.unwrap();
        slots.go_on(slot, begun, LIMIT);
        go.notify_one();
        let last = end(&mut reports).await;
        assert!(last.slot == 2 && panicked(&last.ending));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_ever_runs_out_of_its_time() {
        for limit in [LIMIT, Duration::MAX] {
            let (mut slots, mut reports) = slots(|number| match number {
                0 => Box::pin(std::future::pending()),
                _ => done(),
            });
            slots.start_group(deliveries(1));
            let (slot, begun) = group(&mut reports).await.begun.unwrap();
            slots.go_on(slot, begun, limit);
            slots.start(deliveries(1).next().unwrap(), limit, false);
            assert!(matches!(end(&mut reports).await.ending, Ending::Handled(_)));
            if limit == LIMIT {
                assert!(matches!(end(&mut reports).await.ending, Ending::TimedOut(LIMIT)));
            }
        }
    }

    #[tokio::test]
    async fn nobody_stands_behind_one_that_takes_long_all_of_a_sudden() {
        for waits in [false, true] {
            let (mut slots, mut reports) = slots(move |number| {
                if number == 1 {
                    compute(HOLDS_UP);
                }
                if waits && number == 1 { Box::pin(std::future::pending()) } else { done() }
            });
            slots.start_group(deliveries(4));
            let group = group(&mut reports).await;
            assert_eq!((ended_slots(&group)[0], &group.unbegun), (0, &vec![2, 3]));
            assert!(group.took.time >= HOLDS_UP && group.took.waits == waits);
        }
    }

    #[tokio::test]
    async fn what_a_task_may_do_at_a_time_ends_a_group_and_makes_nobody_wait() {
        let permits = Arc::new(tokio::sync::Semaphore::new(1_000));
        let (mut slots, mut reports) = slots(move |_| {
            let permits = permits.clone();
            Box::pin(async move {
                let _permit = permits.acquire().await;
                Ok(Done).into()
            })
        });
        slots.start_group(deliveries(200));
        let group = group(&mut reports).await;
        assert!(group.begun.is_none() && !group.unbegun.is_empty());
        assert_eq!(group.ended.len() + group.unbegun.len(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn what_panics_when_it_is_dropped_ends_nothing_else() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let (mut slots, mut reports) = slots(|_| {
            let bomb = Bomb;
            Box::pin(async move {
                let _bomb = bomb;
                std::future::pending().await
            })
        });
        slots.start_group(deliveries(1));
        let dropped = group(&mut reports).await;
        assert!(dropped.begun.is_some());
        drop(dropped);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_aborted_begins_nothing_more() {
        let shared: Arc<Mutex<Option<Slots>>> = Arc::default();
        let (begun, of) = (Arc::new(AtomicUsize::new(0)), shared.clone());
        let counted = begun.clone();
        let (running, mut reports) = slots(move |number| {
            counted.fetch_add(1, Ordering::SeqCst);
            if number == 1 {
                // As the worker's loop does it, on another thread.
                assert_eq!(of.lock().unwrap().take().unwrap().abort_all().len(), 4);
            }
            done()
        });
        shared.lock().unwrap().insert(running).start_group(deliveries(4));
        assert!(reports.recv().await.is_none(), "nothing is told, and everything has ended");
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
