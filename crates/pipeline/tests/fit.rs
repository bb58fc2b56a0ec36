//! Steps that are fitted to a model: on data whose trajectories are known, saved, loaded and taken.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kakusan_models::{Model, ModelConfig, VarBuilder, Weights};
use kakusan_pipeline::{DDPMPipeline, Fit, SampleOptions};
use kakusan_rng::Generator;
use kakusan_scheduler::{FittedSteps, Process, Registry, RunOptions};
use serde_json::{Map, Value};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The deviations of the data's pixels, which are independent and normal.
const DEVIATIONS: [f64; 8] = [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0];
const SHAPE: [usize; 3] = [1, 2, 4];

/// The exact model of this data, for any process.
#[derive(Debug, Clone)]
struct Exact(Process);

impl ModelConfig for Exact {
    fn class_name(&self) -> &str {
        "Exact"
    }

    fn to_map(&self) -> Map<String, Value> {
        Map::new()
    }

    fn default_map(&self) -> Map<String, Value> {
        Map::new()
    }

    fn build(&self, _: VarBuilder) -> kakusan_models::Result<Box<dyn Model>> {
        Ok(Box::new(self.clone()))
    }

    fn sample_shape(&self) -> kakusan_models::Result<[usize; 3]> {
        Ok(SHAPE)
    }
}

impl Model for Exact {
    fn config(&self) -> &dyn ModelConfig {
        self
    }

    fn forward(&self, input: &Tensor, timesteps: &Tensor, _: Option<&Tensor>) -> kakusan_models::Result<Tensor> {
        let levels = timesteps.to_vec1::<f32>()?;
        let (alpha, sigma) = self.0.alpha_sigma(levels[0]).unwrap();
        let x = (input / self.0.scale_model_input(&input.ones_like()?, &levels).unwrap())?;
        let x0 = x.broadcast_mul(&per_pixel(|s| {
            let (alpha, sigma) = (f64::from(alpha), f64::from(sigma));
            alpha * s * s / (alpha * alpha * s * s + sigma * sigma)
        })?)?;
        let noise = ((&x - x0.affine(alpha.into(), 0.0)?)? / f64::from(sigma))?;
        Ok(self.0.target(&x0, &noise, &levels).unwrap())
    }
}

/// A number for each pixel, by its deviation.
fn per_pixel(number: impl Fn(f64) -> f64) -> candle_core::Result<Tensor> {
    let numbers: Vec<f32> = DEVIATIONS.iter().map(|&deviation| number(deviation) as f32).collect();
    Tensor::from_vec(numbers, (1, SHAPE[0], SHAPE[1], SHAPE[2]), &Device::Cpu)
}

fn pipeline(json: &str) -> TestResult<DDPMPipeline> {
    let scheduler = Registry::default().from_json(json)?;
    let config = Exact(scheduler.process());
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    Ok(DDPMPipeline::new(Arc::new(config), weights, scheduler)?)
}

fn fit(pipeline: &DDPMPipeline, steps: usize, fine: usize) -> kakusan_pipeline::Result<Option<Fit>> {
    let fine = SampleOptions::new(16).steps(fine);
    pipeline.fit_steps(steps, &fine, &Generator::new(1), |_| ControlFlow::Continue(()))
}

/// How far samples of these steps are from where their trajectories end: the root mean square.
fn error(pipeline: &DDPMPipeline, run: RunOptions) -> TestResult<f32> {
    let begin = pipeline.scheduler().run_with(&run)?;
    let dims = [64, SHAPE[0], SHAPE[1], SHAPE[2]];
    let noise = begin.initial_noise(&dims, &Device::Cpu, &mut Generator::new(7))?;
    let (alpha, sigma) = begin.alpha_sigma()?;
    let (alpha, sigma) = (f64::from(alpha), f64::from(sigma));
    let exact = noise.broadcast_mul(&per_pixel(|s| s / (alpha * alpha * s * s + sigma * sigma).sqrt())?)?;
    let options = SampleOptions::new(64).run(run);
    let sample = pipeline.sample_with(&options, &mut Generator::new(7), |_| ControlFlow::Continue(()))?;
    Ok((sample - exact)?.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt())
}

const FITTING: [&str; 5] = [
    r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0}"#,
    r#"{"_class_name": "EDMEulerScheduler"}"#,
    r#"{"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}"#,
    r#"{"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "trailing"}"#,
    r#"{"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": true, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}"#,
];

#[test]
fn fitted_steps_end_nearer_to_the_true_images_than_even_ones() -> TestResult {
    for json in FITTING {
        let pipeline = pipeline(json)?;
        for steps in [4, 6] {
            let found = fit(&pipeline, steps, 24)?.ok_or("stopped")?;
            assert_eq!(found.timesteps.len(), steps);
            let fitted = error(&pipeline, RunOptions { schedule: found.schedule.clone(), ..RunOptions::default() })?;
            let even = error(&pipeline, RunOptions::steps(steps))?;
            assert!(fitted < 0.8 * even, "{json}, {steps} steps: {fitted} and {even}; {found:?}");
            assert!(found.difference < found.unfitted, "{found:?}");
        }
    }
    Ok(())
}

