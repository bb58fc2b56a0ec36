//! Every scheduler's samplings beside diffusers', over its configurations: `tests/golden/schedulers.py` wrote them
//! down.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use kakusan_config::Config;
use kakusan_rng::{Generator, Noise};
use kakusan_scheduler::{
    Churn, RePaintOptions, RePaintScheduler, Registry, Run, RunOptions, Schedule, Scheduler, to_json,
};
use safetensors::SafeTensors;
use serde_json::Value;

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

const SHAPE: [usize; 4] = [2, 1, 3, 3];
/// Of the largest number of a trajectory.
const TOLERANCE: f32 = 2e-5;

#[test]
fn samplings_are_diffusers_own() -> TestResult {
    let cases = compare_all(&root().join("tests/golden/schedulers"), TOLERANCE)?;
    assert!(cases >= 600, "only {cases} cases");
    Ok(())
}

/// As many random configurations as `KAKUSAN_CASES` says (600), from the seed `KAKUSAN_SEED` (0), by the Python that
/// `KAKUSAN_PYTHON` names. Where diffusers raises or gives what is not a number, ours refuses or gives numbers.
#[test]
#[ignore = "needs a Python with torch and diffusers, named by KAKUSAN_PYTHON"]
fn random_configurations_are_diffusers_own() -> TestResult {
    let var = |name: &str, default: &str| std::env::var(name).unwrap_or(default.into());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("random-schedules");
    std::fs::create_dir_all(&folder)?;
    let done = std::process::Command::new(var("KAKUSAN_PYTHON", "python"))
        .arg(root().join("tests/python/random_schedules.py"))
        .arg(&folder)
        .args([var("KAKUSAN_CASES", "600"), var("KAKUSAN_SEED", "0")])
        .status()?;
    assert!(done.success());
    compare_all(&folder, 1e-4).map(drop)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compares every case of every class in a folder; how many there are.
fn compare_all(dir: &Path, tolerance: f32) -> TestResult<usize> {
    let (mut cases, mut wrong) = (0, vec![]);
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let class_name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path)?;
        let file = SafeTensors::deserialize(&bytes)?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        for (key, text) in header.metadata().clone().unwrap_or_default() {
            match key.as_str() {
                "diffusers" | "torch" => continue,
                "default" => {
                    let default = Registry::default().build(&class_name, &Config::new())?;
                    let ours = to_json(default.as_ref());
                    if ours != text {
                        wrong.push(format!("{class_name} saves\n{ours}where diffusers saves\n{text}"));
                    }
                }
                _ => {
                    cases += 1;
                    let case = kakusan_config::from_json(&text)?;
                    match compare(&class_name, &case, &key, &file, tolerance) {
                        Ok(None) => {}
                        Ok(Some(difference)) => wrong.push(format!("{class_name} {text}: {difference}")),
                        Err(e) => wrong.push(format!("{class_name} {text}: {e}")),
                    }
                }
            }
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {cases} cases differ:\n{}", wrong.len(), wrong.join("\n"));
    Ok(cases)
}

/// Samples as the case says; what differs from diffusers.
fn compare(
    class_name: &str,
    case: &Config,
    key: &str,
    file: &SafeTensors,
    tolerance: f32,
) -> TestResult<Option<String>> {
    let Some(Value::Object(config)) = case.get("config") else { return Err("a case without config".into()) };
    if case.contains_key("fails") {
        let finite = match trajectory(class_name, config, case) {
            Ok((_, ours)) => ours.iter().all(|number| number.is_finite()),
            Err(_) => true,
        };
        return Ok((!finite).then(|| "ours is not a number either".into()));
    }
    let (run, ours) = trajectory(class_name, config, case)?;
    let golden = |name: &str| numbers(file, &format!("{key}.{name}"));
    if let Some(difference) = differ(run.timesteps(), &golden("timesteps")?, tolerance.min(1e-5)) {
        return Ok(Some(format!("timesteps: {difference}")));
    }
    if let (Some(ours), Ok(mut theirs)) = (run.sigmas(), golden("sigmas")) {
        if ours.len() < theirs.len() {
            theirs.dedup(); // some classes repeat a level for each of a step's calls
        }
        if let Some(difference) = differ(ours, &theirs, tolerance.min(1e-5)) {
            return Ok(Some(format!("sigmas: {difference}")));
        }
    }
    Ok(differ(&ours, &golden("trajectory")?, tolerance).map(|difference| format!("trajectory: {difference}")))
}

/// Samples as the case says: the run at its end, and the sample before and after every step.
fn trajectory(class_name: &str, config: &Config, case: &Config) -> TestResult<(Box<dyn Run>, Vec<f32>)> {
    let scheduler = Registry::default().build(class_name, config)?;
    let mut rng = Generator::new(case["seed"].as_u64().unwrap_or(0));
    let mut run = match class_name {
        RePaintScheduler::CLASS_NAME => repaint_run(scheduler.as_ref(), case, &mut rng)?,
        _ => scheduler.run_with(&options(case)?)?,
    };
    let mut x = match case["options"].get("start") {
        None => run.initial_noise(&SHAPE, &Device::Cpu, &mut rng)?,
        Some(_) => {
            let [clean, noise] = [rng.randn_tensor(&SHAPE)?, rng.randn_tensor(&SHAPE)?];
            let [clean, noise] = [clean, noise].map(|values| Tensor::from_vec(values, &SHAPE, &Device::Cpu));
            run.add_noise(&clean?, &noise?)?
        }
    };
    let mut ours = x.flatten_all()?.to_vec1::<f32>()?;
    while let Some(t) = run.timestep() {
        let mut output = run.scale_model_input(&x)?.affine(0.5, 0.2 * f64::from((t / 100.0).cos()) + 0.1)?;
        if case["model_channels"] == 2 {
            let variance = (output.neg()?.exp()? + 1.0)?.recip()?;
            output = Tensor::cat(&[&output, &variance], 1)?;
        }
        x = run.step(&output, &x, &mut rng)?.prev_sample;
        ours.extend(x.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok((run, ours))
}

/// Paints into an image of noise, but for every other pixel.
fn repaint_run(scheduler: &dyn Scheduler, case: &Config, rng: &mut Generator) -> TestResult<Box<dyn Run>> {
    let original = Tensor::from_vec(rng.randn_tensor(&SHAPE)?, &SHAPE, &Device::Cpu)?;
    let mask: Vec<f32> = (0..9).map(|i| (i % 2) as f32).collect();
    let mask = Tensor::from_vec(mask, (1, 1, 3, 3), &Device::Cpu)?;
    let given = &case["options"];
    let count = |value: &Value| value.as_u64().map(|n| n as usize).ok_or("not a count");
    let options = RePaintOptions {
        num_inference_steps: count(&given["num_inference_steps"])?,
        jump_length: count(&given["step"]["jump_length"])?,
        jump_n_sample: count(&given["step"]["jump_n_sample"])?,
        eta: given["step"]["eta"].as_f64(),
    };
    Ok(RePaintScheduler::from_config(&scheduler.config())?.repaint_run(&options, &original, &mask)?)
}

/// The arguments of diffusers' `set_timesteps` and `step`.
fn options(case: &Config) -> TestResult<RunOptions> {
    let given = &case["options"];
    let numbers = |value: &Value| serde_json::from_value::<Vec<f64>>(value.clone());
    let schedule = match (given.get("num_inference_steps"), given.get("timesteps"), given.get("sigmas")) {
        (Some(steps), ..) => Schedule::Steps(serde_json::from_value(steps.clone())?),
        (_, Some(timesteps), _) => Schedule::Timesteps(numbers(timesteps)?),
        (.., Some(sigmas)) => Schedule::Sigmas(numbers(sigmas)?),
        _ => return Err("a case without steps".into()),
    };
    let mut options = RunOptions { schedule, ..RunOptions::default() };
    options.start = given.get("start").and_then(Value::as_u64).unwrap_or(0) as usize;
    options.mu = given.get("mu").and_then(Value::as_f64);
    let mut churn = None;
    for (name, value) in given.get("step").and_then(Value::as_object).into_iter().flatten() {
        let number = || value.as_f64().ok_or(format!("{name} is {value}"));
        match name.as_str() {
            "eta" => options.eta = Some(number()?),
            "order" => options.order = Some(number()? as usize),
            "use_clipped_model_output" => options.use_clipped_model_output = value.as_bool(),
            "s_churn" => churn.get_or_insert_with(Churn::default).s_churn = number()?,
            "s_tmin" => churn.get_or_insert_with(Churn::default).s_tmin = number()?,
            "s_tmax" => churn.get_or_insert_with(Churn::default).s_tmax = number()?,
            "s_noise" => churn.get_or_insert_with(Churn::default).s_noise = number()?,
            _ => return Err(format!("the test knows no option {name}").into()),
        }
    }
    options.churn = churn;
    Ok(options)
}

fn numbers(file: &SafeTensors, name: &str) -> TestResult<Vec<f32>> {
    let tensor = file.tensor(name)?;
    Ok(tensor.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

/// Where `ours` is further from `theirs` than `tolerance` times their largest number.
fn differ(ours: &[f32], theirs: &[f32], tolerance: f32) -> Option<String> {
    if ours.len() != theirs.len() {
        return Some(format!("{} numbers instead of {}: {ours:?} {theirs:?}", ours.len(), theirs.len()));
    }
    let scale = theirs.iter().fold(1e-30f32, |most, value| most.max(value.abs()));
    let error = |i: &usize| (ours[*i] - theirs[*i]).abs() / scale;
    let worst = (0..ours.len()).max_by(|a, b| error(a).total_cmp(&error(b)))?;
    let right = error(&worst) <= tolerance;
    (!right).then(|| format!("number {worst} is {} instead of {} ({:.1e})", ours[worst], theirs[worst], error(&worst)))
}
