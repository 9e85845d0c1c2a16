//! TLS for `amqps://`: whom we trust, and what it means when we do not.

use std::{io, sync::Arc};

use outboard_core::{Kind, PortError};
use tokio::{net::TcpStream, task::spawn_blocking};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, Error, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::url::{Target, Tls};

/// Makes a connection secret, and its other end known.
///
/// `Denied` when the certificate is not the one that is expected, or TLS is refused; `Invalid` for a CA file that is of no
/// use; `Unavailable` when the connection breaks meanwhile.
pub(super) async fn secure(
    target: &Target,
    tls: &Tls,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, PortError> {
    let name = tls.server_name.as_ref().unwrap_or(&target.host);
    let not_a_name = |_| {
        let text = format!("`{name}` is no name for which a certificate can be made out");
        PortError::new(Kind::Invalid, text)
    };
    let server = ServerName::try_from(name.to_string()).map_err(not_a_name)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the ring provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots(tls).await?)
        .with_no_client_auth();
    let connecting = TlsConnector::from(Arc::new(config)).connect(server, stream);
    connecting.await.map_err(|error| {
        let broken = || {
            let text = format!("{target} went away while TLS was agreed upon: {error}");
            PortError::new(Kind::Unavailable, text)
        };
        refusal(target, &error).unwrap_or_else(broken)
    })
}

/// The public roots (Mozilla's), or the ones of the file that is named.
async fn roots(tls: &Tls) -> Result<RootCertStore, PortError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = tls.ca_file.clone() else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let unusable = |why: &dyn std::fmt::Display| {
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

/// What TLS has against the connection, if this error is of TLS: with the mend, and never taken for an outage.
pub(super) fn refusal(target: &Target, error: &io::Error) -> Option<PortError> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let name = target.tls.as_ref().and_then(|tls| tls.server_name.clone()).unwrap_or(target.host.clone());
    let why = match error {
        Error::InvalidCertificate(error) => distrust(target, &name, error),
        Error::InvalidMessage(_) => {
            "it does not speak TLS on this port: its TLS port is usually 5671, and a URL without TLS begins with \
             `amqp://`"
                .to_owned()
        }
        Error::AlertReceived(alert) => format!(
            "it refuses our side of TLS ({alert:?}): Outboard has no certificate of its own, so that \
             `ssl_options.fail_if_no_peer_cert` has to be false"
        ),
        other => format!("TLS with it fails: {other}"),
    };
    Some(PortError::new(Kind::Denied, format!("{target}: {why}")))
}

fn distrust(target: &Target, name: &str, error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => match target.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()) {
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
                "its certificate is not for `{name}` but for {presented}: write that name into the URL as the host, or as \
                 `?server_name_indication=NAME`"
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
