//! What runs an attempt: a task of its own, or one that it shares.
//!
//! A task for each attempt costs more than a quick handler does. So attempts are begun in groups, as many in one task
//! as its handlers' quickness allows ([`GroupSize`](super::groups::GroupSize)): each is polled once, in order, and one
//! that has to wait, or would have to wait for one before it, gets a task of its own then.

use std::{
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
    time::{Instant, timeout_at},
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
    /// A group was begun.
    Group {
        ended: Vec<Ended>,
        /// Those that go on in tasks of their own, by their slots.
        waiting: Vec<(usize, Waiting)>,
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

/// An attempt of a group that did not end at once.
pub(super) enum Waiting {
    Begun(Begun),
    /// It has not begun.
    Attempt(Attempt),
}

/// An attempt whose handler waits for something.
pub(super) struct Begun {
    handling: BoxFuture<Handled>,
    since: Instant,
}

/// One attempt, in a task of its own.
pub(super) async fn run_alone(lane: Arc<Lane>, attempt: Attempt, limit: Duration, slot: usize) {
    // After a simulated crash nothing runs and nothing is reported; the worker's loop sees the crash itself.
    if lane.faults.reach(Point::HandlerBegins).is_ok() {
        finish(&lane, async { lane.handler.handle(attempt).await }, Instant::now(), limit, slot).await;
    }
}

/// The rest of an attempt that was begun in a group.
pub(super) async fn go_on(lane: Arc<Lane>, Begun { handling, since }: Begun, limit: Duration, slot: usize) {
    finish(&lane, handling, since, limit, slot).await;
}

/// Attempts one after the other, as far as they do not wait.
pub(super) async fn run_group(lane: Arc<Lane>, mut attempts: Vec<(usize, Attempt)>) {
    let group = poll_fn(|context| Poll::Ready(begin_all(&lane, mem::take(&mut attempts), context)));
    if let Some(group) = group.await {
        tell(&lane, group);
    }
}

/// Begins a group. Nothing is to be told when it is over.
fn begin_all(
    lane: &Lane,
    attempts: Vec<(usize, Attempt)>,
    context: &mut task::Context<'_>,
) -> Option<Report> {
    let count = attempts.len();
    let (mut ended, mut waiting) = (Vec::with_capacity(count), Vec::new());
    let began = Instant::now();
    let mut now = began;
    for (slot, attempt) in attempts {
        if lane.is_over.load(Ordering::Relaxed) {
            return None;
        }
        if now - began >= HOLDS_UP {
            // Somebody takes long all of a sudden: the rest need not stand behind him.
            waiting.push((slot, Waiting::Attempt(attempt)));
            continue;
        }
        let since = now;
        match begin(lane, attempt, since, context)? {
            First::Waits(begun) => waiting.push((slot, Waiting::Begun(begun))),
            First::Ending(ending) => {
                now = Instant::now();
                lane.faults.reach(Point::HandlerEnds).ok()?;
                ended.push(Ended { slot, ending, took: now - since });
            }
        }
    }
    let took = Took { attempts: count, waiting: waiting.len(), time: now - began };
    Some(Report::Group { ended, waiting, took })
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
            Poll::Pending => First::Waits(Begun { handling, since }),
        }
    }));
    match first {
        Ok(first) => Some(first),
        Err(_) if is_planted(Bug::PanicEndsWorker) => None,
        Err(payload) => Some(First::Ending(Ending::Panicked(panic_text(&*payload)))),
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
        match timeout_at(since + limit, handling).await {
            Ok(handled) => Ending::Handled(handled),
            Err(_elapsed) => Ending::TimedOut(limit),
        }
    });
    let ending = match guarded.catch_unwind().await {
        Ok(ending) => ending,
        Err(_) if is_planted(Bug::PanicEndsWorker) => return,
        Err(payload) => Ending::Panicked(panic_text(&*payload)),
    };
    let took = since.elapsed();
    if lane.faults.reach(Point::HandlerEnds).is_ok() {
        tell(lane, Report::Ended(Ended { slot, ending, took }));
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
        slots.start_group(deliveries(5));
        let Some(Report::Group { ended, waiting, took }) = reports.recv().await else { panic!("a group") };
        let panicked = |ending: &Ending| matches!(ending, Ending::Panicked(text) if !text.is_empty());
        assert_eq!(ended.iter().map(|ended| ended.slot).collect::<Vec<_>>(), [0, 3, 4]);
        assert!(panicked(&ended[0].ending) && matches!(ended[1].ending, Ending::Handled(_)));
        assert_eq!((took.attempts, took.waiting), (5, 2));
        for ended in ended {
            assert!(slots.take(ended.slot).is_some());
        }
        slots.group_begun(waiting, LIMIT, took);
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
        slots.start_group(deliveries(4));
        let Some(Report::Group { ended, waiting, took }) = reports.recv().await else { panic!("a group") };
        assert_eq!(ended.iter().map(|ended| ended.slot).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(waiting.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [2, 3]);
        slots.group_begun(waiting, LIMIT, took);
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
        shared.lock().unwrap().insert(running).start_group(deliveries(4));
        assert!(reports.recv().await.is_none(), "nothing is told, and everything has ended");
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
