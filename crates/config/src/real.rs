use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A float in a configuration that may be infinite, as `lambda_min_clipped` is by default.
///
/// serde sees infinities and NaN as strings, which [`from_json`](crate::from_json) and [`to_json`](crate::to_json)
/// convert to Python's bare words; in TOML they are `inf` and `nan`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Real(pub f64);

impl Serialize for Real {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            f64::INFINITY => serializer.serialize_str("Infinity"),
            f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
            value if value.is_nan() => serializer.serialize_str("NaN"),
            value => serializer.serialize_f64(value),
        }
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RealVisitor)
    }
}

struct RealVisitor;

impl Visitor<'_> for RealVisitor {
    type Value = Real;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a number")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Real, E> {
        Ok(Real(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Real, E> {
        Ok(Real(value as f64))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Real, E> {
        Ok(Real(value as f64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Real, E> {
        match text {
            "Infinity" | "inf" => Ok(Real(f64::INFINITY)),
            "-Infinity" | "-inf" => Ok(Real(f64::NEG_INFINITY)),
            "NaN" | "nan" => Ok(Real(f64::NAN)),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}
