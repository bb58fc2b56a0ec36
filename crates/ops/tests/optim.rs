//! The optimiser, clipping and the average of weights against PyTorch's and diffusers', written by
//! tests/golden/optim.py.

mod common;

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use common::{error, noise};
use kakusan_ops::{
    Adam, AdamConfig, Ema, EmaConfig, Muon, MuonConfig, PowerFunction, Sgd, SgdConfig, clip_factor, clip_grad_norm,
    grad_norm,
};
use kakusan_rng::Generator;

fn golden() -> Result<HashMap<String, Tensor>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/optim.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu)
}

fn warmup() -> EmaConfig {
    EmaConfig {
        max_decay: 0.99,
        use_ema_warmup: true,
        inv_gamma: 2.0,
        power: 0.75,
        update_after_step: 20,
        min_decay: 0.3,
    }
}

/// The gradients of a step, which the script drew from the same seed.
fn gradients(params: &[Var], step: u64) -> Result<GradStore> {
    let mut rng = Generator::new(step);
    let mut grads = GradStore::default();
    for param in params {
        let noise = Tensor::from_vec(rng.randn(param.elem_count()), param.shape(), &Device::Cpu)?;
        grads.insert(param, noise.affine(2f64.powi((step % 7) as i32 - 6), 0.0)?);
    }
    Ok(grads)
}

/// A thousand steps, everything saved and restored in between; `step` does one and returns the norm of its gradients.
fn thousand_steps(
    name: &str,
    weight_decay: f64,
    ema_config: EmaConfig,
    step: impl Fn(&mut Adam, &[Var], GradStore) -> Result<f64>,
) -> Result<()> {
    let golden = golden()?;
    let close = |ours: &Tensor, key: String| -> Result<()> {
        let error = error(ours, &golden[&key])?;
        assert!(error < 1e-6, "{key} is off by {error}");
        Ok(())
    };
    let starts = (0..3).map(|i| &golden[&format!("{name}.{i}.start")]);
    let params = starts.map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let norms = golden[&format!("{name}.norms")].to_vec1::<f32>()?;
    let config = AdamConfig { lr: 0.0, betas: (0.95, 0.999), weight_decay, ..Default::default() };
    let mut adam = Adam::new(params.clone(), config)?;
    let mut ema = Ema::new(params.clone(), ema_config)?;
    for t in 1..=1000u64 {
        adam.set_lr(3e-3 * (t as f64 / 100.0).min(1.0))?;
        let norm = step(&mut adam, &params, gradients(&params, t)?)?;
        let right = f64::from(norms[t as usize - 1]);
        assert!((norm - right).abs() < 1e-6 * right, "{name}: the norm of step {t} is {norm}, not {right}");
        ema.step()?;
        if [1, 2, 10, 100, 500, 1000].contains(&t) {
            for (i, (param, average)) in params.iter().zip(ema.shadow()?).enumerate() {
                close(param, format!("{name}.{i}.param.{t}"))?;
                close(&average, format!("{name}.{i}.ema.{t}"))?;
            }
        }
        if t % 300 == 0 {
            let state = (adam.state()?, ema.state()?);
            (adam, ema) = (Adam::new(params.clone(), config)?, Ema::new(params.clone(), ema_config)?);
            adam.load_state(&state.0)?;
            ema.load_state(&state.1)?;
        }
    }
    for (i, (m, v)) in adam.state()?.moments.iter().enumerate() {
        close(m, format!("{name}.{i}.exp_avg"))?;
        close(v, format!("{name}.{i}.exp_avg_sq"))?;
    }
    Ok(())
}

#[test]
fn a_thousand_steps_clipped_in_the_optimisers_own_pass() -> Result<()> {
    thousand_steps("plain", 0.01, EmaConfig { max_decay: 0.995, ..Default::default() }, |adam, _, grads| {
        adam.step_clipped(&grads, 1.0)
    })
}

#[test]
fn a_thousand_steps_clipped_before() -> Result<()> {
    thousand_steps("warmup", 0.1, warmup(), |adam, params, mut grads| {
        let norm = clip_grad_norm(&mut grads, params, 1.0)?;
        assert!((grad_norm(&grads, params)? - norm.min(1.0)).abs() < 2e-6);
        adam.step(&grads)?;
        Ok(norm)
    })
}

