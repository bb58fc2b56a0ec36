//! The noise levels that pictures show.

use candle_core::{DType, Device, Tensor};
use kakusan_pipeline::{Error, Result};
use kakusan_rng::Generator;
use kakusan_scheduler::{Process, Scheduler};

/// How many levels are drawn to choose from: with this many draws, each of a thousand timesteps occurs.
const DRAWN: usize = 16_384;
/// The tolerance for sums of α and σ that should be 1 in f32.
const NEARLY: f32 = 1e-4;

/// A few of the levels that a scheduler trains at, from the least noise to the most. Each is one that training draws.
#[derive(Debug, Clone)]
pub(crate) struct NoiseLevels {
    /// What the labels mean, for example `timestep`.
    pub(crate) heading: &'static str,
    /// The scheduler's levels.
    pub(crate) levels: Vec<f32>,
    /// The label above each level's column; all differ.
    pub(crate) labels: Vec<String>,
    /// The factors by which noisy images are multiplied to restore the contrast of the clean ones.
    pub(crate) scales: Vec<f32>,
}

/// A level, and the weights of image and noise there: `α x₀ + σ ε`.
#[derive(Debug, Clone, Copy)]
struct Point {
    level: f32,
    alpha: f32,
    sigma: f32,
}

/// The quantity that labels the levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// σ, if α + σ = 1: the tutorial's mix, or a flow.
    Amount,
    /// The timestep, if levels are integers.
    Timestep,
    /// σ, if α = 1; spaced logarithmically.
    Sigma,
    /// σ / (α + σ) otherwise.
    Share,
}

impl NoiseLevels {
    /// At most `count` levels of `scheduler`; fewer if it has fewer.
    ///
    /// # Errors
    /// When the scheduler fails, or has no level with finite numbers.
    pub(crate) fn of(scheduler: &dyn Scheduler, count: usize) -> Result<Self> {
        let mut points = points(&scheduler.process())?;
        let scale = Scale::of(&points);
        let place = |point: &Point| scale.place(point);
        points.sort_by(|a, b| place(a).total_cmp(&place(b)));
        points.dedup_by(|a, b| a.level == b.level || place(a) == place(b));
        let (Some(first), Some(last)) = (points.first().map(place), points.last().map(place)) else {
            return Err(Error::Unfit(format!("{} has no noise level to show", scheduler.class_name())));
        };

        // evenly spaced: each the nearest existing level, without repetition
        let count = count.min(points.len());
        let mut chosen: Vec<usize> = vec![];
        for i in 0..count {
            let wanted = first + (last - first) * i as f32 / (count.max(2) - 1) as f32;
            let after = points.partition_point(|point| place(point) < wanted).min(points.len() - 1);
            let nearest = match after.checked_sub(1) {
                Some(before) if wanted - place(&points[before]) < place(&points[after]) - wanted => before,
                _ => after,
            };
            let least = chosen.last().map_or(0, |before| before + 1);
            chosen.push(nearest.clamp(least, points.len() - (count - i)));
        }
        let chosen: Vec<Point> = chosen.into_iter().map(|i| points[i]).collect();
        Ok(Self {
            heading: scale.heading(),
            levels: chosen.iter().map(|point| point.level).collect(),
            labels: scale.labels(&chosen),
            scales: chosen.iter().map(Point::contrast).collect(),
        })
    }
}

/// Levels drawn as in training.
fn drawn(process: &Process) -> Result<Vec<f32>> {
    let images = Tensor::zeros((DRAWN, 1, 1, 1), DType::F32, &Device::Cpu)?;
    Ok(process.draw(&images, &mut Generator::new(0))?.levels)
}

/// Levels drawn as in training, with the weights of image and noise at each. Non-finite ones are omitted.
fn points(process: &Process) -> Result<Vec<Point>> {
    let point = |level: f32| -> Result<Point> {
        let (alpha, sigma) = process.alpha_sigma(level)?;
        Ok(Point { level, alpha, sigma })
    };
    let points = drawn(process)?.into_iter().map(point).collect::<Result<Vec<_>>>()?;
    Ok(points.into_iter().filter(|p| p.level.is_finite() && p.alpha.is_finite() && p.sigma.is_finite()).collect())
}

impl Point {
    /// 1, except for a variance-exploding process: there the factor that reduces the variance of image plus noise to 1,
    /// which is the image's variance.
    fn contrast(&self) -> f32 {
        let exploding = (self.alpha - 1.0).abs() < NEARLY;
        if exploding { 1.0 / (1.0 + self.sigma * self.sigma).sqrt() } else { 1.0 }
    }
}

impl Scale {
    /// The scale that fits all levels.
    fn of(points: &[Point]) -> Self {
        let all = |holds: fn(&Point) -> bool| points.iter().all(holds);
        if all(|p| (p.alpha + p.sigma - 1.0).abs() < NEARLY) {
            Self::Amount
        } else if all(|p| p.level.fract() == 0.0) {
            Self::Timestep
        } else if all(|p| (p.alpha - 1.0).abs() < NEARLY && p.sigma > 0.0) {
            Self::Sigma
        } else {
            Self::Share
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Amount => "amount of noise",
            Self::Timestep => "timestep",
            Self::Sigma => "noise level σ",
            Self::Share => "share of noise",
        }
    }

