//! Redis: whether it takes writes, keeps them, and throws none away.

use outboard_backends::{
    redis::{self, Facts},
    sidekiq::Address,
};
use outboard_core::PortError;

use super::Backend;
use crate::doctor::report::Check;

pub(super) async fn checks(backend: &Backend) -> Result<Vec<Check>, PortError> {
    let address: Address = backend.url.parse()?;
    Ok(judge(&redis::inspect(&address.target).await?))
}

fn judge(facts: &Facts) -> Vec<Check> {
    let version = facts.version.as_deref().unwrap_or("of an unknown version");
    let mut checks = vec![Check::ok("version", format!("Redis {version}"))];
    if let Some(primary) = &facts.read_only_of {
        let text = format!("this is a read-only replica of {primary}");
        checks.push(Check::problem("role", text, "name its primary in the URL, or promote it"));
    }
    checks.extend(room(facts));
    checks.push(eviction(facts));
    checks.push(persistence(facts));
    checks
}

/// Whether there is room for what is written next. A server that throws away keys for it has room, and loses something else.
fn room(facts: &Facts) -> Option<Check> {
    let (used, most) = (facts.used_memory?, facts.max_memory.filter(|most| *most > 0)?);
    if facts.eviction.as_deref().is_some_and(|policy| policy.starts_with("allkeys")) {
        return None;
    }
    let text = format!("{} of {} are taken", size(used), size(most));
    let mend = "raise `maxmemory`, or remove what is old";
    if used >= most {
        let text = format!("{text}: writes are refused, and so nothing can be taken from a queue");
        return Some(Check::problem("room", text, mend));
    }
    if used >= most - most / 10 {
        return Some(Check::warning("room", format!("{text}: more than 90 %"), mend));
    }
    Some(Check::ok("room", text))
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

fn eviction(facts: &Facts) -> Check {
    let (name, mend) = ("eviction", "set `maxmemory-policy noeviction`");
    let Some(policy) = facts.eviction.as_deref() else {
        return Check::unknown(name, "its `maxmemory-policy` cannot be seen", "see that it is `noeviction`");
    };
    let bound = match facts.max_memory {
        Some(bytes) if bytes > 0 => format!("with {}", size(bytes)),
        _ => "without a limit yet".to_owned(),
    };
    if policy == "noeviction" {
        return Check::ok(name, format!("none ({bound})"));
    }
    let text = format!("`{policy}` throws away queues when memory is full ({bound})");
    let is_bounded = facts.max_memory.is_some_and(|bytes| bytes > 0);
    if policy.starts_with("allkeys") && is_bounded {
        return Check::problem(name, text, mend);
    }
    if policy.starts_with("allkeys") {
        return Check::warning(name, text, mend);
    }
    let text = format!("`{policy}` throws away leases and locks when memory is full ({bound})");
    Check::warning(name, text, mend)
}

fn persistence(facts: &Facts) -> Check {
    let name = "persistence";
    let append = "set `appendonly yes` and `appendfsync always`";
    let snapshots = facts.snapshots.as_deref();
    match (facts.append_only, facts.append_sync.as_deref()) {
        (Some(true), Some("always")) => Check::ok(name, "every change is on disk before it is answered"),
        (Some(true), Some("no")) => {
            let text =
                "changes are synced when the system likes: a crash of the machine loses half a minute or so";
            Check::warning(name, text, "set `appendfsync always`")
        }
        (Some(true), Some(_)) => {
            let text = "changes are synced once a second: a crash of the machine loses the last one";
            Check::warning(name, text, "set `appendfsync always`")
        }
        (Some(false), _) if snapshots == Some("") => {
            Check::problem(name, "off: with the process, every queue and job is gone", append)
        }
        (Some(false), _) => {
            let when = snapshots.map(|when| format!(" (`save {when}`)")).unwrap_or_default();
            let text = format!("snapshots only{when}: what came after the last one is lost in a crash");
            Check::warning(name, text, append)
        }
        (Some(true), None) => Check::unknown(
            name,
            hidden(facts, "changes are appended to a file, when it is synced cannot be seen"),
            "see that `appendfsync` is `always`",
        ),
        (None, _) => Check::unknown(name, hidden(facts, "it cannot be seen"), append),
    }
}

fn hidden(facts: &Facts, text: &str) -> String {
    facts.hidden.as_ref().map_or_else(|| text.to_owned(), |error| format!("{text}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn what_loses_jobs_is_told() {
        let facts = |append_only, append_sync: Option<&str>, snapshots: Option<&str>| Facts {
            append_only,
            append_sync: append_sync.map(str::to_owned),
            snapshots: snapshots.map(str::to_owned),
            ..Facts::default()
        };
        for (facts, status) in [
            (facts(Some(true), Some("always"), Some("")), Status::Ok),
            (facts(Some(true), Some("everysec"), Some("")), Status::Warning),
            (facts(Some(false), Some("everysec"), Some("3600 1")), Status::Warning),
            (facts(Some(false), Some("everysec"), Some("")), Status::Problem),
            (facts(Some(true), None, None), Status::Unknown),
            (facts(None, None, None), Status::Unknown),
        ] {
            assert_eq!(persistence(&facts).status, status, "{facts:?}");
        }
        let room = |used, most, policy: &str| {
            let (used_memory, max_memory) = (Some(used), Some(most));
            let facts =
                Facts { used_memory, max_memory, eviction: Some(policy.to_owned()), ..Facts::default() };
            super::room(&facts).map(|check| check.status)
        };
        assert_eq!(room(1 << 20, 100 << 10, "noeviction"), Some(Status::Problem));
        assert_eq!(room(95, 100, "volatile-ttl"), Some(Status::Warning));
        assert_eq!(room(50, 100, "noeviction"), Some(Status::Ok));
        assert_eq!(room(50, 0, "noeviction"), None);
        assert_eq!(room(100, 100, "allkeys-lru"), None);
        let policy = |policy: &str, max_memory| {
            let (eviction, max_memory) = (Some(policy.to_owned()), Some(max_memory));
            super::eviction(&Facts { eviction, max_memory, ..Facts::default() }).status
        };
        assert_eq!(policy("noeviction", 1), Status::Ok);
        assert_eq!(policy("allkeys-lru", 1 << 30), Status::Problem);
        assert_eq!(policy("allkeys-lru", 0), Status::Warning);
        assert_eq!(policy("volatile-ttl", 1 << 30), Status::Warning);
    }
}
