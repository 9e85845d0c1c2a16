//! Being told of changes: Redis tracks our prefix for us, by whomever and however a key changes, expiry included.

use std::{sync::Arc, time::Duration};

use outboard_core::{
    Kind, PortError,
    store::{Change, StoreKey},
    watchers::Watchers,
};
use redis::{PushInfo, PushKind, Value, cmd};
use tokio::sync::{Mutex, broadcast, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::redis::{Link, OnPush};

/// Whether the connection that we have tells us of changes.
#[derive(Debug, Clone)]
enum State {
    /// Nobody knows yet, or there is no connection.
    Off,
    /// From now on, everything is told.
    On,
    /// The server does not do it for us.
    Refused(PortError),
}

/// The watchers of one store on Redis.
#[derive(Debug)]
pub(super) struct Tracking {
    prefix: String,
    watchers: Watchers,
    state: watch::Sender<State>,
    /// Begun with the first watcher: who watches nothing is told nothing, which costs every writer.
    running: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Tracking {
    /// No watcher yet. `prefix` is that of the database's keys.
    pub(super) fn new(prefix: String) -> Self {
        Self {
            prefix,
            watchers: Watchers::default(),
            state: watch::Sender::new(State::Off),
            running: Mutex::default(),
        }
    }

    /// What the link is to do with what the server says unasked.
    pub(super) fn on_push(self: Arc<Self>) -> OnPush {
        Arc::new(move |push| self.take(&push))
    }

    fn take(&self, push: &PushInfo) {
        if push.kind != PushKind::Invalidate {
            return;
        }
        match push.data.first() {
            Some(Value::Array(names)) => self.watchers.tell(names.iter().filter_map(|name| self.key(name))),
            // Everything was flushed.
            _ => self.watchers.tell_lost(),
        }
    }

    fn key(&self, name: &Value) -> Option<StoreKey> {
        let Value::BulkString(name) = name else { return None };
        let key = name.strip_prefix(self.prefix.as_bytes())?;
        // What is no text was not written by us.
        std::str::from_utf8(key).ok().map(StoreKey::from)
    }

    /// Watches a prefix; returns once everything is told. Errors: `Unavailable` when there is no connection in time, and
    /// the server's refusal.
    pub(super) async fn watch(
        self: &Arc<Self>,
        link: &Link,
        prefix: StoreKey,
        within: Duration,
    ) -> Result<broadcast::Receiver<Change>, PortError> {
        let receiver = self.watchers.add(prefix)?;
        let mut state = self.state.subscribe();
        self.begin(link).await;
        let known = state.wait_for(|state| !matches!(state, State::Off));
        match tokio::time::timeout(within, known).await {
            Ok(Ok(state)) => match &*state {
                State::Refused(error) => Err(error.clone()),
                State::On | State::Off => Ok(receiver),
            },
            Ok(Err(_)) | Err(_) => {
                link.connection()?;
                Err(PortError::new(Kind::Unavailable, format!("{} does not answer", link.target())))
            }
        }
    }

    async fn begin(self: &Arc<Self>, link: &Link) {
        let mut running = self.running.lock().await;
        if running.is_none() {
            let task = track(Arc::downgrade(self), link.connections());
            *running = Some(AbortOnDropHandle::new(tokio::spawn(task)));
        }
    }

    /// Ends every watcher.
    pub(super) fn close(&self) {
        self.watchers.close();
    }
}

/// Has each connection tell us of changes.
async fn track(
    tracking: std::sync::Weak<Tracking>,
    mut connections: watch::Receiver<Option<crate::redis::Connection>>,
) {
    loop {
        let Ok(connection) = connections.wait_for(Option::is_some).await.map(|found| found.clone()) else {
            return;
        };
        let Some(connection) = connection else { continue };
        let Some(prefix) = tracking.upgrade().map(|tracking| tracking.prefix.clone()) else { return };
        let mut command = cmd("CLIENT");
        command.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(prefix);
        let answer = connection.query::<Value>(&command).await;
        let Some(now) = tracking.upgrade() else { return };
        match answer {
            Ok(_) => {
                // What changed between two connections was told to nobody; without any before, nobody expects it.
                if !matches!(now.state.send_replace(State::On), State::On) && connection.generation() > 1 {
                    now.watchers.tell_lost();
                }
            }
            Err(error) if error.is_transient() => connection.end(error),
            Err(error) => {
                tracing::warn!(%error, "Redis does not tell of changes");
                now.state.send_replace(State::Refused(error));
            }
        }
        drop(now);
        connection.until_ended().await;
        let Some(now) = tracking.upgrade() else { return };
        now.state.send_replace(State::Off);
        now.watchers.tell_lost();
        drop(now);
        // The link takes it away; until then it would be taken for a new one.
        let generation = connection.generation();
        let is_another = |found: &Option<crate::redis::Connection>| {
            found.as_ref().is_none_or(|found| found.generation() != generation)
        };
        if connections.wait_for(is_another).await.is_err() {
            return;
        }
    }
}
