//! The classifier's network.

use candle_core::Tensor;
use candle_nn::Init;
use candle_nn::init::{DEFAULT_KAIMING_NORMAL, ZERO};
use kakusan_models::{Result, VarBuilder};
use kakusan_ops::{Features, network};

/// The features of an image.
pub(super) const FEATURES: usize = 64;
/// Larger images are halved, by averages, until their shorter side is no longer than this.
const LARGEST: usize = 64;
/// A block follows while the shorter side is at least this long.
const SMALLEST: usize = 6;
/// The channels of the blocks; further ones are as wide as the last.
const WIDTHS: [usize; 3] = [16, 32, 64];

/// Blocks of a convolution with SiLU and a pooling, a hidden layer whose outputs are the features, and one score for
/// each class.
pub(super) struct Network {
    halvings: usize,
    blocks: Vec<Layer>,
    hidden: Layer,
    scores: Layer,
}

/// The weight and the bias of a convolution or a linear layer.
struct Layer {
    weight: Tensor,
    bias: Tensor,
}

impl Layer {
    fn new(shape: &[usize], init: Init, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(shape, "weight", init.into())?;
        Ok(Self { weight, bias: vb.get_with_hints(shape[0], "bias", ZERO.into())? })
    }

    fn conv_silu(&self, x: &Features) -> candle_core::Result<Features> {
        x.conv2d_silu(&self.weight, Some(&self.bias), 1)
    }

    fn linear(&self, x: &Features) -> candle_core::Result<Features> {
        x.linear(&self.weight, Some(&self.bias))
    }
}

impl Network {
    pub(super) fn new([channels, mut height, mut width]: [usize; 3], classes: usize, vb: VarBuilder) -> Result<Self> {
        let mut halvings = 0;
        while height.min(width) > LARGEST {
            (height, width, halvings) = (height / 2, width / 2, halvings + 1);
        }
        let (mut blocks, mut ci) = (vec![], channels);
        while height.min(width) >= SMALLEST {
            let co = WIDTHS[blocks.len().min(WIDTHS.len() - 1)];
            let vb = vb.pp("blocks").pp(blocks.len());
            blocks.push(Layer::new(&[co, ci, 3, 3], DEFAULT_KAIMING_NORMAL, vb)?);
            (height, width, ci) = (height / 2, width / 2, co);
        }
        let hidden = Layer::new(&[FEATURES, ci * height * width], DEFAULT_KAIMING_NORMAL, vb.pp("hidden"))?;
        let small = Init::Uniform { lo: -1.0 / (FEATURES as f64).sqrt(), up: 1.0 / (FEATURES as f64).sqrt() };
        let scores = Layer::new(&[classes, FEATURES], small, vb.pp("scores"))?;
        Ok(Self { halvings, blocks, hidden, scores })
    }

    /// The features `[n, FEATURES]` of images `[n, c, h, w]` with pixels from 0 to 1.
    pub(super) fn features(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let images = images.affine(2.0, -1.0)?;
        let last = network([&images], |[x]| {
            let mut x = x;
            for _ in 0..self.halvings {
                x = x.avg_pool2d()?;
            }
            for block in &self.blocks {
                x = block.conv_silu(&x)?.max_pool2d()?;
            }
            Ok(x)
        })?;
        let flat = last.flatten_from(1)?;
        let (n, size) = flat.dims2()?;
        let hidden = network([&flat.reshape((n, size, 1, 1))?], |[x]| self.hidden.linear(&x)?.silu())?;
        hidden.reshape((n, FEATURES))
    }

    /// The scores `[n, classes]` of features.
    pub(super) fn scores(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        let n = features.dim(0)?;
        let scores = network([&features.reshape((n, FEATURES, 1, 1))?], |[x]| self.scores.linear(&x))?;
        scores.flatten_from(1)
    }
}
