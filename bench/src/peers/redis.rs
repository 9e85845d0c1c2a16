//! A Redis server of our own, synced before every acknowledgement.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    machine::version_of,
    process::{Process, free_port, wait_for_port},
};

/// A running server in its own directory; both end when this is dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    /// Kept for its end.
    _process: Process,
    directory: PathBuf,
    pub(crate) port: u16,
    pub(crate) version: String,
}

impl Redis {
    /// Starts one whose append-only file is synced always, and never rewritten while we measure.
    pub(crate) fn start(directory: &Path, name: &str) -> Result<Self> {
        let version = version_of("redis-server", "--version").context("redis-server is not installed")?;
        let version =
            version.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("?").to_owned();
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory)?;
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
        command.args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--auto-aof-rewrite-percentage",
            "0",
        ]);
        command.args(["--loglevel", "warning", "--dir"]).arg(&directory);
        let process = Process::spawn("redis-server", &mut command)?;
        wait_for_port(port, Duration::from_secs(10))?;
        Ok(Self { _process: process, directory, port, version })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The whole directory of the run goes away later, too.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
