//! A look at a server that changes nothing.

use std::{collections::HashMap, time::Duration};

use outboard_core::{Kind, PortError};
use redis::cmd;
use tokio::time::timeout;

use super::{Target, connection::configuration, dial::dial, refusal::judge};

/// How long a server may take for everything.
const WITHIN: Duration = Duration::from_secs(5);

/// What a server says of itself. `None` is what it does not say.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Such as `7.0.15`.
    pub version: Option<String>,
    /// The primary that it follows without taking writes.
    pub read_only_of: Option<String>,
    /// The most memory that its data may take, in bytes; 0 is no limit.
    pub max_memory: Option<u64>,
    /// The memory that is taken now, in bytes.
    pub used_memory: Option<u64>,
    /// What it does when the most is reached: `noeviction`, `allkeys-lru` …
    pub eviction: Option<String>,
    /// Whether it appends every change to a file.
    pub append_only: Option<bool>,
    /// When that file is synced: `always`, `everysec`, `no`.
    pub append_sync: Option<String>,
    /// When it saves a snapshot, such as `3600 1`; empty for never.
    pub snapshots: Option<String>,
    /// Why its configuration cannot be seen, if it cannot.
    pub hidden: Option<PortError>,
}

/// Connects, asks, and goes. A replica that takes no writes is no error.
///
/// Errors: `Unavailable` when the server cannot be reached, `Denied` when it refuses us.
///
/// ```
/// use outboard_backends::redis::{Target, inspect};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let nowhere: Target = "redis://127.0.0.1:1".parse().unwrap();
/// let error = inspect(&nowhere).await.unwrap_err();
/// assert_eq!(error.kind, outboard_core::Kind::Unavailable);
/// # });
/// ```
pub async fn inspect(target: &Target) -> Result<Facts, PortError> {
    let late = || PortError::new(Kind::Unavailable, format!("{target} did not answer within {WITHIN:?}"));
    timeout(WITHIN, ask(target)).await.map_err(|_| late())?
}

async fn ask(target: &Target) -> Result<Facts, PortError> {
    let told = |error: &redis::RedisError| judge(error, target).into_error();
    // Held to the end: what moves the bytes ends with it.
    let dialled = dial(target, configuration()).await?;
    let mut connection = dialled.connection.clone();
    let info: String = match cmd("INFO").query_async(&mut connection).await {
        Ok(info) => info,
        Err(error) => match told(&error) {
            // A password is wanted, or the server went away; an account without this one right may work all the same.
            error if !error.message.contains("ACL") => return Err(error),
            _ => String::new(),
        },
    };
    let fact = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::to_owned)
    };
    let is_read_only =
        fact("role").as_deref() == Some("slave") && fact("slave_read_only").as_deref() == Some("1");
    let primary = || Some(format!("{}:{}", fact("master_host")?, fact("master_port")?));
    let mut facts = Facts {
        version: fact("redis_version"),
        read_only_of: is_read_only.then(|| primary().unwrap_or_default()),
        max_memory: fact("maxmemory").and_then(|bytes| bytes.parse().ok()),
        used_memory: fact("used_memory").and_then(|bytes| bytes.parse().ok()),
        eviction: fact("maxmemory_policy"),
        append_only: fact("aof_enabled").map(|enabled| enabled == "1"),
        ..Facts::default()
    };
    // Two requests, because older servers take one pattern at a time.
    for name in ["appendfsync", "save"] {
        let found =
            cmd("CONFIG").arg("GET").arg(name).query_async::<HashMap<String, String>>(&mut connection).await;
        match found.map(|mut found| found.remove(name)) {
            Ok(value) if name == "save" => facts.snapshots = value,
            Ok(value) => facts.append_sync = value,
            Err(error) => facts.hidden = Some(told(&error)),
        }
    }
    Ok(facts)
}
