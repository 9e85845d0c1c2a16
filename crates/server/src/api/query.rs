//! Query parameters, strictly: unknown, repeated and malformed ones are errors that name the parameter.

use outboard_http::{Problem, problem::FieldError};

/// The parameters of one request, checked against the known ones.
#[derive(Debug)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses a query string; `known` are the parameters that may come, each at most once.
    pub(crate) fn parse(text: Option<&str>, known: &'static [&'static str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let decoded = decode(name, true).zip(decode(value, true));
            let (name, value) = decoded
                .ok_or_else(|| Problem::malformed("the query is not UTF-8 with correct percent signs"))?;
            if !known.contains(&name.as_str()) {
                let told = match known {
                    [] => "is not known; this path takes no parameters".to_owned(),
                    _ => format!("is not known; this path takes {}", known.join(", ")),
                };
                return Err(invalid(&name, told));
            }
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(invalid(&name, "is given twice; give it once".to_owned()));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// A parameter's text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A whole number in a range, or the default.
    pub(crate) fn number(&self, name: &str, default: u64, low: u64, high: u64) -> Result<u64, Problem> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && (low..=high).contains(number));
        number.ok_or_else(|| invalid(name, format!("must be a whole number from {low} to {high}")))
    }

    /// Whether a flag such as `?verbose` is given; its value may be missing, `1`, `true` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("" | "1" | "true") => Ok(true),
            Some(_) => Err(invalid(name, "must be true or false, or stand alone".to_owned())),
        }
    }
}

/// 400: a parameter is wrong.
fn invalid(name: &str, message: String) -> Problem {
    let mut problem = Problem::malformed(format!("the parameter {name} {message}"));
    problem.errors.push(FieldError::new(name, message));
    problem
}

/// Resolves percent signs; `None` when they are malformed or the result is not UTF-8.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["after", "limit", "verbose"];

    #[test]
    fn only_known_parameters_once_each() {
        let query = Query::parse(Some("after=7&limit=1%30&verbose"), KNOWN).unwrap();
        assert_eq!(query.number("after", 0, 0, u64::MAX).unwrap(), 7);
        assert_eq!(query.number("limit", 100, 1, 1_000).unwrap(), 10);
        assert!(query.flag("verbose").unwrap());
        for text in ["affter=1", "after=1&after=2", "after=%ff", "after=%1"] {
            assert_eq!(Query::parse(Some(text), KNOWN).unwrap_err().status, 400, "{text}");
        }
        for text in [
            "limit=0",
            "limit=1001",
            "limit=",
            "limit=+5",
            "limit=-1",
            "limit=x",
            "limit=99999999999999999999",
        ] {
            let query = Query::parse(Some(text), KNOWN).unwrap();
            let problem = query.number("limit", 100, 1, 1_000).unwrap_err();
            assert_eq!(problem.errors[0].field, "limit", "{text}");
        }
        for (text, verbose) in [("", false), ("verbose=", true), ("verbose=1", true), ("verbose=true", true)]
        {
            assert_eq!(Query::parse(Some(text), KNOWN).unwrap().flag("verbose").unwrap(), verbose, "{text}");
        }
        assert!(Query::parse(Some("verbose=loud"), KNOWN).unwrap().flag("verbose").is_err());
    }
}
