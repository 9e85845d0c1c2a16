//! Sidekiq: a client and a server in Ruby processes of their own.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Peer, Producers, Redis};
use crate::{machine::version_of, process::Process};

/// How many threads the server handles jobs with.
const CONCURRENCY: &str = "10";

/// Sidekiq on its own Redis.
#[derive(Debug)]
pub(crate) struct Sidekiq {
    redis: Redis,
    name: String,
}

impl Sidekiq {
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let ruby = version_of("ruby", "--version").context("ruby is not installed")?;
        let ruby = ruby.split(' ').nth(1).unwrap_or("?").to_owned();
        let sidekiq = version_of("sidekiq", "--version").context("sidekiq is not installed")?;
        let redis = Redis::start(directory, "redis-sidekiq")?;
        let name = format!("{sidekiq}, ruby {ruby}, Redis {}", redis.version);
        Ok(Self { redis, name })
    }

    fn process(&self, name: &str, command: &mut Command, jobs: usize) -> Result<Process> {
        command.env("REDIS_URL", format!("redis://127.0.0.1:{}/0", self.redis.port));
        command.env("JOBS", jobs.to_string());
        let mut process = Process::spawn(name, command)?;
        process.expect("ready")?;
        Ok(process)
    }
}

impl Peer for Sidekiq {
    fn name(&self) -> &str {
        &self.name
    }

    fn durability(&self) -> &str {
        "appendfsync always on both ends; AT MOST once: a job in hand is lost with the process"
    }

    fn run(&mut self, producers: Producers, jobs: usize) -> Result<Duration> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/sidekiq");
        let mut server = Command::new("sidekiq");
        server.arg("-r").arg(scripts.join("server.rb")).args([
            "-c",
            CONCURRENCY,
            "-q",
            "default",
            "-e",
            "production",
        ]);
        let mut server = self.process("sidekiq", &mut server, jobs)?;
        let (count, batch) = producers.shape();
        let mut client = Command::new("ruby");
        client.arg(scripts.join("client.rb")).arg(count.to_string()).arg(batch.to_string());
        let mut client = self.process("the sidekiq client", &mut client, jobs)?;
        let began = Instant::now();
        client.tell("go")?;
        server.expect("done")?;
        Ok(began.elapsed())
    }
}
