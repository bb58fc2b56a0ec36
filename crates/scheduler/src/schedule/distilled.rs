use super::check_whole_timesteps;
use crate::{Error, Result, RunOptions, Schedule};

/// The timesteps of a distilled model (Luo et al. 2023, section 4.3): `n` of the `original_steps` that it was distilled
/// on, evenly by their place, from the last of the `t` timesteps of training on; or those asked for by hand.
pub(crate) fn distilled_timesteps(
    class_name: &str,
    options: &RunOptions,
    original_steps: usize,
    t: usize,
) -> Result<Vec<f32>> {
    if let Schedule::Timesteps(timesteps) = &options.schedule {
        return check_whole_timesteps(class_name, timesteps, t);
    }
    let steps = options.num_steps();
    let refuse = |reason: String| Err(Error::Steps { class_name: class_name.to_owned(), steps, reason });
    match steps {
        0 => refuse("at least one is needed".into()),
        _ if steps > original_steps => refuse(format!(
            "its steps are some of the {original_steps} of the distillation (original_inference_steps), so it can do at \
             most {original_steps}"
        )),
        _ => {
            let k = t / original_steps;
            let apart = original_steps as f64 / steps as f64; // in numpy's arithmetic, which may round a place down
            let place = |i: usize| original_steps - (i as f64 * apart) as usize;
            Ok((0..steps).map(|i| (place(i) * k - 1) as f32).collect())
        }
    }
}

/// Refuses a distillation on no timesteps, or on more than there are.
pub(crate) fn check_original_steps(class_name: &str, original_steps: usize, t: usize) -> Result<()> {
    if (1..=t).contains(&original_steps) {
        return Ok(());
    }
    let reason =
        format!("original_inference_steps is {original_steps}; it must be between 1 and num_train_timesteps, {t}");
    Err(Error::Config { class_name: class_name.to_owned(), reason })
}
