//! One connection, until its end.

use std::{sync::Arc, time::Duration};

use outboard_core::{Kind, PortError};
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, PushInfo, PushKind, RedisResult, Script, ScriptInvocation,
    Value, cmd,
};
use tokio::{sync::watch, time::timeout};

use super::{
    Target,
    dial::{Dialled, dial},
    refusal::{Verdict, judge, loading, read_only, too_old},
};

/// How long a connection may take, until the server has taken our name and password.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long a command may take. Together with [`super::link::PING_EVERY`] a silent peer is noticed within 13 s.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Commands that wait for the connection's writer; more of them wait in turn.
const COMMANDS_QUEUED: usize = 128;

/// What is gathered before it is written.
const WRITE_BYTES: usize = 64 << 10;

/// Takes what a server says unasked: kind and words. Must not block.
pub(crate) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A connection; cheap to clone. Commands of all clones share it, and are answered in their order.
#[derive(Clone)]
pub(crate) struct Connection {
    inner: Dialled,
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    generation: u64,
    /// Why it is of no use any more.
    ended: watch::Sender<Option<PortError>>,
    /// Why the server takes no writes.
    refusing: watch::Sender<Option<PortError>>,
}

impl Connection {
    /// Connects, signs in, and finds out whether the server is one that we can work with.
    ///
    /// Errors: `Unavailable` (not reachable, loading, a replica), `Denied` (password, TLS), `Unsupported` (too old).
    pub(crate) async fn open(
        target: &Target,
        generation: u64,
        on_push: Option<OnPush>,
    ) -> Result<Self, PortError> {
        let ended = watch::Sender::new(None);
        let refusing = watch::Sender::new(None);
        let shared = Arc::new(Shared { target: target.clone(), generation, ended, refusing });
        let weak = Arc::downgrade(&shared);
        let push = move |info: PushInfo| -> Result<(), redis::aio::SendError> {
            if info.kind == PushKind::Disconnection {
                if let Some(shared) = weak.upgrade() {
                    shared.end(gone(&shared.target));
                }
            } else if let Some(on_push) = &on_push {
                on_push(info);
            }
            Ok(())
        };
        let inner = shared.connect(configuration().set_push_sender(push)).await?;
        let connection = Self { inner, shared };
        connection.examine().await?;
        Ok(connection)
    }

    /// Another connection of the same generation, for commands that wait so long at most: the end of one is the end of
    /// both.
    #[cfg(feature = "sidekiq")]
    pub(crate) async fn another(&self, waiting: Duration) -> Result<Self, PortError> {
        self.check()?;
        let configuration = configuration().set_response_timeout(Some(waiting + ANSWER_WITHIN));
        let inner = self.shared.connect(configuration).await;
        let inner = inner.inspect_err(|error| self.shared.end(error.clone()))?;
        Ok(Self { inner, shared: self.shared.clone() })
    }

    /// Counts the connections of a link, from 1.
    pub(crate) fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Waits until it is of no use any more, and says why.
    pub(crate) async fn until_ended(&self) -> PortError {
        let mut ended = self.shared.ended.subscribe();
        let error = ended.wait_for(Option::is_some).await.ok().and_then(|error| error.clone());
        // The sender lives in `self`.
        error.expect("it waits for an error")
    }

