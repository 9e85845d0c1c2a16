//! A sick target, from the first failure to full speed.

use tokio::time::Instant;

use super::*;
use crate::handler::Unwell;

/// A target that a test makes sick and well.
#[derive(Debug, Clone, Default)]
struct Target {
    seen: Seen,
    mood: Arc<Mutex<Mood>>,
    /// When attempts began while it was sick.
    probed_at: Arc<Mutex<Vec<Instant>>>,
    done_at: Arc<Mutex<Vec<Instant>>>,
    asked: Arc<AtomicU64>,
    can_be_asked: bool,
    /// How long it thinks when it is asked.
    thinks: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Mood {
    #[default]
    Well,
    Refuses,
    Hangs,
}

impl Target {
    fn feel(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.probed_at.lock().unwrap().clear();
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    fn probed_at(&self) -> Vec<Instant> {
        self.probed_at.lock().unwrap().clone()
    }

    fn done_since(&self, since: Instant) -> usize {
        self.done_at.lock().unwrap().iter().filter(|at| **at >= since).count()
    }

    async fn answer(self) -> Outcome {
        match self.mood() {
            Mood::Well => {
                pass(5 * MS).await;
                self.done_at.lock().unwrap().push(Instant::now());
                return Ok(Done);
            }
            Mood::Refuses => pass(MS).await,
            Mood::Hangs => std::future::pending().await,
        }
        Err(Failure::Retry { reason: "503".into(), after: None, cause: Cause::Unavailable })
    }
}

impl Handler for Target {
    fn handle(&self, attempt: Attempt) -> BoxFuture<Handled> {
        let running = self.seen.begin(&attempt);
        if self.mood() != Mood::Well {
            self.probed_at.lock().unwrap().push(Instant::now());
        }
        let target = self.clone();
        Box::pin(async move {
            let outcome = target.answer().await;
            drop(running);
            outcome.into()
        })
    }

