//! The contract of [`Scheduler`], as checks that any implementation can run in its own tests.
//!
//! ```
//! use kakusan_scheduler::{LinearMixScheduler, Registry, conformance};
//!
//! conformance::check(&LinearMixScheduler::default(), &Registry::default()).unwrap();
//! ```

use candle_core::{DType, Device, Tensor};
use kakusan_rng::Generator;

use crate::{Draw, Error, Registry, Result, Scheduler, to_json};

const SHAPE: [usize; 4] = [4, 1, 6, 5];

/// Checks `scheduler` against the contract of its trait: shapes, determinism, independence of the images of a batch and
/// of runs from each other, training and sampling that fit together, refusal of misuse, and that `registry` rebuilds
/// it from what it saves.
///
/// # Errors
/// A sentence that says which rule is broken, the first one found.
pub fn check(scheduler: &dyn Scheduler, registry: &Registry) -> std::result::Result<(), String> {
    let name = scheduler.class_name();
    for (rule, test) in RULES {
        match test(scheduler, registry) {
            Ok(true) => {}
            Ok(false) => return Err(format!("{name} breaks the rule: {rule}")),
            Err(e) => return Err(format!("{name}, checked for the rule: {rule}: {e}")),
        }
    }
    Ok(())
}

type Rule = (&'static str, fn(&dyn Scheduler, &Registry) -> Result<bool>);

const RULES: &[Rule] = &[
    ("its class is registered, and what it saves builds an equal scheduler", saves_and_loads),
    ("draw gives finite noise of the batch's shape and one finite level an image", draws_fit),
    ("the same generator state draws the same, another seed draws something else", draws_are_seeded),
    ("add_noise and target keep the shape and treat each image by itself", images_are_independent),
    ("the loss weights, where given, are one finite number of at least 0 an image", weights_fit),
    ("tensors that do not belong together are refused", wrong_shapes_are_refused),
    (
        "a run of every number of steps of inference_steps has one finite level for each model call, ends after the last \
      with finite images, and then refuses to step",
        runs_end,
    ),
    ("zero steps, and fewer than inference_steps says, are refused as a number of steps", too_few_steps_are_refused),
    ("runs from the same seed are equal, also when stepped in turns", runs_are_independent),
    ("alpha_sigmas, where given, has one for each model call, which alpha_sigma repeats", levels_of_calls_fit),
    ("what a run says of the clean image before a step, where it does, is what the step gives", predictions_fit_steps),
    ("given the perfect model output, pred_original_sample is the clean image", perfect_outputs_give_the_image),
    (
        "at both ends of the levels pred_original_sample is finite, and the clean image where noisy image or output tells of it",
        ends_are_finite,
    ),
    ("given the perfect model output, a step's pred_original_sample is the clean image", training_fits_sampling),
];

fn saves_and_loads(scheduler: &dyn Scheduler, registry: &Registry) -> Result<bool> {
    let text = to_json(scheduler);
    let again = registry.from_json(&text)?;
    Ok(again.class_name() == scheduler.class_name() && to_json(again.as_ref()) == text)
}

fn draws_fit(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let draw = scheduler.process().draw(&clean(scheduler)?, &mut Generator::new(1))?;
    let finite_levels = draw.levels.len() == SHAPE[0] && draw.levels.iter().all(|level| level.is_finite());
    Ok(draw.noise.dims() == SHAPE && finite_levels && finite(&draw.noise)?)
}

fn draws_are_seeded(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let (process, clean) = (scheduler.process(), clean(scheduler)?);
    let one = process.draw(&clean, &mut Generator::new(1))?;
    let same = process.draw(&clean, &mut Generator::new(1))?;
    let other = process.draw(&clean, &mut Generator::new(2))?;
    let equal = values(&one.noise)? == values(&same.noise)? && one.levels == same.levels;
    Ok(equal && values(&one.noise)? != values(&other.noise)?)
}

fn images_are_independent(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let (process, clean) = (scheduler.process(), clean(scheduler)?);
    let Draw { noise, levels } = process.draw(&clean, &mut Generator::new(3))?;
    let noisy = process.add_noise(&clean, &noise, &levels)?;
    let target = process.target(&clean, &noise, &levels)?;
    let mut right = noisy.dims() == SHAPE && target.dims() == SHAPE;
    for i in 0..SHAPE[0] {
        let (one, level) = (|t: &Tensor| t.narrow(0, i, 1), &levels[i..=i]);
        let alone = process.add_noise(&one(&clean)?, &one(&noise)?, level)?;
        right &= close(&alone, &one(&noisy)?, 1e-6)?;
        let alone = process.target(&one(&clean)?, &one(&noise)?, level)?;
        right &= close(&alone, &one(&target)?, 1e-6)?;
    }
    Ok(right)
}

fn weights_fit(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let process = scheduler.process();
    let draw = process.draw(&clean(scheduler)?, &mut Generator::new(4))?;
    let fit = |w: Vec<f32>| w.len() == SHAPE[0] && w.iter().all(|&w| w.is_finite() && w >= 0.0);
    Ok(process.loss_weight(&draw.levels).is_none_or(fit))
}

fn wrong_shapes_are_refused(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let (process, clean) = (scheduler.process(), clean(scheduler)?);
    let Draw { noise, levels } = process.draw(&clean, &mut Generator::new(5))?;
    let (short_noise, short_levels) = (noise.narrow(3, 0, 2)?, &levels[..2]);
    let mut run = scheduler.run(possible(scheduler, 5))?;
    Ok(process.add_noise(&clean, &short_noise, &levels).is_err()
        && process.add_noise(&clean, &noise, short_levels).is_err()
        && run.step(&short_noise, &clean, &mut Generator::new(0)).is_err())
}

/// The number of steps next to `steps` that the scheduler can do.
fn possible(scheduler: &dyn Scheduler, steps: usize) -> usize {
    let range = scheduler.inference_steps();
    steps.min(*range.end()).max(*range.start())
}

fn runs_end(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let (process, clean) = (scheduler.process(), clean(scheduler)?);
    let noise = process.draw(&clean, &mut Generator::new(6))?.noise;
    for steps in [1, 2, 5, 40] {
        let mut rng = Generator::new(6);
        let mut run = scheduler.run(possible(scheduler, steps))?;
        let timesteps = run.timesteps().to_vec();
        let mut x = run.initial_noise(&SHAPE, &Device::Cpu, &mut rng)?;
        let mut seen = vec![];
        while let Some(timestep) = run.timestep() {
            seen.push(timestep);
            if seen.len() > timesteps.len() {
                return Ok(false);
            }
            let output = process.target(&clean, &noise, &[timestep; SHAPE[0]])?;
            x = run.step(&output, &x, &mut rng)?.prev_sample;
        }
        let over = run.step(&x, &x, &mut rng).is_err();
        let right = seen == timesteps && !seen.is_empty() && seen.iter().all(|l| l.is_finite());
        if !(over && right && x.dims() == SHAPE && finite(&x)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn too_few_steps_are_refused(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let refused = |steps| matches!(scheduler.run(steps), Err(Error::Steps { .. }));
    let fewest = *scheduler.inference_steps().start();
    Ok(fewest > 0 && fewest <= *scheduler.inference_steps().end() && refused(0) && refused(fewest - 1))
}

fn runs_are_independent(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let begin = || -> Result<_> {
        let (mut rng, run) = (Generator::new(7), scheduler.run(possible(scheduler, 5))?);
        let x = run.initial_noise(&SHAPE, &Device::Cpu, &mut rng)?;
        Ok((run, x, rng))
    };
    let (mut run_a, mut a, mut rng_a) = begin()?;
    let (mut run_b, mut b, mut rng_b) = begin()?;
    while run_a.timestep().is_some() {
        a = run_a.step(&a.affine(0.5, 0.1)?, &a, &mut rng_a)?.prev_sample;
        b = run_b.step(&b.affine(0.5, 0.1)?, &b, &mut rng_b)?.prev_sample;
    }
    let (mut run_c, mut c, mut rng_c) = begin()?;
    while run_c.timestep().is_some() {
        c = run_c.step(&c.affine(0.5, 0.1)?, &c, &mut rng_c)?.prev_sample;
    }
    Ok(values(&a)? == values(&b)? && values(&a)? == values(&c)?)
}

fn levels_of_calls_fit(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let (mut rng, mut run) = (Generator::new(12), scheduler.run(possible(scheduler, 5))?);
    let Some(known) = run.alpha_sigmas() else { return Ok(true) };
    let mut right = known.len() == run.timesteps().len();
    let mut x = run.initial_noise(&SHAPE, &Device::Cpu, &mut rng)?;
    while run.timestep().is_some() {
        let index = run.steps().index()?;
        right &= run.alpha_sigma().is_ok_and(|own| known.get(index) == Some(&own));
        x = run.step(&x.affine(0.5, 0.1)?, &x, &mut rng)?.prev_sample;
    }
    Ok(right)
}

fn predictions_fit_steps(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let (mut rng, mut run) = (Generator::new(13), scheduler.run(possible(scheduler, 5))?);
    let mut x = run.initial_noise(&SHAPE, &Device::Cpu, &mut rng)?;
    while run.timestep().is_some() {
        let output = x.affine(0.5, 0.1)?;
        let before = run.pred_original_sample(&output, &x);
        let step = run.step(&output, &x, &mut rng)?;
        match before {
            Ok(before) if values(&before)? != values(&step.pred_original_sample)? => return Ok(false),
            Err(error) if !matches!(error, Error::Unsupported { .. }) => return Err(error),
            _ => x = step.prev_sample,
        }
    }
    Ok(true)
}

fn perfect_outputs_give_the_image(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let (process, clean) = (scheduler.process(), clean(scheduler)?);
    let Draw { noise, levels } = process.draw(&clean, &mut Generator::new(9))?;
    let noisy = process.add_noise(&clean, &noise, &levels)?;
    let output = process.target(&clean, &noise, &levels)?;
    close(&process.pred_original_sample(&output, &noisy, &levels)?, &clean, 1e-2)
}

fn ends_are_finite(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    // the levels of many draws and of a long run, and 0, which is an end of most scales; what is no level is refused
    let process = scheduler.process();
    let many = Tensor::zeros((1000, 1, 1, 1), DType::F32, &Device::Cpu)?;
    let mut levels = process.draw(&many, &mut Generator::new(10))?.levels;
    levels.extend(scheduler.run(possible(scheduler, 1000))?.timesteps());
    let (lowest, highest) = levels.iter().fold((f32::MAX, f32::MIN), |(low, high), &l| (low.min(l), high.max(l)));
    let clean = clean(scheduler)?;
    let noise = process.draw(&clean, &mut Generator::new(11))?.noise;
    for level in [lowest, highest, 0.0] {
        let levels = [level; SHAPE[0]];
        let Ok(noisy) = process.add_noise(&clean, &noise, &levels) else { continue };
        let image = process.pred_original_sample(&clean.affine(0.5, 0.1)?, &noisy, &levels)?;
        let output = process.target(&clean, &noise, &levels)?;
        let zeros = clean.zeros_like()?;
        let unknown = values(&noisy)? == values(&process.add_noise(&zeros, &noise, &levels)?)?
            && values(&output)? == values(&process.target(&zeros, &noise, &levels)?)?;
        let exact = unknown || !finite(&output)? || {
            // of numbers as large as the noise nothing is left behind the seventh digit
            let largest = values(&noisy)?.into_iter().fold(1f32, |most, value| most.max(value.abs()));
            let tolerance = 1e-2f32.max(1e-6 * largest);
            close(&process.pred_original_sample(&output, &noisy, &levels)?, &clean, tolerance)?
        };
        if !(finite(&image)? && exact) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn training_fits_sampling(scheduler: &dyn Scheduler, _: &Registry) -> Result<bool> {
    let (process, clean) = (scheduler.process(), clean(scheduler)?);
    let noise = process.draw(&clean, &mut Generator::new(8))?.noise;
    let run = scheduler.run(possible(scheduler, 10))?;
    let (Some(level), Some(last)) = (run.timestep(), run.timesteps().last()) else { return Ok(false) };
    let levels = [level; SHAPE[0]];
    let output = process.target(&clean, &noise, &levels)?;
    let fits = |noisy: Tensor| -> Result<bool> {
        let step = scheduler.run(possible(scheduler, 10))?.step(&output, &noisy, &mut Generator::new(9))?;
        close(&step.pred_original_sample, &clean, 1e-2)
    };
    match (run.add_noise(&clean, &noise), process.add_noise(&clean, &noise, &levels)) {
        (Err(Error::Unsupported { .. }), trained) => fits(trained?),
        // the levels of an inversion, which ascend or of which there is one alone, are those that its steps lead to
        (by_run, Ok(trained)) if level >= *last && run.timesteps().len() > 1 => Ok(fits(by_run?)? && fits(trained)?),
        (by_run, _) => fits(by_run?),
    }
}

/// Images in the scheduler's own range, away from its ends so that clipping does not touch them.
fn clean(scheduler: &dyn Scheduler) -> Result<Tensor> {
    let unit = Generator::new(0).uniform(SHAPE.iter().product(), 0.2, 0.8);
    let unit = Tensor::from_vec(unit, &SHAPE, &Device::Cpu)?;
    scheduler.process().pixel_range().from_unit(&unit)
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

fn finite(tensor: &Tensor) -> Result<bool> {
    Ok(values(tensor)?.iter().all(|v| v.is_finite()))
}

fn close(a: &Tensor, b: &Tensor, tolerance: f32) -> Result<bool> {
    let (a, b) = (values(a)?, values(b)?);
    Ok(a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= tolerance))
}
