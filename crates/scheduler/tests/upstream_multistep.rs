//! The numbers that diffusers' own tests expect of the DPM-Solver family, at 1e-4 (`test_scheduler_dpm_multi.py` and
//! its neighbours); and what the family does better.

mod fixtures;

use candle_core::{Device, Tensor};
use fixtures::{TestResult, assert_sum_mean, full_loop, no_configuration_panics, noise, sample, scheduler};
use kakusan_rng::Generator;
use kakusan_scheduler::{Registry, RunOptions, conformance};
use serde_json::{Value, json};

/// `base` with the keys of `more` over it.
fn with(base: &Value, more: Value) -> Value {
    let mut config = base.clone();
    if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
        config.extend(more);
    }
    config
}

/// diffusers' `full_loop` in ten steps with each of the configurations, and the sums it should give.
fn assert_loops(class_name: &str, base: &Value, loops: &[(Value, f64)]) -> TestResult {
    for (more, sum) in loops {
        let mut run = scheduler(class_name, with(base, more.clone()))?.run(10)?;
        assert_sum_mean(&full_loop(run.as_mut(), sample(), false)?, *sum, *sum / 768.0);
    }
    Ok(())
}

/// diffusers' `full_loop_with_noise`: ten steps, of which the first `start` are left out.
fn assert_loop_with_noise(class_name: &str, base: &Value, start: usize, sum: f64) -> TestResult {
    let options = RunOptions { start, ..RunOptions::steps(10) };
    let mut run = scheduler(class_name, base.clone())?.run_with(&options)?;
    let x = run.add_noise(&sample(), &noise())?;
    assert_sum_mean(&full_loop(run.as_mut(), x, false)?, sum, sum / 768.0);
    Ok(())
}

fn values(x: &Tensor) -> TestResult<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

/// Samples in `steps` steps with a model that halves what it sees; whether all numbers are finite.
fn sampled(class_name: &str, config: Value, options: &RunOptions) -> TestResult<Vec<f32>> {
    let mut run = scheduler(class_name, config)?.run_with(options)?;
    let mut rng = Generator::new(0);
    let mut x = run.initial_noise(&[2, 1, 4, 4], &Device::Cpu, &mut rng)?;
    while run.timestep().is_some() {
        let output = run.scale_model_input(&x)?.affine(0.5, 0.1)?;
        let step = run.step(&output, &x, &mut rng)?;
        assert!(values(&step.pred_original_sample)?.iter().all(|x| x.is_finite()), "{class_name} {options:?}");
        x = step.prev_sample;
    }
    let x = values(&x)?;
    assert!(x.iter().all(|x| x.is_finite()), "{class_name} {options:?}: {x:?}");
    Ok(x)
}

fn refusal(class_name: &str, config: Value) -> String {
    let config = config.as_object().cloned().unwrap_or_default();
    Registry::default().build(class_name, &config).expect_err("it was built").to_string()
}

/// The contract, for every prediction type of `base`, and for a flow where the class has such.
fn assert_contract(class_name: &str, base: &Value) -> TestResult {
    for prediction_type in ["epsilon", "sample", "v_prediction"] {
        let config = with(base, json!({"prediction_type": prediction_type}));
        conformance::check(scheduler(class_name, config)?.as_ref(), &Registry::default())?;
    }
    let flow = json!({"prediction_type": "flow_prediction", "use_flow_sigmas": true});
    conformance::check(scheduler(class_name, with(base, flow))?.as_ref(), &Registry::default())?;
    Ok(())
}

const DPM: &str = "DPMSolverMultistepScheduler";

#[test]
fn dpm_solver_multistep() -> TestResult {
    let base = json!({"lower_order_final": false, "final_sigmas_type": "sigma_min"});
    let v = json!({"prediction_type": "v_prediction"});
    let loops = [
        (json!({}), 253.551392),
        (v.clone(), 172.873962),
        (with(&v, json!({"use_karras_sigmas": true})), 160.6642),
        (with(&v, json!({"use_lu_lambdas": true})), 119.364822),
        (json!({"thresholding": true, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5}), 872.727051),
    ];
    assert_loops(DPM, &base, &loops)?;
    assert_loop_with_noise(DPM, &base, 5, 318.411102)
}

