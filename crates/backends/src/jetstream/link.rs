//! A connection that is always wanted: made, lost, and made again.

use std::{sync::Arc, time::Duration};

use outboard_core::{Clock, Health, Kind, PortError, recovery::Recovery};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{protocol::connection::Connection, url::Target};

/// A connection that ends sooner than this after it was made counts as one that could not be made: no hot loop.
const SHORT: Duration = Duration::from_secs(1);

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
    /// The stream that last refused a publication for want of room.
    full: watch::Sender<Option<Full>>,
    /// Cancelled when consumers are to give back what they have.
    closing: CancellationToken,
    /// Cancelled when the connection is to end.
    closed: CancellationToken,
    /// The consumers' tasks.
    consumers: TaskTracker,
}

/// A stream without room.
#[derive(Debug, Clone)]
struct Full {
    stream: Arc<str>,
    error: PortError,
    since: Instant,
    /// It has taken something after it refused something.
    has_taken: bool,
}

/// How long a stream is called full after it last said so; nobody knows whether it still is, from then on.
const CALLED_FULL: Duration = Duration::from_secs(10);

/// The same if it has taken something since: one that is consumed takes one message for each that is acknowledged.
const CALLED_FULL_AND_TAKES: Duration = Duration::from_secs(1);

impl Full {
    fn until(&self) -> Instant {
        self.since + if self.has_taken { CALLED_FULL_AND_TAKES } else { CALLED_FULL }
    }
}

impl Link {
    /// Begins to connect, on the current tokio runtime.
    pub(crate) fn open(target: Target, clock: Arc<dyn Clock>, heartbeat: Duration) -> Self {
        let link = Self::new(target, clock, heartbeat);
        tokio::spawn(link.clone().keep());
        link
    }

