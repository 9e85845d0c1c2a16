//! The configuration: what can be set, and how flags, environment, file and defaults become one [`Config`].

mod de;
pub(crate) mod env;
mod error;
mod keys;
mod node;
pub(crate) mod source;
mod units;
mod worker;
mod yaml;

use std::path::{Path, PathBuf};

pub(crate) use error::ConfigError;
pub(crate) use node::Origin;
use node::{Data, Node};
use serde::{Deserialize, Serialize};
pub(crate) use units::{Host, Size, Span};
use units::{in_range, whole};
pub(crate) use worker::{Begin, WorkerConfig};

/// Everything that can be configured. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// The address that every section listens on, unless it has its own.
    pub host: Host,
    /// What is logged: a level, or a list such as `info,outboard_embedded=debug`.
    pub log_level: String,
    /// How long a shutdown may take.
    pub drain: Span,
    /// Commands, workers, dead letters.
    pub api: Section<8085, true>,
    /// Simulated players (not built yet).
    pub fleet: Section<8001, false>,
    /// Chat API (not built yet).
    pub chat: Section<8080, false>,
    /// WebSocket broker (not built yet).
    pub broker: Section<8081, false>,
    /// Load balancer (not built yet).
    pub balancer: Section<8082, false>,
    /// HTTP cache (not built yet).
    pub cache: Section<8083, false>,
    /// Log over WebSockets (not built yet).
    pub streams: Section<8084, false>,
    /// Metrics for Prometheus, apart from the API.
    pub metrics: Section<9090, true>,
    /// Who handles messages.
    pub workers: Vec<WorkerConfig>,
    /// What requests may be.
    pub limits: Limits,
    /// Idempotency keys.
    pub idempotency: IdempotencyConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "outboard-data".into(),
            host: Host([127, 0, 0, 1].into()),
            log_level: "info".into(),
            drain: Span::seconds(25),
            api: Section::default(),
            fleet: Section::default(),
            chat: Section::default(),
            broker: Section::default(),
            balancer: Section::default(),
            cache: Section::default(),
            streams: Section::default(),
            metrics: Section::default(),
            workers: Vec::new(),
            limits: Limits::default(),
            idempotency: IdempotencyConfig::default(),
        }
    }
}

/// Where a role listens. The constants are the defaults of `port` and `enabled`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Section<const PORT: u16, const ENABLED: bool> {
    /// 0 takes any free port.
    pub port: u16,
    /// The address, if it is not the common one.
    pub host: Option<Host>,
    /// Whether the role runs.
    pub enabled: bool,
}

impl<const PORT: u16, const ENABLED: bool> Default for Section<PORT, ENABLED> {
    fn default() -> Self {
        Self { port: PORT, host: None, enabled: ENABLED }
    }
}

impl<'de, const PORT: u16, const ENABLED: bool> Deserialize<'de> for Section<PORT, ENABLED> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The section as it is written: serde's derive knows no constants.
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Written {
            #[serde(deserialize_with = "given")]
            port: Option<u16>,
            host: Option<Host>,
            #[serde(deserialize_with = "given")]
            enabled: Option<bool>,
        }
        /// A key that is written has a value; only one that is not written has none.
        fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
            deserializer: D,
        ) -> Result<Option<T>, D::Error> {
            T::deserialize(deserializer).map(Some)
        }
        let Written { port, host, enabled } = Written::deserialize(deserializer)?;
        Ok(Self { port: port.unwrap_or(PORT), host, enabled: enabled.unwrap_or(ENABLED) })
    }
}

/// What requests may be.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// The largest request body.
    pub body: Size,
    /// The largest body of a batch.
    pub batch: Size,
    /// The most commands in a batch.
    #[serde(deserialize_with = "whole::<1, 65_536, _>")]
    pub batch_commands: u32,
    /// How deep a payload's lists and objects may be nested.
    #[serde(deserialize_with = "whole::<1, 1_000, _>")]
    pub nesting: u32,
    /// How long a client may take for a request's head, and again for its body.
    pub read_timeout: Span,
    /// The most connections at once; more of them wait.
    #[serde(deserialize_with = "whole::<16, 1_000_000, _>")]
    pub connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Size(1 << 20),
            batch: Size(8 << 20),
            batch_commands: 10_000,
            nesting: 128,
            read_timeout: Span::seconds(30),
            connections: 16_384,
        }
    }
}

/// Idempotency keys.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IdempotencyConfig {
    /// How long a key answers as it did first.
    pub keep: Span,
}

impl Default for IdempotencyConfig {
    fn default() -> Self {
        Self { keep: Span::seconds(24 * 3_600) }
    }
}

