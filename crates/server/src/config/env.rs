//! Environment variables: the only place where they are read.

use super::{
    Config,
    error::ConfigError,
    node::{Node, Origin},
};

/// What our variables begin with.
pub(crate) const PREFIX: &str = "OUTBOARD_";

/// The variable that names the configuration file, as `--config` does.
pub(crate) const CONFIG_FILE: &str = "OUTBOARD_CONFIG";

/// Our variables, sorted by name, so that the same environment always gives the same result.
pub(crate) fn variables() -> Result<Vec<(String, String)>, ConfigError> {
    let mut found = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if value.to_str().is_some_and(|value| is_service_link(name, value)) {
            continue;
        }
        let Some(value) = value.to_str() else {
            return Err(ConfigError::new(name, "is not UTF-8", "set it to a text or unset it"));
        };
        found.push((name.to_owned(), value.to_owned()));
    }
    found.sort();
    Ok(found)
}

/// Whether Kubernetes set this variable, not the user: of a Service that is named `outboard` it tells every container
/// of the namespace, unless the pod says `enableServiceLinks: false`.
///
/// Without this a good configuration would be refused for variables that nobody wrote. No key has these names but
/// `OUTBOARD_PORT`, which people write when they mean `OUTBOARD_API__PORT`: it is a link only with a link's value, such
/// as `tcp://10.0.0.1:8085`, so that `OUTBOARD_PORT=8085` is still refused.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
    match name.strip_prefix(PREFIX) {
        Some("SERVICE_HOST" | "SERVICE_PORT") => true,
        Some("PORT") => value.split_once("://").is_some_and(|(protocol, _)| PROTOCOLS.contains(&protocol)),
        Some(rest) => {
            let is_port_name = |port: &str| port.starts_with(|c: char| c.is_ascii_alphanumeric());
            let is_address = |rest: &str| {
                let (port, rest) = rest.split_once('_').unwrap_or_default();
                let (protocol, part) = rest.split_once('_').unwrap_or((rest, ""));
                port.parse::<u16>().is_ok()
                    && PROTOCOLS.contains(&protocol.to_ascii_lowercase().as_str())
                    && ["", "ADDR", "PORT", "PROTO"].contains(&part)
            };
            rest.strip_prefix("SERVICE_PORT_").is_some_and(is_port_name)
                || rest.strip_prefix("PORT_").is_some_and(is_address)
        }
        None => false,
    }
}

/// Whether the user wants no colour (<https://no-color.org>).
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Lays one variable over the tree: `OUTBOARD_API__PORT` is `api.port`, `OUTBOARD_WORKERS__0__URL` is
/// `workers[0].url`.
pub(crate) fn overlay(root: &mut Node, name: &str, value: &str) -> Result<(), ConfigError> {
    let origin = Origin::Variable(name.into());
    let path: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
    if path.iter().any(String::is_empty) {
        let mend = format!("write a name such as {}", variable_name("api.port"));
        return Err(ConfigError::new(name, "is not a key: a part of it is empty", mend));
    }
    root.set(&path, Node::text(value, origin));
    Ok(())
}

/// The variable that sets a key: `workers[0].url` is `OUTBOARD_WORKERS__0__URL`.
pub(crate) fn variable_name(path: &str) -> String {
    let joined = path.replace('[', "__").replace(']', "").replace('.', "__");
    format!("{PREFIX}{}", joined.to_ascii_uppercase())
}

/// Every variable with a single value; of the workers, those of the first.
pub(crate) fn all() -> Vec<String> {
    fn leaves(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        let mut inside = |key: &str, inner| {
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            leaves(inner, &path, found);
        };
        match value {
            serde_json::Value::Object(entries) if !entries.is_empty() => {
                entries.iter().for_each(|(key, inner)| inside(key, inner));
            }
            serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
                items.iter().enumerate().for_each(|(index, inner)| inside(&index.to_string(), inner));
            }
            _ => found.push(variable_name(path)),
        }
    }
    let mut config = Config::default();
    config.add_forward("http://127.0.0.1/").expect("it is a URL");
    let mut found = Vec::new();
    leaves(&serde_json::to_value(&config).expect("it has texts for keys"), "", &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_variables_name_each_other() {
        assert_eq!(variable_name("api.port"), "OUTBOARD_API__PORT");
        assert_eq!(variable_name("workers[0].backoff.first"), "OUTBOARD_WORKERS__0__BACKOFF__FIRST");
    }

    #[test]
    fn service_links_are_told_from_what_users_write() {
        const URL: &str = "tcp://10.0.0.1:8085";
        for (name, value) in [
            ("OUTBOARD_PORT", URL),
            ("OUTBOARD_PORT", "udp://[fd00::1]:53"),
            ("OUTBOARD_SERVICE_HOST", "10.0.0.1"),
            ("OUTBOARD_SERVICE_PORT", "8085"),
            ("OUTBOARD_SERVICE_PORT_HTTP", "8085"),
            ("OUTBOARD_SERVICE_PORT_HTTP_METRICS", "9090"),
            ("OUTBOARD_PORT_8085_TCP", URL),
            ("OUTBOARD_PORT_8085_TCP_ADDR", "10.0.0.1"),
            ("OUTBOARD_PORT_8085_TCP_PORT", "8085"),
            ("OUTBOARD_PORT_8085_TCP_PROTO", "tcp"),
            ("OUTBOARD_PORT_53_UDP", "udp://10.0.0.1:53"),
        ] {
            assert!(is_service_link(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("OUTBOARD_PORT", "8085"),
            ("OUTBOARD_PORT", "http://10.0.0.1:8085"),
            ("OUTBOARD_API__PORT", URL),
            ("OUTBOARD_API", URL),
            ("OUTBOARD_SERVICE", "x"),
            ("OUTBOARD_SERVICE_HOSTS", "x"),
            ("OUTBOARD_SERVICE_PORT_", "1"),
            ("OUTBOARD_SERVICE_PORT__HTTP", "1"),
            ("OUTBOARD_PORT_8085", "1"),
            ("OUTBOARD_PORT_TCP", URL),
            ("OUTBOARD_PORT_8085_TCP_ADDRESS", "10.0.0.1"),
            ("OUTBOARD_PORT_99999_TCP", URL),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }

    #[test]
    fn an_empty_part_is_refused() {
        let mut root = Node::section(Origin::Flag("test"));
        assert!(overlay(&mut root, "OUTBOARD_API____PORT", "1").is_err());
        assert!(overlay(&mut root, "OUTBOARD_", "1").is_err());
    }
}
