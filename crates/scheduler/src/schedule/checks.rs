use super::check_timesteps;
use crate::{Error, Result};

/// Refuses noise levels that leave no room between them.
pub(crate) fn check_sigma_range(class_name: &str, sigma_min: f64, sigma_max: f64) -> Result<()> {
    check_positive(class_name, &[("sigma_min", sigma_min), ("sigma_max", sigma_max)])?;
    if sigma_min >= sigma_max {
        let reason = format!("sigma_min is {sigma_min}, but sigma_max is {sigma_max}");
        return Err(Error::Config { class_name: class_name.to_owned(), reason });
    }
    Ok(())
}

/// Refuses what is not a finite number above 0.
pub(crate) fn check_positive(class_name: &str, values: &[(&str, f64)]) -> Result<()> {
    match values.iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
        Some((key, value)) => {
            let reason = format!("{key} is {value}; it must be a number above 0");
            Err(Error::Config { class_name: class_name.to_owned(), reason })
        }
        None => Ok(()),
    }
}

/// Refuses fewer timesteps of training than `least`, and more than anyone has.
pub(crate) fn check_train_timesteps(class_name: &str, n: usize, least: usize) -> Result<()> {
    const MOST: usize = 1_000_000;
    if !(least..=MOST).contains(&n) {
        let reason = format!("num_train_timesteps is {n}; it must be between {least} and {MOST}");
        return Err(Error::Config { class_name: class_name.to_owned(), reason });
    }
    Ok(())
}

/// The most steps that a run can have.
pub(crate) const MOST_STEPS: usize = 1_000_000;

/// Refuses no steps at all, and more than a run of any use has.
pub(crate) fn check_count(class_name: &str, steps: usize) -> Result<usize> {
    let refuse = |reason: String| Err(Error::Steps { class_name: class_name.to_owned(), steps, reason });
    match steps {
        0 => refuse("at least one is needed".into()),
        1..=MOST_STEPS => Ok(steps),
        _ => refuse(format!("it can do at most {MOST_STEPS}")),
    }
}

/// Refuses no steps, and more than there are timesteps.
pub(crate) fn check_steps(class_name: &str, steps: usize, t: usize) -> Result<usize> {
    if steps > t {
        let reason = format!("it was trained on {t} timesteps, so it can do at most {t}");
        return Err(Error::Steps { class_name: class_name.to_owned(), steps, reason });
    }
    check_count(class_name, steps)
}

/// Refuses timesteps asked for by hand that do not descend, do not exist, or lie between two.
pub(crate) fn check_whole_timesteps(class_name: &str, timesteps: &[f64], t: usize) -> Result<Vec<f32>> {
    let checked = check_timesteps(class_name, timesteps, t)?;
    match checked.iter().find(|timestep| timestep.fract() != 0.0) {
        Some(bad) => {
            let reason = format!("timestep {bad} lies between two");
            Err(Error::Steps { class_name: class_name.to_owned(), steps: timesteps.len(), reason })
        }
        None => Ok(checked),
    }
}
