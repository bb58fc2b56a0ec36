//! The schedules of every class at every number of steps beside diffusers': `tests/golden/scheduler_grid.py` wrote
//! digests.

use std::path::PathBuf;

use kakusan_scheduler::{Registry, Scheduler};
use safetensors::SafeTensors;
use serde_json::{Map, Value};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// What diffusers has at one number of steps.
struct Expected {
    /// The hash of the timesteps, or their sum where those of noise levels are not whole.
    timesteps: Result<u32, f32>,
    /// The sum of the noise levels.
    sigmas: Option<f32>,
}

#[test]
fn schedules_are_diffusers_own_at_every_number_of_steps() -> TestResult {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/scheduler_grid.safetensors");
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let rows: Vec<Map<String, Value>> = serde_json::from_str(&metadata["rows"])?;
    let floats =
        |name: String| file.tensor(&name).ok().map(|tensor| words(tensor.data()).map(f32::from_bits).collect());
    let (mut compared, mut wrong) = (0, vec![]);
    for (i, row) in rows.iter().enumerate() {
        let config = row["config"].as_object().ok_or("no configuration")?;
        let counts = file.tensor(&format!("{i:03}.counts"))?;
        let counts = counts.data().as_chunks::<2>().0.iter().map(|&bytes| usize::from(u16::from_le_bytes(bytes)));
        let hashes: Option<Vec<u32>> =
            file.tensor(&format!("{i:03}.timesteps")).ok().map(|tensor| words(tensor.data()).collect());
        let (sums, sigmas): (Option<Vec<f32>>, Option<Vec<f32>>) =
            (floats(format!("{i:03}.sums")), floats(format!("{i:03}.sigmas")));
        for class_name in row["classes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let scheduler = Registry::default().build(class_name, config)?;
            for (k, n) in counts.clone().enumerate() {
                let timesteps = match (&hashes, &sums) {
                    (Some(hashes), _) => Ok(hashes[k]),
                    (_, Some(sums)) => Err(sums[k]),
                    _ => return Err("a row without timesteps".into()),
                };
                // the classes of a row share their timesteps; the last noise level is the first class's
                let of_first = row["classes"][0] == class_name;
                let sigmas = sigmas.as_ref().filter(|_| of_first).map(|sigmas| sigmas[k]);
                compared += 1;
                if let Some(difference) = compare(scheduler.as_ref(), n, &Expected { timesteps, sigmas }) {
                    wrong.push(format!("{class_name} {config:?} in {n} steps: {difference}"));
                }
            }
        }
    }
    let shown = wrong.len().min(40);
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong[..shown].join("\n"));
    assert!(compared > 60_000, "only {compared}");
    Ok(())
}

fn compare(scheduler: &dyn Scheduler, n: usize, expected: &Expected) -> Option<String> {
    if matches!(expected.timesteps, Ok(0)) || expected.sigmas.is_some_and(f32::is_nan) {
        return None; // diffusers raises
    }
    let run = match scheduler.run(n) {
        Ok(run) => run,
        // where all timesteps would be one, which diffusers cannot step through
        Err(_) if !scheduler.inference_steps().contains(&n) => return None,
        Err(e) => return Some(e.to_string()),
    };
    let timesteps = run.timesteps();
    match expected.timesteps {
        Ok(hash) if digest(timesteps) != hash => return Some(format!("timesteps are {timesteps:?}")),
        Err(sum) if !close(timesteps, sum) => return Some(format!("timesteps are {timesteps:?}, of the sum {sum}")),
        _ => {}
    }
    let sigmas = run.sigmas().zip(expected.sigmas).filter(|(sigmas, sum)| !close(sigmas, *sum));
    sigmas.map(|(sigmas, sum)| format!("noise levels are {sigmas:?}, of the sum {sum}"))
}

/// Little-endian words of 4 bytes.
fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes))
}

/// `h = 31 h + bits`, as the script has it.
fn digest(numbers: &[f32]) -> u32 {
    numbers.iter().fold(0u32, |hash, number| hash.wrapping_mul(31).wrapping_add(number.to_bits()))
}

/// Whether the numbers, each weighed by its place, have this sum.
fn close(numbers: &[f32], sum: f32) -> bool {
    let weighed = numbers.iter().enumerate().map(|(i, &number)| f64::from(number) * (1 + i % 7) as f64);
    let ours: f64 = weighed.sum();
    (ours - f64::from(sum)).abs() <= 1e-6 * ours.abs().max(1e-3)
}
