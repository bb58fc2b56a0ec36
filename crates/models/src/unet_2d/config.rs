use serde::{Deserialize, Serialize, Serializer};

use super::{BlockType, DownBlock, UpBlock};
use crate::Error;

/// The configuration of [`UNet2DModel`](crate::UNet2DModel): diffusers' 28 keys under their names, with the defaults of
/// diffusers 0.42.1, and one more.
///
/// ```
/// use kakusan_models::{DownBlock, ModelConfig, UNet2DConfig, UpBlock};
/// let config = UNet2DConfig {
///     in_channels: 1,
///     out_channels: 1,
///     down_block_types: [DownBlock::DownBlock2D, DownBlock::AttnDownBlock2D].map(Into::into).to_vec(),
///     up_block_types: [UpBlock::AttnUpBlock2D, UpBlock::UpBlock2D].map(Into::into).to_vec(),
///     block_out_channels: vec![32, 64],
///     ..UNet2DConfig::default()
/// };
/// let config: &dyn ModelConfig = &config;
/// assert_eq!(config.outline()?.parameter_count(), 1_001_729);
/// # Ok::<(), kakusan_models::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct UNet2DConfig {
    /// Height and width of the images. The network itself takes every size that its blocks can halve.
    pub sample_size: Option<SampleSize>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Whether the input is taken from 0..1 to -1..1 first, by `2x - 1`.
    pub center_input_sample: bool,
    /// How a timestep becomes a vector.
    pub time_embedding_type: TimeEmbeddingType,
    /// The width of the embedding of the timestep; four times the first of `block_out_channels` where absent.
    pub time_embedding_dim: Option<usize>,
    /// Subtracted from the number of frequencies in the exponent of a positional embedding.
    pub freq_shift: i64,
    /// Whether the cosines of a positional embedding come before the sines.
    pub flip_sin_to_cos: bool,
    /// The down blocks, from the highest resolution on.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<DownBlock>"))]
    pub down_block_types: Vec<BlockType<DownBlock>>,
    /// The middle block, or none.
    pub mid_block_type: Option<MidBlockType>,
    /// The up blocks, from the lowest resolution on.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<UpBlock>"))]
    pub up_block_types: Vec<BlockType<UpBlock>>,
    /// The output channels of each down block; the up blocks have the same in reverse order.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks in each down block; each up block has one more.
    pub layers_per_block: usize,
    /// The middle block's results are divided by this.
    #[serde(serialize_with = "number")]
    pub mid_block_scale_factor: f64,
    /// Zeros around the images that a convolution halves: 1, or 0 for a row and a column at the lower right alone.
    pub downsample_padding: usize,
    /// How an `AttnDownBlock2D` halves.
    pub downsample_type: SampleType,
    /// How an `AttnUpBlock2D` doubles.
    pub upsample_type: SampleType,
    /// The probability that a number is dropped in training, before the second convolution of each residual block.
    pub dropout: f64,
    /// The activation of the residual blocks.
    pub act_fn: ActFn,
    /// Channels of an attention's head; `null` for one head of all channels.
    pub attention_head_dim: Option<usize>,
    /// Groups of the group normalisations. `Skip` blocks choose their own, and only with them it may be `null`.
    pub norm_num_groups: Option<usize>,
    /// Groups of the normalisation before the middle block's attention. Where `null`, they are `norm_num_groups`, or,
    /// under `scale_shift`, nothing is normalised there.
    pub attn_norm_num_groups: Option<usize>,
    /// Added to variances before normalisations divide by their roots.
    pub norm_eps: f64,
    /// How residual blocks are conditioned on the timestep.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether the middle block has attention.
    pub add_attention: bool,
    /// How labels become vectors. `null` is a table, if `num_class_embeds` says for how many classes, else no labels.
    pub class_embed_type: Option<ClassEmbedType>,
    /// The number of classes; used only where `class_embed_type` is `null`, as in diffusers.
    pub num_class_embeds: Option<usize>,
    /// The number of timesteps that a learned embedding has a vector for.
    pub num_train_timesteps: Option<usize>,
    /// How many numbers tell the network in training how an image was changed (EDM's `augment_dim`), by a linear map
    /// that is added to the embedded timestep. diffusers has no such key: a training with `data.augment` sets it, and
    /// saves its pipeline without.
    #[serde(skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub augment_dim: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Default for UNet2DConfig {
    /// diffusers'.
    fn default() -> Self {
        use DownBlock::{AttnDownBlock2D, DownBlock2D};
        use UpBlock::{AttnUpBlock2D, UpBlock2D};
        Self {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            freq_shift: 0,
            flip_sin_to_cos: true,
            down_block_types: [DownBlock2D, AttnDownBlock2D, AttnDownBlock2D, AttnDownBlock2D].map(Into::into).to_vec(),
            mid_block_type: Some(MidBlockType::UNetMidBlock2D),
            up_block_types: [AttnUpBlock2D, AttnUpBlock2D, AttnUpBlock2D, UpBlock2D].map(Into::into).to_vec(),
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: SampleType::Conv,
            upsample_type: SampleType::Conv,
            dropout: 0.0,
            act_fn: ActFn::Silu,
            attention_head_dim: Some(8),
            norm_num_groups: Some(32),
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
            augment_dim: 0,
        }
    }
}

