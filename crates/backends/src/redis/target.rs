//! `redis://user:password@host:port/0`: where a server is, and who we are to it.

use std::fmt;

use outboard_core::{Kind, PortError};
use redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion, io::tcp::TcpSettings};

/// Where to connect to, and as whom; `rediss://` is with TLS. Its `Debug` and [`fmt::Display`] leave the password out.
///
/// ```
/// use outboard_backends::redis::Target;
/// let target: Target = "redis://shop:p%40ss@cache.internal/2".parse().unwrap();
/// assert_eq!(target.to_string(), "redis://shop@cache.internal:6379/2");
/// ```
#[derive(Clone)]
pub struct Target {
    info: ConnectionInfo,
    tls: bool,
}

impl std::str::FromStr for Target {
    type Err = PortError;

    fn from_str(url: &str) -> Result<Self, PortError> {
        let invalid = |text: &str| PortError::new(Kind::Invalid, format!("the URL of Redis {text}"));
        let tls = match url.split_once("://") {
            Some(("redis", _)) => false,
            Some(("rediss", _)) => true,
            _ => return Err(invalid("begins with `redis://`, or with `rediss://` for TLS")),
        };
        if url.contains(['?', '#']) {
            return Err(invalid("takes nothing after `?` or `#`; in a password write %3F and %23"));
        }
        let form = "has the form `redis://user:password@host:6379/0`, where the last number is the database";
        let info = url.into_connection_info().map_err(|_| invalid(form))?;
        // Answers of version 3 bring the word that a key was changed, and that the connection is gone.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(settings);
        Ok(Self { info: info.set_tcp_settings(TcpSettings::default().set_nodelay(true)), tls })
    }
}

impl Target {
    /// What the client needs to connect.
    pub(crate) fn info(&self) -> ConnectionInfo {
        self.info.clone()
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
        let scheme = if self.tls { "rediss" } else { "redis" };
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
        for url in
            ["cache:6379", "http://cache", "redis://", "redis://cache/x", "redis://cache?db=1", "redis://a#b"]
        {
            let error = url.parse::<Target>().unwrap_err();
            assert_eq!(error.kind, Kind::Invalid, "{url}");
        }
        let error = "redis://:secret@cache/x".parse::<Target>().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
