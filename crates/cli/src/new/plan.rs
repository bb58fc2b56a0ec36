//! Chooses the network and the number of steps that suit the time at hand.

use kakusan::pipeline::{Error, Result};
use kakusan::report::thousands;

/// Images of a step: small batches learn more from as many images (docs/fast.md).
pub(super) const BATCH: usize = 16;
/// The channels of the first block, in the order in which they are tried.
const WIDTHS: [usize; 8] = [8, 16, 24, 32, 48, 64, 96, 128];
/// The width that is measured first.
const FIRST: usize = 1;
/// A network of width 16 needs so many steps; wider ones as many more as they have parameters, which are quadratic.
const STEPS_OF_16: f64 = 1000.0;
/// How a step's time grows with the width, to tell whether measuring a wider network is worth it.
const GROWTH: f64 = 1.7;
/// The share of the time that is planned, and what goes before the first step, in seconds.
const SHARE: f64 = 0.92;
const BEFORE: f64 = 3.0;
/// The samples and the pictures at the end take as long as so many steps.
const PICTURES: f64 = 120.0;
/// What a checkpoint takes, in seconds: always, and for each parameter.
const CHECKPOINT: f64 = 0.02;
const CHECKPOINT_OF_PARAMETER: f64 = 4e-8;
/// More passes over the images only memorise them; a small set gets so many steps anyway.
const PASSES: usize = 1000;
const AT_LEAST: usize = 2000;
/// The fewest steps that are worth a configuration.
const LEAST: f64 = 100.0;

/// What was measured of a network.
#[derive(Clone, Copy)]
pub(super) struct Measured {
    /// The channels of its first block.
    pub(super) width: usize,
    pub(super) parameters: usize,
    /// The time of a training step.
    pub(super) seconds: f64,
}

impl Measured {
    /// How many steps the network needs.
    fn needed(&self) -> f64 {
        STEPS_OF_16 * (self.width as f64 / 16.0).powi(2)
    }

    /// The time of a step with its share of the checkpoint that each epoch writes.
    fn step(&self, images: usize) -> f64 {
        let checkpoint = CHECKPOINT + CHECKPOINT_OF_PARAMETER * self.parameters as f64;
        self.seconds + checkpoint / images.div_ceil(BATCH).max(1) as f64
    }

    /// How many steps fit into the time.
    fn fits(&self, seconds: f64, images: usize) -> f64 {
        let left = seconds * SHARE - BEFORE - PICTURES * self.seconds;
        (left / self.step(images)).max(0.0)
    }

    /// The time of a training of so many steps, with its pictures.
    pub(super) fn total(&self, steps: usize, images: usize) -> f64 {
        BEFORE + PICTURES * self.seconds + steps as f64 * self.step(images)
    }
}

/// A network and its training.
pub(super) struct Plan {
    /// What was chosen.
    pub(super) network: Measured,
    pub(super) steps: usize,
    /// All that was measured, in the order of measuring.
    pub(super) measured: Vec<Measured>,
    /// Why it is no wider network, and no more steps.
    pub(super) reason: String,
    /// Whether the steps are too few for good images.
    pub(super) is_short: bool,
}

