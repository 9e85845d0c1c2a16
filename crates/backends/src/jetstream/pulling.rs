//! How a durable consumer lets itself be asked for messages: somebody else may have made it, with limits of its own.

use std::time::Duration;

use outboard_core::{Kind, PortError};
use serde_json::Value;

use super::topology::nanoseconds;

/// How long a request stands at the server, unless the consumer wants it shorter.
const STANDS: Duration = Duration::from_secs(30);

/// How often the server says that a request still stands, at the longest; at most half as long as it stands.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// With requests that end sooner, asking would be all that is done.
const SHORTEST: Duration = Duration::from_millis(100);

/// So many requests of one message stand at once, at most, where a request may not ask for many.
const AT_ONCE: u32 = 16;

/// Where fewer may stand, all processes together, each has one at a time.
const FEW: u64 = 64;

/// What a consumer of the server takes as a request for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pulling {
    /// The most messages that one request asks for (`max_batch`).
    most: u32,
    /// How many requests stand at once.
    at_once: u32,
    stands: Duration,
    sign: Duration,
}

impl Default for Pulling {
    fn default() -> Self {
        Self { most: u32::MAX, at_once: AT_ONCE, stands: STANDS, sign: SIGN_OF_LIFE }
    }
}

impl Pulling {
    /// Reads the consumer's configuration. `Mismatch` when nobody could consume in this way.
    ///
    /// Its `max_bytes` is about requests that name a number of bytes; ours do not.
    pub(super) fn of(config: &Value) -> Result<Self, PortError> {
        let limit = |name: &str| config[name].as_u64().filter(|&limit| limit > 0);
        let count = |limit: u64| u32::try_from(limit).unwrap_or(u32::MAX);
        let stands = limit("max_expires").map_or(STANDS, |most| Duration::from_nanos(most).min(STANDS));
        if stands < SHORTEST {
            let text = format!(
                "its requests for messages end after {stands:?} (max_expires); set that to {SHORTEST:?} or more, or \
                 delete the consumer, so that it is made anew"
            );
            return Err(PortError::new(Kind::Mismatch, text));
        }
        Ok(Self {
            most: limit("max_batch").map_or(u32::MAX, count),
            at_once: limit("max_waiting").map_or(AT_ONCE, |most| if most < FEW { 1 } else { AT_ONCE }),
            stands,
            sign: SIGN_OF_LIFE.min(stands / 2),
        })
    }

    /// How many of this many wanted messages may be asked for while so many have not come.
    pub(super) fn may_ask(&self, wanted: u32, outstanding: u32) -> u32 {
        if self.at_once == 1 && outstanding > 0 {
            return 0;
        }
        wanted.min(self.bound().saturating_sub(outstanding))
    }

    /// The most messages that are asked for and have not come.
    pub(super) fn bound(&self) -> u32 {
        self.most.saturating_mul(self.at_once)
    }

    /// The requests for so many messages.
    pub(super) fn requests(&self, count: u32) -> impl Iterator<Item = String> {
        let Self { most, stands, sign, .. } = *self;
        let (stands, sign) = (nanoseconds(stands), nanoseconds(sign));
        (0..count).step_by(most as usize).map(move |before| {
            let batch = most.min(count - before);
            format!(r#"{{"batch":{batch},"expires":{stands},"idle_heartbeat":{sign}}}"#)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_stay_within_what_the_consumer_takes() {
        let usual = Pulling::of(&json!({ "max_waiting": 512, "max_batch": 0 })).unwrap();
        assert_eq!(usual, Pulling::default());
        assert_eq!((usual.may_ask(1_000, 500), usual.requests(1_000).count()), (1_000, 1));
        let config = json!({ "max_batch": 3, "max_expires": 1_000_000_000, "max_waiting": 512 });
        let small = Pulling::of(&config).unwrap();
        let requests: Vec<String> = small.requests(7).collect();
        assert!(requests[0].contains(r#""batch":3,"expires":1000000000,"idle_heartbeat":500000000"#));
        assert!(requests.len() == 3 && requests[2].contains(r#""batch":1,"#), "{requests:?}");
        assert_eq!((small.may_ask(1_000, 0), small.may_ask(1_000, 40), small.may_ask(1_000, 60)), (48, 8, 0));
        let narrow = Pulling::of(&json!({ "max_waiting": 1 })).unwrap();
        assert_eq!((narrow.may_ask(1_000, 0), narrow.may_ask(1_000, 1)), (1_000, 0));
        let useless = Pulling::of(&json!({ "max_expires": 1_000_000 })).unwrap_err();
        assert!(useless.kind == Kind::Mismatch && useless.message.contains("max_expires"), "{useless}");
    }
}
