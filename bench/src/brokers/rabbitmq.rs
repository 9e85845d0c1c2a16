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

/// What every row of publishing has in common.
const PUBLISHING: &str =
    "200-byte persistent messages, at most 1,000 unconfirmed; a confirm follows a batched write";

/// How many words of binaries each Erlang process of the broker may hold before it collects garbage for their sake.
///
/// As installed (Erlang 25), a classic queue with some ten thousand messages goes through all of them again for about each
/// thousand that it delivers, as traces of its collections show. That is more than half the time that quick clients are
/// given, and makes all of them equally slow. So everything is measured twice: with this, and as installed.
const ERLANG: &str = "+hmbs 16777216";

/// The programs of other languages that are here.
struct Programs {
    go: Option<Program>,
    python: Option<Program>,
    node: Option<Program>,
}

/// Measures us and them on brokers that are started for it.
pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let broker = match outboard_testkit::RabbitMq::with_erlang_arguments(ERLANG) {
        Ok(broker) => broker,
        Err(error) => return Ok(report.skipped("RabbitMQ", &format!("{error:#}"))?),
    };
    let version = version_of("rabbitmqctl", "version").unwrap_or_else(|| "?".to_owned());
    let programs = programs(settings, report)?;
    let name = |how: &str| format!("RabbitMQ {version} {how}");
    Field::open(&broker, name(ERLANG), Target::RatioAtLeast(4.0), &programs, settings)?
        .run(settings, report)?;
    drop(broker);
    // The broker's collections bound us here and not pika, which is slower than they are.
    let (broker, of_pika) = (outboard_testkit::RabbitMq::start()?, Target::None);
    Field::open(&broker, name("as installed"), of_pika, &programs, settings)?.run(settings, report)
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

/// A broker, and who is measured on it.
struct Field<'a> {
    workshop: Workshop,
    /// The broker, as rows call it.
    name: String,
    url: String,
    /// What our ratio to pika should be on it.
    of_pika: Target,
    programs: &'a Programs,
}

/// A peer, if it is here, with what our ratio to it should be.
type Peer = Option<(Box<dyn Contender>, Target)>;

impl<'a> Field<'a> {
    fn open(
        broker: &outboard_testkit::RabbitMq,
        name: String,
        of_pika: Target,
        programs: &'a Programs,
        settings: &Settings,
    ) -> Result<Self> {
        let url = broker.url();
        let target: Broker = url.parse()?;
        let workshop = Workshop::open(&settings.directory(&format!("rabbitmq-{}", broker.port()))?, || {
            Ok(Arc::new(RabbitMq::new(target, Options::default())))
        })?;
        Ok(Self { workshop, name, url, of_pika, programs })
    }

    fn run(&self, settings: &Settings, report: &mut Report) -> Result<()> {
        for (contest, mut ground) in self.contests() {
            contest.run(&mut ground, settings, report)?;
        }
        self.shares(settings, report)
    }

    /// Everything that is measured against somebody.
    fn contests(&self) -> Vec<(Contest, Queues)> {
        let each = |prefetch: u32, least| vec![self.go_consumer(prefetch, 1, least)];
        vec![
            self.classic(),
            self.consuming("quorum, prefetch 250", QueueKind::Quorum, PREFETCH, each(PREFETCH, 1.2)),
            self.consuming("classic, prefetch 1", QueueKind::Classic, 1, each(1, 1.0)),
            self.publishing("classic, confirms", QueueKind::Classic),
            self.publishing("quorum, confirms", QueueKind::Quorum),
        ]
    }

    fn classic(&self) -> (Contest, Queues) {
        let numbers = [PREFETCH as usize];
        let peers = vec![
            self.go_consumer(PREFETCH, 1, 1.5),
            self.go_consumer(PREFETCH, 50, 1.1),
            self.peer(&self.programs.python, "ack each", None, &numbers, self.of_pika),
            self.peer(&self.programs.node, "ack each", None, &numbers, Target::None),
        ];
        self.consuming("classic, prefetch 250", QueueKind::Classic, PREFETCH, peers)
    }

    fn consuming(&self, what: &str, kind: QueueKind, prefetch: u32, peers: Vec<Peer>) -> (Contest, Queues) {
        let own = OwnConsumer { workshop: self.workshop.clone(), kind, prefetch };
        let contest = self.contest(what, CONSUMING, Box::new(own), peers);
        (contest, Queues::new(&self.workshop, kind, Purpose::Consume))
    }

    fn publishing(&self, what: &str, kind: QueueKind) -> (Contest, Queues) {
        let own = OwnPublisher { workshop: self.workshop.clone() };
        let (numbers, target) = ([WINDOW, PAYLOAD_BYTES], Target::RatioAtLeast(1.0));
        let go = self.peer(&self.programs.go, "window 1,000", Some("publish"), &numbers, target);
        let contest = self.contest(what, PUBLISHING, Box::new(own), vec![go]);
        (contest, Queues::new(&self.workshop, kind, Purpose::Publish))
    }

    /// How equally two of our workers share a queue.
    fn shares(&self, settings: &Settings, report: &mut Report) -> Result<()> {
        let messages = ((settings.slice.as_secs_f64() * 20_000.0) as usize).max(2_000);
        let mut ground = Queues::new(&self.workshop, QueueKind::Classic, Purpose::Consume);
        let mut differ = Samples::default();
        for _ in 0..settings.slices {
            let name = ground.prepare(messages)?;
            let queue = queue(&name, QueueKind::Classic);
            let handled = self.workshop.consume(queue, messages, consuming(PREFETCH, 2))?;
            let (least, most) = (handled.shares.iter().min(), handled.shares.iter().max());
            let (least, most) = (least.copied().unwrap_or(0) as f64, most.copied().unwrap_or(0) as f64);
            differ.push(100.0 * (most - least) / most);
            ground.inspect(&name, messages)?;
        }
        let what = format!("{}, two workers: shares differ by", self.name);
        let row = Row::new(what, Unit::Percent, differ).target(Target::AtMost(UNEQUAL_PERCENT));
        Ok(report.row(row.note("prefetch 250 each, on one classic queue; from their start on"))?)
    }

    fn contest(&self, what: &str, note: &str, own: Box<dyn Contender>, peers: Vec<Peer>) -> Contest {
        let what = format!("{}, {what}", self.name);
        Contest { what, note: note.to_owned(), own, peers: peers.into_iter().flatten().collect() }
    }

    fn go_consumer(&self, prefetch: u32, ack_every: usize, least: f64) -> Peer {
        let how = match (prefetch, ack_every) {
            (1, _) => "prefetch 1".to_owned(),
            (_, 1) => "ack each".to_owned(),
            _ => format!("ack every {ack_every}"),
        };
        let (numbers, target) = ([prefetch as usize, ack_every], Target::RatioAtLeast(least));
        self.peer(&self.programs.go, &how, Some("consume"), &numbers, target)
    }

    fn peer(
        &self,
        program: &Option<Program>,
        how: &str,
        verb: Option<&'static str>,
        numbers: &[usize],
        target: Target,
    ) -> Peer {
        let program = program.as_ref()?;
        Some((Box::new(Client::new(program, how, verb, &self.url, numbers)), target))
    }
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
