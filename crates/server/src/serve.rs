//! The HTTP server under the API: an accept loop of our own, so that limits, timeouts and shutdown are ours.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config::env;

/// What a service answers with.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers requests. Never fails: what goes wrong is an answer.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// What connections may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServeLimits {
    /// At most so many at once; more wait in the kernel's queue.
    pub connections: usize,
    /// How long a client may take for a request's head; an idle connection is closed after it, too.
    pub head: Duration,
}

/// A listener that is bound and not served yet.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// Binds an address; port 0 takes a free port. `key` is what configures the port, for the error.
pub(crate) async fn bind(address: SocketAddr, key: &str) -> Result<Bound, String> {
    let told = |error| {
        let variable = env::variable_name(key);
        format!(
            "`{key}`: cannot listen on {address}: {error}; free the port, or set another as `{key}` or {variable}; 0 takes any"
        )
    };
    let listener = TcpListener::bind(address).await.map_err(told)?;
    let address = listener.local_addr().map_err(told)?;
    Ok(Bound { listener, address })
}

impl Bound {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`; then the listener closes and every connection ends after its current request. The future
    /// ends when all have.
    pub(crate) async fn serve<S: Service>(
        self,
        service: Arc<S>,
        limits: ServeLimits,
        stop: CancellationToken,
    ) {
        let slots = Arc::new(Semaphore::new(limits.connections));
        let connections = TaskTracker::new();
        let protocol = protocol(limits.head);
        while let Some((stream, slot)) = accept(&self.listener, &slots, &stop).await {
            let (service, protocol, stop) = (service.clone(), protocol.clone(), stop.clone());
            connections.spawn(async move {
                connection(stream, service, protocol, limits.head, stop).await;
                drop(slot);
            });
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

/// Connections beyond this many bytes of unread head or body wait for us to read on.
const BUFFER_BYTES: usize = 64 << 10;

fn protocol(head: Duration) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(BUFFER_BYTES)
        .max_header_size(16 << 10);
    protocol
}

type Slot = tokio::sync::OwnedSemaphorePermit;

/// The next connection, or `None` once the server stops.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, Slot)> {
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => return Some((stream, slot)),
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors or memory: connections that end make room.
                tracing::warn!(%error, "cannot accept connections; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Whether only the one connection failed, before it was accepted.
fn is_of_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn connection<S: Service>(
    stream: TcpStream,
    service: Arc<S>,
    protocol: http1::Builder,
    head: Duration,
    stop: CancellationToken,
) {
    // Without it small answers wait for the client's delayed acknowledgement. It can only fail on a dead socket.
    let _ = stream.set_nodelay(true);
    // Looked at, not only waited for: a new socket counts as readable until a read has found nothing.
    let mut first = [0];
    let first_byte = tokio::select! {
        () = stop.cancelled() => return,
        first_byte = timeout(head, stream.peek(&mut first)) => first_byte,
    };
    if matches!(first_byte, Ok(Ok(1))) {
        // Boxed, so that a connection that says nothing costs neither buffers nor the state of a request.
        Box::pin(talk(stream, service, protocol, stop)).await;
    }
}

async fn talk<S: Service>(
    stream: TcpStream,
    service: Arc<S>,
    protocol: http1::Builder,
    stop: CancellationToken,
) {
    let answer = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let mut connection = std::pin::pin!(protocol.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Service for Nothing {
        async fn answer(self: Arc<Self>, _: Request<Incoming>) -> Answer {
            Response::new(Full::default())
        }
    }

    #[tokio::test]
    async fn a_silent_connection_is_small() {
        let bound = bind("127.0.0.1:0".parse().unwrap(), "api.port").await.unwrap();
        let stream = TcpStream::connect(bound.address()).await.unwrap();
        let head = Duration::from_secs(1);
        let future = connection(stream, Arc::new(Nothing), protocol(head), head, CancellationToken::new());
        assert!(size_of_val(&future) < 1_024, "{} bytes", size_of_val(&future));
    }
}
