//! The text of a configuration, and where each of its keys is.

use std::num::IntErrorKind;
use std::ops::Range;

use kakusan_config::{did_you_mean, types_in_words};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use crate::ConfigError;

/// The text for JSON's null in `[model]` and `[scheduler]`, e.g. `attention_head_dim = "null"`.
pub(crate) const NULL: &str = "null";
/// The key of a class.
pub(crate) const CLASS_NAME: &str = "_class_name";

/// The text and values from which a [`RunConfig`](crate::RunConfig) is read; knows the position of each key.
pub(crate) struct Document<'a> {
    origin: &'a str,
    text: &'a str,
    pub(crate) table: toml::Table,
    /// Dotted paths of the overridden keys.
    overridden: Vec<String>,
}

impl<'a> Document<'a> {
    pub(crate) fn parse(text: &'a str, origin: &'a str) -> Result<Self, ConfigError> {
        let table = text.parse::<toml::Table>().map_err(|e| {
            let number = e.span().and_then(|span| text.get(span)).filter(|number| is_too_large(number));
            ConfigError {
                origin: origin.to_owned(),
                text: Some(text.to_owned()),
                span: e.span(),
                message: number.map_or_else(|| e.message().to_owned(), out_of_range),
            }
        })?;
        Ok(Self { origin, text, table, overridden: vec![] })
    }

    /// Applies `table.key=value`.
    pub(crate) fn set(&mut self, text: &str) -> Result<(), ConfigError> {
        let refuse = |message: &str| ConfigError {
            origin: format!("--set {text}"),
            text: None,
            span: None,
            message: message.to_owned(),
        };
        let form = "expected table.key=value, e.g. train.epochs=2 or data.classes=[3,5]";
        let (path, value) = text.split_once('=').ok_or_else(|| refuse(form))?;
        let (path, value) = (path.trim(), value.trim());
        let (table, key) = path.split_once('.').ok_or_else(|| refuse(form))?;
        let value = match format!("value = {value}").parse::<toml::Table>() {
            Ok(mut parsed) => parsed.remove("value").ok_or_else(|| refuse(form))?,
            Err(_) if is_too_large(value) => return Err(refuse(&out_of_range(value))),
            Err(_) => toml::Value::String(value.to_owned()),
        };
        let section = self.table.entry(table).or_insert_with(|| toml::Table::new().into());
        let section = section.as_table_mut().ok_or_else(|| refuse("that is not a table in the file"))?;
        section.insert(key.to_owned(), value);
        self.overridden.push(path.to_owned());
        Ok(())
    }

    /// Reads a table whose keys are the fields of `T`; a missing table counts as empty.
    pub(crate) fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, ConfigError> {
        let value = self.table.get(name).cloned().unwrap_or_else(|| toml::Table::new().into());
        serde_path_to_error::deserialize(value).map_err(|e| {
            let key = e.path().iter().next().map(ToString::to_string).unwrap_or_default();
            let message = e.inner().message();
            if message.starts_with("unknown field") {
                return self.refusal(name, message);
            }
            let of_key = if key.is_empty() { String::new() } else { format!("`{key}`: ") };
            self.error(&[name, &key], format!("{of_key}{}", explain(message, name)))
        })
    }

    /// Whether the text or an override has the table `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Reads a table of any keys as JSON. `"null"` is null.
    pub(crate) fn fields(&self, name: &str) -> Result<Map<String, Value>, ConfigError> {
        let section: toml::Table = self.section(name)?;
        if let Some((key, value)) = section.iter().find(|(_, value)| holds_non_finite(value)) {
            return Err(self.error(&[name, key], format!("`{key}` is {value}; it must be finite")));
        }
        match serde_json::to_value(&section) {
            Ok(Value::Object(mut fields)) => {
                fields.values_mut().filter(|value| *value == NULL).for_each(|value| *value = Value::Null);
                Ok(fields)
            }
            _ => Err(self.error(&[name], format!("[{name}] holds a value that JSON cannot represent"))),
        }
    }

    /// The class that the `fields` of a table name. `meant` gives the end of the message about a class that does not
    /// exist.
    pub(crate) fn class_name(
        &self,
        name: &str,
        fields: &Map<String, Value>,
        known: &[&str],
        meant: impl Fn(&str) -> String,
    ) -> Result<String, ConfigError> {
        let Some(Value::String(class_name)) = fields.get(CLASS_NAME) else {
            let message = format!("[{name}] needs `_class_name`, one of {}", known.join(", "));
            return Err(self.error(&[name], message));
        };
        if !known.contains(&class_name.as_str()) {
            let message = format!("no {name} is called `{class_name}`{}", meant(class_name));
            return Err(self.error(&[name, CLASS_NAME], message));
        }
        Ok(class_name.clone())
    }

    /// The error for a table that was refused with `message`. It points to the first key of the table that the message
    /// names.
    pub(crate) fn refusal(&self, table: &str, message: &str) -> ConfigError {
        let section = self.table.get(table).and_then(toml::Value::as_table);
        let named = message.split(['`', ' ', ':']).find(|word| section.is_some_and(|s| s.contains_key(*word)));
        self.error(&[table, named.unwrap_or_default()], explain(message, table))
    }

    /// An error at `path`; trailing parts of the path may be missing from the text.
    pub(crate) fn error(&self, path: &[&str], message: String) -> ConfigError {
        let dotted = path.join(".");
        if self.overridden.contains(&dotted) {
            return ConfigError { origin: format!("--set {dotted}"), text: None, span: None, message };
        }
        ConfigError {
            origin: self.origin.to_owned(),
            text: Some(self.text.to_owned()),
            span: self.locate(path),
            message,
        }
    }

    /// The bytes of the deepest key of `path` that the text contains.
    fn locate(&self, path: &[&str]) -> Option<Range<usize>> {
        let document = DeTable::parse(self.text).ok()?;
        let mut table = document.get_ref();
        let mut span = None;
        for part in path {
            let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == part) else { break };
            span = Some(key.span());
            let DeValue::Table(inner) = value.get_ref() else { break };
            table = inner;
        }
        span
    }
}

/// Whether a value contains a NaN or an infinity: JSON has neither, and null would take its place.
fn holds_non_finite(value: &toml::Value) -> bool {
    match value {
        toml::Value::Float(number) => !number.is_finite(),
        toml::Value::Array(values) => values.iter().any(holds_non_finite),
        toml::Value::Table(table) => table.values().any(holds_non_finite),
        _ => false,
    }
}

/// Whether the text is an integer too large for TOML.
fn is_too_large(text: &str) -> bool {
    let error = text.replace('_', "").parse::<i64>().err();
    error.is_some_and(|e| matches!(e.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow))
}

fn out_of_range(number: &str) -> String {
    format!("`{number}` is out of range: TOML has whole numbers from {} to {}", i64::MIN, i64::MAX)
}

/// Shortens serde's message about an unknown key or value and suggests the nearest known one.
fn explain(message: &str, table: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let (true, [wrong, known @ ..]) = (message.contains("unknown field"), quoted.as_slice()) {
        return format!("there is no key `{wrong}` in [{table}]{}", did_you_mean(wrong, known));
    }
    if let (true, [wrong, known @ ..]) = (message.starts_with("unknown variant"), quoted.as_slice()) {
        return format!("there is no `{wrong}`{}", did_you_mean(wrong, known));
    }
    types_in_words(message)
}
