//! BullMQ: a producer and a worker in Node processes of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Peer, Producers, Redis};
use crate::{machine::version_of, process::Process};

/// The version that is measured.
const PACKAGE: &str = "bullmq@5";

/// BullMQ on its own Redis.
#[derive(Debug)]
pub(crate) struct BullMq {
    redis: Redis,
    cache: PathBuf,
    name: String,
}

impl BullMq {
    /// Installs the package into the cache if it is not there.
    pub(crate) fn start(directory: &Path, cache: &Path) -> Result<Self> {
        let node = version_of("node", "--version").context("node is not installed")?;
        let cache = cache.join("bullmq");
        fs::create_dir_all(&cache)?;
        let manifest = cache.join("node_modules/bullmq/package.json");
        if !manifest.exists() {
            let install = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
            let status = Command::new("npm").args(install).arg(&cache).arg(PACKAGE).status();
            ensure!(status.context("npm is not installed")?.success(), "npm cannot install {PACKAGE}");
        }
        // Node looks for packages beside the script.
        for script in ["producer.mjs", "worker.mjs"] {
            fs::copy(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/bullmq").join(script),
                cache.join(script),
            )?;
        }
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(manifest)?)?;
        let redis = Redis::start(directory, "redis-bullmq")?;
        let version = manifest["version"].as_str().unwrap_or("?");
        let name = format!("BullMQ {version}, node {node}, Redis {}", redis.version);
        Ok(Self { redis, cache, name })
    }

    fn script(&self, name: &str, arguments: &[usize]) -> Result<Process> {
        let mut command = Command::new("node");
        command.arg(self.cache.join(name)).arg(self.redis.port.to_string());
        command.args(arguments.iter().map(usize::to_string));
        let mut process = Process::spawn(name, &mut command)?;
        process.expect("ready")?;
        Ok(process)
    }
}

impl Peer for BullMq {
    fn name(&self) -> &str {
        &self.name
    }

    fn durability(&self) -> &str {
        "appendfsync always on both ends; at least once (stalled jobs are found by a timer)"
    }

    fn run(&mut self, producers: Producers, jobs: usize) -> Result<Duration> {
        let (count, batch) = producers.shape();
        let mut worker = self.script("worker.mjs", &[jobs])?;
        let mut producer = self.script("producer.mjs", &[jobs, count, batch])?;
        let began = Instant::now();
        producer.tell("go")?;
        worker.expect("done")?;
        Ok(began.elapsed())
    }
}
