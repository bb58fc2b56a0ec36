//! What this machine offers, and what a training here would use.

use std::process::ExitCode;

use crate::machine;

pub(crate) fn run() -> crate::Result {
    let threads = std::thread::available_parallelism()?;
    println!("processor:  {}, {threads} threads", std::env::consts::ARCH);
    println!("vectors:    {} (chosen at run time)", machine::vector_instructions());
    let cards = machine::cards();
    match cards.as_slice() {
        [] => println!("CUDA card:  none that the driver shows"),
        cards => cards.iter().for_each(|card| println!("CUDA card:  {card}")),
    }
    match machine::nvcc() {
        Some(nvcc) => println!("CUDA build: {}", nvcc.display()),
        None => println!("CUDA build: no nvcc; install the CUDA toolkit or set CUDA_HOME to build for a card"),
    }
    if !cards.is_empty() && machine::nvcc().is_none() {
        println!("            a card is there but cannot be built for: trainings run on the processor");
    }
    let features = machine::features();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    println!("`cargo xtask train` builds in release mode with the features: {features}");
    Ok(ExitCode::SUCCESS)
}
