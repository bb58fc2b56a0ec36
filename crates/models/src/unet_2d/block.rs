use candle_core::Result;
use kakusan_ops::{Features, checkpoint};

use super::attention::Attention;
use super::resnet::ResnetBlock;
use super::signal::{BlockDropout, Signal};

/// A residual block, and the attention after it where there is one: the unit of gradient checkpointing, which keeps
/// only its input.
#[derive(Debug, Clone)]
pub(super) struct Block {
    resnet: ResnetBlock,
    attention: Option<Attention>,
}

impl Block {
    pub(super) fn new(resnet: ResnetBlock, attention: Option<Attention>) -> Self {
        Self { resnet, attention }
    }

    /// `[b, in, h, w] -> [b, out, h, w]`, or half or twice the size.
    pub(super) fn forward(&self, x: &Features, signal: &Signal) -> Result<Features> {
        let (time, dropout) = signal.next();
        if !signal.checkpointing() {
            return self.compute(x, time, dropout);
        }
        let block = self.clone();
        checkpoint([x, time], move |[x, time]| block.compute(&x, &time, dropout))
    }

    /// The same of `x` concatenated with a skip connection, `[b, in, h, w]` together.
    pub(super) fn forward_beside(&self, x: &Features, skip: &Features, signal: &Signal) -> Result<Features> {
        let (time, dropout) = signal.next();
        if !signal.checkpointing() {
            return self.compute(&x.concat(skip)?, time, dropout);
        }
        let block = self.clone();
        checkpoint([x, skip, time], move |[x, skip, time]| block.compute(&x.concat(&skip)?, &time, dropout))
    }

    fn compute(&self, x: &Features, time: &Features, dropout: BlockDropout) -> Result<Features> {
        let h = self.resnet.forward(x, time, dropout)?;
        match &self.attention {
            Some(attention) => attention.forward(&h),
            None => Ok(h),
        }
    }
}
