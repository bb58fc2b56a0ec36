//! Which values a configuration may have.

use super::{DownBlock, SampleType, TimeEmbeddingType, UNet2DConfig, UNet2DModel};
use crate::{Error, Result};

/// Larger than any sensible value, and small enough that no product overflows.
const MAX_CHANNELS: usize = 1 << 16;
const MAX_BLOCKS: usize = 12;
const MAX_LAYERS: usize = 64;
const MAX_ROWS: usize = 1 << 24;

impl UNet2DConfig {
    /// Refuses values that are out of their ranges, and fields that do not fit each other, naming the key and what to
    /// do.
    pub(super) fn check(&self) -> Result<()> {
        let check = || self.ranges().and_then(|()| self.blocks()).and_then(|()| self.images());
        check().map_err(|reason| Error::Config { origin: UNet2DModel::CLASS_NAME.into(), reason })
    }

    /// Each number by itself.
    fn ranges(&self) -> std::result::Result<(), String> {
        let within = |key: &str, value: usize, most: usize| match value {
            0 => Err(format!("{key} is 0; it must be between 1 and {most}")),
            _ if value > most => Err(format!("{key} is {value}; it must be between 1 and {most}")),
            _ => Ok(()),
        };
        let optional = |key, value: Option<usize>, most| value.map_or(Ok(()), |value| within(key, value, most));
        within("in_channels", self.in_channels, MAX_CHANNELS)?;
        within("out_channels", self.out_channels, MAX_CHANNELS)?;
        within("the number of block_out_channels", self.block_out_channels.len(), MAX_BLOCKS)?;
        for &channels in &self.block_out_channels {
            within("block_out_channels", channels, MAX_CHANNELS)?;
        }
        within("layers_per_block", self.layers_per_block, MAX_LAYERS)?;
        optional("time_embedding_dim", self.time_embedding_dim, MAX_CHANNELS)?;
        optional("attention_head_dim", self.attention_head_dim, MAX_CHANNELS)?;
        optional("norm_num_groups", self.norm_num_groups, MAX_CHANNELS)?;
        optional("attn_norm_num_groups", self.attn_norm_num_groups, MAX_CHANNELS)?;
        optional("augment_dim", Some(self.augment_dim).filter(|&dim| dim > 0), MAX_CHANNELS)?;
        optional("num_class_embeds", self.num_class_embeds, MAX_ROWS)?;
        optional("num_train_timesteps", self.num_train_timesteps, MAX_ROWS)?;
        if !(0.0..=1.0).contains(&self.dropout) {
            return Err(format!("dropout is {}; it is a probability, from 0 to 1", self.dropout));
        }
        if !(self.norm_eps >= 0.0 && self.norm_eps.is_finite()) {
            return Err(format!("norm_eps is {}; it must be a number of at least 0", self.norm_eps));
        }
        if self.mid_block_scale_factor == 0.0 || !self.mid_block_scale_factor.is_finite() {
            let factor = self.mid_block_scale_factor;
            return Err(format!(
                "mid_block_scale_factor is {factor}; results are divided by it, so it must be a number other than 0"
            ));
        }
        let half = self.block_out_channels[0] as i64 / 2;
        let divided = half == self.freq_shift && half > 0 || self.freq_shift.unsigned_abs() > MAX_CHANNELS as u64;
        if self.time_embedding_type == TimeEmbeddingType::Positional && divided {
            let shift = self.freq_shift;
            return Err(format!(
                "freq_shift is {shift}; a positional embedding divides by block_out_channels[0] / 2 - freq_shift, here \
                 {half} - {shift}: choose 0 or 1, and more channels"
            ));
        }
        if self.time_embedding_type == TimeEmbeddingType::Learned && self.num_train_timesteps.is_none() {
            return Err("time_embedding_type is learned: set num_train_timesteps to the number of timesteps".into());
        }
        Ok(())
    }

    /// Whether the blocks fit together.
    fn blocks(&self) -> std::result::Result<(), String> {
        let count = self.block_out_channels.len();
        for (key, blocks) in
            [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())]
        {
            if blocks != count {
                return Err(format!(
                    "{key} names {blocks} blocks, but block_out_channels has {count} numbers: give one for each block"
                ));
            }
        }
        let down: Vec<DownBlock> = self.down_block_types.iter().map(|block| block.kind).collect();
        let halving = &down[..count - 1];
        // a Skip block adds the image, which Skip blocks alone have halved
        if let Some(last) = halving.iter().rposition(|block| block.skips()) {
            if let Some(other) = halving[..last].iter().find(|block| !block.skips()) {
                return Err(format!(
                    "down_block_types has {:?} after {other:?}, which does not halve the image that Skip blocks add; \
                     use Skip blocks up to there",
                    down[last]
                ));
            }
            if self.in_channels != 3 {
                let channels = self.in_channels;
                return Err(format!(
                    "in_channels is {channels}; the Skip blocks of down_block_types need images of 3 channels"
                ));
            }
        }
        let up: Vec<_> = self.up_block_types.iter().map(|block| block.kind).collect();
        if let Some(first) = up[..count - 1].iter().position(|block| block.skips()) {
            if let Some(other) = up[first..].iter().find(|block| !block.skips()) {
                return Err(format!(
                    "up_block_types has {other:?} after {:?}, which does not double the image that Skip blocks make; \
                     use Skip blocks from there on",
                    up[first]
                ));
            }
            if self.out_channels != 3 {
                let channels = self.out_channels;
                return Err(format!(
                    "out_channels is {channels}; the Skip blocks of up_block_types need images of 3 channels"
                ));
            }
        }
        let convolves = halving.iter().any(|block| match block {
            DownBlock::DownBlock2D => true,
            DownBlock::AttnDownBlock2D => self.downsample_type == SampleType::Conv,
            _ => false,
        });
        if convolves && self.downsample_padding > 1 {
            let padding = self.downsample_padding;
            return Err(format!("downsample_padding is {padding}; convolutions halve the size only with 1 or 0"));
        }
        Ok(())
    }

    /// Whether the blocks can halve images of the size.
    fn images(&self) -> std::result::Result<(), String> {
        let unit = self.size_unit();
        for size in self.sample_size.map(super::SampleSize::height_and_width).into_iter().flatten() {
            if size == 0 || size > MAX_CHANNELS || !size.is_multiple_of(unit) {
                return Err(format!(
                    "sample_size has {size}; {} blocks (block_out_channels) halve it {} times, so it must be a \
                     multiple of {unit}, up to {MAX_CHANNELS}",
                    self.block_out_channels.len(),
                    self.block_out_channels.len() - 1
                ));
            }
        }
        Ok(())
    }
}
