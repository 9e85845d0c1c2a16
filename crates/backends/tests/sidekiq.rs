//! Sidekiq's queues against the conformance suite, on a real Redis behind a proxy that fails on command.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicU64, Ordering},
};

use outboard_backends::sidekiq::Sidekiq;
use outboard_core::{
    conformance::queue::{Answer, QueueBackend},
    queue::{Queue, QueueName},
    time::system_clock,
};
use outboard_testkit::{Proxy, Redis, proxy::Mode};

/// One for all cases; it ends with the process.
static SERVER: LazyLock<Redis> = LazyLock::new(|| Redis::start().expect("Redis starts"));

struct Backend {
    proxy: Proxy,
}

async fn backend() -> Backend {
    Backend { proxy: Proxy::start(SERVER.port()).await.expect("there is a free port") }
}

impl QueueBackend for Backend {
    fn open(&self) -> Answer<'_, Arc<dyn Queue>> {
        let url = format!("sidekiq+redis://127.0.0.1:{}/0", self.proxy.port());
        let port: Arc<dyn Queue> = Arc::new(Sidekiq::open(url.parse().expect("it is a URL"), system_clock()));
        Box::pin(std::future::ready(port))
    }

    fn name(&self) -> QueueName {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!("suite-{}", NEXT.fetch_add(1, Ordering::Relaxed)).into()
    }

    fn cut(&self) -> Answer<'_, ()> {
        self.proxy.set(Mode::Close);
        Box::pin(std::future::ready(()))
    }

    fn mend(&self) -> Answer<'_, ()> {
        self.proxy.set(Mode::Pass);
        Box::pin(std::future::ready(()))
    }
}

outboard_core::queue_conformance!(crate::backend());
