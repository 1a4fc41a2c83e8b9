//! Annotated sample files, made from the doc comments of configuration structs.

use std::fmt::Write as _;

use serde::Serialize;
use toml::Value;

/// A key of a configuration with its doc comment, one item a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyDoc {
    /// The key.
    pub name: &'static str,
    /// Its doc comment; attributes that are no doc comment are `None`.
    pub doc: &'static [Option<&'static str>],
}

/// A configuration struct whose keys carry their doc comments; `documented!` implements it.
pub trait Documented {
    /// The doc comment of the struct.
    const DOC: &'static [Option<&'static str>];
    /// Its keys, in the order of declaration.
    const KEYS: &'static [KeyDoc];
}

/// Declares configuration structs as written and implements `Documented` for them.
///
/// ```
/// curve_config::documented! {
///     /// How a server is set up.
///     #[derive(serde::Serialize, serde::Deserialize)]
///     pub struct ServerConfig {
///         /// Where it listens.
///         pub listen: String,
///     }
/// }
/// let sample = curve_config::sample(&ServerConfig { listen: "0.0.0.0:1".into() }, &[]).unwrap();
/// assert_eq!(sample, "# How a server is set up.\n\n# Where it listens.\nlisten = \"0.0.0.0:1\"\n");
/// ```
///
/// A field that serde renames must be listed under its Rust name, so do not rename fields of documented structs.
#[macro_export]
macro_rules! documented {
    ($(
        $(#[$($attribute:tt)*])*
        $visibility:vis struct $name:ident {
            $($(#[$($field_attribute:tt)*])* $field_visibility:vis $field:ident : $type:ty,)*
        }
    )*) => {$(
        $(#[$($attribute)*])*
        $visibility struct $name {
            $($(#[$($field_attribute)*])* $field_visibility $field: $type,)*
        }

        impl $crate::Documented for $name {
            const DOC: &'static [Option<&'static str>] = &[$($crate::doc_line!($($attribute)*)),*];
            const KEYS: &'static [$crate::KeyDoc] = &[$($crate::KeyDoc {
                name: stringify!($field),
                doc: &[$($crate::doc_line!($($field_attribute)*)),*],
            }),*];
        }
    )*};
}

/// The text of a doc comment's attribute; part of `documented!`.
#[doc(hidden)]
#[macro_export]
macro_rules! doc_line {
    (doc = $text:literal) => {
        Some($text)
    };
    ($($other:tt)*) => {
        None
    };
}

/// An annotated sample file with the values of `config`: every key with its doc comment above it, keys without a
/// value commented out. `tables` are the keys of nested tables, by the name of the table.
pub fn sample<T: Documented + Serialize>(
    config: &T,
    tables: &[(&str, &[KeyDoc])],
) -> Result<String, toml::ser::Error> {
    let mut out = String::new();
    comment(&mut out, T::DOC);
    let Value::Table(values) = Value::try_from(config)? else { return Ok(out) };
    let mut nested = Vec::new();
    for key in T::KEYS {
        match values.get(key.name) {
            Some(Value::Table(table)) => nested.push((key, table)),
            value => entry(&mut out, key, value),
        }
    }
    for (key, table) in nested {
        out.push('\n');
        comment(&mut out, key.doc);
        let _ = writeln!(out, "[{}]", key.name);
        match tables.iter().find(|(name, _)| *name == key.name) {
            Some((_, keys)) => keys.iter().for_each(|key| entry(&mut out, key, table.get(key.name))),
            None => table.iter().for_each(|(name, value)| {
                let _ = writeln!(out, "{name} = {value}");
            }),
        }
    }
    Ok(out)
}

fn entry(out: &mut String, key: &KeyDoc, value: Option<&Value>) {
    out.push('\n');
    comment(out, key.doc);
    let _ = match value {
        Some(value) => writeln!(out, "{} = {value}", key.name),
        None => writeln!(out, "# {} =", key.name),
    };
}

fn comment(out: &mut String, doc: &[Option<&str>]) {
    for line in doc.iter().flatten() {
        let _ = writeln!(out, "{}", format!("# {}", line.trim()).trim_end());
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    documented! {
        /// What a test is set up with.
        #[derive(Serialize, Deserialize, Debug, PartialEq)]
        struct Outer {
            /// How many.
            ///
            /// More than one line.
            count: u32,
            /// Which ones.
            #[serde(default)]
            names: Vec<String>,
            /// May be left out.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            path: Option<String>,
            /// A table.
            inner: Inner,
        }

        /// A part.
        #[derive(Serialize, Deserialize, Debug, PartialEq)]
        struct Inner {
            /// Its flag.
            flag: bool,
        }
    }

    #[test]
    fn a_sample_has_the_doc_comments_and_reads_back() {
        let value = Outer { count: 3, names: vec!["a".into()], path: None, inner: Inner { flag: true } };
        let text = sample(&value, &[("inner", Inner::KEYS)]).unwrap();
        assert_eq!(
            text,
            "# What a test is set up with.\n\n# How many.\n#\n# More than one line.\ncount = 3\n\n\
             # Which ones.\nnames = [\"a\"]\n\n# May be left out.\n# path =\n\n\
             # A table.\n[inner]\n\n# Its flag.\nflag = true\n"
        );
        assert_eq!(crate::parse::<Outer>(&text, "sample").unwrap(), value);
    }
}
