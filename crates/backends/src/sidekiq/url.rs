//! `sidekiq+redis://host:6379/0?queue=default`: which server, which queue, which kind of jobs.

use std::{fmt, sync::Arc};

use outboard_core::{Kind, PortError, queue::QueueName};

use crate::{authority::decode, redis::Target};

/// How jobs are written that we enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jobs {
    /// For `ActiveJob` classes: wrapped as its adapter does.
    #[default]
    Active,
    /// For workers of plain Sidekiq: the class is the worker itself.
    Plain,
}

/// A server with Sidekiq's queues.
///
/// ```
/// use outboard_backends::sidekiq::{Jobs, Address};
/// let address: Address = "sidekiq+redis://cache:6379/0?queue=mailers&jobs=plain".parse().unwrap();
/// assert_eq!((address.queue.as_deref(), address.jobs), (Some("mailers"), Jobs::Plain));
/// assert_eq!(address.to_string(), "sidekiq+redis://cache:6379/0");
/// ```
#[derive(Debug, Clone)]
pub struct Address {
    /// The server.
    pub target: Target,
    /// The queue that the URL names, if it names one.
    pub queue: Option<QueueName>,
    /// How our jobs are written.
    pub jobs: Jobs,
}

impl std::str::FromStr for Address {
    type Err = PortError;

    fn from_str(url: &str) -> Result<Self, PortError> {
        let invalid = |text: String| PortError::new(Kind::Invalid, text);
        let Some(rest) = url.strip_prefix("sidekiq+") else {
            let text = "the URL of Sidekiq's Redis begins with `sidekiq+redis://` or `sidekiq+rediss://`";
            return Err(invalid(text.to_owned()));
        };
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
        let (mut queue, mut jobs, mut others) = (None, Jobs::default(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("queue", name)) => queue = Some(checked_name(&decoded(name)?)?),
                Some(("jobs", "active")) => jobs = Jobs::Active,
                Some(("jobs", "plain")) => jobs = Jobs::Plain,
                Some(("cacertfile" | "server_name_indication", _)) => others.push(pair),
                _ => {
                    let text = "after `?` the URL of Sidekiq's Redis takes `queue=NAME` and `jobs=active` or `jobs=plain`, \
                                and for TLS `cacertfile=FILE` and `server_name_indication=NAME`";
                    return Err(invalid(text.to_owned()));
                }
            }
        }
        let server = if others.is_empty() { rest.to_owned() } else { format!("{rest}?{}", others.join("&")) };
        Ok(Self { target: server.parse()?, queue, jobs })
    }
}

/// A queue's name that Sidekiq understands.
pub(crate) fn checked_name(name: &str) -> Result<QueueName, PortError> {
    if name.is_empty() || name.len() > 200 || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let text = format!("`{}` is no name of a queue: 1 to 200 bytes without spaces", name.escape_debug());
        return Err(PortError::new(Kind::Invalid, text));
    }
    Ok(Arc::from(name))
}

fn decoded(text: &str) -> Result<String, PortError> {
    let text = decode(text);
    text.ok_or_else(|| {
        PortError::new(Kind::Invalid, "the queue's name in the URL has a `%` without two hex digits")
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sidekiq+{}", self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_server_and_queue_and_mistakes_are_told() {
        let address: Address = "sidekiq+rediss://u:p@h/3?queue=a%20b"
            .parse()
            .map_err(|error: PortError| error.kind)
            .unwrap_or_else(|kind| {
                assert_eq!(kind, Kind::Invalid, "a name with a space");
                "sidekiq+rediss://u:p@h/3?queue=a%2Fb".parse().unwrap()
            });
        assert_eq!((address.queue.as_deref(), address.jobs), (Some("a/b"), Jobs::Active));
        assert_eq!(address.to_string(), "sidekiq+rediss://u@h:6379/3");
        for url in [
            "redis://h",
            "sidekiq+http://h",
            "sidekiq+redis://h?queue=",
            "sidekiq+redis://h?jobs=x",
            "sidekiq+redis://h?queue=%4",
            "sidekiq+redis://h?cacertfile=/ca.pem",
        ] {
            assert_eq!(url.parse::<Address>().unwrap_err().kind, Kind::Invalid, "{url}");
        }
    }
}
