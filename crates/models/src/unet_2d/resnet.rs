use candle_core::Result;
use kakusan_ops::{Activation, Features};

use super::signal::BlockDropout;
use super::{ActFn, TimeScaleShift};
use crate::VarBuilder;
use crate::layers::{Conv2d, GroupNorm, Linear};

/// What all blocks of a network have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common {
    /// The width of the embedding of the timestep.
    pub(super) time_width: usize,
    pub(super) scale_shift: TimeScaleShift,
    pub(super) activation: ActFn,
    pub(super) dropout: f64,
    pub(super) eps: f64,
    /// The width of an attention's head, or all channels.
    pub(super) head_width: Option<usize>,
}

/// What one residual block is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResnetArgs {
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    /// Groups of the first and of the second normalisation.
    pub(super) groups: [usize; 2],
    /// What the result is divided by.
    pub(super) divisor: f64,
    pub(super) resample: Resample,
}

/// How a residual block changes the size, after its first activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resample {
    None,
    Mean,
    Nearest,
    FirDown,
    FirUp,
}

impl Resample {
    fn forward(self, x: Features) -> Result<Features> {
        match self {
            Self::None => Ok(x),
            Self::Mean => x.avg_pool2d(),
            Self::Nearest => x.upsample_nearest2d(),
            Self::FirDown => x.fir_downsample2d(),
            Self::FirUp => x.fir_upsample2d(),
        }
    }
}

/// diffusers' `ResnetBlock2D`: two convolutions with a shortcut (He et al. 2016), conditioned on the timestep in
/// between.
#[derive(Debug, Clone)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    args: ResnetArgs,
    common: Common,
}

impl ResnetBlock {
    pub(super) fn new(args: ResnetArgs, common: &Common, vb: VarBuilder) -> crate::Result<Self> {
        let ResnetArgs { in_channels, out_channels, groups, resample, .. } = args;
        let time_outputs = match common.scale_shift {
            TimeScaleShift::Default => out_channels,
            TimeScaleShift::ScaleShift => 2 * out_channels,
        };
        let shortcut = in_channels != out_channels || matches!(resample, Resample::FirDown | Resample::FirUp);
        Ok(Self {
            norm1: GroupNorm::new(groups[0], in_channels, common.eps, vb.pp("norm1"))?,
            conv1: Conv2d::new([in_channels, out_channels], 3, 1, vb.pp("conv1"))?,
            time_emb_proj: Linear::new(common.time_width, time_outputs, vb.pp("time_emb_proj"))?,
            norm2: GroupNorm::new(groups[1], out_channels, common.eps, vb.pp("norm2"))?,
            conv2: Conv2d::new([out_channels, out_channels], 3, 1, vb.pp("conv2"))?,
            conv_shortcut: shortcut
                .then(|| Conv2d::new([in_channels, out_channels], 1, 0, vb.pp("conv_shortcut")))
                .transpose()?,
            args,
            common: *common,
        })
    }

    /// `[b, in_channels, h, w] -> [b, out_channels, h, w]`, or half or twice the size; `time` is `[b, width, 1, 1]`.
    pub(super) fn forward(&self, x: &Features, time: &Features, dropout: BlockDropout) -> Result<Features> {
        let resample = self.args.resample;
        let h = resample.forward(self.activated(&self.norm1, x)?)?;
        let x = resample.forward(x.clone())?;
        let h = self.conv1.forward(&h)?;
        let time = self.time_emb_proj.forward(time)?; // [b, out_channels or twice as many, 1, 1]
        let h = match self.common.scale_shift {
            TimeScaleShift::Default => self.activated(&self.norm2, &h.add_vector(&time)?)?,
            TimeScaleShift::ScaleShift => {
                activate(&self.norm2.forward(&h)?.scale_shift(&time)?, self.common.activation)?
            }
        };
        let h = self.conv2.forward(&dropout.drop(h, self.common.dropout)?)?;
        let x = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(&x)?,
            None => x,
        };
        divide(x.add(&h)?, self.args.divisor)
    }

    /// The activation of normalised features; for SiLU both are one pass.
    fn activated(&self, norm: &GroupNorm, x: &Features) -> Result<Features> {
        match self.common.activation {
            ActFn::Silu | ActFn::Swish => norm.forward_silu(x),
            activation => activate(&norm.forward(x)?, activation),
        }
    }
}

pub(super) fn activate(x: &Features, activation: ActFn) -> Result<Features> {
    match activation {
        ActFn::Silu | ActFn::Swish => x.silu(),
        ActFn::Mish => x.activate(Activation::Mish),
        ActFn::Gelu => x.activate(Activation::Gelu),
        ActFn::Relu => x.activate(Activation::Relu),
    }
}

pub(super) fn divide(x: Features, divisor: f64) -> Result<Features> {
    if divisor == 1.0 { Ok(x) } else { x.scale(1.0 / divisor) }
}
