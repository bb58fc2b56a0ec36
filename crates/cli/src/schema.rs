use std::process::ExitCode;

use clap::Args;
use kakusan::pipeline::{Error, Result, config_schema};

use crate::terminal::say;

const DETAILS: &str = "\
An editor that knows it completes keys, shows what they mean, and marks wrong ones. Taplo and Even Better TOML read it
from a comment in the first line of a configuration:
  kakusan schema > schema.json
  #:schema ./schema.json";

#[derive(Args)]
#[command(after_help = DETAILS)]
pub(crate) struct SchemaArgs {}

/// Prints the JSON schema of configuration files.
pub(crate) fn schema(_: &SchemaArgs) -> Result<ExitCode> {
    let text = serde_json::to_string_pretty(&config_schema()).map_err(|e| Error::Unfit(e.to_string()))?;
    say(&text);
    Ok(ExitCode::SUCCESS)
}
