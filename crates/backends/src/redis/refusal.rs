//! What the errors of a server and of the way to it mean to us, and their mend.

use outboard_core::{Kind, PortError};
use redis::{ErrorKind, RedisError};

use super::Target;

/// What to do about an error.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The connection is of no use any more: make another one. Whether the command was run is not known.
    Lost(PortError),
    /// The server refused the command, and would refuse every one: make another connection, later.
    Away(PortError),
    /// It takes no writes for now; the connection is good.
    Full(PortError),
    /// It refused this command; others may be fine.
    Command(PortError),
}

/// Codes that scripts of older servers hide within their text.
const CODES: &[&str] =
    &["READONLY", "LOADING", "MISCONF", "OOM", "NOPERM", "MASTERDOWN", "NOREPLICAS", "WRONGTYPE"];

/// Judges an error of a command.
pub(crate) fn judge(error: &RedisError, target: &Target) -> Verdict {
    let says = format!("{error}");
    let code = match error.code() {
        // Its text names the real one, if there is one.
        Some("ERR" | "EXECABORT") | None => {
            CODES.iter().find(|&&code| says.contains(code)).copied().or(error.code())
        }
        code => code,
    };
    let Some(code) = code else { return way(error, target) };
    let away = |kind, text: String| Verdict::Away(PortError::new(kind, text));
    match code {
        "NOAUTH" | "WRONGPASS" => away(Kind::Denied, account(target)),
        "READONLY" => away(Kind::Unavailable, read_only(target)),
        "LOADING" => away(Kind::Unavailable, loading(target)),
        "MASTERDOWN" | "CLUSTERDOWN" => away(Kind::Unavailable, format!("{target} says {says}")),
        "MISCONF" => Verdict::Full(PortError::new(
            Kind::Full,
            format!(
                "{target} takes no writes, because it cannot save to its disk: see its log, and `df` on its machine"
            ),
        )),
        "OOM" => Verdict::Full(PortError::new(
            Kind::Full,
            format!(
                "{target} takes no writes, because its memory is full: raise `maxmemory`, or remove what is old"
            ),
        )),
        "NOREPLICAS" => Verdict::Full(PortError::new(
            Kind::Full,
            format!("{target} takes no writes, because too few replicas follow it (`min-replicas-to-write`)"),
        )),
        "NOPERM" => Verdict::Command(PortError::new(
            Kind::Denied,
            format!("{target} does not let `{}` do this: {says}; extend its ACL", target.user()),
        )),
        "WRONGTYPE" => Verdict::Command(PortError::new(
            Kind::Mismatch,
            format!("a key at {target} is of another type: {says}"),
        )),
        _ if says.contains("unknown command") => {
            Verdict::Command(PortError::new(Kind::Unsupported, format!("{}; {says}", too_old(target))))
        }
        _ => Verdict::Command(PortError::new(Kind::Invalid, format!("{target} says {says}"))),
    }
}

/// Judges an error that no server has sent.
fn way(error: &RedisError, target: &Target) -> Verdict {
    match error.kind() {
        ErrorKind::AuthenticationFailed => Verdict::Away(PortError::new(Kind::Denied, account(target))),
        ErrorKind::RESP3NotSupported => Verdict::Away(PortError::new(Kind::Unsupported, too_old(target))),
        ErrorKind::UnexpectedReturnType | ErrorKind::InvalidClientConfig => Verdict::Command(PortError::new(
            Kind::Corrupt,
            format!("{target} answered in an unexpected way: {error}"),
        )),
        _ => match tls(error).zip(target.peer()) {
            Some((error, peer)) => Verdict::Away(peer.judge(error)),
            None if error.is_timeout() => {
                Verdict::Lost(PortError::new(Kind::Unavailable, format!("{target} has gone silent")))
            }
            None => {
                let text = format!("{target} cannot be reached: {error}");
                Verdict::Lost(PortError::new(Kind::Unavailable, text))
            }
        },
    }
}

/// What TLS says, if it was TLS.
fn tls(error: &RedisError) -> Option<&tokio_rustls::rustls::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>());
        if let Some(error) = inner.or_else(|| error.downcast_ref()) {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

fn account(target: &Target) -> String {
    if target.has_password() {
        format!("{target} refuses the password of `{}`: put the right one into the URL", target.user())
    } else {
        format!(
            "{target} wants a password: put it into the URL, `redis://user:password@host`, or `redis://:password@host`"
        )
    }
}

/// What is said of a replica.
pub(crate) fn read_only(target: &Target) -> String {
    format!("{target} is a read-only replica: name its primary in the URL, or promote it")
}

/// What is said of a server that has just begun.
pub(crate) fn loading(target: &Target) -> String {
    format!("{target} is still loading its data: it is asked again until it has")
}

/// What is said of a server that lacks what we need.
pub(crate) fn too_old(target: &Target) -> String {
    format!("{target} is too old: Redis 6.2 or newer is needed, or what behaves as it does")
}
