use candle_core::Result;
use kakusan_ops::Features;

use super::attention::Attention;
use super::block::Block;
use super::resnet::{Common, Resample, ResnetArgs, ResnetBlock};
use super::signal::Signal;
use super::{TimeScaleShift, UNet2DConfig, skip_groups};
use crate::VarBuilder;

/// diffusers' `UNetMidBlock2D`: a residual block, attention, and another residual block, at the lowest resolution.
#[derive(Debug, Clone)]
pub(super) struct MidBlock {
    first: Block,
    last: Block,
}

impl MidBlock {
    pub(super) fn new(config: &UNet2DConfig, common: &Common, vb: VarBuilder) -> crate::Result<Self> {
        let channels = config.block_out_channels[config.block_out_channels.len() - 1];
        let groups = config.norm_num_groups.unwrap_or_else(|| skip_groups(channels));
        let divisor = config.mid_block_scale_factor;
        let args = ResnetArgs {
            in_channels: channels,
            out_channels: channels,
            groups: [groups; 2],
            divisor,
            resample: Resample::None,
        };
        let of_attention = config.attn_norm_num_groups.or(match config.resnet_time_scale_shift {
            TimeScaleShift::Default => Some(groups),
            TimeScaleShift::ScaleShift => None,
        });
        let first = ResnetBlock::new(args, common, vb.pp("resnets.0"))?;
        let attention = config
            .add_attention
            .then(|| Attention::new(channels, of_attention, divisor, common, vb.pp("attentions.0")))
            .transpose()?;
        let last = ResnetBlock::new(args, common, vb.pp("resnets.1"))?;
        Ok(Self { first: Block::new(first, attention), last: Block::new(last, None) })
    }

    /// `[b, c, h, w] -> [b, c, h, w]`
    pub(super) fn forward(&self, h: &Features, signal: &Signal) -> Result<Features> {
        self.last.forward(&self.first.forward(h, signal)?, signal)
    }
}
