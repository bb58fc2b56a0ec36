use std::cell::Cell;

use candle_core::Result;
use kakusan_ops::Features;

use crate::Dropout;

/// What the residual blocks of one forward pass are told beside the features.
pub(super) struct Signal {
    time: Features,
    dropout: Option<Dropout>,
    /// Layers that have asked for a mask: in a forward pass they always come in the same order.
    layer: Cell<usize>,
}

impl Signal {
    /// `time` `[b, width, 1, 1]` is the activation of the embedding of level and label.
    pub(super) fn new(time: Features, dropout: Option<Dropout>) -> Self {
        Self { time, dropout, layer: Cell::new(0) }
    }

    /// The activation of the embedding.
    pub(super) fn time(&self) -> &Features {
        &self.time
    }

    /// Drops numbers with probability `p` in training; else gives the features back.
    pub(super) fn drop(&self, x: Features, p: f64) -> Result<Features> {
        let layer = self.layer.replace(self.layer.get() + 1);
        match self.dropout {
            Some(dropout) if p > 0.0 => x.dropout(&dropout.mask(layer, x.dims(), p)?, p),
            _ => Ok(x),
        }
    }
}
