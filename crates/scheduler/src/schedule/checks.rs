use crate::prelude::*;

/// Refuses noise levels that leave no room between them.
pub(crate) fn check_sigma_range(sigma_min: f64, sigma_max: f64) -> Result<()> {
    check_positive(&[("sigma_min", sigma_min), ("sigma_max", sigma_max)])?;
    if sigma_min >= sigma_max {
        let reason = format!("sigma_min is {sigma_min}, but sigma_max is {sigma_max}");
        return Err(Error::config(reason));
    }
    Ok(())
}

/// Refuses what is not a finite number above 0.
pub(crate) fn check_positive(values: &[(&str, f64)]) -> Result<()> {
    match values.iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
        Some((key, value)) => {
            let reason = format!("{key} is {value}; it must be a number above 0");
            Err(Error::config(reason))
        }
        None => Ok(()),
    }
}

/// Refuses fewer timesteps of training than `least`, and more than anyone has.
pub(crate) fn check_train_timesteps(n: usize, least: usize) -> Result<()> {
    const MOST: usize = 1_000_000;
    if !(least..=MOST).contains(&n) {
        let reason = format!("num_train_timesteps is {n}; it must be between {least} and {MOST}");
        return Err(Error::config(reason));
    }
    Ok(())
}

/// The most steps that a run can have.
pub(crate) const MOST_STEPS: usize = 1_000_000;

/// Refuses no steps at all, and more than a run of any use has.
pub(crate) fn check_count(steps: usize) -> Result<usize> {
    let refuse = |reason: String| Err(Error::steps(steps, reason));
    match steps {
        0 => refuse("at least one is needed".into()),
        1..=MOST_STEPS => Ok(steps),
        _ => refuse(format!("it can do at most {MOST_STEPS}")),
    }
}

/// Refuses no steps, and more than there are timesteps.
pub(crate) fn check_steps(steps: usize, t: usize) -> Result<usize> {
    if steps > t {
        let reason = format!("it was trained on {t} timesteps, so it can do at most {t}");
        return Err(Error::steps(steps, reason));
    }
    check_count(steps)
}

/// Refuses timesteps asked for by hand that do not descend, do not exist, or lie between two.
pub(crate) fn check_whole_timesteps(timesteps: &[f64], t: usize) -> Result<Vec<f32>> {
    let checked = check_timesteps(timesteps, t)?;
    match checked.iter().find(|timestep| timestep.fract() != 0.0) {
        Some(bad) => {
            let reason = format!("timestep {bad} lies between two");
            Err(Error::steps(timesteps.len(), reason))
        }
        None => Ok(checked),
    }
}

/// Refuses timesteps asked for by hand that do not descend, or do not exist in a training of `t` timesteps.
pub(crate) fn check_timesteps(timesteps: &[f64], t: usize) -> Result<Vec<f32>> {
    let refuse = |reason: String| Err(Error::steps(timesteps.len(), reason));
    if timesteps.is_empty() {
        return refuse("at least one is needed".into());
    }
    if let Some(bad) = timesteps.iter().find(|timestep| !(0.0..=(t - 1) as f64).contains(*timestep)) {
        return refuse(format!("timestep {bad} is not one of 0 to {}", t - 1));
    }
    if let Some([a, b]) = timesteps.array_windows().find(|[a, b]| b >= a) {
        return refuse(format!("timesteps have to descend, but {b} follows {a}"));
    }
    Ok(timesteps.iter().map(|&timestep| timestep as f32).collect())
}

/// Refuses noise levels asked for by hand that do not descend from a positive one, or are fewer than the two of a step.
pub(crate) fn check_descending(sigmas: &[f64]) -> Result<()> {
    let steps = sigmas.len().saturating_sub(1);
    let refuse = |reason: String| Err(Error::steps(steps, reason));
    if steps == 0 {
        return refuse("a step leads from one noise level to the next, so at least two are needed".into());
    }
    if let Some(bad) = sigmas.iter().find(|sigma| !(sigma.is_finite() && **sigma >= 0.0)) {
        return refuse(format!("{bad} is no noise level"));
    }
    match sigmas.array_windows().find(|[a, b]| b >= a) {
        Some([a, b]) => refuse(format!("noise levels have to descend, but {b} follows {a}")),
        None => Ok(()),
    }
}
