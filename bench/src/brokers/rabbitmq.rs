//! RabbitMQ: the whole worker beside clients in Go, Python and JavaScript.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outboard::core::queue::{Argument, QueueKind, QueueSpec};
use outboard_backends::rabbitmq::{Options, RabbitMq, Target as Broker};

use super::{
    alternate::{Contender, Contest, Ground},
    amqp::{Client, Program},
    workshop::{Consuming, Workshop},
};
use crate::{
    machine::version_of,
    order::{KIND, Orders, PAYLOAD_BYTES},
    report::{Report, Row, Target, Unit},
    settings::Settings,
    statistics::Samples,
};

/// How many deliveries may be unsettled; and how many publications unconfirmed.
const PREFETCH: u32 = 250;
const WINDOW: usize = 1_000;

/// Our publisher's callers: so many at once, each with a batch of so many. Twice what the publisher lets be unconfirmed, so
/// that the next message is there whenever a confirm comes, as it is with the peer.
const PUBLISHERS: (usize, usize) = (20, WINDOW / 10);

/// A queue goes away by itself when nobody has used it for so long: nothing is left of a slice after a while.
const EXPIRES_MS: i64 = 60_000;

/// How long the broker may take to count what a slice has left.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

/// How unequal the shares of two consumers may be, in percent.
const UNEQUAL_PERCENT: f64 = 10.0;

/// What every row of consuming has in common.
const CONSUMING: &str = "200-byte persistent messages, manual acks; from the first delivery to the channel's orderly end; an ack is not synced";

/// The programs of other languages that are here.
struct Programs {
    go: Option<Program>,
    python: Option<Program>,
    node: Option<Program>,
}

/// Measures us and them on a broker that is started for it.
pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let broker = match outboard_testkit::RabbitMq::start() {
        Ok(broker) => broker,
        Err(error) => return Ok(report.skipped("RabbitMQ", &format!("{error:#}"))?),
    };
    let version = version_of("rabbitmqctl", "version").unwrap_or_else(|| "?".to_owned());
    let programs = programs(settings, report)?;
    let target: Broker = broker.url().parse()?;
    let workshop = Workshop::open(&settings.directory("rabbitmq")?, || {
        Ok(Arc::new(RabbitMq::new(target, Options::default())))
    })?;
    for contest in contests(&workshop, &programs, &broker.url(), (&version, settings.is_smoke)) {
        let (contest, mut ground) = contest;
        contest.run(&mut ground, settings, report)?;
    }
    shares(&workshop, settings, report)
}

fn programs(settings: &Settings, report: &Report) -> Result<Programs> {
    let cache = settings.cache()?;
    std::fs::create_dir_all(&cache)?;
    let found = |name: &str, program: Result<Program>| match program {
        _ if settings.is_alone => Ok(None),
        Ok(program) => Ok(Some(program)),
        Err(error) => report.skipped(name, &format!("{error:#}")).map(|()| None),
    };
    Ok(Programs {
        go: found("Go's amqp091", Program::go(&cache))?,
        python: found("Python's pika", Program::python(&cache))?,
        node: found("Node's amqplib", Program::node(&cache))?,
    })
}

/// Everything that is measured against somebody.
fn contests(
    workshop: &Workshop,
    programs: &Programs,
    url: &str,
    (version, is_smoke): (&str, bool),
) -> Vec<(Contest, Queues)> {
    let client = |program: &Option<Program>, how: &str, verb, numbers: &[usize], target| {
        let client = |program| Box::new(Client::new(program, how, verb, url, numbers)) as Box<dyn Contender>;
        program.as_ref().map(|program| (client(program), target))
    };
    let go = |how: &str, numbers: &[usize], least| {
        client(&programs.go, how, Some("consume"), numbers, Target::RatioAtLeast(least))
    };
    let prefetch = PREFETCH as usize;
    let consuming = |what: &str, kind, prefetch, peers: Vec<Option<(Box<dyn Contender>, Target)>>| {
        let own = Box::new(OwnConsumer { workshop: workshop.clone(), kind, prefetch });
        let (what, note) = (format!("RabbitMQ {version}, {what}"), CONSUMING.to_owned());
        let contest = Contest { what, note, own, peers: peers.into_iter().flatten().collect() };
        (contest, Queues::new(workshop, kind, Purpose::Consume))
    };
    let publishing = |what: &str, kind| {
        let own = Box::new(OwnPublisher { workshop: workshop.clone() });
        let numbers = [WINDOW, PAYLOAD_BYTES];
        let peer = client(&programs.go, "window 1,000", Some("publish"), &numbers, Target::RatioAtLeast(1.0));
        let note =
            "200-byte persistent messages, at most 1,000 unconfirmed; a confirm follows a batched write"
                .to_owned();
        let what = format!("RabbitMQ {version}, {what}");
        let contest = Contest { what, note, own, peers: peer.into_iter().collect() };
        (contest, Queues::new(workshop, kind, Purpose::Publish))
    };
    // So far it is missed by more than a short slice's chance can make up for: full runs say so.
    let of_pika = if is_smoke { Target::None } else { Target::RatioAtLeast(4.0) };
    let classic = vec![
        go("ack each", &[prefetch, 1], 1.5),
        go("ack every 50", &[prefetch, 50], 1.1),
        client(&programs.python, "ack each", None, &[prefetch], of_pika),
        client(&programs.node, "ack each", None, &[prefetch], Target::None),
    ];
    vec![
        consuming("classic, prefetch 250", QueueKind::Classic, PREFETCH, classic),
        consuming(
            "quorum, prefetch 250",
            QueueKind::Quorum,
            PREFETCH,
            vec![go("ack each", &[prefetch, 1], 1.2)],
        ),
        consuming("classic, prefetch 1", QueueKind::Classic, 1, vec![go("prefetch 1", &[1, 1], 1.0)]),
        publishing("classic, confirms", QueueKind::Classic),
        publishing("quorum, confirms", QueueKind::Quorum),
    ]
}

