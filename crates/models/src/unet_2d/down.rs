use std::f64::consts::SQRT_2;

use candle_core::Result;
use kakusan_ops::{ConvOptions, Features};

use super::attention::Attention;
use super::block::Block;
use super::resnet::{Common, Resample, ResnetArgs, ResnetBlock};
use super::signal::Signal;
use super::{DownBlock, SampleType, UNet2DConfig, skip_groups};
use crate::VarBuilder;
use crate::layers::Conv2d;

/// One of `down_blocks`: residual blocks, then half the size.
#[derive(Debug, Clone)]
pub(super) struct DownStage {
    blocks: Vec<Block>,
    sampler: Option<Sampler>,
}

/// What halves the size.
#[derive(Debug, Clone)]
enum Sampler {
    Conv(Conv2d),
    Resnet(Block),
    /// Also halves the image and adds it to the features.
    Skip {
        resnet: Block,
        skip_conv: Conv2d,
    },
}

impl DownStage {
    /// The `i`th of `down_blocks`; it halves the size unless it is the last.
    pub(super) fn new(i: usize, config: &UNet2DConfig, common: &Common, vb: VarBuilder) -> crate::Result<Self> {
        let (kind, channels) = (config.down_block_types[i].kind, &config.block_out_channels);
        let (first, out_channels) = (channels[i.saturating_sub(1)], channels[i]);
        // Skip blocks choose their groups, and divide what they add up
        let groups = |channels: usize| if kind.skips() { Ok(skip_groups(channels)) } else { config.groups() };
        let divisor = if kind.skips() { SQRT_2 } else { 1.0 };
        let resnet = |in_channels: usize, resample: Resample, vb: VarBuilder| {
            let groups = [groups(in_channels)?, groups(out_channels)?];
            ResnetBlock::new(ResnetArgs { in_channels, out_channels, groups, divisor, resample }, common, vb)
        };
        let mut blocks = vec![];
        for j in 0..config.layers_per_block {
            let in_channels = if j == 0 { first } else { out_channels };
            let resnet = resnet(in_channels, Resample::None, vb.pp("resnets").pp(j))?;
            let attention = if kind.attends() {
                let groups = if kind.skips() { 32 } else { config.groups()? };
                Some(Attention::new(out_channels, Some(groups), divisor, common, vb.pp("attentions").pp(j))?)
            } else {
                None
            };
            blocks.push(Block::new(resnet, attention));
        }
        let sampler = |resample, vb| Ok::<_, crate::Error>(Block::new(resnet(out_channels, resample, vb)?, None));
        let sampled = vb.pp("downsamplers.0");
        let sampler = match kind {
            _ if i + 1 == channels.len() => None,
            DownBlock::SkipDownBlock2D | DownBlock::AttnSkipDownBlock2D => Some(Sampler::Skip {
                resnet: sampler(Resample::FirDown, vb.pp("resnet_down"))?,
                skip_conv: Conv2d::new([3, out_channels], 1, 0, vb.pp("skip_conv"))?,
            }),
            DownBlock::ResnetDownsampleBlock2D => Some(Sampler::Resnet(sampler(Resample::Mean, sampled)?)),
            DownBlock::AttnDownBlock2D if config.downsample_type == SampleType::Resnet => {
                Some(Sampler::Resnet(sampler(Resample::Mean, sampled)?))
            }
            DownBlock::AttnDownBlock2D | DownBlock::DownBlock2D => {
                let before = config.downsample_padding;
                let options = ConvOptions { stride: 2, padding: [before, 1, before, 1] };
                Some(Sampler::Conv(Conv2d::new([out_channels; 2], 3, options, sampled.pp("conv"))?))
            }
        };
        Ok(Self { blocks, sampler })
    }

    /// `[b, in, h, w] -> [b, out, h / 2, w / 2]`. Adds each result to the skip connections in `kept`; `image` is the
    /// one that `Skip` blocks halve.
    pub(super) fn forward(
        &self,
        mut h: Features,
        signal: &Signal,
        kept: &mut Vec<Features>,
        image: &mut Features,
    ) -> Result<Features> {
        for block in &self.blocks {
            h = block.forward(&h, signal)?;
            kept.push(h.clone());
        }
        let Some(sampler) = &self.sampler else { return Ok(h) };
        h = match sampler {
            Sampler::Conv(conv) => conv.forward(&h)?,
            Sampler::Resnet(resnet) => resnet.forward(&h, signal)?,
            Sampler::Skip { resnet, skip_conv } => {
                *image = image.fir_downsample2d()?; // [b, 3, h / 2, w / 2]
                skip_conv.forward(image)?.add(&resnet.forward(&h, signal)?)?
            }
        };
        kept.push(h.clone());
        Ok(h)
    }
}
