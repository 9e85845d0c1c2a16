//! A connection that is always wanted: made, lost, and made again.

use std::{sync::Arc, time::Duration};

use outboard_core::{Clock, Health, Kind, PortError, recovery::Recovery};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{protocol::connection::Connection, url::Target};

/// The way to a server; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Target,
    clock: Arc<dyn Clock>,
    heartbeat: Duration,
    current: watch::Sender<Option<Connection>>,
    health: watch::Sender<Health>,
    /// Cancelled when consumers are to give back what they have.
    closing: CancellationToken,
    /// Cancelled when the connection is to end.
    closed: CancellationToken,
    /// The consumers' tasks.
    consumers: TaskTracker,
}

impl Link {
    /// Begins to connect, on the current tokio runtime.
    pub(crate) fn open(target: Target, clock: Arc<dyn Clock>, heartbeat: Duration) -> Self {
        let health = Recovery::begin(clock.now()).health();
        let shared = Arc::new(Shared {
            target,
            clock,
            heartbeat,
            current: watch::Sender::new(None),
            health: watch::Sender::new(health),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
            consumers: TaskTracker::new(),
        });
        let link = Self { shared };
        tokio::spawn(link.clone().keep());
        link
    }

    pub(crate) fn target(&self) -> &Target {
        &self.shared.target
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.shared.closing
    }

    pub(crate) fn consumers(&self) -> &TaskTracker {
        &self.shared.consumers
    }

    /// The connection, once there is one. `Closed` when there will be none any more.
    pub(crate) async fn connected(&self) -> Result<Connection, PortError> {
        let mut current = self.shared.current.subscribe();
        tokio::select! {
            biased;
            () = self.shared.closed.cancelled() => Err(closed()),
            found = current.wait_for(Option::is_some) => found.ok().and_then(|found| found.clone()).ok_or_else(closed),
        }
    }

    /// The connection, or why there is none at the deadline.
    pub(crate) async fn connected_by(&self, deadline: Instant) -> Result<Connection, PortError> {
        if let Ok(found) = timeout_at(deadline, self.connected()).await {
            return found;
        }
        let why = self.shared.health.borrow().error().map(|error| error.message.clone());
        let text = why.unwrap_or_else(|| format!("{} is not reached", self.shared.target).into());
        Err(PortError::new(Kind::Unavailable, text))
    }

    /// Lets consumers give back what they have, and ends the connection, at the latest at the deadline.
    pub(crate) async fn close(&self, deadline: Instant) {
        self.shared.closing.cancel();
        self.shared.consumers.close();
        let _ = timeout_at(deadline, self.shared.consumers.wait()).await;
        self.shared.closed.cancel();
    }

    /// Nobody publishes any more: ends the connection when the last consumer has ended.
    pub(crate) fn abandon(&self) {
        let link = self.clone();
        self.shared.consumers.close();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                link.shared.consumers.wait().await;
                link.shared.closed.cancel();
            })),
            Err(_) => self.shared.closed.cancel(),
        }
    }

    async fn keep(self) {
        let shared = &*self.shared;
        let closed = shared.closed.clone();
        let keeping = async {
            loop {
                let connection = self.connect().await;
                let mut ended = connection.ended();
                shared.current.send_replace(Some(connection));
                shared.health.send_replace(Health::Ready);
                tracing::info!(server = %shared.target, "connected to NATS");
                let why = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
                shared.current.send_replace(None);
                if let Some(why) = why {
                    tracing::warn!(server = %shared.target, "{why}; connecting again");
                }
            }
        };
        tokio::select! {
            () = closed.cancelled() => {}
            () = keeping => {}
        }
        if let Some(connection) = shared.current.send_replace(None) {
            connection.close();
        }
        shared.health.send_replace(Health::Failed(self::closed()));
    }

    /// Tries until it has a connection.
    async fn connect(&self) -> Connection {
        let shared = &*self.shared;
        let mut recovery = Recovery::begin(shared.clock.now());
        loop {
            shared.health.send_replace(recovery.health());
            let error =
                match Connection::open(&shared.target, recovery.attempt_within(), shared.heartbeat).await {
                    Ok(connection) => return connection,
                    Err(error) => error,
                };
            if recovery.is_news(&error) {
                tracing::warn!(server = %shared.target, "{error}; trying again");
            }
            let wait = recovery.failed(&error, fastrand::f64());
            shared.health.send_replace(recovery.health());
            sleep(wait).await;
        }
    }
}

fn closed() -> PortError {
    PortError::new(Kind::Closed, "the port is closed")
}
