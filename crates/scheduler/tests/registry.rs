//! What the registry makes of names and of configurations.

use kakusan_scheduler::{ClipConfig, DDPMConfig, DDPMScheduler, Registry, Scheduler, to_json};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[test]
fn a_wrong_name_leads_to_the_right_one() {
    let registry = Registry::default();
    for (name, class_name) in [
        ("dpmsolver", "DPMSolverMultistepScheduler"),
        ("dpm++", "DPMSolverMultistepScheduler"),
        ("DPMSolver++", "DPMSolverMultistepScheduler"),
        ("dpmpp_2m", "DPMSolverMultistepScheduler"),
        ("DPM++ 2M Karras", "DPMSolverMultistepScheduler"),
        ("DPM++ 2M SDE Karras", "DPMSolverMultistepScheduler"),
        ("sample_dpmpp_2m_sde", "DPMSolverMultistepScheduler"),
        ("DPM++ SDE", "DPMSolverSDEScheduler"),
        ("dpmpp_2s_ancestral", "DPMSolverSinglestepScheduler"),
        ("DPM2", "KDPM2DiscreteScheduler"),
        ("k_dpm_2", "KDPM2DiscreteScheduler"),
        ("DPM2 a", "KDPM2AncestralDiscreteScheduler"),
        ("k_dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler"),
        ("ddim_scheduler", "DDIMScheduler"),
        ("DDIMSheduler", "DDIMScheduler"),
        ("ddmp", "DDPMScheduler"),
        ("euler a", "EulerAncestralDiscreteScheduler"),
        ("k_euler_a", "EulerAncestralDiscreteScheduler"),
        ("euler_ancestral", "EulerAncestralDiscreteScheduler"),
        ("k_euler", "EulerDiscreteScheduler"),
        ("sample_euler", "EulerDiscreteScheduler"),
        ("k_heun", "HeunDiscreteScheduler"),
        ("k_lms", "LMSDiscreteScheduler"),
        ("plms", "PNDMScheduler"),
        ("unipc", "UniPCMultistepScheduler"),
        ("uni_pc_bh2", "UniPCMultistepScheduler"),
        ("deis", "DEISMultistepScheduler"),
        ("flow_match", "FlowMatchEulerDiscreteScheduler"),
        ("flow_match_euler", "FlowMatchEulerDiscreteScheduler"),
        ("edm", "EDMEulerScheduler"),
        ("linear", "LinearMixScheduler"),
        ("consistency_model", "CMStochasticIterativeScheduler"),
    ] {
        assert_eq!(registry.nearest(name).as_deref(), Some(class_name), "{name}");
        if let Err(e) = registry.resolve(name) {
            assert!(e.to_string().contains(&format!("did you mean `{class_name}`?")), "{e}");
        }
    }
    let nothing = registry.resolve("zzzzz").unwrap_err().to_string();
    assert!(!nothing.contains("did you mean") && nothing.contains("known are CMStochastic"), "{nothing}");
}

/// As diffusers 0.42.1 has it, key by key: null is false, no bound, or the default where the key has no effect.
#[test]
fn null_is_what_diffusers_makes_of_it() -> TestResult {
    let registry = Registry::default();
    let build = |class_name: &str, keys: &str| {
        registry.from_json(&format!(r#"{{"_class_name": "{class_name}", {keys}}}"#)).map(|s| to_json(s.as_ref()))
    };
    for (class_name, keys) in [
        ("DDPMScheduler", r#""variance_type": null"#),
        ("UnCLIPScheduler", r#""variance_type": null"#),
        ("DDPMScheduler", r#""dynamic_thresholding_ratio": null, "sample_max_value": null"#),
        ("DDPMScheduler", r#""thresholding": true, "sample_max_value": null"#),
        ("DDIMScheduler", r#""clip_sample": null, "clip_sample_range": null, "set_alpha_to_one": null"#),
        ("DDIMScheduler", r#""steps_offset": null, "timestep_spacing": "trailing""#),
        ("DEISMultistepScheduler", r#""flow_shift": null, "time_shift_type": null, "use_karras_sigmas": null"#),
        ("EulerDiscreteScheduler", r#""timestep_type": null, "steps_offset": null"#),
        ("LCMScheduler", r#""timestep_spacing": null, "steps_offset": null"#),
        ("DPMSolverMultistepScheduler", r#""beta_schedule": "squaredcos_cap_v2", "beta_start": null"#),
        ("FlowMatchEulerDiscreteScheduler", r#""base_shift": null, "invert_sigmas": null"#),
    ] {
        let saved = build(class_name, keys).map_err(|e| format!("{class_name} {keys}: {e}"))?;
        assert!(saved.contains("null"), "{class_name} {keys} saves {saved}"); // as it was given
    }
    for (class_name, keys, blamed) in [
        ("DDPMScheduler", r#""beta_start": null"#, "beta_start"),
        ("DDPMScheduler", r#""clip_sample_range": null"#, "clip_sample_range"),
        ("DDIMScheduler", r#""steps_offset": null"#, "steps_offset"),
        ("DEISMultistepScheduler", r#""solver_type": null"#, "solver_type"),
        ("EulerDiscreteScheduler", r#""prediction_type": null"#, "prediction_type"),
    ] {
        let refused = build(class_name, keys).unwrap_err().to_string();
        assert!(refused.contains(&format!("`{blamed}`")), "{refused}");
    }
    // no bound: an image of up to 9 is divided by its own
    let image = candle_core::Tensor::new(&[[[[9f32, -9.0, 3.0, 0.0]]]], &candle_core::Device::Cpu)?;
    let keys = r#"{"_class_name": "DDPMScheduler", "prediction_type": "sample", "thresholding": true,
        "dynamic_thresholding_ratio": 1.0, "sample_max_value": null}"#;
    let mut run = registry.from_json(keys)?.run(1)?;
    let step = run.step(&image, &image, &mut kakusan_rng::Generator::new(0))?;
    assert_eq!(step.pred_original_sample.flatten_all()?.to_vec1::<f32>()?, [1.0, -1.0, 1.0 / 3.0, 0.0]);
    Ok(())
}

#[test]
fn a_scheduler_built_by_hand_hands_on_what_is_not_its_default() -> TestResult {
    let registry = Registry::default();
    let ddpm = DDPMScheduler::new(DDPMConfig {
        clip: ClipConfig { clip_sample_range: 2.0, ..ClipConfig::default() },
        ..DDPMConfig::default()
    })?;
    let heun = registry.from_config("HeunDiscreteScheduler", &ddpm.config())?;
    assert_eq!((&heun.config()["clip_sample_range"], &heun.config()["beta_start"]), (&2.0.into(), &0.00085.into()));
    let saved = registry.from_json(&to_json(&ddpm))?;
    let heun = registry.from_config("HeunDiscreteScheduler", &saved.config())?;
    assert_eq!(heun.config()["beta_start"], 0.0001);
    Ok(())
}

#[test]
fn a_class_that_is_not_said_by_its_name_is_told() {
    let said = |text: &str| Registry::default().from_json(text).unwrap_err().to_string();
    assert!(said("{}").contains("it has no `_class_name`"));
    assert!(said(r#"{"_class_name": ["DDPMScheduler"]}"#).contains(r#"its `_class_name` is ["DDPMScheduler"], not"#));
}
