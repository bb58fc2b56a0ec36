//! The numbers that diffusers' own tests expect of DDIM, PNDM and the samplers after k-diffusion, at 1e-4; what they
//! refuse, and where they differ from diffusers
//! (`test_scheduler_{ddim,ddim_inverse,pndm,lms,euler_ancestral,heun,kdpm2_*}.py`).

mod fixtures;

use candle_core::{Device, Tensor};
use fixtures::{TestResult, assert_sum_mean, full_loop, noise, sample, scheduler};
use kakusan_rng::{Generator, PerImage};
use kakusan_scheduler::{Churn, Run, RunOptions, conformance};
use serde_json::{Value, json};

const TWO: &[&str] = &["epsilon", "v_prediction"];
const THREE: &[&str] = &["epsilon", "sample", "v_prediction"];
/// The classes of this family, and what their models may predict.
const CLASSES: [(&str, &[&str]); 9] = [
    ("DDIMScheduler", THREE),
    ("DDIMInverseScheduler", THREE),
    ("PNDMScheduler", TWO),
    ("LMSDiscreteScheduler", THREE),
    ("EulerAncestralDiscreteScheduler", TWO),
    ("HeunDiscreteScheduler", THREE),
    ("KDPM2DiscreteScheduler", TWO),
    ("KDPM2AncestralDiscreteScheduler", TWO),
    ("DPMSolverSDEScheduler", TWO),
];

/// A class's `test_full_loop_*` in 10 steps: the sum of the absolute values.
fn assert_full_loop(class_name: &str, config: Value, sum: f64) -> TestResult {
    let mut run = scheduler(class_name, config)?.run(10)?;
    let x = full_loop(run.as_mut(), sample(), false)?;
    assert_sum_mean(&x, sum, sum / 768.0);
    Ok(())
}

#[test]
fn ddim() -> TestResult {
    let class_name = "DDIMScheduler";
    assert_full_loop(class_name, json!({}), 172.006714)?;
    assert_full_loop(class_name, json!({"prediction_type": "v_prediction"}), 52.530201)?;
    assert_full_loop(class_name, json!({"set_alpha_to_one": true, "beta_start": 0.01}), 149.829453)?;
    assert_full_loop(class_name, json!({"set_alpha_to_one": false, "beta_start": 0.01}), 149.078415)?;
    let mut run = scheduler(class_name, json!({}))?.run_with(&RunOptions { start: 8, ..RunOptions::steps(10) })?;
    let x = run.add_noise(&sample(), &noise())?;
    assert_sum_mean(&full_loop(run.as_mut(), x, false)?, 354.541809, 0.461642981);
    let run = scheduler(class_name, json!({"steps_offset": 1}))?.run(5)?;
    assert_eq!(run.timesteps(), [801.0, 601.0, 401.0, 201.0, 1.0]);
    Ok(())
}

#[test]
fn ddim_variance() -> TestResult {
    // (steps, how many of them before t, the variance from t to the next)
    for (steps, start, variance) in
        [(50, 28, 0.14771), (50, 0, 0.32460), (1000, 512, 0.00979), (1000, 0, 0.02), (1000, 999, 0.0)]
    {
        let options = RunOptions { start, eta: Some(1.0), ..RunOptions::steps(steps) };
        let mut run = scheduler("DDIMScheduler", json!({}))?.run_with(&options)?;
        let nothing = sample().zeros_like()?; // of which only the new noise is left
        let step = run.step(&nothing, &nothing, &mut Generator::new(0))?;
        let noise = Generator::new(0).randn(768)[0];
        let ours = (step.prev_sample.flatten_all()?.to_vec1::<f32>()?[0] / noise).powi(2);
        assert!((ours - variance).abs() < 1e-5, "{ours} instead of {variance}");
    }
    Ok(())
}

#[test]
fn ddim_inverse() -> TestResult {
    let class_name = "DDIMInverseScheduler";
    assert_full_loop(class_name, json!({}), 671.681641)?;
    assert_full_loop(class_name, json!({"prediction_type": "v_prediction"}), 1394.21851)?;
    assert_full_loop(class_name, json!({"set_alpha_to_one": true, "beta_start": 0.01}), 539.962158)?;
    assert_full_loop(class_name, json!({"set_alpha_to_one": false, "beta_start": 0.01}), 542.67218)?;
    let run = scheduler(class_name, json!({"steps_offset": 1}))?.run(5)?;
    assert_eq!(run.timesteps(), [1.0, 201.0, 401.0, 601.0, 801.0]);
    Ok(())
}

