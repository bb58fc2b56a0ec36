use candle_core::Tensor;

use crate::{Dropout, Error, ModelConfig, Result};

/// What predicts: from corrupted images and their timestep to what the scheduler calls the target.
///
/// A model of your own implements this and [`ModelConfig`], whose class is added to a [`Registry`](crate::Registry);
/// then it is configured, trained, saved, loaded and sampled as those of this crate.
pub trait Model: Send + Sync {
    /// The configuration that builds a network like this one.
    fn config(&self) -> &dyn ModelConfig;

    /// Predicts for `x` `[b, c, h, w]` at `timestep` `[b]`, the number by which the scheduler tells the model how much
    /// noise there is; of the classes `labels` `[b]` where the model knows classes.
    ///
    /// The models of this crate are [`network`](kakusan_ops::network)s; one may as well be made of candle's operations
    /// and layers. [`kakusan_ops::backward`] runs the backward pass of both.
    ///
    /// # Errors
    /// When a shape does not fit the model.
    fn forward(&self, x: &Tensor, timestep: &Tensor, labels: Option<&Tensor>) -> Result<Tensor>;

    /// [`forward`](Self::forward) in training: drops what the configuration says, as `dropout` draws it. `augmentation`
    /// `[b, n]` tells how the images were changed, to a model that [can be told](ModelConfig::with_augment_dim).
    ///
    /// A model that drops nothing, and cannot be told, leaves it at this.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_train(
        &self,
        x: &Tensor,
        timestep: &Tensor,
        labels: Option<&Tensor>,
        augmentation: Option<&Tensor>,
        dropout: Dropout,
    ) -> Result<Tensor> {
        let _ = (augmentation, dropout);
        self.forward(x, timestep, labels)
    }

    /// diffusers' `enable_gradient_checkpointing`: from then on [`forward_train`](Self::forward_train) takes less
    /// memory and more time, because the backward pass recomputes the activations of blocks.
    ///
    /// # Errors
    /// [`Error::NoGradientCheckpointing`] for a model that cannot, as is the case unless it says otherwise.
    fn enable_gradient_checkpointing(&mut self) -> Result<()> {
        Err(Error::NoGradientCheckpointing(self.config().class_name().to_owned()))
    }
}
