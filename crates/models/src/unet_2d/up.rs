use std::f64::consts::SQRT_2;

use candle_core::{Result, bail};
use kakusan_ops::Features;

use super::attention::Attention;
use super::block::Block;
use super::resnet::{Common, Resample, ResnetArgs, ResnetBlock};
use super::signal::Signal;
use super::{SampleType, UNet2DConfig, UpBlock, skip_groups};
use crate::VarBuilder;
use crate::layers::{Conv2d, GroupNorm};

/// One of `up_blocks`: residual blocks, then twice the size.
#[derive(Debug, Clone)]
pub(super) struct UpStage {
    blocks: Vec<Block>,
    sampler: Option<Sampler>,
    /// Whether it also doubles an image and adds to it, as `Skip` blocks do.
    skips: bool,
}

/// What doubles the size.
#[derive(Debug, Clone)]
enum Sampler {
    Conv(Conv2d),
    Resnet(Block),
    /// Also adds to the image that `Skip` blocks double.
    Skip {
        resnet: Block,
        skip_norm: GroupNorm,
        skip_conv: Conv2d,
    },
}

impl UpStage {
    /// The `i`th of `up_blocks`, from the lowest resolution on; it doubles the size unless it is the last.
    pub(super) fn new(i: usize, config: &UNet2DConfig, common: &Common, vb: VarBuilder) -> crate::Result<Self> {
        let (kind, last) = (config.up_block_types[i].kind, config.block_out_channels.len() - 1);
        let channels = |i: usize| config.block_out_channels[last - i];
        let (before, out_channels, after) = (channels(i.saturating_sub(1)), channels(i), channels(last.min(i + 1)));
        let groups = |channels: usize| if kind.skips() { Ok(skip_groups(channels)) } else { config.groups() };
        let divisor = if kind.skips() { SQRT_2 } else { 1.0 };
        let resnet = |in_channels: usize, first: usize, resample: Resample, vb: VarBuilder| {
            let groups = [first, groups(out_channels)?];
            ResnetBlock::new(ResnetArgs { in_channels, out_channels, groups, divisor, resample }, common, vb)
        };
        let mut blocks = vec![];
        for j in 0..=config.layers_per_block {
            let own = if j == 0 { before } else { out_channels };
            let kept = if j == config.layers_per_block { after } else { out_channels };
            let first = match kind {
                // diffusers divides the second number alone, and checkpoints rely on it
                UpBlock::AttnSkipUpBlock2D => (own + kept / 4).min(32),
                _ => groups(own + kept)?,
            };
            let resnet = resnet(own + kept, first, Resample::None, vb.pp("resnets").pp(j))?;
            let attention = match kind {
                UpBlock::AttnUpBlock2D => Some(config.groups()?),
                UpBlock::AttnSkipUpBlock2D if j == config.layers_per_block => Some(32),
                _ => None,
            };
            // one attention after all residual blocks is the first by name
            let name = if kind.skips() { 0 } else { j };
            let attention = attention.map(|groups| {
                Attention::new(out_channels, Some(groups), divisor, common, vb.pp("attentions").pp(name))
            });
            blocks.push(Block::new(resnet, attention.transpose()?));
        }
        let plain = |resample, vb| {
            Ok::<_, crate::Error>(Block::new(resnet(out_channels, groups(out_channels)?, resample, vb)?, None))
        };
        let sampled = vb.pp("upsamplers.0");
        let sampler = match kind {
            _ if i == last => None,
            UpBlock::SkipUpBlock2D | UpBlock::AttnSkipUpBlock2D => Some(Sampler::Skip {
                resnet: plain(Resample::FirUp, vb.pp("resnet_up"))?,
                skip_conv: Conv2d::new([out_channels, 3], 3, 1, vb.pp("skip_conv"))?,
                skip_norm: GroupNorm::new(skip_groups(out_channels), out_channels, common.eps, vb.pp("skip_norm"))?,
            }),
            UpBlock::ResnetUpsampleBlock2D => Some(Sampler::Resnet(plain(Resample::Nearest, sampled)?)),
            UpBlock::AttnUpBlock2D if config.upsample_type == SampleType::Resnet => {
                Some(Sampler::Resnet(plain(Resample::Nearest, sampled)?))
            }
            UpBlock::AttnUpBlock2D | UpBlock::UpBlock2D => {
                Some(Sampler::Conv(Conv2d::new([out_channels; 2], 3, 1, sampled.pp("conv"))?))
            }
        };
        Ok(Self { blocks, sampler, skips: kind.skips() })
    }

    /// `[b, before, h, w] -> [b, out, 2h, 2w]`. Takes the skip connections from `kept`, the last first; `image` is
    /// the one that `Skip` blocks double.
    pub(super) fn forward(
        &self,
        mut h: Features,
        signal: &Signal,
        kept: &mut Vec<Features>,
        image: &mut Option<Features>,
    ) -> Result<Features> {
        for block in &self.blocks {
            let Some(skip) = kept.pop() else {
                bail!("the up blocks take more skip connections than the down blocks make")
            };
            h = block.forward_beside(&h, &skip, signal)?; // [b, before + kept, h, w] -> [b, out, h, w]
        }
        if let (true, Some(small)) = (self.skips, image.as_mut()) {
            *small = small.fir_upsample2d()?; // [b, 3, h / 2, w / 2] -> [b, 3, h, w]
        }
        match &self.sampler {
            None => Ok(h),
            Some(Sampler::Conv(conv)) => conv.forward(&h.upsample_nearest2d()?),
            Some(Sampler::Resnet(resnet)) => resnet.forward(&h, signal),
            Some(Sampler::Skip { resnet, skip_norm, skip_conv }) => {
                let own = skip_conv.forward(&skip_norm.forward_silu(&h)?)?; // [b, 3, h, w]
                *image = Some(match image.take() {
                    Some(image) => image.add(&own)?,
                    None => own,
                });
                resnet.forward(&h, signal)
            }
        }
    }
}
