//! diffusers' configuration files, read and written as Python's `json` does.
//!
//! `config.json` and `scheduler_config.json` are JSON objects as Python writes them: numbers may be `-Infinity` (the
//! default of `lambda_min_clipped`), and floats have the form of Python's `repr`, `1e-05` where serde writes `1e-5`.
//! The configuration of a scheduler or a model is a map from names to values ([`Config`]). [`from_json`] and
//! [`to_json`] convert between the map and the file's text, byte for byte as diffusers writes it.
//!
//! ```
//! let text = "{\n  \"beta_start\": 1e-05,\n  \"lambda_min_clipped\": -Infinity\n}\n";
//! let config = kakusan_config::from_json(text)?;
//! assert_eq!(config["lambda_min_clipped"], "-Infinity"); // JSON's own values have no infinity
//! assert_eq!(kakusan_config::to_json(&config), text);
//! # Ok::<(), kakusan_config::JsonError>(())
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod nearest;
mod overlay;
mod python;
mod real;
mod types;

pub use nearest::{did_you_mean, nearest};
pub use overlay::as_in_file;
pub use python::{JsonError, from_json, to_json};
pub use real::Real;
pub use types::types_in_words;

/// A configuration: values by name, sorted.
pub type Config = serde_json::Map<String, serde_json::Value>;

/// The version of diffusers whose file format we write, as `_diffusers_version`.
pub const DIFFUSERS_VERSION: &str = "0.42.1";

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
