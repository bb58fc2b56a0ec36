//! A class as a configuration specifies it.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::Error;

/// A class, given by number or by name: `classes = [3, 5]` or `classes = ["cat", "dog"]`. If a class has a number as
/// its name, that number means this class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Class {
    /// Its label, from 0.
    Number(u32),
    /// Its name, as [`ImageSet::class_names`](crate::ImageSet::class_names) spells it.
    Name(String),
}

impl Class {
    /// The label of this class among `names`. A number first means the class with that name (`2` also matches `02`). If
    /// there is no such class and at least one name is not a number, it means the class at that index.
    pub(crate) fn label(&self, names: &[String]) -> Option<u32> {
        let called = |name: &str| names.iter().position(|known| known == name);
        let at = match self {
            Self::Name(name) => called(name),
            Self::Number(number) => {
                let means = |name: &String| numeric(name) == Some(*number);
                let place = usize::try_from(*number).ok().filter(|&at| at < names.len());
                let place = place.filter(|_| names.iter().any(|name| numeric(name).is_none()));
                called(&number.to_string()).or_else(|| names.iter().position(means)).or(place)
            }
        };
        at.and_then(|at| u32::try_from(at).ok())
    }

    /// The labels of `classes`, in order. A class without images (according to `held`) or named twice is an error.
    pub(crate) fn labels(classes: &[Self], names: &[String], held: impl Fn(u32) -> bool) -> Result<Vec<u32>, Error> {
        let mut labels = Vec::with_capacity(classes.len());
        let mut seen = BTreeSet::new();
        for class in classes {
            let Some(label) = class.label(names).filter(|&label| held(label)) else {
                let known = known_classes((0..names.len() as u32).filter(|&label| held(label)), names);
                return Err(Error::UnknownClass { class: class.clone(), known });
            };
            if !seen.insert(label) {
                return Err(Error::DuplicateClass { class: class.clone() });
            }
            labels.push(label);
        }
        if labels.is_empty() { Err(Error::EmptySelection) } else { Ok(labels) }
    }
}

impl From<u32> for Class {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Class {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => write!(f, "\"{name}\""),
        }
    }
}

// Written by hand for a clear error: serde's untagged enum says only that no variant matched.
impl<'de> Deserialize<'de> for Class {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Class;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a class: its number from 0, or its name")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Class, E> {
                let number =
                    u32::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))?;
                Ok(Class::Number(number))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Class, E> {
                let number =
                    u32::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))?;
                Ok(Class::Number(number))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Class, E> {
                Ok(Class::Name(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The number that a class has as its name.
fn numeric(name: &str) -> Option<u32> {
    name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lists classes for a message: `0, 1, 2` if their names are numbers, else `0 (Trouser), 1 (Coat)`. A long list is cut
/// after the first 20.
pub(crate) fn known_classes(classes: impl IntoIterator<Item = u32>, names: &[String]) -> String {
    const MOST: usize = 20;
    let by_name = names.iter().all(|name| numeric(name).is_some());
    let mut known: Vec<String> = classes
        .into_iter()
        .take(MOST + 1)
        .map(|class| match names.get(class as usize) {
            Some(name) if by_name => name.clone(),
            Some(name) if *name != class.to_string() => format!("{class} ({name})"),
            _ => class.to_string(),
        })
        .collect();
    if known.len() > MOST {
        known[MOST] = "…".to_owned();
    }
    known.join(", ")
}
