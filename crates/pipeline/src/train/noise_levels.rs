//! The noise levels of a training: how often which is drawn, and its weight in the loss.

use std::f32::consts::PI;

use kakusan_scheduler::{Density, Process, Scheduler};

use crate::{TrainConfig, WeightingScheme};

/// The scheduler's process with the levels and weights of `[train]`: those of `weighting_scheme`, or of `p_mean` and
/// `p_std`. The message of an error begins with the key.
pub(crate) fn training_process(config: &TrainConfig, scheduler: &dyn Scheduler) -> Result<Process, String> {
    let process = scheduler.process();
    let Some((key, density)) = density(config) else { return Ok(process) };
    let levels = process.levels().unwrap_or_default();
    let class_name = scheduler.class_name();
    let process = process.with_density(density).map_err(|e| format!("`{key}`: {e}"))?.ok_or_else(|| {
        let (what, example) = match density {
            Density::LogNormal { .. } => ("with EDM's preconditioning", "EDMEulerScheduler"),
            _ => ("of a flow", "FlowMatchEulerDiscreteScheduler"),
        };
        let remedy = "remove it, or choose another scheduler";
        format!("`{key}` needs a scheduler {what}, such as {example}; {class_name} is none: {remedy}")
    })?;
    let Some(weight) = config.weighting_scheme.and_then(weight) else { return Ok(process) };
    let noises = process.clone();
    let weight = move |level: f32| noises.alpha_sigma(level).map_or(f32::NAN, |(_, sigma)| weight(sigma));
    match levels.into_iter().find(|&level| !weight(level).is_finite()) {
        Some(level) => {
            Err(format!("`{key}`: {class_name} has no noise at timestep {level}, whose weight would be infinite"))
        }
        None => Ok(process.weighted(weight)),
    }
}

/// The density of the levels, and the key that asks for it; `None` for the scheduler's own.
fn density(config: &TrainConfig) -> Option<(&'static str, Density)> {
    let density = match config.weighting_scheme {
        Some(WeightingScheme::LogitNormal) => {
            Density::LogitNormal { mean: config.logit_mean.unwrap_or(0.0), std: config.logit_std.unwrap_or(1.0) }
        }
        Some(WeightingScheme::Mode) => Density::Mode { scale: config.mode_scale.unwrap_or(1.29) },
        Some(WeightingScheme::None | WeightingScheme::SigmaSqrt | WeightingScheme::Cosmap) => Density::Uniform,
        None => {
            let key = if config.p_mean.is_some() { "p_mean" } else { "p_std" };
            let (mean, std) = (config.p_mean.unwrap_or(-1.2), config.p_std.unwrap_or(1.2));
            return config.p_mean.or(config.p_std).map(|_| (key, Density::LogNormal { mean, std }));
        }
    };
    Some(("weighting_scheme", density))
}

