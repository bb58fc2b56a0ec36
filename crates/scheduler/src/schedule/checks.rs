use crate::prelude::*;

/// Refuses noise levels that leave no room between them.
pub(crate) fn check_sigma_range(sigma_min: f64, sigma_max: f64) -> Result<()> {
    check_positive(&[("sigma_min", sigma_min), ("sigma_max", sigma_max)])?;
    ensure(sigma_min < sigma_max, || Error::config(format!("sigma_min is {sigma_min}, but sigma_max is {sigma_max}")))
}

/// Refuses what is not a finite number above 0.
pub(crate) fn check_positive(values: &[(&str, f64)]) -> Result<()> {
    values.iter().try_for_each(|(key, value)| {
        let is_positive = value.is_finite() && *value > 0.0;
        ensure(is_positive, || Error::config(format!("{key} is {value}; it must be a number above 0")))
    })
}

/// Refuses fewer timesteps of training than `least`, and more than anyone has.
pub(crate) fn check_train_timesteps(n: usize, least: usize) -> Result<()> {
    const MOST: usize = 1_000_000;
    ensure((least..=MOST).contains(&n), || {
        Error::config(format!("num_train_timesteps is {n}; it must be between {least} and {MOST}"))
    })
}

/// Refuses an order that is not between 1 and `most`.
pub(crate) fn check_order(key: &str, order: usize, most: usize) -> Result<()> {
    let is_known = (1..=most).contains(&order);
    ensure(is_known, || Error::config(format!("{key} is {order}; it must be between 1 and {most}")))
}

/// Refuses an η that is not between 0, no new noise, and 1.
pub(crate) fn check_eta(eta: f64) -> Result<()> {
    let expected = "it must be between 0 and 1";
    ensure((0.0..=1.0).contains(&eta), || Error::OptionValue { option: "eta", value: eta, expected })
}

/// The most steps that a run can have.
pub(crate) const MOST_STEPS: usize = 1_000_000;

/// Refuses no steps at all, and more than a run of any use has.
pub(crate) fn check_count(steps: usize) -> Result<usize> {
    ensure(steps > 0, || Error::steps(steps, "at least one is needed"))?;
    ensure(steps <= MOST_STEPS, || Error::steps(steps, format!("it can do at most {MOST_STEPS}")))?;
    Ok(steps)
}

/// Refuses no steps, and more than there are timesteps.
pub(crate) fn check_steps(steps: usize, t: usize) -> Result<usize> {
    ensure(steps <= t, || Error::steps(steps, format!("it was trained on {t} timesteps, so it can do at most {t}")))?;
    check_count(steps)
}

/// Refuses timesteps asked for by hand that do not descend, do not exist, or lie between two.
pub(crate) fn check_whole_timesteps(timesteps: &[f64], t: usize) -> Result<Vec<f32>> {
    let checked = check_timesteps(timesteps, t)?;
    match checked.iter().find(|timestep| timestep.fract() != 0.0) {
        Some(bad) => Err(Error::steps(timesteps.len(), format!("timestep {bad} lies between two"))),
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
    match timesteps.array_windows().find(|[a, b]| b >= a) {
        Some([a, b]) => refuse(format!("timesteps have to descend, but {b} follows {a}")),
        None => Ok(timesteps.iter().map(|&timestep| timestep as f32).collect()),
    }
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
