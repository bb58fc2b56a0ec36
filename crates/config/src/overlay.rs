use serde_json::Value;

use crate::Config;

/// `written`, with the spelling of the `file` that it was read from: an unchanged value keeps the file's form (`1`, not
/// `1.0`), and fields that only the file has are kept. Names that begin with `_` are not taken from the file, because
/// the writer sets `_class_name` and `_diffusers_version`.
///
/// ```
/// use kakusan_config::{as_in_file, from_json};
///
/// let file = from_json(r#"{"_diffusers_version": "0.0.4", "decay": 0.5, "norm_eps": 1e-6, "scale": 1}"#)?;
/// let written = from_json(r#"{"norm_eps": 2e-6, "scale": 1.0}"#)?;
/// assert_eq!(as_in_file(written, &file), from_json(r#"{"decay": 0.5, "norm_eps": 2e-6, "scale": 1}"#)?);
/// # Ok::<(), kakusan_config::JsonError>(())
/// ```
pub fn as_in_file(mut written: Config, file: &Config) -> Config {
    for (key, own) in file.iter().filter(|(key, _)| !key.starts_with('_')) {
        let value = written.entry(key.clone()).or_insert_with(|| own.clone());
        if is_same(value, own) {
            *value = own.clone();
        }
    }
    written
}

fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_json;

    #[test]
    fn values_that_changed_are_the_writers() {
        let file = from_json(r#"{"a": [1, 2.0], "b": 3, "c": null, "_x": 1}"#).unwrap();
        let same = from_json(r#"{"a": [1.0, 2], "b": 3.0, "c": null}"#).unwrap();
        assert_eq!(as_in_file(same, &file).get("a"), file.get("a"));
        let other = from_json(r#"{"a": [1.0, 3], "b": 4.0, "c": 0}"#).unwrap();
        assert_eq!(as_in_file(other.clone(), &file), other);
    }
}
