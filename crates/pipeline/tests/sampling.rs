//! Sampling: every scheduler in one pipeline, classes and guidance, initial images, inpainting, editing.

#[path = "sampling/editing.rs"]
mod editing;

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kakusan_models::Weights;
use kakusan_pipeline::{DDPMPipeline, PipelineClass, SampleOptions};
use kakusan_rng::{Generator, PerImage};
use kakusan_scheduler::{DDPMScheduler, RePaintOptions, Registry, RunOptions, Scheduler};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A network of a few thousand parameters with random weights.
fn pipeline(more: &str) -> TestResult<DDPMPipeline> {
    pipeline_with(more, Arc::new(DDPMScheduler::default()))
}

fn pipeline_with(more: &str, scheduler: Arc<dyn Scheduler>) -> TestResult<DDPMPipeline> {
    let json = format!(
        r#"{{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
            "block_out_channels": [4, 8], "norm_num_groups": 4, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]{more}}}"#
    );
    let config = kakusan_models::Registry::default().from_json(&json, "test")?;
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    Ok(DDPMPipeline::new(config, weights, scheduler)?)
}

fn values(tensor: &Tensor) -> TestResult<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

#[test]
fn every_scheduler_draws_with_one_generator_and_with_one_for_each_image() -> TestResult {
    let registry = Registry::default();
    let trained_with = DDPMScheduler::default().config();
    for class_name in registry.class_names() {
        if class_name == "RePaintScheduler" {
            continue; // for inpainting only
        }
        // UnCLIP has its own betas
        let config = if class_name == "UnCLIPScheduler" { &Default::default() } else { &trained_with };
        let pipeline = pipeline_with("", registry.from_config(&class_name, config)?)?;
        let options = |batch| SampleOptions::new(batch).steps(6);
        let sample = pipeline.sample(2, 6, &mut Generator::new(0))?;
        let sample = values(&sample)?;
        assert!(sample.len() == 2 * 64 && sample.iter().all(|value| value.is_finite()), "{class_name}: {sample:?}");

        let both =
            pipeline.sample_with(&options(2), &mut PerImage::from_seeds([3, 4]), |_| ControlFlow::Continue(()))?;
        let alone = pipeline.sample_with(&options(1), &mut PerImage::from_seeds([4]), |_| ControlFlow::Continue(()))?;
        if class_name == "ScoreSdeVeScheduler" {
            continue; // its corrector's step size depends on the whole batch, as in diffusers
        }
        let difference = (both.narrow(0, 1, 1)? - &alone)?.abs()?.max_all()?.to_scalar::<f32>()?;
        let scale = alone.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(difference <= 1e-4 * scale, "{class_name}: {difference} of {scale}");
    }
    Ok(())
}

/// `DDPMPipelineFastTests` and `DDIMPipelineFastTests` of diffusers: the bottom right corner of the last channel.
#[test]
fn the_tiny_pipelines_of_diffusers_tests_draw_their_pixels() -> TestResult {
    let json = r#"{"_class_name": "UNet2DModel", "sample_size": 8, "layers_per_block": 1, "block_out_channels": [4, 8],
        "norm_num_groups": 4, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}"#;
    let config = kakusan_models::Registry::default().from_json(json, "test")?;
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    for (class_name, expected) in [
        ("DDPMScheduler", [0.0, 0.999667, 0.003291, 1.0, 0.999599, 1.0, 0.006091, 0.00115, 0.0]),
        ("DDIMScheduler", [0.0, 0.997975, 0.0, 0.99998, 0.998629, 0.99916, 0.000711, 0.0, 0.0]),
    ] {
        let scheduler = Registry::default().build(class_name, &Default::default())?;
        let pipeline = DDPMPipeline::new(config.clone(), weights.clone(), scheduler.clone())?;
        let sample = pipeline.sample(1, 2, &mut Generator::new(0))?;
        let image = scheduler.process().pixel_range().to_unit(&sample)?;
        let corner = values(&image.narrow(1, 2, 1)?.narrow(2, 5, 3)?.narrow(3, 5, 3)?)?;
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
        assert!(corner.iter().zip(&expected).all(near), "{class_name}: {corner:?}");
    }
    Ok(())
}

