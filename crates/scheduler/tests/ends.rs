//! Both ends of the levels, and trainings of few timesteps: all is finite, and right.

use candle_core::{Device, Tensor};
use kakusan_rng::Generator;
use kakusan_scheduler::{
    Churn, KarrasVeScheduler, LinearMixScheduler, Registry, RunOptions, Scheduler, ScoreSdeVeScheduler, conformance,
};
use serde_json::{Map, Value, json};

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn image(values: [f32; 4]) -> Result<Tensor, candle_core::Error> {
    Tensor::from_slice(&values, (1, 1, 2, 2), &Device::Cpu)
}

fn predicted(
    scheduler: &dyn Scheduler,
    output: [f32; 4],
    noisy: [f32; 4],
    level: f32,
) -> kakusan_scheduler::Result<Vec<f32>> {
    let image = scheduler.process().pred_original_sample(&image(output)?, &image(noisy)?, &[level])?;
    Ok(image.flatten_all()?.to_vec1()?)
}

const OUTPUT: [f32; 4] = [0.5, -0.25, 1.0, 0.0];
const NOISY: [f32; 4] = [0.125, 0.75, -1.0, 3.0];

#[test]
fn a_model_of_images_says_them_itself_where_there_is_no_noise() -> TestResult {
    for level in [0.0, 1e-8, 0.5, 1.0] {
        assert_eq!(predicted(&LinearMixScheduler::default(), OUTPUT, NOISY, level)?, OUTPUT);
    }
    Ok(())
}

#[test]
fn without_noise_the_noisy_image_is_the_clean_one() -> TestResult {
    assert_eq!(predicted(&KarrasVeScheduler::default(), OUTPUT, NOISY, 0.0)?, NOISY);
    assert_eq!(predicted(&ScoreSdeVeScheduler::default(), OUTPUT, NOISY, 0.0)?, NOISY);
    let config = json!({"trained_betas": [0.0, 0.5], "num_train_timesteps": 2});
    let ddpm = Registry::default().build("DDPMScheduler", config.as_object().ok_or("no object")?)?;
    assert_eq!(predicted(ddpm.as_ref(), OUTPUT, NOISY, 0.0)?, NOISY);
    Ok(())
}

#[test]
fn noise_alone_tells_nothing_to_a_model_of_noise() -> TestResult {
    for (prediction_type, expected) in [("epsilon", [0.0; 4]), ("sample", OUTPUT)] {
        let config = json!({"rescale_betas_zero_snr": true, "prediction_type": prediction_type});
        let ddpm = Registry::default().build("DDPMScheduler", config.as_object().ok_or("no object")?)?;
        assert_eq!(predicted(ddpm.as_ref(), OUTPUT, NOISY, 999.0)?, expected);
    }
    Ok(())
}

/// RePaint, which samples into an image alone, says how; consistency models are distilled along two levels at least.
#[test]
fn every_scheduler_keeps_the_contract_with_its_defaults_and_with_few_timesteps() -> TestResult {
    let registry = Registry::default();
    let mut checked = 0;
    for class_name in registry.class_names() {
        let keys = registry.build(&class_name, &Map::new())?.config();
        for timesteps in [None, Some(1), Some(2), Some(5), Some(8)] {
            let mut config = Map::new();
            if let Some(timesteps) = timesteps {
                for key in ["num_train_timesteps", "original_inference_steps"] {
                    if keys.contains_key(key) {
                        config.insert(key.into(), Value::from(timesteps));
                    }
                }
            }
            let scheduler = match registry.build(&class_name, &config) {
                Ok(scheduler) => scheduler,
                Err(e) => {
                    assert_eq!((class_name.as_str(), timesteps), ("CMStochasticIterativeScheduler", Some(1)), "{e}");
                    assert!(e.to_string().contains("num_train_timesteps is 1; it must be between 2 and"), "{e}");
                    continue;
                }
            };
            if class_name == "RePaintScheduler" {
                let error = scheduler.run(1).unwrap_err().to_string();
                assert!(error.contains("RePaintScheduler::repaint_run takes with a mask"), "{error}");
                continue;
            }
            if (class_name.as_str(), timesteps) == ("LCMScheduler", Some(1)) {
                // at timestep 0, which is its only one then, a consistency model takes the sample for the image
                let x = scheduler.run(1)?.step(&image(OUTPUT)?, &image(NOISY)?, &mut Generator::new(0))?.prev_sample;
                assert_eq!(x.flatten_all()?.to_vec1::<f32>()?, NOISY);
                continue;
            }
            conformance::check(scheduler.as_ref(), &registry).map_err(|e| format!("{config:?}: {e}"))?;
            checked += 1;
        }
    }
    assert_eq!(checked, 30 * 5 - 2);
    Ok(())
}

