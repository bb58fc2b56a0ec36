//! diffusers' `UNet2DModel`.

mod attention;
mod block;
mod block_type;
mod config;
mod down;
mod embeddings;
mod middle;
mod resnet;
mod signal;
mod state_dict_order;
mod up;
mod validate;

use std::sync::Arc;

use candle_core::Tensor;
use kakusan_ops::{Features, network};
use serde_json::{Map, Value};

pub use block_type::{BlockType, DownBlock, UpBlock};
pub use config::{
    ActFn, ClassEmbedType, MidBlockType, SampleSize, SampleType, TimeEmbeddingType, TimeScaleShift, UNet2DConfig,
};
use down::DownStage;
pub(crate) use embeddings::look_up;
use embeddings::{ClassEmbedding, TimeProjection, TimestepEmbedding};
use middle::MidBlock;
use resnet::{Common, activate};
use signal::Signal;
use up::UpStage;

use crate::layers::{Conv2d, GroupNorm, weight};
use crate::{Dropout, Error, Model, ModelConfig, Result, VarBuilder, fields, legacy};

/// The UNet of diffusion models (Ho et al. 2020, and what came after it), as diffusers' `UNet2DModel`: its
/// configuration, its names of weights, its initialisation and its numbers.
///
/// Each of its blocks consists of residual blocks, conditioned on the timestep, with attention where the configuration
/// says so. The down blocks halve the size one after the other; the up blocks double it and concatenate the features of
/// the down blocks.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use kakusan_models::{DownBlock, ModelConfig, UNet2DConfig, UpBlock, Weights};
/// use kakusan_rng::Generator;
///
/// # fn main() -> kakusan_models::Result<()> {
/// let config = UNet2DConfig {
///     down_block_types: [DownBlock::DownBlock2D, DownBlock::AttnDownBlock2D].map(Into::into).to_vec(),
///     up_block_types: [UpBlock::AttnUpBlock2D, UpBlock::UpBlock2D].map(Into::into).to_vec(),
///     block_out_channels: vec![4, 8],
///     layers_per_block: 1,
///     norm_num_groups: Some(4),
///     ..UNet2DConfig::default()
/// };
/// let (weights, model) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
/// assert_eq!(weights.parameter_count(), 11_767);
/// let x = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let timestep = Tensor::new(&[10f32, 999.0], &Device::Cpu)?;
/// assert_eq!(model.forward(&x, &timestep, None)?.dims(), [2, 3, 8, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct UNet2DModel {
    config: UNet2DConfig,
    conv_in: Conv2d,
    time_proj: TimeProjection,
    time_embedding: TimestepEmbedding,
    class_embedding: ClassEmbedding,
    down_blocks: Vec<DownStage>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpStage>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    /// `[width of the embedded timestep, augment_dim]`
    augment_embedding: Option<Tensor>,
    checkpointing: bool,
}

impl UNet2DModel {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "UNet2DModel";

    /// Builds the network from a store of weights, which are asked for in torch's constructor order.
    ///
    /// # Errors
    /// When a value of the configuration is out of its range or does not fit the others, and when a tensor is missing.
    pub fn new(config: &UNet2DConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?; // each layer checks its own sizes
        let channels = config.block_out_channels[0];
        let common = Common {
            time_width: config.time_embedding_width(),
            scale_shift: config.resnet_time_scale_shift,
            activation: config.act_fn,
            dropout: config.dropout,
            eps: config.norm_eps,
            head_width: config.attention_head_dim,
        };
        let conv_in = Conv2d::new([config.in_channels, channels], 3, 1, vb.pp("conv_in"))?;
        let time_proj = TimeProjection::new(config, vb.pp("time_proj"))?;
        let inputs = time_proj.width()?;
        let stages = 0..config.block_out_channels.len();
        Ok(Self {
            config: config.clone(),
            conv_in,
            time_proj,
            time_embedding: TimestepEmbedding::new(inputs, common.time_width, vb.pp("time_embedding"))?,
            class_embedding: ClassEmbedding::new(config, inputs, vb.pp("class_embedding"))?,
            down_blocks: stages
                .clone()
                .map(|i| DownStage::new(i, config, &common, vb.pp("down_blocks").pp(i)))
                .collect::<Result<_>>()?,
            mid_block: config
                .mid_block_type
                .map(|MidBlockType::UNetMidBlock2D| MidBlock::new(config, &common, vb.pp("mid_block")))
                .transpose()?,
            up_blocks: stages
                .map(|i| UpStage::new(i, config, &common, vb.pp("up_blocks").pp(i)))
                .collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::new(
                config.norm_num_groups.unwrap_or_else(|| skip_groups(channels)),
                channels,
                config.norm_eps,
                vb.pp("conv_norm_out"),
            )?,
            conv_out: Conv2d::new([channels, config.out_channels], 3, 1, vb.pp("conv_out"))?,
            // last, so that the others are drawn as without it
            augment_embedding: match config.augment_dim {
                0 => None,
                told => Some(weight(&[inputs, told], &vb.pp("augment_embedding"))?),
            },
            checkpointing: false,
        })
    }

