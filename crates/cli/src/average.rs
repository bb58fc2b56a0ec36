use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kakusan::candle::Device;
use kakusan::pipeline::{Averaged, DDPMPipeline, Error, Registry, Result};
use kakusan::report::quote_path;

use crate::number::real;
use crate::program::program;
use crate::terminal::{say, warn};

const DETAILS: &str = "\
How long the average of the weights should be is seen only after the training. A training with
  --set 'train.ema_sigma_rel=[0.05,0.1]'
keeps two averages and saves snapshots of them in averages/. This command makes the average of any width of them, by
least squares (Karras et al. 2024, \"Analyzing and Improving the Training Dynamics of Diffusion Models\", section 3.2).
Try a few widths from 0.03 to 0.25, and compare them with `sample` or `eval`.";

/// The error of the fit from which the user is warned.
const LARGE: f64 = 0.2;

#[derive(Args)]
#[command(after_help = DETAILS)]
pub(crate) struct AverageArgs {
    /// The folder of a run that was trained with train.ema_sigma_rel
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The width of the average, relative to the length of the training
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = real(0.001..=0.28))]
    sigma_rel: f64,
    /// The folder to write the pipeline to; it must not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn average(args: &AverageArgs) -> Result<ExitCode> {
    let out = args.out.display();
    if args.out.exists() {
        return Err(Error::Unfit(format!("{out} exists already; name a new folder")));
    }
    let averaged = DDPMPipeline::from_averages(&args.run, args.sigma_rel, &Registry::default(), &Device::Cpu)?;
    let Averaged { pipeline, step, snapshots, error, .. } = averaged;
    pipeline.save_pretrained(&args.out)?;
    let (width, off) = (args.sigma_rel, format!("{:.1} %", 100.0 * error));
    say(&format!("The average of width {width} up to step {step}, from {snapshots} snapshots: {out}"));
    say(&format!("Its profile over the steps is within {off} of the exact one."));
    if error > LARGE {
        warn(&format!(
            "warning: the snapshots of this run are too few or too wide for an average of width {width}; set \
             train.ema_snapshots and train.ema_sigma_rel for it"
        ));
    }
    say(&format!("Draw from it: {} sample --model {}", program(), quote_path(&args.out)));
    Ok(ExitCode::SUCCESS)
}
