//! A NATS server with JetStream of one's own.

use anyhow::Result;

use crate::{
    Certificates,
    held::{Held, free_ports, words},
};

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Nats {
    held: Held,
    port: u16,
}

impl Nats {
    /// Starts one with JetStream on files, and waits until it takes connections.
    pub fn start() -> Result<Self> {
        Self::configured("")
    }

    /// Starts one with more lines in its configuration, after the ones for ports and JetStream's directory.
    pub fn configured(lines: &str) -> Result<Self> {
        let [port] = free_ports();
        let held = Held::start("Server is ready", |directory| {
            let (file, store) = (directory.join("nats.conf"), directory.join("jetstream"));
            let jetstream = if lines.contains("jetstream") { "" } else { "jetstream {}\n" };
            std::fs::write(&file, format!("{jetstream}{lines}\n"))?;
            let (port, file, store) = (port.to_string(), file.display(), store.display());
            // It logs to its standard error.
            let start = format!("exec nats-server -a 127.0.0.1 -p {port} -c '{file}' -sd '{store}' 2>&1");
            Ok((words(["/bin/sh", "-c", &start]), Vec::new()))
        })?;
        Ok(Self { held, port })
    }

    /// Starts one that speaks TLS only, with the certificate of this name.
    pub fn secured(certificates: &Certificates, name: &str) -> Result<Self> {
        let [key, certificate] = ["key", "pem"].map(|kind| certificates.path(&format!("{name}.{kind}")));
        Self::configured(&format!("tls {{ cert_file: '{certificate}', key_file: '{key}' }}"))
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it keeps its streams.
    pub fn directory(&self) -> &std::path::Path {
        self.held.directory()
    }

    /// Kills it, as `kill -9` does; what it had stays.
    pub fn kill(&mut self) {
        self.held.kill();
    }

    /// Starts it again on what it had.
    pub fn restart(&mut self) -> Result<()> {
        self.held.run()
    }
}