impl Config {
    /// Checks what a type alone cannot say.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::new("data_dir", "is empty", "name a directory, such as outboard-data"));
        }
        self.validate_roles()?;
        in_range("drain", self.drain, Span::seconds(0), Span::seconds(3_600))?;
        let limits = &self.limits;
        in_range("limits.body", limits.body, Size(1 << 10), MAX_BATCH)?;
        in_range("limits.batch", limits.batch, limits.body, MAX_BATCH)?;
        in_range("limits.read_timeout", limits.read_timeout, Span::millis(100), Span::seconds(600))?;
        in_range("idempotency.keep", self.idempotency.keep, Span::seconds(1), Span::seconds(30 * 86_400))?;
        worker::validate(&self.workers)?;
        crate::telemetry::check_filter(&self.log_level).map_err(|error| error.given(&self.log_level))
    }

    fn validate_roles(&self) -> Result<(), ConfigError> {
        let unbuilt = [
            ("fleet", self.fleet.enabled),
            ("chat", self.chat.enabled),
            ("broker", self.broker.enabled),
            ("balancer", self.balancer.enabled),
            ("cache", self.cache.enabled),
            ("streams", self.streams.enabled),
        ];
        if let Some((role, _)) = unbuilt.iter().find(|(_, enabled)| *enabled) {
            let problem = format!("asks for the role `{role}`, which this build does not have");
            return Err(ConfigError::new(format!("{role}.enabled"), problem, "set it to false"));
        }
        if !self.api.enabled {
            return Err(ConfigError::new("api.enabled", "is false, but `up` is the API", "leave it true"));
        }
        let (api, metrics) = (self.api_address(), self.metrics_address());
        if metrics == Some(api) && api.port() != 0 {
            let mend = "give each its own port";
            return Err(ConfigError::new("metrics.port", "is the API's port, too", mend).given(api.port()));
        }
        Ok(())
    }

    /// Adds the worker that `--forward URL` means.
    pub(crate) fn add_forward(&mut self, url: &str) -> Result<(), ConfigError> {
        let origin = Origin::Flag("--forward");
        // The parser's word holds the mend already.
        let url = url
            .parse()
            .map_err(|told: String| <ConfigError as serde::de::Error>::custom(told).under_key("--forward"))?;
        self.workers.push(WorkerConfig::forward_all(url));
        worker::validate(&self.workers).map_err(|error| error.at(&origin))
    }

    /// Where the API listens.
    pub(crate) fn api_address(&self) -> std::net::SocketAddr {
        (self.api.host.unwrap_or(self.host).0, self.api.port).into()
    }

    /// Where the metrics are served apart from the API, if they are.
    pub(crate) fn metrics_address(&self) -> Option<std::net::SocketAddr> {
        self.metrics.enabled.then(|| (self.metrics.host.unwrap_or(self.host).0, self.metrics.port).into())
    }
}

/// What the log takes in one append.
const MAX_BATCH: Size = Size(16 << 20);

/// The file that is read when none is named, if it exists.
pub(crate) const DEFAULT_FILE: &str = "config.yaml";

/// A configuration is small; a larger file is the wrong file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One flag's key, value and name.
pub(crate) type Flag = (&'static str, String, &'static str);

/// Loads the configuration: flags over variables over the file over the defaults.
///
/// `file` is the file the user named; without it `config.yaml` is read if it exists.
pub(crate) fn load(
    file: Option<&Path>,
    variables: &[(String, String)],
    flags: &[Flag],
) -> Result<Config, ConfigError> {
    let mut root = Node::section(Origin::Flag("defaults"));
    let named = file.map(Path::to_path_buf);
    let from_variable =
        variables.iter().find(|(name, _)| name == env::CONFIG_FILE).map(|(_, path)| PathBuf::from(path));
    if let Some(path) = named.or(from_variable) {
        root = read_file(&path, true)?.unwrap_or(root);
    } else if let Some(found) = read_file(Path::new(DEFAULT_FILE), false)? {
        root = found;
    }
    if root.is_null() {
        root = Node::section(root.origin);
    }
    if !matches!(root.data, Data::Map(_)) {
        return Err(ConfigError::new("", "is not a section", "write `key: value` lines").at(&root.origin));
    }
    for (name, value) in variables.iter().filter(|(name, _)| name != env::CONFIG_FILE) {
        env::overlay(&mut root, name, value)?;
    }
    for (key, value, flag) in flags {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        root.set(&path, Node::text(value.clone(), Origin::Flag(flag)));
    }
    let mut config: Config = de::from_node(&root)?;
    config.validate().map_err(|error| locate(&root, error))?;
    config.workers.iter_mut().for_each(WorkerConfig::complete);
    Ok(config)
}

/// Points an error of `validate` at the place its key was given, or where it should have been.
fn locate(root: &Node, error: ConfigError) -> ConfigError {
    let mut node = root;
    let path = error.path.replace('[', ".").replace(']', "");
    for (depth, key) in path.split('.').enumerate() {
        let inner = match &node.data {
            Data::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, inner)| inner),
            Data::List(items) => key.parse::<usize>().ok().and_then(|index| items.get(index)),
            Data::Text { .. } => break,
        };
        node = match inner {
            Some(inner) => inner,
            None if depth == 0 => return error,
            None => break,
        };
    }
    error.at(&node.origin)
}

fn read_file(path: &Path, required: bool) -> Result<Option<Node>, ConfigError> {
    let shown = path.display().to_string();
    let fail = |problem: String, mend: &str| ConfigError::new("", problem, mend).given(&shown);
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(None),
        Err(error) => return Err(fail(format!("cannot be read: {error}"), "name a file that exists")),
        Ok(data) if !data.is_file() => return Err(fail("is not a file".into(), "name a YAML file")),
        Ok(data) if data.len() > MAX_FILE_BYTES => {
            return Err(fail("is larger than 1 MiB".into(), "name a configuration file"));
        }
        Ok(_) => {}
    }
    let bytes =
        std::fs::read(path).map_err(|error| fail(format!("cannot be read: {error}"), "make it readable"))?;
    let text = String::from_utf8(bytes).map_err(|_| fail("is not UTF-8".into(), "save it as UTF-8"))?;
    yaml::parse(text.trim_start_matches('\u{feff}'), &shown).map(Some)
}

#[cfg(test)]
mod tests;