    fn probe(&self) -> Option<BoxFuture<Result<(), Unwell>>> {
        let target = self.clone();
        self.can_be_asked.then(|| -> BoxFuture<_> {
            Box::pin(async move {
                target.asked.fetch_add(1, Ordering::SeqCst);
                pass(target.thinks).await;
                if target.mood() == Mood::Well { Ok(()) } else { Err(Unwell::Said("down".into())) }
            })
        })
    }
}

fn forwarding(concurrency: u32) -> Policy {
    Policy { concurrency, outage: Some(OutagePolicy::default()), timeout: 2 * SECOND, ..Policy::default() }
}

fn is_out(info: &WorkerInfo) -> bool {
    matches!(info.state, WorkerState::Outage { .. })
}

/// Ten simulated minutes of sickness with a backlog, then full speed.
async fn ten_minutes(mood: Mood) {
    let (world, target) = (World::new().await, Target::default());
    let handle = world.start(forwarding(32), target.clone()).await;
    world.append(100).await;
    until_handled(&handle, 100).await;
    target.feel(mood);
    let first = world.append(5_000).await;
    until(&handle, is_out).await;
    // What was under way when it opened ends first.
    pass(5 * SECOND).await;
    let parked = world.parked().await;
    assert!(parked <= 32, "{parked} are parked: more than what was under way");
    target.feel(mood);
    target.seen.most.store(0, Ordering::SeqCst);
    pass(600 * SECOND).await;
    assert_eq!(target.seen.most(), 1, "one probe at a time");
    let probes = target.probed_at();
    assert!(probes.len() >= 600 && probes.len() <= 700, "{} probes", probes.len());
    assert!(probes.windows(2).all(|pair| pair[1] - pair[0] <= SECOND), "at least one a second");
    assert!(world.parked().await <= parked, "nothing is parked meanwhile");
    assert!(target.seen.attempts().iter().all(|(_, number)| *number == 1), "no attempt is counted");
    let WorkerState::Outage { reason, probes, .. } = handle.state() else { panic!("it is an outage") };
    assert!(probes >= 600 && !reason.is_empty());
    assert!(world.workers.health().degraded[0].reason.starts_with("outage since 20"));
    assert!(world.workers.health().health.is_ready());
    assert_eq!(handle.info().counters.dead, 0);

    let back = Instant::now();
    target.feel(Mood::Well);
    pass(SECOND).await;
    assert_eq!(handle.state(), WorkerState::Running);
    assert!(target.done_since(back) > 32, "full speed within a second");
    let info = until_handled(&handle, 5_100).await;
    // 32 at once, 5 ms each: 800 ms; the held ones that failed as probes are back within their backoff.
    assert!(back.elapsed() < 3 * SECOND, "{:?}", back.elapsed());
    assert!(info.counters.retried <= 10 + 64, "{} were charged", info.counters.retried);
    assert_eq!(world.parked().await, 0);
    assert!(world.dead().await.is_empty());
    assert_eq!(world.fate(first).await, Fate::Done);
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_of_refusals_count_no_attempt_and_park_nothing() {
    ten_minutes(Mood::Refuses).await;
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_of_silence_count_no_attempt_and_park_nothing() {
    ten_minutes(Mood::Hangs).await;
}

/// Bad messages first, good ones beside them: the bad ones die, the good ones are not delayed beyond the probes.
async fn bad_beside_good(concurrency: u32, cause: Cause) {
    let world = World::new().await;
    let (bad, good) = (10, 200);
    let first = world.append(bad + good).await;
    let last_good = Arc::new(Mutex::new(Instant::now()));
    let noted = last_good.clone();
    let handler = Scripted(move |attempt: Attempt| {
        let (is_bad, noted) = (attempt.message.id.0 < first + bad as u64, noted.clone());
        async move {
            pass(5 * MS).await;
            if is_bad {
                return Err(Failure::Retry { reason: "no".into(), after: None, cause });
            }
            *noted.lock().unwrap() = Instant::now();
            Ok(Done)
        }
    });
    let began = Instant::now();
    let policy = Policy { attempts: 5, ..forwarding(concurrency) };
    let handle = world.start(policy, handler).await;
    let info = until(&handle, |info| info.counters.dead == bad as u64 && info.consumer.unsettled == 0).await;
    assert_eq!(info.counters.handled, good as u64);
    let dead: Vec<u64> = world.dead().await.iter().map(|letter| letter.message_id.0).collect();
    assert!(dead.iter().all(|position| *position < first + bad as u64));
    let took = last_good.lock().unwrap().duration_since(began);
    assert!(took < 15 * SECOND, "the good ones took {took:?}");
    assert_eq!(handle.state(), WorkerState::Running);
}

#[tokio::test(start_paused = true)]
async fn ten_bad_messages_beside_good_ones_die_alone() {
    for concurrency in [1, 4, 32] {
        bad_beside_good(concurrency, Cause::Unavailable).await;
        bad_beside_good(concurrency, Cause::Target).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_false_alarm_costs_one_probe() {
    let world = World::new().await;
    let first = world.append(11).await;
    let handler = Scripted(move |attempt: Attempt| async move {
        if attempt.message.id.0 < first + 10 && attempt.number < 3 {
            return Err(Failure::Retry { reason: "no".into(), after: None, cause: Cause::Unavailable });
        }
        Ok(Done)
    });
    let began = Instant::now();
    let handle = world.start(forwarding(1), handler).await;
    let info = until_handled(&handle, 11).await;
    assert_eq!((info.counters.outages, info.counters.probes), (1, 1));
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn pausing_and_draining_work_in_an_outage() {
    let (world, target) = (World::new().await, Target::default());
    target.feel(Mood::Refuses);
    world.append(200).await;
    let handle = world.start(forwarding(32), target.clone()).await;
    until(&handle, is_out).await;
    pass(30 * SECOND).await;
    handle.pause(None).await.unwrap();
    let attempts = target.seen.attempts().len();
    pass(60 * SECOND).await;
    assert!(target.seen.attempts().len() <= attempts, "no probe while it is paused");
    assert_eq!(handle.info().consumer.unsettled, 0);
    handle.resume().await.unwrap();
    assert!(is_out(&handle.info()), "the outage goes on");
    pass(30 * SECOND).await;
    assert!(target.seen.attempts().len() >= attempts + 30);
    let began = Instant::now();
    let results = world.workers.drain(began + 25 * SECOND).await;
    assert!(began.elapsed() <= SECOND);
    assert!(results[0].1.is_ok());
    assert!(target.seen.attempts().iter().all(|(_, number)| *number == 1), "nothing was counted");
    assert!(world.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_can_be_asked_is_asked_instead_of_tried() {
    let world = World::new().await;
    let target = Target { can_be_asked: true, ..Target::default() };
    world.append(100).await;
    let handle = world.start(forwarding(4), target.clone()).await;
    until_handled(&handle, 100).await;
    pass(60 * SECOND).await;
    assert_eq!(target.asked.load(Ordering::SeqCst), 0, "nobody asks while all is well");
    target.feel(Mood::Refuses);
    world.append(50).await;
    until(&handle, is_out).await;
    pass(SECOND).await;
    let attempts = target.seen.attempts().len();
    pass(60 * SECOND).await;
    assert_eq!(target.seen.attempts().len(), attempts, "no message is tried meanwhile");
    let asked = target.asked.load(Ordering::SeqCst);
    assert!((60..=70).contains(&asked), "{asked} times asked");
    let back = Instant::now();
    target.feel(Mood::Well);
    until_handled(&handle, 150).await;
    assert!(back.elapsed() < 2 * SECOND, "{:?}", back.elapsed());
    pass(10 * SECOND).await;
    let asked = target.asked.load(Ordering::SeqCst);
    pass(60 * SECOND).await;
    assert_eq!(target.asked.load(Ordering::SeqCst), asked, "nobody asks any more");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_thinks_before_it_says_that_it_is_well_is_believed() {
    let world = World::new().await;
    let target = Target { can_be_asked: true, thinks: 1_500 * MS, ..Target::default() };
    let handle = world.start(forwarding(4), target.clone()).await;
    target.feel(Mood::Refuses);
    world.append(1).await;
    until(&handle, |info| info.counters.failed > 0).await;
    pass(1_200 * MS).await;
    target.feel(Mood::Well);
    until_handled(&handle, 1).await;
    pass(10 * SECOND).await;
    assert_eq!((handle.info().counters.outages, target.asked.load(Ordering::SeqCst)), (0, 1));

    target.feel(Mood::Refuses);
    world.append(50).await;
    until(&handle, is_out).await;
    pass(60 * SECOND).await;
    let back = Instant::now();
    target.feel(Mood::Well);
    until_handled(&handle, 51).await;
    assert!(back.elapsed() < 6 * SECOND, "{:?}", back.elapsed());
}

/// Answers each message with 503, whatever its probe says.
#[derive(Debug)]
struct Picky(Target);

impl Handler for Picky {
    fn handle(&self, _attempt: Attempt) -> BoxFuture<Handled> {
        Box::pin(async {
            Err(Failure::Retry { reason: "503".into(), after: None, cause: Cause::Unavailable }).into()
        })
    }

    fn probe(&self) -> Option<BoxFuture<Result<(), Unwell>>> {
        self.0.probe()
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_message_ends_as_a_dead_letter_although_the_target_thinks_before_it_says_that_it_is_well() {
    let world = World::new().await;
    let target = Target { can_be_asked: true, thinks: 1_300 * MS, ..Target::default() };
    let handle = world.start(forwarding(4), Picky(target)).await;
    world.append(1).await;
    let info = until(&handle, |info| info.counters.dead == 1 || info.counters.outages == 3).await;
    assert_eq!((info.counters.dead, info.counters.outages), (1, 1));
}
