//! TLS to every broker: whom we trust, and what it means when we do not.
//!
//! One CA is named in the same way in every URL: `?cacertfile=/path/to/ca.pem`.

use std::{fmt::Display, io, sync::Arc};

use outboard_core::{Kind, PortError};
use tokio::{net::TcpStream, task::spawn_blocking};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, AlertDescription, CertificateError, ClientConfig, Error, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// How TLS is made, as a URL says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Tls {
    /// Certificates that are trusted, in PEM form (`cacertfile`); the public ones without it.
    pub(crate) ca_file: Option<Arc<str>>,
    /// What the certificate is made out for (`server_name_indication`); the host without it.
    pub(crate) server_name: Option<Arc<str>>,
}

impl Tls {
    /// Takes a URL's parameter, if it is one of TLS; returns whether it was there for the first time.
    pub(crate) fn take(&mut self, name: &str, value: Arc<str>) -> Option<bool> {
        match name {
            "cacertfile" => Some(self.ca_file.replace(value).is_none()),
            "server_name_indication" => Some(self.server_name.replace(value).is_none()),
            _ => None,
        }
    }

    /// Reads what stands after the `?` of a URL that takes nothing else there; `None` is a mistake.
    #[cfg(any(feature = "jetstream", feature = "redis"))]
    pub(crate) fn read(query: &str) -> Option<Self> {
        let mut tls = Self::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=')?;
            let value = crate::authority::decode(value).filter(|value| !value.is_empty())?;
            tls.take(name, value.into()).filter(|&is_new| is_new)?;
        }
        Some(tls)
    }
}

/// The other end of a connection that is to be made secret.
pub(crate) struct Peer<'a> {
    /// How it is shown.
    pub(crate) target: &'a (dyn Display + Sync),
    pub(crate) host: &'a str,
    pub(crate) tls: &'a Tls,
    /// What to do when it does not speak TLS.
    pub(crate) without: &'static str,
    /// What to do when it wants a certificate of ours.
    pub(crate) wants_ours: &'static str,
}

impl Peer<'_> {
    /// Makes a connection secret, and its other end known.
    ///
    /// `Denied` when the certificate is not the one that is expected, or TLS is refused; `Invalid` for a CA file that is
    /// of no use; `Unavailable` when the connection breaks meanwhile.
    pub(crate) async fn secure(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, PortError> {
        let name = self.name();
        let not_a_name = |_| {
            let text = format!("`{name}` is no name for which a certificate can be made out");
            PortError::new(Kind::Invalid, text)
        };
        let server = ServerName::try_from(name.to_owned()).map_err(not_a_name)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the ring provider speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots(self.tls).await?)
            .with_no_client_auth();
        let connecting = TlsConnector::from(Arc::new(config)).connect(server, stream);
        connecting.await.map_err(|error| self.refusal(&error).unwrap_or_else(|| self.broken(&error)))
    }

    fn name(&self) -> &str {
        self.tls.server_name.as_deref().unwrap_or(self.host)
    }

    fn broken(&self, error: &io::Error) -> PortError {
        let mut text = format!("{} went away while TLS was agreed upon: {error}", self.target);
        if error.kind() == io::ErrorKind::UnexpectedEof {
            text = format!("{text}; if it does not speak TLS on this port: {}", self.without);
        }
        PortError::new(Kind::Unavailable, text)
    }

    /// What TLS has against the connection, if this error is of TLS: with the mend, and never taken for an outage.
    pub(crate) fn refusal(&self, error: &io::Error) -> Option<PortError> {
        Some(self.judge(error.get_ref()?.downcast_ref()?))
    }

    /// The same for TLS's own error.
    pub(crate) fn judge(&self, error: &Error) -> PortError {
        let why = match error {
            Error::InvalidCertificate(error) => self.distrust(error),
            Error::InvalidMessage(_) => format!("it does not speak TLS on this port: {}", self.without),
            Error::AlertReceived(
                alert @ (AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::HandshakeFailure
                | AlertDescription::AccessDenied
                | AlertDescription::UnknownCA),
            ) => format!(
                "it refuses our side of TLS ({alert:?}): Outboard has no certificate of its own, so that {}",
                self.wants_ours
            ),
            Error::AlertReceived(alert) => {
                format!("it refuses TLS with us ({alert:?}): it must offer TLS 1.2 or 1.3")
            }
            other => format!("TLS with it fails: {other}"),
        };
        PortError::new(Kind::Denied, format!("{}: {why}", self.target))
    }

    fn distrust(&self, error: &CertificateError) -> String {
        match error {
            CertificateError::UnknownIssuer => match &self.tls.ca_file {
                None => "no public CA vouches for its certificate: name the file of its CA in the URL, with \
                         `?cacertfile=/path/to/ca.pem`"
                    .to_owned(),
                Some(path) => format!(
                    "the CA in `{path}` does not vouch for its certificate: name the file of the CA that signed it, with \
                     `?cacertfile=/path/to/ca.pem`"
                ),
            },
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let presented = match error {
                    CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
                        presented.join(", ")
                    }
                    _ => "no name at all".to_owned(),
                };
                format!(
                    "its certificate is not for `{}` but for {presented}: write that name into the URL as the host, or as \
                     `?server_name_indication=NAME`",
                    self.name()
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: renew it on the broker, or set this machine's clock".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: set the clocks of both machines".to_owned()
            }
            other => format!("its certificate is refused: {other}"),
        }
    }
}

/// The public roots (Mozilla's), or the ones of the file that is named.
pub(crate) async fn roots(tls: &Tls) -> Result<RootCertStore, PortError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = tls.ca_file.clone() else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let unusable = |why: &dyn Display| {
        let text = format!("the CA file `{path}` (cacertfile in the broker's URL) is of no use: {why}");
        PortError::new(Kind::Invalid, text)
    };
    let file = path.to_string();
    let reading = spawn_blocking(move || std::fs::read(file)).await;
    let pem = reading.map_err(|error| unusable(&error))?.map_err(|error| unusable(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"it holds no certificate in PEM form"));
    }
    Ok(roots)
}

#[cfg(all(test, any(feature = "jetstream", feature = "redis")))]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_mistakes_are_none() {
        let tls = Tls::read("cacertfile=%2Fetc%2Fca.pem&server_name_indication=mq.internal");
        let wanted = Tls { ca_file: Some("/etc/ca.pem".into()), server_name: Some("mq.internal".into()) };
        assert_eq!((tls, Tls::read("")), (Some(wanted), Some(Tls::default())));
        for bad in
            ["db=1", "cacertfile", "cacertfile=", "cacertfile=%4", "cacertfile=a&cacertfile=b", "ss@host"]
        {
            assert_eq!(Tls::read(bad), None, "{bad}");
        }
    }
}
