//! Who has the data directory.

use std::{path::Path, time::Duration};

use serde_json::Value;

use crate::{
    client::{Refusal, Server},
    config::Config,
    doctor::report::Check,
};

/// How long a server may take to say that it is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Who has the data directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Nobody; `up` can have it.
    Nobody,
    /// A server that answers.
    Server {
        /// Where.
        url: String,
    },
    /// A process that does not answer.
    Silent {
        /// Its id, if it said.
        process: Option<u32>,
    },
    /// The directory cannot be looked at.
    Unseen(String),
}

impl Holder {
    /// Finds out.
    pub(super) async fn find(config: &Config) -> Self {
        let directory = &config.data_dir;
        if let Some(url) = answering(config).await {
            return Self::Server { url };
        }
        match outboard_embedded::holder(directory) {
            Ok(None) => Self::Nobody,
            Ok(Some(process)) => Self::Silent { process },
            Err(error) => Self::Unseen(error.to_string()),
        }
    }

    /// Where the server answers, if one does.
    pub(super) fn url(&self) -> Option<&str> {
        match self {
            Self::Server { url } => Some(url),
            _ => None,
        }
    }

    /// What that means.
    pub(super) fn judge(&self, directory: &Path) -> Check {
        let name = "data directory";
        let shown = directory.display();
        match self {
            _ if directory.exists() && !directory.is_dir() => {
                Check::problem(name, format!("{shown} is a file"), "name a directory as `data_dir`")
            }
            Self::Nobody if !directory.exists() => {
                Check::ok(name, format!("{shown} does not exist yet: `up` makes it"))
            }
            Self::Nobody => Check::ok(name, format!("{shown} is there, and no server runs on it")),
            Self::Server { url } => Check::ok(name, format!("{shown} is held by the server at {url}")),
            Self::Silent { process } => {
                let who = process.map_or_else(|| "a process".to_owned(), |id| format!("process {id}"));
                let text = format!("{shown} is held by {who}, and no server answers where it should");
                Check::problem(name, text, "it is starting, stopping or stuck: look at its log")
            }
            Self::Unseen(error) => {
                let mend = "run this as the user that runs Outboard";
                Check::problem(name, format!("{shown} cannot be looked at: {error}"), mend)
            }
        }
    }
}

/// Where the server on the data directory answers, if it does.
async fn answering(config: &Config) -> Option<String> {
    let server = Server::find(None, config).ok()??;
    let answer = tokio::time::timeout(ANSWER_WITHIN, server.get::<Value>("/health")).await.ok()?;
    match answer {
        // One that is not ready answers with a problem.
        Ok(_) | Err(Refusal::Problem { .. }) => Some(server.base().to_owned()),
        Err(Refusal::Absent(_)) => None,
    }
}
