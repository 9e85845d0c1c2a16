//! NATS JetStream: whether there is any, how full it is, and when it is on disk.

use outboard_backends::jetstream::{self, Account};
use outboard_core::PortError;

use super::Backend;
use crate::doctor::report::Check;

/// What a message of ours may have.
const MESSAGE_BYTES: usize = 1 << 20;

pub(super) async fn checks(backend: &Backend) -> Result<Vec<Check>, PortError> {
    let facts = jetstream::inspect(&backend.url).await?;
    let mut checks = vec![Check::ok("version", format!("NATS {}", facts.version))];
    let kib = facts.max_payload >> 10;
    checks.push(if facts.max_payload < MESSAGE_BYTES {
        let text = format!("messages may have {kib} KiB at most");
        Check::warning("payload", text, "raise `max_payload` to 1MB or more, or send less")
    } else {
        Check::ok("payload", format!("messages may have {kib} KiB"))
    });
    match &facts.jetstream {
        Err(error) => {
            checks.push(Check::problem("jetstream", error.as_str(), ""));
            return Ok(checks);
        }
        Ok(account) => checks.push(usage(account)),
    }
    let always = "set `sync_interval: always` in the server's `jetstream` section";
    checks.push(match facts.sync_interval {
        None => Check::unknown(
            "sync",
            "it cannot be asked when it syncs; unless told otherwise every 2 minutes, and what it acknowledged since is \
             lost with the power",
            always,
        ),
        Some(interval) if interval.is_zero() => Check::ok("sync", "it syncs before it acknowledges"),
        Some(interval) => {
            let text = format!("it syncs every {interval:?}: what it acknowledged since is lost with the power");
            Check::warning("sync", text, always)
        }
    });
    Ok(checks)
}

fn usage(account: &Account) -> Check {
    let Account { storage, streams, consumers, .. } = account;
    let mib = storage >> 20;
    let text = format!("{streams} streams with {consumers} consumers, {mib} MiB stored");
    let parts = [(Some(*storage), account.max_storage), (Some(*streams), account.max_streams)];
    let used = |(used, max): (Option<u64>, Option<u64>)| Some((used?, max?));
    let mend = "raise the account's limits, or delete what is not needed";
    if parts.into_iter().filter_map(used).any(|(used, max)| used >= max) {
        return Check::problem(
            "jetstream",
            format!("{text}: a limit is reached, and nothing new is taken"),
            mend,
        );
    }
    if parts.into_iter().filter_map(used).any(|(used, max)| used >= max - max / 10) {
        return Check::warning("jetstream", format!("{text}: more than 90 % of a limit"), mend);
    }
    Check::ok("jetstream", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn limits_are_told_before_they_are_reached() {
        let account = |storage: u64, max: Option<u64>| Account {
            storage,
            max_storage: max,
            streams: 1,
            max_streams: None,
            consumers: 1,
        };
        assert_eq!(usage(&account(99, None)).status, Status::Ok);
        assert_eq!(usage(&account(80, Some(100))).status, Status::Ok);
        assert_eq!(usage(&account(90, Some(100))).status, Status::Warning);
        assert_eq!(usage(&account(100, Some(100))).status, Status::Problem);
    }
}