#[test]
fn ddim_inverse_is_undone_by_ddim() -> TestResult {
    let config = json!({"clip_sample": false});
    let (mut there, mut back) =
        (scheduler("DDIMInverseScheduler", config.clone())?.run(10)?, scheduler("DDIMScheduler", config)?.run(10)?);
    let (mut x, output, mut rng) = (sample(), noise(), Generator::new(0));
    for run in [&mut there, &mut back] {
        while run.timestep().is_some() {
            x = run.step(&output, &x, &mut rng)?.prev_sample;
        }
    }
    let error = (x - sample())?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(error < 1e-3, "{error}");
    Ok(())
}

#[test]
fn ddim_inverse_does_not_take_noise_for_an_images() -> TestResult {
    // diffusers divides by 0
    let config = |one| json!({"prediction_type": "sample", "set_alpha_to_one": one});
    let error = scheduler("DDIMInverseScheduler", config(true))?.run(10).unwrap_err();
    assert!(error.to_string().contains("set set_alpha_to_one to false"), "{error}");
    assert!(scheduler("DDIMInverseScheduler", config(false))?.run(10).is_ok());
    Ok(())
}

#[test]
fn pndm() -> TestResult {
    let class_name = "PNDMScheduler";
    assert_full_loop(class_name, json!({}), 198.131897)?;
    assert_full_loop(class_name, json!({"prediction_type": "v_prediction"}), 67.3986206)?;
    assert_full_loop(class_name, json!({"set_alpha_to_one": true, "beta_start": 0.01}), 230.034454)?;
    assert_full_loop(class_name, json!({"set_alpha_to_one": false, "beta_start": 0.01}), 186.942123)?;
    let run = scheduler(class_name, json!({"steps_offset": 1}))?.run(10)?;
    let prk = [901, 851, 851, 801, 801, 751, 751, 701, 701, 651, 651, 601].into_iter();
    let timesteps: Vec<f32> = prk.chain([601, 501, 401, 301, 201, 101, 1]).map(|t| t as f32).collect();
    assert_eq!(run.timesteps(), timesteps);
    Ok(())
}

