//! What `log verify` and `POST /log/verify` say.

use std::path::Path;

use outboard_core::{PortError, Position};
use outboard_embedded::{Embedded, VerifyReport};
use serde::{Deserialize, Serialize};

use crate::storage;

/// What a check found.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Report {
    /// Whether nothing is wrong.
    pub clean: bool,
    /// Messages that were read.
    pub messages: u64,
    /// The last position of the log.
    pub tip: Position,
    /// Workers whose cursors and counts were looked at.
    pub workers: u64,
    /// Whether the file's structure was looked at as well; only a stopped log's is.
    pub structure: bool,
    /// What is wrong, one sentence each, the first hundred.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl From<VerifyReport> for Report {
    fn from(found: VerifyReport) -> Self {
        Self {
            clean: found.is_clean(),
            messages: found.messages,
            tip: found.tip,
            workers: found.workers,
            structure: found.structure,
            problems: found.problems,
            problem_count: found.problem_count,
        }
    }
}

/// Checks a log that is in use, up to where it ended when the check began.
pub(crate) async fn running(storage: &Embedded) -> Result<Report, PortError> {
    storage.verify(|_, _| {}).await.map(Report::from)
}

/// Checks the log of a directory that no server holds. The error says why it cannot be opened. Blocks.
pub(crate) fn stopped(directory: &Path) -> Result<Report, String> {
    if !directory.exists() {
        return Err(format!(
            "{} does not exist; name the data directory with --data-dir",
            directory.display()
        ));
    }
    outboard_embedded::verify(directory, |_, _| {})
        .map(Report::from)
        .map_err(|error| storage::explain(directory, &error))
}