#[test]
fn dpm_solver_multistep_keeps_the_contract() -> TestResult {
    assert_contract(DPM, &json!({}))?;
    assert_contract(DPM, &json!({"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun"}))?;
    let noise = json!({"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "use_karras_sigmas": true});
    assert!(refusal(DPM, with(&noise, json!({"use_flow_sigmas": true}))).contains("use_flow_sigmas spaces"));
    conformance::check(scheduler(DPM, noise)?.as_ref(), &Registry::default())?;
    Ok(())
}

#[test]
fn two_calls_at_one_timestep_are_both_done() -> TestResult {
    // diffusers begins with the second and runs out of noise levels
    let cosine =
        json!({"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": true, "prediction_type": "v_prediction"});
    let run = scheduler(DPM, cosine.clone())?.run(40)?;
    assert_eq!(run.timesteps()[..2], [998.0, 998.0]);
    sampled(DPM, cosine, &RunOptions::steps(40))?;
    // as many steps as timesteps: some noise levels come twice, and diffusers divides by their difference
    for (order, algorithm) in [(2, "dpmsolver++"), (3, "dpmsolver++"), (2, "sde-dpmsolver++")] {
        let config = json!({"solver_order": order, "algorithm_type": algorithm, "num_train_timesteps": 100});
        sampled(DPM, config, &RunOptions::steps(100))?;
    }
    Ok(())
}

#[test]
fn a_predicted_variance_is_left_aside() -> TestResult {
    let mut samples = vec![];
    for variance in [json!(null), json!("learned"), json!("learned_range")] {
        let config = json!({"variance_type": variance, "prediction_type": "sample"});
        let mut run = scheduler(DPM, config)?.run(4)?;
        let mut x = Tensor::ones((1, 2, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
        while run.timestep().is_some() {
            let output = x.affine(0.5, 0.0)?;
            let output = if variance.is_null() { output } else { Tensor::cat(&[&output, &output.exp()?], 1)? };
            x = run.step(&output, &x, &mut Generator::new(0))?.prev_sample;
        }
        samples.push(values(&x)?);
    }
    assert_eq!(samples[0], samples[1]);
    assert_eq!(samples[0], samples[2]);
    Ok(())
}

#[test]
fn classes_take_each_others_configurations() -> TestResult {
    // diffusers' `test_switch`: a configuration that went through all classes gives the same images
    let registry = Registry::default();
    let config = json!({"final_sigmas_type": "sigma_min", "solver_order": 3});
    let unipc = scheduler(UNIPC, config)?;
    let mut switched = unipc.clone();
    for class_name in [SINGLE, DEIS, DPM, INVERSE, UNIPC] {
        switched = registry.from_config(class_name, &switched.config())?;
    }
    let [ours, other] = [unipc, switched].map(|scheduler| full_loop(scheduler.run(10)?.as_mut(), sample(), false));
    assert_eq!(values(&ours?)?, values(&other?)?);
    // a model trained by DDPM has its variances
    for variance_type in ["fixed_small", "fixed_large_log", "learned_range"] {
        let ddpm = scheduler("DDPMScheduler", json!({"variance_type": variance_type}))?;
        for class_name in [SINGLE, DPM, INVERSE, SA, UNIPC, DEIS] {
            let switched = registry.from_config(class_name, &ddpm.config())?;
            assert_eq!(switched.config()["variance_type"], variance_type);
        }
    }
    Ok(())
}

#[test]
fn configurations_that_do_not_go_together_are_refused() -> TestResult {
    let refused = [
        (json!({"solver_order": 4}), "solver_order is 4; it must be between 1 and 3"),
        (json!({"solver_order": 0}), "between 1 and 3"),
        (json!({"algorithm_type": "dpmsolver"}), "set final_sigmas_type to sigma_min"),
        (
            json!({"algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"}),
            "has no solver_order 3",
        ),
        (json!({"algorithm_type": "unipc"}), "`algorithm_type`: unknown variant"),
        (json!({"use_karras_sigmas": true, "use_lu_lambdas": true}), "use_lu_lambdas does not go with"),
        (json!({"prediction_type": "flow_prediction"}), "set use_flow_sigmas"),
        (json!({"prediction_type": "v_prediction", "use_flow_sigmas": true}), "use flow_prediction"),
        (json!({"use_flow_sigmas": true, "flow_shift": 0.0}), "flow_shift is 0"),
        (json!({"use_dynamic_shifting": true}), "use_flow_sigmas is false"),
        (
            json!({"time_shift_type": "linear", "use_flow_sigmas": true, "use_dynamic_shifting": true}),
            "it has no time_shift_type Linear",
        ),
        (json!({"variance_type": "fixed"}), "`variance_type`"),
        (json!({"lambda_min_clipped": 100.0}), "lambda_min_clipped is 100"),
        (json!({"beta_schedule": "sigmoid"}), "it has no beta_schedule Sigmoid"),
    ];
    for (config, reason) in refused {
        let said = refusal(DPM, config);
        assert!(said.contains(reason), "{said}");
    }
    // names that other classes have
    let config = json!({"algorithm_type": "deis", "solver_type": "logrho"});
    let config = scheduler(DPM, config)?.config();
    assert_eq!((&config["algorithm_type"], &config["solver_type"]), (&json!("dpmsolver++"), &json!("midpoint")));
    Ok(())
}

#[test]
fn runs_that_cannot_be_are_refused() -> TestResult {
    let error = |config: Value, options: RunOptions| -> TestResult<String> {
        Ok(scheduler(DPM, config)?.run_with(&options).expect_err("it runs").to_string())
    };
    assert!(error(json!({}), RunOptions::steps(1001))?.contains("it was trained on 1000 timesteps"));
    let leading = json!({"timestep_spacing": "leading", "steps_offset": 600});
    assert!(error(leading.clone(), RunOptions::steps(1000))?.contains("it can do at most 999"));
    // where an offset leads beyond the last timestep the model is told so, at the noise level of the last
    let run = scheduler(DPM, leading)?.run(1)?;
    assert_eq!((run.timesteps(), run.sigmas().map(|sigmas| sigmas[0])), (&[1100.0][..], Some(157.40727)));
    let huge = json!({"timestep_spacing": "leading", "steps_offset": u64::MAX});
    assert!(error(huge, RunOptions::steps(1))?.contains("there is none after 999"));
    let timesteps = RunOptions::timesteps([900.0, 5.0]);
    assert!(error(json!({"use_karras_sigmas": true}), timesteps)?.contains("leave out use_*_sigmas"));
    assert!(error(json!({}), RunOptions { mu: Some(1.0), ..RunOptions::steps(5) })?.contains("use_dynamic_shifting"));
    let shifting = json!({"use_flow_sigmas": true, "use_dynamic_shifting": true});
    assert!(error(shifting, RunOptions { mu: Some(1e9), ..RunOptions::steps(5) })?.contains("`mu` is 1000000000"));
    assert!(error(json!({}), RunOptions::sigmas([1.0, 0.0]))?.contains("no use for `sigmas`"));
    Ok(())
}

const UNIPC: &str = "UniPCMultistepScheduler";

#[test]
fn unipc() -> TestResult {
    let base = json!({"final_sigmas_type": "sigma_min"});
    let loops = [
        (json!({}), 189.231842),
        (json!({"use_karras_sigmas": true}), 224.626709),
        (json!({"prediction_type": "v_prediction"}), 77.8724823),
        (json!({"prediction_type": "v_prediction", "use_karras_sigmas": true}), 150.687286),
    ];
    assert_loops(UNIPC, &base, &loops)?;
    assert_loop_with_noise(UNIPC, &base, 8, 315.575684)
}

#[test]
fn unipc_keeps_the_contract() -> TestResult {
    assert_contract(UNIPC, &json!({}))?;
    assert_contract(UNIPC, &json!({"solver_order": 3, "solver_type": "bh1"}))?;
    let predictor = json!({"_class_name": UNIPC, "disable_corrector": [0, 1]});
    conformance::check(scheduler(UNIPC, json!({"solver_p": predictor}))?.as_ref(), &Registry::default())?;
    Ok(())
}

#[test]
fn unipc_steps_to_no_noise_where_diffusers_divides_by_infinity() -> TestResult {
    for config in [
        json!({"solver_type": "bh1"}),
        json!({"lower_order_final": false, "solver_order": 3}),
        json!({"predict_x0": false}),
        json!({"predict_x0": false, "lower_order_final": false, "solver_type": "bh1"}),
        json!({"num_train_timesteps": 40}), // as many steps as timesteps: some noise levels come twice
        json!({"use_flow_sigmas": true, "prediction_type": "flow_prediction", "use_beta_sigmas": true}),
        json!({"use_flow_sigmas": true, "prediction_type": "flow_prediction", "use_exponential_sigmas": true}),
    ] {
        for steps in [1, 2, 40] {
            sampled(UNIPC, config.clone(), &RunOptions::steps(steps))?;
        }
    }
    // the step to no noise gives the image that was predicted
    let mut run = scheduler(UNIPC, json!({"predict_x0": false, "prediction_type": "sample"}))?.run(1)?;
    let step = run.step(&noise(), &sample(), &mut Generator::new(0))?;
    let difference = (step.prev_sample - noise())?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(difference < 1e-3, "{difference}");
    Ok(())
}

#[test]
fn unipc_thresholds_noise_too() -> TestResult {
    // diffusers leaves it out
    let config = json!({"predict_x0": false, "thresholding": true, "final_sigmas_type": "sigma_min"});
    let mut run = scheduler(UNIPC, config)?.run(5)?;
    let step = run.step(&noise(), &sample(), &mut Generator::new(0))?;
    assert!(values(&step.pred_original_sample)?.iter().all(|x| x.abs() <= 1.0));
    Ok(())
}

#[test]
fn noise_levels_of_a_flow_may_be_asked_for() -> TestResult {
    let flow = json!({"use_flow_sigmas": true, "prediction_type": "flow_prediction"});
    let even: Vec<f64> = (0..5).map(|i| 1.0 - 0.999 * f64::from(i) / 5.0).chain([0.0]).collect();
    let ours = sampled(UNIPC, flow.clone(), &RunOptions::sigmas(even))?;
    assert_eq!(ours, sampled(UNIPC, flow.clone(), &RunOptions::steps(5))?);

    let error = |config: &Value, options: RunOptions| -> TestResult<String> {
        Ok(scheduler(UNIPC, config.clone())?.run_with(&options).expect_err("it runs").to_string())
    };
    assert!(error(&flow, RunOptions::sigmas([1.5, 0.0]))?.contains("1.5 is not between 0 and 1"));
    assert!(error(&flow, RunOptions::sigmas([0.5, 0.5]))?.contains("have to descend"));
    assert!(error(&json!({}), RunOptions::sigmas([1.0, 0.0]))?.contains("but those of a flow"));
    let shifting = with(&flow, json!({"use_dynamic_shifting": true}));
    assert!(error(&shifting, RunOptions::steps(5))?.contains("without `mu`"));
    assert!(error(&flow, RunOptions::steps(0))?.contains("at least one is needed"));
    Ok(())
}

#[test]
fn unipc_refuses_what_does_not_go_together() -> TestResult {
    assert!(refusal(UNIPC, json!({"solver_order": 9})).contains("between 1 and 8"));
    assert!(refusal(UNIPC, json!({"shift_terminal": 0.1})).contains("use_flow_sigmas is false"));
    assert!(refusal(UNIPC, json!({"shift_terminal": 1.0, "use_flow_sigmas": true})).contains("shift_terminal is 1"));
    assert!(refusal(UNIPC, json!({"sigma_min": -1.0})).contains("sigma_min is -1"));
    assert!(refusal(UNIPC, json!({"solver_p": {}})).contains("no _class_name"));
    assert!(refusal(UNIPC, json!({"solver_p": {"_class_name": "NoScheduler"}})).contains("NoScheduler"));
    let other = json!({"solver_p": {"_class_name": DPM, "timestep_spacing": "trailing"}});
    let error = scheduler(UNIPC, other)?.run(10).expect_err("it runs").to_string();
    assert!(error.contains("space both alike"), "{error}");
    Ok(())
}

const DEIS: &str = "DEISMultistepScheduler";

#[test]
fn deis() -> TestResult {
    let loops = [(json!({}), 183.676453), (json!({"prediction_type": "v_prediction"}), 69.9437256)];
    assert_loops(DEIS, &json!({}), &loops)?;
    assert_loop_with_noise(DEIS, &json!({}), 8, 315.301636)
}

#[test]
fn deis_keeps_the_contract() -> TestResult {
    assert_contract(DEIS, &json!({}))?;
    assert_contract(DEIS, &json!({"solver_order": 3, "timestep_spacing": "trailing"}))?;
    sampled(DEIS, json!({"num_train_timesteps": 60, "solver_order": 3}), &RunOptions::steps(60))?;
    assert!(refusal(DEIS, json!({"solver_order": 4})).contains("between 1 and 3"));
    assert!(refusal(DEIS, json!({"solver_type": "euler"})).contains("`solver_type`: unknown variant"));
    Ok(())
}

const SINGLE: &str = "DPMSolverSinglestepScheduler";

#[test]
fn dpm_solver_singlestep() -> TestResult {
    let base = json!({"final_sigmas_type": "sigma_min"});
    let loops = [
        (json!({}), 214.36116),
        (json!({"use_karras_sigmas": true}), 172.680893),
        (json!({"prediction_type": "v_prediction"}), 111.598183),
        (json!({"prediction_type": "v_prediction", "use_karras_sigmas": true}), 49.8476982),
    ];
    assert_loops(SINGLE, &base, &loops)?;
    assert_loop_with_noise(SINGLE, &base, 5, 269.218658)?;
    // begun in the middle, with the sample as it is
    let mut run = scheduler(SINGLE, base)?.run_with(&RunOptions { start: 3, ..RunOptions::steps(50) })?;
    assert_sum_mean(&full_loop(run.as_mut(), sample(), false)?, 197.664307, 0.257375389);
    Ok(())
}

#[test]
fn dpm_solver_singlestep_keeps_the_contract() -> TestResult {
    assert_contract(SINGLE, &json!({}))?;
    assert_contract(SINGLE, &json!({"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun"}))?;
    for order in [2, 3] {
        // as many steps as timesteps: some noise levels come twice
        let config = json!({"num_train_timesteps": 60, "solver_order": order, "solver_type": "heun"});
        sampled(SINGLE, config, &RunOptions::steps(60))?;
    }
    assert!(refusal(SINGLE, json!({"algorithm_type": "sde-dpmsolver"})).contains("take sde-dpmsolver++"));
    assert!(refusal(SINGLE, json!({"algorithm_type": "dpmsolver"})).contains("cannot lead to no noise"));
    assert!(refusal(SINGLE, json!({"timestep_spacing": "leading"})).contains("no key `timestep_spacing`"));
    Ok(())
}

const INVERSE: &str = "DPMSolverMultistepInverseScheduler";

#[test]
fn dpm_solver_multistep_inverse() -> TestResult {
    let base = json!({"lower_order_final": false});
    let loops = [
        (json!({}), 541.199402),
        (json!({"thresholding": true, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5}), 15278.1016),
        (json!({"prediction_type": "v_prediction"}), 1166.87329),
        (json!({"prediction_type": "v_prediction", "use_karras_sigmas": true}), 1368.28369),
    ];
    assert_loops(INVERSE, &base, &loops)
}

#[test]
fn dpm_solver_multistep_inverse_keeps_the_contract() -> TestResult {
    assert_contract(INVERSE, &json!({}))?;
    assert_contract(INVERSE, &json!({"solver_order": 3, "timestep_spacing": "leading"}))?;
    assert!(refusal(INVERSE, json!({"algorithm_type": "sde-dpmsolver++"})).contains("take dpmsolver++"));
    Ok(())
}

#[test]
fn inversion_leads_from_images_to_noise_and_back() -> TestResult {
    // a flow, too, where diffusers leads downwards; and timesteps that calls share, where diffusers leaves out calls
    for config in [json!({}), json!({"use_karras_sigmas": true}), json!({"use_flow_sigmas": true})] {
        let inverse = scheduler(INVERSE, config.clone())?.run(40)?;
        let sigmas = inverse.sigmas().ok_or("no sigmas")?;
        assert_eq!((inverse.timesteps().len(), sigmas.len()), (40, 41));
        assert!(inverse.timesteps().is_sorted() && sigmas.is_sorted() && sigmas[0] > 0.0, "{config} {sigmas:?}");
    }
    let model = |x: &Tensor| x.affine(0.3, 0.0);
    let mut x = sample();
    let mut inverse = scheduler(INVERSE, json!({}))?.run(200)?;
    while inverse.timestep().is_some() {
        x = inverse.step(&model(&x)?, &x, &mut Generator::new(0))?.prev_sample;
    }
    let mut run = scheduler(DPM, json!({"final_sigmas_type": "sigma_min"}))?.run(200)?;
    while run.timestep().is_some() {
        x = run.step(&model(&x)?, &x, &mut Generator::new(0))?.prev_sample;
    }
    let difference = (x - sample())?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(difference < 1e-2, "{difference}");
    Ok(())
}

const SA: &str = "SASolverScheduler";

#[test]
fn sa_solver() -> TestResult {
    let loops = [
        (json!({}), 337.394287),
        (json!({"prediction_type": "v_prediction"}), 193.146774),
        (json!({"use_karras_sigmas": true}), 837.255493),
    ];
    assert_loops(SA, &json!({"num_train_timesteps": 1100}), &loops)
}

#[test]
fn sa_solver_keeps_the_contract() -> TestResult {
    assert_contract(SA, &json!({}))?;
    assert_contract(SA, &json!({"algorithm_type": "noise_prediction", "predictor_order": 3, "corrector_order": 4}))?;
    // as many steps as timesteps: some noise levels come twice
    sampled(SA, json!({"num_train_timesteps": 60, "predictor_order": 3}), &RunOptions::steps(60))?;
    // diffusers cannot
    sampled(SA, json!({"algorithm_type": "noise_prediction", "thresholding": true}), &RunOptions::steps(10))?;
    assert!(refusal(SA, json!({"predictor_order": 5})).contains("predictor_order is 5"));
    assert!(refusal(SA, json!({"corrector_order": 0})).contains("corrector_order is 0"));
    assert!(refusal(SA, json!({"tau_func": "lambda t: 1"})).contains("`tau_func`"));
    Ok(())
}

#[test]
fn tau_is_how_much_noise_sa_solver_adds() -> TestResult {
    let tau = |tau: f64, from: f64, to: f64| json!({"tau_func": {"tau": tau, "from": from, "to": to}});
    let ten = RunOptions::steps(10);
    assert_eq!(sampled(SA, tau(1.0, 200.0, 800.0), &ten)?, sampled(SA, json!({}), &ten)?);
    assert_ne!(sampled(SA, tau(0.5, 200.0, 800.0), &ten)?, sampled(SA, json!({}), &ten)?);
    // without noise it is an ODE, whose steps do not depend on the generator
    let mut samples = vec![];
    for seed in [0, 1] {
        let mut run = scheduler(SA, tau(0.0, 0.0, 999.0))?.run(10)?;
        let mut x = sample();
        while run.timestep().is_some() {
            x = run.step(&x.affine(0.5, 0.1)?, &x, &mut Generator::new(seed))?.prev_sample;
        }
        samples.push(values(&x)?);
    }
    assert_eq!(samples[0], samples[1]);
    assert!(refusal(SA, tau(-1.0, 0.0, 999.0)).contains("tau_func has a tau of -1"));
    Ok(())
}

const EDM: &str = "EDMDPMSolverMultistepScheduler";

#[test]
fn edm_dpm_solver_multistep_as_upstream_tests_it() -> TestResult {
    // upstream never scales the model's input
    let full_loop = |config: Value, start: usize| -> TestResult<Tensor> {
        let base = json!({"lower_order_final": false, "final_sigmas_type": "sigma_min"});
        let options = RunOptions { start, ..RunOptions::steps(10) };
        let mut run = scheduler(EDM, with(&base, config))?.run_with(&options)?;
        let mut x = if start == 0 { sample() } else { run.add_noise(&sample(), &noise())? };
        while let Some(t) = run.timestep() {
            x = run.step(&fixtures::model(&x, t), &x, &mut Generator::new(0))?.prev_sample;
        }
        Ok(x)
    };
    let thresholding = json!({"thresholding": true, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5});
    for (config, start, sum) in [
        (json!({}), 0, 0.10760618),
        (json!({}), 5, 8.16569996),
        (thresholding, 0, 6.20997667),
        (json!({"prediction_type": "v_prediction"}), 0, 7.11017895),
    ] {
        assert_sum_mean(&full_loop(config, start)?, sum, sum / 768.0);
    }
    Ok(())
}

#[test]
fn edm_dpm_solver_multistep_keeps_the_contract() -> TestResult {
    for config in [
        json!({}),
        json!({"prediction_type": "v_prediction", "solver_order": 3}),
        json!({"algorithm_type": "sde-dpmsolver++", "solver_type": "heun", "final_sigmas_type": "sigma_min"}),
    ] {
        conformance::check(scheduler(EDM, config.clone())?.as_ref(), &Registry::default())?;
        sampled(EDM, config, &RunOptions::sigmas([80.0, 5.0, 0.5, 0.1, 0.0]))?;
    }
    assert!(refusal(EDM, json!({"algorithm_type": "dpmsolver"})).contains("dpmsolver++ or sde-dpmsolver++"));
    let third = json!({"algorithm_type": "sde-dpmsolver++", "solver_order": 3});
    assert!(refusal(EDM, third).contains("has no solver_order 3"));
    assert!(refusal(EDM, json!({"prediction_type": "sample"})).contains("has no use for prediction_type"));
    Ok(())
}

#[test]
fn tensors_that_are_no_images_do_no_harm() -> TestResult {
    for class_name in [DPM, UNIPC, DEIS, SINGLE, INVERSE, SA, EDM] {
        for shape in
            [vec![], vec![3], vec![2, 3], vec![2, 3, 4], vec![2, 1, 2, 2, 2], vec![0, 1, 2, 2], vec![2, 0, 2, 2]]
        {
            for config in [json!({}), json!({"thresholding": true}), json!({"variance_type": "learned"})] {
                let known = scheduler(class_name, json!({}))?.config();
                if config.as_object().is_some_and(|config| config.keys().any(|key| !known.contains_key(key))) {
                    continue;
                }
                let mut run = scheduler(class_name, config)?.run(3)?;
                let x = Tensor::ones(shape.as_slice(), candle_core::DType::F32, &Device::Cpu)?;
                let noised = run.add_noise(&x, &x);
                assert_eq!(noised.map(|x| x.dims().to_vec()).unwrap_or(shape.clone()), shape);
                while run.step(&x, &x, &mut Generator::new(0)).is_ok() {}
            }
        }
    }
    Ok(())
}

#[test]
fn higher_orders_and_more_steps_come_closer_to_the_solution() -> TestResult {
    // images of normal pixels, for which the noise that is to be predicted and the way to the image are known
    const VARIANCE: f32 = 0.25;
    let error = |class_name: &str, config: &Value, steps: usize| -> TestResult<f32> {
        let config = with(config, json!({"use_karras_sigmas": true, "lower_order_final": false}));
        let mut run = scheduler(class_name, config)?.run(steps)?;
        let sigmas = run.sigmas().ok_or("no sigmas")?.to_vec();
        let deviation = |sigma: f32| ((VARIANCE + sigma * sigma) / (1.0 + sigma * sigma)).sqrt();
        let mut x = Tensor::ones((1, 1, 1, 1), candle_core::DType::F32, &Device::Cpu)?;
        for sigma in &sigmas[..steps] {
            let of_x = sigma * (1.0 + sigma * sigma).sqrt() / (VARIANCE + sigma * sigma);
            x = run.step(&x.affine(of_x.into(), 0.0)?, &x, &mut Generator::new(0))?.prev_sample;
        }
        Ok((values(&x)?[0] - deviation(sigmas[steps]) / deviation(sigmas[0])).abs())
    };
    for (class_name, config, key) in [
        (DPM, json!({"final_sigmas_type": "sigma_min"}), "solver_order"),
        (DPM, json!({"final_sigmas_type": "sigma_min", "algorithm_type": "dpmsolver"}), "solver_order"),
        (SINGLE, json!({"final_sigmas_type": "sigma_min"}), "solver_order"),
        (UNIPC, json!({"final_sigmas_type": "sigma_min"}), "solver_order"),
        (UNIPC, json!({"final_sigmas_type": "sigma_min", "solver_type": "bh1", "predict_x0": false}), "solver_order"),
        (DEIS, json!({}), "solver_order"),
        (SA, json!({"tau_func": {"tau": 0.0, "from": 0.0, "to": 0.0}, "corrector_order": 1}), "predictor_order"),
        (
            SA,
            json!({"tau_func": {"tau": 0.0, "from": 0.0, "to": 0.0}, "algorithm_type": "noise_prediction"}),
            "predictor_order",
        ),
    ] {
        let order = |order: usize| with(&config, json!({key: order}));
        let (second, third) = (error(class_name, &order(2), 24)?, error(class_name, &order(3), 24)?);
        let twice = error(class_name, &order(2), 48)?;
        assert!(third < second && twice < second / 2.0, "{class_name} {config}: {second} {third} {twice}");
    }
    Ok(())
}

#[test]
fn no_configuration_makes_them_panic() -> TestResult {
    no_configuration_panics(&[DPM, UNIPC, DEIS, SINGLE, INVERSE, SA, EDM])
}