#[test]
fn a_hundred_steps_of_muon() -> Result<()> {
    let golden = golden()?;
    let starts: Vec<_> = (0..3).map(|i| &golden[&format!("muon.{i}.start")]).collect();
    let params = starts.iter().map(|start| Var::from_tensor(start)).collect::<Result<Vec<_>>>()?;
    let config = MuonConfig { lr: 0.0, momentum: 0.9, weight_decay: 0.05 };
    let mut muon = Muon::new(params.clone(), config)?;
    let close = |ours: &Tensor, key: String| -> Result<()> {
        let error = error(ours, &golden[&key])?;
        assert!(error < 1e-5, "{key} is off by {error}");
        Ok(())
    };
    for t in 1..=100u64 {
        muon.set_lr(0.02 * (t as f64 / 10.0).min(1.0))?;
        muon.step_scaled(&gradients(&params, t)?, 1.0)?;
        if [1, 2, 10, 100].contains(&t) {
            for (i, param) in params.iter().enumerate() {
                close(param, format!("muon.{i}.param.{t}"))?;
            }
        }
        if t == 50 {
            let state = muon.state()?;
            muon = Muon::new(params.clone(), config)?;
            muon.load_state(&state)?;
        }
    }
    for (i, mean) in muon.state()?.iter().enumerate() {
        close(mean, format!("muon.{i}.momentum_buffer"))?;
    }
    Ok(())
}

#[test]
fn muon_refuses_what_is_no_matrix_and_bad_settings() -> Result<()> {
    let (matrix, vector) = (Var::ones((2, 2), DType::F32, &Device::Cpu)?, Var::ones(2, DType::F32, &Device::Cpu)?);
    let refusal = |params: &[&Var], config| {
        Muon::new(params.iter().map(|&param| param.clone()).collect(), config).unwrap_err().to_string()
    };
    let defaults = MuonConfig::default();
    assert!(refusal(&[&matrix, &vector], defaults).contains("a parameter is [2], expected a matrix"));
    assert!(refusal(&[&matrix], MuonConfig { momentum: 1.0, ..defaults }).contains("momentum is 1"));
    assert!(refusal(&[&matrix], MuonConfig { lr: f64::NAN, ..defaults }).contains("learning rate is NaN"));
    let mut muon = Muon::new(vec![matrix.clone()], defaults)?;
    assert!(muon.step_scaled(&GradStore::default(), 1.0).unwrap_err().to_string().contains("has no gradient"));
    assert!(muon.load_state(&[Tensor::zeros(3, DType::F32, &Device::Cpu)?]).is_err());
    assert_eq!(matrix.to_vec2::<f32>()?, [[1.0; 2]; 2]);
    Ok(())
}

#[test]
fn a_thousand_steps_of_gradient_descent() -> Result<()> {
    let golden = golden()?;
    for (name, momentum, weight_decay) in [("sgd", 0.0, 0.0), ("momentum", 0.9, 0.01)] {
        let starts: Vec<_> = (0..3).map(|i| &golden[&format!("{name}.{i}.start")]).collect();
        // f64 is computed by the reference
        let params = starts.iter().map(|start| Var::from_tensor(start)).collect::<Result<Vec<_>>>()?;
        let wide =
            starts.iter().map(|start| Var::from_tensor(&start.to_dtype(DType::F64)?)).collect::<Result<Vec<_>>>()?;
        let config = SgdConfig { lr: 0.0, momentum, weight_decay };
        let (mut sgd, mut wide_sgd) = (Sgd::new(params.clone(), config)?, Sgd::new(wide.clone(), config)?);
        for t in 1..=1000u64 {
            let lr = 3e-3 * (t as f64 / 100.0).min(1.0);
            sgd.set_lr(lr)?;
            wide_sgd.set_lr(lr)?;
            let grads = gradients(&params, t)?;
            let factor = clip_factor(grad_norm(&grads, &params)?, 1.0)?;
            sgd.step_scaled(&grads, factor)?;
            let mut wide_grads = GradStore::default();
            for (narrow, wide) in params.iter().zip(&wide) {
                wide_grads.insert(wide, grads.get(narrow).expect("a gradient").to_dtype(DType::F64)?);
            }
            wide_sgd.step_scaled(&wide_grads, factor)?;
            if [1, 2, 10, 100, 500, 1000].contains(&t) {
                for (i, (param, wide)) in params.iter().zip(&wide).enumerate() {
                    let theirs = &golden[&format!("{name}.{i}.param.{t}")];
                    let errors = [error(param, theirs)?, error(&wide.to_dtype(DType::F32)?, theirs)?];
                    // f64 shows what torch's own rounding adds up to
                    assert!(errors[0] < 1e-6 && errors[1] < 5e-6, "{name}, step {t}: {errors:?}");
                }
            }
            if t % 300 == 0 {
                let state = sgd.state()?;
                assert_eq!(state.len(), if momentum == 0.0 { 0 } else { 3 });
                sgd = Sgd::new(params.clone(), config)?;
                sgd.load_state(&state)?;
            }
        }
        for (i, buffer) in sgd.state()?.iter().enumerate() {
            assert!(error(buffer, &golden[&format!("{name}.{i}.momentum_buffer")])? < 1e-6);
        }
        assert!(sgd.load_state(&params.iter().map(|p| p.flatten_all()).collect::<Result<Vec<_>>>()?).is_err());
    }
    let param = Var::new(&[0f32], &Device::Cpu)?;
    assert!(Sgd::new(vec![param], SgdConfig { momentum: -1.0, ..Default::default() }).is_err());
    Ok(())
}

