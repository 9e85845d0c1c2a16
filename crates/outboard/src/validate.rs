//! Field errors, and the rules that collect them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
};

use serde::Serialize;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The path as JSON has it, such as `lines[2].amount`; empty for the payload as a whole.
    pub field: String,
    /// For programs: `required`, `min_length`, `max_length`, `min_value`, `max_value`, `invalid_type`,
    /// `invalid_value`, `unknown_field`, `invalid_json`, or a code of the application's own.
    pub code: Cow<'static, str>,
    /// For people; a phrase that goes with the field's name.
    pub message: String,
}

/// A command that is refused, with everything that is wrong with it; never empty.
///
/// ```
/// use outboard::Invalid;
/// let invalid = Invalid::field("email", "invalid_format", "must contain an @");
/// assert_eq!(invalid.to_string(), "email must contain an @");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Invalid {
    /// One entry for each broken rule, in the order checked.
    pub fields: Vec<FieldError>,
}

impl Invalid {
    /// One error of one field.
    pub fn field(
        field: impl Into<String>,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self { fields: vec![FieldError { field: field.into(), code: code.into(), message: message.into() }] }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.fields.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let field = if error.field.is_empty() { "the payload" } else { &error.field };
            write!(f, "{separator}{field} {}", error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Collects field errors: every rule is looked at, so that a sender mends everything at once.
///
/// ```
/// use outboard::{Checks, Invalid};
/// fn check(title: &str, amount: u32) -> Result<(), Invalid> {
///     let mut checks = Checks::new();
///     checks.field("title", title).required().max_length(20);
///     checks.field("amount", &amount).min_value(1).max_value(1_000);
///     checks.ensure(title != "free" || amount == 0, "amount", "not_free", "must be 0 for what is free");
///     checks.finish()
/// }
/// assert!(check("Chair", 3).is_ok());
/// let invalid = check("", 0).unwrap_err();
/// let codes: Vec<_> = invalid.fields.iter().map(|error| &*error.code).collect();
/// assert_eq!(codes, ["required", "min_value"]);
/// ```
#[derive(Debug, Default)]
pub struct Checks {
    errors: Vec<FieldError>,
}

impl Checks {
    /// Nothing wrong so far.
    pub const fn new() -> Self {
        Self { errors: Vec::new() }
    }

    /// Begins the rules of one field; `name` is its path as JSON has it.
    pub fn field<'a, V: ?Sized>(&'a mut self, name: &'a str, value: &'a V) -> FieldCheck<'a, V> {
        FieldCheck { checks: self, name, value }
    }

    /// A rule of the application's own: adds an error when `holds` is false.
    pub fn ensure(
        &mut self,
        holds: bool,
        field: &str,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> &mut Self {
        if !holds {
            self.add(field, code.into(), message.into());
        }
        self
    }

    /// Takes over the errors of another check, with their fields under `prefix` (`prefix.field`).
    pub fn nested(&mut self, prefix: &str, result: Result<(), Invalid>) -> &mut Self {
        if let Err(invalid) = result {
            self.errors.extend(invalid.fields.into_iter().map(|error| {
                let field = if error.field.is_empty() {
                    prefix.to_string()
                } else {
                    format!("{prefix}.{}", error.field)
                };
                FieldError { field, ..error }
            }));
        }
        self
    }

    /// `Ok` when no rule was broken.
    pub fn finish(self) -> Result<(), Invalid> {
        if self.errors.is_empty() { Ok(()) } else { Err(Invalid { fields: self.errors }) }
    }

    fn add(&mut self, field: &str, code: Cow<'static, str>, message: String) {
        self.errors.push(FieldError { field: field.to_string(), code, message });
    }
}

/// The rules of one field; made by [`Checks::field`]. Absent values (`None`) break only `required`.
#[derive(Debug)]
pub struct FieldCheck<'a, V: ?Sized> {
    checks: &'a mut Checks,
    name: &'a str,
    value: &'a V,
}

impl<V: ?Sized> FieldCheck<'_, V> {
    /// A rule of the application's own, for this field.
    pub fn ensure(
        self,
        holds: impl FnOnce(&V) -> bool,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        let holds = holds(self.value);
        self.rule(holds, code.into(), || message.into())
    }

    fn rule(self, holds: bool, code: Cow<'static, str>, message: impl FnOnce() -> String) -> Self {
        if !holds {
            self.checks.add(self.name, code, message());
        }
        self
    }
}

impl<V: Length + ?Sized> FieldCheck<'_, V> {
    /// Present, and not empty.
    pub fn required(self) -> Self {
        let holds = self.value.length().is_some_and(|length| length > 0);
        self.rule(holds, Cow::Borrowed("required"), || "is required".to_string())
    }

    /// At least so many characters or items. An empty value that is not `required` must have them, too.
    pub fn min_length(self, min: usize) -> Self {
        let holds = self.value.length().is_none_or(|length| length >= min);
        self.rule(holds, Cow::Borrowed("min_length"), || format!("must have at least {min} {}", V::UNIT))
    }

    /// At most so many characters or items.
    pub fn max_length(self, max: usize) -> Self {
        let holds = self.value.length().is_none_or(|length| length <= max);
        self.rule(holds, Cow::Borrowed("max_length"), || format!("must have at most {max} {}", V::UNIT))
    }
}

