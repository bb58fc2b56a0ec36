//! Guidance in an interval of noise levels: which model calls it costs, and what it gives.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
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
    let message = error(&["sample.guidance_scale=2.0", "sample.guidance_rescale=1.2"]);
    assert!(message.contains("`guidance_rescale` is 1.2; it must be from 0 to 1"), "{message}");
    let options = parse(&["sample.guidance_scale=2.0", "sample.guidance_rescale=0.7"]).unwrap().sample.options(3, 20);
    assert_eq!((options.batch_size, options.guidance_scale, options.guidance_rescale), (3, 2.0, 0.7));
}

#[test]
fn samplings_that_will_be_poor_are_warned_of() {
    let registry = kakusan_pipeline::Registry::default().schedulers;
    let warnings = |class_name: &str, config: &str, options: &SampleOptions| {
        let scheduler = registry.from_config(class_name, &kakusan_config::from_json(config).unwrap()).unwrap();
        options.warnings(scheduler.as_ref()).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let guided = SampleOptions::new(1).steps(30).guidance_scale(3.0);
    let [warning] = &warnings("DDIMScheduler", "{}", &guided)[..] else { panic!("no warning") };
    assert!(warning.contains("DDIMScheduler clips them, but not the noise"), "{warning}");
    assert!(warnings("DDIMScheduler", r#"{"clip_sample": false}"#, &guided).is_empty());
    assert!(warnings("DPMSolverMultistepScheduler", "{}", &guided).is_empty());
    let mut clipped = guided.clone();
    clipped.run.use_clipped_model_output = Some(true);
    assert!(warnings("DDIMScheduler", "{}", &clipped).is_empty());

    let (plain, cosine) = (SampleOptions::new(1).steps(30), r#"{"beta_schedule": "squaredcos_cap_v2"}"#);
    let [warning] = &warnings("HeunDiscreteScheduler", cosine, &plain)[..] else { panic!("no warning") };
    assert!(warning.contains("from the noise level 20291 to "), "{warning}");
    let part = plain.clone().image_to_image(Tensor::zeros((1, 1, 8, 8), DType::F32, &Device::Cpu).unwrap(), 0.6);
    assert!(warnings("HeunDiscreteScheduler", cosine, &part).is_empty());
    assert!(warnings("HeunDiscreteScheduler", "{}", &plain).is_empty());
    assert!(warnings("EulerDiscreteScheduler", cosine, &plain).is_empty());
}

/// The samplings of the diffusion course's formulas in PyTorch: `tests/golden/guidance.py`.
mod golden {
    use std::collections::HashMap;

    use kakusan_pipeline::{
        BrightnessGuidance, ColourGuidance, Guidance, GuidanceWay, Guide, ImageGuidance, MaskedGuidance,
        rescale_noise_cfg,
    };
    use safetensors::SafeTensors;

    use super::*;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/guidance.safetensors");

    fn tensors() -> TestResult<HashMap<String, Tensor>> {
        Ok(candle_core::safetensors::load(PATH, &Device::Cpu)?)
    }

    /// A row of pixels in 0..1 `[1, 1 or 3, 8, 8]`, the same in all rows.
    fn row(channels: usize, level: impl Fn(usize) -> f32) -> TestResult<Tensor> {
        let levels: Vec<f32> = (0..channels * 64).map(|i| level(i % 8)).collect();
        Ok(Tensor::from_vec(levels, (1, channels, 8, 8), &Device::Cpu)?)
    }

    fn guidance(name: &str) -> TestResult<Arc<dyn Guidance>> {
        let colour = ColourGuidance::rgb([26, 230, 128]);
        Ok(match name {
            "colour" => Arc::new(colour),
            "brightness" => Arc::new(BrightnessGuidance::new(0.8)),
            "image" => Arc::new(ImageGuidance::new(&row(3, |x| x as f32 / 8.0)?)?),
            _ => Arc::new(MaskedGuidance::new(Arc::new(colour), &row(1, |x| if x < 4 { 1.0 } else { 0.0 })?)?),
        })
    }

    /// The largest difference, as a share of the largest number.
    fn error(ours: &Tensor, theirs: &Tensor) -> TestResult<f32> {
        let largest = |x: &Tensor| -> TestResult<f32> { Ok(x.abs()?.max_all()?.to_scalar::<f32>()?) };
        Ok(largest(&(ours - theirs)?)? / largest(theirs)?)
    }

    #[test]
    fn guided_samplings_are_pytorchs() -> TestResult {
        let bytes = std::fs::read(PATH)?;
        let metadata = SafeTensors::read_metadata(&bytes)?.1.metadata().clone().unwrap();
        let (cases, unet): (Vec<Value>, Map<String, Value>) =
            (serde_json::from_str(&metadata["cases"])?, serde_json::from_str(&metadata["unet"])?);
        let theirs = tensors()?;
        for (i, case) in cases.iter().enumerate() {
            let number = |key: &str| case[key].as_f64().unwrap();
            let seed = number("seed") as u64;
            let mut config = unet.clone();
            config.insert("_class_name".into(), "UNet2DModel".into());
            let classifier_free = case["guidance"].as_array();
            if classifier_free.is_some() {
                config.insert("num_class_embeds".into(), 4.into());
            }
            let json = serde_json::to_string(&config)?;
            let config = kakusan_models::Registry::default().from_json(&json, "golden")?;
            let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(seed), |vb| config.build(vb))?;
            let scheduler = case["scheduler"].as_str().unwrap();
            let scheduler = Registry::default().build(scheduler, case["config"].as_object().unwrap())?;
            let pipeline = DDPMPipeline::new(config, weights, scheduler.clone())?;

            // the course's loss is a mean over the two images
            let loss = guidance(case["loss"].as_str().unwrap())?;
            let guide = Guide::shared(loss.clone(), number("scale") / 2.0);
            let steps = number("from") as usize..number("to") as usize;
            let way: GuidanceWay = case["way"].as_str().unwrap().parse()?;
            let mut options = SampleOptions::new(2).steps(number("steps") as usize).guide(guide.steps(steps.clone()));
            options = options.guidance_way(way);
            if let Some([scale, rescale]) = classifier_free.map(Vec::as_slice) {
                options = options.class_labels(vec![0, 2]).guidance_scale(scale.as_f64().unwrap());
                options = options.guidance_rescale(rescale.as_f64().unwrap());
            }
            let mut moved = None;
            let sample = pipeline.sample_with(&options, &mut Generator::new(seed + 1), |step| {
                if steps.contains(&step.index) {
                    moved.get_or_insert(step.sample.clone());
                }
                ControlFlow::Continue(())
            })?;
            let case = format!("case {i}, {case}");
            // the sign of a small difference may turn with the last digit, and later steps with it
            for (ours, name, most) in [(&moved.unwrap(), "moved", 1e-6), (&sample, "sample", 1e-4)] {
                let error = error(ours, &theirs[&format!("{i}.{name}")])?;
                assert!(error < most, "{case}: {name} is off by {error}");
            }
        }
        Ok(())
    }

    #[test]
    fn rescaling_is_that_of_diffusers() -> TestResult {
        let theirs = tensors()?;
        for share in ["0.0", "0.7", "1.0"] {
            let ours = rescale_noise_cfg(&theirs["rescaled.cfg"], &theirs["rescaled.text"], share.parse()?)?;
            let error = error(&ours, &theirs[&format!("rescaled.{share}")])?;
            assert!(error < 1e-6, "{share}: {error}");
        }
        Ok(())
    }
}

/// Guidance by a loss.
mod by_a_loss {
    use kakusan_pipeline::{
        BrightnessGuidance, ColourGuidance, Guidance, GuidanceWay, Guide, ImageGuidance, MaskedGuidance, Predicted,
    };
    use kakusan_rng::PerImage;
    use kakusan_scheduler::DDPMScheduler;

    use super::*;

    fn pipeline(scheduler: Arc<dyn Scheduler>) -> TestResult<DDPMPipeline> {
        let json = r#"{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1,
            "layers_per_block": 1, "block_out_channels": [4, 8], "norm_num_groups": 4,
            "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]}"#;
        let config = kakusan_models::Registry::default().from_json(json, "test")?;
        let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
        Ok(DDPMPipeline::new(config, weights, scheduler)?)
    }

    fn draw(pipeline: &DDPMPipeline, options: &SampleOptions) -> kakusan_pipeline::Result<Tensor> {
        let mut rng = PerImage::from_seeds(0..options.batch_size as u64);
        pipeline.sample_with(options, &mut rng, |_| ControlFlow::Continue(()))
    }

    #[test]
    fn every_scheduler_is_guided_through_the_network_and_around_it() -> TestResult {
        let (registry, trained_with) = (Registry::default(), DDPMScheduler::default().config());
        for class_name in registry.class_names() {
            if class_name == "RePaintScheduler" {
                continue; // for inpainting only
            }
            // UnCLIP has its own betas
            let config = if class_name == "UnCLIPScheduler" { &Map::new() } else { &trained_with };
            let pipeline = pipeline(registry.from_config(&class_name, config)?)?;
            let options = SampleOptions::new(2).steps(6);
            // the image that the first model call predicts, after the sample was moved, and the result
            let draw = |options: &SampleOptions| {
                let mut first = None;
                let sample = pipeline.sample_with(options, &mut Generator::new(0), |step| {
                    first.get_or_insert(step.output.pred_original_sample.clone());
                    ControlFlow::Continue(())
                });
                sample.map(|sample| (first, sample))
            };
            let images = |first: &Option<Tensor>| first.as_ref().unwrap().flatten_from(1)?.to_vec2::<f32>();
            let mean = |image: &[f32]| image.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / image.len() as f64;
            let (before, plain) = draw(&options)?;
            for way in [GuidanceWay::Through, GuidanceWay::Around] {
                let guide = Guide::new(BrightnessGuidance::new(1.0), 5.0);
                let guided = draw(&options.clone().guide(guide).guidance_way(way));
                if way == GuidanceWay::Around && class_name == "LinearMixScheduler" {
                    let error = guided.unwrap_err().to_string();
                    assert!(error.contains("predicts the image itself"), "{error}");
                    continue;
                }
                let (after, guided) = guided?;
                assert!(guided.sum_all()?.to_scalar::<f32>()?.is_finite(), "{class_name} {way}");
                for (before, after) in images(&before)?.iter().zip(images(&after)?) {
                    // what the gradient goes around is what it descends, but for rounding: an image below the level
                    // becomes brighter, one above it darker, and so their common mean may stay
                    let (before, after) = (mean(before), mean(&after));
                    let towards = (after - before) * (1.0 - before).signum();
                    let right = way == GuidanceWay::Through || towards >= -1e-6 * before.abs();
                    assert!(right, "{class_name} {way}: from {before} to {after}");
                }
                let moved = (guided - &plain)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(moved > 0.0, "{class_name} {way}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_large_batch_guides_each_image_as_if_it_were_alone() -> TestResult {
        let pipeline = pipeline(Arc::new(DDPMScheduler::default()))?;
        let wanted = Tensor::from_vec(Generator::new(3).rand(3 * 64), (3, 1, 8, 8), &Device::Cpu)?;
        for way in [GuidanceWay::Through, GuidanceWay::Around] {
            let options = |batch, wanted: &Tensor| -> TestResult<SampleOptions> {
                let guide = Guide::new(ImageGuidance::new(wanted)?, 50.0);
                Ok(SampleOptions::new(batch).steps(4).guide(guide).guidance_way(way))
            };
            let batch = draw(&pipeline, &options(20, &wanted)?)?;
            let options = options(1, &wanted.narrow(0, 17 % 3, 1)?)?; // the pictures take turns
            let mut rng = PerImage::from_seeds([17]);
            let alone = pipeline.sample_with(&options, &mut rng, |_| ControlFlow::Continue(()))?;
            let difference = (batch.narrow(0, 17, 1)? - &alone)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(difference < 1e-4, "{way}: {difference}");
        }
        Ok(())
    }

    #[test]
    fn a_mask_keeps_the_gradient_inside() -> TestResult {
        let images = candle_core::Var::from_vec(Generator::new(1).uniform(64, -0.9, 0.9), (1, 1, 8, 8), &Device::Cpu)?;
        let mask = Tensor::ones((1, 1, 8, 3), candle_core::DType::F32, &Device::Cpu)?.pad_with_zeros(3, 0, 5)?;
        let guidance = MaskedGuidance::new(Arc::new(ColourGuidance::level(1.0)), &mask)?;
        let loss = guidance.loss(&Predicted::new(images.as_tensor()))?;
        let plain = ColourGuidance::level(1.0).loss(&Predicted::new(images.as_tensor()))?;
        assert!((loss.to_vec1::<f32>()?[0] - plain.to_vec1::<f32>()?[0]).abs() < 1e-6);
        let gradients = loss.sum_all()?.backward()?;
        let gradient = gradients.get(&images).unwrap();
        let expected = (mask / -64.0)?;
        assert!((gradient - expected)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-8);
        Ok(())
    }

    /// A loss of any shape and value.
    #[derive(Debug)]
    struct Odd(fn(&Tensor) -> candle_core::Result<Tensor>);

    impl Guidance for Odd {
        fn loss(&self, predicted: &Predicted) -> kakusan_pipeline::Result<Tensor> {
            Ok((self.0)(predicted.images)?)
        }
    }

    #[test]
    fn what_cannot_guide_is_refused() -> TestResult {
        let pipeline = pipeline(Arc::new(DDPMScheduler::default()))?;
        let refused =
            |guide: Guide| draw(&pipeline, &SampleOptions::new(2).steps(3).guide(guide)).unwrap_err().to_string();
        let bright = || Guide::new(BrightnessGuidance::new(0.5), 1.0);
        let square = Tensor::zeros((1, 1, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
        let three = Tensor::zeros((3, 1, 8, 8), candle_core::DType::F32, &Device::Cpu)?;
        for (guide, part) in [
            (Guide::new(ColourGuidance::rgb([255, 0, 0]), 1.0), "the model draws grey images"),
            (Guide::new(ColourGuidance::level(1.5), 1.0), "the colour has the level 1.5; it must be from 0 to 1"),
            (Guide::new(BrightnessGuidance::new(-0.1), 1.0), "the brightness has the level -0.1"),
            (Guide::new(ImageGuidance::new(&square)?, 1.0), "of shape [1, 4, 4]"),
            (Guide::new(ImageGuidance::new(&three)?, 1.0), "3 for 2 images"),
            (
                Guide::new(MaskedGuidance::new(Arc::new(BrightnessGuidance::new(0.5)), &square)?, 1.0),
                "the mask: of shape [1, 4, 4] (channels, height, width), expected [1, 8, 8]",
            ),
            (bright().steps(3..9), "from 3 up to 9, without the last; this sampling has those from 0 to 2"),
            (bright().schedule(|_| f64::NAN), "the strength of a guide is NaN"),
            (Guide::new(Odd(|x| x.mean_all()), 1.0), "has the shape [], expected a number for each image, [2]"),
            (
                Guide::new(Odd(|x| Tensor::zeros(x.dim(0)?, x.dtype(), x.device())), 1.0),
                "does not depend on the images",
            ),
            (Guide::new(Odd(|x| x.flatten_from(1)?.sum(1)? * f64::NAN), 2.0), "NaN at model call 1"),
        ] {
            let error = refused(guide);
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(ImageGuidance::new(&square.squeeze(0)?).is_err());
        assert!(draw(&pipeline, &SampleOptions::new(2).steps(3).guide(bright().steps(1..2))).is_ok());
        Ok(())
    }
}
