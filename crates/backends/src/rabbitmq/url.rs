//! `amqp://user:password@host:port/vhost`: where a broker is, and who we are to it.

use std::{fmt, sync::Arc, time::Duration};

use outboard_core::{Kind, PortError};

use crate::{
    authority::{self, split_port},
    tls::{Peer, Tls},
};

/// Where to connect to, and as whom. Its `Debug` and [`fmt::Display`] leave the password out.
///
/// With `amqps://` the connection is made over TLS. Parameters, each at most once:
///
/// - `heartbeat`: seconds between signs of life, 1 to 60; 5 by default. After twice this without one the connection is
///   lost.
/// - `connection_timeout`: milliseconds for connecting and signing in, 1 to 600,000.
/// - `cacertfile`: a file with the certificates that are trusted, instead of the public ones. Only for `amqps://`.
/// - `server_name_indication`: the name that the broker's certificate is made out for, if it is not the host. Only for
///   `amqps://`.
///
/// ```
/// use outboard_backends::rabbitmq::Target;
/// let target: Target = "amqp://shop:p%40ss@mq.internal/orders".parse().unwrap();
/// assert_eq!(target.to_string(), "amqp://shop@mq.internal:5672/orders");
/// let target: Target = "amqps://mq.internal?cacertfile=/etc/ssl/mq-ca.pem".parse().unwrap();
/// assert_eq!(target.to_string(), "amqps://guest@mq.internal:5671/");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) user: Arc<str>,
    pub(crate) password: Arc<str>,
    pub(crate) vhost: Arc<str>,
    /// With TLS, if it is there.
    pub(crate) tls: Option<Tls>,
    /// In whole seconds, if the URL says.
    pub(crate) heartbeat: Option<Duration>,
    /// For connecting and signing in, if the URL says.
    pub(crate) connection_timeout: Option<Duration>,
    /// What the broker shows the connection as.
    pub(crate) name: Arc<str>,
}

impl Target {
    /// The other end, where it is reached over TLS.
    pub(super) fn peer(&self) -> Option<Peer<'_>> {
        let tls = self.tls.as_ref()?;
        Some(Peer {
            target: self,
            host: &self.host,
            tls,
            without: "its TLS port is usually 5671, and a URL without TLS begins with `amqp://`",
            wants_ours: "`ssl_options.fail_if_no_peer_cert` has to be false",
        })
    }

    /// The same under another name among the broker's connections.
    pub(crate) fn named(&self, name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    fn take_parameter(&mut self, parameter: &str) -> Result<(), PortError> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = decode(value)?;
        let number = |range: std::ops::RangeInclusive<u64>, unit: &str| {
            let (least, most) = (range.start(), range.end());
            let wrong = || invalid(&format!("has a {name} of {least} to {most} {unit}"));
            value.parse().ok().filter(|number| range.contains(number)).ok_or_else(wrong)
        };
        let for_tls = || invalid(&format!("has a {name} only when it begins with `amqps://`"));
        let is_new = match name {
            "heartbeat" => self.heartbeat.replace(Duration::from_secs(number(1..=60, "seconds")?)).is_none(),
            "connection_timeout" => {
                let timeout = Duration::from_millis(number(1..=600_000, "milliseconds")?);
                self.connection_timeout.replace(timeout).is_none()
            }
            "cacertfile" | "server_name_indication" => {
                self.tls.as_mut().ok_or_else(for_tls)?.take(name, value).unwrap_or_default()
            }
            _ => {
                let known = "heartbeat, connection_timeout, cacertfile, server_name_indication";
                return Err(invalid(&format!("has no parameter `{name}`; there are: {known}")));
            }
        };
        if is_new { Ok(()) } else { Err(invalid(&format!("has each parameter once, and not two of {name}"))) }
    }
}

impl std::str::FromStr for Target {
    type Err = PortError;

