//! `amqp://user:password@host:port/vhost`: where a broker is, and who we are to it.

use std::{fmt, sync::Arc};

use outboard_core::{Kind, PortError};

/// Where to connect to, and as whom. Its `Debug` and [`fmt::Display`] leave the password out.
///
/// ```
/// use outboard_backends::rabbitmq::Target;
/// let target: Target = "amqp://shop:p%40ss@mq.internal/orders".parse().unwrap();
/// assert_eq!(target.to_string(), "amqp://shop@mq.internal:5672/orders");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) user: Arc<str>,
    pub(crate) password: Arc<str>,
    pub(crate) vhost: Arc<str>,
}

impl std::str::FromStr for Target {
    type Err = PortError;

    fn from_str(url: &str) -> Result<Self, PortError> {
        let invalid = |text: &str| PortError::new(Kind::Invalid, format!("the broker's URL {text}"));
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(invalid("has the form `amqp://user:password@host:port/vhost`"));
        };
        if scheme != "amqp" {
            return Err(invalid("begins with `amqp://`"));
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        if query.is_some() {
            return Err(invalid("takes no parameters after `?`"));
        }
        let (authority, vhost) = rest.split_once('/').map_or((rest, None), |(a, vhost)| (a, Some(vhost)));
        let (account, address) = authority.rsplit_once('@').map_or((None, authority), |(a, b)| (Some(a), b));
        let (user, password) = match account {
            None => ("guest", "guest"),
            Some(account) => account.split_once(':').unwrap_or((account, "")),
        };
        let (host, port) = split_port(address).ok_or_else(|| invalid("has a port from 1 to 65535"))?;
        if host.is_empty() {
            return Err(invalid("names a host"));
        }
        let decode =
            |text: &str| decode(text).ok_or_else(|| invalid("has a `%` that no two hex digits follow"));
        Ok(Self {
            host: host.into(),
            port,
            user: decode(user)?,
            password: decode(password)?,
            // As other clients read it: without a path it is `/`, and `//` would be the vhost with an empty name.
            vhost: vhost.map_or_else(|| Ok("/".into()), decode)?,
        })
    }
}

fn split_port(address: &str) -> Option<(&str, u16)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() { 5672 } else { rest.strip_prefix(':')?.parse().ok()? };
        return Some((host, port));
    }
    match address.split_once(':') {
        None => Some((address, 5672)),
        Some((host, port)) => Some((host, port.parse().ok().filter(|&port| port > 0)?)),
    }
}

fn decode(text: &str) -> Option<Arc<str>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[2..];
    }
    Some(String::from_utf8(bytes).ok()?.into())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vhost = if &*self.vhost == "/" { "" } else { &*self.vhost };
        write!(f, "amqp://{}@{}:{}/{vhost}", self.user, self.host, self.port)
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
            "amqp://mq?x=1",
        ] {
            let error = bad.parse::<Target>().unwrap_err();
            assert_eq!(error.kind, Kind::Invalid, "{bad}: {error}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let target: Target = "amqp://shop:top-secret@mq".parse().unwrap();
        assert!(!format!("{target} {target:?}").contains("top-secret"));
    }
}
