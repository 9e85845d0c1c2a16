//! The conformance suite of queues, against a real RabbitMQ: classic queues and quorum queues.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use outboard_backends::rabbitmq::{Options, RabbitMq};
use outboard_core::{
    conformance::queue::{Answer, QueueBackend},
    queue::{Queue, QueueKind, QueueName},
};
use outboard_testkit::{
    Proxy,
    proxy::Mode,
    rabbitmq::{RabbitMq as Broker, url_at},
};

/// One broker for all cases.
fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(|| Broker::start().expect("RabbitMQ is installed"))
}

struct Backend {
    kind: QueueKind,
    proxy: Proxy,
}

impl Backend {
    async fn new(kind: QueueKind) -> Self {
        let port = tokio::task::spawn_blocking(|| broker().port()).await.expect("the broker starts");
        Self { kind, proxy: Proxy::start(port).await.expect("there is a free port") }
    }
}

impl QueueBackend for Backend {
    fn open(&self) -> Answer<'_, Arc<dyn Queue>> {
        let target = url_at(self.proxy.port()).parse().expect("it is a URL");
        Box::pin(async { Arc::new(RabbitMq::new(target, Options::default())) as Arc<dyn Queue> })
    }

    fn name(&self) -> QueueName {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        format!("case-{:?}-{}", self.kind, COUNT.fetch_add(1, Ordering::Relaxed)).into()
    }

    fn kind(&self) -> QueueKind {
        self.kind
    }

    fn cut(&self) -> Answer<'_, ()> {
        Box::pin(self.proxy.cut())
    }

    fn mend(&self) -> Answer<'_, ()> {
        Box::pin(async { self.proxy.set(Mode::Pass) })
    }
}

mod classic {
    outboard_core::queue_conformance!(crate::Backend::new(outboard_core::queue::QueueKind::Classic));
}

mod quorum {
    outboard_core::queue_conformance!(crate::Backend::new(outboard_core::queue::QueueKind::Quorum));
}
