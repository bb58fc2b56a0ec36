use std::cell::Cell;

use candle_core::Result;
use kakusan_ops::Features;

use crate::Dropout;

/// What conditions the blocks of one forward pass, next to their features.
pub(super) struct Signal {
    time: Features,
    dropout: Option<Dropout>,
    checkpointing: bool,
    /// Blocks that have begun: in a forward pass they always come in the same order.
    blocks: Cell<usize>,
}

impl Signal {
    /// `time` `[b, width, 1, 1]` is the activation of the embedding of timestep and label; with `checkpointing` the
    /// backward pass recomputes the activations of blocks.
    pub(super) fn new(time: Features, dropout: Option<Dropout>, checkpointing: bool) -> Self {
        Self { time, dropout, checkpointing, blocks: Cell::new(0) }
    }

    /// Whether the backward pass recomputes the activations of blocks.
    pub(super) fn checkpointing(&self) -> bool {
        self.checkpointing
    }

    /// The activation of the embedding, and what the next block drops.
    pub(super) fn next(&self) -> (&Features, BlockDropout) {
        let layer = self.blocks.replace(self.blocks.get() + 1);
        (&self.time, BlockDropout { dropout: self.dropout, layer })
    }
}

/// What one block drops: nothing but in training.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockDropout {
    dropout: Option<Dropout>,
    layer: usize,
}

impl BlockDropout {
    /// Drops numbers with probability `p` in training; else gives the features back.
    pub(super) fn drop(self, x: Features, p: f64) -> Result<Features> {
        match self.dropout {
            Some(dropout) if p > 0.0 => x.dropout(&dropout.mask(self.layer, x.dims(), p)?, p),
            _ => Ok(x),
        }
    }
}
