//! From a host's name to a byte stream: DNS, TCP, TLS.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig as TlsConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::error::{ClientError, Phase};
use crate::target::{Origin, UrlPolicy};

/// Makes connections. Production uses [`Tcp`]; a simulation brings its own.
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// A new connection over which HTTP/1.1 can be spoken at once.
    fn connect(&self, origin: Origin) -> Connecting;
}

/// A connection in the making.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Stream, ClientError>> + Send>>;

/// The bytes of one connection.
pub struct Stream(Inner);

enum Inner {
    Tcp(TcpStream),
    Other(Box<dyn Duplex>),
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Stream {
    /// Any stream of bytes, such as one half of [`tokio::io::duplex`].
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Inner::Other(Box::new(stream)))
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self(Inner::Tcp(stream))
    }
}

/// Connects over TCP, with TLS for `https`.
#[derive(Clone)]
pub struct Tcp {
    policy: UrlPolicy,
    connect_timeout: Duration,
    tls: TlsConnector,
}

impl Tcp {
    /// Connections for the addresses that the policy allows, ready within the timeout.
    ///
    /// Certificates are trusted when the public roots (Mozilla's) vouch for them, or the ones in `extra_roots`, a text
    /// of PEM blocks; empty for none. The error says which block cannot be read.
    pub fn new(policy: UrlPolicy, connect_timeout: Duration, extra_roots: &str) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for (index, certificate) in CertificateDer::pem_slice_iter(extra_roots.as_bytes()).enumerate() {
            let number = index + 1;
            let certificate =
                certificate.map_err(|error| format!("certificate {number} is not PEM: {error}"))?;
            roots.add(certificate).map_err(|error| format!("certificate {number} is no root: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = TlsConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the ring provider speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { policy, connect_timeout, tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn open(self, origin: Origin) -> Result<Stream, ClientError> {
        let addresses = self.resolve(&origin).await?;
        let stream = self.dial(&origin, &addresses).await?;
        // Requests are written whole; waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        if !origin.is_tls {
            return Ok(stream.into());
        }
        let failed = |cause| ClientError::Tls { origin: origin.to_string(), cause };
        let name = ServerName::try_from(origin.host.to_string())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = self.tls.connect(name, stream).await.map_err(failed)?;
        Ok(Stream::new(stream))
    }

    /// The allowed addresses of a host, in the resolver's order; at least one.
    async fn resolve(&self, origin: &Origin) -> Result<Vec<SocketAddr>, ClientError> {
        let failed = |cause| ClientError::Dns { host: origin.host.to_string(), cause };
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host((&*origin.host, origin.port)).await.map_err(failed)?.collect();
        let Some(last) = found.last().map(SocketAddr::ip) else {
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
        };
        let allowed: Vec<_> = found.into_iter().filter(|address| self.policy.allows(address.ip())).collect();
        if allowed.is_empty() {
            return Err(ClientError::Forbidden { origin: origin.to_string(), address: last });
        }
        Ok(allowed)
    }

    /// Tries the addresses in turn. Each gets its share of the time that is left, so that one that swallows packets
    /// leaves time for the next.
    async fn dial(&self, origin: &Origin, addresses: &[SocketAddr]) -> Result<TcpStream, ClientError> {
        let deadline = Instant::now() + self.connect_timeout;
        let mut failure = None;
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            failure = Some(match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(cause)) if cause.kind() == io::ErrorKind::ConnectionRefused => {
                    ClientError::Refused { origin: origin.to_string() }
                }
                Ok(Err(cause)) => ClientError::Unreachable { origin: origin.to_string(), cause },
                Err(_) => ClientError::Timeout { phase: Phase::Connecting, after: self.connect_timeout },
            });
        }
        Err(failure.expect("there is at least one address"))
    }
}

impl Transport for Tcp {
    fn connect(&self, origin: Origin) -> Connecting {
        let tcp = self.clone();
        Box::pin(async move {
            let (after, deadline) = (tcp.connect_timeout, Instant::now() + tcp.connect_timeout);
            timeout_at(deadline, tcp.open(origin))
                .await
                .unwrap_or(Err(ClientError::Timeout { phase: Phase::Connecting, after }))
        })
    }
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp")
            .field("policy", &self.policy)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::Tcp(_) => "Stream(Tcp)",
            Inner::Other(_) => "Stream(Other)",
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Inner::Other(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Inner::Other(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Other(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Inner::Other(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Inner::Tcp(stream) => stream.is_write_vectored(),
            Inner::Other(stream) => stream.is_write_vectored(),
        }
    }
}
