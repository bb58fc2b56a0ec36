//! The command `kakusan`: trains and inspects diffusion models, and samples from them.

mod average;
mod classes;
mod completions;
mod convert;
mod data;
mod edit;
mod eval;
mod facts;
mod failure;
mod fit_sampler;
mod generator;
mod guide;
mod info;
mod machine;
mod man;
mod new;
mod number;
mod picture;
mod preview;
mod program;
mod progress;
mod push;
mod ranks;
mod report;
mod sample;
mod sampling;
mod schedulers;
mod schema;
#[cfg(feature = "serve")]
mod serve;
mod set;
mod table;
mod terminal;
mod train;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Diffusion models in Rust: train them from scratch, sample from them, inspect them.
#[derive(Parser)]
#[command(name = "kakusan", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: [(&str, &str); 18] = [
    ("train --config configs/184.toml", "train on the digits 1, 8 and 4, into runs/184"),
    ("train --config configs/184.toml --set 'data.classes=[3,5]' --out runs/35 --seed 7", ""),
    ("train --resume runs/184", "resume where Ctrl-C stopped it"),
    ("train --config configs/184.toml --set train.learning_rate=5e-4 --set train.use_ema=true --out runs/gentle", ""),
    ("report runs/184 runs/gentle", "compare the two: compare.html"),
    ("sample --model runs/184 --batch 64 --steps 40 --seed 1 --out new.png", "draw 64 new digits"),
    ("sample --model runs/184 --steps 50 --seeds 0..15 --separate new", "an image for each seed"),
    ("sample --model runs/184 --init digit.png --strength 0.6", "draw variations of a picture"),
    ("serve --runs runs", "draw and watch trainings in a browser"),
    ("train --config configs/184-v.toml", "a small UNet2DModel: better digits, sooner"),
    ("eval --model runs/184-v --images 512 --scheduler ddim --eta 1 --steps 30", "measure them against the data"),
    ("fit-sampler --model runs/184-v --scheduler dpmsolver --steps 5", "choose where 5 steps are best spent"),
    ("data path/to/pictures", "look at your own pictures: sizes, classes, bad files"),
    ("new --data path/to/pictures --minutes 30 my.toml", "write a configuration for them and this machine"),
    ("info runs/184", "describe what is saved there"),
    ("schedulers", "list the schedulers"),
    ("push runs/184 ada/digits --license mit", "publish it on the Hugging Face Hub"),
    ("convert runs/184 half --dtype f16 --variant fp16", "the same weights in half the bytes"),
];

/// The examples as they can be typed here; those that are short enough have a comment behind them.
fn examples(program: &str) -> String {
    let line = |(command, what): &(&str, &str)| match what.is_empty() {
        true => format!("  {program} {command}"),
        false => format!("  {program} {command:50} # {what}"),
    };
    let lines: Vec<String> = EXAMPLES.iter().map(line).collect();
    let codes = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted after saving.";
    format!("Examples:\n{}\n\n{codes}", lines.join("\n"))
}

#[derive(Subcommand)]
enum Command {
    /// Look at a set of images: sizes, classes, bad files, duplicates, a contact sheet
    Data(data::DataArgs),
    /// Write a configuration that suits a set of images, this machine and the time at hand
    New(new::NewArgs),
    /// Train a model from a configuration file, and save it with pictures and a report
    Train(train::TrainArgs),
    /// Draw new images from a saved pipeline or a run
    Sample(Box<sample::SampleArgs>),
    /// Draw, edit and watch trainings in a browser, and by a JSON API
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    /// Measure how good a model's images are, against the data: Fréchet distance, precision, recall ...
    Eval(Box<eval::EvalArgs>),
    /// Choose the noise levels of few sampling steps so that they fit the model, and save them with it
    FitSampler(fit_sampler::FitSamplerArgs),
    /// Compare the losses and settings of runs on one page
    Report(report::ReportArgs),
    /// Describe a saved pipeline or a run, or this program and machine
    Info(info::InfoArgs),
    /// List the schedulers, or show the configuration of one
    Schedulers(schedulers::SchedulersArgs),
    /// Average the weights of a run over another length of its training (train.ema_sigma_rel)
    Average(average::AverageArgs),
    /// Publish a pipeline on the Hugging Face Hub, with a model card
    Push(push::PushArgs),
    /// Convert the weights of a pipeline or model: .bin to safetensors, another type, other shards
    Convert(convert::ConvertArgs),
    /// Print the JSON schema of configuration files, for editors
    Schema(schema::SchemaArgs),
    /// Print the completions of this command for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page of this command, or write those of all commands
    Man(man::ManArgs),
}

/// The command line of this program, called as `program`.
fn command(program: &str) -> clap::Command {
    Cli::command().bin_name(program).after_help(examples(program))
}

fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&command(&program::program()).get_matches()).unwrap_or_else(|error| error.exit());
    if kakusan::ops::built_unoptimised() {
        terminal::warn("warning: compiled without optimisation, a hundred times slower: build it with --release");
    }
    kakusan::ops::keep_freed_memory();
    let result = match cli.command {
        Command::Data(args) => data::data(&args),
        Command::New(args) => new::new(&args),
        Command::Train(args) => train::train(args),
        Command::Sample(args) => sample::sample(*args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::serve(args),
        Command::Eval(args) => eval::eval(*args),
        Command::FitSampler(args) => fit_sampler::fit_sampler(&args),
        Command::Report(args) => report::report(&args),
        Command::Info(args) => info::info(&args),
        Command::Schedulers(args) => schedulers::schedulers(&args),
        Command::Average(args) => average::average(&args),
        Command::Push(args) => push::push(args),
        Command::Convert(args) => convert::convert(args),
        Command::Schema(args) => schema::schema(&args),
        Command::Completions(args) => completions::completions(&args, command(program::NAME)),
        Command::Man(args) => man::man(&args, command(program::NAME)),
    };
    result.unwrap_or_else(|error| failure::show(&error))
}