    /// The number in a level's label.
    fn value(self, point: &Point) -> f32 {
        match self {
            Self::Amount | Self::Sigma => point.sigma,
            Self::Timestep => point.level,
            Self::Share => point.sigma.abs() / (point.alpha.abs() + point.sigma.abs()),
        }
    }

    /// A level's position on the scale.
    fn place(self, point: &Point) -> f32 {
        if self == Self::Sigma { self.value(point).ln() } else { self.value(point) }
    }

    /// The labels, with as few digits as distinguish them.
    fn labels(self, points: &[Point]) -> Vec<String> {
        let written = |digits: usize| -> Vec<String> {
            let number = |point: &Point| match (self, self.value(point)) {
                (Self::Timestep, value) => value.to_string(),
                (Self::Sigma, value) => {
                    let magnitude = value.log10().floor() as isize; // the number of digits before the point, minus one
                    let after = (digits as isize - 1 - magnitude).max(0) as usize;
                    format!("{value:.after$}")
                }
                (_, value) => format!("{value:.digits$}"),
            };
            points.iter().map(number).collect()
        };
        let differ = |labels: &[String]| labels.windows(2).all(|pair| pair[0] != pair[1]);
        (2..9).map(written).find(|labels| differ(labels)).unwrap_or_else(|| written(9))
    }
}

#[cfg(test)]
mod tests {
    use kakusan_scheduler::Registry;
    use serde_json::{Map, json};

    use super::*;

    fn levels(class_name: &str, set: serde_json::Value) -> NoiseLevels {
        let serde_json::Value::Object(fields) = set else { panic!("{set}") };
        NoiseLevels::of(Registry::default().build(class_name, &fields).unwrap().as_ref(), 8).unwrap()
    }

    #[test]
    fn levels_are_told_as_their_scheduler_knows_them() {
        let amounts = "0.00 0.14 0.29 0.43 0.57 0.71 0.86 1.00";
        let timesteps = "0 143 285 428 571 714 856 999";
        let cases = [
            ("LinearMixScheduler", json!({}), "amount of noise", amounts),
            ("LinearMixScheduler", json!({"timestep": 0}), "amount of noise", amounts),
            ("FlowMatchEulerDiscreteScheduler", json!({}), "amount of noise", amounts),
            ("DDPMScheduler", json!({}), "timestep", timesteps),
            ("EulerDiscreteScheduler", json!({"use_karras_sigmas": true}), "timestep", timesteps),
            ("DDPMScheduler", json!({"num_train_timesteps": 5}), "timestep", "0 1 2 3 4"),
            ("DDPMScheduler", json!({"num_train_timesteps": 1}), "timestep", "0"),
            ("EDMEulerScheduler", json!({}), "noise level σ", "0.0020 0.0091 0.042 0.19 0.85 3.9 18 80"),
            ("KarrasVeScheduler", json!({}), "noise level σ", ""),
            ("ScoreSdeVeScheduler", json!({}), "noise level σ", "0.010 0.054 0.29 1.6 8.5 46 249 1348"),
            ("CMStochasticIterativeScheduler", json!({}), "noise level σ", ""),
            ("IPNDMScheduler", json!({}), "share of noise", ""),
            ("ScoreSdeVpScheduler", json!({}), "share of noise", ""),
        ];
        for (class_name, set, heading, labels) in cases {
            let shown = levels(class_name, set);
            assert_eq!(shown.heading, heading, "{class_name}");
            if !labels.is_empty() {
                assert_eq!(shown.labels.join(" "), labels, "{class_name}");
            }
        }
    }

    #[test]
    fn every_scheduler_has_levels_from_an_image_to_noise() {
        for class_name in Registry::default().class_names() {
            let scheduler = Registry::default().build(&class_name, &Map::new()).unwrap();
            let NoiseLevels { levels, labels, .. } = NoiseLevels::of(scheduler.as_ref(), 8).unwrap();
            assert_eq!((levels.len(), labels.len()), (8, 8), "{class_name}");
            let mut apart = labels.clone();
            apart.dedup();
            assert_eq!(apart, labels, "{class_name}");
            let ones = Tensor::ones((8, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
            let noised = |clean: &Tensor, noise: &Tensor| -> Vec<f32> {
                scheduler.process().add_noise(clean, noise, &levels).unwrap().flatten_all().unwrap().to_vec1().unwrap()
            };
            let zeros = ones.zeros_like().unwrap();
            let (clean, noise) = (noised(&ones, &zeros), noised(&zeros, &ones));
            let ratios: Vec<f32> = clean.iter().zip(&noise).map(|(a, s)| s / (a + s)).collect();
            assert!(ratios.is_sorted_by(|a, b| a < b), "{class_name}: {ratios:?}");
            assert!(ratios[0] < 0.05 && ratios[7] > 0.9, "{class_name}: {ratios:?}");
        }
    }
}
