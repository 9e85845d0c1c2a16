//! Ten simulated minutes of a sick host app behind the real forward handler and the real HTTP client.
//!
//! Only the network is simulated: the client's connections are made in memory. Everything above it is what runs in
//! production: pools, hyper, the forward handler, the runtime, the log.

mod app;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use app::{HostApp, Mood, WORK};
use outboard::{
    OutagePolicy, Policy, WorkerHandle, WorkerSpec, WorkerState, Workers, WorkersOptions,
    core::{
        Ledger, Log, NewMessage, TypeSet,
        ledger::{DeadQuery, Start},
        planted::{Bug, plant},
        time::TokioClock,
    },
    forward::{Client, ClientConfig, Forward, ForwardConfig},
};
use outboard_embedded::{Embedded, MemoryDisk, Options};
use tokio::time::Instant;

use crate::{
    handler::pass,
    world::{EPOCH, runtime},
};

const CONCURRENCY: u32 = 32;
/// At most so many messages are held in an outage: twice the concurrency.
const HELD: usize = 2 * CONCURRENCY as usize;
const SECOND: Duration = Duration::from_secs(1);
const SICK: Duration = Duration::from_secs(600);
/// Enough for full speed for more than two seconds: 32 at once, 20 ms each.
const BACKLOG: usize = 4_000;
/// What one message costs an app that is slow.
const SLOW_WORK: Duration = Duration::from_secs(5);
/// So many are done in 100 ms at full speed; a tenth is left to what comes between two requests.
const FULL_SPEED: usize = 160 * 9 / 10;

/// One worker that forwards to the app.
struct Outboard {
    storage: Embedded,
    workers: Workers,
    handle: WorkerHandle,
}

impl Outboard {
    async fn over(app: &HostApp) -> Self {
        Self::with(CONCURRENCY, app).await
    }

    async fn with(concurrency: u32, app: &HostApp) -> Self {
        let clock = Arc::new(TokioClock::starting_at(EPOCH));
        let options = Options { clock: clock.clone(), ..Options::default() };
        let disk = MemoryDisk::new().expect("memory can be opened");
        let storage = Embedded::memory(&disk, options).await.expect("memory opens");
        let options = WorkersOptions { clock: clock.clone(), ..WorkersOptions::default() };
        let workers = Workers::new(Arc::new(storage.clone()), Arc::new(storage.clone()), options);
        let client = Client::over(Arc::new(app.clone()), ClientConfig::default());
        let url = ForwardConfig::to("http://app.example/outboard".parse().expect("a URL"));
        let spec = WorkerSpec {
            name: "orders".into(),
            description: String::new(),
            types: TypeSet::all(),
            start: Start::Beginning,
            policy: Policy { concurrency, outage: Some(OutagePolicy::default()), ..Policy::default() },
            handler: Arc::new(Forward::with_clock(client, url, clock).expect("no header is reserved")),
            periodic: Vec::new(),
            source: outboard::Source::Log,
        };
        let handle = workers.start(spec).await.expect("the worker starts");
        Self { storage, workers, handle }
    }

    async fn append(&self, count: usize) {
        let messages: Vec<_> = (0..count).map(|_| NewMessage::new("orders/confirm", "{}")).collect();
        self.storage.append(messages.into()).await.expect("it goes on accepting");
    }

    /// How many messages are parked, durably.
    async fn parked(&self) -> u64 {
        self.storage.workers().await.expect("the ledger answers")[0].parked
    }

    fn is_out(&self) -> bool {
        matches!(self.handle.state(), WorkerState::Outage { .. })
    }

    async fn is_idle(&self) -> bool {
        let tip = *self.storage.tip().borrow();
        let row = self.storage.workers().await.expect("the ledger answers").remove(0);
        row.low == tip && row.parked == 0
    }

    async fn dead(&self) -> usize {
        let query = DeadQuery { max: 1_000, ..DeadQuery::default() };
        self.storage.dead(query).await.expect("the ledger answers").letters.len()
    }
}

/// What was broken, in words.
#[derive(Debug, Default)]
struct Broken(Vec<String>);

impl Broken {
    fn unless(&mut self, is_kept: bool, told: impl FnOnce() -> String) {
        if !is_kept {
            self.0.push(told());
        }
    }
}

/// Lets simulated time pass until it is so; a quarter of an hour is for ever.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..180_000 {
        if is_so().await {
            return;
        }
        pass(Duration::from_millis(5)).await;
    }
    panic!("it never came to {what}");
}

