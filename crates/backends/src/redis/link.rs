//! The loop that has a connection, or gets one back.

use std::{sync::Arc, time::Duration};

use outboard_core::{Clock, Health, Kind, PortError, recovery::Recovery};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Connection, Target, connection::OnPush};

/// How often a connection is asked for a sign of life.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(5);

/// How often a server that takes no writes is asked whether it does again.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// A connection that lasts so long ends the outage before it.
const SETTLED: Duration = Duration::from_secs(2);

/// A server, and a connection to it that is recovered for ever. Cheap to clone; ends with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    /// Stops the loop with the last clone.
    running: Arc<AbortOnDropHandle<()>>,
}

struct Shared {
    target: Target,
    clock: Arc<dyn Clock>,
    on_push: Option<OnPush>,
    current: watch::Sender<Option<Connection>>,
    health: watch::Sender<Health>,
}

impl Link {
    /// Begins to connect, within a runtime; returns at once. `on_push` is given what the server says unasked, such as that
    /// a tracked key was changed.
    pub(crate) fn start(target: Target, clock: Arc<dyn Clock>, on_push: Option<OnPush>) -> Self {
        let health = watch::Sender::new(Recovery::begin(clock.now()).health());
        let current = watch::Sender::new(None);
        let shared = Arc::new(Shared { target, clock, on_push, current, health });
        let running = Arc::new(AbortOnDropHandle::new(tokio::spawn(run(shared.clone()))));
        Self { shared, running }
    }

    /// Where it leads to.
    pub(crate) fn target(&self) -> &Target {
        &self.shared.target
    }

    /// Whether the server is reached and takes writes.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// The connection, while there is one; it changes with each that is made.
    pub(crate) fn connections(&self) -> watch::Receiver<Option<Connection>> {
        self.shared.current.subscribe()
    }

    /// The connection, without waiting for one: else the error that says why there is none.
    pub(crate) fn connection(&self) -> Result<Connection, PortError> {
        let current = self.shared.current.borrow().clone().filter(|connection| !connection.has_ended());
        current.ok_or_else(|| {
            let text = match self.shared.health.borrow().error() {
                Some(error) => error.message.clone(),
                None => format!("there is no connection to {}", self.shared.target).into(),
            };
            let is_closed = matches!(*self.shared.health.borrow(), Health::Failed(_));
            PortError::new(if is_closed { Kind::Closed } else { Kind::Unavailable }, text)
        })
    }

    /// The connection, waiting for one until the deadline; then the error that says why there is none.
    pub(crate) async fn connection_by(&self, deadline: Instant) -> Result<Connection, PortError> {
        let mut connections = self.connections();
        let is_good = |found: &Option<Connection>| found.as_ref().is_some_and(|good| !good.has_ended());
        let waiting = connections.wait_for(is_good);
        // The sender lives in `self`: only the deadline and a connection end this.
        let _ = tokio::time::timeout_at(deadline, waiting).await;
        self.connection()
    }

    /// Ends it for all clones.
    pub(crate) fn close(&self) {
        self.running.abort();
        let closed = PortError::new(Kind::Closed, "the connection to Redis was closed by us");
        self.shared.health.send_replace(Health::Failed(closed.clone()));
        if let Some(connection) = self.shared.current.send_replace(None) {
            connection.end(closed);
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("target", &self.target).finish_non_exhaustive()
    }
}

async fn run(shared: Arc<Shared>) {
    let mut generation = 0;
    let mut recovery = Recovery::begin(shared.clock.now());
    loop {
        generation += 1;
        let connection = connect(&shared, generation, &mut recovery).await;
        let began = Instant::now();
        shared.current.send_replace(Some(connection.clone()));
        let error = watch_over(&shared, &connection).await;
        shared.current.send_replace(None);
        tracing::warn!(%error, "the connection to Redis is lost");
        if began.elapsed() >= SETTLED {
            recovery = Recovery::begin(shared.clock.now());
        } else {
            // A server that takes connections only to end them is not asked without a pause.
            pause(&shared, &mut recovery, &error).await;
        }
    }
}

async fn connect(shared: &Shared, generation: u64, recovery: &mut Recovery) -> Connection {
    shared.health.send_replace(recovery.health());
    loop {
        let within = recovery.attempt_within();
        let opening = Connection::open(&shared.target, generation, shared.on_push.clone());
        let late = |_| {
            let text = format!("{} did not answer within {within:?}", shared.target);
            PortError::new(Kind::Unavailable, text)
        };
        let error = match timeout(within, opening).await.map_err(late).flatten() {
            Ok(connection) => {
                tracing::info!(server = %shared.target, attempts = recovery.attempts(), "connected to Redis");
                return connection;
            }
            Err(error) => error,
        };
        if recovery.is_news(&error) {
            tracing::warn!(%error, "there is no connection to Redis");
        }
        pause(shared, recovery, &error).await;
    }
}

async fn pause(shared: &Shared, recovery: &mut Recovery, error: &PortError) {
    let wait = recovery.failed(error, fastrand::f64());
    shared.health.send_replace(recovery.health());
    sleep_until(Instant::now() + wait).await;
}

/// Returns when the connection is of no use any more.
async fn watch_over(shared: &Shared, connection: &Connection) -> PortError {
    let mut refusing = connection.refusing();
    loop {
        let refusal = refusing.borrow_and_update().clone();
        let every = if refusal.is_some() { PROBE_EVERY } else { PING_EVERY };
        tell(shared, refusal);
        tokio::select! {
            error = connection.until_ended() => return error,
            _ = refusing.changed() => {}
            // A failed one ends the connection, or is what the server says now.
            () = sleep_until(Instant::now() + every) => drop(connection.ping().await),
        }
    }
}

/// Shows what the server takes, and says it where that is news.
fn tell(shared: &Shared, refusal: Option<PortError>) {
    shared.health.send_if_modified(|health| match (&*health, refusal) {
        (Health::Ready, None) => false,
        (Health::Refusing(_), Some(_)) => false,
        (before, refusal) => {
            match &refusal {
                Some(error) => tracing::warn!(%error, "Redis takes no writes"),
                None if matches!(before, Health::Refusing(_)) => tracing::info!("Redis takes writes again"),
                None => {}
            }
            *health = refusal.map_or(Health::Ready, Health::Refusing);
            true
        }
    });
}
