//! JetStream: the whole worker beside the bare client.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt;
use outboard::core::{queue::QueueSpec, time::system_clock};
use outboard_backends::jetstream::{JetStream, Options, Target as Server};

use super::{
    alternate::{Contender, Contest, Ground},
    workshop::{Consuming, Workshop},
};
use crate::{
    machine::version_of,
    order::{KIND, Orders},
    report::{Report, Target},
    settings::Settings,
};

/// How many messages may be unacknowledged, on both sides.
const PREFETCH: u32 = 1_000;

/// Our publisher's callers: so many at once, each with a batch of so many.
const PUBLISHERS: (usize, usize) = (10, 100);

/// Measures us and the bare client on a server that is started for it.
pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let server = match outboard_testkit::Nats::start() {
        Ok(server) => server,
        Err(error) => return Ok(report.skipped("JetStream", &format!("{error:#}"))?),
    };
    let version = version_of("nats-server", "--version").unwrap_or_else(|| "nats-server ?".to_owned());
    let target: Server = server.url().parse()?;
    let workshop = Workshop::open(&settings.directory("jetstream")?, || {
        Ok(Arc::new(JetStream::open(target, Options::default(), system_clock())))
    })?;
    let context = workshop.block_on(async {
        // It has a task of its own, too.
        anyhow::Ok(jetstream::new(async_nats::connect(server.url()).await?))
    })?;
    let mut peers: Vec<(Box<dyn Contender>, Target)> = Vec::new();
    if !settings.is_alone {
        let bare = Bare { workshop: workshop.clone(), context: context.clone() };
        peers.push((Box::new(bare), Target::RatioAtLeast(0.9)));
    }
    let contest = Contest {
        what: format!("{version}, pull and ack"),
        note: "200-byte messages on files, 1,000 unacknowledged at most; the server acknowledges before it syncs".to_owned(),
        own: Box::new(OwnConsumer { workshop: workshop.clone() }),
        peers,
    };
    contest.run(&mut Streams { workshop, context }, settings, report)
}

/// A new stream for each slice.
struct Streams {
    workshop: Workshop,
    context: jetstream::Context,
}

impl Ground for Streams {
    fn prepare(&mut self, messages: usize) -> Result<String> {
        let name = format!("bench-{}", self.workshop.number());
        self.workshop.block_on(self.workshop.queue.declare(QueueSpec::named(name.as_str())))?;
        self.workshop.publish(&name, messages, PUBLISHERS, &Orders::of_kind(KIND))?;
        Ok(name)
    }

    fn inspect(&mut self, name: &str, _messages: usize) -> Result<()> {
        let stats = self.workshop.block_on(self.workshop.queue.stats(name.into()))?;
        let left = (stats.ready, stats.unsettled);
        ensure!(left == (Some(0), Some(0)), "{left:?} messages are left");
        self.workshop.block_on(self.context.delete_stream(name))?;
        Ok(())
    }
}

/// Our worker.
struct OwnConsumer {
    workshop: Workshop,
}

impl Contender for OwnConsumer {
    fn name(&self) -> &'static str {
        "worker"
    }

    fn run(&mut self, name: &str, messages: usize) -> Result<Duration> {
        let how = Consuming {
            prefetch: PREFETCH,
            concurrency: PREFETCH / 2,
            workers: 1,
            weigh: |payload| payload.len() as u64,
        };
        Ok(self.workshop.consume(QueueSpec::named(name), messages, how)?.took)
    }
}

/// The client by itself, as its documentation uses it.
struct Bare {
    workshop: Workshop,
    context: jetstream::Context,
}

impl Bare {
    async fn consume(context: jetstream::Context, stream: String, messages: usize) -> Result<Duration> {
        let config = pull::Config {
            durable_name: Some("bare".to_owned()),
            max_ack_pending: i64::from(PREFETCH),
            ..pull::Config::default()
        };
        let consumer = context.create_consumer_on_stream(config, stream).await?;
        let mut arriving = consumer.stream().max_messages_per_batch(PREFETCH as usize).messages().await?;
        let mut began = None;
        for handled in 1..=messages {
            let message = arriving.next().await.context("the server ended the stream")??;
            began.get_or_insert_with(Instant::now);
            std::hint::black_box(message.payload.len());
            // The last one's answer is everybody's: the server takes them in order.
            let acked = if handled < messages { message.ack().await } else { message.double_ack().await };
            acked.map_err(|error| anyhow::anyhow!("not acknowledged: {error}"))?;
        }
        Ok(began.context("there were messages")?.elapsed())
    }
}

impl Contender for Bare {
    fn name(&self) -> &'static str {
        "bare async-nats 0.51"
    }

    fn run(&mut self, name: &str, messages: usize) -> Result<Duration> {
        // In a task of its own, where the runtime's other tasks are.
        let consuming = Self::consume(self.context.clone(), name.to_owned(), messages);
        let consuming = self.workshop.handle().spawn(consuming);
        self.workshop.block_on(consuming)?
    }
}
