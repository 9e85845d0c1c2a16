//! Which message types a worker handles.

use std::{fmt, str::FromStr, sync::Arc};

/// How the types begin that Outboard gives to messages of its own. Only a pattern that begins so, too, means them: `*` is
/// every type of the application's.
pub const INTERNAL: &str = "outboard-intake/";

/// A type name, or a prefix followed by `*`.
///
/// ```
/// use outboard_core::TypePattern;
/// let pattern: TypePattern = "orders/*".parse()?;
/// assert!(pattern.matches("orders/confirm"));
/// assert!(!pattern.matches("billing/charge"));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TypePattern {
    /// This type only.
    Exact(Arc<str>),
    /// Every type that begins so; types that are [`INTERNAL`] only when the prefix is.
    Prefix(Arc<str>),
}

/// The longest type name that is taken, in bytes.
pub const MAX_TYPE_BYTES: usize = 200;

impl TypePattern {
    /// Whether `kind` is meant.
    pub fn matches(&self, kind: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *kind,
            Self::Prefix(prefix) => {
                kind.starts_with(&**prefix) && (!kind.starts_with(INTERNAL) || prefix.starts_with(INTERNAL))
            }
        }
    }

    /// Whether it means types that are [`INTERNAL`].
    pub fn is_internal(&self) -> bool {
        let (Self::Exact(text) | Self::Prefix(text)) = self;
        text.starts_with(INTERNAL)
    }
}

impl FromStr for TypePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stem, is_prefix) = text.strip_suffix('*').map_or((text, false), |stem| (stem, true));
        if text.is_empty()
            || text.len() > MAX_TYPE_BYTES
            || stem.contains('*')
            || stem.chars().any(char::is_whitespace)
        {
            return Err(format!(
                "`{text}` is not a type pattern: write a type such as `orders/confirm`, or a prefix with one `*` at its end"
            ));
        }
        Ok(if is_prefix { Self::Prefix(stem.into()) } else { Self::Exact(stem.into()) })
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// A set of patterns; cheap to clone.
///
/// ```
/// use outboard_core::TypeSet;
/// let set: TypeSet = ["orders/*", "billing/charge"].iter().map(|p| p.parse()).collect::<Result<_, _>>()?;
/// assert!(set.contains("billing/charge"));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeSet(Arc<[TypePattern]>);

impl TypeSet {
    /// Every type of the application's: what `*` means.
    pub fn all() -> Self {
        [TypePattern::Prefix("".into())].into_iter().collect()
    }

    /// Every type, also what is [`INTERNAL`].
    pub fn everything() -> Self {
        ["", INTERNAL].map(|prefix| TypePattern::Prefix(prefix.into())).into_iter().collect()
    }

    /// Whether one of the patterns matches `kind`.
    pub fn contains(&self, kind: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(kind))
    }

    /// The patterns, sorted.
    pub fn patterns(&self) -> &[TypePattern] {
        &self.0
    }
}

impl FromIterator<TypePattern> for TypeSet {
    fn from_iter<I: IntoIterator<Item = TypePattern>>(patterns: I) -> Self {
        let mut patterns: Vec<_> = patterns.into_iter().collect();
        patterns.sort();
        patterns.dedup();
        Self(patterns.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_internal_has_to_be_named() {
        let taken_in = format!("{INTERNAL}orders");
        for (pattern, is_meant) in [
            ("*", false),
            ("outboard*", false),
            ("outboard-intake*", false),
            ("outboard-intake/*", true),
            ("outboard-intake/ord*", true),
            ("outboard-intake/orders", true),
            ("outboard-intake/other", false),
        ] {
            let pattern: TypePattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&taken_in), is_meant, "{pattern}");
        }
        assert!(!TypeSet::all().contains(&taken_in));
        assert!(
            TypeSet::everything().contains(&taken_in) && TypeSet::everything().contains("orders/confirm")
        );
        assert!(TypeSet::all().contains("outboard/echo") && TypeSet::all().contains("intake/patient"));
    }
}