#[test]
fn the_decay_is_diffusers() -> Result<()> {
    let golden = golden()?;
    let late = EmaConfig { update_after_step: 5, min_decay: 0.25, ..Default::default() };
    for (name, config) in [("plain", EmaConfig::default()), ("late", late), ("warmup", warmup())] {
        let right = golden[&format!("decay.{name}")].to_vec1::<f64>()?;
        for (step, right) in (0..60).chain([1_000, 100_000, 10_000_000]).zip(right) {
            let decay = config.decay(step);
            assert!((decay - right).abs() <= 2e-16, "{name}: the decay of step {step} is {decay}, not {right}");
        }
    }
    Ok(())
}

#[test]
fn clipping_what_is_not_finite() -> Result<()> {
    let golden = golden()?;
    for (name, special) in [("nan", f32::NAN), ("inf", f32::INFINITY)] {
        let p = Var::new(&[0f32; 3], &Device::Cpu)?;
        let mut grads = GradStore::default();
        grads.insert(&p, Tensor::new(&[1.0, special, -0.5], &Device::Cpu)?);
        let mut adam = Adam::new(vec![p.clone()], AdamConfig::default())?;
        let bits = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { (x + 0.0).to_bits() };
        let norm = adam.step_clipped(&grads, 1.0)?;
        assert_eq!(bits(norm as f32), bits(special));
        assert_eq!(bits(golden[&format!("clip.{name}.norm")].to_scalar()?), bits(special));
        let finite = p.to_vec1::<f32>()?.iter().filter(|x| x.is_finite()).count();
        assert_eq!(finite, if name == "nan" { 0 } else { 2 });

        clip_grad_norm(&mut grads, std::slice::from_ref(&p), 1.0)?;
        let ours = grads.get(&p).expect("a gradient").to_vec1::<f32>()?;
        let torch = golden[&format!("clip.{name}.grad")].to_vec1::<f32>()?;
        assert!(ours.iter().zip(&torch).all(|(&a, &b)| bits(a) == bits(b)), "{ours:?}, {torch:?}");
    }
    assert_eq!((clip_factor(0.0, 1.0)?, clip_factor(1e30, f64::INFINITY)?), (1.0, 1.0));
    Ok(())
}

#[test]
fn the_average_is_written_where_it_is_wanted() -> Result<()> {
    let params = [Var::new(&[1f32, 2.0], &Device::Cpu)?, Var::new(&[[3f64]], &Device::Cpu)?];
    let other = [Var::new(&[0f32, 0.0], &Device::Cpu)?, Var::new(&[[0f64]], &Device::Cpu)?];
    let mut ema = Ema::new(params.to_vec(), EmaConfig { update_after_step: 0, ..Default::default() })?;
    for value in [10.0, 21.0] {
        for param in &params {
            param.set(&param.zeros_like()?.affine(0.0, value)?)?;
        }
        ema.step()?;
    }
    ema.copy_to(&other)?; // 2/11 of 10 and 9/11 of 21
    assert_eq!(params[0].to_vec1::<f32>()?, [21.0; 2]);
    assert!(other[0].to_vec1::<f32>()?.iter().all(|x| (x - 19.0).abs() < 1e-5));
    assert!((other[1].to_vec2::<f64>()?[0][0] - 19.0).abs() < 1e-12);
    ema.copy_to(&params)?;
    assert_eq!(params[0].to_vec1::<f32>()?, other[0].to_vec1::<f32>()?);
    Ok(())
}

