//! How the commands talk to a running server.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use outboard_http::{Call, Client, ClientConfig, Target};
use serde::de::DeserializeOwned;

use crate::{address, config::Config, output::Exit};

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    client: Client,
    base: String,
}

/// How long a server may take for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Why a request got no good answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Nothing answers at the address.
    Absent(String),
    /// It answered with a problem.
    Problem {
        /// The status.
        status: StatusCode,
        /// The problem's words.
        detail: String,
    },
}

impl From<Refusal> for Exit {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Absent(told) => Self::failure(told),
            Refusal::Problem { status, detail } if status == StatusCode::UNPROCESSABLE_ENTITY => {
                Self::usage(detail)
            }
            Refusal::Problem { status, detail } => Self::failure(format_args!("{detail} ({status})")),
        }
    }
}

impl Server {
    /// The server at `url`, or else the one that runs on the configured data directory; `None` when none does.
    pub(crate) fn find(url: Option<&str>, config: &Config) -> Result<Option<Self>, Exit> {
        let found = match url {
            Some(url) => Some(url.trim_end_matches('/').to_owned()),
            None => published(&config.data_dir)?,
        };
        let Some(base) = found else { return Ok(None) };
        base.parse::<Target>().map_err(|error| Exit::usage(format_args!("--url: {error}")))?;
        let limits = ClientConfig {
            body_kept: 16 << 20,
            body_drained: 16 << 20,
            body_timeout: Duration::from_secs(30),
            ..ClientConfig::default()
        };
        let client = Client::new(limits).map_err(Exit::failure)?;
        Ok(Some(Self { client, base }))
    }

    /// As [`Server::find`]; that there is none is an error.
    pub(crate) fn require(url: Option<&str>, config: &Config) -> Result<Self, Exit> {
        Self::find(url, config)?.ok_or_else(|| {
            let directory = config.data_dir.display();
            Exit::failure(format_args!(
                "no server runs on {directory}; start `outboard up`, or name one with --url"
            ))
        })
    }

    /// Where it is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Gets a JSON answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        self.call(Method::GET, path, Bytes::new(), HeaderMap::new(), Some(PATIENCE)).await
    }

    /// Posts JSON and reads the JSON answer.
    pub(crate) async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: String,
    ) -> Result<T, Refusal> {
        self.post(path, "application/json", body.into(), HeaderMap::new(), Some(PATIENCE)).await
    }

    /// Posts a body and reads the JSON answer. `time` bounds the wait for it.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        media: &'static str,
        body: Bytes,
        mut headers: HeaderMap,
        time: Option<Duration>,
    ) -> Result<T, Refusal> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        self.call(Method::POST, path, body, headers, time).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: HeaderMap,
        time: Option<Duration>,
    ) -> Result<T, Refusal> {
        let absent =
            |told: String| Refusal::Absent(format!("{}: {told}; is `outboard up` running?", self.base));
        let target: Target =
            format!("{}{path}", self.base).parse().map_err(|error| absent(format!("{error}")))?;
        let call = Call { target: &target, method, headers, body, timeout: time };
        let answer = self.client.send(call).await.map_err(|error| absent(error.to_string()))?;
        let text = String::from_utf8_lossy(&answer.body);
        if !answer.status.is_success() {
            let problem = serde_json::from_str::<serde_json::Value>(&text).ok();
            let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str());
            let detail = detail.map_or_else(|| text.to_string(), str::to_owned);
            return Err(Refusal::Problem { status: answer.status, detail });
        }
        serde_json::from_str(&text).map_err(|error| absent(format!("the answer is not understood: {error}")))
    }
}

fn published(directory: &Path) -> Result<Option<String>, Exit> {
    address::find(directory).map_err(|error| {
        Exit::failure(format_args!("cannot read the address in {}: {error}", directory.display()))
    })
}
