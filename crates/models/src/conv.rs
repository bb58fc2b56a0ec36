use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use kakusan_ops::Features;

use crate::layers::weight_and_bias;

/// A convolution of stride 1 that keeps the size, followed by SiLU: torch's `Conv2d(ci, co, k, padding=k // 2)`.
#[derive(Debug, Clone)]
pub(crate) struct ConvSilu {
    weight: Tensor, // [co, ci, k, k]
    bias: Tensor,   // [co]
}

impl ConvSilu {
    pub(crate) fn new(in_channels: usize, out_channels: usize, kernel: usize, vb: VarBuilder) -> crate::Result<Self> {
        let (weight, bias) = weight_and_bias(&[out_channels, in_channels, kernel, kernel], &vb)?;
        Ok(Self { weight, bias })
    }

    pub(crate) fn forward(&self, x: &Features) -> Result<Features> {
        let padding = self.weight.dim(3)? / 2;
        x.conv2d_silu(&self.weight, Some(&self.bias), padding)
    }
}
