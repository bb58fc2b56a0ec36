//! Editing against diffusers' schedulers (tests/golden/editing.py), and what must hold for all of ours.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_models::{Model, ModelConfig};
use kakusan_pipeline::{Axis, DDPMPipeline, SampleOptions, SampleStep, SampleWarning, slerp};
use kakusan_rng::{Generator, PerImage};
use kakusan_scheduler::{DDPMScheduler, RePaintOptions, Registry, RunOptions, Scheduler};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::{TestResult, pipeline, pipeline_with, values};

/// The golden tensors, and the metadata.
type Golden = (HashMap<String, Vec<f32>>, HashMap<String, String>);

fn golden() -> TestResult<Golden> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/editing.safetensors");
    let bytes = std::fs::read(path)?;
    let floats = |data: &[u8]| data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let file = SafeTensors::deserialize(&bytes)?;
    let tensors = file.tensors().into_iter().map(|(name, tensor)| (name, floats(tensor.data()))).collect();
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    Ok((tensors, header.metadata().clone().unwrap()))
}

fn picture() -> TestResult<Tensor> {
    Ok(Tensor::from_vec(Generator::new(7).rand(64), (1, 1, 8, 8), &Device::Cpu)?.affine(2.0, -1.0)?)
}

/// 1 in the right half.
fn right_half() -> TestResult<Tensor> {
    let mask: Vec<f32> = (0..64).map(|i| if i % 8 < 4 { 0.0 } else { 1.0 }).collect();
    Ok(Tensor::from_vec(mask, (1, 1, 8, 8), &Device::Cpu)?)
}

fn go(_: &SampleStep) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The largest difference, in parts of the largest value.
fn error(ours: &Tensor, theirs: &[f32]) -> TestResult<f32> {
    let ours = values(ours)?;
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(0f32, |scale, value| scale.max(value.abs()));
    Ok(ours.iter().zip(theirs).fold(0f32, |worst, (a, b)| worst.max((a - b).abs())) / scale)
}

