//! A `scheduler_config.json`: saving and reading a scheduler gives the same, and it adds noise and takes some steps.
#![no_main]

use candle_core::{DType, Device, Tensor};
use kakusan_fuzz::allow_memory;
use kakusan_rng::Generator;
use kakusan_scheduler::{Registry, Result, Scheduler, to_json};
use libfuzzer_sys::fuzz_target;

const SHAPE: [usize; 4] = [2, 1, 2, 3];

fuzz_target!(|text: &str| {
    allow_memory(256 << 20);
    let registry = Registry::default();
    let Ok(scheduler) = registry.from_json(text) else { return };
    let saved = to_json(scheduler.as_ref());
    let again = registry.from_json(&saved).expect("a configuration that was saved is read");
    assert_eq!(to_json(again.as_ref()), saved);
    let _ = train(scheduler.as_ref());
    for steps in [1, 2, 7] {
        let _ = sample(scheduler.as_ref(), steps);
    }
});

/// Either may end with an error: the numbers of a strange configuration need not be finite.
fn train(scheduler: &dyn Scheduler) -> Result<()> {
    let clean = Tensor::ones(&SHAPE, DType::F32, &Device::Cpu)?;
    let process = scheduler.process();
    let draw = process.draw(&clean, &mut Generator::new(0))?;
    process.add_noise(&clean, &draw.noise, &draw.levels)?;
    process.target(&clean, &draw.noise, &draw.levels)?;
    process.loss_weight(&draw.levels);
    Ok(())
}

fn sample(scheduler: &dyn Scheduler, steps: usize) -> Result<()> {
    let (mut run, mut rng) = (scheduler.run(steps)?, Generator::new(0));
    let mut x = run.initial_noise(&SHAPE, &Device::Cpu, &mut rng)?;
    for _ in 0..20 {
        let Some(_) = run.timestep() else { break };
        x = run.step(&run.scale_model_input(&x)?, &x, &mut rng)?.prev_sample;
    }
    Ok(())
}