/// The weight of the noise level σ: `compute_loss_weighting_for_sd3`. `None` if all weights are 1.
fn weight(scheme: WeightingScheme) -> Option<fn(f32) -> f32> {
    match scheme {
        WeightingScheme::SigmaSqrt => Some(|sigma| 1.0 / (sigma * sigma)),
        WeightingScheme::Cosmap => Some(|sigma| 2.0 / (PI * (1.0 - 2.0 * sigma + 2.0 * (sigma * sigma)))),
        WeightingScheme::None | WeightingScheme::LogitNormal | WeightingScheme::Mode => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{Device, Tensor};
    use kakusan_rng::Generator;
    use kakusan_scheduler::{Draw, Registry};
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::train::objective::Objective;

    fn scheduler(class_name: &str, config: Value) -> Arc<dyn Scheduler> {
        let Value::Object(config) = config else { panic!("{config}") };
        Registry::default().build(class_name, &config).unwrap()
    }

    /// Written by tests/golden/training.py.
    fn golden() -> Map<String, Value> {
        serde_json::from_str(include_str!("../../../../tests/golden/training.json")).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn near(ours: &[f32], theirs: &[f32], tolerance: f32) -> bool {
        let most = theirs.iter().fold(0f32, |most, x| most.max(x.abs()));
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= tolerance * most)
    }

    /// The objective of a case, and what the case draws for `clean`.
    fn drawn(case: &Value, scheduler: &dyn Scheduler, clean: &Tensor) -> (Objective, Draw) {
        let config: TrainConfig = serde_json::from_value(case["config"].clone()).unwrap();
        config.check().unwrap();
        let objective = Objective::new(&config, scheduler).unwrap();
        let mut rng = Generator::new(case["seed"].as_u64().unwrap());
        let draw = objective.process().draw(clean, &mut rng).unwrap();
        (objective, draw)
    }

    #[test]
    fn flows_are_trained_at_diffusers_timesteps_with_its_weights() {
        let golden = golden();
        let cases = golden["flow"].as_array().unwrap();
        assert_eq!(cases.len(), 14);
        for case in cases {
            let scheduler = scheduler("FlowMatchEulerDiscreteScheduler", json!({"shift": case["shift"]}));
            let batch = case["batch"].as_u64().unwrap() as usize;
            let clean = Tensor::full(0.25f32, (batch, 1, 2, 2), &Device::Cpu).unwrap();
            let (objective, Draw { noise, levels }) = drawn(case, scheduler.as_ref(), &clean);
            assert!(near(&levels, &numbers(&case["timesteps"]), 1e-7), "{case}: {levels:?}");
            let process = objective.process();
            let noisy = process.add_noise(&clean, &noise, &levels).unwrap();
            let target = process.target(&clean, &noise, &levels).unwrap();
            let loss = objective.loss(&(noisy * 0.5).unwrap(), &target, &levels).unwrap().to_scalar::<f32>().unwrap();
            assert!(near(&[loss], &[case["loss"].as_f64().unwrap() as f32], 2e-6), "{case}: {loss}");
        }
    }

    /// The weight of the denoised images becomes 1 on the network's output.
    #[test]
    fn edm_is_trained_with_the_loss_of_its_paper() {
        let golden = golden();
        let cases = golden["edm"].as_array().unwrap();
        assert_eq!(cases.len(), 3);
        let pixels: Vec<f32> = (0..80).map(|i| (-1.0 + 2.0 * f64::from(i) / 79.0) as f32).collect();
        let clean = Tensor::from_vec(pixels, (20, 1, 2, 2), &Device::Cpu).unwrap();
        for class_name in ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"] {
            for case in cases {
                let scheduler = scheduler(class_name, json!({"sigma_data": case["sigma_data"]}));
                let (objective, Draw { noise, levels }) = drawn(case, scheduler.as_ref(), &clean);
                let process = objective.process();
                let conditioning = process.conditioning(&levels, &Device::Cpu).unwrap();
                assert!(near(&values(&conditioning), &numbers(&case["c_noise"]), 1e-6), "{case}: {levels:?}");
                let noisy = process.add_noise(&clean, &noise, &levels).unwrap();
                let input = process.scale_model_input(&noisy, &levels).unwrap();
                assert!(near(&values(&input), &numbers(&case["model_input"]), 1e-6), "{case}: {input}");
                let conditioning = (conditioning.reshape((20, 1, 1, 1)).unwrap() * 0.1).unwrap();
                let prediction = (&input * 0.3).unwrap().broadcast_add(&conditioning).unwrap();
                let target = process.target(&clean, &noise, &levels).unwrap();
                let loss = objective.loss(&prediction, &target, &levels).unwrap().to_scalar::<f32>().unwrap();
                assert!(near(&[loss], &[case["loss"].as_f64().unwrap() as f32], 2e-6), "{case}: {loss}");
            }
        }
    }

    #[test]
    fn zero_snr_has_diffusers_targets_and_weights() {
        let golden = golden();
        let levels = numbers(&golden["levels"]);
        let [clean, noise, prediction] = ["clean", "noise", "prediction"]
            .map(|name| Tensor::from_vec(numbers(&golden[name]), (levels.len(), 2, 3, 3), &Device::Cpu).unwrap());
        for case in golden["zero_snr"].as_array().unwrap() {
            let scheduler = scheduler("DDPMScheduler", case["scheduler"].clone());
            let config = TrainConfig { snr_gamma: Some(5.0), ..TrainConfig::default() };
            let objective = Objective::new(&config, scheduler.as_ref()).unwrap();
            let process = objective.process();
            let noisy = process.add_noise(&clean, &noise, &levels).unwrap();
            assert!(near(&values(&noisy), &numbers(&case["noisy"]), 1e-6), "{case}");
            let target = process.target(&clean, &noise, &levels).unwrap();
            // at timestep 10 the rounding of ᾱ, which is nearly 1, is seen in sqrt(1 - ᾱ)
            assert!(near(&values(&target), &numbers(&case["target"]), 2e-6), "{case}: {target}");
            let loss = objective.loss(&prediction, &target, &levels).unwrap().to_scalar::<f32>().unwrap();
            assert!(near(&[loss], &[case["loss"].as_f64().unwrap() as f32], 1e-6), "{case}: {loss}");
        }
    }

    #[test]
    fn what_has_no_effect_on_a_scheduler_is_refused() {
        let refusal = |class_name: &str, config: Value, train: Value| {
            let config = scheduler(class_name, config);
            training_process(&serde_json::from_value(train).unwrap(), config.as_ref()).unwrap_err()
        };
        let mode = || json!({"weighting_scheme": "mode"});
        for class_name in ["DDPMScheduler", "LinearMixScheduler", "EDMEulerScheduler"] {
            let message = refusal(class_name, json!({}), mode());
            assert!(message.starts_with("`weighting_scheme` needs a scheduler of a flow"), "{message}");
        }
        let message = refusal("FlowMatchEulerDiscreteScheduler", json!({}), json!({"p_std": 1.0}));
        assert!(message.starts_with("`p_std` needs a scheduler with EDM's preconditioning"), "{message}");
        let solver = json!({"use_flow_sigmas": true, "prediction_type": "flow_prediction"});
        let message = refusal("UniPCMultistepScheduler", solver, json!({"weighting_scheme": "sigma_sqrt"}));
        assert!(message.contains("no noise at timestep 0, whose weight would be infinite"), "{message}");
    }
}