/// An app that is sick in the midst of its work, for ten minutes; what was broken.
fn ten_minutes(sickness: Mood) -> Vec<String> {
    runtime().block_on(async {
        let app = HostApp::new();
        let outboard = Outboard::over(&app).await;
        let mut broken = Broken::default();
        outboard.append(BACKLOG).await;
        until("work", async || app.done() >= 500).await;
        app.feel(sickness);
        let returns_at = Instant::now() + SICK;
        until("an outage", async || outboard.is_out()).await;
        let opened = app.visited();
        until("the end of what was in flight", async || app.open() <= 1).await;
        app.take_most_open();
        let first_probe = app.visited();
        probed_until(returns_at, &app, &outboard, &mut broken).await;
        // The return comes right after a probe has begun, which is the longest way to the next one.
        let visited = app.visited();
        until("a probe", async || app.visited() > visited).await;
        pass(Duration::from_millis(1)).await;
        let returned = Instant::now();
        let probes: Vec<_> = app.visits().split_off(first_probe);
        let mut begins: Vec<_> = probes.iter().map(|visit| visit.began).collect();
        begins.push(returned);
        let gap = begins.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(SICK);
        broken.unless(gap <= SECOND, || format!("no probe for {gap:?}"));
        broken.unless(probes.len() >= 560, || format!("only {} probes", probes.len()));
        let counted = probes.iter().filter_map(|visit| visit.message).find(|(_, attempt)| *attempt > 1);
        broken.unless(counted.is_none(), || format!("an attempt was counted: {counted:?}"));
        let probed = app.visits().iter().skip(opened).filter_map(|visit| visit.message).collect();

        app.feel(Mood::Well(WORK));
        at_full_speed(&app, &outboard, &mut broken).await;
        until("the end", async || outboard.is_idle().await).await;
        all_done_once(&app, &probed, &mut broken);
        let dead = outboard.dead().await;
        broken.unless(dead == 0, || format!("{dead} dead letters"));
        let outages = outboard.handle.info().counters.outages;
        broken.unless(outages == 1, || format!("{outages} outages"));
        outboard.workers.drain(Instant::now() + SECOND).await;
        outboard.storage.close().await;
        broken.0
    })
}

/// Looks at the outage until the app returns.
async fn probed_until(returns_at: Instant, app: &HostApp, outboard: &Outboard, broken: &mut Broken) {
    let in_flight = u64::from(CONCURRENCY);
    let mut parked = in_flight;
    while Instant::now() < returns_at {
        let now_parked = outboard.parked().await;
        broken.unless(now_parked <= parked, || format!("{now_parked} are parked, of {in_flight} in flight"));
        parked = parked.min(now_parked);
        let unsettled = outboard.handle.info().consumer.unsettled as usize;
        broken.unless(unsettled <= HELD, || format!("{unsettled} messages are held"));
        outboard.append(1).await;
        pass(10 * SECOND).await;
    }
    let most = app.take_most_open();
    broken.unless(most == 1, || format!("{most} probes at once"));
    broken.unless(outboard.is_out(), || "the outage ended by itself".to_owned());
}

/// A second after the return as many are under way as may be, and the work goes on at that pace.
async fn at_full_speed(app: &HostApp, outboard: &Outboard, broken: &mut Broken) {
    pass(SECOND).await;
    let state = outboard.handle.state();
    broken.unless(state == WorkerState::Running, || format!("it is {state:?} a second after the return"));
    let (open, done) = (app.open(), app.done());
    broken.unless(open + 2 >= CONCURRENCY as usize, || format!("only {open} under way after a second"));
    pass(Duration::from_millis(100)).await;
    let done = app.done() - done;
    broken.unless(done >= FULL_SPEED, || format!("only {done} in 100 ms, a second after the return"));
}

/// Every message was done once, at its first attempt, or at its second if it was charged for a failed probe.
fn all_done_once(app: &HostApp, probed: &BTreeSet<(u64, u64)>, broken: &mut Broken) {
    let successes = app.successes();
    let repeated: Vec<_> = successes.iter().filter(|(_, attempts)| attempts.len() > 1).collect();
    broken.unless(repeated.is_empty(), || format!("done more than once: {repeated:?}"));
    let sent = successes.last_key_value().map_or(0, |(last, _)| *last);
    broken.unless(successes.len() as u64 == sent && sent > BACKLOG as u64, || {
        format!("{} of {sent} were done", successes.len())
    });
    let charged: Vec<_> = successes.iter().filter(|(_, attempts)| attempts[0] > 1).collect();
    broken.unless(charged.len() <= HELD, || format!("{} were charged", charged.len()));
    // A refused connection does not say which message it was for.
    let is_own = |message: u64| probed.is_empty() || probed.contains(&(message, 1));
    let wrongly: Vec<_> =
        charged.iter().filter(|(message, attempts)| attempts[0] > 2 || !is_own(**message)).collect();
    broken.unless(wrongly.is_empty(), || format!("charged for no probe: {wrongly:?}"));
}