impl<V: Bounded> FieldCheck<'_, V> {
    /// At least `min`.
    pub fn min_value(self, min: V::Bound) -> Self {
        let holds = self.value.bounded().is_none_or(|value| value >= min);
        self.rule(holds, Cow::Borrowed("min_value"), || format!("must be at least {min}"))
    }

    /// At most `max`.
    pub fn max_value(self, max: V::Bound) -> Self {
        let holds = self.value.bounded().is_none_or(|value| value <= max);
        self.rule(holds, Cow::Borrowed("max_value"), || format!("must be at most {max}"))
    }
}

/// Values with a length: characters of text, items of a collection, any of these in an `Option`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no length",
    label = "`required`, `min_length` and `max_length` are rules for text, collections and options of them"
)]
pub trait Length {
    /// What is counted, for messages.
    const UNIT: &'static str;
    /// The length; `None` for an absent value.
    fn length(&self) -> Option<usize>;
}

macro_rules! text_length {
    ($($type:ty),*) => {$(
        impl Length for $type {
            const UNIT: &'static str = "characters";
            fn length(&self) -> Option<usize> {
                Some(self.chars().count())
            }
        }
    )*};
}

text_length!(str, String, Arc<str>, Box<str>, Cow<'_, str>);

macro_rules! collection_length {
    ($([$($parameter:ident),*] $type:ty;)*) => {$(
        impl<$($parameter),*> Length for $type {
            const UNIT: &'static str = "items";
            fn length(&self) -> Option<usize> {
                Some(self.len())
            }
        }
    )*};
}

collection_length! {
    [T] [T];
    [T] Vec<T>;
    [T] VecDeque<T>;
    [K, V] BTreeMap<K, V>;
    [K, V, H] HashMap<K, V, H>;
    [T] BTreeSet<T>;
    [T, H] HashSet<T, H>;
}

impl<T: Length> Length for Option<T> {
    const UNIT: &'static str = T::UNIT;
    fn length(&self) -> Option<usize> {
        self.as_ref().and_then(Length::length)
    }
}

impl<T: Length + ?Sized> Length for &T {
    const UNIT: &'static str = T::UNIT;
    fn length(&self) -> Option<usize> {
        (**self).length()
    }
}

/// Numbers that can be compared with a bound, and any of these in an `Option`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a number",
    label = "`min_value` and `max_value` are rules for numbers and options of them"
)]
pub trait Bounded {
    /// What bounds are written in.
    type Bound: PartialOrd + fmt::Display;
    /// The number; `None` for an absent one.
    fn bounded(&self) -> Option<Self::Bound>;
}

macro_rules! bounded {
    ($($number:ty),*) => {$(
        impl Bounded for $number {
            type Bound = Self;
            fn bounded(&self) -> Option<Self> {
                Some(*self)
            }
        }
    )*};
}

bounded!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64);

impl<T: Bounded> Bounded for Option<T> {
    type Bound = T::Bound;
    fn bounded(&self) -> Option<T::Bound> {
        self.as_ref().and_then(Bounded::bounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(checks: Checks) -> Vec<String> {
        match checks.finish() {
            Ok(()) => Vec::new(),
            Err(invalid) => {
                invalid.fields.iter().map(|error| format!("{}:{}", error.field, error.code)).collect()
            }
        }
    }

    #[test]
    fn lengths_count_characters_and_items() {
        let mut checks = Checks::new();
        checks.field("umlauts", "äöü").max_length(3).min_length(3);
        checks.field("items", &vec![1, 2]).max_length(1);
        checks.field("text", &"ab".to_string()).min_length(3);
        assert_eq!(codes(checks), ["items:max_length", "text:min_length"]);
    }

    #[test]
    fn absent_values_break_only_required() {
        let mut checks = Checks::new();
        checks.field("note", &None::<String>).min_length(2).max_length(3);
        checks.field("amount", &None::<u32>).min_value(1);
        checks.field("name", &None::<String>).required();
        checks.field("age", &Some(7_u8)).max_value(6);
        assert_eq!(codes(checks), ["name:required", "age:max_value"]);
    }

    #[test]
    fn not_a_number_is_out_of_bounds() {
        let mut checks = Checks::new();
        checks.field("ratio", &f64::NAN).min_value(0.0).max_value(1.0);
        assert_eq!(codes(checks), ["ratio:min_value", "ratio:max_value"]);
    }

    #[test]
    fn nested_errors_keep_their_path() {
        let mut checks = Checks::new();
        checks.nested("address", Err(Invalid::field("city", "required", "is required")));
        checks.nested("card", Err(Invalid::field("", "expired", "has expired")));
        assert_eq!(codes(checks), ["address.city:required", "card:expired"]);
    }
}
