//! The machine: disk, limits, ports, clock.

mod clock;
mod disk;
mod holder;
mod limits;
mod mount;
mod ports;

use std::time::Duration;

use clock::Clocks;
use holder::Holder;

use super::report::{Check, Group};
use crate::config::Config;

/// How long the disk may take for all that is asked of it.
const DISK_WITHIN: Duration = Duration::from_secs(6);

/// Looks at the machine.
pub(super) async fn examine(config: &Config) -> Group {
    let clocks = Clocks::now();
    let place = disk::place(&config.data_dir);
    let shown = place.display().to_string();
    // A disk that hangs must not hang us.
    let looking = tokio::task::spawn_blocking(move || [disk::sync(&place), disk::space(&place)]);
    let disk = async {
        match tokio::time::timeout(DISK_WITHIN, looking).await {
            Ok(Ok(checks)) => checks.into(),
            _ => vec![Check::problem(
                "disk sync",
                format!("{shown} did not answer within {DISK_WITHIN:?}"),
                "see the system's log: the disk, or the way to it, is stuck",
            )],
        }
    };
    let (holder, mut checks) = tokio::join!(Holder::find(config), disk);
    checks.insert(0, holder.judge(&config.data_dir));
    checks.push(limits::files(config.limits.connections));
    checks.push(limits::memory());
    checks.push(ports::port("api.port", config.api_address(), &holder));
    if let Some(address) = config.metrics_address() {
        checks.push(ports::port("metrics.port", address, &holder));
    }
    checks.push(clocks.judge(Clocks::now()));
    Group { name: "machine".to_owned(), checks }
}