#[test]
fn guidance_goes_on_from_no_class_to_the_class() -> TestResult {
    let pipeline = pipeline(r#", "num_class_embeds": 4"#)?;
    let draw = |class_labels: Option<Vec<u32>>, guidance_scale| {
        let options = SampleOptions::new(2).steps(1).class_labels(class_labels).guidance_scale(guidance_scale);
        pipeline.sample_with(&options, &mut Generator::new(0), |_| ControlFlow::Continue(()))
    };
    let class = values(&draw(Some(vec![0, 1]), 1.0)?)?;
    let none = values(&draw(Some(vec![3, 3]), 1.0)?)?;
    assert_ne!(class, none);
    let guided = values(&draw(Some(vec![0, 1]), 0.0)?)?;
    assert!(guided.iter().zip(&none).all(|(a, b)| (a - b).abs() < 1e-5));
    let error = |labels| draw(labels, 2.0).unwrap_err().to_string();
    assert!(error(None).contains("needs a class for each image, from 0 to 3"));
    assert!(error(Some(vec![0])).contains("1 classes for 2 images"));
    assert!(error(Some(vec![0, 4])).contains("no class 4; the model has 0 to 3"));
    Ok(())
}

#[test]
fn images_to_begin_with_stay_near_where_little_noise_was_added() -> TestResult {
    let pipeline = pipeline("")?;
    let images = Tensor::full(0.5f32, (1, 1, 8, 8), &Device::Cpu)?;
    let draw = |images: Option<&Tensor>, start| {
        let run = RunOptions { start, ..RunOptions::steps(100) };
        let options = SampleOptions::new(1).run(run).images(images.cloned());
        pipeline.sample_with(&options, &mut Generator::new(0), |_| ControlFlow::Continue(()))
    };
    let near = (draw(Some(&images), 99)? - &images)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(near < 0.1, "{near}");
    assert!(draw(None, 99).unwrap_err().to_string().contains("needs images to start from"));
    let large = Tensor::zeros((1, 1, 4, 4), DType::F32, &Device::Cpu)?;
    assert!(draw(Some(&large), 99).unwrap_err().to_string().contains("expected [1, 1, 8, 8]"));
    Ok(())
}

#[test]
fn repaint_leaves_what_the_mask_keeps() -> TestResult {
    let pipeline = pipeline("")?;
    let images = Tensor::from_vec(Generator::new(1).uniform(128, -0.9, 0.9), (2, 1, 8, 8), &Device::Cpu)?;
    let left: Vec<f32> = (0..64).map(|i| if i % 8 < 4 { 1.0 } else { 0.0 }).collect();
    let mask = Tensor::from_vec(left, (1, 1, 8, 8), &Device::Cpu)?;
    let options = RePaintOptions { num_inference_steps: 20, jump_length: 2, jump_n_sample: 2, ..Default::default() };
    let mut calls = 0;
    let painted = pipeline.repaint(&images, &mask, &options, &mut Generator::new(0), |_| {
        calls += 1;
        ControlFlow::Continue(())
    })?;
    let difference = (painted - images)?.abs()?;
    let kept = difference.narrow(3, 0, 4)?.max_all()?.to_scalar::<f32>()?;
    let changed = difference.narrow(3, 4, 4)?.mean_all()?.to_scalar::<f32>()?;
    assert!(kept < 0.05 && changed > 0.1 && calls > 20, "{kept} {changed} {calls}");
    Ok(())
}

#[test]
fn the_index_says_which_classes_python_has() -> TestResult {
    for (class_name, library) in [
        ("DDPMScheduler", "diffusers"),
        ("KarrasVeScheduler", "diffusers"),
        ("ScoreSdeVpScheduler", "kakusan"),
        ("LinearMixScheduler", "kakusan"),
    ] {
        let dir = tempfile::tempdir()?;
        let pipeline = pipeline_with("", Registry::default().build(class_name, &Default::default())?)?;
        pipeline.save_pretrained(dir.path())?;
        let index: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path().join("model_index.json"))?)?;
        assert_eq!(index["scheduler"], serde_json::json!([library, class_name]));
        assert_eq!(index["unet"], serde_json::json!(["diffusers", "UNet2DModel"]));
    }
    Ok(())
}