/// The widest network that gets the steps that it needs. `measure` builds and measures the network of a width; it is
/// called only for those that probably fit.
///
/// # Errors
/// When not even the smallest network fits, and those of `measure`.
pub(super) fn plan(seconds: f64, images: usize, mut measure: impl FnMut(usize) -> Result<Measured>) -> Result<Plan> {
    let most = (PASSES * images / BATCH).max(AT_LEAST) as f64;
    let steps = |network: &Measured| network.fits(seconds, images).min(most);
    let mut network = measure(WIDTHS[FIRST])?;
    let mut measured = vec![network];
    let mut reason = format!("{} channels are the widest network that is tried", WIDTHS[WIDTHS.len() - 1]);
    if steps(&network) < network.needed() {
        let narrow = measure(WIDTHS[0])?;
        measured.push(narrow);
        reason = format!("the time is too short for {} channels", network.width);
        network = narrow;
    } else {
        for &width in &WIDTHS[FIRST + 1..] {
            let guess = Measured {
                width,
                parameters: network.parameters * width.pow(2) / network.width.pow(2),
                seconds: network.seconds * (width as f64 / network.width as f64).powf(GROWTH),
            };
            let mut fits = steps(&guess);
            if fits >= guess.needed() {
                let wider = measure(width)?;
                measured.push(wider);
                fits = steps(&wider);
                if fits >= wider.needed() {
                    network = wider;
                    continue;
                }
            }
            let (fits, needed) = (thousands(rounded(fits)), thousands(rounded(guess.needed())));
            reason = format!("{width} channels would get {fits} steps and need about {needed}");
            break;
        }
    }
    let fits = network.fits(seconds, images);
    if fits < LEAST {
        let enough = network.total(network.needed() as usize, images) / SHARE / 60.0;
        return Err(Error::Unfit(format!(
            "the time is too short: a step takes {:.2} s here, so {fits:.0} fit; give --minutes {:.0}, or a smaller --size",
            network.seconds,
            enough.ceil()
        )));
    }
    if fits > most {
        reason += &format!("; and more than {} passes over so few images would only memorise them", thousands(PASSES));
    }
    let steps = rounded(fits.min(most));
    Ok(Plan { network, steps, measured, reason, is_short: (steps as f64) < 0.9 * network.needed() })
}

/// A number of steps, rounded down to two digits.
fn rounded(steps: f64) -> usize {
    let unit = 10f64.powf((steps.max(10.0)).log10().floor() - 1.0);
    ((steps / unit).floor() * unit) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which a step takes `seconds` at width 16, and grows with a power of the width.
    fn machine(seconds: f64, power: f64) -> impl Fn(usize) -> Result<Measured> {
        move |width| {
            let of_16 = width as f64 / 16.0;
            Ok(Measured { width, parameters: 2400 * width * width, seconds: seconds * of_16.powf(power) })
        }
    }

    #[test]
    fn more_time_gives_wider_networks_and_each_fits_into_it() {
        let mut widths = vec![];
        for minutes in [0.5, 1.0, 3.0, 10.0, 60.0, 600.0, 6000.0] {
            let plan = plan(minutes * 60.0, 18_000, machine(0.04, 1.6)).unwrap();
            let total = plan.network.total(plan.steps, 18_000);
            assert!(total < minutes * 60.0, "{total} of {minutes} minutes");
            // as long as it is not the widest network, most of the time is used
            assert!(total > 0.8 * minutes * 60.0 || plan.steps > 900_000, "{total} of {minutes} minutes");
            assert!(plan.is_short || plan.steps as f64 >= 0.9 * plan.network.needed());
            widths.push(plan.network.width);
        }
        assert!(widths.is_sorted() && widths[0] == 8 && widths[1] == 16 && widths[6] == 128, "{widths:?}");
    }

    #[test]
    fn a_network_is_measured_before_it_is_chosen() {
        // wider networks are far slower than the guess: they are measured, and not taken
        let plan = plan(600.0, 18_000, machine(0.04, 6.0)).unwrap();
        assert_eq!(plan.network.width, 16);
        assert_eq!(plan.measured.iter().map(|measured| measured.width).collect::<Vec<_>>(), [16, 24]);
        assert!(plan.reason.starts_with("24 channels would get "), "{}", plan.reason);
    }

    #[test]
    fn little_time_and_few_images_are_told() {
        let short = plan(12.0, 18_000, machine(0.2, 1.6));
        let said = short.err().map(|e| e.to_string()).unwrap_or_default();
        let minutes: f64 = said.split("--minutes ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        assert!(!plan(minutes * 60.0, 18_000, machine(0.2, 1.6)).unwrap().is_short, "{said}");

        let few = plan(36_000.0, 50, machine(0.01, 1.6)).unwrap();
        assert!(few.steps == 3_100 && few.network.width == 24, "{} {}", few.steps, few.network.width);
        assert!(few.reason.contains("memorise") && !few.is_short, "{}", few.reason);
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([0.0, 7.9, 99.9, 1234.0, 45_678.9].map(rounded), [0, 7, 99, 1200, 45_000]);
    }
}
