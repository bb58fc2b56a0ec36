//! Guidance in an interval of noise levels: which model calls it costs, and what it gives.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Tensor};
use kakusan_models::{Model, ModelConfig, VarBuilder, Weights};
use kakusan_pipeline::{DDPMPipeline, RunConfig, SampleOptions};
use kakusan_rng::Generator;
use kakusan_scheduler::{Registry, Scheduler};
use serde_json::{Map, Value};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Predicts a multiple of its input for each class, and counts the images that it is called for.
#[derive(Debug, Clone, Default)]
struct Counting(Arc<AtomicUsize>);

impl ModelConfig for Counting {
    fn class_name(&self) -> &str {
        "Counting"
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
        Ok([1, 2, 2])
    }

    fn num_classes(&self) -> Option<usize> {
        Some(3)
    }
}

impl Model for Counting {
    fn config(&self) -> &dyn ModelConfig {
        self
    }

    fn forward(&self, x: &Tensor, _: &Tensor, labels: Option<&Tensor>) -> kakusan_models::Result<Tensor> {
        self.0.fetch_add(x.dim(0)?, Ordering::Relaxed);
        let factors = labels.unwrap().to_dtype(x.dtype())?.affine(0.2, 0.3)?.reshape(((), 1, 1, 1))?;
        Ok(x.broadcast_mul(&factors)?)
    }
}

/// A sampling of two images in eight steps: the images, and how often the model was called for each.
fn sample(scheduler: &Arc<dyn Scheduler>, scale: f64, interval: Option<[f64; 2]>) -> TestResult<(Vec<f32>, usize)> {
    let config = Counting::default();
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    let pipeline = DDPMPipeline::new(Arc::new(config.clone()), weights, scheduler.clone())?;
    let options = SampleOptions::new(2).steps(8).class_labels(vec![0, 1]).guidance_scale(scale);
    let options = options.guidance_interval(interval);
    let sample = pipeline.sample_with(&options, &mut Generator::new(0), |_| ControlFlow::Continue(()))?;
    Ok((sample.flatten_all()?.to_vec1()?, config.0.load(Ordering::Relaxed) / 2))
}

#[test]
fn steps_outside_the_interval_cost_one_model_call() -> TestResult {
    let edm = Registry::default().build("EDMEulerScheduler", &Map::new())?;
    // the noise levels are 80, 35, 14, 4.6, 1.3, 0.27, 0.035 and 0.002
    let guided = sample(&edm, 3.0, None)?;
    assert_eq!(guided.1, 16);
    let plain = sample(&edm, 1.0, None)?;
    assert_eq!(plain.1, 8);
    let within = sample(&edm, 3.0, Some([0.3, 5.0]))?;
    assert_eq!(within.1, 10);
    assert!(within.0 != guided.0 && within.0 != plain.0);
    assert_eq!(sample(&edm, 3.0, Some([0.0, 100.0]))?, guided);
    assert_eq!(sample(&edm, 3.0, Some([100.0, 200.0]))?, plain);
    let error = sample(&edm, 3.0, Some([5.0, 0.3])).unwrap_err().to_string();
    assert!(error.contains("the guidance interval is from 5 to 0.3; it must begin at 0 or above"), "{error}");
    Ok(())
}

#[test]
fn every_scheduler_knows_its_noise_levels() -> TestResult {
    let registry = Registry::default();
    for class_name in registry.class_names() {
        if class_name == "RePaintScheduler" {
            continue; // for inpainting only
        }
        let scheduler = registry.build(&class_name, &Map::new())?;
        let options = SampleOptions::new(1).steps(8).guidance_scale(3.0).guidance_interval([0.3, 5.0]);
        let (guided, calls) = (options.guided_calls(scheduler.as_ref())?, scheduler.run(8)?.timesteps().len());
        assert!(guided.len() == calls && guided.contains(&true), "{class_name}: {guided:?}");
        options.check_guidance(scheduler.as_ref())?;
        let error = options.guidance_interval([1e6, 1e7]).check_guidance(scheduler.as_ref()).unwrap_err().to_string();
        assert!(error.contains("is in the guidance interval from 1000000 to 10000000"), "{class_name}: {error}");
    }
    Ok(())
}

#[test]
fn an_interval_of_no_effect_is_refused_in_the_configuration() {
    let text = r#"
        model = { _class_name = "ClassConditionedUnet", num_classes = 11 }
        scheduler = { _class_name = "FlowMatchEulerDiscreteScheduler" }
        train = { class_dropout = 0.1 }
        [sample]
        steps = 20
        guidance_interval = [0.2, 4.0]
    "#;
    let parse = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        RunConfig::parse(text, "my.toml", &set, &kakusan_pipeline::Registry::default())
    };
    let error = |set: &[&str]| parse(set).unwrap_err().to_string();
    let config = parse(&["sample.guidance_scale=2.0"]).unwrap();
    assert_eq!(config.sample.guidance_interval, Some([0.2, 4.0]));
    let message = error(&[]);
    assert!(message.contains("`guidance_interval` has no effect without guidance: set guidance_scale"), "{message}");
    let message = error(&["sample.guidance_scale=2.0", "sample.guidance_interval=[2000.0,3000.0]"]);
    assert!(message.contains("no step of FlowMatchEulerDiscreteScheduler is in the guidance interval"), "{message}");
    let message = error(&["sample.guidance_scale=2.0", "sample.guidance_interval=[4.0,0.2]"]);
    assert!(message.contains("`guidance_interval`: the guidance interval is from 4 to 0.2"), "{message}");
}
