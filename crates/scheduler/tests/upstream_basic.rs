//! The numbers that diffusers' own tests expect of DDPM and Euler, at 1e-4 (`test_scheduler_ddpm.py`,
//! `test_scheduler_euler.py`).

mod fixtures;

use candle_core::{Device, Tensor};
use fixtures::{TestResult, assert_sum_mean, full_loop, noise, sample, scheduler};
use kakusan_rng::Generator;
use kakusan_scheduler::{DDPMConfig, DDPMScheduler, RunOptions, Scheduler, conformance};
use serde_json::json;

#[test]
fn ddpm_no_noise() -> TestResult {
    let mut run = scheduler("DDPMScheduler", json!({}))?.run(1000)?;
    assert_sum_mean(&full_loop(run.as_mut(), sample(), false)?, 258.960632, 0.337188333);
    Ok(())
}

#[test]
fn ddpm_v_prediction() -> TestResult {
    let mut run = scheduler("DDPMScheduler", json!({"prediction_type": "v_prediction"}))?.run(1000)?;
    assert_sum_mean(&full_loop(run.as_mut(), sample(), false)?, 202.029572, 0.263059348);
    Ok(())
}

#[test]
fn ddpm_with_noise() -> TestResult {
    let mut run =
        scheduler("DDPMScheduler", json!({}))?.run_with(&RunOptions { start: 998, ..RunOptions::steps(1000) })?;
    let x = run.add_noise(&sample(), &noise())?;
    assert_sum_mean(&full_loop(run.as_mut(), x, false)?, 387.946594, 0.505138814);
    Ok(())
}

#[test]
fn euler_as_upstream_tests_it() -> TestResult {
    for (config, sum) in [(json!({}), 10.0806828), (json!({"use_karras_sigmas": true}), 124.522598)] {
        let mut config = config;
        config["num_train_timesteps"] = json!(1100);
        let mut run = scheduler("EulerDiscreteScheduler", config)?.run(10)?;
        let x = sample().affine(run.init_noise_sigma().into(), 0.0)?;
        assert_sum_mean(&full_loop(run.as_mut(), x, true)?, sum, sum / 768.0);
    }
    let options = RunOptions { start: 8, ..RunOptions::steps(10) };
    let mut run = scheduler("EulerDiscreteScheduler", json!({"num_train_timesteps": 1100}))?.run_with(&options)?;
    let x = sample().affine(run.init_noise_sigma().into(), 0.0)?;
    let x = (x + noise().affine(run.sigmas().ok_or("no sigmas")?[8].into(), 0.0)?)?;
    assert_sum_mean(&full_loop(run.as_mut(), x, true)?, 57062.9297, 57062.9297 / 768.0);
    Ok(())
}

#[test]
fn the_contract_is_kept() -> TestResult {
    for class_name in ["DDPMScheduler", "EulerDiscreteScheduler"] {
        for prediction_type in ["epsilon", "sample", "v_prediction"] {
            // clipping would touch what the check of perfect predictions compares
            let config = json!({"prediction_type": prediction_type});
            conformance::check(scheduler(class_name, config)?.as_ref(), &Default::default())?;
        }
    }
    Ok(())
}

#[test]
fn noise_alone_does_not_tell_of_an_image() -> TestResult {
    let config =
        |clip: bool| json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "clip_sample": clip});
    for class_name in ["DDPMScheduler", "DDIMScheduler"] {
        // diffusers gives NaN
        let error = scheduler(class_name, config(false))?.run(10).err().ok_or("it runs")?;
        assert!(error.to_string().contains("train for v_prediction"));
        // clipped it is a sign, as in diffusers, and nothing where diffusers divides 0 by 0
        let mut run = scheduler(class_name, config(true))?.run(10)?;
        let noise = Tensor::new(&[[[[-0.5f32, 0.25, 1.0]]]], &Device::Cpu)?;
        let output = Tensor::new(&[[[[0.5f32, -0.25, 1.0]]]], &Device::Cpu)?;
        let x0 = run.step(&output, &noise, &mut Generator::new(0))?.pred_original_sample;
        assert_eq!(x0.flatten_all()?.to_vec1::<f32>()?, [-1.0, 1.0, 0.0]);
    }
    Ok(())
}

#[test]
fn the_large_variance_is_not_a_number_in_diffusers_by_way_of_its_logarithm() -> TestResult {
    let sample_with = |variance: &str| -> TestResult<Vec<f32>> {
        let mut run = scheduler("DDPMScheduler", json!({"variance_type": variance}))?.run(10)?;
        Ok(full_loop(run.as_mut(), sample(), false)?.flatten_all()?.to_vec1()?)
    };
    assert_eq!(sample_with("fixed_large_log")?, sample_with("fixed_large")?);
    Ok(())
}

#[test]
fn training_draws_noise_then_timesteps() -> TestResult {
    let scheduler = DDPMScheduler::new(DDPMConfig::default())?;
    let draw = scheduler.process().draw(&sample(), &mut Generator::new(3))?;
    let mut rng = Generator::new(3);
    assert_eq!(draw.noise.flatten_all()?.to_vec1::<f32>()?, rng.randn(768));
    let timesteps: Vec<f32> = rng.randint(4, 0, 1000)?.into_iter().map(|t| t as f32).collect();
    assert_eq!(draw.levels, timesteps);
    Ok(())
}

#[test]
fn impossible_steps_say_which_are_possible() -> TestResult {
    let ddpm = scheduler("DDPMScheduler", json!({"steps_offset": 1}))?;
    let error = |steps| ddpm.run(steps).unwrap_err().to_string();
    assert_eq!(error(0), "DDPMScheduler cannot sample in 0 steps: at least one is needed");
    assert!(error(1001).contains("it can do at most 1000"));
    assert!(error(1000).contains("with steps_offset 1 the first timestep is 1000, but there is none after 999"));
    let far = scheduler("DDPMScheduler", json!({"steps_offset": u64::MAX, "timestep_spacing": "leading"}))?;
    assert!(far.run(10).unwrap_err().to_string().contains("there is none after 999"));
    let error =
        |timesteps: &[f64]| ddpm.run_with(&RunOptions::timesteps(timesteps.iter().copied())).unwrap_err().to_string();
    assert!(error(&[1000.0, 3.0]).contains("timestep 1000 is not one of 0 to 999"));
    assert!(error(&[3.0, 3.0]).contains("have to descend"));
    Ok(())
}
