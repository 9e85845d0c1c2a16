//! Values with a unit or a rule of their own.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use outboard_core::TypePattern;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::ConfigError;

/// Reads a text by `FromStr` and writes it by `Display`.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(|error: String| serde::de::Error::custom(error))
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
pub(super) use as_text;

as_text!(Span, Size, Host, Pattern, Url);

/// A duration, written as a whole number with `ms`, `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub Duration);

impl Span {
    /// So many seconds.
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub(crate) const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

const UNITS_MS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let factor = UNITS_MS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, factor)| *factor);
        let millis =
            number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        millis.map(Self::millis).ok_or_else(|| {
            format!("`{text}` is not a duration; write a whole number with its unit, such as 30s, 500ms, 2m or 24h")
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fits = |factor: u64| millis.is_multiple_of(factor) && millis > 0;
        let (unit, factor) = UNITS_MS.iter().rev().find(|(_, factor)| fits(*factor)).unwrap_or(&UNITS_MS[1]);
        write!(f, "{}{unit}", millis / factor)
    }
}

/// A number of bytes, written as a whole number, or with `KiB` or `MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (number, shift) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
            (Some(number), _) => (number, 10),
            (_, Some(number)) => (number, 20),
            _ => (text, 0),
        };
        let bytes = number.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| {
            format!("`{text}` is not a size; write a whole number of bytes, or one with a unit, such as 512KiB or 8MiB; the units are KiB and MiB")
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes > 0 && bytes.is_multiple_of(1 << 20) => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes > 0 && bytes.is_multiple_of(1 << 10) => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

/// The address to listen on: an IP address or `localhost`, which is 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host(pub IpAddr);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "localhost" {
            return Ok(Self(IpAddr::from([127, 0, 0, 1])));
        }
        text.parse().map(Self).map_err(|_| {
            format!("`{text}` is not an address to listen on; write an IP address such as 127.0.0.1, 0.0.0.0 or ::")
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A type pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(pub TypePattern);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What stands for the query of a URL.
const HIDDEN_QUERY: &str = "?…";

/// A URL that messages or probes are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url(pub outboard_http::Target);

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.ends_with(HIDDEN_QUERY) {
            return Err("has its query left out, as `config print` does; write the whole URL".to_owned());
        }
        // The URL itself is not repeated: it may hold a password.
        text.parse()
            .map(Self)
            .map_err(|error| format!("{error}; write a URL such as http://127.0.0.1:3000/outboard"))
    }
}

/// Without its query, which may hold a token.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.to_string();
        match whole.split_once('?') {
            Some((shown, _)) => write!(f, "{shown}{HIDDEN_QUERY}"),
            None => f.write_str(&whole),
        }
    }
}

/// What is printed for a secret.
pub(super) const MASK: &str = "***";

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    /// The text, for the one who signs with it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is what is printed for a secret: somebody took a printed configuration for a file.
    pub(crate) fn is_mask(&self) -> bool {
        self.0 == MASK
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// Reads a whole number from `LOW` to `HIGH`: the range of the type alone would be told first, and be wrong.
pub(crate) fn whole<'de, const LOW: u32, const HIGH: u32, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = text.trim().parse().ok().filter(|number| (LOW..=HIGH).contains(number));
    number.ok_or_else(|| {
        let told = format!("`{text}` is not allowed here; write a whole number from {LOW} to {HIGH}");
        serde::de::Error::custom(told)
    })
}

/// Fails unless `value` is in `low..=high`; `path` is the key.
pub(crate) fn in_range<T: PartialOrd + fmt::Display>(
    path: &str,
    value: T,
    low: T,
    high: T,
) -> Result<(), ConfigError> {
    if value < low || value > high {
        let mend = format!("write a value from {low} to {high}");
        return Err(ConfigError::new(path, "is out of range", mend).given(value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for (text, millis) in
            [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("24h", 86_400_000), ("1d", 86_400_000)]
        {
            assert_eq!(text.parse(), Ok(Span::millis(millis)));
        }
        assert_eq!(Span::seconds(90).to_string(), "90s");
        assert_eq!(Span::seconds(3_600).to_string(), "1h");
        assert_eq!(Span::millis(0).to_string(), "0s");
        for text in ["30", "s", "-1s", "1.5s", "1 week", "", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_units_only() {
        assert_eq!("8MiB".parse(), Ok(Size(8 << 20)));
        assert_eq!("1000".parse(), Ok(Size(1_000)));
        assert_eq!(Size(1 << 20).to_string(), "1MiB");
        assert!("8MB".parse::<Size>().is_err());
    }

    #[test]
    fn a_url_with_a_password_is_refused_without_repeating_it() {
        let error = "http://u:hunter2@h/".parse::<Url>().unwrap_err();
        assert!(!error.contains("hunter2"));
        for text in ["ftp://h/", "h:80", "/path", "http://", "http:///x", "http://h:0/", ""] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
        let url = "https://app.example/hook?token=hunter2".parse::<Url>().unwrap();
        assert_eq!(url.to_string(), "https://app.example/hook?…");
        assert!(url.to_string().parse::<Url>().unwrap_err().contains("whole URL"));
    }
}
