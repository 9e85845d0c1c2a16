//! The one HTTP client of the house: HTTP/1.1 over TCP or TLS, with a bounded pool for each host.

mod connect;
mod connection;
mod error;
mod pool;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, header::HOST};
use http_body_util::Full;
use hyper::{
    Response,
    body::{Body, Incoming},
};
use tokio::time::timeout;

pub use connect::{Connecting, Stream, Tcp, Transport};
pub use error::{ClientError, Phase};

use crate::target::{Origin, Target, UrlPolicy};
use connection::{BodyLimits, Connection, Kept, Outgoing};
use pool::Pool;

/// The bounds of a [`Client`].
///
/// ```
/// use outboard_http::ClientConfig;
/// let config = ClientConfig { connections_per_host: 8, ..ClientConfig::default() };
/// assert_eq!(config.body_kept, 64 * 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Which addresses may be called.
    pub policy: UrlPolicy,
    /// The longest time for name, TCP and TLS together.
    pub connect_timeout: Duration,
    /// At most so many connections to one host; further calls wait.
    pub connections_per_host: usize,
    /// At most so many different hosts at a time.
    pub hosts: usize,
    /// An unused connection is closed after this time. Shorter than the five seconds after which Node and uvicorn
    /// close theirs, so that a request seldom meets a connection that is just being closed.
    pub idle_timeout: Duration,
    /// The longest time for an answer's body, counted from its head.
    pub body_timeout: Duration,
    /// So many bytes of an answer's body are kept.
    pub body_kept: usize,
    /// A longer body is not read to its end: the connection is closed instead.
    pub body_drained: usize,
    /// Certificates to trust beside the public roots, as PEM text.
    pub extra_roots: String,
}

impl Default for ClientConfig {
    /// 5 s to connect, 256 connections to each of 1,024 hosts, idle for 4 s, bodies: 2 s, 64 KiB kept, 1 MiB read.
    fn default() -> Self {
        Self {
            policy: UrlPolicy::default(),
            connect_timeout: Duration::from_secs(5),
            connections_per_host: 256,
            hosts: 1_024,
            idle_timeout: Duration::from_secs(4),
            body_timeout: Duration::from_secs(2),
            body_kept: 64 << 10,
            body_drained: 1 << 20,
            extra_roots: String::new(),
        }
    }
}

/// One request.
#[derive(Clone)]
pub struct Call<'a> {
    /// Where to.
    pub target: &'a Target,
    /// Which method.
    pub method: Method,
    /// All headers but `Host` and `Content-Length`, which the client sets.
    pub headers: HeaderMap,
    /// The body, empty for none.
    pub body: Bytes,
    /// The longest time until the answer's head, connecting included. `None` leaves it to the caller, who then bounds
    /// the future: dropping it closes the connection.
    pub timeout: Option<Duration>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status, any.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body's first bytes, at most [`ClientConfig::body_kept`].
    pub body: Bytes,
    /// Whether `body` is all of it.
    pub is_complete: bool,
}

/// Sends requests. Cheap to clone; clones share the connections, which live in the tokio runtime that made them: use a
/// client of its own in each runtime.
///
/// Redirects are not followed: a target that moves says so to its owner, and no redirect leads around the URL policy.
/// A request is sent twice in one case only: a kept connection turns out to be closed before a single byte of the
/// request was handed to the system. Any later failure may mean that the request was processed; it is returned.
///
/// ```no_run
/// use std::time::Duration;
/// use outboard_http::{Call, Client, ClientConfig, Target};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(ClientConfig::default())?;
/// let target: Target = "http://127.0.0.1:3000/up".parse()?;
/// let answer = client.get(&target, Duration::from_secs(2)).await?;
/// assert!(answer.status.is_success());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    config: ClientConfig,
    transport: Arc<dyn Transport>,
    pools: Mutex<HashMap<Origin, Arc<Pool>>>,
}

impl Client {
    /// A client over TCP. The error says what is wrong with [`ClientConfig::extra_roots`].
    pub fn new(config: ClientConfig) -> Result<Self, String> {
        let transport = Tcp::new(config.policy, config.connect_timeout, &config.extra_roots)?;
        Ok(Self::over(Arc::new(transport), config))
    }