#[test]
fn pndm_begins_anew_where_it_begins() -> TestResult {
    // with the true noise every step is exact, so that what is left is the image at the first timestep
    for (skip, start) in [(true, 0), (true, 1), (true, 7), (true, 9), (false, 0), (false, 3), (false, 6)] {
        let options = RunOptions { start, ..RunOptions::steps(10) };
        let mut run = scheduler("PNDMScheduler", json!({"skip_prk_steps": skip}))?.run_with(&options)?;
        assert_eq!(run.timestep(), Some(900.0 - 100.0 * start as f32));
        let mut x = run.add_noise(&sample(), &noise())?;
        while run.timestep().is_some() {
            x = run.step(&noise(), &x, &mut Generator::new(0))?.prev_sample;
        }
        let expected = ((sample() * 0.9999f64.sqrt())? + (noise() * 0.0001f64.sqrt())?)?;
        let error = (x - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(error < 1e-3, "skip_prk_steps {skip}, start {start}: {error}");
    }
    Ok(())
}

/// diffusers' tests of the samplers in σ give the scaled input to `step`, at their betas from 0.0001 to 0.02.
fn assert_k(class_name: &str, config: Value, start: usize, sum: f64) -> TestResult {
    let mut all = json!({"num_train_timesteps": 1100, "beta_start": 0.0001, "beta_end": 0.02});
    all.as_object_mut().ok_or("no object")?.extend(config.as_object().cloned().unwrap_or_default());
    let mut run = scheduler(class_name, all)?.run_with(&RunOptions { start, ..RunOptions::steps(10) })?;
    let x = sample().affine(run.init_noise_sigma().into(), 0.0)?;
    let x = if start == 0 { x } else { run.add_noise(&x, &noise())? };
    assert_sum_mean(&full_loop(run.as_mut(), x, true)?, sum, sum / 768.0);
    Ok(())
}

#[test]
fn lms() -> TestResult {
    assert_k("LMSDiscreteScheduler", json!({}), 0, 1006.38806)?;
    assert_k("LMSDiscreteScheduler", json!({"use_karras_sigmas": true}), 0, 3812.99292)?;
    assert_k("LMSDiscreteScheduler", json!({}), 8, 27663.6895)
}

#[test]
fn euler_ancestral() -> TestResult {
    let class_name = "EulerAncestralDiscreteScheduler";
    assert_k(class_name, json!({}), 0, 152.31929)?;
    assert_k(class_name, json!({"prediction_type": "v_prediction"}), 0, 108.443893)?;
    assert_k(class_name, json!({}), 8, 56163.0508)
}

#[test]
fn heun() -> TestResult {
    assert_k("HeunDiscreteScheduler", json!({}), 0, 0.123330742)?;
    assert_k("HeunDiscreteScheduler", json!({}), 8, 75074.8906)
}

#[test]
fn kdpm2() -> TestResult {
    assert_k("KDPM2DiscreteScheduler", json!({}), 0, 20.412487)?;
    assert_k("KDPM2DiscreteScheduler", json!({}), 8, 70408.4062)
}

#[test]
fn kdpm2_ancestral() -> TestResult {
    let class_name = "KDPM2AncestralDiscreteScheduler";
    assert_k(class_name, json!({}), 0, 13979.9443)?;
    assert_k(class_name, json!({"prediction_type": "v_prediction"}), 0, 331.813324)?;
    assert_k(class_name, json!({}), 8, 93087.3438)
}

#[test]
fn the_contract_is_kept() -> TestResult {
    for (class_name, prediction_types) in CLASSES {
        for prediction_type in prediction_types {
            let mut config = json!({"prediction_type": prediction_type});
            if class_name == "DDIMInverseScheduler" {
                config["set_alpha_to_one"] = json!(false);
            }
            conformance::check(scheduler(class_name, config)?.as_ref(), &Default::default())?;
        }
        for refused in ["sample", "flow_prediction"].iter().filter(|one| !prediction_types.contains(*one)) {
            let error = scheduler(class_name, json!({"prediction_type": refused})).unwrap_err();
            assert!(error.to_string().contains("it has no use for prediction_type"), "{error}");
        }
    }
    Ok(())
}

#[test]
fn impossible_runs_say_which_are_possible() -> TestResult {
    let error = |class_name: &str, config: Value, options: RunOptions| -> TestResult<String> {
        Ok(scheduler(class_name, config)?.run_with(&options).unwrap_err().to_string())
    };
    let steps = RunOptions::steps;
    let error_of_pndm = error("PNDMScheduler", json!({}), steps(3))?;
    assert!(error_of_pndm.contains("need at least 4 to go on from, and there are 3; skip_prk_steps does without"));
    assert!(error("PNDMScheduler", json!({}), RunOptions { start: 7, ..steps(10) })?.contains("and there are 3"));
    assert!(error("PNDMScheduler", json!({}), RunOptions { start: 10, ..steps(10) })?.contains("to be left out"));
    for eta in [-0.1, 1.1, f64::NAN] {
        let options = RunOptions { eta: Some(eta), ..steps(10) };
        assert!(error("DDIMScheduler", json!({}), options)?.contains("`eta` is"));
    }
    for order in [0, 21, usize::MAX] {
        let options = RunOptions { order: Some(order), ..steps(10) };
        assert!(
            error("LMSDiscreteScheduler", json!({}), options)?.contains("at least 1, Euler's method, and at most 20")
        );
    }
    let options = RunOptions::timesteps([900.0, 100.0]);
    assert!(
        error("HeunDiscreteScheduler", json!({"use_beta_sigmas": true}), options)?.contains("leave out use_*_sigmas")
    );
    let options = RunOptions { start: 10, ..steps(10) };
    assert!(error("HeunDiscreteScheduler", json!({}), options)?.contains("in 10 steps: 10 of them are to be left out"));
    let churn = Some(Churn { s_churn: 1.0, ..Churn::default() });
    assert!(error("DPMSolverSDEScheduler", json!({}), RunOptions { churn, ..steps(10) })?.contains("takes s_noise"));
    let error = scheduler("DDIMInverseScheduler", json!({"timestep_spacing": "linspace"})).unwrap_err();
    assert!(error.to_string().contains("no timestep_spacing linspace"));
    let both = json!({"use_karras_sigmas": true, "use_beta_sigmas": true});
    assert!(scheduler("KDPM2DiscreteScheduler", both).unwrap_err().to_string().contains("only one of"));
    Ok(())
}

#[test]
fn trailing_timesteps_are_those_of_numpys_arange() -> TestResult {
    for class_name in ["DDIMScheduler", "LMSDiscreteScheduler"] {
        let run = scheduler(class_name, json!({"timestep_spacing": "trailing"}))?.run(61)?;
        assert_eq!((run.timesteps().len(), &run.timesteps()[60..]), (62, &[15.0, -1.0][..]));
    }
    Ok(())
}

/// Samples with the perfect model of images that are standard normal noise themselves.
fn sample_normal(run: &mut dyn Run, shape: [usize; 4], seeds: [u64; 2]) -> TestResult<Vec<f32>> {
    let mut x = run.initial_noise(&shape, &Device::Cpu, &mut Generator::new(seeds[0]))?;
    let mut rng = Generator::new(seeds[1]);
    while run.timestep().is_some() {
        let one = Tensor::ones(1, candle_core::DType::F32, &Device::Cpu)?;
        let scale = f64::from(run.scale_model_input(&one)?.to_vec1::<f32>()?[0]); // 1 / sqrt(σ² + 1)
        let sigma = (1.0 / (scale * scale) - 1.0).max(0.0).sqrt();
        let epsilon = x.affine(sigma * scale * scale, 0.0)?;
        x = run.step(&epsilon, &x, &mut rng)?.prev_sample;
    }
    Ok(x.flatten_all()?.to_vec1()?)
}

fn covariance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>() / a.len() as f32
}

