use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use kakusan::candle::Device;
use kakusan::ops::{CudaCard, describe_cuda};
use kakusan::pipeline::{DeviceChoice, Registry, Result};
use kakusan::report::thousands;
use kakusan::scheduler::to_json;

use crate::machine::MachineArgs;
use crate::number::whole;
use crate::terminal::say;

#[derive(Args)]
pub(crate) struct InfoArgs {
    /// The folder of a run or a saved pipeline, or owner/name on the Hub [default: describe this program and machine]
    #[arg(value_name = "DIR|owner/name", value_parser = NonEmptyStringValueParser::new())]
    model: Option<String>,
    /// Fail if the model's files have unknown content, instead of printing a warning
    #[arg(long, requires = "model")]
    strict: bool,
    /// Describe a run's checkpoint of step N instead of its finished model or newest checkpoint
    #[arg(long, value_name = "N", requires = "model", allow_hyphen_values = true, value_parser = whole(0..=usize::MAX))]
    checkpoint: Option<usize>,
    /// Also list every tensor with its shape
    #[arg(long, requires = "model")]
    tensors: bool,
}

pub(crate) fn info(args: &InfoArgs) -> Result<ExitCode> {
    match &args.model {
        Some(model) => about_model(model, args)?,
        None => about_machine()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn about_model(model: &str, args: &InfoArgs) -> Result<()> {
    let pipeline = crate::sampling::load(model, args.checkpoint, args.strict, &Registry::default(), &Device::Cpu)?;
    let config = pipeline.model_config();
    let count = pipeline.weights().parameter_count();
    say(&format!("{model}: {} with {}", config.class_name(), pipeline.scheduler().class_name()));
    let size = match pipeline.sample_shape() {
        Ok([channels, height, width]) => format!("images of {channels} x {height} x {width}"),
        Err(_) => "images of any size".to_owned(), // the configuration does not fix the size
    };
    let mebibytes = (count * 4) as f64 / f64::from(1 << 20);
    say(&format!("{size}, {} parameters, {mebibytes:.1} MiB of weights", thousands(count)));
    for submodule in config.submodules()? {
        let class = submodule.class_name.unwrap_or_default();
        say(&format!("  {:20} {:24} {:>12}", submodule.name, class, thousands(submodule.parameters)));
    }
    if !pipeline.labels().names().is_empty() {
        let classes = pipeline.labels().by_class().into_iter().map(|(name, labels)| match labels[..] {
            [first, .., last] => format!("{first} to {last} {name}"),
            _ => format!("{} {name}", labels[0]),
        });
        say(&format!("classes: {}", classes.collect::<Vec<_>>().join(", ")));
    }
    if args.tensors {
        for (name, var) in pipeline.weights().iter() {
            say(&format!("  {name:56} {:?}", var.dims()));
        }
    }
    say(&format!("config.json\n{}", config.to_json().trim_end()));
    say(&format!("scheduler_config.json\n{}", to_json(pipeline.scheduler()).trim_end()));
    Ok(())
}

fn about_card(card: &CudaCard) -> String {
    let [memory, free] = [card.memory, card.free_memory].map(|bytes| bytes as f64 / f64::from(1 << 30));
    let ((major, minor), cuda) = (card.capability, card.driver_cuda);
    let driver = std::fs::read_to_string("/sys/module/nvidia/version").unwrap_or_default(); // on Linux
    format!(
        "{}, {memory:.1} GiB of memory ({free:.1} free), compute capability {major}.{minor}, driver {}(CUDA {}.{})",
        card.name,
        driver.split_whitespace().next().map_or_else(String::new, |version| format!("{version} ")),
        cuda / 1000,
        cuda % 1000 / 10,
    )
}

fn about_machine() -> Result<()> {
    MachineArgs::default().apply()?; // the same defaults as in the other commands
    say(concat!("kakusan ", env!("CARGO_PKG_VERSION")));
    say(&format!("threads: {}", rayon::current_num_threads()));
    say(&format!("vectors: {}", kakusan::ops::vectors()));
    let card = DeviceChoice::Cuda(0).open().and_then(|opened| Ok(describe_cuda(&opened.device)?));
    let card = match card {
        Ok(Some(card)) => format!("cuda:0 is {}", about_card(&card)),
        Ok(None) => "no card".to_owned(),
        Err(e) => e.to_string(),
    };
    say(&format!("CUDA: {card}"));
    let registry = Registry::default();
    say(&format!("schedulers: {}", registry.schedulers.class_names().join(", ")));
    say(&format!("models: {}", registry.models.class_names().join(", ")));
    Ok(())
}
