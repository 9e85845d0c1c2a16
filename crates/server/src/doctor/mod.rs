//! `outboard doctor`: looks at the machine and at every configured backend, and changes nothing.

mod report;

mod machine;

pub(crate) use report::{Report, Status};

use crate::config::Config;

/// Looks at everything. Ends within seconds, whatever hangs.
pub(crate) async fn examine(config: &Config) -> Report {
    Report::of(vec![machine::examine(config).await])
}
