use crate::prelude::*;

config! {
    /// Clipping of predicted images, under diffusers' names.
    #[derive(Copy)]
    pub struct ClipConfig {
        /// Whether images are clipped.
        pub clip_sample: bool = true,
        /// Where they are clipped: to plus and minus this.
        pub clip_sample_range: f64 = 1.0,
    }
}

impl ClipConfig {
    /// Not at all.
    pub fn off() -> Self {
        Self { clip_sample: false, ..Self::default() }
    }

    /// Says what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        check_positive(&[("clip_sample_range", self.clip_sample_range)])
    }

    /// Whether images are clipped, which are not where they are thresholded.
    pub(crate) fn is_on(&self, threshold: &ThresholdConfig) -> bool {
        self.clip_sample && !threshold.thresholding
    }

    pub(crate) fn clip(&self, x0: Tensor) -> Result<Tensor> {
        let range = self.clip_sample_range as f32;
        if self.clip_sample { Ok(x0.clamp(-range, range)?) } else { Ok(x0) }
    }
}

config! {
    /// Dynamic thresholding of predicted images (Saharia et al. 2022, section 2.3), under diffusers' names.
    #[derive(Copy)]
    pub struct ThresholdConfig {
        /// Whether images are thresholded, in place of clipping.
        pub thresholding: bool = false,
        /// The quantile of an image's absolute values that becomes its bound `s`.
        pub dynamic_thresholding_ratio: f64 = 0.995,
        /// The largest `s`; the smallest is 1.
        pub sample_max_value: f64 = 1.0,
    }
}

impl ThresholdConfig {
    /// Says what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { dynamic_thresholding_ratio: ratio, sample_max_value: most, .. } = *self;
        ensure((0.0..=1.0).contains(&ratio), || {
            Error::config(format!("dynamic_thresholding_ratio is {ratio}; a quantile is between 0 and 1"))
        })?;
        ensure(!most.is_nan(), || Error::config("sample_max_value is not a number"))
    }

    /// A predicted image `[b, ...]`, thresholded where this is on.
    pub(crate) fn apply(&self, x0: Tensor) -> Result<Tensor> {
        if self.thresholding { self.threshold(&x0) } else { Ok(x0) }
    }

    /// A predicted image `[b, ...]`, thresholded where this is on, and otherwise clipped where `clip` is.
    pub(crate) fn threshold_or_clip(&self, x0: Tensor, clip: &ClipConfig) -> Result<Tensor> {
        if self.thresholding { self.threshold(&x0) } else { clip.clip(x0) }
    }

    /// Clips each image `[b, ...]` to its own `[-s, s]` and divides it by `s`, which counts as a constant where candle
    /// differentiates this.
    fn threshold(&self, sample: &Tensor) -> Result<Tensor> {
        let images: Vec<Vec<f32>> = sample.flatten_from(1)?.to_vec2()?;
        let bound = |image: Vec<f32>| {
            let mut sizes: Vec<f32> = image.iter().map(|value| value.abs()).collect();
            sizes.sort_by(f32::total_cmp);
            // clamped as torch does it: where the two bounds cross, the upper one holds
            quantile(&sizes, self.dynamic_thresholding_ratio as f32).max(1.0).min(self.sample_max_value as f32)
        };
        let s = per_image(images.into_iter().map(bound).collect(), sample)?;
        let clipped = sample.broadcast_maximum(&s.neg()?)?.broadcast_minimum(&s)?;
        Ok(clipped.broadcast_div(&s)?)
    }
}

/// `torch.quantile` of sorted values, between two of them in proportion.
fn quantile(sorted: &[f32], q: f32) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else { return f32::NAN };
    let rank = q * last as f32;
    let below = (rank.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (rank - rank.floor()) * (sorted[above] - sorted[below])
}