/// f64 is computed by the reference, and the kernels of f32 stay near it.
#[test]
fn optimisers_step_alike_in_f64() -> Result<()> {
    let run = |dtype| -> Result<Vec<Vec<f64>>> {
        let seeds = [1u64, 2, 3];
        let sized = |seed: u64| noise(seed, &[5 * seed as usize])?.to_dtype(dtype);
        let params = seeds.iter().map(|&seed| Var::from_tensor(&sized(seed)?)).collect::<Result<Vec<_>>>()?;
        let config = AdamConfig { weight_decay: 0.05, ..Default::default() };
        let mut adam = Adam::new(params.clone(), config)?;
        let mut ema = Ema::new(params.clone(), EmaConfig::default())?;
        let mut norms = vec![];
        for step in 0..10 {
            let mut grads = GradStore::default();
            for (param, seed) in params.iter().zip(seeds) {
                grads.insert(param, noise(100 * (1 + step) + seed, param.dims())?.to_dtype(dtype)?);
            }
            norms.push(adam.step_clipped(&grads, 4.0)?);
            ema.step()?;
        }
        let state = adam.state()?.moments.into_iter().flat_map(|(m, v)| [m, v]);
        let all = params.iter().map(|p| p.as_tensor().clone()).chain(ema.shadow()?).chain(state);
        let numbers = all.map(|x| x.to_dtype(DType::F64)?.to_vec1());
        [Ok(norms)].into_iter().chain(numbers).collect()
    };
    let (reference, kernels) = (run(DType::F64)?, run(DType::F32)?);
    for (a, b) in reference.iter().flatten().zip(kernels.iter().flatten()) {
        assert!((a - b).abs() <= 1e-6 * (1.0 + a.abs()), "{a} and {b}");
    }
    Ok(())
}

#[test]
fn power_functions_have_the_papers_decays_and_fits() -> Result<()> {
    let golden = golden()?;
    let [wanted] = ["power.wanted"].map(|key| golden[key].to_vec1::<f64>());
    let [weights, decays] = ["power.weights", "power.decays"].map(|key| golden[key].to_vec2::<f64>());
    let (wanted, weights, decays) = (wanted?, weights?, decays?);
    let widths = [0.05, 0.1].map(PowerFunction::of_width);
    let widths = widths.into_iter().collect::<Result<Vec<_>>>()?;
    let at = |time: f64| widths.iter().map(move |width| (time, *width));
    let known: Vec<(f64, PowerFunction)> = [5.0, 10.0, 15.0, 20.0].into_iter().flat_map(at).collect();
    let mut errors = vec![];
    for (i, &sigma_rel) in wanted.iter().enumerate() {
        let function = PowerFunction::of_width(sigma_rel)?;
        for (step, decay) in [1, 2, 10, 1000, 1_000_000].into_iter().zip(&decays[i]) {
            assert!((function.decay(step) - decay).abs() < 1e-12, "{sigma_rel}, step {step}");
        }
        let fit = function.fit(20.0, &known)?;
        for (ours, theirs) in fit.weights.iter().zip(&weights[i]) {
            assert!((ours - theirs).abs() < 1e-9, "{sigma_rel}: {ours} {theirs}");
        }
        errors.push(fit.error);
    }
    let theirs = golden["power.errors"].to_vec1::<f64>()?; // by a sum over many times
    assert!(errors.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4), "{errors:?} {theirs:?}");
    assert!(PowerFunction::of_width(0.3).is_err() && PowerFunction::of_width(f64::NAN).is_err());
    let twice = [known[0], known[0]];
    assert!(known[0].1.fit(1.0, &twice).is_err() && known[0].1.fit(1.0, &[]).is_err());
    Ok(())
}

/// From two averages, saved at eight times, the average of another width comes out as if it had been kept.
#[test]
fn an_average_is_reconstructed_after_the_training() -> Result<()> {
    const STEPS: usize = 400;
    let params = [Var::zeros(200, DType::F32, &Device::Cpu)?];
    let kept = [0.05, 0.1].map(PowerFunction::of_width).into_iter().collect::<Result<Vec<_>>>()?;
    let wanted = [0.07, 0.15, 0.2].map(PowerFunction::of_width).into_iter().collect::<Result<Vec<_>>>()?;
    let ema = |function: &PowerFunction| Ema::power_function(params.to_vec(), *function);
    let mut averages = kept.iter().chain(&wanted).map(ema).collect::<Result<Vec<_>>>()?;
    let (mut rng, mut known, mut saved) = (Generator::new(0), vec![], vec![]);
    for step in 1..=STEPS {
        // a walk, as weights in training
        let noise = Tensor::from_vec(rng.randn(200), 200, &Device::Cpu)?;
        params[0].set(&(params[0].as_tensor() + noise)?)?;
        averages.iter_mut().try_for_each(|average| average.step().map(drop))?;
        if step % (STEPS / 8) == 0 {
            for (function, average) in kept.iter().zip(&averages) {
                known.push((step as f64, *function));
                saved.push(average.shadow()?.remove(0));
            }
        }
    }
    for (function, average) in wanted.iter().zip(&averages[2..]) {
        let fit = function.fit(STEPS as f64, &known)?;
        let mut sum = saved[0].zeros_like()?;
        for (weight, saved) in fit.weights.iter().zip(&saved) {
            sum = (sum + (saved * *weight)?)?;
        }
        let off = error(&sum, &average.shadow()?[0])?;
        assert!(off < 0.01 && fit.error < 0.2, "{off} {fit:?}");
    }
    Ok(())
}
