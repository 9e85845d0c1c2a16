//! Sidekiq's queues with the real Sidekiq and ActiveJob on the other side.
//!
//! `OUTBOARD_TEST_SCALE=full` runs 10,000 jobs each way.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use outboard_backends::sidekiq::Sidekiq;
use outboard_core::{
    Consumer, Delivery, Settlement, Verdict,
    consumer::Tag,
    queue::{ConsumeSpec, Destination, Outgoing, Prefetch, Queue, QueueSpec},
    time::system_clock,
};
use outboard_testkit::Redis;
use redis::{AsyncCommands, aio::MultiplexedConnection};
use serde::Deserialize;
use tokio::time::Instant;

const QUEUE: &str = "shared";

/// How many jobs go each way.
fn scale() -> usize {
    if std::env::var("OUTBOARD_TEST_SCALE").is_ok_and(|scale| scale == "full") { 10_000 } else { 500 }
}

/// A Redis, ours and Ruby's way to it.
struct Site {
    server: Redis,
    port: Sidekiq,
    connection: MultiplexedConnection,
}

impl Site {
    async fn start() -> Self {
        let server = Redis::start().expect("Redis starts");
        let url = format!("sidekiq+{}", server.url());
        let port = Sidekiq::open(url.parse().expect("it is a URL"), system_clock());
        Self { connection: connect(&server.url()).await, server, port }
    }

    /// A script of ours in Ruby.
    fn ruby(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ruby"));
        command.env("REDIS_URL", self.server.url()).env("QUEUE", QUEUE);
        command
    }

    /// Sidekiq's own view.
    async fn look(&self, retry: bool) -> View {
        let mut command = self.ruby("ruby", &["look.rb"]);
        if retry {
            command.env("RETRY", "1");
        }
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it does not panic");
        let output = output.expect("ruby is there: install ruby-sidekiq and ruby-activejob");
        let said = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&said).unwrap_or_else(|error| {
            panic!("{error}: {said} {}", String::from_utf8_lossy(&output.stderr));
        })
    }

    async fn enqueue(&self, jobs: usize) {
        let mut command = self.ruby("ruby", &["enqueue.rb"]);
        command.env("JOBS", jobs.to_string());
        Self::run(command).await;
    }

    async fn run(mut command: Command) {
        let status = tokio::task::spawn_blocking(move || command.status()).await.expect("it does not panic");
        assert!(status.expect("ruby is there: install ruby-sidekiq and ruby-activejob").success());
    }

    async fn consumer(&self, prefetch: u32) -> Arc<dyn Consumer> {
        consumer(&self.port, prefetch).await
    }

    async fn publish(&self, count: usize) {
        let numbers: Vec<usize> = (0..count).collect();
        for numbers in numbers.chunks(250) {
            let job =
                |&number: &usize| Outgoing::new(Destination::queue(QUEUE), "EchoJob", arguments(number));
            for answer in self.port.publish(numbers.iter().map(job).collect()).await.expect("it answers") {
                answer.expect("it is taken");
            }
        }
    }

    /// The next line of a list that somebody else writes.
    async fn next(&mut self, list: &str) -> String {
        let line: Option<(String, String)> = self.connection.blpop(list, 60.0).await.expect("Redis answers");
        line.unwrap_or_else(|| panic!("nothing comes to `{list}` within a minute")).1
    }
}

#[derive(Debug, Deserialize)]
struct View {
    queues: Vec<String>,
    size: usize,
    latency: f64,
    first: Option<String>,
    enqueued: usize,
    processed: u64,
    failed: u64,
    retries: Vec<Entry>,
    dead: Vec<Entry>,
    scheduled: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    class: String,
    arguments: String,
    queue: String,
    jid: String,
    error: Option<String>,
    count: Option<u32>,
    failed_at: Option<f64>,
    r#in: f64,
}

/// The arguments of a job, as both sides write them.
fn arguments(number: usize) -> String {
    let beyond = 9_007_199_254_740_993 + number;
    let large = format!("1{}", "0".repeat(30));
    format!("[{number},{beyond},\"Größe \u{2028} 👩\u{200d}🚀\",[null,1.5,{large}]]")
}

fn all(count: usize) -> BTreeSet<String> {
    (0..count).map(arguments).collect()
}

async fn connect(url: &str) -> MultiplexedConnection {
    let configuration = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(url).expect("it is a URL");
    client.get_multiplexed_async_connection_with_config(&configuration).await.expect("Redis is there")
}

async fn consumer(port: &Sidekiq, prefetch: u32) -> Arc<dyn Consumer> {
    let prefetch = Prefetch::Fixed(prefetch);
    let spec = ConsumeSpec { prefetch, ..ConsumeSpec::new("worker", QueueSpec::named(QUEUE)) };
    port.consume(spec).await.expect("it can be consumed")
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message.payload).into_owned()
}

