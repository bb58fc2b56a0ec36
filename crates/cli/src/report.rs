use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kakusan::pipeline::{Result, write_whole};
use kakusan::report::compare;

use crate::picture::with_ending;
use crate::terminal::say;

#[derive(Args)]
pub(crate) struct ReportArgs {
    /// The folders of the runs, finished or in progress
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE.html", default_value = "compare.html", value_parser = |text: &str| with_ending(text, &["html", "htm"]))]
    out: PathBuf,
}

pub(crate) fn report(args: &ReportArgs) -> Result<ExitCode> {
    write_whole(&args.out, compare(&args.runs)?.as_bytes())?;
    say(&format!("The comparison is in {}.", args.out.display()));
    Ok(ExitCode::SUCCESS)
}