impl UNet2DConfig {
    /// The shape of one image `[c, h, w]` of the model `class_name`, whose network this is.
    pub(crate) fn sample_shape_of(&self, class_name: &str) -> crate::Result<[usize; 3]> {
        let size = self.sample_size.ok_or_else(|| Error::NoSampleSize(class_name.to_owned()))?;
        let [height, width] = size.height_and_width();
        Ok([self.in_channels, height, width])
    }

    /// The width of the embedding of the timestep, and of labels.
    pub fn time_embedding_width(&self) -> usize {
        self.time_embedding_dim.unwrap_or_else(|| 4 * self.block_out_channels.first().copied().unwrap_or(0))
    }

    /// What height and width of the images have to be multiples of.
    pub(crate) fn size_unit(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }
}

/// The size of images: `64`, or `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "sample_size must be null, a size or [height, width]")]
pub enum SampleSize {
    /// Height and width alike.
    Square(usize),
    /// Height and width.
    Rectangle([usize; 2]),
}

impl SampleSize {
    /// Height and width.
    pub fn height_and_width(self) -> [usize; 2] {
        match self {
            Self::Square(size) => [size; 2],
            Self::Rectangle(size) => size,
        }
    }
}

/// How a timestep becomes a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TimeEmbeddingType {
    /// Sines and cosines of it (Ho et al. 2020).
    Positional,
    /// Sines and cosines of its logarithm at random frequencies (Song et al. 2021); the prediction is divided by it.
    Fourier,
    /// A table with a row for each of `num_train_timesteps`.
    Learned,
}

/// The middle block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum MidBlockType {
    /// A residual block, attention, and another residual block.
    UNetMidBlock2D,
}

/// How a block with attention changes the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SampleType {
    /// By a convolution.
    Conv,
    /// By a residual block.
    Resnet,
}

/// The activation of residual blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ActFn {
    /// `x * sigmoid(x)`.
    Silu,
    /// SiLU by its other name.
    Swish,
    /// [`kakusan_ops::Activation::Mish`].
    Mish,
    /// [`kakusan_ops::Activation::Gelu`].
    Gelu,
    /// [`kakusan_ops::Activation::Relu`].
    Relu,
}

/// How residual blocks are conditioned on the timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// A vector is added before the second normalisation.
    Default,
    /// A factor and a summand for each channel after it (Dhariwal and Nichol 2021).
    ScaleShift,
}

/// How labels become vectors that are added to the embedding of the timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ClassEmbedType {
    /// As timesteps do.
    Timestep,
    /// They are the vectors.
    Identity,
}

/// Whole numbers without a point, as diffusers' default is written.
fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}