#[test]
fn stochastic_samplers_sample_the_distribution() -> TestResult {
    for (class_name, steps, config) in [
        ("EulerAncestralDiscreteScheduler", 300, json!({})), // of first order
        ("KDPM2AncestralDiscreteScheduler", 60, json!({})),
        // from whose highest level diffusers' steps to NaN
        ("KDPM2AncestralDiscreteScheduler", 60, json!({"beta_schedule": "squaredcos_cap_v2"})),
        ("DPMSolverSDEScheduler", 60, json!({})),
        ("DPMSolverSDEScheduler", 60, json!({"use_karras_sigmas": true})),
    ] {
        let mut run = scheduler(class_name, config.clone())?.run(steps)?;
        let x = sample_normal(run.as_mut(), [4, 1, 32, 32], [0, 1])?;
        let variance = covariance(&x, &x);
        assert!((variance - 1.0).abs() < 0.08, "{class_name} {config}: variance {variance}");
    }
    Ok(())
}

#[test]
fn the_sde_follows_one_motion_in_any_number_of_steps() -> TestResult {
    let shape = [4, 1, 16, 16];
    let of = |steps: usize, config: Value, seed: u64| -> TestResult<Vec<f32>> {
        sample_normal(scheduler("DPMSolverSDEScheduler", config)?.run(steps)?.as_mut(), shape, [0, seed])
    };
    let few = of(50, json!({}), 1)?;
    let many = of(150, json!({}), 1)?;
    let other = of(150, json!({}), 2)?;
    let correlation = |a: &[f32], b: &[f32]| covariance(a, b) / (covariance(a, a) * covariance(b, b)).sqrt();
    assert!(correlation(&few, &many) > 0.95, "{}", correlation(&few, &many));
    assert!(correlation(&few, &other) < 0.5, "{}", correlation(&few, &other));
    // its own seed, whatever the run's
    let seeded = json!({"noise_sampler_seed": 5});
    assert_eq!(of(10, seeded.clone(), 1)?, of(10, seeded, 2)?);
    Ok(())
}

#[test]
fn the_sde_treats_each_image_by_itself() -> TestResult {
    let sde = scheduler("DPMSolverSDEScheduler", json!({}))?;
    let of = |seeds: &[u64]| -> TestResult<Vec<f32>> {
        let (mut run, mut rng) = (sde.run(5)?, PerImage::from_seeds(seeds.iter().copied()));
        let mut x = run.initial_noise(&[seeds.len(), 1, 4, 4], &Device::Cpu, &mut rng)?;
        while run.timestep().is_some() {
            x = run.step(&(&x * 0.01)?, &x, &mut rng)?.prev_sample;
        }
        Ok(x.flatten_all()?.to_vec1()?)
    };
    assert_eq!(of(&[7, 8])?[16..], of(&[8])?);
    Ok(())
}

#[test]
fn odd_tensors_and_schedules_are_no_panic() -> TestResult {
    let go = |class_name: &str, config: &Value, steps: usize, shape: &[usize]| -> TestResult {
        let Ok(scheduler) = scheduler(class_name, config.clone()) else { return Ok(()) };
        let Ok(mut run) = scheduler.run(steps) else { return Ok(()) };
        let x = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu)?;
        for _ in 0..run.timesteps().len() {
            let _ = run.add_noise(&x, &x);
            let _ = run.step(&x, &x, &mut Generator::new(0));
        }
        Ok(())
    };
    for (class_name, _) in CLASSES {
        for shape in [&[0, 1, 2, 2][..], &[2, 0], &[3], &[]] {
            go(class_name, &json!({}), 5, shape)?;
        }
        go("DDIMScheduler", &json!({"thresholding": true}), 5, &[])?;
        for (timesteps, steps) in [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (5, 4)] {
            for (start, end) in [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
                let config = json!({"num_train_timesteps": timesteps, "beta_start": start, "beta_end": end});
                go(class_name, &config, steps, &[1, 1, 2, 2])?;
                if scheduler(class_name, json!({}))?.config().contains_key("use_karras_sigmas") {
                    for conversion in ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"] {
                        let mut config = config.clone();
                        config[conversion] = json!(true);
                        go(class_name, &config, steps, &[1, 1, 2, 2])?;
                    }
                }
            }
        }
    }
    Ok(())
}