#[test]
fn fitted_steps_are_saved_and_taken_and_leave_others_alone() -> TestResult {
    let registry = kakusan_pipeline::Registry::default();
    let json = r#"{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1,
        "layers_per_block": 1, "block_out_channels": [4, 8], "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]}"#;
    let config = registry.models.from_json(json, "test")?;
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    let ddpm = registry.schedulers.from_json(r#"{"_class_name": "DDPMScheduler", "timestep_spacing": "trailing"}"#)?;
    let dir = tempfile::tempdir()?;
    DDPMPipeline::new(config, weights, ddpm)?.save_pretrained(dir.path())?;
    // as an older diffusers may have saved it
    let file = dir.path().join("scheduler/scheduler_config.json");
    let old = r#"{"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "timestep_spacing": "trailing"}"#;
    std::fs::write(&file, old)?;
    let load = |dir: &Path| DDPMPipeline::from_pretrained(dir, &registry, &Device::Cpu);
    let dpm = |pipeline: &DDPMPipeline| registry.schedulers.swap("DPMSolverMultistepScheduler", pipeline.scheduler());

    let mut pipeline = load(dir.path())?;
    let saved = registry.schedulers.from_config("DDPMScheduler", &pipeline.scheduler().config())?;
    pipeline.set_scheduler(dpm(&pipeline)?)?;
    let before = values(&pipeline.sample(2, 5, &mut Generator::new(0))?)?;
    let schedule = fit(&pipeline, 5, 12)?.ok_or("stopped")?.schedule;
    let by_hand = SampleOptions::new(2).run(RunOptions { schedule: schedule.clone(), ..RunOptions::default() });
    let by_hand = pipeline.sample_with(&by_hand, &mut Generator::new(0), |_| ControlFlow::Continue(()))?;

    let mut fitted = FittedSteps::default();
    fitted.insert("DPMSolverMultistepScheduler", schedule);
    let mut config = saved.config();
    fitted.set_in(&mut config);
    pipeline.set_scheduler(registry.schedulers.from_config("DDPMScheduler", &config)?)?;
    pipeline.save_scheduler(dir.path())?;
    let text = std::fs::read_to_string(&file)?;
    assert!(text.contains("0.1.1") && text.contains("_fitted_steps") && !text.contains("beta_start"), "{text}");

    let mut pipeline = load(dir.path())?;
    assert_eq!(pipeline.scheduler().run(5)?.timesteps(), saved.run(5)?.timesteps()); // DDPM's are not fitted
    pipeline.set_scheduler(dpm(&pipeline)?)?;
    let drawn = values(&pipeline.sample(2, 5, &mut Generator::new(0))?)?;
    assert_eq!(drawn, values(&by_hand)?);
    assert_ne!(drawn, before);
    let unfitted = SampleOptions::new(2).run(RunOptions { unfitted: true, ..RunOptions::steps(5) });
    let unfitted = pipeline.sample_with(&unfitted, &mut Generator::new(0), |_| ControlFlow::Continue(()))?;
    assert_eq!(values(&unfitted)?, before);

    // the scheduler that was fitted becomes the pipeline's own
    pipeline.save_scheduler(dir.path())?;
    let pipeline = load(dir.path())?.strict()?;
    assert_eq!(pipeline.scheduler().class_name(), "DPMSolverMultistepScheduler");
    assert_eq!(values(&pipeline.sample(2, 5, &mut Generator::new(0))?)?, drawn);
    assert_eq!(pipeline.scheduler().config()["timestep_spacing"], "trailing");
    Ok(())
}

fn values(tensor: &Tensor) -> TestResult<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

#[test]
fn what_cannot_be_fitted_is_refused_with_what_can() -> TestResult {
    let refused = |json: &str, steps, fine| fit(&pipeline(json).unwrap(), steps, fine).unwrap_err().to_string();
    let ddpm = refused(r#"{"_class_name": "DDPMScheduler"}"#, 5, 12);
    assert!(ddpm.contains("add new noise") && ddpm.contains("DPMSolverMultistepScheduler, "), "{ddpm}");
    assert!(!ddpm.contains("HeunDiscrete") && !ddpm.contains("DDIM") && !ddpm.contains("EDM"), "{ddpm}");
    let ddim = refused(r#"{"_class_name": "DDIMScheduler"}"#, 5, 12);
    assert!(ddim.contains("takes neither timesteps nor noise levels; others can: "), "{ddim}");
    let heun = refused(r#"{"_class_name": "HeunDiscreteScheduler"}"#, 5, 12);
    assert!(heun.contains("call the model more than once"), "{heun}");
    let karras = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": true}"#;
    assert!(refused(karras, 5, 12).contains("unset shift_terminal and use_*_sigmas"));
    for (steps, fine) in [(0, 12), (1, 12), (12, 12), (20, 12)] {
        let message = refused(FITTING[0], steps, fine);
        assert!(message.contains(&format!("{steps} steps cannot be fitted to a trajectory of 12")), "{message}");
    }
    // stopped in each of its parts
    let (pipeline, fine) = (pipeline(FITTING[0])?, SampleOptions::new(2).steps(6));
    let calls = std::cell::Cell::new(0);
    let run = |last| {
        calls.set(0);
        pipeline.fit_steps(3, &fine, &Generator::new(0), |_| {
            calls.set(calls.get() + 1);
            if calls.get() == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    let whole = run(0)?.ok_or("stopped")?;
    let all = calls.get();
    for last in 1..=all {
        assert_eq!(run(last)?, None, "{last} of {all}");
    }
    assert_eq!(run(all + 1)?, Some(whole));
    Ok(())
}
