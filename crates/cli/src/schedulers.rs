use std::process::ExitCode;

use clap::Args;
use kakusan::pipeline::Result;
use kakusan::scheduler::{Registry, to_json};
use serde_json::Map;

use crate::terminal::say;

#[derive(Args)]
pub(crate) struct SchedulersArgs {
    /// Show the default configuration of this scheduler
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub(crate) fn schedulers(args: &SchedulersArgs) -> Result<ExitCode> {
    let registry = Registry::default();
    let build = |class_name: &str| registry.build(class_name, &Map::new());
    match &args.name {
        Some(name) => {
            let scheduler = build(registry.resolve(name)?)?;
            say(&format!("{}: {}", scheduler.class_name(), scheduler.summary()));
            say(to_json(scheduler.as_ref()).trim_end());
        }
        None => {
            for class_name in registry.class_names() {
                say(&format!("{class_name:34} {}", build(&class_name)?.summary()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