    fn predict(
        &self,
        x: &Tensor,
        timestep: &Tensor,
        labels: Option<&Tensor>,
        augmentation: Option<&Tensor>,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let batch = self.check_images(x)?;
        let timestep = match *timestep.dims() {
            [b] if b == batch => timestep.clone(),
            [] | [1] => timestep.flatten_all()?.broadcast_as(batch)?.contiguous()?,
            _ => return Err(unfit(format!("the timesteps have shape {:?}, expected [{batch}]", timestep.dims()))),
        };
        let x = if self.config.center_input_sample { x.affine(2.0, -1.0)? } else { x.clone() };
        let vectors = |x: Tensor| x.to_dtype(self.dtype())?.unsqueeze(2)?.unsqueeze(3); // [b, n] -> [b, n, 1, 1]
        let mut time = self.time_proj.forward(&timestep, "timestep")?.to_dtype(self.dtype())?;
        if let Some(told) = self.embed_augmentation(augmentation, batch)? {
            time = (time + told)?;
        }
        let time = vectors(time)?;
        let y = match self.class_embedding.input(labels, batch, &self.time_proj)? {
            None => network([&x, &time], |[x, time]| self.network(&x, &time, None, dropout))?,
            Some(class) => network([&x, &time, &vectors(class)?], |[x, time, class]| {
                self.network(&x, &time, Some(&class), dropout)
            })?,
        };
        match self.time_proj {
            TimeProjection::Fourier { .. } => {
                Ok(y.broadcast_div(&timestep.to_dtype(y.dtype())?.reshape((batch, 1, 1, 1))?)?)
            }
            _ => Ok(y),
        }
    }

    /// What is added to the embedded timesteps `[b, width]` of images that may have been changed.
    fn embed_augmentation(&self, augmentation: Option<&Tensor>, batch: usize) -> Result<Option<Tensor>> {
        match (&self.augment_embedding, augmentation) {
            (_, None) => Ok(None),
            (Some(weight), Some(told)) if told.dims() == [batch, weight.dim(1)?] => {
                Ok(Some(told.to_dtype(weight.dtype())?.matmul(&weight.t()?)?))
            }
            (_, Some(told)) => Err(unfit(format!(
                "the augmentation has shape {:?}, expected [{batch}, {}] (augment_dim)",
                told.dims(),
                self.config.augment_dim
            ))),
        }
    }

    /// From images `[b, in_channels, h, w]` to the prediction `[b, out_channels, h, w]`.
    fn network(
        &self,
        x: &Features,
        time: &Features,
        class: Option<&Features>,
        dropout: Option<Dropout>,
    ) -> candle_core::Result<Features> {
        let mut embedding = self.time_embedding.forward(time)?; // [b, width, 1, 1]
        if let Some(class) = class {
            embedding = embedding.add(&self.class_embedding.forward(class)?)?;
        }
        let signal =
            Signal::new(activate(&embedding, self.config.act_fn)?, dropout, self.checkpointing && dropout.is_some());

        let mut h = self.conv_in.forward(x)?;
        let (mut kept, mut image) = (vec![h.clone()], x.clone());
        for stage in &self.down_blocks {
            h = stage.forward(h, &signal, &mut kept, &mut image)?;
        }
        if let Some(middle) = &self.mid_block {
            h = middle.forward(&h, &signal)?;
        }
        let mut image = None;
        for stage in &self.up_blocks {
            h = stage.forward(h, &signal, &mut kept, &mut image)?;
        }
        let y = self.conv_out.forward(&self.conv_norm_out.forward_silu(&h)?)?;
        match image {
            Some(image) => y.add(&image),
            None => Ok(y),
        }
    }

