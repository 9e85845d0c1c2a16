//! `redis://user:password@host:port/0`: where a server is, and who we are to it.

use std::fmt;

use outboard_core::{Kind, PortError};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use crate::tls::{Peer, Tls};

/// Where to connect to, and as whom. Its `Debug` and [`fmt::Display`] leave the password out.
///
/// `rediss://` is with TLS, and takes parameters, each at most once:
///
/// - `cacertfile`: a file with the certificates that are trusted, instead of the public ones.
/// - `server_name_indication`: the name that the server's certificate is made out for, if it is not the host.
///
/// ```
/// use outboard_backends::redis::Target;
/// let target: Target = "redis://shop:p%40ss@cache.internal/2".parse().unwrap();
/// assert_eq!(target.to_string(), "redis://shop@cache.internal:6379/2");
/// ```
#[derive(Clone)]
pub struct Target {
    info: ConnectionInfo,
    pub(crate) tls: Option<Tls>,
}

impl std::str::FromStr for Target {
    type Err = PortError;

    fn from_str(url: &str) -> Result<Self, PortError> {
        let invalid = |text: &str| PortError::new(Kind::Invalid, format!("the URL of Redis {text}"));
        let (is_tls, rest) = match url.split_once("://") {
            Some(("redis", rest)) => (false, rest),
            Some(("rediss", rest)) => (true, rest),
            _ => return Err(invalid("begins with `redis://`, or with `rediss://` for TLS")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let tls = if is_tls { Tls::read(query).map(Some) } else { query.is_empty().then_some(None) };
        let Some(tls) = tls.filter(|_| !url.contains('#')) else {
            return Err(invalid(
                "takes nothing after `?` or `#`, but for `rediss://` `cacertfile=FILE` and \
                 `server_name_indication=NAME`, each once; in a password write %3F and %23",
            ));
        };
        let form = "has the form `redis://user:password@host:6379/0`, where the last number is the database";
        let info = format!("redis://{rest}").into_connection_info().map_err(|_| invalid(form))?;
        // Answers of version 3 bring the word that a key was changed, and that the connection is gone.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Self { info: info.set_redis_settings(settings), tls })
    }
}

impl Target {
    /// Host and port.
    pub(super) fn address(&self) -> (&str, u16) {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => (host, *port),
            _ => unreachable!("`redis://` is read as an address of TCP"),
        }
    }

    /// Who we are, and which database is meant.
    pub(super) fn settings(&self) -> &RedisConnectionInfo {
        self.info.redis_settings()
    }

    /// The other end, where it is reached over TLS.
    pub(super) fn peer(&self) -> Option<Peer<'_>> {
        Some(Peer {
            target: self,
            host: self.address().0,
            tls: self.tls.as_ref()?,
            without: "name its `tls-port` in the URL, or begin it with `redis://`",
            wants_ours: "`tls-auth-clients` has to be `no`",
        })
    }

    /// Whether the URL has a password.
    pub(crate) fn has_password(&self) -> bool {
        self.info.redis_settings().password().is_some()
    }

    /// The account, as Redis calls it.
    pub(crate) fn user(&self) -> &str {
        self.info.redis_settings().username().unwrap_or("default")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let settings = self.info.redis_settings();
        let user = settings.username().map(|user| format!("{user}@")).unwrap_or_default();
        write!(f, "{scheme}://{user}{}/{}", self.info.addr(), settings.db())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown_and_mistakes_are_told() {
        for (url, shown) in [
            ("redis://cache", "redis://cache:6379/0"),
            ("rediss://:secret@cache:7/3", "rediss://cache:7/3"),
            ("redis://shop:secret@cache", "redis://shop@cache:6379/0"),
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!(target.to_string(), shown);
            assert!(!format!("{target:?}").contains("secret"));
        }
        for url in [
            "cache:6379",
            "http://cache",
            "redis://",
            "redis://cache/x",
            "redis://cache?db=1",
            "rediss://cache?db=1",
            "redis://a#b",
        ] {
            let error = url.parse::<Target>().unwrap_err();
            assert_eq!(error.kind, Kind::Invalid, "{url}");
        }
        for url in ["redis://:secret@cache/x", "rediss://:a?secret@cache"] {
            let error = url.parse::<Target>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
