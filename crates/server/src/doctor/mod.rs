//! `outboard doctor`: looks at the machine and at every configured backend, and changes nothing.

mod report;

mod machine;

mod backends;

pub(crate) use report::{Report, Status};

use crate::config::Config;

/// Looks at everything. Ends within seconds, whatever hangs: each part has a limit, and they are looked at together.
pub(crate) async fn examine(config: &Config) -> Report {
    let (machine, backends) = tokio::join!(machine::examine(config), backends::examine(config));
    Report::of(std::iter::once(machine).chain(backends).collect())
}
