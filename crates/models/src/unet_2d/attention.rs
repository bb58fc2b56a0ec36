use candle_core::Result;
use kakusan_ops::Features;

use super::resnet::{Common, divide};
use crate::layers::{GroupNorm, Linear};
use crate::{Error, VarBuilder};

/// diffusers' `Attention` as its UNets use it: every pixel attends to every pixel, with a residual connection.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    group_norm: Option<GroupNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    divisor: f64,
}

impl Attention {
    /// Without `groups` nothing is normalised. The result is divided by `divisor`.
    pub(super) fn new(
        channels: usize,
        groups: Option<usize>,
        divisor: f64,
        common: &Common,
        vb: VarBuilder,
    ) -> crate::Result<Self> {
        let head_width = common.head_width.unwrap_or(channels);
        let heads = channels / head_width;
        if heads == 0 {
            let reason =
                format!("attention_head_dim is {head_width}, but there are {channels} channels: choose less, or null");
            return Err(Error::Config { origin: vb.prefix(), reason });
        }
        let width = heads * head_width; // may be less than the channels
        Ok(Self {
            group_norm: groups
                .map(|groups| GroupNorm::new(groups, channels, common.eps, vb.pp("group_norm")))
                .transpose()?,
            to_q: Linear::new(channels, width, vb.pp("to_q"))?,
            to_k: Linear::new(channels, width, vb.pp("to_k"))?,
            to_v: Linear::new(channels, width, vb.pp("to_v"))?,
            to_out: Linear::new(width, channels, vb.pp("to_out.0"))?,
            heads,
            divisor,
        })
    }

    /// `[b, c, h, w] -> [b, c, h, w]`
    pub(super) fn forward(&self, x: &Features) -> Result<Features> {
        let h = match &self.group_norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        let [q, k, v] = [&self.to_q, &self.to_k, &self.to_v].map(|linear| linear.forward(&h)); // [b, width, h, w]
        let h = q?.attention(&k?, &v?, self.heads)?;
        divide(self.to_out.forward(&h)?.add(x)?, self.divisor)
    }
}
