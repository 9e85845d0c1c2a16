//! A connection that is made again whenever it is lost, and the pool of those that consumers share.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outboard_core::{Clock, Health, Kind, PortError, recovery::Recovery, time::SystemClock};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{connection::Connection, url::Target};

/// A connection that ends sooner than this after it was made counts as one that could not be made: no hot loop.
pub(crate) const SHORT: Duration = Duration::from_secs(1);

/// What the connections to one broker have said of an outage: what holds for all of them is said once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<Arc<str>>>>);

/// So many different troubles are remembered.
const REMEMBERED: usize = 32;

impl Told {
    /// Whether nobody has said this before.
    fn is_first(&self, text: &Arc<str>) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.contains(text) {
            return false;
        }
        if told.len() == REMEMBERED {
            told.remove(0);
        }
        told.push(text.clone());
        true
    }

    /// The broker is there: whatever comes now is news.
    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One connection at a time, for as long as the link lives.
#[derive(Debug)]
pub(crate) struct Link {
    connection: watch::Receiver<Option<Connection>>,
    health: watch::Receiver<Health>,
    stop: CancellationToken,
    running: Mutex<Option<AbortOnDropHandle<()>>>,
    /// How many consumers are on it.
    seats: AtomicUsize,
}

impl Link {
    /// Begins to connect, and does not wait for it. `purpose` is for the log.
    pub(crate) fn start(target: &Target, purpose: &'static str, told: Told) -> Self {
        let (sender, connection) = watch::channel(None);
        let recovery = Recovery::begin(SystemClock.now());
        let (health_sender, health) = watch::channel(recovery.health());
        let stop = CancellationToken::new();
        let supervisor = Supervisor {
            target: target.named(format!("outboard, {purpose}")),
            purpose,
            told,
            connection: sender,
            health: health_sender,
            stop: stop.clone(),
        };
        let running = AbortOnDropHandle::new(tokio::spawn(supervisor.run(recovery)));
        Self { connection, health, stop, running: Mutex::new(Some(running)), seats: AtomicUsize::new(0) }
    }

    /// The connection that lives now.
    pub(crate) fn connection(&self) -> watch::Receiver<Option<Connection>> {
        self.connection.clone()
    }

    /// Whether there is one.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// What is wrong, for somebody to whom something is.
    pub(crate) fn trouble(&self) -> Health {
        let health = self.health.borrow().clone();
        match health {
            Health::Ready => Recovery::begin(SystemClock.now()).health(),
            trouble => trouble,
        }
    }

    /// The connection that lives now, or the next one within this time.
    pub(crate) async fn live(&self, within: Duration) -> Result<Connection, PortError> {
        let mut connection = self.connection.clone();
        let is_alive = |it: &Option<Connection>| it.as_ref().is_some_and(|it| !it.has_ended());
        match timeout(within, connection.wait_for(is_alive)).await {
            Ok(Ok(live)) => Ok(live.clone().expect("it was looked at above")),
            Ok(Err(_)) => Err(PortError::new(Kind::Closed, "the connection to RabbitMQ is closed")),
            Err(_) => Err(self.trouble().error().cloned().expect("trouble has an error")),
        }
    }

    /// Closes the connection, at the latest at the deadline, and makes no other one.
    pub(crate) async fn close(&self, deadline: Instant) {
        self.stop.cancel();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = running {
            // What has not ended by then is aborted when it is dropped here.
            let _ = timeout_at(deadline, running).await;
        }
    }
}

#[derive(Debug)]
struct Supervisor {
    target: Target,
    purpose: &'static str,
    told: Told,
    connection: watch::Sender<Option<Connection>>,
    health: watch::Sender<Health>,
    stop: CancellationToken,
}

impl Supervisor {
    async fn run(self, mut recovery: Recovery) {
        loop {
            let opened = tokio::select! {
                () = self.stop.cancelled() => return,
                opened = Connection::open(&self.target, recovery.attempt_within()) => opened,
            };
            let error = match opened {
                Ok(connection) => {
                    let Some(lost) = self.serve(connection, &mut recovery).await else { return };
                    lost
                }
                Err(error) => {
                    self.say_failed(&recovery, &error);
                    error
                }
            };
            let wait = recovery.failed(&error, fastrand::f64());
            self.health.send_replace(recovery.health());
            tokio::select! { () = self.stop.cancelled() => return, () = sleep(wait) => {} }
        }
    }

    fn say_failed(&self, recovery: &Recovery, error: &PortError) {
        if !recovery.is_news(error) || !self.told.is_first(&error.message) {
            return;
        }
        let (target, purpose) = (&self.target, self.purpose);
        match error.kind {
            Kind::Unavailable | Kind::Unknown => {
                tracing::warn!(server = %target, purpose, %error, "RabbitMQ is not reached; it is tried again until it is");
            }
            _ => {
                tracing::error!(server = %target, purpose, %error, "RabbitMQ refuses us; it is asked again now and then")
            }
        }
    }

    /// Until the connection is lost; nothing when it was closed by us.
    async fn serve(&self, connection: Connection, recovery: &mut Recovery) -> Option<PortError> {
        let (target, purpose, attempts) = (&self.target, self.purpose, recovery.attempts());
        if attempts > 0 {
            tracing::info!(server = %target, purpose, attempts, "RabbitMQ is reached again");
        }
        self.told.forget();
        let began = Instant::now();
        self.connection.send_replace(Some(connection.clone()));
        self.health.send_replace(Health::Ready);
        let mut ended = connection.ended();
        tokio::select! {
            () = self.stop.cancelled() => {
                connection.close().await;
                self.connection.send_replace(None);
                return None;
            }
            () = async { drop(ended.wait_for(Option::is_some).await) } => {}
        }
        let unknown = || PortError::new(Kind::Unavailable, "the connection ended");
        let error = ended.borrow().clone().unwrap_or_else(unknown);
        self.connection.send_replace(None);
        tracing::warn!(server = %target, purpose, %error, "the connection to RabbitMQ is lost");
        if began.elapsed() >= SHORT {
            *recovery = Recovery::begin(SystemClock.now());
        }
        Some(error)
    }
}

/// Connections that consumers share.
#[derive(Debug)]
pub(crate) struct Links {
    target: Target,
    told: Told,
    /// At most so many consumers on a connection.
    room: usize,
    consuming: Mutex<Vec<Arc<Link>>>,
}

/// One consumer's place on a link; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Link>);

impl Links {
    pub(crate) fn new(target: Target, told: Told, room: u16) -> Self {
        Self { target, told, room: usize::from(room.max(1)), consuming: Mutex::default() }
    }

    /// A place on a connection that has room, or on one more.
    pub(crate) fn seat(&self) -> Seat {
        let mut links = self.consuming.lock().unwrap_or_else(PoisonError::into_inner);
        let free = links.iter().find(|link| link.seats.load(Ordering::Relaxed) < self.room).cloned();
        let link = free.unwrap_or_else(|| {
            let link = Arc::new(Link::start(&self.target, "consuming", self.told.clone()));
            links.push(link.clone());
            link
        });
        link.seats.fetch_add(1, Ordering::Relaxed);
        Seat(link)
    }

    /// Closes all of them.
    pub(crate) async fn close(&self, deadline: Instant) {
        let links = std::mem::take(&mut *self.consuming.lock().unwrap_or_else(PoisonError::into_inner));
        for link in &links {
            link.stop.cancel();
        }
        for link in links {
            link.close(deadline).await;
        }
    }
}

impl Seat {
    pub(crate) fn link(&self) -> &Link {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seats.fetch_sub(1, Ordering::Relaxed);
    }
}
