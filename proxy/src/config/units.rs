//! Durations and sizes as people write them: `10s`, `250ms`, `64KiB`.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// `10s`, `5m`, `1h30m`; a bare number has no unit and is refused.
pub(super) mod duration {
    use std::time::Duration;

    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Duration,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match jiff::SignedDuration::try_from(*value) {
            Ok(value) => s.collect_str(&format_args!("{value:#}")),
            Err(e) => Err(serde::ser::Error::custom(e)),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(d)?;
        text.parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|v| Duration::try_from(v).ok())
            .ok_or_else(|| {
                D::Error::custom(format!("`{text}` is no duration, as `10s` or `5m` is"))
            })
    }
}

/// A size that fits 32 bits.
pub(super) mod bytes32 {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &u32,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_u32(*value)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
        u32::try_from(Size::deserialize(d)?.bytes::<D::Error>()?)
            .map_err(|_| D::Error::custom("size is larger than 4 GiB"))
    }
}

/// A size.
pub mod bytes {
    use super::*;

    /// Reads a whole number of bytes, with `KiB`, `MiB` or `GiB` or without.
    ///
    /// # Errors
    /// When it is anything else, or beyond 64 bits.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        Size::deserialize(d)?.bytes()
    }
}

/// A size, or none.
pub(super) mod optional_bytes {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Option<u64>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.serialize_some(value),
            None => s.serialize_none(),
        }
    }

    /// Reads a size in bytes, such as `65536` or `64KiB`, if there is one.
    ///
    /// # Errors
    /// When it is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        Option::<Size>::deserialize(d)?
            .map(Size::bytes::<D::Error>)
            .transpose()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn bytes<E: Error>(self) -> Result<u64, E> {
        let text = match self {
            Self::Bytes(bytes) => return Ok(bytes),
            Self::Text(text) => text,
        };
        parse_size(&text)
            .ok_or_else(|| E::custom(format!("`{text}` is no size, as `65536` or `64KiB` is")))
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(unit)?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}
