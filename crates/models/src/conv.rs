use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use kakusan_ops::Features;

/// A convolution of stride 1 that keeps the size, followed by SiLU: torch's `Conv2d(ci, co, k, padding=k // 2)` with
/// its initialisation, `kaiming_uniform_(a=sqrt(5))` for the weight, then uniform within `1 / sqrt(fan_in)` for the bias.
#[derive(Debug, Clone)]
pub(crate) struct ConvSilu {
    weight: Tensor, // [co, ci, k, k]
    bias: Tensor,   // [co]
}

impl ConvSilu {
    pub(crate) fn new(in_channels: usize, out_channels: usize, kernel: usize, vb: VarBuilder) -> Result<Self> {
        let fan_in = (in_channels * kernel * kernel) as f64;
        // torch's own order of operations, so that the bound has torch's bits
        let bound = 3f64.sqrt() * ((2.0f64 / 6.0).sqrt() / fan_in.sqrt());
        let shape = (out_channels, in_channels, kernel, kernel);
        let weight = vb.get_with_hints(shape, "weight", Init::Uniform { lo: -bound, up: bound })?;
        let bound = 1.0 / fan_in.sqrt();
        let bias = vb.get_with_hints(out_channels, "bias", Init::Uniform { lo: -bound, up: bound })?;
        Ok(Self { weight, bias })
    }

    pub(crate) fn forward(&self, x: &Features) -> Result<Features> {
        let padding = self.weight.dim(3)? / 2;
        x.conv2d_silu(&self.weight, Some(&self.bias), padding)
    }
}
