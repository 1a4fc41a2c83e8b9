//! Text of login and negotiation: `key=value` pairs, each ended by a null byte (RFC 7143 6.1).

use thiserror::Error;

/// Bytes of one text, over all PDUs that it comes in.
pub const TEXT_BYTES_MAX: usize = 32 << 10;
/// Bytes of a key.
const KEY_BYTES_MAX: usize = 63;
/// Bytes of a value. Longer ones are allowed only to keys that need them, and none of those that we read does but CHAP's.
const VALUE_BYTES_MAX: usize = 8192;

/// A text that cannot be taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TextError {
    /// Too much for us.
    #[error("a text of more than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// Not `key=value`, or a key or value that the standard does not allow.
    #[error("malformed text: {0}")]
    Malformed(&'static str),
}

/// Puts a text together that comes in several PDUs (the C bit).
#[derive(Debug, Default)]
pub struct TextAssembler {
    text: Vec<u8>,
}

impl TextAssembler {
    /// Appends a PDU's text. Gives all of it once there is no `more`.
    pub fn push(&mut self, part: &[u8], more: bool) -> Result<Option<Vec<u8>>, TextError> {
        if self.text.len() + part.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooLong);
        }
        self.text.extend_from_slice(part);
        Ok((!more).then(|| std::mem::take(&mut self.text)))
    }
}

/// The pairs of a text, in order.
pub fn pairs(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    text.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()).map(pair).collect()
}

fn pair(pair: &[u8]) -> Result<(&str, &str), TextError> {
    let pair = std::str::from_utf8(pair).map_err(|_| TextError::Malformed("not UTF-8"))?;
    let (key, value) = pair.split_once('=').ok_or(TextError::Malformed("a pair without ="))?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-+@_/#".contains(&byte);
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(allowed) {
        return Err(TextError::Malformed("a key of wrong length or characters"));
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(TextError::Malformed("too long a value"));
    }
    Ok((key, value))
}

/// A text being written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TextWriter {
    text: Vec<u8>,
}

impl TextWriter {
    /// Appends a pair.
    pub fn pair(&mut self, key: &str, value: &str) {
        for part in [key, "=", value, "\0"] {
            self.text.extend_from_slice(part.as_bytes());
        }
    }

    /// The text so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// The text.
    pub fn into_bytes(self) -> Vec<u8> {
        self.text
    }
}

/// A numerical value, decimal or hexadecimal (RFC 7143 6.1).
pub fn number(value: &str) -> Option<u64> {
    let (digits, radix) = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (value, 10),
    };
    // `from_str_radix` would take a sign, too.
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// A binary value, hexadecimal (`0x…`) or base 64 (`0b…`), of at most `max` bytes.
pub fn binary(value: &str, max: usize) -> Option<Vec<u8>> {
    let prefix = value.get(..2)?;
    let digits = value.get(2..)?;
    let bytes = match prefix {
        "0x" | "0X" => from_hex(digits)?,
        "0b" | "0B" => from_base64(digits)?,
        _ => return None,
    };
    (bytes.len() <= max && !bytes.is_empty()).then_some(bytes)
}

/// A binary value as we write it.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::from("0x"), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<u32>>>()?;
    // An odd number of digits lacks a leading zero.
    let (odd, even) = digits.split_at(digits.len() % 2);
    let pairs = even.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8);
    Some(odd.iter().map(|digit| *digit as u8).chain(pairs).collect())
}

fn from_base64(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.trim_end_matches('=');
    let value = |digit: u8| match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for digit in digits.bytes() {
        bits = bits << 6 | u32::from(value(digit)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // What is left over is padding, and must be less than a digit.
    (held < 6 && bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::{collection, prop_assert_eq};

    use super::*;

    #[test]
    fn pairs_are_split() {
        for (text, expected) in [
            (&b""[..], Ok(vec![])),
            (b"A=b\0", Ok(vec![("A", "b")])),
            // The last null is often forgotten, and some send more than one.
            (b"A=b\0\0C=\0D=e=f", Ok(vec![("A", "b"), ("C", ""), ("D", "e=f")])),
            (b"A\0", Err(TextError::Malformed("a pair without ="))),
            (b"=b\0", Err(TextError::Malformed("a key of wrong length or characters"))),
            (b"A B=c\0", Err(TextError::Malformed("a key of wrong length or characters"))),
            (b"A=\xff\0", Err(TextError::Malformed("not UTF-8"))),
        ] {
            assert_eq!(pairs(text), expected, "{}", String::from_utf8_lossy(text));
        }
        let long = |key, value| [vec![b'k'; key], b"=".to_vec(), vec![b'v'; value]].concat();
        assert!(pairs(&long(63, 8192)).is_ok());
        assert!(pairs(&long(64, 1)).is_err());
        assert!(pairs(&long(1, 8193)).is_err());
    }

    #[test]
    fn a_text_is_put_together_and_bounded() {
        let mut assembler = TextAssembler::default();
        assert_eq!(assembler.push(b"A=", true), Ok(None));
        assert_eq!(assembler.push(b"b\0", false), Ok(Some(b"A=b\0".to_vec())));
        let part = [b'x'; 8192];
        for _ in 0..4 {
            assert_eq!(assembler.push(&part, true), Ok(None));
        }
        assert_eq!(assembler.push(b"x", false), Err(TextError::TooLong));
    }

    #[test]
    fn numbers() {
        for (value, expected) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("0x1F", Some(31)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("0x", None),
            ("-1", None),
            ("+1", None),
            ("1 ", None),
            ("ff", None),
        ] {
            assert_eq!(number(value), expected, "{value:?}");
        }
    }

    #[test]
    fn binaries() {
        for (value, expected) in [
            ("0x0aff", Some(vec![0x0a, 0xff])),
            ("0Xaff", Some(vec![0x0a, 0xff])),
            ("0bCv8=", Some(vec![0x0a, 0xff])),
            ("0bCv8", Some(vec![0x0a, 0xff])),
            ("0bTWFu", Some(b"Man".to_vec())),
            ("0bCv9", None),
            ("0bC", None),
            ("0x", None),
            ("0xgg", None),
            ("12", None),
            ("", None),
            ("ü", None),
            ("0x0102030405", None),
        ] {
            assert_eq!(binary(value, 4), expected, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn binaries_come_back(bytes in collection::vec(any::<u8>(), 1..100)) {
            prop_assert_eq!(binary(&hex(&bytes), 100), Some(bytes));
        }

        #[test]
        fn garbage_does_no_harm(bytes in collection::vec(any::<u8>(), 0..300)) {
            if let Ok(pairs) = pairs(&bytes) {
                for (_, value) in pairs {
                    let _ = (number(value), binary(value, 64));
                }
            }
        }
    }
}