/// Every pair of classes: either the sampler fits what the model was trained on, or the error names the classes that
/// do.
#[test]
fn a_scheduler_that_does_not_fit_the_model_is_refused() -> TestResult {
    let registry = Registry::default();
    let alone = ["CMStochastic", "IPNDM", "KarrasVe", "LinearMix", "ScoreSdeVe", "ScoreSdeVp"];
    let families = [["EDM", "EDM"], ["FlowMatch", "FlowMatch"]];
    // solvers that are configured to sample a flow
    let solvers = ["DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "SASolver", "UniPCMultistep"];
    let family = |class_name: &str| {
        let is = |name: &&str| class_name.starts_with(*name);
        alone.into_iter().find(is).or(families.into_iter().flatten().find(is)).unwrap_or("diffusion")
    };
    for trained_with in registry.class_names() {
        let trained = registry.build(&trained_with, &Default::default())?;
        let mut pipeline = pipeline_with("", trained.clone())?;
        for class_name in registry.class_names() {
            let flows = family(&trained_with) == "FlowMatch" && solvers.iter().any(|name| class_name.starts_with(name));
            let fits = family(&class_name) == family(&trained_with) || flows;
            let pair = format!("{class_name} for {trained_with}");
            match registry.swap(&class_name, trained.as_ref()) {
                Ok(scheduler) => {
                    assert!(fits, "{pair} is let through");
                    assert!(
                        scheduler.family() == trained.family() && pipeline.set_scheduler(scheduler).is_ok(),
                        "{pair}"
                    );
                }
                Err(e) => {
                    assert!(!fits, "{pair}: {e}");
                    let text = e.to_string();
                    assert!(text.contains("schedulers that fit are ") && text.contains(&trained_with), "{text}");
                    let by_hand = registry.build(&class_name, &Default::default())?;
                    assert!(pipeline.set_scheduler(by_hand).is_err(), "{pair}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_sampler_predicts_what_the_model_was_trained_for() -> TestResult {
    let registry = Registry::default();
    let v = serde_json::json!({"_class_name": "DDPMScheduler", "prediction_type": "v_prediction"}).to_string();
    let trained = registry.from_json(&v)?;
    assert!(registry.swap("DDIMScheduler", trained.as_ref()).is_ok());
    assert!(registry.swap("UnCLIPScheduler", trained.as_ref()).is_err());
    let repaint = registry.swap("RePaintScheduler", trained.as_ref()).unwrap_err().to_string();
    assert!(repaint.contains("prediction_type v_prediction; schedulers that fit are DDIMInverse"), "{repaint}");

    let flow = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#;
    let solver = registry.swap("UniPCMultistepScheduler", registry.from_json(flow)?.as_ref())?;
    assert_eq!((&solver.config()["flow_shift"], &solver.config()["use_flow_sigmas"]), (&3.0.into(), &true.into()));
    let back = registry.swap("FlowMatchHeunDiscreteScheduler", solver.as_ref())?;
    assert_eq!(back.config()["shift"], 3.0);
    Ok(())
}

#[test]
fn classes_of_pipelines_go_by_diffusers_names() {
    for name in PipelineClass::CLASS_NAMES {
        assert_eq!(PipelineClass::from_name(name).map(PipelineClass::class_name), Some(name));
    }
    assert_eq!(PipelineClass::from_name("DiTPipeline"), None);
    assert_eq!(
        PipelineClass::from_name("DDIMPipeline").and_then(PipelineClass::scheduler_class),
        Some("DDIMScheduler")
    );
}

#[test]
fn a_callback_ends_the_sampling() -> TestResult {
    let pipeline =
        pipeline_with("", Registry::default().from_config("DDIMScheduler", &DDPMScheduler::default().config())?)?;
    let mut seen = vec![];
    let sample = pipeline.sample_with(&SampleOptions::new(2), &mut Generator::new(0), |step| {
        seen.push(step.output.prev_sample.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        if step.index == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    assert_eq!(seen.len(), 3);
    assert_eq!(values(&sample)?, seen[2]);
    Ok(())
}
