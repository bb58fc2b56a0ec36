use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kakusan::pipeline::{Result, convert as convert_files};
use kakusan::weights::{FloatType, SaveOptions, parse_size};

use crate::terminal::say;

#[derive(Args)]
pub(crate) struct ConvertArgs {
    /// The folder of a saved pipeline or model, or a weight file (.bin, .safetensors, .index.json)
    #[arg(value_name = "SRC")]
    from: PathBuf,
    /// The folder to write; it must not exist yet
    #[arg(value_name = "DST")]
    to: PathBuf,
    /// Cast floats to f32, f16 or bf16 [default: keep each type]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<FloatType>,
    /// Split the weights into files of at most this size, e.g. 100MB
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, default_value = "10GB", value_parser = parse_size)]
    max_shard_size: u64,
    /// Write this variant into the file names, e.g. fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Read this variant of SRC's weights
    #[arg(long, value_name = "NAME")]
    from_variant: Option<String>,
}

pub(crate) fn convert(args: ConvertArgs) -> Result<ExitCode> {
    let mut options = SaveOptions::default();
    options.dtype = args.dtype;
    options.max_shard_size = args.max_shard_size;
    options.variant = args.variant;
    let converted = convert_files(&args.from, args.from_variant.as_deref(), &args.to, &options)?;
    let what = if converted == 1 { "one model's weights".to_owned() } else { format!("{converted} models' weights") };
    say(&format!("Converted {what}: {}", args.to.display()));
    Ok(ExitCode::SUCCESS)
}
