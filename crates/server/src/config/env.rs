//! Environment variables: the only place where they are read.

use super::{
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
        let Some(value) = value.to_str() else {
            return Err(ConfigError::new(name, "is not UTF-8", "set it to a text or unset it"));
        };
        found.push((name.to_owned(), value.to_owned()));
    }
    found.sort();
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_variables_name_each_other() {
        assert_eq!(variable_name("api.port"), "OUTBOARD_API__PORT");
        assert_eq!(variable_name("workers[0].backoff.first"), "OUTBOARD_WORKERS__0__BACKOFF__FIRST");
    }

    #[test]
    fn an_empty_part_is_refused() {
        let mut root = Node::section(Origin::Flag("test"));
        assert!(overlay(&mut root, "OUTBOARD_API____PORT", "1").is_err());
        assert!(overlay(&mut root, "OUTBOARD_", "1").is_err());
    }
}
