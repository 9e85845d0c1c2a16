//! One of the real brokers, behind a proxy.

use std::{sync::Arc, time::Duration};

use outboard::core::{
    Queue,
    queue::{ConsumeSpec, Destination, Identify, Outgoing, Prefetch, QueueKind, QueueSpec},
    time::system_clock,
};
use outboard_backends::OpenOptions;
use outboard_testkit::{Nats, Proxy, RabbitMq, Redis, rabbitmq};

/// Which broker, and how its queue is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    RabbitMq,
    Quorum,
    Sidekiq,
    JetStream,
}

enum Server {
    RabbitMq(RabbitMq),
    Redis(Redis),
    Nats(Nats),
}

/// A broker of one's own.
pub(crate) struct Broker {
    kind: Kind,
    server: Server,
    pub(crate) proxy: Proxy,
}

pub(crate) const QUEUE: &str = "orders";

impl Broker {
    pub(crate) async fn start(kind: Kind) -> Self {
        let starting = tokio::task::spawn_blocking(move || match kind {
            Kind::RabbitMq | Kind::Quorum => RabbitMq::start().map(Server::RabbitMq),
            Kind::Sidekiq => Redis::start().map(Server::Redis),
            // Acknowledged means written: only so can a kill of the machine be told from one of the process.
            Kind::JetStream => Nats::start().map(Server::Nats),
        });
        let server = starting.await.unwrap().unwrap();
        let port = match &server {
            Server::RabbitMq(server) => server.port(),
            Server::Redis(server) => server.port(),
            Server::Nats(server) => server.port(),
        };
        Self { kind, server, proxy: Proxy::start(port).await.unwrap() }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        match &mut self.server {
            Server::RabbitMq(server) => server.kill(),
            Server::Redis(server) => server.kill(),
            Server::Nats(server) => server.kill(),
        }
    }

    /// Starts it again; returns when it takes connections.
    pub(crate) fn restart(&mut self) {
        match &mut self.server {
            Server::RabbitMq(server) => server.restart(),
            Server::Redis(server) => server.restart(),
            Server::Nats(server) => server.restart(),
        }
        .unwrap();
    }

    /// Runs `rabbitmqctl` on it.
    pub(crate) async fn control(&self, words: &[&str]) {
        let Server::RabbitMq(server) = &self.server else { panic!("only RabbitMQ has rabbitmqctl") };
        tokio::task::block_in_place(|| server.control(words)).unwrap();
    }

    /// Connections past the proxy: for who is not to share the worker's faults.
    pub(crate) fn open_directly(&self) -> Arc<dyn Queue> {
        let port = match &self.server {
            Server::RabbitMq(server) => server.port(),
            Server::Redis(server) => server.port(),
            Server::Nats(server) => server.port(),
        };
        open(&url(self.kind, port))
    }

    /// The URL through the proxy.
    pub(crate) fn url(&self) -> String {
        url(self.kind, self.proxy.port())
    }

    /// Connections of one's own, through the proxy.
    pub(crate) fn open(&self) -> Arc<dyn Queue> {
        open(&self.url())
    }

    pub(crate) fn queue(&self) -> QueueSpec {
        let kind = match self.kind {
            Kind::Quorum => QueueKind::Quorum,
            Kind::RabbitMq => QueueKind::Classic,
            Kind::Sidekiq | Kind::JetStream => QueueKind::Usual,
        };
        QueueSpec { kind, ..QueueSpec::named(QUEUE) }
    }

    pub(crate) fn consume(&self, prefetch: u32) -> ConsumeSpec {
        ConsumeSpec {
            prefetch: Prefetch::Fixed(prefetch),
            identify: Identify::ByPublisher,
            ..ConsumeSpec::new("worker", self.queue())
        }
    }
}

/// A queue that is there, with an id from each publisher.
pub(crate) fn consume_queue(name: &str, prefetch: u32) -> ConsumeSpec {
    let queue = QueueSpec { create: false, ..QueueSpec::named(name) };
    ConsumeSpec { prefetch: Prefetch::Fixed(prefetch), ..ConsumeSpec::new("worker", queue) }
}

fn url(kind: Kind, port: u16) -> String {
    match kind {
        Kind::RabbitMq | Kind::Quorum => rabbitmq::url_at(port),
        Kind::Sidekiq => format!("sidekiq+redis://127.0.0.1:{port}/0?queue={QUEUE}&jobs=plain"),
        Kind::JetStream => format!("nats://127.0.0.1:{port}"),
    }
}

pub(crate) fn open(url: &str) -> Arc<dyn Queue> {
    let options = OpenOptions { ack_timeout: Duration::from_secs(1_800) };
    outboard_backends::open(url, options, system_clock()).unwrap()
}

/// A numbered message, with an id that says its number.
pub(crate) fn numbered(number: u64) -> Outgoing {
    let id = format!("{number:024x}");
    let message = Outgoing::new(Destination::queue(QUEUE), "suite/count", format!("[{number}]"));
    Outgoing { id: Some(id.into()), ..message }
}