#[test]
fn noise_that_means_nothing_is_refused() -> TestResult {
    let registry = Registry::default();
    let churn = |s_churn, s_tmin, s_tmax, s_noise| Churn { s_churn, s_tmin, s_tmax, s_noise };
    let (nan, infinite) = (f64::NAN, f64::INFINITY);
    for class_name in ["EulerDiscreteScheduler", "EDMEulerScheduler", "FlowMatchHeunDiscreteScheduler"] {
        let scheduler = registry.build(class_name, &Map::new())?;
        let run = |churn| scheduler.run_with(&RunOptions { churn: Some(churn), ..RunOptions::steps(5) });
        run(churn(1.0, 0.0, infinite, 1.0))?;
        for (option, churn) in [
            ("s_churn", churn(nan, 0.0, 1.0, 1.0)),
            ("s_churn", churn(-1.0, 0.0, 1.0, 1.0)),
            ("s_churn", churn(infinite, 0.0, 1.0, 1.0)),
            ("s_noise", churn(1.0, 0.0, 1.0, nan)),
            ("s_noise", churn(1.0, 0.0, 1.0, -0.5)),
            ("s_tmin", churn(1.0, nan, 1.0, 1.0)),
            ("s_tmax", churn(1.0, 0.0, -1.0, 1.0)),
        ] {
            let error = run(churn).err().ok_or("it runs")?.to_string();
            assert!(error.starts_with(&format!("`{option}` is ")) && error.contains("at least 0"), "{error}");
        }
    }
    Ok(())
}

/// What has no finite schedule is refused, where diffusers gives NaN.
#[test]
fn schedules_of_nothing_are_refused_with_a_reason() -> TestResult {
    let registry = Registry::default();
    let error = |class_name: &str, config: Value| -> Result<String, Box<dyn std::error::Error>> {
        let built = registry.build(class_name, config.as_object().ok_or("no object")?);
        Ok(built.and_then(|scheduler| scheduler.run(1)).err().ok_or("it runs")?.to_string())
    };
    let one = json!({"num_train_timesteps": 1, "rescale_betas_zero_snr": true});
    assert!(error("DDPMScheduler", one.clone())?.contains("rescale_betas_zero_snr cannot rescale these betas"));
    registry.build("EulerDiscreteScheduler", one.as_object().ok_or("no object")?)?.run(1)?; // at σ 4096, as diffusers
    let zero = json!({"beta_start": 0.0, "num_train_timesteps": 1});
    assert!(error("EulerDiscreteScheduler", zero)?.contains("the first β is 0"));
    for conversion in ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"] {
        for class_name in ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"] {
            let config = json!({"beta_start": 0.0, conversion: true});
            let scheduler = registry.build(class_name, config.as_object().ok_or("no object")?)?;
            let error = scheduler.run(5).err().ok_or("it runs")?.to_string();
            assert!(error.contains("the first β is 0"), "{class_name} {conversion}: {error}");
        }
    }
    let steep = json!({"beta_start": 0.9, "beta_end": 0.99});
    assert!(error("EulerDiscreteScheduler", steep.clone())?.contains("the betas leave nothing of the image"));
    assert!(error("DPMSolverMultistepScheduler", steep)?.contains("the betas leave nothing of the image"));
    Ok(())
}

/// The Euler family goes on where `steps_offset` leads beyond the last timestep, and in more steps than timesteps.
#[test]
fn more_steps_than_timesteps() -> TestResult {
    let registry = Registry::default();
    let config = json!({"timestep_spacing": "leading", "steps_offset": 1});
    let euler = registry.build("EulerDiscreteScheduler", config.as_object().ok_or("no object")?)?;
    let run = euler.run(1000)?;
    assert_eq!((run.timesteps()[0], run.timesteps()[999]), (1000.0, 1.0));
    let sigmas = run.sigmas().ok_or("no sigmas")?;
    assert_eq!((sigmas[0], sigmas[1]), (157.40727, 157.40727));
    let few = json!({"num_train_timesteps": 5});
    let run = registry.build("EulerDiscreteScheduler", few.as_object().ok_or("no object")?)?.run(9)?;
    assert_eq!(run.timesteps(), [4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.0]);
    Ok(())
}