/// What a slice needs of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// It is full before and empty afterwards.
    Consume,
    /// The other way round.
    Publish,
}

/// A new queue for each slice.
struct Queues {
    workshop: Workshop,
    kind: QueueKind,
    purpose: Purpose,
}

impl Queues {
    fn new(workshop: &Workshop, kind: QueueKind, purpose: Purpose) -> Self {
        Self { workshop: workshop.clone(), kind, purpose }
    }
}

impl Ground for Queues {
    fn prepare(&mut self, messages: usize) -> Result<String> {
        let name = format!("bench-{}", self.workshop.number());
        self.workshop.block_on(self.workshop.queue.declare(queue(&name, self.kind)))?;
        if self.purpose == Purpose::Consume {
            self.workshop.publish(&name, messages, PUBLISHERS, &Orders::of_kind(KIND))?;
        }
        Ok(name)
    }

    fn inspect(&mut self, name: &str, messages: usize) -> Result<()> {
        let wanted = if self.purpose == Purpose::Consume { 0 } else { messages as u64 };
        let asked = Instant::now();
        loop {
            let stats = self.workshop.block_on(self.workshop.queue.stats(name.into()))?;
            // A quorum queue may drop the last acknowledgements when their channel is closed right after them.
            let more = if self.kind == QueueKind::Quorum { u64::from(PREFETCH) } else { 0 };
            if stats.ready.is_some_and(|ready| (wanted..=wanted + more).contains(&ready)) {
                break;
            }
            // It also counts a little later.
            ensure!(asked.elapsed() < COUNTED_WITHIN, "{:?} messages are left, not {wanted}", stats.ready);
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.purpose == Purpose::Publish {
            self.workshop.consume(queue(name, self.kind), messages, consuming(PREFETCH, 1))?;
        }
        Ok(())
    }
}

fn queue(name: &str, kind: QueueKind) -> QueueSpec {
    let arguments = [("x-expires".into(), Argument::Number(EXPIRES_MS))].into();
    QueueSpec { kind, arguments, ..QueueSpec::named(name) }
}

fn consuming(prefetch: u32, workers: usize) -> Consuming {
    Consuming { prefetch, concurrency: prefetch.div_ceil(2), workers, weigh: |payload| payload.len() as u64 }
}

/// Our worker.
struct OwnConsumer {
    workshop: Workshop,
    kind: QueueKind,
    prefetch: u32,
}

impl Contender for OwnConsumer {
    fn name(&self) -> &'static str {
        "worker"
    }

    fn run(&mut self, name: &str, messages: usize) -> Result<Duration> {
        let handled = self.workshop.consume(queue(name, self.kind), messages, consuming(self.prefetch, 1))?;
        Ok(handled.took)
    }
}

/// Our publisher.
struct OwnPublisher {
    workshop: Workshop,
}

impl Contender for OwnPublisher {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn run(&mut self, name: &str, messages: usize) -> Result<Duration> {
        self.workshop.publish(name, messages, PUBLISHERS, &Orders::of_kind(KIND))
    }
}

/// How equally two of our workers share a queue.
fn shares(workshop: &Workshop, settings: &Settings, report: &mut Report) -> Result<()> {
    let messages = ((settings.slice.as_secs_f64() * 20_000.0) as usize).max(2_000);
    let mut ground = Queues::new(workshop, QueueKind::Classic, Purpose::Consume);
    let mut differ = Samples::default();
    for _ in 0..settings.slices {
        let name = ground.prepare(messages)?;
        let handled = workshop.consume(queue(&name, QueueKind::Classic), messages, consuming(PREFETCH, 2))?;
        let (least, most) = (handled.shares.iter().min(), handled.shares.iter().max());
        let (least, most) = (least.copied().unwrap_or(0) as f64, most.copied().unwrap_or(0) as f64);
        differ.push(100.0 * (most - least) / most);
        ground.inspect(&name, messages)?;
    }
    let row = Row::new("RabbitMQ, two workers on one queue: shares differ by", Unit::Percent, differ);
    Ok(report
        .row(row.target(Target::AtMost(UNEQUAL_PERCENT)).note("prefetch 250 each; from their start on"))?)
}
