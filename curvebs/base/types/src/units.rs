//! Sizes and durations as people write them: `10GiB`, `5s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Why a size or duration was not understood. The message says what would be.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum UnitError {
    /// No number, or one with other characters in it.
    #[error("`{0}` does not begin with a number; write for example `{1}`")]
    NoNumber(String, &'static str),
    /// The unit is missing or unknown.
    #[error("`{0}` has no known unit; use one of {1}")]
    Unit(String, &'static str),
    /// The value does not fit.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

const SIZE_UNITS: &str = "B, KiB, MiB, GiB, TiB (powers of 1024; K, M, G, T mean the same)";
const TIME_UNITS: &str = "us, ms, s, m, h, d";

fn split(text: &str, example: &'static str) -> Result<(f64, String), UnitError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..digits].parse::<f64>().map_err(|_| UnitError::NoNumber(text.to_owned(), example))?;
    Ok((number, text[digits..].trim().to_ascii_lowercase()))
}

/// Parses a size such as `4096B`, `10GiB` or `1.5T`. A bare number is refused unless it is `0`, since nobody can
/// tell whether bytes or blocks were meant.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text, "10GiB")?;
    let scale: u64 = match unit.as_str() {
        "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "" if number == 0.0 => 1,
        _ => return Err(UnitError::Unit(text.to_owned(), SIZE_UNITS)),
    };
    let bytes = number * scale as f64;
    if bytes >= (1u64 << 60) as f64 {
        return Err(UnitError::TooLarge(text.to_owned()));
    }
    Ok(bytes.round() as u64)
}

/// Parses a duration such as `200ms`, `5s` or `10m`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text, "5s")?;
    let seconds = match unit.as_str() {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86400.0,
        "" if number == 0.0 => 0.0,
        _ => return Err(UnitError::Unit(text.to_owned(), TIME_UNITS)),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| UnitError::TooLarge(text.to_owned()))
}

/// A number of bytes that is read and shown with a unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match UNITS.iter().find(|(_, scale)| self.0 >= *scale) {
            Some((unit, scale)) if self.0.is_multiple_of(*scale) => {
                f.pad(&format!("{}{unit}", self.0 / scale))
            }
            Some((unit, scale)) => f.pad(&format!("{:.1}{unit}", self.0 as f64 / *scale as f64)),
            None => f.pad(&format!("{}B", self.0)),
        }
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_size(text).map(Self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A duration that is read and shown with a unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct HumanDuration(pub Duration);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let (scale, unit) = match micros {
            0 => (1_000_000, "s"),
            m if m % 86_400_000_000 == 0 => (86_400_000_000, "d"),
            m if m % 3_600_000_000 == 0 => (3_600_000_000, "h"),
            m if m % 60_000_000 == 0 => (60_000_000, "m"),
            m if m % 1_000_000 == 0 => (1_000_000, "s"),
            m if m % 1_000 == 0 => (1_000, "ms"),
            _ => (1, "us"),
        };
        f.pad(&format!("{}{unit}", micros / scale))
    }
}

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_duration(text).map(Self)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip() {
        for (text, bytes) in
            [("4096B", 4096), ("10GiB", 10 << 30), ("1.5T", 3 << 39), ("64 MiB", 64 << 20), ("0", 0)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bytes in [1, 512, 4096, 16 << 20, 1 << 30, 64 << 40] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }

    #[test]
    fn a_size_without_a_unit_is_refused_with_the_units() {
        let message = parse_size("4096").unwrap_err().to_string();
        assert!(message.contains("GiB"), "{message}");
        assert!(parse_size("GiB").is_err());
        assert!(parse_size("-1GiB").is_err());
        assert_eq!(parse_size("9999999TiB"), Err(UnitError::TooLarge("9999999TiB".into())));
    }

    #[test]
    fn durations_round_trip() {
        for (text, ms) in [("200ms", 200), ("5s", 5000), ("1.5s", 1500), ("10m", 600_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["250us", "20ms", "5s", "10m", "2h", "1d", "0s"] {
            assert_eq!(text.parse::<HumanDuration>().unwrap().to_string(), text);
        }
        assert!(parse_duration("5 fortnights").is_err());
    }
}
