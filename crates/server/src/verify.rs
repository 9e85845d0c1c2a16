//! Reading a whole log to check it.

use std::path::Path;

use outboard_core::{Log, Position, TypeSet, log::Limit};
use outboard_embedded::{Embedded, Options};
use serde::{Deserialize, Serialize};

/// What a check found.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Report {
    /// How many messages were read and found sound.
    pub messages: u64,
    /// What is wrong with the next one, if something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How many messages are read at once.
const PAGE: usize = 1_000;

/// Checks a log that may be in use, up to where it ended when the check began.
///
/// Every message read is checked against its checksum, which is chained to its predecessor's.
pub(crate) async fn running(log: &dyn Log) -> Report {
    let (tip, mut report, mut after) = (*log.tip().borrow(), Report::default(), Position::START);
    while after < tip {
        let page = match log.read(after, TypeSet::all(), Limit::messages(PAGE)).await {
            Ok(page) => page,
            Err(error) => {
                report.problem = Some(error.to_string());
                break;
            }
        };
        for message in &page.messages {
            if message.id != after.next() {
                report.problem = Some(format!("message {} is missing", after.next()));
                return report;
            }
            after = message.id;
            report.messages += 1;
        }
        if page.messages.is_empty() {
            report.problem = Some(format!("message {} is missing", after.next()));
            break;
        }
        // Others want to be answered meanwhile.
        tokio::task::yield_now().await;
    }
    report
}

/// Checks the log of a directory that no server holds. The error says why it cannot be opened.
pub(crate) async fn stopped(directory: &Path) -> Result<Report, String> {
    if !directory.join("outboard.db").exists() && !directory.exists() {
        return Err(format!(
            "{} does not exist; name the data directory with --data-dir",
            directory.display()
        ));
    }
    let storage = Embedded::open(directory, Options::default()).await.map_err(|error| error.to_string())?;
    let report = running(&storage).await;
    storage.close().await;
    Ok(report)
}
