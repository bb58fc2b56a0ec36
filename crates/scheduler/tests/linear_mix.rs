//! The tutorial's numbers: corruption, mixing, and the contract.

use candle_core::{Device, Tensor};
use kakusan_rng::Generator;
use kakusan_scheduler::{
    Error, LinearMixConfig, LinearMixScheduler, PixelRange, Registry, Scheduler, conformance, to_json,
};

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn linear_mix_keeps_the_contract() {
    conformance::check(&LinearMixScheduler::default(), &Registry::default()).unwrap();
}

#[test]
fn an_amount_of_zero_leaves_the_image_and_one_leaves_the_noise() -> TestResult {
    let clean = Tensor::new(&[[0.25f32, 0.5], [0.25, 0.5], [0.25, 0.5]], &Device::Cpu)?;
    let noise = Tensor::new(&[[0.75f32, 0.0], [0.75, 0.0], [0.75, 0.0]], &Device::Cpu)?;
    let noisy = LinearMixScheduler::default().process().add_noise(&clean, &noise, &[0.0, 0.5, 1.0])?;
    assert_eq!(values(&noisy), [0.25, 0.5, 0.5, 0.25, 0.75, 0.0]);
    Ok(())
}

#[test]
fn the_amounts_are_drawn_before_the_noise_as_in_the_tutorial() -> TestResult {
    let clean = Tensor::zeros((3, 1, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
    let draw = LinearMixScheduler::default().process().draw(&clean, &mut Generator::new(0))?;
    let mut rng = Generator::new(0);
    assert_eq!(draw.levels, rng.rand(3));
    assert_eq!(values(&draw.noise), rng.rand(48));
    Ok(())
}

#[test]
fn each_step_mixes_in_one_part_of_those_left() -> TestResult {
    let mut rng = Generator::new(0);
    let mut run = LinearMixScheduler::default().run(4)?;
    assert_eq!(run.timesteps(), [1.0, 0.75, 0.5, 0.25]);
    let mut x = Tensor::new(&[1f32], &Device::Cpu)?;
    let zero = x.zeros_like()?;
    for expected in [0.75, 0.5, 0.25, 0.0] {
        x = run.step(&zero, &x, &mut rng)?.prev_sample;
        assert!((values(&x)[0] - expected).abs() < 1e-7);
    }
    assert!(matches!(run.step(&zero, &x, &mut rng), Err(Error::RunIsOver { steps: 4 })));
    Ok(())
}

#[test]
fn a_model_that_wants_a_timestep_is_told_the_same_one_always() -> TestResult {
    let scheduler = LinearMixScheduler::new(LinearMixConfig { timestep: Some(0.0) })?;
    assert_eq!(scheduler.process().timesteps(&[0.25, 0.5]), [0.0, 0.0]);
    assert_eq!(scheduler.run(3)?.timesteps(), [0.0; 3]);
    conformance::check(&scheduler, &Registry::default())?;
    // the noise is still that of each step
    let run =
        scheduler.run_with(&kakusan_scheduler::RunOptions { start: 1, ..kakusan_scheduler::RunOptions::steps(4) })?;
    let (clean, noise) = (Tensor::new(&[0f32], &Device::Cpu)?, Tensor::new(&[1f32], &Device::Cpu)?);
    assert_eq!(values(&run.add_noise(&clean, &noise)?), [0.75]);
    Ok(())
}

#[test]
fn its_file_is_as_diffusers_would_write_it() {
    let text = to_json(&LinearMixScheduler::default());
    let expected = "{\n  \"_class_name\": \"LinearMixScheduler\",\n  \"_diffusers_version\": \"0.42.1\",\n  \"timestep\": null\n}\n";
    assert_eq!(text, expected);
}

#[test]
fn bad_configurations_are_refused_by_name() {
    let registry = Registry::default();
    let error = |text: &str| registry.from_json(text).unwrap_err().to_string();
    assert!(error(r#"{"_class_name": "LinearMix"}"#).contains("LinearMixScheduler"));
    assert!(error("{}").contains("_class_name"));
    assert!(error("[1]").contains("JSON object"));
    assert!(error("{").contains("JSON"));
}

#[test]
fn a_configuration_written_for_a_scheduler_names_the_key_that_is_wrong() {
    let build = |text: &str| {
        let config = kakusan_config::from_json(text).unwrap();
        Registry::default().build("DDPMScheduler", &config).unwrap_err().to_string()
    };
    assert_eq!(
        build(r#"{"beta_strt": 0.1}"#),
        "DDPMScheduler: there is no key `beta_strt`; did you mean `beta_start`?"
    );
    assert!(build(r#"{"beta_start": "high"}"#).starts_with("DDPMScheduler: `beta_start`: invalid type: string"));
    assert!(build(r#"{"variance_type": "fixed_smal"}"#).contains("`variance_type`: unknown variant"));
    assert!(build(r#"{"beta_start": 2}"#).contains("beta_start is 2"));
}

#[test]
fn classes_are_found_by_what_people_call_them() {
    let registry = Registry::default();
    for (name, class_name) in [
        ("ddpm", "DDPMScheduler"),
        ("DDPMScheduler", "DDPMScheduler"),
        ("euler", "EulerDiscreteScheduler"),
        ("Euler-Discrete", "EulerDiscreteScheduler"),
        ("linear_mix", "LinearMixScheduler"),
        ("linear", "LinearMixScheduler"),
    ] {
        assert_eq!(registry.resolve(name).unwrap(), class_name);
    }
    for name in ["", "scheduler", "d", "quick"] {
        assert!(matches!(registry.resolve(name), Err(Error::UnknownClass { .. })), "{name}");
    }
}

#[test]
fn keys_of_other_classes_are_kept_and_saved_again() -> TestResult {
    let text =
        r#"{"_class_name": "EulerDiscreteScheduler", "variance_type": "fixed_large", "beta_start": 0, "new": [1]}"#;
    let registry = Registry::default();
    let euler = registry.from_json(text)?;
    let ddpm = registry.from_config("DDPMScheduler", &euler.config())?;
    let config = registry.from_json(&to_json(ddpm.as_ref()))?.config();
    assert_eq!((&config["variance_type"], &config["beta_start"]), (&"fixed_large".into(), &0.into()));
    // a key that was not set has Euler's default and is not passed on, until a file sets it
    assert_eq!((&config["new"], config.get("timestep_type")), (&serde_json::json!([1]), None));
    let loaded = registry.from_json(&to_json(euler.as_ref()))?;
    let ddpm = registry.from_config("DDPMScheduler", &loaded.config())?;
    assert_eq!(ddpm.config()["timestep_type"], "discrete");
    Ok(())
}

#[test]
fn pixel_ranges_convert_both_ways_and_clip() -> TestResult {
    let unit = Tensor::new(&[0f32, 0.25, 1.0], &Device::Cpu)?;
    assert_eq!(values(&PixelRange::MinusOneToOne.from_unit(&unit)?), [-1.0, -0.5, 1.0]);
    assert_eq!(values(&PixelRange::ZeroToOne.from_unit(&unit)?), values(&unit));
    let wild = Tensor::new(&[-3f32, -0.5, 3.0], &Device::Cpu)?;
    assert_eq!(values(&PixelRange::MinusOneToOne.to_unit(&wild)?), [0.0, 0.25, 1.0]);
    assert_eq!(values(&PixelRange::ZeroToOne.to_unit(&wild)?), [0.0, 0.0, 1.0]);
    Ok(())
}