    fn new(target: Target, clock: Arc<dyn Clock>, heartbeat: Duration) -> Self {
        let health = Recovery::begin(clock.now()).health();
        let shared = Arc::new(Shared {
            target,
            clock,
            heartbeat,
            current: watch::Sender::new(None),
            health: watch::Sender::new(health),
            full: watch::Sender::new(None),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
            consumers: TaskTracker::new(),
        });
        Self { shared }
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
        let is_alive = |found: &Option<Connection>| found.as_ref().is_some_and(|found| !found.has_ended());
        tokio::select! {
            biased;
            () = self.shared.closed.cancelled() => Err(closed()),
            found = current.wait_for(is_alive) => found.ok().and_then(|found| found.clone()).ok_or_else(closed),
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

    /// A stream has refused a publication, because there is no room.
    pub(crate) fn is_full(&self, stream: &Arc<str>, error: &PortError) {
        let full =
            Full { stream: stream.clone(), error: error.clone(), since: Instant::now(), has_taken: false };
        let before = self.shared.full.send_replace(Some(full));
        if before.is_none_or(|before| before.error.message != error.message) {
            tracing::warn!(server = %self.shared.target, %stream, "a publication was refused: {error}");
        }
    }

    /// A stream has taken a publication.
    pub(crate) fn has_room(&self, stream: &Arc<str>) {
        // Nearly always there is nothing to change, and who only looks holds nobody up.
        let is_news = |full: &Full| full.stream == *stream && !full.has_taken;
        if self.shared.full.borrow().as_ref().is_some_and(is_news) {
            self.shared.full.send_modify(|full| {
                if let Some(full) = full.as_mut().filter(|full| is_news(full)) {
                    full.has_taken = true;
                }
            });
        }
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
            let mut recovery = Recovery::begin(shared.clock.now());
            loop {
                let connection = self.connect(&mut recovery).await;
                let began = Instant::now();
                let ended = connection.ended();
                shared.current.send_replace(Some(connection));
                tracing::info!(server = %shared.target, "connected to NATS");
                let why = shared.until_ended(ended).await;
                shared.current.send_replace(None);
                if let Some(why) = &why {
                    tracing::warn!(server = %shared.target, "{why}; connecting again");
                }
                match why {
                    Some(why) if began.elapsed() < SHORT => shared.wait(&mut recovery, &why).await,
                    _ => recovery = Recovery::begin(shared.clock.now()),
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
    async fn connect(&self, recovery: &mut Recovery) -> Connection {
        let shared = &*self.shared;
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
            shared.wait(recovery, &error).await;
        }
    }
}

impl Shared {
    async fn wait(&self, recovery: &mut Recovery, error: &PortError) {
        let wait = recovery.failed(error, fastrand::f64());
        self.health.send_replace(recovery.health());
        sleep(wait).await;
    }

    /// Shows whether streams have room, until the connection ends; returns why it did.
    async fn until_ended(&self, mut ended: watch::Receiver<Option<PortError>>) -> Option<PortError> {
        let mut full = self.full.subscribe();
        loop {
            let now = full.borrow_and_update().clone();
            let until = now.as_ref().map(Full::until);
            self.health.send_if_modified(|health| {
                let is_news = match (&*health, &now) {
                    (Health::Ready, None) => false,
                    (Health::Refusing(before), Some(full)) => before.message != full.error.message,
                    _ => true,
                };
                *health = now.map_or(Health::Ready, |full| Health::Refusing(full.error));
                is_news
            });
            let forgotten = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                why = ended.wait_for(Option::is_some) => return why.ok().and_then(|why| why.clone()),
                _ = full.changed() => {}
                () = forgotten => self.is_not_full_any_more(),
            }
        }
    }

    fn is_not_full_any_more(&self) {
        // It may have said it once more at this moment.
        let mut over = None;
        self.full.send_if_modified(|full| {
            over = full.take_if(|full| full.until() <= Instant::now());
            over.is_some()
        });
        if let Some(Full { stream, has_taken: true, .. }) = over {
            tracing::info!(server = %self.target, %stream, "there is room again");
        }
    }
}

fn closed() -> PortError {
    PortError::new(Kind::Closed, "the port is closed")
}

#[cfg(test)]
mod tests {
    use outboard_core::time::system_clock;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_stream_that_is_consumed_is_called_full_once() {
        let target = "nats://127.0.0.1:1".parse().unwrap();
        let link = Link::new(target, system_clock(), Duration::from_secs(5));
        let (_ended, ends) = watch::channel(None);
        let shared = link.shared.clone();
        tokio::spawn(async move { shared.until_ended(ends).await });
        let mut health = link.health();
        let (stream, error) = (Arc::from("orders"), PortError::new(Kind::Full, "no room"));
        link.is_full(&stream, &error);
        health.wait_for(|health| matches!(health, Health::Refusing(_))).await.unwrap();
        health.borrow_and_update();
        for _ in 0..20 {
            link.has_room(&stream);
            tokio::time::advance(CALLED_FULL_AND_TAKES / 2).await;
            link.is_full(&stream, &error);
        }
        assert!(matches!(*health.borrow(), Health::Refusing(_)) && !health.has_changed().unwrap());
        let taken = Instant::now();
        link.has_room(&stream);
        health.wait_for(Health::is_ready).await.unwrap();
        assert!(taken.elapsed() <= 2 * CALLED_FULL_AND_TAKES, "{:?}", taken.elapsed());
    }

    #[tokio::test]
    async fn a_server_that_ends_each_connection_at_once_is_not_tried_hot() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("nats://{}", listener.local_addr().unwrap()).parse().unwrap();
        let link = Link::open(target, system_clock(), Duration::from_secs(5));
        let mut began = None;
        for _ in 0..5 {
            let (mut client, _) = listener.accept().await.unwrap();
            began.get_or_insert_with(Instant::now);
            client.write_all(b"INFO {\"headers\":true}\r\n").await.unwrap();
            let mut words = Vec::new();
            while !words.ends_with(b"PING\r\n") {
                client.read_buf(&mut words).await.unwrap();
            }
            client.write_all(b"PONG\r\n").await.unwrap();
            link.connected().await.unwrap();
        }
        // 100, 200, 400 and 800 ms, or the half of each.
        assert!(began.unwrap().elapsed() >= Duration::from_millis(750));
        link.close(Instant::now()).await;
    }
}
