//! Whether what we consume is what it was before an outage.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use crate::jetstream::{api::StreamInfo, protocol::handshake::ServerInfo, topology::Found};

/// A server that was started again may say by so much less than this that a consumer was made later than it said before.
///
/// It takes one time in memory and, when it has made the directory, another one that it writes to its files, and which it
/// tells from its next start on. The two are some ten microseconds apart, or as long as a slow disk needs. The time of
/// making a stream is one and the same.
const TOLD_LATER: Duration = Duration::from_secs(1);

/// The stream and the consumer that the server had, by their times of making.
///
/// How far the server says that it has delivered tells nothing: one that is killed has forgotten the last of it, of a young
/// consumer all. Nor do claims depend on it: within one stream, a message is acknowledged by its position there, and
/// whoever consumes it, what is done is done.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Which run of a server says so.
    server: String,
    stream: String,
    consumer: String,
    consumer_created: String,
    /// It was made by ourselves just now, so it is nobody's that was there before.
    is_new: bool,
}

/// What is not there any more, though something of its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    Stream,
    Consumer,
}

impl Identity {
    /// What was found on a connection to this server.
    pub(super) fn of(server: &ServerInfo, stream: &StreamInfo, found: &Found) -> Self {
        Self {
            server: server.server_id.clone(),
            stream: stream.created.clone(),
            consumer: found.info.name.clone(),
            consumer_created: found.info.created.clone(),
            is_new: found.is_new,
        }
    }

    /// What of that which was known before is gone now.
    pub(super) fn gone_since(&self, before: &Self) -> Option<Gone> {
        if self.stream != before.stream {
            return Some(Gone::Stream);
        }
        let is_same = !self.is_new && self.consumer == before.consumer && self.is_as_old_as(before);
        (!is_same).then_some(Gone::Consumer)
    }

    fn is_as_old_as(&self, before: &Self) -> bool {
        if self.consumer_created == before.consumer_created {
            return true;
        }
        let [now, then] = [self, before].map(|identity| identity.consumer_created.parse::<Timestamp>());
        let (Ok(now), Ok(then)) = (now, then) else { return false };
        self.server != before.server
            && Duration::try_from(now.duration_since(then)).is_ok_and(|later| later < TOLD_LATER)
    }
}

impl Gone {
    /// One line that says what this means, for a stream and a consumer with these configurations.
    pub(super) fn meaning(self, stream: &Value, consumer: &Value) -> Cow<'static, str> {
        if self == Self::Stream {
            return "the stream was deleted and is made again: what was in it is gone".into();
        }
        let what = match (consumer["deliver_policy"].as_str(), stream["retention"].as_str()) {
            (Some("all") | None, Some("workqueue")) => "what was not acknowledged comes again",
            (Some("all") | None, Some("interest")) => {
                "what another consumer has still to acknowledge comes again, from the beginning and as if for the first \
                 time; the rest is gone"
            }
            (Some("all") | None, _) => {
                "everything that the stream holds comes again, from the beginning and as if for the first time, also \
                 what was acknowledged"
            }
            (Some(policy), _) => {
                let whence = format!("where it begins, its deliver_policy says: {policy}");
                return format!("the consumer was deleted and is made again: {whence}").into();
            }
        };
        format!("the consumer was deleted and is made again: {what}").into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(server: &str, stream: &str, consumer_created: &str) -> Identity {
        let [server, stream, consumer_created] = [server, stream, consumer_created].map(str::to_owned);
        Identity { server, stream, consumer: "worker".into(), consumer_created, is_new: false }
    }

    #[test]
    fn a_consumer_that_a_restarted_server_tells_a_little_later_is_the_same() {
        let stream = "2026-11-22T03:02:56.103395077Z";
        let first = found("A", stream, "2026-11-22T03:02:56.104476028Z");
        let cases = [
            ("A", "2026-11-22T03:02:56.104476028Z", None, "nothing happened"),
            ("B", "2026-11-22T03:02:56.104552172Z", None, "the server was started again"),
            ("B", "2026-11-22T03:02:57.104476027Z", None, "on a slow disk"),
            ("B", "2026-11-22T03:02:57.104476028Z", Some(Gone::Consumer), "another one, made later"),
            ("A", "2026-11-22T03:02:56.104552172Z", Some(Gone::Consumer), "another one, of the same run"),
            ("B", "2026-11-22T03:02:56.104476027Z", Some(Gone::Consumer), "another one, made before"),
            ("B", "soon", Some(Gone::Consumer), "who knows"),
        ];
        for (server, created, gone, what) in cases {
            assert_eq!(found(server, stream, created).gone_since(&first), gone, "{what}");
        }
        let mut made = found("B", stream, "2026-11-22T03:02:56.104552172Z");
        made.is_new = true;
        assert_eq!(made.gone_since(&first), Some(Gone::Consumer), "we have made it ourselves");
        let other = Identity { consumer: "other".into(), ..first.clone() };
        assert_eq!(
            other.gone_since(&first),
            Some(Gone::Consumer),
            "it is another worker's, which we have joined"
        );
        let stream = "2026-11-22T03:02:56.103395078Z";
        let other = found("B", stream, "2026-11-22T03:02:56.104476028Z");
        assert_eq!(other.gone_since(&first), Some(Gone::Stream), "the time of a stream is exact");
    }

    #[test]
    fn what_comes_again_depends_on_what_the_stream_keeps() {
        let said = |retention, policy| {
            let (stream, consumer) = (json!({ "retention": retention }), json!({ "deliver_policy": policy }));
            Gone::Consumer.meaning(&stream, &consumer).into_owned()
        };
        assert!(said("workqueue", "all").ends_with("what was not acknowledged comes again"));
        assert!(said("limits", "all").contains("everything that the stream holds comes again"));
        assert!(said("interest", "all").contains("another consumer"));
        assert!(said("limits", "new").ends_with("deliver_policy says: new"));
    }
}