    /// A client whose connections are made elsewhere, such as in a simulation's memory.
    pub fn over(transport: Arc<dyn Transport>, config: ClientConfig) -> Self {
        Self(Arc::new(Inner { config, transport, pools: Mutex::default() }))
    }

    /// A GET without headers.
    pub async fn get(&self, target: &Target, timeout: Duration) -> Result<Answer, ClientError> {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        self.send(Call { target, method: Method::GET, headers, body, timeout: Some(timeout) }).await
    }

    /// Sends a request and reads its answer, whatever the status.
    ///
    /// An answer whose head has come is an answer, even when its body breaks off or takes too long: then
    /// [`Answer::is_complete`] is false.
    pub async fn send(&self, call: Call<'_>) -> Result<Answer, ClientError> {
        let pool = self.pool(&call.target.origin)?;
        let bound = call.timeout;
        let exchange = async {
            let slot = pool.slot().await;
            let (connection, response) = self.exchange(&pool, call).await?;
            Ok((slot, connection, response))
        };
        let (slot, connection, response) = match bound {
            None => exchange.await?,
            Some(after) => match timeout(after, exchange).await {
                Ok(exchanged) => exchanged?,
                Err(_) => return Err(ClientError::Timeout { phase: Phase::Answering, after }),
            },
        };
        let answer = self.read(&pool, connection, response).await;
        drop(slot);
        Ok(answer)
    }

    /// Sends the request over an idle connection or a new one.
    async fn exchange(
        &self,
        pool: &Pool,
        call: Call<'_>,
    ) -> Result<(Connection, Response<Incoming>), ClientError> {
        let target = call.target;
        let mut request = request(call);
        if let Some(mut connection) = pool.take().await {
            match connection.exchange(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(ClientError::from_hyper(error.error())),
                },
            }
        }
        let stream = self.0.transport.connect(target.origin.clone()).await?;
        let mut connection = Connection::open(stream).await?;
        match connection.exchange(request).await {
            Ok(response) => Ok((connection, response)),
            Err(error) => Err(ClientError::from_hyper(error.error())),
        }
    }

    /// Reads the body within its bounds, and gives the connection back when it is still of use.
    async fn read(&self, pool: &Pool, mut connection: Connection, response: Response<Incoming>) -> Answer {
        let config = &self.0.config;
        let (head, body) = response.into_parts();
        let mut kept = Kept::default();
        let limits = BodyLimits { kept: config.body_kept, drained: config.body_drained };
        let has_ended = body.is_end_stream()
            || timeout(config.body_timeout, connection.read(body, limits, &mut kept)).await.unwrap_or(false);
        if has_ended {
            pool.put(connection, connection::peer_idle(&head.headers)).await;
        }
        let is_complete = has_ended && !kept.is_cut;
        Answer { status: head.status, headers: head.headers, body: kept.into_bytes(), is_complete }
    }

    fn pool(&self, origin: &Origin) -> Result<Arc<Pool>, ClientError> {
        let config = &self.0.config;
        let mut pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(origin) {
            return Ok(Arc::clone(pool));
        }
        if pools.len() >= config.hosts {
            // Calls hold their pool, so one that nobody else holds and that is empty is not in use.
            pools.retain(|_, pool| Arc::strong_count(pool) > 1 || !pool.is_empty());
        }
        if pools.len() >= config.hosts {
            return Err(ClientError::TooManyOrigins { limit: config.hosts });
        }
        let pool = Pool::new(config.connections_per_host, config.idle_timeout);
        pools.insert(origin.clone(), Arc::clone(&pool));
        Ok(pool)
    }
}

/// The request as it goes over the wire: in origin form, with its `Host`.
fn request(call: Call<'_>) -> Outgoing {
    let mut request = Outgoing::new(Full::new(call.body));
    *request.method_mut() = call.method;
    *request.uri_mut() = Uri::from(call.target.path.clone());
    *request.headers_mut() = call.headers;
    request.headers_mut().insert(HOST, call.target.host_header.clone());
    request
}

/// Headers, body and path are not shown: they hold what is not for logs.
impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("origin", self.target.origin())
            .field("body_bytes", &self.body.len())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.0.config).finish_non_exhaustive()
    }
}