    /// The number of images, if they fit.
    fn check_images(&self, x: &Tensor) -> Result<usize> {
        let (channels, unit) = (self.config.in_channels, self.config.size_unit());
        match *x.dims() {
            [b, c, h, w] if c == channels && [h, w].iter().all(|&n| n > 0 && n.is_multiple_of(unit)) => Ok(b),
            _ => Err(unfit(format!(
                "the input has shape {:?}, expected [b, {channels}, h, w] with h and w multiples of {unit}, because the \
                 {} down blocks halve them {} times",
                x.dims(),
                self.down_blocks.len(),
                self.down_blocks.len() - 1
            ))),
        }
    }

    fn dtype(&self) -> candle_core::DType {
        self.conv_in.dtype()
    }
}

impl Model for UNet2DModel {
    fn config(&self) -> &dyn ModelConfig {
        &self.config
    }

    /// `x` is `[b, in_channels, h, w]` with h and w that the down blocks can halve; `timestep` is `[b]` or `[1]`;
    /// `labels` are classes `[b]`, or vectors `[b, width]` if `class_embed_type` is `identity`.
    fn forward(&self, x: &Tensor, timestep: &Tensor, labels: Option<&Tensor>) -> Result<Tensor> {
        self.predict(x, timestep, labels, None, None)
    }

    fn forward_train(
        &self,
        x: &Tensor,
        timestep: &Tensor,
        labels: Option<&Tensor>,
        augmentation: Option<&Tensor>,
        dropout: Dropout,
    ) -> Result<Tensor> {
        self.predict(x, timestep, labels, augmentation, Some(dropout))
    }

    /// Training then keeps the input of each residual block, and recomputes its activations in the backward
    /// pass.
    fn enable_gradient_checkpointing(&mut self) -> Result<()> {
        self.checkpointing = true;
        Ok(())
    }
}

impl ModelConfig for UNet2DConfig {
    fn class_name(&self) -> &str {
        UNet2DModel::CLASS_NAME
    }

    fn to_map(&self) -> Map<String, Value> {
        fields(self)
    }

    fn default_map(&self) -> Map<String, Value> {
        let mut map = fields(&Self::default());
        map.insert("augment_dim".to_owned(), 0.into()); // known, but saved only where it is used
        map
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(UNet2DModel::new(self, vb)?))
    }

    fn sample_shape(&self) -> Result<[usize; 3]> {
        self.sample_shape_of(self.class_name())
    }

    fn num_classes(&self) -> Option<usize> {
        self.num_class_embeds.filter(|_| self.class_embed_type.is_none())
    }

    fn class_table(&self) -> Option<&str> {
        self.num_classes().map(|_| "class_embedding.weight")
    }

    fn wants_labels(&self) -> bool {
        self.class_embed_type.is_some() || self.num_class_embeds.is_some()
    }

    fn check_timesteps(&self, timesteps: &[f32]) -> Result<()> {
        embeddings::check_timesteps(self, timesteps)
    }

    fn with_augment_dim(&self, augment_dim: usize) -> Option<Arc<dyn ModelConfig>> {
        Some(Arc::new(Self { augment_dim, ..self.clone() }))
    }

    fn supports_gradient_checkpointing(&self) -> bool {
        true
    }

    /// Attention had other names before diffusers 0.13.
    fn tensor_name(&self, name: &str) -> String {
        legacy::attention_name(name)
    }

    fn state_dict_order(&self, name: &str) -> Vec<usize> {
        state_dict_order::state_dict_order(name)
    }
}

impl UNet2DConfig {
    /// The groups of the normalisations outside `Skip` blocks.
    fn groups(&self) -> Result<usize> {
        self.norm_num_groups.ok_or_else(|| Error::Config {
            origin: UNet2DModel::CLASS_NAME.into(),
            reason: "norm_num_groups is null, but only Skip blocks work without it; set it, e.g. to 32".into(),
        })
    }
}

/// The groups that `Skip` blocks choose, and others where there is no choice.
fn skip_groups(channels: usize) -> usize {
    (channels / 4).min(32)
}

fn unfit(reason: String) -> Error {
    Error::Input { model: UNet2DModel::CLASS_NAME, reason }
}