async fn settle(consumer: &Arc<dyn Consumer>, tag: Tag, verdict: Verdict) {
    let ticket = consumer.settle(Settlement { tag, verdict, effects: None });
    consumer.durable().wait_for(|durable| *durable >= ticket).await.expect("the consumer lives");
}

/// A process that ends with this.
struct Held(Child);

impl Held {
    fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).env("HELD", "1");
        Self(command.spawn().expect("sidekiq is there: install ruby-sidekiq and ruby-activejob"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidekiq_runs_what_we_enqueued() {
    let mut site = Site::start().await;
    let count = scale();
    site.publish(count).await;
    let view = site.look(false).await;
    assert_eq!((view.queues, view.size, view.enqueued), (vec![QUEUE.to_owned()], count, count));
    assert!(view.latency > 0.0 && view.latency < 600.0, "{}", view.latency);
    assert_eq!(view.first.as_deref(), Some("EchoJob"));
    let _sidekiq = Held::spawn(site.ruby("sidekiq", &["-r", "./jobs.rb", "-q", QUEUE, "-c", "5"]));
    let mut ran = BTreeSet::new();
    for _ in 0..count {
        let line = site.next("ran").await;
        assert!(ran.insert(line.clone()), "{line} ran twice");
    }
    assert_eq!(ran, all(count));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidekiq_runs_our_plain_and_scheduled_jobs() {
    let mut site = Site::start().await;
    let url = format!("sidekiq+{}?jobs=plain", site.server.url());
    let plain = Sidekiq::open(url.parse().expect("it is a URL"), system_clock());
    let to = || Destination::queue(QUEUE);
    let run_at = Some(outboard_core::Clock::now(&outboard_core::time::SystemClock) + Duration::from_secs(1));
    let later = Outgoing { run_at, ..Outgoing::new(to(), "EchoWorker", "[\"later\"]") };
    let batch = vec![later, Outgoing::new(to(), "EchoWorker", "{\"only\":1}")];
    for answer in plain.publish(batch).await.expect("it answers") {
        answer.expect("it is taken");
    }
    let scheduled = site.look(false).await.scheduled;
    assert_eq!((scheduled.len(), &*scheduled[0].arguments), (1, "[\"later\"]"));
    let _sidekiq = Held::spawn(site.ruby("sidekiq", &["-r", "./jobs.rb", "-q", QUEUE, "-c", "2"]));
    assert_eq!(site.next("ran").await, "[{\"only\":1}]");
    assert_eq!(site.next("ran").await, "[\"later\"]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_run_what_an_application_enqueued() {
    let site = Site::start().await;
    let count = scale();
    site.enqueue(count).await;
    let consumer = site.consumer(100).await;
    let mut ran = BTreeSet::new();
    while ran.len() < count {
        let deliveries = consumer.next(50).await.expect("it delivers");
        for delivery in deliveries {
            assert!(delivery.is_identified && delivery.attempt == 1);
            assert!(matches!(&*delivery.message.kind, "EchoJob" | "EchoWorker"), "{}", delivery.message.kind);
            assert!(ran.insert(text(&delivery)), "it came twice");
            consumer.settle(Settlement { tag: delivery.tag, verdict: Verdict::Done, effects: None });
        }
    }
    assert_eq!(ran, all(count));
    let drained = consumer.drain(Instant::now() + Duration::from_secs(10)).await.expect("it drains");
    assert_eq!(drained.returned, 0);
    let view = site.look(false).await;
    assert_eq!((view.size, view.processed, view.failed), (0, count as u64, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_retries_and_dead_jobs_are_those_of_sidekiq() {
    let site = Site::start().await;
    site.enqueue(3).await;
    let consumer = site.consumer(10).await;
    let mut jobs = Vec::new();
    while jobs.len() < 3 {
        jobs.extend(consumer.next(3).await.expect("it delivers"));
    }
    let (hour, reason) = (Duration::from_secs(3_600), Arc::from("503 from the app: müde"));
    settle(&consumer, jobs[0].tag, Verdict::RetryAfter { delay: hour, reason }).await;
    settle(&consumer, jobs[1].tag, Verdict::Dead { reason: "no such chat".into() }).await;
    settle(&consumer, jobs[2].tag, Verdict::Snooze { delay: hour }).await;
    let view = site.look(true).await;
    assert_eq!((view.processed, view.failed), (2, 2));
    let [retry] = &view.retries[..] else { panic!("{view:?}") };
    assert_eq!((&*retry.class, &retry.arguments, &*retry.queue), ("EchoJob", &arguments(0), QUEUE));
    assert_eq!((retry.error.as_deref(), retry.count), (Some("503 from the app: müde"), Some(0)));
    assert_eq!(Some(&*retry.jid), jobs[0].message.name.as_deref());
    assert!(retry.r#in > 3_500.0 && retry.r#in < 3_601.0 && retry.failed_at.is_some(), "{retry:?}");
    let [dead] = &view.dead[..] else { panic!("{view:?}") };
    assert_eq!(
        (&*dead.class, &dead.arguments, dead.error.as_deref()),
        ("EchoWorker", &arguments(1), Some("no such chat"))
    );
    let [snoozed] = &view.scheduled[..] else { panic!("{view:?}") };
    assert_eq!((&snoozed.arguments, snoozed.count), (&arguments(2), None));
    // Somebody has pressed the button for all retries: Sidekiq does not count the attempt before it.
    let again = consumer.next(10).await.expect("it delivers").remove(0);
    assert_eq!((again.attempt, text(&again), &again.message.name), (1, arguments(0), &jobs[0].message.name));
    settle(&consumer, again.tag, Verdict::Done).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_tried_as_often_as_its_application_says() {
    let site = Site::start().await;
    Site::run(site.ruby("ruby", &["bounded.rb"])).await;
    let consumer = site.consumer(10).await;
    let mut ran = Vec::new();
    // Two of them come a second time.
    while ran.len() < 6 + 2 {
        let delivery = consumer.next(1).await.expect("it delivers").remove(0);
        ran.push(text(&delivery));
        let delay = if delivery.attempt == 1 { Duration::ZERO } else { Duration::from_secs(3_600) };
        settle(&consumer, delivery.tag, Verdict::RetryAfter { delay, reason: "500 from the app".into() })
            .await;
    }
    // They wait in a set, which has no order of its own for those of the same time.
    ran[6..].sort_by(|one, other| other.cmp(one));
    let first = ["once, ActiveJob", "once", "no retry", "one retry", "not kept", "many"];
    let wanted = first.into_iter().chain(["one retry", "many"]).map(|name| format!("[\"{name}\"]"));
    assert_eq!(ran, wanted.collect::<Vec<_>>());
    let view = site.look(false).await;
    let of = |entries: &[Entry]| entries.iter().map(|entry| entry.arguments.clone()).collect::<BTreeSet<_>>();
    let kept = ["once, ActiveJob", "once", "no retry", "one retry"].map(|name| format!("[\"{name}\"]"));
    assert_eq!(of(&view.dead), BTreeSet::from(kept), "{view:?}");
    assert!(
        view.dead.iter().all(|dead| dead.error.as_deref().is_some_and(|error| error.contains("`retry`")))
    );
    assert_eq!(of(&view.retries), BTreeSet::from(["[\"many\"]".to_owned()]), "{view:?}");
    assert_eq!((view.size, view.processed, view.failed), (0, 8, 8));
}

/// Runs in a process of its own, which is killed; as a test it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_to_be_killed() {
    let Ok(url) = std::env::var("OUTBOARD_TEST_KILLED") else { return };
    let port = Sidekiq::open(format!("sidekiq+{url}").parse().expect("it is a URL"), system_clock());
    let consumer = consumer(&port, 5).await;
    let mut connection = connect(&url).await;
    loop {
        for delivery in consumer.next(10).await.expect("it delivers") {
            let _: u64 = connection.rpush("done", text(&delivery)).await.expect("Redis is there");
            settle(&consumer, delivery.tag, Verdict::Done).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_lose_no_job_of_an_application() {
    let mut site = Site::start().await;
    let count = scale();
    site.enqueue(count).await;
    let start = || {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.args(["--exact", "a_process_to_be_killed", "--nocapture"]).stdout(Stdio::null());
        command.env("OUTBOARD_TEST_KILLED", site.server.url());
        Held::spawn(command)
    };
    let mut running = Some(start());
    let (mut done, mut kills, mut doubled) = (BTreeSet::new(), 0, 0);
    while done.len() < count {
        if done.len() >= (kills + 1) * count / 12 && kills < 10 {
            // Dropping it kills it as `kill -9` does.
            drop(running.take());
            running = Some(start());
            kills += 1;
        }
        let line: Option<(String, String)> =
            site.connection.blpop("done", 60.0).await.expect("Redis answers");
        let line = line.unwrap_or_else(|| panic!("{} of {count} are lost", count - done.len())).1;
        doubled += usize::from(!done.insert(line));
    }
    assert_eq!((done, kills), (all(count), 10));
    // Between the effect and the word that it is done lies one job for each kill.
    assert!(doubled <= 10, "{doubled} ran twice");
}
