//! The released program in its own process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    http::Client,
    process::{Process, free_port, measured},
};

/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// A type that the built-in worker handles.
pub(crate) const ECHO: &str = "outboard/echo";

/// A running `outboard up`, killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// From before it was executed to the first 200 of `/readyz`.
    pub(crate) ready_after: Duration,
    started: Instant,
}

impl Server {
    /// Starts it on a data directory, and waits until it is ready.
    pub(crate) fn start(program: &Path, directory: &Path, forward: Option<&str>) -> Result<Self> {
        let port = free_port()?;
        let mut command = measured(program);
        command
            .args(["up", "--log-level", "error", "--port", &port.to_string(), "--data-dir"])
            .arg(directory);
        // Metrics stand on the API's port, too; another server's port 9090 is not ours to take.
        command.env("OUTBOARD_METRICS__PORT", "0").current_dir(directory);
        if let Some(url) = forward {
            command.args(["--forward", url]);
        }
        let started = Instant::now();
        let mut process = Process::spawn("outboard up", &mut command)?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        while !is_ready(address) {
            ensure!(process.is_running()?, "outboard ended before it was ready");
            ensure!(started.elapsed() < PATIENCE, "outboard is not ready after {PATIENCE:?}");
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(Self { process, address, ready_after: started.elapsed(), started })
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Client::open(self.address)
    }

    /// How long ago it was executed.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The sum of a metric over its labels; 0 when it is not there.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let mut client = self.client()?;
        let text = String::from_utf8(client.get("/metrics")?.body.to_vec())?;
        let of_name = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        };
        text.lines()
            .filter(of_name)
            .map(|line| {
                line.rsplit(' ').next().unwrap_or_default().parse::<f64>().context("a metric is no number")
            })
            .sum()
    }
}

fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut client) = Client::open(address) else { return false };
    client.get("/readyz").is_ok_and(|answer| answer.status == 200)
}

/// The body of one command.
pub(crate) fn command(kind: &str, payload: &str) -> String {
    format!(r#"{{"type":"{kind}","payload":{payload}}}"#)
}
