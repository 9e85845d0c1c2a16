//! [`Node`]s to structs: text is read by the type of the field that takes it, wherever it came from.

use std::{borrow::Cow, fmt::Display, str::FromStr};

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::{
    error::ConfigError,
    node::{Data, Node, Origin},
    yaml,
};

/// Makes a `T` of the tree.
pub(crate) fn from_node<T: serde::de::DeserializeOwned>(node: &Node) -> Result<T, ConfigError> {
    T::deserialize(Reader(Cow::Borrowed(node))).map_err(ConfigError::suggest)
}

struct Reader<'a>(Cow<'a, Node>);

impl Reader<'_> {
    /// The scalar's text.
    fn text(&self, wanted: &str) -> Result<&str, ConfigError> {
        let found = match &self.0.data {
            Data::Text { .. } if self.0.is_null() => "has no value",
            Data::Text { text, .. } => return Ok(text),
            Data::List(_) => "is a list",
            Data::Map(_) => "is a section",
        };
        Err(ConfigError::new("", found, format!("write {wanted}")))
    }

    fn number<T: FromStr>(&self, low: impl Display, high: impl Display) -> Result<T, ConfigError> {
        let wanted = format!("a whole number from {low} to {high}");
        let text = self.text(&wanted)?;
        let not_one = || ConfigError::new("", "is not allowed here", format!("write {wanted}")).given(text);
        text.trim().parse().map_err(|_| not_one())
    }

    /// The node itself, or what an environment variable's text stands for where a list or section is wanted.
    fn structure(self) -> Result<Node, ConfigError> {
        match (&self.0.data, &self.0.origin) {
            (Data::Text { text, .. }, origin @ (Origin::Variable(_) | Origin::Flag(_))) => {
                yaml::parse_inline(text, origin)
            }
            _ => Ok(self.0.into_owned()),
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            visitor.$visit(self.number::<$type>(<$type>::MIN, <$type>::MAX)?)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ConfigError;

    numbers! {
        deserialize_u8 visit_u8 u8; deserialize_u16 visit_u16 u16; deserialize_u32 visit_u32 u32; deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i8; deserialize_i16 visit_i16 i16; deserialize_i32 visit_i32 i32; deserialize_i64 visit_i64 i64;
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match self.text("true or false")?.trim() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            other => {
                Err(ConfigError::new("", "is neither true nor false", "write true or false").given(other))
            }
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_str(self.text("a single value")?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        let node = self.structure()?;
        let items = match node.data {
            Data::List(items) => items,
            Data::Map(entries) if is_numbered(&entries) => numbered(entries)?,
            Data::Map(_) => {
                return Err(ConfigError::new("", "is a section", "write a list: begin each entry with `- `"));
            }
            Data::Text { .. } if node.is_null() => Vec::new(),
            Data::Text { .. } => {
                return Err(ConfigError::new("", "is not a list", "write a list, such as [a, b]"));
            }
        };
        visitor.visit_seq(Items { items: items.into_iter().enumerate() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        let node = self.structure()?;
        let entries = match node.data {
            Data::Map(entries) => entries,
            Data::Text { .. } if node.is_null() => Vec::new(),
            // Not repeated: under `headers` or `workers` it may be a secret.
            Data::Text { .. } => {
                return Err(ConfigError::new("", "is not a section", "write `key: value` lines under it"));
            }
            Data::List(_) => {
                return Err(ConfigError::new("", "is a list", "write `key: value` lines under it"));
            }
        };
        visitor.visit_map(Entries { entries: entries.into_iter(), current: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        let text = self.text(&variants.join(" or "))?;
        visitor.visit_enum(Choice(text))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.deserialize_str(visitor)
    }

    serde::forward_to_deserialize_any! { i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct ignored_any }
}

/// Whether a section may have been meant as a list: a variable makes one, which says which entry is meant.
fn is_numbered(entries: &[(String, Node)]) -> bool {
    let is_of_variable = |node: &Node| matches!(node.origin, Origin::Variable(_));
    entries.iter().any(|(key, node)| key.parse::<usize>().is_ok() || is_of_variable(node))
}

/// A list that was given by numbers: `OUTBOARD_WORKERS__0__…`, `OUTBOARD_WORKERS__1__…`.
fn numbered(entries: Vec<(String, Node)>) -> Result<Vec<Node>, ConfigError> {
    let mut items = Vec::new();
    for (key, node) in entries {
        let Ok(index) = key.parse::<usize>() else {
            let mend = "number the entries from 0, or write a list";
            return Err(ConfigError::new("", "is not a place in a list", mend).given(key).at(&node.origin));
        };
        items.push((index, node));
    }
    items.sort_by_key(|(index, _)| *index);
    for (expected, (index, node)) in items.iter().enumerate() {
        if *index != expected {
            let problem = format!("comes without an entry {expected}");
            let error = ConfigError::new("", problem, "number the entries from 0 without a gap");
            return Err(error.at(&node.origin).under_index(*index));
        }
    }
    Ok(items.into_iter().map(|(_, node)| node).collect())
}

struct Items {
    items: std::iter::Enumerate<std::vec::IntoIter<Node>>,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = ConfigError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ConfigError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let origin = node.origin.clone();
        let value = seed.deserialize(Reader(Cow::Owned(node)));
        value.map(Some).map_err(|error| error.at(&origin).under_index(index))
    }
}

struct Entries {
    entries: std::vec::IntoIter<(String, Node)>,
    current: Option<(String, Node)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = ConfigError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ConfigError> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        let name: serde::de::value::StrDeserializer<'_, ConfigError> = key.as_str().into_deserializer();
        let value = seed.deserialize(name).map_err(|error| error.at(&innermost(&node).origin));
        self.current = Some((key, node));
        value.map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ConfigError> {
        let (key, node) =
            self.current.take().ok_or_else(|| ConfigError::custom("a value was asked for before its key"))?;
        let origin = node.origin.clone();
        seed.deserialize(Reader(Cow::Owned(node))).map_err(|error| error.at(&origin).under_key(&key))
    }
}

/// The first leaf: an unknown section that a variable made is best named by that variable.
fn innermost(node: &Node) -> &Node {
    match &node.data {
        Data::Map(entries) if matches!(node.origin, Origin::Variable(_)) => {
            entries.first().map_or(node, |(_, inner)| innermost(inner))
        }
        _ => node,
    }
}

struct Choice<'a>(&'a str);

impl<'de> EnumAccess<'de> for Choice<'_> {
    type Error = ConfigError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), ConfigError> {
        let name: serde::de::value::StrDeserializer<'_, ConfigError> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'_> {
    type Error = ConfigError;

    fn unit_variant(self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, ConfigError> {
        Err(ConfigError::custom("is a word without a value"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, ConfigError> {
        Err(ConfigError::custom("is a word without a value"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, ConfigError> {
        Err(ConfigError::custom("is a word without a value"))
    }
}