    fn from_str(url: &str) -> Result<Self, PortError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(invalid("has the form `amqp://user:password@host:port/vhost`"));
        };
        let (tls, usual_port) = match scheme {
            "amqp" => (None, 5672),
            "amqps" => (Some(Tls::default()), 5671),
            _ => return Err(invalid("begins with `amqp://` or, for TLS, with `amqps://`")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, vhost) = rest.split_once('/').map_or((rest, None), |(a, vhost)| (a, Some(vhost)));
        let (account, address) = authority.rsplit_once('@').map_or((None, authority), |(a, b)| (Some(a), b));
        let (user, password) = match account {
            None => ("guest", "guest"),
            Some(account) => account.split_once(':').unwrap_or((account, "")),
        };
        let port = || invalid("has a port from 1 to 65535");
        let (host, port) = split_port(address, usual_port).ok_or_else(port)?;
        if host.is_empty() {
            return Err(invalid("names a host"));
        }
        let mut target = Self {
            host: host.into(),
            port,
            user: decode(user)?,
            password: decode(password)?,
            // As other clients read it: without a path it is `/`, and `//` would be the vhost with an empty name.
            vhost: vhost.map_or_else(|| Ok("/".into()), decode)?,
            tls,
            heartbeat: None,
            connection_timeout: None,
            name: "outboard".into(),
        };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            target.take_parameter(parameter)?;
        }
        Ok(target)
    }
}

fn invalid(text: &str) -> PortError {
    PortError::new(Kind::Invalid, format!("the broker's URL {text}"))
}

fn decode(text: &str) -> Result<Arc<str>, PortError> {
    let wrong = || invalid("has a `%` that no two hex digits follow, or text that is not UTF-8");
    authority::decode(text).map(Into::into).ok_or_else(wrong)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "amqps" } else { "amqp" };
        let vhost = if &*self.vhost == "/" { "" } else { &*self.vhost };
        write!(f, "{scheme}://{}@{}:{}/{vhost}", self.user, self.host, self.port)
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
    fn every_part_has_a_default_but_the_host() {
        for (url, shown) in [
            ("amqp://mq", "amqp://guest@mq:5672/"),
            ("amqp://mq:5672", "amqp://guest@mq:5672/"),
            ("amqp://a:b@mq:1/x%2Fy", "amqp://a@mq:1/x/y"),
            ("amqp://a:b@[::1]:7/v", "amqp://a@::1:7/v"),
            ("amqps://[::1]", "amqps://guest@::1:5671/"),
            ("amqps://a@mq/v?", "amqps://a@mq:5671/v"),
        ] {
            assert_eq!(url.parse::<Target>().unwrap().to_string(), shown, "{url}");
        }
        for bad in [
            "",
            "mq",
            "http://mq",
            "amqp://",
            "amqp://mq:0",
            "amqp://mq:x",
            "amqp://a:%4@mq",
            "amqp://%ff@mq",
            "amqp://mq?x=1",
        ] {
            let error = bad.parse::<Target>().unwrap_err();
            assert_eq!(error.kind, Kind::Invalid, "{bad}: {error}");
        }
    }

    #[test]
    fn parameters_are_read_and_mistakes_in_them_are_told() {
        let url = "amqps://mq/v?heartbeat=30&cacertfile=%2Fetc%2Fca.pem&connection_timeout=1500\
                   &server_name_indication=mq.internal";
        let target: Target = url.parse().unwrap();
        let tls = Tls { ca_file: Some("/etc/ca.pem".into()), server_name: Some("mq.internal".into()) };
        assert_eq!(target.tls, Some(tls));
        assert_eq!(target.heartbeat, Some(Duration::from_secs(30)));
        assert_eq!(target.connection_timeout, Some(Duration::from_millis(1_500)));
        for (parameters, words) in [
            ("verify=verify_none", "there are: heartbeat, connection_timeout, cacertfile, server_name"),
            ("heartbeat=0", "1 to 60 seconds"),
            ("heartbeat", "1 to 60 seconds"),
            ("connection_timeout=soon", "milliseconds"),
            ("cacertfile=x", "`amqps://`"),
            ("heartbeat=1&heartbeat=2", "once"),
        ] {
            let error = format!("amqp://a:secret@mq?{parameters}").parse::<Target>().unwrap_err();
            assert_eq!(error.kind, Kind::Invalid);
            assert!(error.message.contains(words) && !error.message.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let target: Target = "amqp://shop:top-secret@mq".parse().unwrap();
        assert!(!format!("{target} {target:?}").contains("top-secret"));
    }
}
