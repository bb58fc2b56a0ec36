//! The command `kakusan`: train, sample, look at what there is.

mod convert;
mod failure;
mod info;
mod machine;
mod preview;
mod progress;
mod report;
mod sample;
mod schedulers;
mod terminal;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Diffusion models in Rust: train them from scratch, sample from them, look at them.
#[derive(Parser)]
#[command(name = "kakusan", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kakusan train --config configs/184.toml                    learn the digits 1, 8 and 4, look on in runs/184
  kakusan train --config configs/184.toml --set data.classes=[3,5] --out runs/35
  kakusan train --resume runs/184                            go on where Ctrl-C stopped it
  kakusan train --config configs/184.toml --set train.use_ema=true --set train.lr_scheduler=cosine --out runs/ema
  kakusan report runs/184 runs/ema                           compare the two: compare.html
  kakusan sample --model runs/184 --batch 64 --out new.png   draw 64 new digits
  kakusan sample --model runs/ddpm-184 --scheduler ddim --steps 50 --seeds 0..15 --separate new
  kakusan info runs/184                                      what is saved there
  kakusan schedulers                                         which samplers there are
  kakusan convert runs/184 half --dtype f16 --variant fp16   the same weights in half the bytes

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted after saving.";

#[derive(Subcommand)]
enum Command {
    /// Train a model as a configuration file says, and save it with pictures and a report
    Train(train::TrainArgs),
    /// Draw new images from a saved pipeline
    Sample(sample::SampleArgs),
    /// Put the losses and settings of runs beside each other on one page
    Report(report::ReportArgs),
    /// Say what a saved pipeline is made of, or what this machine offers
    Info(info::InfoArgs),
    /// List the schedulers, or show the configuration of one
    Schedulers(schedulers::SchedulersArgs),
    /// Save a pipeline's or model's weights anew: .bin as safetensors, in another type, in other pieces
    Convert(convert::ConvertArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    kakusan::ops::keep_freed_memory();
    let result = match cli.command {
        Command::Train(args) => train::train(args),
        Command::Sample(args) => sample::sample(args),
        Command::Report(args) => report::report(&args),
        Command::Info(args) => info::info(&args),
        Command::Schedulers(args) => schedulers::schedulers(&args),
        Command::Convert(args) => convert::convert(args),
    };
    result.unwrap_or_else(|error| failure::show(&error))
}
