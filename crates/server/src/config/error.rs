//! What is wrong with a configuration, where, and how to mend it.

use std::{error, fmt};

use super::node::Origin;

/// One mistake in a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// The key, such as `workers[0].url`; empty for the whole configuration.
    pub path: String,
    /// Where it was given.
    pub origin: Option<Origin>,
    /// What was given, shortened. Never a secret.
    pub given: Option<String>,
    /// What is wrong with it, as a phrase that follows the key or the value.
    pub problem: String,
    /// What to do instead.
    pub mend: Option<String>,
    /// For an unknown key: the known ones, until the suggestion is made.
    known: Option<&'static [&'static str]>,
}

/// How much of a given value an error repeats.
const GIVEN_CHARS: usize = 80;

impl ConfigError {
    /// A mistake at `path`.
    pub(crate) fn new(path: impl Into<String>, problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into(), mend: Some(mend.into()), ..Self::default() }
    }

    /// The same with what was given.
    pub(crate) fn given(mut self, given: impl fmt::Display) -> Self {
        let text = given.to_string();
        let mut short: String = text.chars().take(GIVEN_CHARS).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        self.given = Some(short);
        self
    }

    /// The same with where it was given, unless that is known already.
    pub(crate) fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    /// The same, one level further out: under a key.
    pub(crate) fn under_key(mut self, key: &str) -> Self {
        self.path = match self.path.as_str() {
            "" => key.to_owned(),
            inner if inner.starts_with('[') => format!("{key}{inner}"),
            inner => format!("{key}.{inner}"),
        };
        self
    }

    /// The same, one level further out: in a list.
    pub(crate) fn under_index(mut self, index: usize) -> Self {
        self.path = match self.path.as_str() {
            "" => format!("[{index}]"),
            inner if inner.starts_with('[') => format!("[{index}]{inner}"),
            inner => format!("[{index}].{inner}"),
        };
        self
    }

    /// Names the nearest known key, now that the path is whole.
    pub(crate) fn suggest(mut self) -> Self {
        let Some(known) = self.known.take() else { return self };
        let parent = self.path.rfind('.').map_or("", |dot| &self.path[..=dot]);
        let field = &self.path[parent.len()..];
        let mend = if let Some(Origin::Variable(name)) = &self.origin {
            suggest_variable(name, parent, field, known)
        } else if let Some(key) = nearest(field, known.iter().copied()) {
            format!("did you mean `{parent}{key}`?")
        } else {
            format!("known are {}", known.join(", "))
        };
        self.mend = Some(mend);
        self
    }
}

/// The same for a variable, which sets a single value: a section alone is none, and one underscore is not two.
fn suggest_variable(name: &str, parent: &str, field: &str, known: &'static [&'static str]) -> String {
    let variables = super::env::all();
    let flat = |name: &str| name.replace("__", "_");
    if let Some(meant) = variables.iter().find(|known| flat(known) == flat(name)) {
        return format!("did you mean `{meant}`?");
    }
    let spell = |key: &str| super::env::variable_name(&format!("{parent}{key}"));
    let is_section = |name: &str| variables.iter().any(|known| known.starts_with(&format!("{name}__")));
    match nearest(field, known.iter().copied()).map(spell) {
        Some(section) if is_section(&section) => {
            let inside = variables.iter().map(String::as_str).filter(|known| known.starts_with(&section));
            format!("did you mean `{}`?", nearest(name, inside).unwrap_or(&section))
        }
        Some(meant) => format!("did you mean `{meant}`?"),
        None => {
            let spell = |key: &&str| match spell(key) {
                section if is_section(&section) => format!("{section}__…"),
                variable => variable,
            };
            format!("known are {}", known.iter().map(spell).collect::<Vec<_>>().join(", "))
        }
    }
}

/// The known name that a typing error away from `given` was meant, if there is one.
fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str("configuration")?;
        } else {
            write!(f, "`{}`", self.path)?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        f.write_str(": ")?;
        if let Some(given) = &self.given {
            write!(f, "`{given}` ")?;
        }
        f.write_str(&self.problem)?;
        if let Some(mend) = &self.mend {
            write!(f, "; {mend}")?;
        }
        Ok(())
    }
}

impl error::Error for ConfigError {}

impl serde::de::Error for ConfigError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { problem: message.to_string(), ..Self::default() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self {
            path: field.to_owned(),
            problem: "is not a known key".to_owned(),
            known: Some(expected),
            ..Self::default()
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new("", "is not one of the choices", format!("write {}", expected.join(" or "))).given(variant)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(field, "is missing", "add it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("prot", ["port", "host", "enabled"].into_iter()), Some("port"));
        assert_eq!(nearest("zzz", ["port", "host", "enabled"].into_iter()), None);
    }

    #[test]
    fn paths_grow_outwards() {
        let error = ConfigError::new("", "is wrong", "mend it").under_key("first").under_key("backoff");
        let error = error.under_index(2).under_key("workers");
        assert_eq!(error.path, "workers[2].backoff.first");
    }
}
