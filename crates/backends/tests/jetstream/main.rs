//! The queue port on a real NATS server with JetStream.

#![cfg(feature = "jetstream")]

mod limits;
mod losing;
mod outages;
mod raw;
mod refusals;
mod tls;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, Ordering},
};

use outboard_backends::jetstream::{JetStream, Options, Target};
use outboard_core::{
    conformance::queue::{Answer, QueueBackend},
    queue::{Queue, QueueName},
    time::SystemClock,
};
use outboard_testkit::{Nats, Proxy, proxy::Mode};

/// One server for all cases of the suite; each has queues and connections of its own.
fn server() -> &'static Nats {
    static SERVER: OnceLock<Nats> = OnceLock::new();
    SERVER.get_or_init(|| Nats::start().expect("nats-server is installed: see scripts/test"))
}

/// A proxy before the server that one case breaks.
struct Backend {
    proxy: Proxy,
}

impl Backend {
    async fn start() -> Self {
        Self { proxy: Proxy::start(server().port()).await.expect("there is a free port") }
    }
}

fn open(port: u16, options: Options) -> Arc<dyn Queue> {
    open_url(&format!("nats://127.0.0.1:{port}"), options)
}

fn open_url(url: &str, options: Options) -> Arc<dyn Queue> {
    let target: Target = url.parse().expect("it is a URL");
    Arc::new(JetStream::open(target, options, Arc::new(SystemClock)))
}

fn unique_name() -> QueueName {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("suite-{}", LAST.fetch_add(1, Ordering::Relaxed)).into()
}

impl QueueBackend for Backend {
    fn open(&self) -> Answer<'_, Arc<dyn Queue>> {
        Box::pin(async { open(self.proxy.port(), Options::default()) })
    }

    fn name(&self) -> QueueName {
        unique_name()
    }

    fn cut(&self) -> Answer<'_, ()> {
        Box::pin(async { self.proxy.set(Mode::Close) })
    }

    fn mend(&self) -> Answer<'_, ()> {
        Box::pin(async { self.proxy.set(Mode::Pass) })
    }
}

outboard_core::queue_conformance!(crate::Backend::start());
