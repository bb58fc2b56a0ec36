//! Prints what this machine offers and what a training here would use.

use std::process::ExitCode;

use crate::machine;

pub(crate) fn run() -> crate::Result {
    let threads = std::thread::available_parallelism()?;
    println!("processor:  {}, {threads} threads", std::env::consts::ARCH);
    println!("vectors:    {} (chosen at run time)", machine::vector_instructions());
    let cards = machine::cards();
    match cards.as_slice() {
        [] => println!("CUDA card:  the driver reports none"),
        cards => cards.iter().for_each(|card| println!("CUDA card:  {card}")),
    }
    match machine::nvcc() {
        Some(nvcc) => println!("CUDA build: {}", nvcc.display()),
        None => println!("CUDA build: nvcc not found; to build for a card, install the CUDA toolkit or set CUDA_HOME"),
    }
    if !cards.is_empty() && machine::nvcc().is_none() {
        println!("            there is a card but no nvcc, so trainings run on the processor");
    }
    let features = machine::features();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    println!("`cargo xtask train` builds in release mode with the features: {features}");
    Ok(ExitCode::SUCCESS)
}