fn keeps_every_promise(sickness: Mood) {
    let broken = ten_minutes(sickness);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn ten_minutes_of_refused_connections_over_http() {
    keeps_every_promise(Mood::Refusing);
}

#[test]
fn ten_minutes_of_hanging_requests_over_http() {
    keeps_every_promise(Mood::Hanging);
}

#[test]
fn ten_minutes_of_503_over_http() {
    keeps_every_promise(Mood::Unavailable);
}

/// An app that needs five seconds for each message, sick for so long; how long after its return the first one is done.
/// `before` says how many messages were done, and quickly, before it fell sick; `returns` how it comes back.
fn slow_return(sickness: Mood, sick: Duration, before: usize, returns: impl FnOnce(&HostApp)) -> Duration {
    runtime().block_on(async {
        let app = HostApp::new();
        let outboard = Outboard::over(&app).await;
        if before > 0 {
            outboard.append(before).await;
            until("the good times", async || outboard.is_idle().await).await;
        }
        app.feel(sickness);
        outboard.append(100).await;
        until("an outage", async || outboard.is_out()).await;
        pass(sick).await;
        returns(&app);
        let returned = Instant::now();
        until("the first success", async || app.done() > before).await;
        let took = returned.elapsed();
        pass(Duration::from_millis(1)).await;
        assert_eq!(outboard.handle.state(), WorkerState::Running);
        // Four rounds, as many at once as may be.
        until("the end", async || outboard.is_idle().await).await;
        assert!(returned.elapsed() <= took + 5 * SLOW_WORK, "it took {:?}", returned.elapsed());
        assert_eq!((app.successes().len(), outboard.dead().await), (before + 100, 0));
        took
    })
}

/// By itself: the connections that there are stay as they are.
fn recovered(app: &HostApp) {
    app.feel(Mood::Well(SLOW_WORK));
}

#[test]
fn a_slow_app_that_refused_is_at_work_within_three_times_what_it_needs() {
    for (sickness, before) in [(Mood::Refusing, 0), (Mood::Unavailable, 0), (Mood::Refusing, 100)] {
        let took = slow_return(sickness, SICK, before, recovered);
        assert!(took <= 3 * SLOW_WORK + SECOND, "{sickness:?} after {before}: it took {took:?}");
    }
}

#[test]
fn a_slow_app_that_hung_and_was_never_seen_well_is_at_work_within_a_minute_and_a_half() {
    // At every time between two probes that wait long.
    for later in (0..90).step_by(5) {
        let took = slow_return(Mood::Hanging, (100 + later) * SECOND, 0, recovered);
        assert!(took <= 90 * SECOND, "{later} s later: it took {took:?}");
    }
}

#[test]
fn an_app_that_hung_and_is_restarted_cold_is_at_work_within_three_times_what_it_needs() {
    for (before, seconds) in [(0, 20), (100, 20), (100, 300)] {
        let restart = |app: &HostApp| app.restart(SLOW_WORK);
        let took = slow_return(Mood::Hanging, seconds * SECOND, before, restart);
        assert!(took <= 3 * SLOW_WORK + SECOND, "after {before} and {seconds} s: it took {took:?}");
    }
}

#[test]
fn a_slow_app_that_was_fast_before_it_hung_and_recovers_by_itself_waits_for_eleven_minutes_at_most() {
    for (seconds, longest) in [(60, 600), (580, 90), (3_000, 90)] {
        let took = slow_return(Mood::Hanging, seconds * SECOND, 100, recovered);
        assert!(took <= longest * SECOND, "after {seconds} s: it took {took:?}");
    }
}

/// An app that answers 503 but for moments, in which a few messages are done, and then for an hour; nothing new comes.
#[test]
fn an_app_that_answers_503_with_short_breaks_buries_nothing() {
    const BREAKS: u64 = 5;
    runtime().block_on(async {
        let app = HostApp::new();
        app.feel(Mood::Unavailable);
        let outboard = Outboard::with(2, &app).await;
        outboard.append(40).await;
        for _ in 0..BREAKS {
            pass(60 * SECOND).await;
            app.feel(Mood::Well(Duration::from_millis(700)));
            pass(2 * SECOND).await;
            app.feel(Mood::Unavailable);
        }
        let done = app.done();
        assert!((5..20).contains(&done), "{done} were done in the breaks");
        pass(6 * SICK).await;
        app.feel(Mood::Well(WORK));
        until("the end", async || outboard.is_idle().await).await;
        assert_eq!((app.successes().len(), outboard.dead().await), (40, 0));
        let attempts = app.successes().values().map(|attempts| attempts[0]).max();
        // One for each outage, and one for each break that it failed in without another one.
        assert!(attempts <= Some(2 + 2 * BREAKS), "{attempts:?} attempts");
    });
}

fn is_caught(bug: Bug, told: &str) {
    let _planted = plant(bug);
    let broken = ten_minutes(Mood::Unavailable);
    assert!(broken.iter().any(|broken| broken.contains(told)), "{bug:?} is not seen: {broken:?}");
}

#[test]
fn an_outage_that_keeps_attempts_is_caught_over_http() {
    is_caught(Bug::OutageKeepsAttempts, "an attempt was counted");
}

#[test]
fn an_outage_that_parks_is_caught_over_http() {
    is_caught(Bug::OutageParks, "charged for no probe");
}