#[test]
fn pictures_are_drawn_on_and_repainted_as_by_diffusers() -> TestResult {
    let (tensors, metadata) = golden()?;
    let cases: Vec<Value> = serde_json::from_str(&metadata["cases"])?;
    assert!(cases.len() >= 16);
    let mut wrong = vec![];
    for (i, case) in cases.iter().enumerate() {
        let class_name = case["class"].as_str().unwrap();
        let scheduler = Registry::default().build(class_name, case["config"].as_object().unwrap())?;
        let pipeline = pipeline_with("", scheduler)?;
        let steps = case["steps"].as_u64().unwrap() as usize;
        let run = RunOptions { eta: case["eta"].as_f64(), ..RunOptions::steps(steps) };
        let options = SampleOptions::new(2).run(run).image_to_image(picture()?, case["strength"].as_f64().unwrap());
        for (key, mask) in [("start", None), ("blend", Some(right_half()?))] {
            let images = pipeline.sample_with(&options.clone().mask(mask), &mut Generator::new(3), go)?;
            let error = error(&images, &tensors[&format!("{key}.{i}")])?;
            if error.is_nan() || error > 1e-4 {
                wrong.push(format!("{key} {case}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn repaint_is_that_of_diffusers_and_keeps_exactly() -> TestResult {
    let (tensors, _) = golden()?;
    let (picture, kept) = (picture()?, right_half()?.affine(-1.0, 1.0)?);
    let options = RePaintOptions { num_inference_steps: 10, jump_length: 3, jump_n_sample: 2, ..Default::default() };
    let images = pipeline("")?.repaint(&picture, &kept, &options, &mut Generator::new(3), go)?;
    assert!(error(&images, &tensors["repaint"])? < 1e-4);
    assert_eq!(values(&images.narrow(3, 0, 4)?)?, values(&picture.narrow(3, 0, 4)?)?);

    let v = Registry::default()
        .build("DDPMScheduler", serde_json::json!({"prediction_type": "v_prediction"}).as_object().unwrap())?;
    let refused = pipeline_with("", v)?.repaint(&picture, &kept, &options, &mut Generator::new(3), go).unwrap_err();
    assert!(refused.to_string().contains("v_prediction"), "{refused}");
    Ok(())
}

#[test]
fn an_inversion_is_that_of_diffusers() -> TestResult {
    let (tensors, _) = golden()?;
    let pipeline = pipeline("")?;
    let (mut calls, picture) = (0, picture()?);
    let count = |calls: &mut usize| {
        *calls += 1;
        ControlFlow::Continue(())
    };
    let inversion = pipeline.invert(&picture, &SampleOptions::new(1).steps(10), |_| count(&mut calls))?.unwrap();
    assert!(error(&inversion.noise, &tensors["noise"])? < 1e-4);
    assert!(error(&inversion.images, &tensors["again"])? < 1e-4);
    assert_eq!(calls, 20);
    // diffusers' numbers: pixels in 0..1, clipped
    let unit = |value: f32| (value * 0.5 + 0.5).clamp(0.0, 1.0);
    let errors = tensors["again"].iter().zip(values(&picture)?).map(|(a, b)| f64::from((unit(*a) - unit(b)).abs()));
    let mean = errors.sum::<f64>() / 64.0;
    assert!((inversion.mean_error - mean).abs() < 1e-4 * mean, "{} {mean}", inversion.mean_error);

    assert!(pipeline.invert(&picture, &SampleOptions::new(1).steps(10), |_| ControlFlow::Break(()))?.is_none());

    // linspace is not known to the inversion, flows not to DDIM
    let linspace = serde_json::json!({"timestep_spacing": "linspace"});
    let scheduler = Registry::default().build("DDPMScheduler", linspace.as_object().unwrap())?;
    assert!(pipeline_with("", scheduler)?.invert(&picture, &SampleOptions::new(1).steps(10), go)?.is_some());
    let flow = Registry::default().build("FlowMatchEulerDiscreteScheduler", &Default::default())?;
    let refused = pipeline_with("", flow)?.invert(&picture, &SampleOptions::new(1).steps(10), go).unwrap_err();
    assert!(refused.is_usage() && refused.to_string().contains("schedulers that fit are"), "{refused}");
    let eta = RunOptions { eta: Some(0.5), ..RunOptions::steps(10) };
    let refused = pipeline.invert(&picture, &SampleOptions::new(1).run(eta), go).unwrap_err().to_string();
    assert!(refused.contains("draws no noise: leave out eta"), "{refused}");
    Ok(())
}

#[test]
fn slerp_is_the_usual_formula() -> TestResult {
    let (tensors, metadata) = golden()?;
    let cases: Vec<[f64; 2]> = serde_json::from_str(&metadata["slerps"])?;
    for (i, [angle, t]) in cases.into_iter().enumerate() {
        let [a, b, expected] = [0, 1, 2].map(|row| tensors[&format!("slerp.{i}")][row * 16..][..16].to_vec());
        let tensor = |values| Tensor::from_vec(values, (1, 1, 4, 4), &Device::Cpu);
        let error = error(&slerp(&tensor(a)?, &tensor(b)?, t)?, &expected)?;
        assert!(error < 1e-6, "{angle} degrees at {t}: {error}");
    }
    let zero = Tensor::zeros(2, candle_core::DType::F32, &Device::Cpu)?;
    assert_eq!(slerp(&zero, &(&zero + 1.0)?, 0.25)?.to_vec1::<f32>()?, [0.25; 2]);
    Ok(())
}

/// The exact prediction for images that are normal numbers of standard deviation 1/2.
struct Gaussian(Arc<dyn ModelConfig>);

impl Model for Gaussian {
    fn config(&self) -> &dyn ModelConfig {
        self.0.as_ref()
    }

    fn forward(&self, x: &Tensor, timestep: &Tensor, _: Option<&Tensor>) -> kakusan_models::Result<Tensor> {
        let t = timestep.to_vec1::<f32>()?[0] as usize;
        let alpha: f64 = (0..=t).map(|t| 1.0 - (1e-4 + t as f64 / 999.0 * (0.02 - 1e-4))).product();
        Ok(x.affine((1.0 - alpha).sqrt() / (alpha / 4.0 + 1.0 - alpha), 0.0)?)
    }
}

#[test]
fn an_inversion_in_more_steps_comes_nearer() -> TestResult {
    let mut pipeline = pipeline("")?;
    let json = r#"{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1}"#;
    pipeline.set_model(Box::new(Gaussian(kakusan_models::Registry::default().from_json(json, "test")?)));
    let picture = (picture()? * 0.5)?;
    let error = |steps| -> TestResult<f64> {
        Ok(pipeline.invert(&picture, &SampleOptions::new(1).steps(steps), go)?.unwrap().mean_error)
    };
    let errors = [error(10)?, error(40)?, error(160)?];
    assert!(errors[1] < 0.4 * errors[0] && errors[2] < 0.4 * errors[1] && errors[2] < 2e-3, "{errors:?}");
    // images of standard deviation 1/2 come from normal noise
    let noise = pipeline.invert(&picture, &SampleOptions::new(1).steps(160), go)?.unwrap().noise;
    let [inverted, given] = [&noise, &picture].map(|tensor| tensor.sqr().unwrap().mean_all().unwrap());
    let ratio = (inverted.to_scalar::<f32>()? / given.to_scalar::<f32>()?).sqrt();
    assert!((ratio - 2.0).abs() < 0.05, "{ratio}");
    Ok(())
}

/// All schedulers that start from images: what is outside of the mask is in the result as it was given.
#[test]
fn every_scheduler_repaints_a_part_and_keeps_the_rest_exactly() -> TestResult {
    let registry = Registry::default();
    let trained_with = DDPMScheduler::default().config();
    for class_name in registry.class_names() {
        if class_name == "RePaintScheduler" || class_name.contains("Inverse") {
            continue; // they take no images in this way
        }
        // UnCLIP has its own betas
        let config = if class_name == "UnCLIPScheduler" { &Default::default() } else { &trained_with };
        let scheduler = registry.from_config(&class_name, config)?;
        let range = scheduler.process().pixel_range();
        let pipeline = pipeline_with("", scheduler)?;
        let picture = range.from_unit(&picture()?.affine(0.4, 0.5)?)?;
        let options = SampleOptions::new(2).steps(6).image_to_image(picture.clone(), 0.7).mask(right_half()?);
        let images = pipeline.sample_with(&options, &mut PerImage::from_seeds([3, 4]), go)?;
        assert!(values(&images)?.iter().all(|value| value.is_finite()), "{class_name}");
        let half = |images: &Tensor, i, left| values(&images.narrow(0, i, 1)?.narrow(3, left, 4)?);
        for i in 0..2 {
            assert_eq!(half(&images, i, 0)?, half(&picture, 0, 0)?, "{class_name}");
            assert_ne!(half(&images, i, 4)?, half(&picture, 0, 4)?, "{class_name}");
        }
        if class_name != "CMStochasticIterativeScheduler" {
            assert_ne!(half(&images, 0, 4)?, half(&images, 1, 4)?, "{class_name}: both seeds draw the same");
        }
    }
    Ok(())
}

#[test]
fn an_interpolation_ends_in_the_images_of_its_seeds() -> TestResult {
    let ddim = Registry::default().swap("DDIMScheduler", &DDPMScheduler::default())?;
    for (scheduler, eta, draws_noise) in
        [(ddim.clone(), None, false), (ddim, Some(1.0), true), (Arc::new(DDPMScheduler::default()) as _, None, true)]
    {
        let pipeline = pipeline_with("", scheduler)?;
        let options = SampleOptions::new(1).run(RunOptions { eta, ..RunOptions::steps(5) });
        let mut five = options.clone();
        five.batch_size = 5;
        let mut seen = vec![];
        let way = pipeline.interpolate([3, 7], &five, |done, of| {
            seen.push((done, of));
            ControlFlow::Continue(())
        })?;
        let way = way.unwrap();
        assert_eq!((way.images.dims(), way.draws_noise), (&[5, 1, 8, 8][..], draws_noise));
        assert_eq!(seen, [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]);
        let alone = |seed| pipeline.sample_with(&options, &mut PerImage::from_seeds([seed]), go);
        assert!(error(&way.images.narrow(0, 0, 1)?, &values(&alone(3)?)?)? < 1e-5);
        if !draws_noise {
            assert!(error(&way.images.narrow(0, 4, 1)?, &values(&alone(7)?)?)? < 1e-5);
        }
        assert!(pipeline.interpolate([3, 7], &options, |_, _| ControlFlow::Continue(())).is_err()); // of one frame
    }
    Ok(())
}

/// More frames than are drawn at once.
#[test]
fn a_long_interpolation_is_drawn_in_parts() -> TestResult {
    let pipeline = pipeline(r#", "num_class_embeds": 4"#)?;
    let options = SampleOptions::new(130).steps(1).class_labels(vec![2; 130]);
    let way = pipeline.interpolate([3, 7], &options, |_, _| ControlFlow::Continue(()))?.unwrap();
    assert_eq!(way.images.dims(), [130, 1, 8, 8]);
    let one = SampleOptions::new(1).steps(1).class_labels(vec![2]);
    let alone = pipeline.sample_with(&one, &mut PerImage::from_seeds([7]), go)?;
    // one step draws no noise of its own
    assert!(error(&way.images.narrow(0, 129, 1)?, &values(&alone)?)? < 1e-5);
    let short = SampleOptions::new(130).steps(1).class_labels(vec![2; 129]);
    assert!(pipeline.interpolate([3, 7], &short, |_, _| ControlFlow::Continue(())).is_err());
    Ok(())
}

#[test]
fn each_image_of_a_grid_is_drawn_with_its_own_settings() -> TestResult {
    let registry = Registry::default();
    let pipeline = pipeline(r#", "num_class_embeds": 4"#)?;
    let watch = |_, _| ControlFlow::Continue(());
    let alone = |pipeline: &DDPMPipeline, options: &SampleOptions, seed| -> TestResult<Vec<f32>> {
        values(&pipeline.sample_with(options, &mut PerImage::from_seeds([seed]), go)?)
    };
    let base = SampleOptions::new(1).steps(3).class_labels(vec![1]);

    let (seeds, guidance) = (Axis::Seed(vec![5, 6, 7]), Axis::Guidance(vec![1.0, 2.5]));
    let table = pipeline.grid(&seeds, Some(&guidance), &base, 0, watch)?.unwrap();
    assert_eq!(table.dims(), [6, 1, 8, 8]);
    for (i, (guidance, seed)) in [(1.0, 5), (1.0, 6), (1.0, 7), (2.5, 5), (2.5, 6), (2.5, 7)].into_iter().enumerate() {
        let expected = alone(&pipeline, &base.clone().guidance_scale(guidance), seed)?;
        assert!(error(&table.narrow(0, i, 1)?, &expected)? < 1e-5, "{guidance} {seed}");
    }

    let swap = |class_name| registry.swap(class_name, pipeline.scheduler());
    let schedulers = [swap("EulerDiscreteScheduler")?, swap("DDIMScheduler")?];
    let (columns, steps) = (Axis::Scheduler(schedulers.to_vec()), Axis::Steps(vec![2, 3]));
    assert_eq!(columns.labels(), ["EulerDiscrete", "DDIM"]);
    let mut last = (0, 0);
    let table = pipeline.grid(&columns, Some(&steps), &base, 9, |done, of| {
        last = (done, of);
        ControlFlow::Continue(())
    })?;
    assert_eq!(last, (10, 10));
    for (row, steps) in [2, 3].into_iter().enumerate() {
        for (column, scheduler) in schedulers.iter().enumerate() {
            let other = pipeline_with(r#", "num_class_embeds": 4"#, scheduler.clone())?;
            let expected = alone(&other, &base.clone().run(RunOptions::steps(steps)), 9)?;
            let cell = table.as_ref().unwrap().narrow(0, 2 * row + column, 1)?;
            assert!(error(&cell, &expected)? < 1e-5, "{steps} {scheduler:?}");
        }
    }

    let picture = picture()?;
    let start = base.clone().image_to_image(picture.clone(), 0.5);
    let (classes, strengths) = (Axis::Class(vec![0, 2]), Axis::Strength(vec![0.4, 1.0]));
    let table = pipeline.grid(&classes, Some(&strengths), &start, 9, watch)?.unwrap();
    let expected = alone(&pipeline, &base.clone().class_labels(vec![2]).image_to_image(picture, 0.4), 9)?;
    assert!(error(&table.narrow(0, 1, 1)?, &expected)? < 1e-5);

    let (euler_and_ddim, twice) = (Axis::Scheduler(schedulers.to_vec()), Axis::Guidance(vec![2.5, 4.0]));
    let warnings = pipeline.grid_warnings(&twice, Some(&euler_and_ddim), &base)?;
    assert!(matches!(&warnings[..], [SampleWarning::ClippedGuidance { .. }]), "{warnings:?}"); // once
    assert!(pipeline.grid_warnings(&seeds, Some(&euler_and_ddim), &base)?.is_empty());
    assert!(pipeline.grid_warnings(&Axis::Eta(vec![]), None, &base).is_err());

    let refused = |columns: &Axis, rows: Option<&Axis>, options: &SampleOptions| {
        pipeline.grid(columns, rows, options, 0, watch).unwrap_err().to_string()
    };
    assert!(refused(&seeds, Some(&seeds), &base).contains("both sides of the grid are of seed"));
    assert!(refused(&Axis::Eta(vec![]), None, &base).contains("has no value of eta"));
    assert!(refused(&Axis::Eta(vec![0.5]), None, &base).contains("DDPMScheduler has no use for `eta`"));
    assert!(refused(&Axis::Strength(vec![0.5]), None, &base).contains("needs images to start from"));
    assert!(refused(&Axis::Seed((0..5000).collect()), None, &base).contains("5000 images, more than 4096"));
    assert!(refused(&seeds, None, &base.clone().class_labels(vec![1, 2])).contains("options for one image"));
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_by_name() -> TestResult {
    let pipeline = pipeline("")?;
    let refused = |options: SampleOptions| {
        let error = pipeline.sample_with(&options, &mut Generator::new(0), go).unwrap_err();
        assert!(error.is_usage(), "{error}");
        error.to_string()
    };
    let (one, picture) = (SampleOptions::new(1).steps(50), picture()?);
    for strength in [-0.5, 1.5, f64::NAN] {
        assert!(refused(one.clone().image_to_image(picture.clone(), strength)).contains("the strength is"));
    }
    let error = refused(one.clone().image_to_image(picture.clone(), 0.01));
    assert!(error.contains("none of 50 steps would be done"), "{error}");
    let small = Tensor::zeros((1, 1, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
    let error = refused(one.clone().image_to_image(picture.clone(), 0.5).mask(small.clone()));
    assert!(error.contains("the mask has shape [1, 1, 4, 4], which does not fit images of shape"), "{error}");
    assert!(refused(one.clone().mask(right_half()?)).contains("a mask needs images"));
    assert!(refused(one.clone().image_to_image(small.clone(), 0.5)).contains("expected [1, 1, 8, 8]"));
    let three = Tensor::cat(&[&picture, &picture, &picture], 0)?;
    assert!(refused(SampleOptions::new(2).image_to_image(three, 0.5)).contains("expected [2, 1, 8, 8]"));
    assert!(refused(one.clone().initial_sample(small)).contains("the initial sample has shape"));
    assert!(refused(one.initial_sample(picture.clone()).images(picture)).contains("not from both"));
    Ok(())
}

/// The tutorial's noise is uniform on 0..1, and its first call sees it alone.
#[test]
fn images_are_noised_as_in_training() -> TestResult {
    let pipeline = pipeline_with("", Registry::default().build("LinearMixScheduler", &Default::default())?)?;
    let options = SampleOptions::new(1).steps(4).image_to_image(picture()?, 1.0);
    let mut first = None;
    pipeline.sample_with(&options, &mut Generator::new(3), |step| {
        first = Some(step.sample.clone());
        ControlFlow::Break(())
    })?;
    assert_eq!(values(&first.unwrap())?, Generator::new(3).rand(64));
    Ok(())
}
