use std::fmt;

use serde_json::Value;

use crate::Config;

/// What Python writes for floats that JSON cannot express.
const NON_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// A text that is not a JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError(String);

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "it is not a JSON object: {}", self.0)
    }
}

impl std::error::Error for JsonError {}

/// Reads a JSON object as Python does. `Infinity`, `-Infinity` and `NaN` become strings of that name, which
/// [`Real`](crate::Real) reads as numbers.
///
/// # Errors
/// When the text is not a JSON object.
pub fn from_json(text: &str) -> Result<Config, JsonError> {
    serde_json::from_str(&quote_non_finite(text)).map_err(|e| JsonError(e.to_string()))
}

/// Writes a configuration as Python's `json.dumps(config, indent=2, sort_keys=True)` does, with a final newline.
pub fn to_json(config: &Config) -> String {
    let mut out = String::new();
    write_object(config, 0, &mut out);
    out.push('\n');
    out
}

/// Puts quotes around the bare words that stand for non-finite floats.
fn quote_non_finite(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut rest) = (false, text);
    while let Some(c) = rest.chars().next() {
        if let Some(word) = NON_FINITE.into_iter().find(|word| !in_string && rest.starts_with(word)) {
            out.push('"');
            out.push_str(word);
            out.push('"');
            rest = &rest[word.len()..];
            continue;
        }
        let taken = match c {
            // an escaped character, which may be a quote
            '\\' if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {
                in_string ^= c == '"';
                c.len_utf8()
            }
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

fn write_value(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) if number.is_f64() => out.push_str(&float(number.as_f64().unwrap_or_default())),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) if NON_FINITE.contains(&text.as_str()) => out.push_str(text),
        Value::String(text) => write_string(text, out),
        Value::Array(values) if values.is_empty() => out.push_str("[]"),
        Value::Array(values) => {
            out.push('[');
            for (i, value) in values.iter().enumerate() {
                begin_line(i, depth + 1, out);
                write_value(value, depth + 1, out);
            }
            end_line(depth, out);
            out.push(']');
        }
        Value::Object(config) => write_object(config, depth, out),
    }
}

fn write_object(config: &Config, depth: usize, out: &mut String) {
    if config.is_empty() {
        out.push_str("{}");
        return;
    }
    let mut sorted: Vec<_> = config.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    out.push('{');
    for (i, (key, value)) in sorted.into_iter().enumerate() {
        begin_line(i, depth + 1, out);
        write_string(key, out);
        out.push_str(": ");
        write_value(value, depth + 1, out);
    }
    end_line(depth, out);
    out.push('}');
}

fn begin_line(index: usize, depth: usize, out: &mut String) {
    out.push_str(if index == 0 { "\n" } else { ",\n" });
    out.push_str(&"  ".repeat(depth));
}

fn end_line(depth: usize, out: &mut String) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
}

/// Writes a string in ASCII; all other characters are escaped as UTF-16.
fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out.push('"');
}

/// Python's `repr` of a float: the shortest digits that round-trip, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) { format!("{value:?}") } else { format!("{digits}e{exponent:+03}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let pairs = [
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (0.00085, "0.00085"),
            (1.5e-7, "1.5e-07"),
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1348.0, "1348.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
            (0.1 + 0.2, "0.30000000000000004"),
        ];
        for (value, text) in pairs {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn text_round_trips() {
        let text = "{\n  \"a\": [\n    1,\n    2.5,\n    0.021844674407370954,\n    -Infinity\n  ],\n  \"b\": {},\n  \"c\": \"Infinity \\\" NaN\\u00e9\\ud83d\\ude00\",\n  \"d\": NaN,\n  \"e\": []\n}\n";
        assert_eq!(to_json(&from_json(text).unwrap()), text);
    }

    #[test]
    fn other_json_is_refused() {
        for text in ["", "[1]", "{\"a\": Infinit}", "{\"a\": 1", "\"\\", "{\"a\": \"\\"] {
            assert!(from_json(text).is_err(), "{text}");
        }
    }
}
