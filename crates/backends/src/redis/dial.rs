//! From a socket to a connection on which the server has taken our name and password.

use std::sync::Arc;

use outboard_core::{Kind, PortError};
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Target,
    refusal::{Verdict, judge},
};

/// A connection, and what moves its bytes: until the last clone of both is dropped.
#[derive(Clone)]
pub(super) struct Dialled {
    pub(super) connection: MultiplexedConnection,
    _driver: Arc<AbortOnDropHandle<()>>,
}

/// Connects and signs in. Errors: `Unavailable`, `Denied` (password, TLS), `Invalid` (a CA file of no use).
pub(super) async fn dial(
    target: &Target,
    configuration: AsyncConnectionConfig,
) -> Result<Dialled, PortError> {
    let unreachable =
        |error| PortError::new(Kind::Unavailable, format!("{target} cannot be reached: {error}"));
    let stream = TcpStream::connect(target.address()).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    match target.peer() {
        None => sign_in(target, stream, configuration).await,
        Some(peer) => sign_in(target, peer.secure(stream).await?, configuration).await,
    }
}

async fn sign_in(
    target: &Target,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    configuration: AsyncConnectionConfig,
) -> Result<Dialled, PortError> {
    let beginning = MultiplexedConnection::new_with_config(target.settings(), stream, configuration);
    let (connection, driver) = beginning.await.map_err(|error| match judge(&error, target) {
        // It took the connection and hung up on our first words.
        Verdict::Lost(error) if target.peer().is_none() => {
            let text =
                format!("{error}; if it speaks TLS on this port, write `rediss` for `redis` in the URL");
            PortError::new(error.kind, text)
        }
        verdict => verdict.into_error(),
    })?;
    let driver = Arc::new(AbortOnDropHandle::new(tokio::spawn(driver)));
    Ok(Dialled { connection, _driver: driver })
}
