//! The layers of torch.nn that networks are made of, with torch's initialisation, on [`Features`].

use candle_core::{DType, Tensor};
use candle_nn::Init;
use candle_nn::init::{ONE, ZERO};
use kakusan_ops::{ConvOptions, Features};

use crate::{Error, Result, VarBuilder};

/// Requests the weight and the bias of a convolution or a linear layer, as torch initialises both:
/// `kaiming_uniform_(a=sqrt(5))` for the weight, then uniform within `1 / sqrt(fan_in)` for the bias.
///
/// `shape` is that of the weight; its first dimension is the number of outputs, the others make `fan_in`.
pub(crate) fn weight_and_bias(shape: &[usize], vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let weight = weight(shape, vb)?;
    let bound = 1.0 / fan_in(shape).sqrt();
    let bias = vb.get_with_hints(shape[0], "bias", Init::Uniform { lo: -bound, up: bound }.into())?;
    Ok((weight, bias))
}

/// The weight alone.
pub(crate) fn weight(shape: &[usize], vb: &VarBuilder) -> Result<Tensor> {
    // torch's own order of operations, so that the bound has torch's bits
    let bound = 3f64.sqrt() * ((2.0f64 / 6.0).sqrt() / fan_in(shape).sqrt());
    Ok(vb.get_with_hints(shape, "weight", Init::Uniform { lo: -bound, up: bound }.into())?)
}

fn fan_in(shape: &[usize]) -> f64 {
    shape[1..].iter().product::<usize>() as f64
}

/// `nn.Conv2d` with a bias.
#[derive(Debug, Clone)]
pub(crate) struct Conv2d {
    weight: Tensor, // [co, ci, k, k]
    bias: Tensor,   // [co]
    options: ConvOptions,
}

impl Conv2d {
    pub(crate) fn new(
        [ci, co]: [usize; 2],
        kernel: usize,
        options: impl Into<ConvOptions>,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (weight, bias) = weight_and_bias(&[co, ci, kernel, kernel], &vb)?;
        Ok(Self { weight, bias, options: options.into() })
    }

    pub(crate) fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    pub(crate) fn forward(&self, x: &Features) -> candle_core::Result<Features> {
        x.conv2d(&self.weight, Some(&self.bias), self.options)
    }

    /// SiLU of the convolution.
    pub(crate) fn forward_silu(&self, x: &Features) -> candle_core::Result<Features> {
        x.conv2d_silu(&self.weight, Some(&self.bias), self.options)
    }
}

/// `nn.Linear` with a bias, on the channels of every pixel.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Tensor, // [o, i]
    bias: Tensor,   // [o]
}

impl Linear {
    pub(crate) fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = weight_and_bias(&[outputs, inputs], &vb)?;
        Ok(Self { weight, bias })
    }

    pub(crate) fn forward(&self, x: &Features) -> candle_core::Result<Features> {
        x.linear(&self.weight, Some(&self.bias))
    }
}

/// `nn.GroupNorm` with its factors and summands.
#[derive(Debug, Clone)]
pub(crate) struct GroupNorm {
    weight: Tensor, // [c]
    bias: Tensor,   // [c]
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    pub(crate) fn new(groups: usize, channels: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            let reason = format!(
                "{channels} channels cannot be split into {groups} groups; block_out_channels must be multiples of \
                 norm_num_groups (and attn_norm_num_groups)"
            );
            return Err(Error::Config { origin: vb.prefix(), reason });
        }
        let weight = vb.get_with_hints(channels, "weight", ONE.into())?;
        let bias = vb.get_with_hints(channels, "bias", ZERO.into())?;
        Ok(Self { weight, bias, groups, eps })
    }

    pub(crate) fn forward(&self, x: &Features) -> candle_core::Result<Features> {
        x.group_norm(self.groups, &self.weight, &self.bias, self.eps)
    }

    /// SiLU of the normalised features.
    pub(crate) fn forward_silu(&self, x: &Features) -> candle_core::Result<Features> {
        x.group_norm_silu(self.groups, &self.weight, &self.bias, self.eps)
    }
}

/// The table of `nn.Embedding`: a row of `width` numbers for each of `count` things.
pub(crate) fn embedding(count: usize, width: usize, vb: VarBuilder) -> Result<Tensor> {
    Ok(vb.get_with_hints((count, width), "weight", Init::Randn { mean: 0.0, stdev: 1.0 }.into())?)
}
