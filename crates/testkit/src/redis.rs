//! A Redis of one's own.

use anyhow::Result;

use crate::{
    Certificates,
    held::{Held, free_ports, words},
};

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Redis {
    held: Held,
    port: u16,
}

impl Redis {
    /// Starts one that writes every change to disk before it answers, and waits until it takes connections.
    pub fn start() -> Result<Self> {
        Self::configured(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts one with these arguments.
    pub fn configured(arguments: &[&str]) -> Result<Self> {
        let [port] = free_ports();
        Self::begin(port, arguments)
    }

    /// Starts one that speaks TLS only, with the certificate of this name.
    pub fn secured(certificates: &Certificates, name: &str) -> Result<Self> {
        let [port] = free_ports();
        let [key, certificate] = ["key", "pem"].map(|kind| certificates.path(&format!("{name}.{kind}")));
        let tls = ["--tls-port", &port.to_string(), "--tls-cert-file", &certificate, "--tls-key-file", &key];
        Self::begin(port, &[&tls[..], &["--port", "0", "--tls-auth-clients", "no"]].concat())
    }

    fn begin(port: u16, arguments: &[&str]) -> Result<Self> {
        let held = Held::start("Ready to accept connections", |directory| {
            let (port, directory) = (port.to_string(), directory.display().to_string());
            let mut program = words(["redis-server", "--bind", "127.0.0.1", "--port", &port]);
            program.extend(words(["--dir", &directory, "--save", ""]));
            program.extend(arguments.iter().map(|&word| word.to_owned()));
            Ok((program, Vec::new()))
        })?;
        Ok(Self { held, port })
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Where it keeps its data.
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