    /// Whether it is of no use any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.ended.borrow().is_some()
    }

    /// Why the server takes no writes, while it takes none.
    pub(crate) fn refusing(&self) -> watch::Receiver<Option<PortError>> {
        self.shared.refusing.subscribe()
    }

    /// Ends it for all clones.
    pub(crate) fn end(&self, error: PortError) {
        self.shared.end(error);
    }

    /// Runs a command.
    ///
    /// Errors: `Unavailable` when it was surely not run, `Unknown` when it may have been, `Full` when the server takes no
    /// writes, `Denied`, `Unsupported`, `Mismatch` (a key of another type), `Invalid`.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, PortError> {
        self.check()?;
        self.answer(command.query_async(&mut self.inner.connection.clone()).await)
    }

    /// Runs commands one after the other, without waiting in between; errors as of [`Connection::query`].
    #[cfg(feature = "sidekiq")]
    pub(crate) async fn pipeline<T: FromRedisValue>(
        &self,
        commands: &redis::Pipeline,
    ) -> Result<T, PortError> {
        self.check()?;
        self.answer(commands.query_async(&mut self.inner.connection.clone()).await)
    }

    /// Runs a script with its keys and arguments; errors as of [`Connection::query`]. What it did before an error stays done.
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        fill: impl FnOnce(&mut ScriptInvocation<'_>),
    ) -> Result<T, PortError> {
        self.check()?;
        let mut invocation = script.prepare_invoke();
        fill(&mut invocation);
        self.answer(invocation.invoke_async(&mut self.inner.connection.clone()).await)
    }

    /// Asks for a sign of life; while the server takes no writes, whether it does again.
    pub(crate) async fn ping(&self) -> Result<(), PortError> {
        let is_refusing = self.shared.refusing.borrow().is_some();
        let question = if is_refusing {
            cmd("SET").arg("outboard:probe").arg("").arg("PX").arg(1).to_owned()
        } else {
            cmd("PING")
        };
        match self.query::<Value>(&question).await {
            // Who may not write this key has the answer all the same.
            Ok(_) | Err(PortError { kind: Kind::Denied, .. }) => {
                self.shared.refusing.send_if_modified(|refusing| refusing.take().is_some());
                self.check()
            }
            Err(error) => Err(error),
        }
    }

    /// Whether this is a server that we can work with.
    async fn examine(&self) -> Result<(), PortError> {
        let facts = match self.query::<String>(&cmd("INFO")).await {
            Ok(facts) => facts,
            // An account without this right may still do all that is needed.
            Err(PortError { kind: Kind::Denied, .. }) if self.check().is_ok() => String::new(),
            Err(error) => return Err(error),
        };
        let fact = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let target = &self.shared.target;
        if fact("loading") == Some("1") {
            return Err(PortError::new(Kind::Unavailable, loading(target)));
        }
        if fact("role") == Some("slave") && fact("slave_read_only") == Some("1") {
            return Err(PortError::new(Kind::Unavailable, read_only(target)));
        }
        if fact("redis_version").and_then(version).is_some_and(|version| version < (6, 2)) {
            return Err(PortError::new(Kind::Unsupported, too_old(target)));
        }
        match self.ping().await {
            // It is told as the link's health.
            Err(PortError { kind: Kind::Full, .. }) => Ok(()),
            answer => answer,
        }
    }

    fn check(&self) -> Result<(), PortError> {
        self.shared.ended.borrow().clone().map_or(Ok(()), Err)
    }

    fn answer<T>(&self, answer: RedisResult<T>) -> Result<T, PortError> {
        answer.map_err(|error| match judge(&error, &self.shared.target) {
            Verdict::Lost(error) => {
                let text = format!("no answer came: {error}");
                self.shared.end(error);
                PortError::new(Kind::Unknown, text)
            }
            Verdict::Away(error) => {
                self.shared.end(error.clone());
                error
            }
            Verdict::Full(error) => {
                self.shared.refusing.send_if_modified(|refusing| refusing.replace(error.clone()).is_none());
                error
            }
            Verdict::Command(error) => error,
        })
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({}, {})", self.shared.target, self.shared.generation)
    }
}

impl Shared {
    async fn connect(&self, configuration: AsyncConnectionConfig) -> Result<Dialled, PortError> {
        let late = || {
            PortError::new(
                Kind::Unavailable,
                format!("{} did not answer within {CONNECT_WITHIN:?}", self.target),
            )
        };
        timeout(CONNECT_WITHIN, dial(&self.target, configuration)).await.map_err(|_| late())?
    }

    /// The first reason counts.
    fn end(&self, error: PortError) {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(error);
            is_first
        });
    }
}

impl Verdict {
    /// The error alone, where nothing has been sent yet.
    pub(super) fn into_error(self) -> PortError {
        match self {
            Self::Lost(error) | Self::Away(error) | Self::Full(error) | Self::Command(error) => error,
        }
    }
}

/// The client's own limits are half a second for an answer; these are said where they are used.
pub(super) fn configuration() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(Some(ANSWER_WITHIN))
        .set_pipeline_buffer_size(COMMANDS_QUEUED)
        .set_write_backpressure_boundary(WRITE_BYTES)
}

fn gone(target: &Target) -> PortError {
    PortError::new(Kind::Unavailable, format!("{target} closed the connection"))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
