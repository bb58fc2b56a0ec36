use std::fmt::{self, Debug};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use super::Guidance;
use crate::{Error, Result};

/// How the gradient of a loss reaches the sample: the two ways of the diffusion course.
///
/// Both predict the image `x̂₀` from the sample `x` and move `x` down the gradient of the loss before the scheduler's
/// step, `x - strength ∇ₓ L(x̂₀)`. The step takes the model's output that was predicted before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuidanceWay {
    /// Through the network: the output depends on the sample. A step costs about two of an unguided one; the images
    /// stay closer to those of the model. It guides any model.
    #[default]
    Through,
    /// Around the network: the output counts as a constant. A step costs little more than an unguided one. It cannot
    /// guide a model that predicts the image itself, on which the sample then has no influence.
    Around,
}

impl FromStr for GuidanceWay {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "through" => Ok(Self::Through),
            "around" => Ok(Self::Around),
            _ => Err(Error::Unfit(format!("the gradient goes `through` or `around` the network, not `{text}`"))),
        }
    }
}

impl fmt::Display for GuidanceWay {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Through => "through",
            Self::Around => "around",
        })
    }
}

/// A [`Guidance`] of a sampling: how strong it is, and in which steps.
///
/// The strength multiplies the loss of each image, whatever the batch. The course's loss is a mean over the batch, so
/// its `guidance_loss_scale` is the strength here times the number of images. For a mean over the pixels, the same
/// effect on larger images takes a strength that is larger in proportion to the pixels.
///
/// ```
/// use kakusan_pipeline::{BrightnessGuidance, ColourGuidance, Guide, SampleOptions};
///
/// // blue, less and less, in the first half of the steps; and bright throughout
/// let blue = ColourGuidance::rgb([0x1e, 0x90, 0xff]);
/// let blue = Guide::new(blue, 40.0).schedule(|progress| 1.0 - progress).steps(0..25);
/// let bright = Guide::new(BrightnessGuidance::new(0.8), 20.0);
/// assert_eq!([blue.strength_at(0, 50), blue.strength_at(25, 50), bright.strength_at(25, 50)], [40.0, 0.0, 20.0]);
/// let options = SampleOptions::new(4).steps(50).guide(blue).guide(bright);
/// ```
#[derive(Clone)]
pub struct Guide {
    guidance: Arc<dyn Guidance>,
    strength: f64,
    schedule: Option<Schedule>,
    steps: Range<usize>,
}

type Schedule = Arc<dyn Fn(f64) -> f64 + Send + Sync>;

impl Guide {
    /// Guides every step with this strength.
    pub fn new(guidance: impl Guidance + 'static, strength: f64) -> Self {
        Self::shared(Arc::new(guidance), strength)
    }

    /// The same with a guidance that is shared.
    pub fn shared(guidance: Arc<dyn Guidance>, strength: f64) -> Self {
        Self { guidance, strength, schedule: None, steps: 0..usize::MAX }
    }

    /// Multiplies the strength by `factor(progress)`: the progress is 0 at the first model call and 1 at the last.
    pub fn schedule(self, factor: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Self {
        Self { schedule: Some(Arc::new(factor)), ..self }
    }

    /// Guides these model calls alone, counted from 0. They are the sampling's steps, unless its method calls the model
    /// several times in a step.
    pub fn steps(self, steps: Range<usize>) -> Self {
        Self { steps, ..self }
    }

    /// The loss.
    pub fn guidance(&self) -> &dyn Guidance {
        self.guidance.as_ref()
    }

    /// The strength at model call `index` of `calls`; 0 at those that it does not guide.
    pub fn strength_at(&self, index: usize, calls: usize) -> f64 {
        if !self.steps.contains(&index) {
            return 0.0;
        }
        let progress = index as f64 / (calls.max(2) - 1) as f64;
        self.strength * self.schedule.as_ref().map_or(1.0, |factor| factor(progress))
    }

    /// Refuses what has no meaning in a sampling of `calls` model calls, the first of which is number `first`.
    pub(super) fn check(&self, first: usize, calls: usize) -> Result<()> {
        let mut strengths = (first..calls).map(|index| self.strength_at(index, calls));
        if let Some(strength) = strengths.find(|strength| !strength.is_finite()) {
            return Err(Error::Unfit(format!("the strength of a guide is {strength}; it must be a number")));
        }
        let Range { start, end } = self.steps;
        if start.max(first) < end.min(calls) {
            return Ok(());
        }
        Err(Error::Unfit(format!(
            "a guide is for the steps from {start} up to {end}, without the last; this sampling has those from {first} \
             to {}",
            calls.saturating_sub(1)
        )))
    }
}

impl Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut guide = f.debug_struct("Guide");
        guide.field("guidance", &self.guidance).field("strength", &self.strength).field("steps", &self.steps);
        guide.finish_non_exhaustive()
    }
}
