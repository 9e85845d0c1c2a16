//! Where a request goes, and which URLs a user may give.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use http::{HeaderValue, Uri, uri::PathAndQuery};

/// Which addresses a URL that a user gave may reach: the guard against server-side request forgery.
///
/// Schemes other than `http` and `https` are always refused, and so is user information in the URL, because URLs
/// end in logs. Loopback and private addresses are allowed: the host app lives there. Link-local addresses are not,
/// unless asked for: that is where cloud machines serve their credentials. The addresses are checked after the name
/// is resolved, so that no name can lead around the guard.
///
/// ```
/// use outboard_http::UrlPolicy;
/// let policy = UrlPolicy::default();
/// assert!(policy.allows("127.0.0.1".parse().unwrap()));
/// assert!(!policy.allows("169.254.169.254".parse().unwrap()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UrlPolicy {
    /// Whether link-local and cloud metadata addresses may be reached.
    pub allow_link_local: bool,
}

/// The metadata services that are not on a link-local address: AWS over IPv6, and Alibaba Cloud.
const METADATA: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

impl UrlPolicy {
    /// Whether this address may be reached. Broadcast and multicast addresses never may.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = embedded_v4(address).map_or(address, IpAddr::V4);
        let (nobody, link_local) = match address {
            IpAddr::V4(v4) => (v4.is_broadcast() || v4.is_multicast(), v4.is_link_local()),
            IpAddr::V6(v6) => (v6.is_multicast(), v6.is_unicast_link_local()),
        };
        !nobody && (self.allow_link_local || !(link_local || METADATA.contains(&address)))
    }
}

/// The IPv4 address inside an IPv6 one: mapped (`::ffff:0:0/96`) or translated (`64:ff9b::/96`, RFC 6052).
fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let prefix = [a, b, c, d, e, f];
    let is_embedding = prefix == [0, 0, 0, 0, 0, 0xffff] || prefix == [0x64, 0xff9b, 0, 0, 0, 0];
    is_embedding.then(|| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

/// A checked URL, made once and used for many calls.
///
/// ```
/// use outboard_http::Target;
/// let target: Target = "http://127.0.0.1:3000/hooks?from=outboard".parse().unwrap();
/// assert_eq!(target.to_string(), "http://127.0.0.1:3000/hooks?from=outboard");
/// assert!("ftp://example.org/".parse::<Target>().is_err());
/// assert!("http://user:secret@example.org/".parse::<Target>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(crate) origin: Origin,
    pub(crate) path: PathAndQuery,
    pub(crate) host_header: HeaderValue,
}

/// Scheme, host and port: what connections are shared by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whether it is reached over TLS.
    pub is_tls: bool,
    /// The host's name or address, in lower case and without brackets.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

/// Why a URL cannot be called. The message says what to mend, and never repeats the URL, which may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It cannot be read as a URL.
    #[error("is not a URL: {0}")]
    Malformed(String),
    /// It has no scheme, or one other than these two.
    #[error("must begin with http:// or https://")]
    Scheme,
    /// It has no host.
    #[error("must name a host")]
    Host,
    /// It holds a user name or a password.
    #[error("must not hold a user name or password; send an Authorization header instead")]
    UserInformation,
    /// Port 0 or above 65535, or not a number.
    #[error("must have a port from 1 to 65535")]
    Port,
}

impl std::str::FromStr for Target {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        // A fragment is the client's own business and is never sent; `Uri` drops it.
        let uri: Uri = url
            .trim()
            .parse()
            .map_err(|error: http::uri::InvalidUri| UrlError::Malformed(error.to_string()))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(UrlError::Scheme),
        };
        let authority = uri.authority().ok_or(UrlError::Host)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInformation);
        }
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() {
            return Err(UrlError::Host);
        }
        let default_port = if is_tls { 443 } else { 80 };
        let port = match authority.as_str()[host.len()..].strip_prefix(':') {
            None => default_port,
            Some(digits) => digits.parse().ok().filter(|&port| port != 0).ok_or(UrlError::Port)?,
        };
        let host_text = if port == default_port { host.to_owned() } else { format!("{host}:{port}") };
        Ok(Self {
            origin: Origin { is_tls, host: bare.to_ascii_lowercase().into(), port },
            path: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            host_header: HeaderValue::from_str(&host_text).map_err(|_| UrlError::Host)?,
        })
    }
}

impl Target {
    /// Scheme, host and port.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The host's address, when the URL gives it as one.
    pub fn literal_address(&self) -> Option<IpAddr> {
        self.origin.host.parse().ok()
    }
}

/// The whole URL, its query included, which may hold a token: for people who may see it, not for logs.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.origin.is_tls { "https" } else { "http" };
        let host = self.host_header.to_str().unwrap_or("?");
        write!(f, "{scheme}://{host}{}", self.path)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused_with_the_mend() {
        let good = [
            ("http://Example.org", "example.org", 80, "/"),
            ("https://example.org/a?b=c#d", "example.org", 443, "/a?b=c"),
            ("http://[::1]:3000/x", "::1", 3000, "/x"),
            ("http://localhost:8080", "localhost", 8080, "/"),
            (" http://example.org/ ", "example.org", 80, "/"),
        ];
        for (url, host, port, path) in good {
            let target: Target = url.parse().unwrap();
            let found = (&*target.origin.host, target.origin.port, target.path.as_str());
            assert_eq!(found, (host, port, path), "{url}");
        }
        let bad = [
            ("", "not a URL"),
            ("example.org/x", "not a URL"),
            ("/x", "http://"),
            ("example.org", "http://"),
            ("ftp://example.org/", "http://"),
            ("file:///etc/passwd", "not a URL"),
            ("http://", "not a URL"),
            ("http://:80/", "host"),
            ("http://u:p@example.org/", "Authorization"),
            ("http://u@example.org/", "Authorization"),
            ("http://example.org:0/", "port"),
            ("http://example.org:65536/", "port"),
            ("http://example.org:x/", "port"),
            ("http://exa mple.org/", "not a URL"),
        ];
        for (url, said) in bad {
            let error = url.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(said), "{url:?}: {error}");
        }
    }

    #[test]
    fn a_url_error_never_repeats_the_password() {
        let error = "http://user:hunter2@example.org/".parse::<Target>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn link_local_and_metadata_addresses_are_refused_in_every_disguise() {
        let strict = UrlPolicy::default();
        let open = UrlPolicy { allow_link_local: true };
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
        ] {
            let address = address.parse().unwrap();
            assert!(!strict.allows(address), "{address}");
            assert!(open.allows(address), "{address}");
        }
        for address in ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd00::1", "1.1.1.1"] {
            assert!(strict.allows(address.parse().unwrap()), "{address}");
        }
        for address in ["255.255.255.255", "224.0.0.1", "ff02::1"] {
            assert!(!open.allows(address.parse().unwrap()), "{address}");
        }
    }
}
