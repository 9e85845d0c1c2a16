//! `nats://user:password@host:port`: where a server is, and who we are to it.

use std::{fmt, sync::Arc};

use outboard_core::{Kind, PortError};

use crate::{
    authority::{decode, split_port},
    tls::{Peer, Tls},
};

/// Where to connect to, and as whom. Its `Debug` and [`fmt::Display`] leave passwords and tokens out.
///
/// `tls://` asks for TLS, and so does any of its parameters; `nats://` alone takes it when the server asks for it. The
/// parameters, each at most once:
///
/// - `cacertfile`: a file with the certificates that are trusted, instead of the public ones.
/// - `server_name_indication`: the name that the server's certificate is made out for, if it is not the host.
///
/// ```
/// use outboard_backends::jetstream::Target;
/// let target: Target = "nats://shop:p%40ss@mq.internal".parse().unwrap();
/// assert_eq!(target.to_string(), "nats://shop@mq.internal:4222");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) account: Account,
    pub(crate) is_tls: bool,
    pub(crate) tls: Tls,
}

/// Who we are to a server.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Account {
    Nobody,
    User { user: Arc<str>, password: Arc<str> },
    Token(Arc<str>),
}

impl std::str::FromStr for Target {
    type Err = PortError;

    fn from_str(url: &str) -> Result<Self, PortError> {
        let invalid = |text: &str| PortError::new(Kind::Invalid, format!("the server's URL {text}"));
        let (is_tls, rest) = match url.split_once("://") {
            Some(("nats", rest)) => (false, rest),
            Some(("tls", rest)) => (true, rest),
            _ => {
                return Err(invalid(
                    "has the form `nats://user:password@host:port`, or begins with `tls://`",
                ));
            }
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let parameters = "takes `cacertfile=FILE` and `server_name_indication=NAME` after `?`, each once; in a password \
                          write %3F";
        let tls = Tls::read(query).ok_or_else(|| invalid(parameters))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '#']) {
            return Err(invalid("ends with the port: the queue's name is given by itself"));
        }
        let decode = |text: &str| {
            decode(text)
                .map(Arc::<str>::from)
                .ok_or_else(|| invalid("has a `%` that no two hex digits follow"))
        };
        let (account, address) = match rest.rsplit_once('@') {
            None => (Account::Nobody, rest),
            Some((account, address)) => match account.split_once(':') {
                None => (Account::Token(decode(account)?), address),
                Some((user, password)) => {
                    (Account::User { user: decode(user)?, password: decode(password)? }, address)
                }
            },
        };
        let (host, port) = split_port(address, 4222).ok_or_else(|| invalid("has a port from 1 to 65535"))?;
        if host.is_empty() {
            return Err(invalid("names a host"));
        }
        // Whoever names a CA must not be talked out of TLS by somebody on the way.
        let is_tls = is_tls || tls != Tls::default();
        Ok(Self { host: host.into(), port, account, is_tls, tls })
    }
}

impl Target {
    /// The other end, over TLS.
    pub(super) fn peer(&self) -> Peer<'_> {
        Peer {
            target: self,
            host: &self.host,
            tls: &self.tls,
            without: "configure `tls` there, or write `nats://`",
            wants_ours: "`verify` in the server's `tls` has to be false",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "tls" } else { "nats" };
        match &self.account {
            Account::User { user, .. } => write!(f, "{scheme}://{user}@{}:{}", self.host, self.port),
            Account::Nobody | Account::Token(_) => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
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
            ("nats://mq", "nats://mq:4222"),
            ("nats://mq:1/", "nats://mq:1"),
            ("tls://a:b@[::1]:7", "tls://a@::1:7"),
            ("nats://secret-token@mq", "nats://mq:4222"),
            ("nats://mq?cacertfile=/ca.pem", "tls://mq:4222"),
        ] {
            assert_eq!(url.parse::<Target>().unwrap().to_string(), shown, "{url}");
        }
        for bad in [
            "",
            "mq",
            "amqp://mq",
            "nats://",
            "nats://mq:0",
            "nats://mq:x",
            "nats://mq/orders",
            "nats://mq?queue=orders",
            "nats://a:b?top-secret@mq",
            "nats://a:%4@mq",
        ] {
            let error = bad.parse::<Target>().unwrap_err();
            assert_eq!(error.kind, Kind::Invalid, "{bad}: {error}");
            assert!(!error.message.contains("top-secret"), "{error}");
        }
    }

    #[test]
    fn neither_a_password_nor_a_token_is_ever_shown() {
        for url in ["nats://shop:top-secret@mq", "tls://top-secret@mq"] {
            let target: Target = url.parse().unwrap();
            assert!(!format!("{target} {target:?}").contains("top-secret"));
        }
    }
}
