//! A TOML document as serde's `Deserializer`, one that knows where every value stands and which keys a struct has.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::nearest::nearest;

/// Something that is not as the configuration's type wants it.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Byte in the text; unknown until the fault has passed the value it is about.
    pub(crate) at: Option<usize>,
    /// Keys and indices, innermost first.
    pub(crate) path: Vec<String>,
    /// What is wrong.
    pub(crate) message: String,
}

impl Fault {
    fn located(mut self, at: usize, step: String) -> Self {
        self.at.get_or_insert(at);
        self.path.push(step);
        self
    }

    /// The key concerned, such as `servers[1].port`.
    pub(crate) fn key(&self) -> String {
        let mut key = String::new();
        for step in self.path.iter().rev() {
            if !key.is_empty() && !step.starts_with('[') {
                key.push('.');
            }
            key.push_str(step);
        }
        key
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Self { at: None, path: Vec::new(), message: message.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let is_number =
            matches!(found, Unexpected::Signed(_) | Unexpected::Unsigned(_) | Unexpected::Float(_));
        let hint = match (is_number, expected.as_str()) {
            (true, "a string") => {
                "; a size or a duration is written with its unit, in quotes: \"16MiB\", \"5s\""
            }
            (_, "a sequence") => "; a list is written as [\"a\", \"b\"]",
            _ => "",
        };
        Self::custom(format_args!("expected {expected}, found {found}{hint}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {found}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("the key `{field}` is missing"))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::custom(unknown("key", field, known))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::custom(unknown("value", variant, known))
    }
}

fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("unknown {what} `{name}`; did you mean `{near}`?"),
        None if known.is_empty() => format!("unknown {what} `{name}`; none is known here"),
        None => format!("unknown {what} `{name}`; known here: {}", known.join(", ")),
    }
}

/// A value where it stands in the text.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    value: &'a DeValue<'a>,
}

/// A whole document.
#[derive(Clone, Copy)]
pub(crate) struct Document<'a>(pub(crate) &'a DeTable<'a>);

/// Refuses keys that the struct does not have, all but the first unmentioned.
fn check_keys(table: &DeTable<'_>, known: &[&str]) -> Result<(), Fault> {
    let mut strangers: Vec<_> = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())).collect();
    strangers.sort_by_key(|key| key.span().start);
    match strangers.first() {
        None => Ok(()),
        Some(key) => {
            let name = key.get_ref().as_ref();
            Err(Fault::custom(unknown("key", name, known)).located(key.span().start, name.to_owned()))
        }
    }
}

impl<'de> Deserializer<'de> for Document<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(Table::new(self.0))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        check_keys(self.0, fields)?;
        visitor.visit_map(Table::new(self.0))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            DeValue::String(text) => visitor.visit_borrowed_str(text.as_ref()),
            DeValue::Integer(number) => visit_integer(number, visitor),
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => Err(Fault::custom(format_args!("`{number}` is not a number"))),
            },
            DeValue::Boolean(value) => visitor.visit_bool(*value),
            DeValue::Datetime(time) => visitor.visit_string(time.to_string()),
            DeValue::Array(items) => {
                let mut items = Items { items: items.iter(), index: 0 };
                visitor.visit_seq(&mut items)
            }
            DeValue::Table(table) => visitor.visit_map(Table::new(table)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if let DeValue::Table(table) = self.value {
            check_keys(table, fields)?;
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value {
            DeValue::String(name) => visitor.visit_enum(StrDeserializer::new(name.as_ref())),
            DeValue::Table(table) if table.len() == 1 => {
                let (key, value) = table.iter().next().expect("its length is 1");
                visitor.visit_enum(Tagged { key, value })
            }
            _ => Err(Fault::custom(format_args!("expected one of {}", variants.join(", ")))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier
    }
}

fn visit_integer<'de, V: Visitor<'de>>(number: &DeInteger<'_>, visitor: V) -> Result<V::Value, Fault> {
    if let Ok(value) = i64::from_str_radix(number.as_str(), number.radix()) {
        visitor.visit_i64(value)
    } else if let Ok(value) = u64::from_str_radix(number.as_str(), number.radix()) {
        visitor.visit_u64(value)
    } else {
        Err(Fault::custom(format_args!("`{number}` is too large a number")))
    }
}

struct Items<'de, I: Iterator<Item = &'de Spanned<DeValue<'de>>>> {
    items: I,
    index: usize,
}

impl<'de, I: Iterator<Item = &'de Spanned<DeValue<'de>>>> SeqAccess<'de> for Items<'de, I> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let step = format!("[{}]", self.index);
        self.index += 1;
        let value = seed.deserialize(Value { value: item.get_ref() });
        value.map(Some).map_err(|fault| fault.located(item.span().start, step))
    }

    fn size_hint(&self) -> Option<usize> {
        self.items.size_hint().1
    }
}

/// The keys and values of a table, in the order of the keys.
struct Table<'de> {
    table: &'de DeTable<'de>,
    next: usize,
    keys: Vec<&'de Spanned<std::borrow::Cow<'de, str>>>,
}

impl<'de> Table<'de> {
    fn new(table: &'de DeTable<'de>) -> Self {
        Self { table, next: 0, keys: table.keys().collect() }
    }
}

impl<'de> MapAccess<'de> for Table<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(key) = self.keys.get(self.next) else { return Ok(None) };
        self.next += 1;
        let name = key.get_ref().as_ref();
        seed.deserialize(BorrowedStrDeserializer::new(name))
            .map(Some)
            .map_err(|fault: Fault| fault.located(key.span().start, name.to_owned()))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let key = self.keys[self.next - 1];
        let value = &self.table[key.get_ref().as_ref()];
        seed.deserialize(Value { value: value.get_ref() })
            .map_err(|fault| fault.located(key.span().start, key.get_ref().as_ref().to_owned()))
    }
}

/// An enum's variant with contents: `{ variant = contents }`.
struct Tagged<'de> {
    key: &'de Spanned<std::borrow::Cow<'de, str>>,
    value: &'de Spanned<DeValue<'de>>,
}

impl<'de> EnumAccess<'de> for Tagged<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name = self.key.get_ref().as_ref();
        let variant = seed
            .deserialize(name.into_deserializer())
            .map_err(|fault: Fault| fault.located(self.key.span().start, name.to_owned()))?;
        Ok((variant, self))
    }
}

impl<'de> Tagged<'de> {
    fn contents<T>(&self, read: impl FnOnce(Value<'de>) -> Result<T, Fault>) -> Result<T, Fault> {
        read(Value { value: self.value.get_ref() })
            .map_err(|fault| fault.located(self.value.span().start, self.key.get_ref().as_ref().to_owned()))
    }
}

impl<'de> VariantAccess<'de> for Tagged<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        self.contents(<()>::deserialize)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        self.contents(|value| seed.deserialize(value))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.contents(|value| value.deserialize_seq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.contents(|value| value.deserialize_struct("", fields, visitor))
    }
}
