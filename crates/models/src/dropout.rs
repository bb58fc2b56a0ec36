use candle_core::{Device, Tensor};
use kakusan_rng::Generator;

/// The dropout of a training step. Which activations are dropped depends only on the seed, the step, an image's place
/// in the batch and the layer, so a batch may be split in any way and computed on any number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropout {
    /// The seed of the training.
    pub seed: u64,
    /// Which step of it.
    pub step: u64,
    /// The place in the batch of the first image that the model is given.
    pub first_image: usize,
}

impl Dropout {
    /// A mask of ones, and zeros with probability `p`, for features `[b, c, h, w]` at a `layer` of the network.
    ///
    /// # Errors
    /// When `p` is not a probability.
    pub fn mask(self, layer: usize, [b, c, h, w]: [usize; 4], p: f64) -> candle_core::Result<Tensor> {
        let mut mask = Vec::with_capacity(b * c * h * w);
        for image in 0..b {
            let place = [self.step, layer as u64, (self.first_image + image) as u64];
            let seed = place.into_iter().fold(self.seed, |seed, n| mix(seed ^ mix(n)));
            let kept = Generator::new(seed).bernoulli(c * h * w, 1.0 - p).map_err(candle_core::Error::wrap)?;
            mask.extend(kept.into_iter().map(u8::from));
        }
        Tensor::from_vec(mask, (b, c, h, w), &Device::Cpu)
    }
}

/// Makes all bits depend on all bits of the seed (SplitMix64, Steele et al. 2014).
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
