//! A RabbitMQ of one's own.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    certificates::Certificates,
    held::{Held, free_ports, words},
};

/// Starts Erlang's table of names in the same process group: the server would leave its own one behind.
const START: &str =
    r#"epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" & exec /usr/lib/rabbitmq/bin/rabbitmq-server"#;

/// A running broker; killed when dropped.
#[derive(Debug)]
pub struct RabbitMq {
    held: Held,
    port: u16,
    /// Where Erlang's table of names listens.
    names: u16,
}

impl RabbitMq {
    /// Starts one, with the account `guest` and the vhost `/`, and waits until it takes connections (some 5 s).
    pub fn start() -> Result<Self> {
        Self::configured("")
    }

    /// Starts one with more lines in its `rabbitmq.conf`.
    pub fn configured(lines: &str) -> Result<Self> {
        Self::launch(lines, "")
    }

    /// Starts one with more arguments for the Erlang that it runs on.
    pub fn with_erlang_arguments(arguments: &str) -> Result<Self> {
        Self::launch("", arguments)
    }

    fn launch(lines: &str, erlang_arguments: &str) -> Result<Self> {
        let [port, distribution, names] = free_ports();
        let held = Held::start("Server startup complete", |directory| {
            let path = |name: &str| directory.join(name).display().to_string();
            std::fs::write(directory.join("plugins"), "[].")?;
            std::fs::write(directory.join("rabbitmq.conf"), lines)?;
            let variables = [
                ("HOME", path("")),
                ("RABBITMQ_NODENAME", node(port)),
                ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
                ("RABBITMQ_NODE_PORT", port.to_string()),
                ("RABBITMQ_DIST_PORT", distribution.to_string()),
                ("ERL_EPMD_PORT", names.to_string()),
                ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
                ("RABBITMQ_SERVER_START_ARGS", "-start_epmd false".to_owned()),
                ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang_arguments.to_owned()),
                ("RABBITMQ_MNESIA_BASE", path("mnesia")),
                ("RABBITMQ_LOG_BASE", path("log")),
                ("RABBITMQ_LOGS", "-".to_owned()),
                ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
                ("RABBITMQ_CONFIG_FILE", path("rabbitmq")),
                ("RABBITMQ_PID_FILE", path("pid")),
            ];
            let variables = variables.map(|(name, value)| (name.to_owned(), value));
            Ok((words(["/bin/sh", "-c", START]), variables.into()))
        })?;
        Ok(Self { held, port, names })
    }

    /// Starts one that also takes connections with TLS at this port of `localhost`, with the certificate of this name.
    pub fn with_tls(port: u16, certificates: &Certificates, name: &str) -> Result<Self> {
        let path = |file: &str| certificates.path(file);
        Self::configured(&format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_none",
            path("ca.pem"),
            path(&format!("{name}.pem")),
            path(&format!("{name}.key")),
        ))
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL for the account and vhost that every new broker has.
    pub fn url(&self) -> String {
        url_at(self.port)
    }

    /// Runs `rabbitmqctl` with these words (some 2 s), and returns what it prints.
    pub fn control(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl")
            .args(["-q", "-n", &node(self.port)])
            .args(words)
            .env("HOME", self.held.directory())
            .env("ERL_EPMD_PORT", self.names.to_string())
            .output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "rabbitmqctl {}: {}", words.join(" "), text(&output.stderr));
        Ok(text(&output.stdout))
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

fn node(port: u16) -> String {
    format!("outboard-{port}@localhost")
}

/// The URL of a broker, or of a proxy before it, on this port.
pub fn url_at(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}")
}
