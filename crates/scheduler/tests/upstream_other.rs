//! The numbers that diffusers' own tests expect of the schedulers that are neither of the k-family nor multistep, at
//! 1e-4, the contract for each of them, and what they refuse.

mod fixtures;

use candle_core::{Device, Tensor};
use fixtures::{TestResult, assert_sum_mean, full_loop, no_configuration_panics, noise, sample, scheduler};
use kakusan_rng::Generator;
use kakusan_scheduler::{
    FlowMatchEulerDiscreteScheduler, RePaintOptions, RePaintScheduler, RunOptions, Scheduler, conformance,
};
use serde_json::{Value, json};

/// A configuration is refused with a message that says this.
fn assert_refused(class_name: &str, config: Value, why: &str) {
    let error = scheduler(class_name, config).unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

fn assert_close(ours: &Tensor, theirs: &Tensor, tolerance: f32) {
    let difference = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(difference <= tolerance, "{difference} apart");
}

fn predictions(types: &[&str]) -> Vec<Value> {
    types.iter().map(|prediction_type| json!({"prediction_type": prediction_type})).collect()
}

fn check_contract(class_name: &str, configs: &[Value]) -> TestResult {
    for config in configs {
        let scheduler = scheduler(class_name, config.clone())?;
        conformance::check(scheduler.as_ref(), &Default::default())?;
        tensors_of_any_shape_do_not_panic(scheduler.as_ref())?;
    }
    Ok(())
}

/// Nothing is expected of them but an answer.
fn tensors_of_any_shape_do_not_panic(scheduler: &dyn Scheduler) -> TestResult {
    for shape in [vec![], vec![0], vec![2], vec![2, 3], vec![0, 1, 3, 3], vec![2, 0, 3, 3], vec![2, 1, 3, 3, 2]] {
        let x = Tensor::zeros(shape.as_slice(), candle_core::DType::F32, &Device::Cpu)?;
        let mut rng = Generator::new(0);
        let process = scheduler.process();
        if let Ok(draw) = process.draw(&x, &mut rng) {
            let _ = process.add_noise(&x, &draw.noise, &draw.levels);
            let _ = process.target(&x, &draw.noise, &draw.levels);
            let _ = process.scale_model_input(&x, &draw.levels);
            let _ = (process.snr(&draw.levels), process.loss_weight(&draw.levels));
        }
        let mut run = scheduler.run(3)?;
        while run.timestep().is_some() {
            let _ =
                (run.add_noise(&x, &x), run.scale_model_input(&x), run.initial_noise(&shape, &Device::Cpu, &mut rng));
            if run.step(&x, &x, &mut rng).is_err() {
                break;
            }
        }
    }
    Ok(())
}

#[test]
fn edm_euler() -> TestResult {
    let config = json!({"num_train_timesteps": 256, "sigma_min": 0.002, "sigma_max": 80.0});
    let mut run = scheduler("EDMEulerScheduler", config)?.run(10)?;
    let x = sample().affine(run.init_noise_sigma().into(), 0.0)?;
    assert_sum_mean(&full_loop(run.as_mut(), x, false)?, 34.1855354, 0.0445124172);

    check_contract("EDMEulerScheduler", &predictions(&["epsilon", "v_prediction"]))?;
    assert_refused("EDMEulerScheduler", json!({"prediction_type": "sample"}), "no use for prediction_type Sample");
    assert_refused("EDMEulerScheduler", json!({"sigma_min": 90.0}), "sigma_min is 90, but sigma_max is 80");
    assert_refused("EDMEulerScheduler", json!({"rho": 0}), "rho is 0");
    assert_refused("EDMEulerScheduler", json!({"sigma_schedule": "lu"}), "`sigma_schedule`: unknown variant");
    Ok(())
}

#[test]
fn edm_takes_noise_levels_for_what_they_are() -> TestResult {
    let edm = scheduler("EDMEulerScheduler", json!({"sigma_schedule": "exponential"}))?;
    let run = edm.run_with(&RunOptions::sigmas([10.0, 1.0, 0.0]))?;
    assert_eq!(run.sigmas(), Some([10.0, 1.0, 0.0].as_slice()));
    assert_eq!(run.timesteps(), [0.25 * 10f32.ln(), 0.0]);
    assert_eq!(edm.run(1)?.sigmas(), Some([80.0, 0.0].as_slice()));
    Ok(())
}

#[test]
fn lcm() -> TestResult {
    for (steps, sum) in [(1, 18.7096786), (10, 197.761642)] {
        let mut run = scheduler("LCMScheduler", json!({}))?.run(steps)?;
        assert_sum_mean(&full_loop(run.as_mut(), sample(), false)?, sum, sum / 768.0);
    }
    check_contract("LCMScheduler", &predictions(&["epsilon", "sample", "v_prediction"]))?;
    assert_refused(
        "LCMScheduler",
        json!({"original_inference_steps": 1001}),
        "between 1 and num_train_timesteps, 1000",
    );
    assert_refused("LCMScheduler", json!({"timestep_scaling": 0}), "timestep_scaling is 0");
    assert_refused("LCMScheduler", json!({"beta_schedule": "sigmoid"}), "no beta_schedule Sigmoid");
    let error = scheduler("LCMScheduler", json!({}))?.run(51).unwrap_err().to_string();
    assert!(error.contains("it can do at most 50"), "{error}");
    let zero_snr = scheduler("LCMScheduler", json!({"rescale_betas_zero_snr": true}))?;
    assert!(zero_snr.run(4).unwrap_err().to_string().contains("train for v_prediction"));
    Ok(())
}

#[test]
fn tcd() -> TestResult {
    let tcd = scheduler("TCDScheduler", json!({}))?;
    for (steps, sum) in [(1, 29.8715363), (10, 181.20401)] {
        let mut run = tcd.run_with(&RunOptions { eta: Some(0.0), ..RunOptions::steps(steps) })?;
        assert_sum_mean(&full_loop(run.as_mut(), sample(), false)?, sum, sum / 768.0);
    }
    check_contract("TCDScheduler", &predictions(&["epsilon", "sample", "v_prediction"]))?;
    assert_refused("TCDScheduler", json!({"original_inference_steps": 0}), "original_inference_steps is 0");
    let error = tcd.run_with(&RunOptions { eta: Some(1.5), ..RunOptions::steps(4) }).unwrap_err().to_string();
    assert_eq!(error, "`eta` is 1.5; it must be between 0 and 1");
    Ok(())
}

#[test]
fn consistency_models() -> TestResult {
    let cm = scheduler("CMStochasticIterativeScheduler", json!({"num_train_timesteps": 201}))?;
    for (options, sum) in [(RunOptions::steps(1), 192.761292), (RunOptions::timesteps([106.0, 0.0]), 347.635651)] {
        let mut run = cm.run_with(&options)?;
        let x = sample().affine(run.init_noise_sigma().into(), 0.0)?;
        assert_sum_mean(&full_loop(run.as_mut(), x, false)?, sum, sum / 768.0);
    }
    let mut run = cm.run_with(&RunOptions { start: 8, ..RunOptions::steps(10) })?;
    let x = sample().affine(run.init_noise_sigma().into(), 0.0)?;
    let x = (x + noise().affine(run.sigmas().ok_or("no sigmas")?[8].into(), 0.0)?)?;
    assert_sum_mean(&full_loop(run.as_mut(), x, false)?, 763.918579, 763.918579 / 768.0);

    let class_name = "CMStochasticIterativeScheduler";
    check_contract(class_name, &[json!({}), json!({"num_train_timesteps": 201, "sigma_data": 1.0})])?;
    assert_refused(class_name, json!({"num_train_timesteps": 1}), "between 2 and");
    assert_refused(class_name, json!({"s_noise": -1}), "s_noise is -1");
    let error = scheduler(class_name, json!({}))?.run(41).unwrap_err().to_string();
    assert!(error.contains("it can do at most 40"), "{error}");
    Ok(())
}

#[test]
fn flow_match_euler() -> TestResult {
    let class_name = "FlowMatchEulerDiscreteScheduler";
    let configs =
        [json!({}), json!({"shift": 3.0}), json!({"invert_sigmas": true}), json!({"stochastic_sampling": true})];
    check_contract(class_name, &configs)?;
    assert_refused(class_name, json!({"shift": 0}), "shift is 0");
    assert_refused(class_name, json!({"shift_terminal": 1.0}), "shift_terminal is 1");
    assert_refused(class_name, json!({"use_karras_sigmas": true, "use_beta_sigmas": true}), "only one of");
    assert_refused(class_name, json!({"time_shift_type": "cubic"}), "`time_shift_type`: unknown variant");

    let dynamic = scheduler(class_name, json!({"use_dynamic_shifting": true, "time_shift_type": "linear"}))?;
    assert!(dynamic.run(4).unwrap_err().to_string().contains("set RunOptions::mu"));
    let error = dynamic.run_with(&RunOptions { mu: Some(-1.0), ..RunOptions::steps(4) }).unwrap_err().to_string();
    assert_eq!(error, "`mu` is -1; it must be a number above 0");
    let error = |config: Value, options: RunOptions| -> TestResult<String> {
        Ok(scheduler(class_name, config)?.run_with(&options).unwrap_err().to_string())
    };
    assert!(error(json!({}), RunOptions { mu: Some(1.0), ..RunOptions::steps(4) })?.contains("no use for `mu`"));
    assert!(error(json!({}), RunOptions::sigmas([1.5, 0.0]))?.contains("1.5 is not between 0 and 1"));
    assert!(error(json!({}), RunOptions::timesteps([10.0, 20.0]))?.contains("have to descend"));
    assert!(error(json!({"shift_terminal": 0.1}), RunOptions::steps(1))?.contains("more would do"));
    let karras = json!({"use_karras_sigmas": true});
    assert!(error(karras, RunOptions::timesteps([10.0, 0.0]))?.contains("down to 0"));
    let flow = FlowMatchEulerDiscreteScheduler::default();
    assert_eq!([256, 4096].map(|patches| flow.mu(patches)), [Some(0.5), Some(1.15)]);
    Ok(())
}

#[test]
fn inverted_flows_lead_to_the_image_whether_stochastic_or_not() -> TestResult {
    // where diffusers takes the share of the image for that of the noise
    let (clean, noise) = (sample(), noise());
    for stochastic in [false, true] {
        let config = json!({"invert_sigmas": true, "stochastic_sampling": stochastic});
        let inverted = scheduler("FlowMatchEulerDiscreteScheduler", config)?;
        let mut run = inverted.run_with(&RunOptions { start: 3, ..RunOptions::steps(5) })?;
        assert!(run.sigmas().is_some_and(|sigmas| sigmas[0] == 0.0 && sigmas.is_sorted() && sigmas[5] == 1.0));
        let mut x = run.add_noise(&clean, &noise)?;
        let sigma = f64::from(run.sigmas().ok_or("no sigmas")?[3]);
        assert_close(&x, &((&clean * sigma)? + (&noise * (1.0 - sigma))?)?, 1e-6);
        let mut rng = Generator::new(0);
        while let Some(level) = run.timestep() {
            // the velocity to the clean image from wherever the sample is
            let velocity = ((&clean - &x)? / (1.0 - f64::from(level) / 1000.0))?;
            x = run.step(&velocity, &x, &mut rng)?.prev_sample;
        }
        assert_close(&x, &clean, 1e-5);
    }
    Ok(())
}

#[test]
fn flow_match_heun() -> TestResult {
    let class_name = "FlowMatchHeunDiscreteScheduler";
    check_contract(class_name, &[json!({}), json!({"shift": 3.0, "num_train_timesteps": 100})])?;
    assert_refused(class_name, json!({"shift": -1}), "shift is -1");
    let heun = scheduler(class_name, json!({}))?;
    assert_eq!(heun.run(4)?.timesteps().len(), 7);
    let error = heun.run_with(&RunOptions { start: 4, ..RunOptions::steps(4) }).unwrap_err().to_string();
    assert!(error.contains("are to be left out"), "{error}");
    Ok(())
}

#[test]
fn unclip() -> TestResult {
    for (steps, sum) in [(1000, 252.26825), (25, 258.204498)] {
        let mut run = scheduler("UnCLIPScheduler", json!({}))?.run(steps)?;
        assert_sum_mean(&full_loop(run.as_mut(), sample(), false)?, sum, sum / 768.0);
    }
    check_contract("UnCLIPScheduler", &predictions(&["epsilon", "sample"]))?;
    assert_refused("UnCLIPScheduler", json!({"prediction_type": "v_prediction"}), "no use for prediction_type");
    assert_refused("UnCLIPScheduler", json!({"variance_type": "fixed_large"}), "no use for variance_type FixedLarge");
    assert_refused("UnCLIPScheduler", json!({"beta_schedule": "linear"}), "no beta_schedule Linear");
    assert_eq!(scheduler("UnCLIPScheduler", json!({}))?.run(1)?.timesteps(), [999.0]);
    Ok(())
}

#[test]
fn repaint() -> TestResult {
    let error = scheduler("RePaintScheduler", json!({}))?.run(10).unwrap_err().to_string();
    assert!(error.contains("RePaintScheduler::repaint_run"), "{error}");
    assert_refused("RePaintScheduler", json!({"eta": 1.5}), "`eta` is 1.5");
    assert_refused("RePaintScheduler", json!({"beta_schedule": "laplace"}), "no beta_schedule Laplace");

    let ddpm = scheduler("DDPMScheduler", json!({"beta_end": 0.01}))?;
    let repaint = RePaintScheduler::from_config(&ddpm.config())?;
    assert_eq!(repaint.config()["beta_end"], 0.01);
    let options = |num_inference_steps, jump_length, jump_n_sample| RePaintOptions {
        num_inference_steps,
        jump_length,
        jump_n_sample,
        eta: None,
    };
    let (image, mask) = (sample(), Tensor::ones((4, 1, 8, 8), candle_core::DType::F32, &Device::Cpu)?);
    let run = |options: &RePaintOptions| repaint.repaint_run(options, &image, &mask);
    // three steps are undone after the one at 0, twice
    let places = [4, 3, 2, 1, 0, 2, 1, 0, 2, 1, 0].map(|place| place as f32 * 200.0);
    assert_eq!(run(&options(5, 3, 3))?.timesteps(), places);
    let error = |options| run(&options).unwrap_err().to_string();
    assert!(error(options(1001, 10, 10)).contains("at most 1000"));
    assert!(error(options(0, 10, 10)).contains("at least one"));
    assert!(error(options(10, 0, 10)).contains("`jump_length` is 0"));
    assert!(error(options(10, 10, 0)).contains("`jump_n_sample` is 0"));
    assert!(error(options(1000, 1, usize::MAX)).contains("model calls"));
    let wide = Tensor::ones((4, 1, 8, 9), candle_core::DType::F32, &Device::Cpu)?;
    let error = repaint.repaint_run(&options(5, 3, 3), &image, &wide).unwrap_err().to_string();
    assert!(error.starts_with("the mask has shape [4, 1, 8, 9]"), "{error}");

    // what is all known comes out as it went in, and the same seed gives the same on the way
    let paint = || -> TestResult<(Tensor, Tensor)> {
        let mut rng = Generator::new(0);
        let mut run = run(&options(5, 3, 3))?;
        let mut x = run.initial_noise(image.dims(), &Device::Cpu, &mut rng)?;
        let mut sum = x.clone();
        while run.timestep().is_some() {
            x = run.step(&x, &x, &mut rng)?.prev_sample;
            sum = (sum + &x)?;
        }
        assert!(run.step(&x, &x, &mut rng).is_err());
        Ok((x, sum))
    };
    assert_close(&paint()?.0, &image, 0.0);
    assert_close(&paint()?.1, &paint()?.1, 0.0);
    assert!(run(&options(5, 3, 3))?.step(&wide, &wide, &mut Generator::new(0)).is_err());
    Ok(())
}

#[test]
fn sde_ve() -> TestResult {
    // diffusers' test sets the noise levels before the timesteps, so that its model is told the first of those for 2000
    // steps
    let ve = scheduler("ScoreSdeVeScheduler", json!({}))?;
    let told = ve.run(2000)?.timesteps().to_vec();
    let (mut run, mut rng, mut x) = (ve.run(3)?, Generator::new(0), sample());
    for level in &told[..6] {
        x = run.step(&fixtures::model(&x, *level), &x, &mut rng)?.prev_sample;
    }
    // it ends with the noise that our last step leaves out, of which nothing is to be seen beside such numbers
    assert_sum_mean(&x, 14372758528.0, 18714530.0);

    let class_name = "ScoreSdeVeScheduler";
    check_contract(
        class_name,
        &[json!({}), json!({"correct_steps": 0}), json!({"correct_steps": 3, "sigma_max": 5.0})],
    )?;
    assert_refused(class_name, json!({"sigma_min": 2000.0}), "sigma_min is 2000, but sigma_max is 1348");
    assert_refused(class_name, json!({"sampling_eps": 1.0}), "sampling_eps is 1");
    assert_refused(class_name, json!({"snr": 0.0}), "snr is 0");
    assert_refused(class_name, json!({"correct_steps": 1_000_000}), "at most 1000");
    // a score of nothing does not make a step of the corrector infinite
    let mut run = scheduler(class_name, json!({}))?.run(3)?;
    let zero = sample().zeros_like()?;
    assert_close(&run.step(&zero, &sample(), &mut Generator::new(0))?.prev_sample, &sample(), 0.0);
    Ok(())
}

#[test]
fn sde_vp() -> TestResult {
    let class_name = "ScoreSdeVpScheduler";
    check_contract(class_name, &[json!({}), json!({"beta_max": 5.5})])?;
    assert_refused(class_name, json!({"beta_max": 0.05}), "β must grow");
    assert_refused(class_name, json!({"sampling_eps": 0}), "sampling_eps is 0");
    Ok(())
}

#[test]
fn karras_ve() -> TestResult {
    let class_name = "KarrasVeScheduler";
    check_contract(class_name, &[json!({}), json!({"sigma_max": 3.5})])?;
    assert_refused(class_name, json!({"sigma_min": 0}), "sigma_min is 0");
    assert_refused(class_name, json!({"s_churn": -1}), "s_churn is -1");
    let karras = scheduler(class_name, json!({}))?;
    let run = karras.run(3)?;
    assert_eq!(run.sigmas().map(|sigmas| sigmas.len()), Some(4));
    let raised = 2.0 * (1.0 + (80.0f32 / 3.0).min(2f32.sqrt() - 1.0)); // the only level between s_min and s_max
    for (level, expected) in run.timesteps().iter().zip([5000.0, 1.0, raised / 2.0, 0.0002, 0.0002]) {
        assert!((level - expected).abs() < 1e-5 * expected, "{:?}", run.timesteps());
    }
    assert_eq!(karras.run(1)?.timesteps(), [5000.0]);
    Ok(())
}

#[test]
fn ipndm() -> TestResult {
    check_contract("IPNDMScheduler", &[json!({}), json!({"num_train_timesteps": 10})])?;
    assert_refused("IPNDMScheduler", json!({"trained_betas": [0.5]}), "trained_betas has 1 numbers");
    assert_refused("IPNDMScheduler", json!({"trained_betas": [1.5, 0.0]}), "trained_betas holds 1.5");
    let trained = scheduler("IPNDMScheduler", json!({"trained_betas": [0.9, 0.5, 0.0]}))?;
    assert!(trained.run(3).unwrap_err().to_string().contains("it can do 2"));
    assert_eq!(trained.run(2)?.timesteps().len(), 2);
    Ok(())
}

/// Each key of each class with absurd values: they are refused, or sampled with somehow.
#[test]
fn no_configuration_makes_them_panic() -> TestResult {
    no_configuration_panics(&[
        "CMStochasticIterativeScheduler",
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "IPNDMScheduler",
        "KarrasVeScheduler",
        "LCMScheduler",
        "RePaintScheduler",
        "ScoreSdeVeScheduler",
        "ScoreSdeVpScheduler",
        "TCDScheduler",
        "UnCLIPScheduler",
    ])
}
